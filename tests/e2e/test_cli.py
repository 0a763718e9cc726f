"""The command line as a user meets it: every command of the README, on a space that has run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import sqlglot
from typer.testing import CliRunner

from cdp_assets.cli import app
from cdp_assets.cli_support import CommandError
from cdp_assets.linked_audiences.tables import AUDIENCE_MEMBERS
from cdp_assets.space.query import compile_query
from cdp_assets.space.space import SpaceError
from cdp_assets.unified_profiles.tables import profile_merges
from tests.e2e.conftest import ROOT, Stage

BROKEN = sorted(path for path in (ROOT / "tests" / "fixtures" / "broken_spaces").iterdir() if path.is_dir())


def cdp(*arguments: object, stdin: str | None = None) -> str:
    """Standard output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def where(owl_bank: Stage) -> list[object]:
    return ["--space", owl_bank.directory, "--home", owl_bank.home.root]


def test_validate_says_that_files_and_warehouse_are_valid(where: list[object]) -> None:
    assert "the files and the warehouse are valid" in cdp("validate", *where)


def test_preview_counts_what_the_build_counted_and_masks_people(
    where: list[object], first_summary: dict, owl_bank: Stage
) -> None:
    text = cdp("preview", "overdue_checking", *where, "--as-of", owl_bank.now.isoformat(), "--json")
    found = json.loads(text)
    assert found["count"] == first_summary["audiences"]["overdue_checking"]["members"]
    truth = json.loads(owl_bank.home.truth_file("owl_bank").read_text())
    addresses = set(re.findall(r"[\w.+-]+@[\w.-]+", json.dumps(truth)))
    assert addresses
    assert not {address for address in addresses if address in text}


def row_counts(stage: Stage) -> list[tuple]:
    with duckdb.connect(str(stage.home.warehouse_file("owl_bank")), read_only=True) as connection:
        return connection.sql("SELECT schema_name, table_name, estimated_size FROM duckdb_tables() ORDER BY ALL").fetchall()


DRAFT = """
groups:
  - conditions:
      - with_entity: accounts
        where: {all: [{column: account_type, operator: equals, value: TYPE}]}
        nested:
          conditions:
            - with_entity: credit-cards
              where: {all: [{column: overdue_amount, operator: greater_than, value: 0}]}
"""


def test_an_audience_that_is_not_in_the_space_yet_is_previewed_from_a_file_and_from_standard_input(
    where: list[object], owl_bank: Stage, first_summary: dict, tmp_path: Path
) -> None:
    draft, instant = tmp_path / "my-idea.yaml", ["--as-of", owl_bank.now.isoformat(), "--json"]
    draft.write_text(DRAFT.replace("TYPE", "checking"))
    before = row_counts(owl_bank)
    found = json.loads(cdp("preview", draft, *where, *instant))
    assert (found["audience"], found["count"]) == ("my_idea", first_summary["audiences"]["overdue_checking"]["members"])
    same = json.loads(cdp("preview", "-", *where, *instant, stdin=draft.read_text()))
    assert {**same, "audience": "my_idea"} == found
    assert row_counts(owl_bank) == before
    assert not (owl_bank.directory / "audiences" / "my_idea.yaml").exists()


def test_an_empty_preview_names_the_condition_that_emptied_it(where: list[object], owl_bank: Stage) -> None:
    text = cdp("preview", "-", *where, "--as-of", owl_bank.now.isoformat(), stdin=DRAFT.replace("TYPE", "loan"))
    assert 'nobody is left at: with at least 1 Accounts (accounts) › account_type is "loan"' in text
    assert "0  account_type" in text


