"""Compiled traits against counting by hand: random people, events and definitions, many of each in one pass over the database."""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_assets.computed_traits.build import TraitResult, build_traits
from cdp_assets.computed_traits.tables import ACCOUNT_CHANGES, ACCOUNT_VALUES, TRAIT_CHANGES, TRAIT_VALUES
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Space
from resources.warehouse import TableSpec, Warehouse
from tests.computed_traits.oracle import Value, canonical, expected
from tests.people import AS_OF, World, ago, revisions, space, window

NOW = AS_OF.replace(tzinfo=None)
# A month before, in the partition before.
EARLIER = AS_OF - dt.timedelta(days=31)
MICROSECOND = dt.timedelta(microseconds=1)

VALUES: list[Any] = [
    None, "", "x", "y", "É", "a b", 'q"uote', "qZ", "back\\slash", "1.5", "2", "-3", "1e19", "nan", "infinity", "true", "TRUE", "false", "01",
    "2025-12-31T01:00:00+01:00", "2025-12-30T12:00:00Z", "2025-12-30", 7, 2.5, -0.125, 0, True, False, [1, "x"], {"a": 1}, {"n": "x"},
]  # fmt: skip
SPANS = [
    {"last": 1, "unit": "hours"}, {"last": 36, "unit": "hours"}, {"last": 3}, {"last": 30}, {"last": 31, "unit": "days"},
]  # fmt: skip
DAYS = ["2025-12-31", "2025-12-31T00:00:00Z"]
SESSIONS = [{"gap": 30}, {"gap": 2, "unit": "hours"}, {"gap": 1, "unit": "days"}, {"gap": 90, "unit": "days"}]


def some_events(chance: random.Random, world: World, people: list[str]) -> None:
    """Events at the edges of the windows, on ties, in the future, late, and of nobody."""
    offsets = [dt.timedelta(minutes=30) * chance.randrange(0, 9) for _ in range(4)]
    offsets += [dt.timedelta(days=days) for days in (1, 3, 30, 31, 61, 34)] + [dt.timedelta(hours=36), dt.timedelta(hours=-5)]
    nudges = [dt.timedelta(), dt.timedelta(), MICROSECOND, -MICROSECOND, dt.timedelta(days=31)]
    for person in [*people, None]:
        habit = chance.sample(VALUES, 3)
        for _ in range(chance.randrange(0, 12)):
            at = NOW - chance.choice(offsets) - chance.choice(nudges)
            properties = {"v": chance.choice(habit if chance.random() < 0.6 else VALUES), "w": {"n": chance.choice(VALUES)}}
            if chance.random() < 0.1:
                del properties["v"]
            late = NOW + dt.timedelta(days=1) if chance.random() < 0.1 else None
            world.event(person, chance.choice("AB"), at, properties, {"page": {"url": chance.choice(["/x", "/y", None])}}, late)


