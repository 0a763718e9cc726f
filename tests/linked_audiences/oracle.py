"""A naive interpreter of audiences over Python rows: loops only, sharing no code with the product.

It reads the plain rows of ``tests.people.World`` and the audience and graph as values.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
Witness = tuple[str, str, str, str | None]


class Oracle:
    def __init__(self, world: Any, graph: Any, as_of: dt.datetime, traits: dict[str, dict[str, Any]], audiences: dict[str, Any]):
        self.world, self.graph, self.audiences = world, graph, audiences
        self.now = as_of.replace(tzinfo=None)
        self.computed = traits
        self.canonical: dict[str, str] = {}
        for row in self._known(world.profiles):
            self.canonical[row["segment_id"]] = row["canonical_segment_id"]
        self.people = sorted(set(self.canonical.values()))
        self.identifiers: dict[tuple[str, str], str] = {}
        for row in self._known(world.identifiers):
            self.identifiers[row["external_id_type"], row["external_id_value"]] = self.canonical[row["segment_id"]]
        self.traits: dict[tuple[str, str], str | None] = {}
        for row in self._known(world.traits):
            self.traits[self.canonical[row["segment_id"]], row["name"]] = row["value"]

    def _known(self, rows: list[Row]) -> list[Row]:
        return sorted((row for row in rows if row["received_at"] < self.now), key=lambda row: row["seq"])

    # -- audiences

    def members(self, audience: Any) -> set[str]:
        return {person for person in self.people if self.is_member(person, audience)}

    def is_member(self, person: str, audience: Any) -> bool:
        verdicts = [self.group(person, group) for group in audience.groups]
        return all(verdicts) if audience.match == "all" else any(verdicts)

    def group(self, person: str, group: Any) -> bool:
        verdicts = [self.condition(person, condition) for condition in group.conditions]
        return all(verdicts) if group.match == "all" else any(verdicts)

    def condition(self, person: str, c: Any) -> bool:
        kind = type(c).__name__
        if kind == "EntityCondition":
            return self.enough(c, self.top_rows(person, c), c.without_entity)
        if kind == "EventCondition":
            return len(list(self.events(person, c))) in self.allowed(c, c.without_event)
        if kind == "AudienceCondition":
            return self.is_member(person, self.audiences[c.part_of or c.not_part_of]) == (c.part_of is not None)
        name = c.with_trait or c.without_trait
        value = self.computed[name].get(person) if name in self.computed else self.traits.get((person, name))
        return self.compare(value, c) == (c.with_trait is not None)

    def context(self, audience: Any) -> set[Witness]:
        found: set[Witness] = set()
        for person in self.members(audience):
            for group in audience.groups:
                if not self.group(person, group):
                    continue
                for c in group.conditions:
                    if type(c).__name__ == "EntityCondition" and c.with_entity and self.condition(person, c):
                        for row in self.top_rows(person, c):
                            found |= set(self.witnesses(person, c.with_entity, row, c, None))
        return found

    def witnesses(self, person: str, path: str, row: Row, c: Any, parent: str | None) -> Iterator[Witness]:
        node = self.graph.node(path)
        identity = str(row[node.entity.primary_key.lower()])
        yield person, path, identity, parent
        for nested in c.nested.conditions if c.nested else ():
            if nested.with_entity and self.enough(nested, self.below(path, row, nested), None):
                child = f"{path}:{nested.with_entity}"
                for child_row in self.below(path, row, nested):
                    yield from self.witnesses(person, child, child_row, nested, identity)

    # -- quantities

    def allowed(self, c: Any, without: Any) -> range:
        many = 10**6
        if without:
            return range(1)
        if c.exactly is not None:
            return range(c.exactly, c.exactly + 1)
        if c.at_most is not None:
            return range(c.at_most + 1)
        return range(c.at_least or 1, many)

    def enough(self, c: Any, rows: list[Row], without: Any) -> bool:
        return len({row["__id"] for row in rows}) in self.allowed(c, without)

    # -- rows

    def table(self, text: str) -> list[Row]:
        return self.world.tables[text.lower().split(".")[-1]][1]

    def top_rows(self, person: str, c: Any) -> list[Row]:
        slug = c.with_entity or c.without_entity
        node = self.graph.node(slug)
        join = node.join
        found = []
        for row in self.table(node.entity.table_ref):
            key = row[join.join_key.lower()]
            if key is None:
                continue
            if type(join).__name__ == "ExternalIdJoin":
                mine = self.identifiers.get((join.type, str(key))) == person
            else:
                value = (
                    self.computed[join.name].get(person) if join.name in self.computed else self.traits.get((person, join.name))
                )
                mine = value is not None and (str(int(value)) if isinstance(value, float) else value) == str(key)
            if mine and self.passes(slug, row, c):
                found.append({**row, "__id": row[node.entity.primary_key.lower()]})
        return found

    def below(self, path: str, parent: Row, c: Any) -> list[Row]:
        child = f"{path}:{c.with_entity or c.without_entity}"
        node = self.graph.node(child)
        join = node.join
        found = []
        for row in self.table(node.entity.table_ref):
            if type(join).__name__ == "ColumnJoin":
                joined = self.same(parent[join.left.lower()], row[join.right.lower()])
            else:
                joined = any(
                    self.same(parent[join.parent_column.lower()], link[join.junction_left.lower()])
                    and self.same(link[join.junction_right.lower()], row[join.child_column.lower()])
                    for link in self.table(join.table_ref)
                )
            if joined and self.passes(child, row, c):
                found.append({**row, "__id": row[node.entity.primary_key.lower()]})
        return found

    def same(self, a: Any, b: Any) -> bool:
        return a is not None and b is not None and str(a) == str(b)

    def passes(self, path: str, row: Row, c: Any) -> bool:
        if row[self.graph.node(path).entity.primary_key.lower()] is None:
            return False
        if c.where:
            verdicts = [self.compare(row[f.column.lower()], f) for f in (c.where.all or c.where.any)]
            if not (all(verdicts) if c.where.all else any(verdicts)):
                return False
        if c.nested:
            verdicts = [self.enough(n, self.below(path, row, n), n.without_entity) for n in c.nested.conditions]
            return all(verdicts) if c.nested.match == "all" else any(verdicts)
        return True

    def events(self, person: str, c: Any) -> Iterator[Row]:
        for event in self._known(self.world.events):
            if event["segment_id"] is None or self.canonical[event["segment_id"]] != person:
                continue
            if event["event"] != (c.with_event or c.without_event):
                continue
            age = self.now - event["timestamp"]
            day = dt.timedelta(days=1)
            if c.within and not dt.timedelta(0) <= age <= c.within.last * day:
                continue
            if c.between and not c.between.to * day <= age <= c.between.from_ * day:
                continue
            if c.where:
                verdicts = [self.compare(event["properties"].get(f.property), f) for f in (c.where.all or c.where.any)]
                if not (all(verdicts) if c.where.all else any(verdicts)):
                    continue
            yield event

    # -- operators

    def compare(self, value: Any, c: Any) -> bool:
        operator = str(c.operator)
        if operator == "absent":
            return value is None
        if operator == "omits":
            return value is None or c.value not in value
        if value is None:
            return False
        if operator == "exists":
            return True
        if c.amount is not None:
            moment = dt.datetime(value.year, value.month, value.day) if not isinstance(value, dt.datetime) else value
            span = dt.timedelta(days=c.amount)
            return {
                "within_last": self.now - span <= moment <= self.now,
                "within_next": self.now <= moment <= self.now + span,
                "before_last": moment <= self.now - span,
                "after_next": moment >= self.now + span,
            }[operator]
        wanted = c.value
        if isinstance(value, str) and isinstance(wanted, (int, float)) and not isinstance(wanted, bool):
            try:
                value = float(value)
            except ValueError:
                return False
        if operator == "one_of":
            return value in wanted
        if operator == "none_of":
            return value not in wanted
        if operator == "contains":
            return any(piece in value for piece in (wanted if isinstance(wanted, tuple) else (wanted,)))
        if operator in ("before_date", "after_date"):
            return value < wanted if operator == "before_date" else value > wanted
        return {
            "equals": lambda: value == wanted,
            "differs": lambda: value != wanted,
            "less_than": lambda: value < wanted,
            "at_most": lambda: value <= wanted,
            "greater_than": lambda: value > wanted,
            "at_least": lambda: value >= wanted,
            "starts_with": lambda: value.startswith(wanted),
            "ends_with": lambda: value.endswith(wanted),
        }[operator]()
