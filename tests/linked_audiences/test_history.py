"""Who entered and left with each partition and why, and what retention keeps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp_assets.linked_audiences.build import build_audiences
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS, AUDIENCE_TRANSITIONS, BUILDS
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.linked_audiences.bank import bank, bank_space, members, one_group
from tests.people import World, window

MONTHS = [dt.datetime(2026, month, 1, tzinfo=dt.UTC) for month in range(1, 8)]
GOLD = one_group("gold", {"with_trait": "plan", "operator": "equals", "value": "gold"})


def during(month: int) -> dt.datetime:
    """An instant after MONTHS[month - 1] and before MONTHS[month], as the logs hold it."""
    return (MONTHS[month] - dt.timedelta(days=9)).replace(tzinfo=None)


def build(
    warehouse: Warehouse, made: Space, month: int, revision: str = "r1", as_of: dt.datetime | None = None
) -> AudienceResult:
    at = as_of or MONTHS[month]
    return build_audiences(warehouse, made, ["gold"], window(made, at), at, at, "run", {"gold": revision}, funnels=False)["gold"]


def transitions(warehouse: Warehouse, made: Space, month: int) -> list[tuple[str, str, str]]:
    table = warehouse.table(AUDIENCE_TRANSITIONS.ref)
    mine = table.filter(table.partition_key == window(made, MONTHS[month]).key)
    return sorted((row["canonical_segment_id"], row["change"], row["why"]) for row in warehouse.rows(mine, 1000))


def people() -> tuple[World, Space]:
    """P is gold in December; Q from January on, P no more; in February Q becomes part of R."""
    world = bank()
    for profile in ("P", "Q", "R"):
        world.profile(profile, user_id=profile.lower())
    world.trait("P", "plan", "gold")
    world.trait("Q", "plan", "gold", received_at=during(1))
    world.trait("P", "plan", "free", received_at=during(1))
    world.merge("Q", "R", received_at=during(2))
    return world, bank_space(GOLD)


def test_transitions_say_who_entered_and_left_and_whether_data_or_a_merge_did_it(warehouse: Warehouse) -> None:
    world, made = people()
    world.write(warehouse)
    for month in range(4):
        build(warehouse, made, month)
    assert transitions(warehouse, made, 0) == [("P", "entered", "data")]
    assert transitions(warehouse, made, 1) == [("P", "left", "data"), ("Q", "entered", "data")]
    assert transitions(warehouse, made, 2) == [("Q", "left", "identity"), ("R", "entered", "identity")]
    assert transitions(warehouse, made, 3) == []


def test_a_member_who_leaves_because_of_a_merge_left_by_identity(warehouse: Warehouse) -> None:
    world = bank()
    for profile in ("P", "Q"):
        world.profile(profile, user_id=profile.lower())
    world.trait("P", "plan", "gold")
    world.trait("Q", "plan", "free", received_at=during(1))
    world.merge("Q", "P", received_at=during(1))
    world.write(warehouse)
    made = bank_space(GOLD)
    build(warehouse, made, 0)
    assert build(warehouse, made, 1).left == 1
    assert transitions(warehouse, made, 1) == [("P", "left", "identity")]


def test_between_two_definitions_the_definition_did_it_until_the_backfill_reaches_both(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    build(duckdb_warehouse, made, 0)
    free = bank_space(one_group("gold", {"with_trait": "plan", "operator": "exists"}))
    build(duckdb_warehouse, free, 1, revision="r2")
    assert transitions(duckdb_warehouse, made, 1) == [("Q", "entered", "definition")]
    build(duckdb_warehouse, free, 2, revision="r2")
    assert transitions(duckdb_warehouse, made, 2) == [("Q", "left", "identity"), ("R", "entered", "identity")]
    build(duckdb_warehouse, free, 0, revision="r2")
    assert transitions(duckdb_warehouse, made, 1) == [("Q", "entered", "data")]


def test_the_open_partition_is_compared_with_the_closed_one_before_at_each_build(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    build(duckdb_warehouse, made, 0)
    build(duckdb_warehouse, made, 1, as_of=MONTHS[0] + dt.timedelta(days=2))
    assert transitions(duckdb_warehouse, made, 1) == []
    build(duckdb_warehouse, made, 1)
    assert transitions(duckdb_warehouse, made, 1) == [("P", "left", "data"), ("Q", "entered", "data")]


def retaining(made: Space, days: int) -> Space:
    return Space(
        made.directory, made.config.model_copy(update={"retention_days": days}), made.graph, made.traits, dict(made.audiences)
    )


def test_old_partitions_keep_their_transitions_and_drop_members_and_context(warehouse: Warehouse) -> None:
    world, made = people()
    world.write(warehouse)
    kept = retaining(made, 40)
    assert [build(warehouse, kept, month).dropped for month in range(4)] == [0, 0, 1, 1]
    for spec, column in ((AUDIENCE_MEMBERS, "partition_key"), (BUILDS, "partition_key")):
        keys = {row[column] for row in warehouse.rows(warehouse.table(spec.ref), 1000)}
        assert keys == {window(made, MONTHS[2]).key, window(made, MONTHS[3]).key}
    assert transitions(warehouse, made, 0) == [("P", "entered", "data")]
    assert transitions(warehouse, made, 1) == [("P", "left", "data"), ("Q", "entered", "data")]
    refused = build(warehouse, kept, 1)
    assert refused.error is not None and "retention_days (40)" in refused.error and "raise retention_days" in refused.error
    assert transitions(warehouse, made, 1) == [("P", "left", "data"), ("Q", "entered", "data")]


def test_the_oldest_partition_kept_may_be_built_again_without_the_one_before_it(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    kept = retaining(made, 40)
    for month in range(4):
        build(duckdb_warehouse, kept, month)
    expected = [("Q", "left", "identity"), ("R", "entered", "identity")]
    for _ in range(2):
        build(duckdb_warehouse, kept, 2)
        assert transitions(duckdb_warehouse, made, 2) == expected


def test_context_is_dropped_with_its_members(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x")])
    world.profile("P", email="p@x")
    world.write(duckdb_warehouse)
    made = retaining(bank_space(one_group("gold", {"with_entity": "accounts"})), 40)
    for month in range(4):
        build(duckdb_warehouse, made, month)
    rows = duckdb_warehouse.rows(duckdb_warehouse.table(AUDIENCE_CONTEXT.ref), 100)
    assert {row["partition_key"] for row in rows} == {window(made, MONTHS[2]).key, window(made, MONTHS[3]).key}


# -- against counting by hand ------------------------------------------------------------------------------------------


def counted_by_hand(
    inside: Sequence[set[str]], canonical: Sequence[dict[str, str]], revisions: Sequence[str]
) -> list[list[tuple[str, str, str]]]:
    """Transitions of each month. ``inside``: members by month. ``canonical``: segment id -> canonical id by month."""
    found = [sorted((one, "entered", "data") for one in inside[0])]
    for month in range(1, len(inside)):
        then, now = canonical[month - 1], canonical[month]
        moved = {one for segment in then if then[segment] != now[segment] for one in (then[segment], now[segment])}
        same = revisions[month - 1] == revisions[month]
        rows = []
        for one in inside[month - 1] ^ inside[month]:
            entered = one in inside[month]
            was_in = {now.get(member, member) for member in inside[month - 1]}
            same_person = one in was_in if entered else now.get(one, one) in inside[month]
            why = "identity" if same_person or (same and one in moved) else ("data" if same else "definition")
            rows.append((one, "entered" if entered else "left", why))
        found.append(sorted(rows))
    return found


CHANGES = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.one_of(
            st.tuples(st.just("plan"), st.sampled_from("PQRS"), st.sampled_from(["gold", "free"])),
            st.tuples(st.just("merge"), st.sampled_from("PQRS"), st.sampled_from("PQRS")),
        ),
    ),
    max_size=10,
)


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(CHANGES, st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["r1", "r2"])), max_size=5))
def test_builds_in_any_order_leave_the_transitions_that_follow_from_their_members(
    changes: list[tuple[int, Any]], order: list[tuple[int, str]]
) -> None:
    world = bank()
    for profile in "PQRS":
        world.profile(profile, user_id=profile.lower())
    world.trait("P", "plan", "gold")
    current = {profile: profile for profile in "PQRS"}
    canonical = [dict(current)]
    for month in range(1, 4):
        for _, (kind, one, other) in [change for change in changes if change[0] == month]:
            if kind == "plan":
                world.trait(one, "plan", other, received_at=during(month))
            elif current[one] != current[other]:
                loser, winner = current[one], current[other]
                world.merge(loser, winner, received_at=during(month))
                current = {segment: winner if of == loser else of for segment, of in current.items()}
        canonical.append(dict(current))
    made = bank_space(GOLD)
    with open_duckdb(Path(":memory:")) as warehouse:
        world.write(warehouse)
        revisions = ["r1"] * 4
        for month, revision in [*order, *((month, "r1") for month in range(4) if month not in dict(order))]:
            assert build(warehouse, made, month, revision).error is None
            revisions[month] = revision
        inside = [set(members(warehouse, made, "gold", MONTHS[month])) for month in range(4)]
        expected = counted_by_hand(inside, canonical, revisions)
        assert [transitions(warehouse, made, month) for month in range(4)] == expected


def test_a_transition_of_the_first_build_is_an_entry_of_everybody(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    build(duckdb_warehouse, made, 3)
    assert transitions(duckdb_warehouse, made, 3) == [("R", "entered", "data")]
    build(duckdb_warehouse, made, 2)
    assert transitions(duckdb_warehouse, made, 3) == []


@pytest.mark.parametrize("days", [None, 1000])
def test_without_retention_or_within_it_nothing_is_dropped(duckdb_warehouse: Warehouse, days: int | None) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    kept = made if days is None else retaining(made, days)
    assert [build(duckdb_warehouse, kept, month).dropped for month in range(4)] == [0, 0, 0, 0]
    assert [members(duckdb_warehouse, made, "gold", MONTHS[month]) for month in range(4)] == [["P"], ["Q"], ["R"], ["R"]]
