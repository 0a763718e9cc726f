"""Random graphs, people, tables and condition trees, many small households in one world.

A household is four people and the rows that can be theirs: its keys, identifiers and trait values are all drawn from four numbers
of its own. So a naive interpreter can look at one household at a time, while the product looks at all of them in one query.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from cdp_assets.data_graph.model import ColumnJoin, Entity, ExternalIdJoin, JunctionJoin, Relationship, TraitJoin
from cdp_assets.space.space import Space
from tests.people import World, ago, space

TABLES = ("apples", "berries", "cherries", "dates", "elders")
COLUMNS = {
    "id": "int64",
    "key": "int64",
    "code": "string",
    "n": "float64",
    "t": "string",
    "b": "boolean",
    "d": "date",
    "at": "timestamp",
    "w": "time",
}
JUNCTION = {"id": "int64", "l": "int64", "r": "string"}
KEYS = ("id", "key", "code")

DATES = [None, dt.date(2025, 12, 31), dt.date(2026, 1, 1), dt.date(2026, 1, 31), dt.date(2026, 2, 1)]
INSTANTS = [
    None,
    ago(days=30),
    ago(days=30, microseconds=1),
    ago(days=0),
    ago(days=-30),
    ago(days=-30, microseconds=-1),
    ago(hours=2),
    ago(hours=2, microseconds=1),
]
TEXTS = ["a", "ab", "b", "B", "1", "2.5", "10", "true", "TRUE", "", "it's"]
ISO = ["2026-01-01T00:00:00Z", "2025-12-31T23:00:00-01:00", "2025-12-01T23:59:59.999999Z", "2026-01-01T00:00:00", "2026-01-01"]
NUMBERS = [None, 0.0, 1.0, 1.5, 2.0, 10.0]
TIMES = [None, dt.time(8), dt.time(8, 30), dt.time(12)]


@dataclass(frozen=True)
class Town:
    """A space, the world of all its households, and the world of each."""

    made: Space
    world: World
    households: list[World]


def town(random: Random, households: int, audiences: int) -> Town:
    """A random graph with random people, tables and audiences ``a0``, ``a1``, …; ``other`` is one that they refer to."""
    relationships = _graph(random)
    entities = tuple(Entity(table, table, f"bank.{table}", "ID") for table in TABLES)
    said = [{"key": "other", "groups": [{"conditions": [{"with_trait": "age", "operator": "at_least", "value": 1}]}]}]
    said += [{"key": f"a{number}", **_audience(random, relationships)} for number in range(audiences)]
    logins = {"key": "logins", "kind": "event_counter", "event": "Login"}
    made = space(*relationships, entities=entities, traits=[logins], audiences=said)
    whole = World()
    for table in TABLES:
        whole.table(table, COLUMNS, [])
    whole.table("pairs", JUNCTION, [])
    empty = random.choice([None] * 12 + [*TABLES, "pairs"])
    return Town(made, whole, [_household(random, whole, number, empty) for number in range(households)])


# -- the graph -----------------------------------------------------------------------------------------------------------


def _graph(random: Random) -> tuple[Relationship, ...]:
    names = iter(f"r{number}" for number in range(100))
    return tuple(_relationship(random, names, 1) for _ in range(random.choice([2, 3, 3])))


def _relationship(random: Random, names: Iterator[str], depth: int) -> Relationship:
    """depth: of its node, the profile being 0; at most 5 with the profile are six nodes."""
    if depth == 1:
        joins = [
            ExternalIdJoin("email", "CODE"),
            ExternalIdJoin("user_id", "key"),
            TraitJoin("plan", "code"),
            TraitJoin("logins", "n"),
        ]
        join: Any = random.choice(joins[:3])
    else:
        left, right = random.choice(KEYS), random.choice(KEYS)
        junction = JunctionJoin("BANK.PAIRS", "id", left, "L", "r", right)
        join = junction if random.random() < 0.3 else ColumnJoin(left.upper(), right)
    below = random.choice([0, 1, 1, 2]) if depth < 3 else random.choice([0, 0, 1]) if depth < 5 else 0
    slug = next(names)
    children = tuple(_relationship(random, names, depth + 1) for _ in range(below))
    return Relationship(slug, slug, random.choice(TABLES), join, children)


# -- people and tables ---------------------------------------------------------------------------------------------------


def _household(random: Random, whole: World, number: int, empty: str | None) -> World:
    mine = World()
    starts = {name: len(getattr(whole, name)) for name in ("profiles", "identifiers", "traits", "events")}
    keys = [number * 4 + one for one in range(3)]
    people = [f"{letter}{number:03}" for letter in "pqrs"]

    def known() -> dt.datetime | None:
        return random.choice([None, None, None, None, ago(days=-1), ago(days=0)])

    def moment() -> dt.datetime:
        return random.choice([one for one in INSTANTS if one is not None] + [ago(days=1), ago(days=2), ago(days=3)])

    for person in people:
        whole.profile(person)
        for kind in ("email", "user_id"):
            for _ in range(random.choice([0, 1, 2])):
                whole.identify(person, kind, str(random.choice(keys)), known())
        if random.random() < 0.6:
            whole.trait(person, "plan", str(random.choice(keys)))
    for _ in range(random.randint(0, 8)):
        name, values = random.choice([("plan", [*map(str, keys), "zz", None]), ("age", [*TEXTS, *ISO, None]), ("word", TEXTS)])
        whole.trait(random.choice(people), name, random.choice(values), known())
    for _ in range(random.randint(0, 8)):
        value = random.choice([None, 1, 2.5, True, *TEXTS, *ISO])
        context = {"page": {"url": random.choice(TEXTS)}}
        whole.event(random.choice(people), random.choice(["Login", "Pay"]), moment(), {"v": value}, context, known())
    if random.random() < 0.3:
        whole.merge(people[1], people[0], known())
    if random.random() < 0.2:
        whole.merge(people[0], people[3], known())
    for name, start in starts.items():
        setattr(mine, name, getattr(whole, name)[start:])
    for table, columns in [*((table, COLUMNS) for table in TABLES), ("pairs", JUNCTION)]:
        count = 0 if table == empty else random.choice([2, 6, 8, 10])
        rows = [_row(random, columns, keys) for _ in range(count)]
        mine.table(table, columns, rows)
        whole.tables[table][1].extend(rows)
    return mine


def _row(random: Random, columns: dict[str, str], keys: list[int]) -> dict[str, Any]:
    values = {"n": NUMBERS, "t": [*TEXTS, None], "b": [True, False, None], "d": DATES, "at": INSTANTS, "w": TIMES}
    row: dict[str, Any] = {}
    for name, kind in columns.items():
        key = random.choice([*keys, *keys, *keys, None])
        row[name] = random.choice(values[name]) if name in values else key if kind == "int64" or key is None else str(key)
    return row


# -- audiences -----------------------------------------------------------------------------------------------------------

ORDER = ("equals", "differs", "less_than", "at_most", "greater_than", "at_least")
SPANS = ("within_last", "within_next", "before_last", "after_next")


def _audience(random: Random, relationships: tuple[Relationship, ...]) -> dict[str, Any]:
    groups = []
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        conditions = [
            _entity(random, relationships, ()) if random.random() < 0.7 else _other(random)
            for _ in range(random.choice([1, 1, 2, 3]))
        ]
        groups.append({"match": random.choice(["all", "any"]), "conditions": conditions})
    said: dict[str, Any] = {"match": random.choice(["all", "any"]), "groups": groups}
    matched = [path for group in groups for condition in group["conditions"] for path in _matched(condition, "")]
    if matched and random.random() < 0.2:
        said["target_entity"] = random.choice(matched)
    return said


def _matched(condition: dict[str, Any], above: str) -> Iterator[str]:
    if "with_entity" in condition and 0 not in (condition.get("exactly"), condition.get("at_most")):
        path = f"{above}{condition['with_entity']}"
        yield path
        for child in condition.get("nested", {}).get("conditions", ()):
            yield from _matched(child, f"{path}:")


def _quantifier(random: Random) -> dict[str, int]:
    some = [{"at_least": 2}, {"exactly": 1}, {"at_most": 1}, {"exactly": 2}, {"at_least": 3}, {"at_most": 2}]
    return random.choice([{}] * 6 + some + [{"exactly": 0}, {"at_most": 0}])


def _entity(random: Random, below: tuple[Relationship, ...], branch: tuple[str, ...]) -> dict[str, Any]:
    relationship = random.choice(below)
    without = random.random() < 0.2
    condition: dict[str, Any] = {"without_entity" if without else "with_entity": relationship.slug}
    quantifier = {} if without else _quantifier(random)
    condition |= quantifier
    if 0 in quantifier.values():
        return condition
    here = (*branch, relationship.slug)
    if random.random() < 0.5:
        filters = [_column_filter(random, here) for _ in range(random.choice([1, 1, 2]))]
        condition["where"] = {random.choice(["all", "any"]): filters}
    if relationship.children and random.random() < 0.8:
        nested = [_entity(random, relationship.children, here) for _ in range(random.choice([1, 1, 2]))]
        condition["nested"] = {"match": random.choice(["all", "any"]), "conditions": nested}
    return condition


def _column_filter(random: Random, branch: tuple[str, ...]) -> dict[str, Any]:
    column = random.choice(list(COLUMNS))
    kind = COLUMNS[column]
    said: dict[str, Any] = {"column": random.choice([column, column.upper()])}
    if kind != "boolean" and random.random() < 0.4:
        texts = kind == "string"
        operators = ("equals", "differs", "contains", "omits", "starts_with", "ends_with") if texts else ORDER
        reference: dict[str, str] = {
            "trait": random.choice(["age", "word", "plan"] + ["logins"] * (kind in ("int64", "float64")))
        }
        if kind == "time" or random.random() < 0.6:
            alike = {"int64": ("int64", "float64"), "float64": ("int64", "float64"), "date": ("date", "timestamp")}
            alike["timestamp"] = alike["date"]
            reference = {"column": random.choice([name for name in COLUMNS if COLUMNS[name] in alike.get(kind, (kind,))])}
            if random.random() < 0.7:
                reference["of"] = random.choice(branch)
        return {**said, "operator": random.choice(operators), "reference": reference}
    return {**said, **_constant(random, kind)}


def _constant(random: Random, kind: str) -> dict[str, Any]:
    presence = {"operator": random.choice(["exists", "absent"])}
    if random.random() < 0.1:
        return presence
    match kind:
        case "int64" | "float64":
            if random.random() < 0.3:
                return {"operator": random.choice(["one_of", "none_of"]), "value": random.sample([0, 1, 1.5, 2, 3, 10], 2)}
            return {"operator": random.choice(ORDER), "value": random.choice([0, 1, 1.5, 2, 10])}
        case "boolean":
            return {"operator": random.choice(ORDER[:2]), "value": random.choice([True, False])}
        case "string":
            words = [one for one in TEXTS if one]
            if random.random() < 0.3:
                return {"operator": random.choice(["one_of", "none_of", "contains"]), "value": random.sample(words, 2)}
            operators = ("equals", "differs", "contains", "omits", "starts_with", "ends_with")
            return {"operator": random.choice(operators), "value": random.choice(words)}
        case "time":
            return {"operator": random.choice(ORDER), "value": random.choice(["08:00:00", "08:30", "23:00"])}
    if random.random() < 0.6:
        return _span(random)
    edges: list[Any] = [*DATES[1:], *INSTANTS[1:], "2026-01-01", "2026-01-01T01:00:00+01:00"]
    return {"operator": random.choice([*ORDER, "before_date", "after_date"]), "value": random.choice(edges)}


def _span(random: Random) -> dict[str, Any]:
    amount, unit = random.choice([(0, "days"), (1, "days"), (30, "days"), (2, "hours"), (720, "hours")])
    return {"operator": random.choice(SPANS), "amount": amount, "unit": unit}


def _untyped(random: Random) -> dict[str, Any]:
    """A comparison of a text that may be anything."""
    kind = random.choice(["string", "string", "float64", "boolean", "timestamp"])
    if kind == "timestamp" and random.random() < 0.4:
        return {"operator": random.choice(ORDER[2:]), "value": random.choice([*ISO[:2], "2026-01-01"])}
    return _constant(random, kind)


def _other(random: Random) -> dict[str, Any]:
    kind = random.choice(["trait", "computed", "event", "event", "audience"])
    if kind == "audience":
        return {random.choice(["part_of", "not_part_of"]): "other"}
    side = random.choice(["with", "without"])
    if kind == "trait":
        return {f"{side}_trait": random.choice(["plan", "age", "word"]), **_untyped(random)}
    if kind == "computed":
        return {f"{side}_trait": "logins", **_constant(random, "float64")}
    condition: dict[str, Any] = {f"{side}_event": random.choice(["Login", "Pay"])}
    quantifier = {} if side == "without" else _quantifier(random)
    windows = [{}, {"within": {"last": 2}}, {"within": {"last": 30}}, {"within": {"last": 2, "unit": "hours"}}]
    windows += [{"between": {"from": 3, "to": 1}}, {"between": {"from": 720, "to": 2, "unit": "hours"}}]
    condition |= quantifier | random.choice(windows)
    if 0 not in quantifier.values() and random.random() < 0.6:
        condition["where"] = {random.choice(["all", "any"]): [_event_filter(random) for _ in range(random.choice([1, 2]))]}
    return condition


def _event_filter(random: Random) -> dict[str, Any]:
    subject = random.choice([{"property": "v"}, {"property": "v"}, {"context": "page.url"}])
    if random.random() < 0.4:
        operators = (*ORDER, "contains", "omits", "starts_with", "ends_with")
        trait = random.choice(["age", "word", "logins"])
        chosen = random.choice(ORDER if trait == "logins" else operators)
        return {**subject, "operator": chosen, "reference": {"trait": trait}}
    return {**subject, **_untyped(random)}
