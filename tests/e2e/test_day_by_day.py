"""A mural whose files land one day at a time, and that runs after each, ends with the tables of one that saw them all at once."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.pipeline import run_space
from cdp_assets.space.home import Home
from cdp_assets.unified_profiles.tables import profile_schema
from resources.sandbox.server import sandbox
from resources.space import load
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.open import open_warehouse
from tests.e2e.conftest import END, ROOT, make

DAYS = 4
# The clock and the run are outside of "the same table".
OUTSIDE = {"loaded_at", "run_id", "source_run_id"}
# They tell what late lines corrected, and how one partition differs from the one before; at once nothing is late, and one is built.
OF_THE_WAY = {f"unified_profiles.{name}" for name in ("id_aliases", "corrections", "corrected_builds")}
OF_THE_WAY |= {"computed_traits.trait_changes", "computed_traits.account_trait_changes", "linked_audiences.audience_transitions"}
WHOLE = ("raw_events", "events", "unified_profiles")
OF_LAST_PARTITION = ("computed_traits", "linked_audiences")


def contents(warehouse: Warehouse, schemas: tuple[str, ...], partition: str | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the schemas (of one partition, where given) by name: columns by name, rows sorted."""
    found = {}
    for schema in schemas:
        for ref in warehouse.list_tables(schema):
            if str(ref) in OF_THE_WAY:
                continue
            table = warehouse.table(TableRef(ref.schema, ref.name))
            if partition is not None and "partition_key" in table.columns:
                table = table.filter(table.partition_key == partition)
            columns = sorted(set(table.columns) - OUTSIDE)
            rows = warehouse.arrow(table.select(*columns)).to_pylist()
            found[str(ref)] = sorted((tuple(row[c] for c in columns) for row in rows), key=repr)
    return found


def tables(directory: Path, home: Home) -> dict[str, list[tuple[Any, ...]]]:
    space = load(directory)
    last = (END - dt.timedelta(days=1)).date().isoformat()
    with open_warehouse(space, home) as warehouse:
        whole = contents(warehouse, (*WHOLE, profile_schema(space.graph)))
        return whole | contents(warehouse, OF_LAST_PARTITION, last)


def test_mural_day_by_day_equals_mural_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, at_once, daily = tmp_path / "space", Home(tmp_path / "at_once"), Home(tmp_path / "daily")
    shutil.copytree(ROOT / "spaces" / "mural", directory)
    for folder in ("activations", "tests"):  # what is sent writes none of the tables
        shutil.rmtree(directory / folder)
    make(directory, at_once, profiles=60, days=DAYS)
    shutil.copytree(at_once.root, daily.root)
    landing = daily.landing("mural")
    waiting = tmp_path / "waiting"
    shutil.move(landing, waiting)
    files = sorted(path.relative_to(waiting) for path in waiting.rglob("*.gz"))
    assert len(files) == DAYS
    with sandbox(at_once.sandbox) as url:
        monkeypatch.setenv("CDP_SANDBOX_URL", url)
        assert run_space(directory, at_once, as_of=END).failures == {}
    with sandbox(daily.sandbox) as url:
        monkeypatch.setenv("CDP_SANDBOX_URL", url)
        for number, file in enumerate(files):
            (landing / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(waiting / file, landing / file)
            day = END - dt.timedelta(days=DAYS - 1 - number)
            assert run_space(directory, daily, as_of=day).failures == {}
    expected, found = tables(directory, at_once), tables(directory, daily)
    assert expected.keys() == found.keys()
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in expected.items()}
    for name, rows in expected.items():
        assert found[name] == rows, name
    assert len(found["linked_audiences.audience_members"]) > 0
