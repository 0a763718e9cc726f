"""Company tables as they stood: by their own columns, or by snapshots."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp_assets.data_graph.model import Entity
from cdp_assets.linked_audiences.entity_history import SCHEMA, entity_table, take_snapshots
from cdp_assets.linked_audiences.tables import BUILDS, ENTITY_SNAPSHOTS
from cdp_assets.linked_audiences.warehouse_check import check_audiences
from cdp_assets.space.models.settings import EntityHistory, SpaceConfig
from cdp_assets.space.revisions import audience_revision
from cdp_assets.space.space import Space
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.linked_audiences.bank import bank, bank_space, build, context, members, one_group, where
from tests.people import World

MONTHS = [dt.datetime(2026, month, 1, tzinfo=dt.UTC) for month in range(1, 7)]
CHECKING = one_group("checking", {"with_entity": "accounts", "where": where(("kind", "equals", "checking"))})


def with_history(made: Space, **entities: dict[str, Any]) -> Space:
    histories = {slug: EntityHistory(**said) for slug, said in entities.items()}
    return dataclasses.replace(made, config=made.config.model_copy(update={"entities": histories}))


def people() -> World:
    world = bank(accounts=[(1, "p@x", "checking"), (2, "q@x", "savings")])
    for name in "PQ":
        world.profile(name, email=f"{name.lower()}@x")
    return world


def test_a_snapshot_keeps_what_changed_and_an_audience_of_the_past_reads_it(warehouse: Warehouse) -> None:
    world = people()
    made = with_history(bank_space(CHECKING), account={"snapshots": True})
    world.write(warehouse)
    assert build(warehouse, made, MONTHS[0])["checking"].histories == ("account",)
    world.tables["accounts"][1][0]["kind"] = "savings"
    world.tables["accounts"][1][1]["kind"] = "checking"
    world.tables["accounts"][1].append({**world.tables["accounts"][1][0], "id": 3, "kind": "checking"})
    world.write_tables(warehouse)
    build(warehouse, made, MONTHS[1])
    del world.tables["accounts"][1][1]
    world.write_tables(warehouse)
    build(warehouse, made, MONTHS[2])
    assert [members(warehouse, made, "checking", at) for at in MONTHS[:3]] == [["P"], ["P", "Q"], ["P"]]
    # A backfill finds what stood then, not what stands now.
    for at in MONTHS[:3]:
        build(warehouse, made, at)
    assert [members(warehouse, made, "checking", at) for at in MONTHS[:3]] == [["P"], ["P", "Q"], ["P"]]
    assert context(warehouse, made, "checking", MONTHS[1]) == [("P", "accounts", "3", None), ("Q", "accounts", "2", None)]
    taken = warehouse.rows(warehouse.table(ENTITY_SNAPSHOTS.ref).order_by("as_of"), 9)
    assert [(row["rows"], row["added"], row["closed"]) for row in taken] == [(2, 2, 0), (3, 3, 2), (2, 0, 1)]
    kinds = {row["kind"] for row in warehouse.rows(warehouse.table(BUILDS.ref), 9)}
    assert kinds == {"history"}


def test_before_the_first_snapshot_the_first_stands(duckdb_warehouse: Warehouse) -> None:
    world = people()
    made = with_history(bank_space(CHECKING), account={"snapshots": True})
    world.write(duckdb_warehouse)
    build(duckdb_warehouse, made, MONTHS[2])
    world.tables["accounts"][1].clear()
    world.write_tables(duckdb_warehouse)
    build(duckdb_warehouse, made, MONTHS[3])
    build(duckdb_warehouse, made, MONTHS[0])
    assert [members(duckdb_warehouse, made, "checking", at) for at in (MONTHS[0], MONTHS[3])] == [["P"], []]
    assert duckdb_warehouse.count(duckdb_warehouse.table(ENTITY_SNAPSHOTS.ref)) == 2, "none is taken for the past"


def test_a_table_with_its_own_history_is_read_as_it_stood(warehouse: Warehouse) -> None:
    world = people()
    columns = {**world.tables["accounts"][0], "since": "date", "until": "timestamp"}
    rows = [
        (1, "p@x", "checking", MONTHS[0].date(), MONTHS[2].replace(tzinfo=None)),
        (1, "p@x", "savings", MONTHS[2].date(), None),
        (2, "q@x", "checking", MONTHS[1].date(), None),
    ]
    world.table("accounts", columns, [dict(zip(("id", "owner", "kind", "since", "until"), row, strict=True)) for row in rows])
    world.write(warehouse)
    made = with_history(bank_space(CHECKING), account={"valid_from": "SINCE", "valid_to": "until"})
    for at in MONTHS[:3]:
        build(warehouse, made, at)
    assert [members(warehouse, made, "checking", at) for at in MONTHS[:3]] == [["P"], ["P", "Q"], ["Q"]]


def test_columns_that_come_and_rows_with_nulls_are_followed(duckdb_warehouse: Warehouse) -> None:
    world = people()
    made = with_history(bank_space(CHECKING), account={"snapshots": True})
    world.write(duckdb_warehouse)
    build(duckdb_warehouse, made, MONTHS[0])
    world.tables["accounts"] = ({**world.tables["accounts"][0], "colour": "string"}, world.tables["accounts"][1])
    duckdb_warehouse.drop(TableRef("bank", "accounts"))
    world.write_tables(duckdb_warehouse)
    assert build(duckdb_warehouse, made, MONTHS[1])["checking"].error is None
    kept = duckdb_warehouse.table(TableRef(SCHEMA, "account"))
    assert "colour" in kept.columns
    assert duckdb_warehouse.count(kept) == 4
    assert members(duckdb_warehouse, made, "checking", MONTHS[1]) == ["P"]


def test_history_is_part_of_an_audience_s_revision_and_only_of_those_on_whose_paths_it_is() -> None:
    made = bank_space(CHECKING, one_group("tickets", {"with_entity": "tickets"}))
    kept = with_history(made, account={"snapshots": True})
    assert audience_revision(made, "checking") != audience_revision(kept, "checking")
    assert audience_revision(made, "tickets") == audience_revision(kept, "tickets")


def test_a_column_that_is_not_there_or_is_no_instant_is_refused(duckdb_warehouse: Warehouse, tmp_path: Path) -> None:
    people().write(duckdb_warehouse)
    (tmp_path / "space.yaml").write_text(
        "name: test\nstart_date: 2024-01-01\nentities:\n  account: {valid_from: a, valid_to: b}\n"
    )
    for name, message in (("missing", "no column missing"), ("kind", "column kind is neither a date nor a timestamp")):
        made = with_history(bank_space(CHECKING), account={"valid_from": name, "valid_to": "renews"})
        error = build(duckdb_warehouse, made, MONTHS[0])["checking"].error
        assert error is not None and message in error
        (problem,) = check_audiences(dataclasses.replace(made, directory=tmp_path, audiences={}), duckdb_warehouse)
        assert (problem.file, problem.line) == ("space.yaml", 4)
        assert message in problem.message


@pytest.mark.parametrize("said", [{}, {"valid_from": "a"}, {"valid_from": "a", "valid_to": "b", "snapshots": True}])
def test_history_is_declared_or_kept(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'valid_from' and 'valid_to'"):
        EntityHistory(**said)


ROW = st.tuples(st.integers(1, 3), st.sampled_from([None, "a", "", "-", "a:1"]), st.sampled_from([None, "a", "1:a"]))


@settings(max_examples=25, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=5))
def test_every_instant_reads_the_rows_that_stood_then(states: list[list[tuple[Any, ...]]]) -> None:
    entity = Entity("thing", "Thing", "bank.things", "id")
    config = SpaceConfig(name="test", start_date=dt.date(2024, 1, 1), entities={"thing": EntityHistory(snapshots=True)})
    with open_duckdb(":memory:") as warehouse:
        for at, rows in zip(MONTHS, states, strict=False):
            world = World()
            world.table(
                "things",
                {"id": "int64", "one": "string", "other": "string"},
                [dict(zip(("id", "one", "other"), row, strict=True)) for row in rows],
            )
            world.write_tables(warehouse)
            take_snapshots(warehouse, config, [entity], at)
        for at, rows in zip(MONTHS, states, strict=False):
            for moment in (at, at + dt.timedelta(days=20)):
                found = warehouse.rows(entity_table(warehouse, config, entity, moment), 100)
                assert sorted((tuple(row.values()) for row in found), key=str) == sorted(set(rows), key=str)
