"""Personal data stays in the warehouse: no log, event, compute log or terminal of a run has it, not even of a run that fails."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from cdp_assets.space.home import Home
from resources.warehouse import TableRef
from tests.e2e.conftest import HOUR, Stage

# Shorter ones occur in other words.
SHORTEST_NAME = 9


def personal_values(home: Home) -> dict[str, set[str]]:
    """What the generator gave to people, by kind, and the tokens that the twins issued."""
    persons = json.loads(home.truth_file("owl_bank").read_text())["persons"].values()
    names = {f"{person['first_name']} {person['last_name']}" for person in persons}
    return {
        "e-mail": {email for person in persons for email in person["emails"]},
        "phone": {person["phone"] for person in persons if person["phone"]},
        "name": {name for name in names if len(name) >= SHORTEST_NAME},
        "token": {"sandbox-secret", *issued_tokens(home)},
    }


def issued_tokens(home: Home) -> set[str]:
    """Opaque words of the twins' own state that are long enough to be tokens."""
    found: set[str] = set()
    for path in home.sandbox.rglob("*"):
        if not is_sqlite(path):
            continue
        with sqlite3.connect(path) as database:
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'values'").fetchall():
                for row in database.execute(f"SELECT name, value FROM \"{name}\" WHERE name LIKE '%token%'"):
                    found |= set(re.findall(r"[A-Za-z0-9!._-]{20,}", " ".join(map(str, row))))
    return found


def is_sqlite(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[:16] == b"SQLite format 3\0"


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of every file below a folder: its bytes, and of SQLite databases every row as well."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        place = path.relative_to(folder).as_posix()
        yield place, path.read_bytes().decode("utf-8", errors="ignore")
        if is_sqlite(path):
            engine = sa.create_engine(f"sqlite:///{path}")
            with engine.connect() as connection:
                for table in sa.inspect(engine).get_table_names():
                    for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')):
                        yield f"{place}:{table}", " ".join(str(value) for value in row)
            engine.dispose()


def leaks(values: dict[str, set[str]], found: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """(place, kind) of each text that holds a personal value, in any case of letters and also JSON-escaped."""
    forms = {
        kind: {form.lower() for value in group for form in (value, json.dumps(value)[1:-1])} for kind, group in values.items()
    }
    patterns = {kind: re.compile("|".join(re.escape(form) for form in sorted(group))) for kind, group in forms.items() if group}
    return {(place, kind) for place, text in found for kind, pattern in patterns.items() if pattern.search(text.lower())}


def break_a_trait(stage: Stage) -> None:
    """SQL that the engine refuses at a row, in an error that quotes the row's value."""
    path = stage.directory / "traits" / "overdue_total.yaml"
    text = path.read_text()
    column = "SUM(credit_cards.overdue_amount)"
    assert column in text
    path.write_text(text.replace(column, "SUM(CAST(accounts.customer_email AS DOUBLE))"))


def drop_a_table(stage: Stage) -> None:
    with stage.warehouse() as warehouse:
        warehouse.drop(TableRef("bank", "credit_cards"))


def test_the_search_finds_what_is_planted(owl_bank: Stage, tmp_path: Path) -> None:
    values = personal_values(owl_bank.home)
    folder = shutil.copytree(owl_bank.home.dagster, tmp_path / "copy")
    assert leaks(values, texts(folder)) == set()
    for kind, group in values.items():
        (folder / f"{kind}.log").write_text(f"failed at row {max(group).upper()}\n")
        with sqlite3.connect(folder / f"{kind}.db") as database:
            database.execute("CREATE TABLE logs (event TEXT)")
            database.execute("INSERT INTO logs VALUES (?)", (json.dumps({"message": f"failed at {min(group)}"}),))
        database.close()
    found = leaks(values, texts(folder))
    assert found == {(f"{kind}{suffix}", kind) for kind in values for suffix in (".log", ".db", ".db:logs")}


def test_runs_that_succeed_and_runs_that_fail_leave_no_personal_value(
    owl_bank: Stage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    break_a_trait(owl_bank)
    failed = owl_bank.run(owl_bank.now + HOUR)
    drop_a_table(owl_bank)
    worse = owl_bank.run(owl_bank.now + 2 * HOUR)
    assert failed.failures and worse.failures
    values = personal_values(owl_bank.home)
    assert all(len(values[kind]) > 50 for kind in ("e-mail", "name"))
    assert len(values["token"]) > 1
    out, err = capfd.readouterr()
    told = [("stdout", out), ("stderr", err), ("log", caplog.text)]
    told += [("summary", json.dumps([failed.summary, failed.failures, worse.summary, worse.failures]))]
    assert any(place.endswith(":event_logs") for place, _ in texts(owl_bank.home.dagster))
    assert leaks(values, [*texts(owl_bank.home.dagster), *told]) == set()