def test_a_mistake_in_a_draft_is_located(where: list[object], tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as error:
        cdp("preview", "-", *where, stdin=DRAFT.replace("credit-cards", "credit-card"))
    assert [str(one) for one in error.value.problems] == [
        "<stdin>:8: there is no relationship 'credit-card' below relationship 'accounts' (did you mean 'credit-cards'?)"
    ]
    with pytest.raises(CommandError, match="there is no file"):
        cdp("preview", tmp_path / "missing.yaml", *where)


def test_a_preview_does_without_dagster_whose_import_takes_half_a_second(where: list[object]) -> None:
    program = "import sys; sys.modules['dagster'] = None; from cdp_assets.cli import main; main()"
    command = [sys.executable, "-c", program, "preview", "overdue_checking", *map(str, where)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, "overdue_checking: " in done.stdout) == (0, True), done.stderr


def test_why_agrees_with_the_build_about_members_and_others_and_masks_people(where: list[object], owl_bank: Stage) -> None:
    instant = ["--as-of", owl_bank.now.isoformat(), "--json"]
    members = [one["id"] for one in json.loads(cdp("preview", "overdue_checking", *where, *instant))["members"]]
    text = cdp("why", members[0], "overdue_checking", *where, *instant)
    found = json.loads(text)
    assert found["member"] and found["built"]["member"] and found["built"]["current_definition"]
    assert [one["kind"] for one in found["because_of"]] == ["identifier", "row", "row"]
    truth = json.loads(owl_bank.home.truth_file("owl_bank").read_text())
    assert not {address for address in re.findall(r"[\w.+-]+@[\w.-]+", json.dumps(truth)) if address in text}
    with owl_bank.warehouse() as warehouse:
        everybody = warehouse.table(profile_merges("profiles").ref).select("canonical_segment_id").distinct()
        member = warehouse.table(AUDIENCE_MEMBERS.ref)
        others = everybody.anti_join(member.filter(member.audience == "overdue_checking"), "canonical_segment_id")
        other = warehouse.rows(others.order_by("canonical_segment_id"), 1)[0]["canonical_segment_id"]
    said = cdp("why", other, "overdue_checking", *where, *instant[:2])
    assert "is not in overdue_checking" in said and "would have to hold:" in said and ": no member" in said


@pytest.mark.parametrize("dialect", ["duckdb", "snowflake", "databricks", "bigquery"])
def test_sql_prints_a_query_of_the_dialect(where: list[object], dialect: str) -> None:
    assert sqlglot.parse_one(cdp("sql", "overdue_checking", *where, "--dialect", dialect), read=dialect) is not None


def test_query_prints_what_an_audience_file_may_say_instead(where: list[object]) -> None:
    text = cdp("query", "overdue_checking", *where[:2])
    assert text.startswith("entity('accounts').where(property('account_type') = 'checking' AND entity('credit-cards')")
    assert len(compile_query(text).groups) == 1


def test_the_ledger_can_be_read(where: list[object], first_summary: dict) -> None:
    rows = [json.loads(line) for line in cdp("ledger", "outcomes", *where, "--json").splitlines()]
    delivered = sum(row["keys"] for row in rows if row["outcome"] == "delivered")
    assert delivered == sum(activation["delivered"] for activation in first_summary["activations"].values())
    assert len(cdp("ledger", "syncs", *where, "--json").splitlines()) == len(first_summary["activations"])
    shown = cdp("ledger", "show", *where, "--activation", "overdue_contacts", "--json")
    assert shown
    assert "@" not in shown
    assert "0 key(s)" in cdp("ledger", "replay", *where, "--reason", "no such reason")


def test_release_and_retire_say_when_there_is_nothing_to_do(where: list[object]) -> None:
    for arguments in (["release", "overdue_contacts", "--send"], ["release", "overdue_contacts"], ["retire", "nothing"]):
        with pytest.raises(CommandError):
            cdp(*arguments, *where)


def test_retire_ends_an_activation_and_exits_nobody(where: list[object], owl_bank: Stage) -> None:
    assert "nobody was exited" in cdp("retire", "overdue_contacts", *where)
    assert owl_bank.new_calls() == 0


def test_retire_with_exits_exits_everybody_who_is_in(where: list[object], owl_bank: Stage, first_summary: dict) -> None:
    accounting = json.loads(cdp("retire", "overdue_contacts", "--exit", *where))
    assert accounting["operations"]["exit"] == first_summary["activations"]["overdue_contacts"]["delivered"]
    records = owl_bank.twin("salesforce/records?object=Contact")["records"]
    assert {record["fields"]["Overdue_Checking__c"] for record in records} == {False}


def test_generate_continues_where_it_ended(where: list[object]) -> None:
    assert "landing lines up to 2026-10-08T01:00:00" in cdp("generate", *where, "--more", "1h")


def test_map_answers_line_by_line_in_order() -> None:
    lines = [
        {"mapping": {"a": {"@path": "$.b"}}, "payload": {"b": 1}},
        {"mapping": {"@nonsense": 1}, "payload": {}},
        {"mapping": {"@path": "$.missing"}, "payload": {}},
    ]
    answers = [json.loads(line) for line in cdp("map", stdin="\n".join(map(json.dumps, lines))).splitlines()]
    assert answers[0] == {"output": {"a": 1}}
    assert "invalid directive" in answers[1]["error"]
    assert answers[2] == {"output": None}


def test_the_published_schemas_are_current(tmp_path: Path) -> None:
    cdp("schema", "--folder", tmp_path)
    written = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert written == {path.name: json.loads(path.read_text()) for path in (ROOT / "docs" / "schemas").glob("*.json")}


@pytest.mark.parametrize("folder", BROKEN, ids=lambda path: path.name)
def test_validate_locates_every_problem_of_a_broken_space(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as error:
        cdp("validate", "--space", folder, "--home", tmp_path)
    for problem in error.value.problems:
        assert re.fullmatch(r"[\w./-]+:\d+: .+ \(.+\)", str(problem), re.DOTALL), str(problem)


def test_every_command_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"\.venv/bin/cdp ([a-z][a-z-]*)", readme))
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert used
    assert used <= known
    targets = set(re.findall(r"make ([a-z-]+)", readme))
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_graph_show_draws_what_the_run_counted_and_masks_people(
    where: list[object], first_summary: dict, owl_bank: Stage, tmp_path: Path
) -> None:
    picture = tmp_path / "graph.svg"
    text = cdp("graph", "show", *where, "--as-of", owl_bank.now.isoformat(), "--svg", picture, "--rows", "10", "--json")
    found = json.loads(text)
    assert found["profiles"] == first_summary["profiles"]
    assert found["nodes"]["accounts"]["matches"]["rows_matched"] > 0
    assert "audience overdue_checking" in found["nodes"]["accounts:credit-cards"]["consumers"]
    drawn = picture.read_text()
    assert f"{found['entities']['account']['rows']:,} rows" in drawn
    shown = text + drawn + cdp("graph", "show", *where, "--rows", "10")
    assert "@" in shown
    truth = json.loads(owl_bank.home.truth_file("owl_bank").read_text())
    assert not {address for address in re.findall(r"[\w.+-]+@[\w.-]+", json.dumps(truth)) if address in shown}
    assert (owl_bank.home.space("owl_bank") / "data_graph.svg").exists()
