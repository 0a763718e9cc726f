"""A naive interpreter of audiences over Python rows: loops only, sharing no code with the product.

It reads the plain rows of ``tests.people.World`` and the audience and graph as values.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
Witness = tuple[str, str, str, str | None]


class Oracle:
    def __init__(self, world: Any, graph: Any, as_of: dt.datetime, traits: dict[str, dict[str, Any]], audiences: dict[str, Any]):
        self.world, self.graph, self.audiences = world, graph, audiences
        self.nodes = {node.path: node for node in graph.nodes()}
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

    def trait(self, person: str, name: str) -> Any:
        return self.computed[name].get(person) if name in self.computed else self.traits.get((person, name))

    # -- audiences

    def members(self, audience: Any) -> set[str]:
        return {person for person in self.people if self.is_member(person, audience)}

    def is_member(self, person: str, audience: Any) -> bool:
        if not self.matches(person, audience):
            return False
        return audience.target_entity is None or any(w[1] == audience.target_entity for w in self.of_person(person, audience))

    def matches(self, person: str, audience: Any) -> bool:
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
            return len({event["message_id"] for event in self.events(person, c)}) in self.allowed(c, c.without_event)
        if kind == "AudienceCondition":
            return self.is_member(person, self.audiences[c.part_of or c.not_part_of]) == (c.part_of is not None)
        return self.compare(self.trait(person, c.with_trait or c.without_trait), c) == (c.with_trait is not None)

    def context(self, audience: Any) -> set[Witness]:
        return {witness for person in self.members(audience) for witness in self.of_person(person, audience)}

    def of_person(self, person: str, audience: Any) -> set[Witness]:
        found: set[Witness] = set()
        for group in audience.groups:
            if not self.group(person, group):
                continue
            for c in group.conditions:
                if type(c).__name__ == "EntityCondition" and c.with_entity and self.condition(person, c):
                    for row in self.top_rows(person, c):
                        found |= set(self.witnesses(person, c.with_entity, row, c, None, {}))
        return found

    def witnesses(self, person: str, path: str, row: Row, c: Any, parent: str | None, above: dict[str, Row]) -> Iterator[Witness]:
        node = self.nodes[path]
        identity = str(row[node.entity.primary_key.lower()])
        yield person, path, identity, parent
        branch = {**above, path: row}
        for nested in c.nested.conditions if c.nested else ():
            children = self.below(person, path, branch, nested)
            if nested.with_entity and self.enough(nested, children, None):
                for child in children:
                    yield from self.witnesses(person, f"{path}:{nested.with_entity}", child, nested, identity, branch)

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
        node = self.nodes[slug]
        join = node.join
        found = []
        for row in self.table(node.entity.table_ref):
            key = row[join.join_key.lower()]
            if key is None:
                continue
            if type(join).__name__ == "ExternalIdJoin":
                mine = self.identifiers.get((join.type, str(key))) == person
            else:
                value = self.trait(person, join.name)
                mine = value is not None and (str(int(value)) if isinstance(value, float) else str(value)) == str(key)
            if mine and self.passes(person, slug, row, c, {}):
                found.append({**row, "__id": row[node.entity.primary_key.lower()]})
        return found

    def below(self, person: str, path: str, branch: dict[str, Row], c: Any) -> list[Row]:
        child, parent = f"{path}:{c.with_entity or c.without_entity}", branch[path]
        node = self.nodes[child]
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
            if joined and self.passes(person, child, row, c, branch):
                found.append({**row, "__id": row[node.entity.primary_key.lower()]})
        return found

    def same(self, a: Any, b: Any) -> bool:
        return a is not None and b is not None and str(a) == str(b)

    def passes(self, person: str, path: str, row: Row, c: Any, above: dict[str, Row]) -> bool:
        if row[self.nodes[path].entity.primary_key.lower()] is None:
            return False
        branch = {**above, path: row}
        if c.where:
            verdicts = [self.filter(person, path, row, f, branch) for f in (c.where.all or c.where.any)]
            if not (all(verdicts) if c.where.all else any(verdicts)):
                return False
        if c.nested:
            verdicts = [self.enough(n, self.below(person, path, branch, n), n.without_entity) for n in c.nested.conditions]
            return all(verdicts) if c.nested.match == "all" else any(verdicts)
        return True

    def filter(self, person: str, path: str, row: Row, f: Any, branch: dict[str, Row]) -> bool:
        value = row[f.column.lower()]
        if f.reference is None:
            return self.compare(value, f)
        if f.reference.trait is not None:
            return self.both(value, self.trait(person, f.reference.trait), str(f.operator), untyped=False)
        owner = row
        if f.reference.of is not None:
            (owner,) = (found for where, found in branch.items() if where.split(":")[-1] == f.reference.of)
        return self.both(value, owner[f.reference.column.lower()], str(f.operator), untyped=False)

    def events(self, person: str, c: Any) -> Iterator[Row]:
        for event in self._known(self.world.events):
            if event["segment_id"] is None or self.canonical[event["segment_id"]] != person:
                continue
            if event["event"] != (c.with_event or c.without_event):
                continue
            age = self.now - event["timestamp"]
            window = c.within or c.between
            unit = dt.timedelta(hours=1) if window and str(window.unit) == "hours" else dt.timedelta(days=1)
            if c.within and not dt.timedelta(0) <= age <= c.within.last * unit:
                continue
            if c.between and not c.between.to * unit <= age <= c.between.from_ * unit:
                continue
            if c.where:
                verdicts = [self.event_filter(person, event, f) for f in (c.where.all or c.where.any)]
                if not (all(verdicts) if c.where.all else any(verdicts)):
                    continue
            yield event

    def event_filter(self, person: str, event: Row, f: Any) -> bool:
        value: Any = event["properties"] if f.property is not None else event["context"]
        for key in (f.property or f.context).split("."):
            value = value.get(key) if isinstance(value, dict) else None
        # What a document holds is text, as its JSON says it.
        text = None if value is None else value if isinstance(value, str) else json.dumps(value)
        if f.reference is None:
            return self.compare(text, f)
        return self.both(text, self.trait(person, f.reference.trait), str(f.operator), untyped=True)

    # -- operators

    def both(self, value: Any, other: Any, operator: str, *, untyped: bool) -> bool:
        """A comparison of two values; of an untyped side by the type of the other."""
        if operator == "omits":
            return not self.both(value, other, "contains", untyped=untyped)
        if value is None or other is None:
            return False
        if operator in ("contains", "starts_with", "ends_with"):
            return {"contains": other in value, "starts_with": value.startswith(other), "ends_with": value.endswith(other)}[
                operator
            ]
        if isinstance(value, dt.time):
            return self.ordered(value, other, operator)
        pairs = [(self.number(value), self.number(other)), (self.instant(value), self.instant(other))]
        if isinstance(value, str) and (not untyped or operator in ("equals", "differs")):
            pairs.append((value, other if isinstance(other, str) else None))
        if not untyped and isinstance(value, str):
            pairs = pairs[2:]  # a column of texts
        for left, right in pairs:
            if left is not None and right is not None:
                return self.ordered(left, right, operator)
        return False

    def number(self, value: Any) -> float | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
            return float(value)
        return None

    def instant(self, value: Any) -> dt.datetime | None:
        if isinstance(value, dt.datetime):
            return value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
        if isinstance(value, dt.date):
            return dt.datetime(value.year, value.month, value.day)
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)", value):
            return dt.datetime.fromisoformat(value).astimezone(dt.UTC).replace(tzinfo=None)
        return None

    def constant_instant(self, value: Any) -> dt.datetime:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        found = self.instant(moment)
        assert found is not None
        return found

    def ordered(self, left: Any, right: Any, operator: str) -> bool:
        return {
            "equals": left == right,
            "differs": left != right,
            "less_than": left < right,
            "at_most": left <= right,
            "greater_than": left > right,
            "at_least": left >= right,
        }[operator]

    def compare(self, value: Any, c: Any) -> bool:
        """A comparison with a constant. ``value`` is a column's, or the text of a trait or property."""
        operator, wanted = str(c.operator), c.value
        if operator == "absent":
            return value is None
        if operator == "omits":
            return value is None or wanted not in value
        if value is None:
            return False
        if operator == "exists":
            return True
        if c.amount is not None:
            moment = self.instant(value)
            span = dt.timedelta(hours=c.amount) if str(c.unit) == "hours" else dt.timedelta(days=c.amount)
            return (
                moment is not None
                and {
                    "within_last": self.now - span <= moment <= self.now,
                    "within_next": self.now <= moment <= self.now + span,
                    "before_last": moment <= self.now - span,
                    "after_next": moment >= self.now + span,
                }[operator]
            )
        if operator in ("before_date", "after_date"):
            moment, edge = self.instant(value), self.constant_instant(wanted)
            return moment is not None and (moment < edge if operator == "before_date" else moment > edge)
        if operator in ("starts_with", "ends_with"):
            return value.startswith(wanted) if operator == "starts_with" else value.endswith(wanted)
        if operator == "contains":
            return any(piece in value for piece in (wanted if isinstance(wanted, tuple) else (wanted,)))
        if operator in ("one_of", "none_of"):
            verdicts = [self.with_constant(value, one, "equals") for one in wanted]
            if None in verdicts:
                return False
            return any(verdicts) if operator == "one_of" else not any(verdicts)
        return bool(self.with_constant(value, wanted, operator))

    def with_constant(self, value: Any, wanted: Any, operator: str) -> bool | None:
        """None for a value that cannot be what the constant is."""
        if isinstance(value, dt.time):
            return self.ordered(value, dt.time.fromisoformat(wanted), operator)
        if isinstance(wanted, bool):
            return self.ordered(str(value).lower(), str(wanted).lower(), operator)
        left: Any = value
        right: Any = wanted
        if isinstance(wanted, (int, float)):
            left = self.number(value)
        elif isinstance(wanted, dt.date) or not isinstance(value, str) or operator not in ("equals", "differs"):
            left, right = self.instant(value), self.constant_instant(wanted)
        return None if left is None else self.ordered(left, right, operator)
