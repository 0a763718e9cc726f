# Everything a newcomer needs. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= .cdp
STAMP := $(VENV)/.installed
export CDP_HOME := $(HOME_DIR)

.DEFAULT_GOAL := help
.PHONY: help install demo ui test test-faults test-spark test-snowflake bench lint format lock schemas clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(STAMP): requirements-installer.lock requirements.lock requirements-braze.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned lock into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-installer.lock
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements-braze.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(STAMP)

install: $(STAMP) ## set up .venv with the pinned lock

demo: $(STAMP) ## generate data, start the twins, run every asset, deliver, and print what happened
	@$(BIN)/cdp demo

ui: $(STAMP) ## open the Dagster UI on the demo's state: webserver, daemon, twins, sensors and schedules on
	@$(BIN)/cdp ui

test: $(STAMP) ## run the suite, but for what test-faults and test-spark run
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --ignore tests/faults --ignore tests/spark

test-faults: $(STAMP) ## kill the process at every write and send, and let a third of all calls go wrong
	@$(BIN)/python -m pytest -n auto tests/faults

test-spark: $(STAMP) ## read Delta tables and run audiences with a local Spark, which is installed first (430 MB; needs Java 17)
	@java -version >/dev/null 2>&1 || { echo "Spark needs Java 17: install it and try again"; exit 1; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-spark.lock
	@$(BIN)/python -m pytest tests/spark

test-snowflake: $(STAMP) ## run the owl_bank comparison on a real Snowflake account named in the environment
	@$(BIN)/python -m pytest tests/e2e/test_engines_agree.py --live-snowflake -rs

bench: $(STAMP) ## measure against bare engines; NAME=… for one, SCALE=0.1 for a smaller size; writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks $(NAME) --scale $(or $(SCALE),1) --write

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

schemas: $(STAMP) ## write the JSON Schemas of the space folder's files and the pages of the destinations below docs/
	@$(BIN)/cdp schema
	@$(BIN)/cdp docs

lock: ## resolve the dependencies again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras --no-annotate \
	  --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.lock
	echo "uv" | uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" - -o requirements-installer.lock
	echo "pyspark==4.0.1" | uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --custom-compile-command "make lock" - -o requirements-spark.lock
	# Braze's client asks for a tenacity that Python 3.11 cannot import, and runs with ours: it is installed without what it asks for.
	echo "braze-client==2.3.3" | uv pip compile --universal --python-version 3.11 --generate-hashes --no-deps --no-emit-index-url \
	  --no-annotate --custom-compile-command "make lock" - -o requirements-braze.lock

clean: ## remove the home (all demo state)
	@rm -rf $(HOME_DIR)
