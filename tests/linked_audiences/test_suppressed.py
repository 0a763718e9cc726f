"""Who is suppressed is in no audience: not as a member, not by context, not in the preview, not by the printed query."""

from __future__ import annotations

import datetime as dt

import pytest

from cdp_assets.linked_audiences.preview import preview
from cdp_assets.linked_audiences.sql import audience_sql
from cdp_assets.raw_events.suppression import lift, suppress
from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import suppressed_as_of, traits_as_of
from resources.warehouse import Warehouse
from tests.linked_audiences.bank import bank, bank_space, build, context, members, one_group
from tests.people import AS_OF, LONG_AGO, World

NOBODY_CARES = IdentitySettings()
MONTH = dt.timedelta(days=32)
CARDS = {"with_entity": "accounts", "nested": {"conditions": [{"with_entity": "cards"}]}}


def people() -> tuple[World, Space]:
    """P and Q share an account; R merged into Q; S has nothing."""
    world = bank(accounts=[(1, "shared@x", "checking"), (2, "q@x", "checking")], cards=[(10, 1), (20, 2)])
    world.profile("P", email=["shared@x", "p@x"], user_id="p")
    world.profile("Q", email="q@x", user_id="q")
    world.profile("R", email="r@x")
    world.profile("S", anonymous_id="s")
    world.merge("R", "Q")
    world.trait("P", "plan", "gold")
    made = bank_space(
        one_group("cards", CARDS),
        one_group("not_cards", {"not_part_of": "cards"}),
        one_group("without", {"without_entity": "accounts"}),
    )
    return world, made


def everything(warehouse: Warehouse, made: Space, as_of: dt.datetime) -> dict[str, list[str]]:
    build(warehouse, made, as_of)
    return {key: members(warehouse, made, key, as_of) for key in made.audiences}


@pytest.mark.parametrize(("kind", "value"), [("user_id", "p"), ("email", "p@x")])
def test_who_is_suppressed_leaves_every_audience_from_then_on(duckdb_warehouse: Warehouse, kind: str, value: str) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    before = {"cards": ["P", "Q"], "not_cards": ["S"], "without": ["S"]}
    assert everything(duckdb_warehouse, made, AS_OF) == before
    suppress(duckdb_warehouse, NOBODY_CARES, kind, value, AS_OF + MONTH)
    assert everything(duckdb_warehouse, made, AS_OF) == before  # a past partition is what it was
    assert everything(duckdb_warehouse, made, AS_OF + MONTH) == {"cards": ["Q"], "not_cards": ["S"], "without": ["S"]}
    assert context(duckdb_warehouse, made, "cards", AS_OF + MONTH) == [
        ("Q", "accounts", "2", None),
        ("Q", "accounts:cards", "20", "2"),
    ]
    lift(duckdb_warehouse, NOBODY_CARES, kind, value, AS_OF + 2 * MONTH)
    assert everything(duckdb_warehouse, made, AS_OF + 2 * MONTH) == before
    assert everything(duckdb_warehouse, made, AS_OF + MONTH)["cards"] == ["Q"]


def test_the_preview_and_the_printed_query_say_the_same(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    assert "suppressions" not in audience_sql(made, "cards", "duckdb", duckdb_warehouse, as_of=AS_OF)
    suppress(duckdb_warehouse, NOBODY_CARES, "user_id", "p", AS_OF)
    found = preview(duckdb_warehouse, made, "cards", AS_OF)
    assert (found.count, [member["id"] for member in found.members]) == (1, ["Q"])
    assert preview(duckdb_warehouse, made, "cards", AS_OF - dt.timedelta(seconds=1)).count == 2
    for dialect in ("duckdb", "snowflake", "databricks", "bigquery"):
        assert "suppressions" in audience_sql(made, "cards", dialect, duckdb_warehouse, as_of=AS_OF).lower()


def suppressed(warehouse: Warehouse, made: Space, as_of: dt.datetime = AS_OF) -> list[str]:
    return sorted(row["canonical_segment_id"] for row in warehouse.rows(suppressed_as_of(warehouse, made.graph, as_of), 100))


def test_any_identifier_of_a_merged_profile_suppresses_the_whole_and_after_an_unmerge_its_own_side(warehouse: Warehouse) -> None:
    world, made = people()
    world.write(warehouse)
    suppress(warehouse, NOBODY_CARES, "email", "r@x", AS_OF)
    assert suppressed(warehouse, made) == ["Q"]
    world.profiles.append(
        {"segment_id": "R", "canonical_segment_id": "R", "seq": 10_000, "received_at": LONG_AGO.replace(tzinfo=None)}
    )
    world.write(warehouse)
    assert suppressed(warehouse, made) == ["R"]


def test_the_same_value_of_another_type_is_nobody_s_and_traits_stay(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    suppress(duckdb_warehouse, NOBODY_CARES, "anonymous_id", "p", AS_OF)
    suppress(duckdb_warehouse, NOBODY_CARES, "user_id", "nobody", AS_OF)
    assert suppressed(duckdb_warehouse, made) == []
    suppress(duckdb_warehouse, NOBODY_CARES, "user_id", "p", AS_OF)
    assert suppressed(duckdb_warehouse, made) == ["P"]
    assert duckdb_warehouse.count(traits_as_of(duckdb_warehouse, made.graph, AS_OF)) == 1