def some_world(chance: random.Random, size: int) -> World:
    world = World()
    people = [f"p{number:02}" for number in range(size)]
    for person in people:
        world.profile(person)
    for _ in range(size // 3):
        loser, winner = chance.sample(people, 2)
        world.merge(loser, winner, chance.choice([None, ago(days=40), ago(days=10), NOW + MICROSECOND]))
    for person in people:
        for _ in range(chance.choice([0, 1, 1, 2])):
            joined = chance.choice([None, ago(days=50), ago(days=5), ago(days=5), NOW])
            world.member(person, f"g{chance.randrange(size // 3)}", joined)
        for _ in range(chance.randrange(3)):
            world.trait(person, "plan", chance.choice(["gold", "silver", "2", None]), chance.choice([None, ago(days=5), NOW]))
    some_events(chance, world, people)
    for number, person in enumerate(people[::8]):
        # As often the one as the other, and both at one instant.
        for value in (("y", "x", "y", "x"), ("2", -3, 2, "-3"), ("É", 'q"uote', "qZ", "É", 'q"uote'))[number % 3]:
            world.event(person, "A", NOW - dt.timedelta(days=33), {"v": value})
    return world


def plain_traits() -> list[dict[str, Any]]:
    """Traits that nothing narrows, so that ties decide."""
    seen = {"name": "made", "event": "A", "property": "v"}
    usual = [{"kind": "most_frequent"}, {"kind": "most_frequent", "type": "number"}]
    return [{"key": f"plain{i}", **seen, **trait} for i, trait in enumerate([*usual, {"kind": "first"}, {"kind": "last"}])]


def some_filter(chance: random.Random) -> dict[str, Any]:
    place = chance.choice([{"property": "v"}, {"property": "w.n"}, {"context": "page.url"}])
    comparison = chance.choice(
        [
            {"operator": "exists"}, {"operator": "absent"},
            {"operator": chance.choice(["equals", "differs"]), "value": chance.choice(["x", 2, 1.5, True])},
            {"operator": chance.choice(["less_than", "at_most", "greater_than", "at_least"]), "value": chance.choice([2, 1.5, *DAYS])},
            {"operator": chance.choice(["contains", "omits", "starts_with", "ends_with"]), "value": chance.choice(["x", "/", "É"])},
            {"operator": chance.choice(["one_of", "none_of"]), "value": ["x", "2", "/y"]},
            {"operator": chance.choice(["before_date", "after_date"]), "value": "2025-12-31T00:00:00Z"},
            {"operator": "within_last", "amount": 36, "unit": "hours"},
        ]
    )  # fmt: skip
    return {**place, **comparison}


def some_trait(chance: random.Random, number: int, kind: str) -> dict[str, Any]:
    trait: dict[str, Any] = {"key": f"t{number:02}", "name": "made", "kind": kind, "event": chance.choice("AAB")}
    if chance.random() < 0.4:
        trait |= {"level": "account", "members": chance.random() < 0.5}
    if kind == "most_frequent" and "level" in trait and chance.random() < 0.3:
        del trait["event"]
        return trait | {"user_trait": "plan", "type": chance.choice(["string", "number"])}
    if kind != "event_counter":
        trait["property"] = chance.choice(["v", "v", "w.n"])
    if kind == "aggregation":
        trait["function"] = chance.choice(["sum", "avg", "min", "max"])
        if trait["function"] in ("min", "max") and chance.random() < 0.4:
            trait["type"] = "string"
    elif kind in ("first", "last", "most_frequent"):
        trait["type"] = chance.choice(["string", "number", "boolean", "timestamp"])
        if kind != "most_frequent" and chance.random() < 0.2:
            trait |= {"property": "timestamp", "type": "timestamp"}
    if kind == "most_frequent":
        trait["min_frequency"] = chance.choice([2, 2, 3])
    window = chance.random()
    if window < 0.4:
        trait["within"] = chance.choice(SPANS)
    elif window < 0.65:
        trait["session"] = chance.choice(SESSIONS)
    if chance.random() < 0.5:
        trait["where"] = {chance.choice(["all", "any"]): [some_filter(chance) for _ in range(chance.choice([1, 1, 2]))]}
    return trait


KINDS = ("event_counter", "aggregation", "first", "last", "most_frequent", "unique_list", "unique_list_count")


def build(warehouse: Warehouse, made: Space, as_of: dt.datetime) -> dict[str, TraitResult]:
    results = build_traits(warehouse, made, list(made.traits), window(made, as_of), as_of, as_of, "run", revisions(made))
    assert {key: result.error for key, result in results.items() if result.error} == {}
    return results


def stored(warehouse: Warehouse, made: Space, spec: TableSpec, as_of: dt.datetime) -> dict[str, dict[str, Value | None]]:
    """Trait -> owner -> value of the partition of ``as_of``; lists parsed. No owner has two rows."""
    table = warehouse.table(spec.ref)
    rows = warehouse.rows(table.filter(table.partition_key == window(made, as_of).key), 1_000_000)
    assert all(row["as_of"] == as_of.replace(tzinfo=None) for row in rows)
    found: dict[str, dict[str, Value | None]] = {key: {} for key in made.traits}
    for row in rows:
        value = row["value_number"] if row["value_text"] is None else row["value_text"]
        if made.traits[row["trait"]].value_type == "list" and value is not None:
            value = json.loads(value)
        assert row[spec.subject or ""] not in found[row["trait"]]
        found[row["trait"]][row[spec.subject or ""]] = value
    return found


def compare(warehouse: Warehouse, world: World, definitions: list[dict[str, Any]]) -> int:
    """Build two partitions and hold values, changes and counts against the oracle's; the number of values compared."""
    made = space(traits=definitions)
    world.write(warehouse)
    at = {as_of: as_of.replace(tzinfo=None) for as_of in (EARLIER, AS_OF)}
    results = {as_of: build(warehouse, made, as_of) for as_of in at}
    right = {as_of: {trait["key"]: expected(world, trait, now) for trait in definitions} for as_of, now in at.items()}
    alive = set(canonical(world, NOW).values())
    compared = 0
    for place, (values, changes) in enumerate(((TRAIT_VALUES, TRAIT_CHANGES), (ACCOUNT_VALUES, ACCOUNT_CHANGES))):
        found = {as_of: stored(warehouse, made, values, as_of) for as_of in at}
        changed = {as_of: stored(warehouse, made, changes, as_of) for as_of in at}
        for trait in definitions:
            key = trait["key"]
            before, now = right[EARLIER][key][place], right[AS_OF][key][place]
            assert (found[EARLIER][key], found[AS_OF][key]) == (before, now), trait
            assert changed[EARLIER][key] == {}, trait
            gone = {owner for owner in before if owner not in now and (place or owner in alive)}
            differs = {owner: value for owner, value in now.items() if before.get(owner) != value}
            assert changed[AS_OF][key] == differs | dict.fromkeys(gone), trait
            if place == (not Trait(**trait).of_profiles):
                counts = TraitResult(
                    len(now), changed=len(differs) + len(gone), nulled=len(gone), accounts=len(right[AS_OF][key][1])
                )
                assert results[AS_OF][key] == counts, trait
            compared += len(before) + len(now)
    return compared


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(st.integers(0, 2**32))
def test_values_changes_and_counts_are_those_counted_by_hand(duckdb_warehouse: Warehouse, seed: int) -> None:
    chance = random.Random(seed)
    definitions = [some_trait(chance, number, kind) for number, kind in enumerate(KINDS * 4)]
    definitions += plain_traits()
    for spec in (TRAIT_VALUES, TRAIT_CHANGES, ACCOUNT_VALUES, ACCOUNT_CHANGES):
        duckdb_warehouse.ensure(spec)
        duckdb_warehouse.delete(spec.ref, [])
    assert compare(duckdb_warehouse, some_world(chance, 150), definitions) > 1500


@pytest.mark.snowflake
def test_snowflake_counts_the_same(snowflake_warehouse: Warehouse) -> None:
    chance = random.Random(7)
    definitions = [some_trait(chance, number, kind) for number, kind in enumerate(KINDS)]
    definitions += plain_traits()
    assert compare(snowflake_warehouse, some_world(chance, 12), definitions) > 20
