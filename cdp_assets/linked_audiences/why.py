"""Why a profile is in an audience, or is not: the condition tree with its verdicts, the rows that decide, and what changed since.

What the rows say comes from the warehouse (``evidence.py``), what follows from them from ``verdicts.py``; this module asks, and puts the
answer in words (``explanation.py``). Nothing is written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.linked_audiences.describe import Line, condition_lines, lines_of, trail_text
from cdp_assets.linked_audiences.entities import PROFILE
from cdp_assets.linked_audiences.evidence import gather
from cdp_assets.linked_audiences.explanation import Cited, Flip, Node, Since, Why, instant_text
from cdp_assets.linked_audiences.preview import plain, trait_at
from cdp_assets.linked_audiences.sql import counting_sql
from cdp_assets.linked_audiences.tables import BUILDS, SCHEMA, stored_members
from cdp_assets.linked_audiences.verdicts import (
    COUNT,
    TARGET,
    WINDOW,
    Atom,
    Evidence,
    Judge,
    Leaf,
    Row,
    decisive,
    filter_places,
    missing,
    nested_place,
    positive,
)
from cdp_assets.space.builds import built_with
from cdp_assets.space.conditions import filters_of
from cdp_assets.space.documents import Place
from cdp_assets.space.masking import looks_personal, mask_value
from cdp_assets.space.models.audiences import (
    Audience,
    AudienceCondition,
    Comparison,
    Condition,
    EntityCondition,
    EventCondition,
    TraitCondition,
)
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.revisions import audience_revision, audience_slice, explain_revision_change
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import (
    canonical_ids_as_of,
    consent_as_of,
    events_as_of,
    find_profile,
    identifiers_as_of,
    traits_as_of,
)
from resources.warehouse import Warehouse, timestamp_literal

InlineTraits = Callable[[dt.datetime], Callable[[str], ir.Table]]
"""as_of -> (trait key -> its values computed in place)."""
_VALUES_SHOWN = 3
_CHANGES_SHOWN = 5
_MANY = 10_000


def why(
    warehouse: Warehouse,
    space: Space,
    key: str,
    profile: str,
    as_of: dt.datetime,
    *,
    since: dt.datetime | None = None,
    inline_traits: InlineTraits | None = None,
    show_personal: bool = False,
) -> Why:
    """Why ``profile`` (a segment_id, also a merged one, or TYPE:VALUE) is in audience ``key`` at ``as_of``, or is not.

    ``since``: an earlier instant to compare with. Raises ConditionError for a profile that nobody knew by then, and for what does not fit
    graph, tables or types; MissingTableError.
    """
    asking = _Asking(warehouse, space, key, inline_traits, show_personal)
    now = asking.at(profile, as_of)
    if now is None:
        raise ConditionError(
            f"nobody was known by that as of {instant_text(as_of)}",
            "give a segment_id, or an identifier as TYPE:VALUE, e.g. email:a@b.c",
        )
    member = now.judge.is_member(key)
    lacking = [] if member or now.suppressed else missing(now.judge, key)
    return Why(
        key,
        now.profile,
        as_of,
        member,
        now.suppressed,
        asking.tree(now),
        asking.cited(now, decisive(now.judge, key)) if member else (),
        tuple(asking.leaf_text(leaf) for leaf in lacking),
        asking.consent(now),
        asking.built(now),
        None if since is None else asking.since(profile, now, since),
    )


@dataclass(frozen=True)
class _Then:
    """A profile at an instant."""

    profile: str
    as_of: dt.datetime
    suppressed: bool
    judge: Judge


@dataclass(frozen=True)
class _Asking:
    warehouse: Warehouse
    space: Space
    key: str
    inline_traits: InlineTraits | None
    show_personal: bool

    @property
    def audience(self) -> Audience:
        return self.space.audiences[self.key]

    # -- who -------------------------------------------------------------------------------------------------------------

    def at(self, profile: str, as_of: dt.datetime) -> _Then | None:
        """The profile with its evidence; None when nobody was known by that."""
        canonical = find_profile(self.warehouse, self.space.graph, profile, as_of)
        if canonical is None:
            return None
        inline = self.inline_traits(as_of) if self.inline_traits is not None else None
        found = gather(
            self.warehouse,
            self.space,
            self.key,
            as_of,
            [canonical],
            trait_values=lambda trait: trait_at(self.warehouse, trait, as_of, inline),
        )
        # Who is suppressed is nobody to an audience, so there is no evidence either: all that can be said is that.
        evidence = found.get(canonical)
        suppressed = evidence is None
        if evidence is None:
            evidence = {one: Evidence(exists=False) for one in self.space.audiences}
        return _Then(canonical, as_of, suppressed, Judge(self.space.audiences, evidence))

    # -- the tree --------------------------------------------------------------------------------------------------------

    def tree(self, now: _Then, key: str | None = None) -> Node:
        """The conditions with their verdicts."""
        key = key or self.key
        audience = self.space.audiences[key]
        verdicts = {} if now.suppressed else dict(_verdicts(now.judge, key, audience))

        def node(line: Line) -> Node:
            below = tuple(node(child) for child in line.below)
            if now.suppressed or line.place not in verdicts:
                return Node(line.text, line.place, any(child.holds for child in below), below=below)
            verdict = verdicts[line.place]
            if verdict.audience is not None:
                below = (self.tree(now, verdict.audience),)
            values = () if verdict.comparison is None else self._values(verdict)
            query = self._query(now, key, line.place) if verdict.counts else None
            return Node(line.text, line.place, verdict.holds, verdict.rows, verdict.passing, values, query, below)

        return node(condition_lines(self.space, audience))

    def _values(self, verdict: _Verdict) -> tuple[Any, ...]:
        assert verdict.comparison is not None
        value = verdict.comparison.value
        named = set(value) if isinstance(value, tuple) else {value}
        shown = [plain(one, named, self.show_personal) for one in dict.fromkeys(verdict.values) if one is not None]
        return (*shown[:_VALUES_SHOWN], *(["…"] if len(shown) > _VALUES_SHOWN else []))

    def _query(self, now: _Then, key: str, place: Place) -> str:
        return counting_sql(self.space, key, place, self.warehouse, now.as_of, now.profile)

    # -- what decides ----------------------------------------------------------------------------------------------------

    def cited(self, now: _Then, atoms: Iterable[Atom]) -> tuple[Cited, ...]:
        """Evidence in words."""
        wanted = list(atoms)
        origins = self._origins(now, wanted)
        described = _rows_by_atom(now.judge.evidence)
        found = []
        for atom in wanted:
            through = origins.get(atom)
            found.append(Cited(atom[0], self._atom_text(atom, described), through if through != now.profile else None))
        return tuple(found)

    def _atom_text(self, atom: Atom, described: Mapping[Atom, Row]) -> str:
        match atom:
            case ("row", table, key):
                return f"row {self._shown(key)} of {table}"
            case ("link", table, left, right):
                return f"row of {table} that joins {self._shown(left)} and {self._shown(right)}"
            case ("identifier", kind, value):
                return f"identifier {kind} {value if self.show_personal else mask_value(value)}"
            case ("event", message):
                at = described[atom].at if atom in described else None
                return f"event {message}" + (f" at {at.isoformat()}Z" if at is not None else "")
        return f"trait {atom[1]}"

    def _shown(self, key: str) -> str:
        return mask_value(key) if looks_personal(key) and not self.show_personal else key

    def _origins(self, now: _Then, atoms: Iterable[Atom]) -> dict[Atom, str]:
        """The profile that each piece belonged to before merges."""
        warehouse, graph = self.warehouse, self.space.graph
        ids = canonical_ids_as_of(warehouse, graph, now.as_of)
        if warehouse.count(ids.filter(ids.canonical_segment_id == now.profile)) < 2:
            return {}
        wanted = set(atoms)
        found: dict[Atom, str] = {}
        kinds = {atom[0] for atom in wanted}
        mine = lambda table: table.filter(table[PROFILE] == now.profile)  # noqa: E731
        if "identifier" in kinds:
            for row in warehouse.rows(mine(identifiers_as_of(warehouse, graph, now.as_of)), _MANY):
                found["identifier", row["type"], row["value"]] = row["segment_id"]
        if "trait" in kinds:
            for row in warehouse.rows(mine(traits_as_of(warehouse, graph, now.as_of)).select("name", "segment_id"), _MANY):
                if row["name"] not in self.space.traits:
                    found["trait", row["name"]] = row["segment_id"]
        if "event" in kinds:
            events = mine(events_as_of(warehouse, graph, now.as_of))
            events = events.filter(events.message_id.isin(sorted(atom[1] for atom in wanted if atom[0] == "event")))
            for row in warehouse.rows(events, _MANY):
                found["event", row["message_id"]] = row["segment_id"]
        return {atom: segment for atom, segment in found.items() if atom in wanted}

    def leaf_text(self, leaf: Leaf) -> str:
        """A failing leaf in words, with what stands above it."""
        key, place = leaf
        audience = self.space.audiences[key]
        ending, stem = (place[-1], place[:-1]) if place[-1] in (COUNT, WINDOW, TARGET) else (None, place)
        if ending == TARGET:
            text = f"a row of {audience.target_entity} among those that match"
        else:
            text = trail_text(condition_lines(self.space, audience), stem)
        text = {COUNT: f"{text}: there are too few at all", WINDOW: f"{text}: within that time"}.get(str(ending), text)
        return text if key == self.key else f"{text} (audience {key})"

    # -- around it ---------------------------------------------------------------------------------------------------------

    def consent(self, now: _Then) -> dict[str, str]:
        """Category -> true, false or conflict, of the space's categories."""
        categories = self.space.config.category_ids
        if not categories:
            return {}
        states = consent_as_of(self.warehouse, self.space.graph, now.as_of)
        rows = self.warehouse.rows(states.filter(states[PROFILE] == now.profile).select("category", "value"), _MANY)
        given = {row["category"]: row["value"] for row in rows}
        return {category: given.get(category, "false") for category in categories}

    def built(self, now: _Then) -> dict[str, Any] | None:
        """The newest build until then, and whether the profile, or one that it took in, is a member in it."""
        if not self.warehouse.has(BUILDS.ref):
            return None
        builds = self.warehouse.table(BUILDS.ref)
        mine = builds.filter((builds.asset == self.key) & (builds.as_of <= timestamp_literal(now.as_of)))
        rows = self.warehouse.rows(mine.order_by(ibis.desc("as_of")), 1)
        if not rows:
            return None
        stored = stored_members(self.warehouse, self.key, rows[0]["partition_key"])
        ids = canonical_ids_as_of(self.warehouse, self.space.graph, now.as_of)
        parts = ids.filter(ids.canonical_segment_id == now.profile).segment_id
        return {
            "partition": rows[0]["partition_key"],
            "as_of": instant_text(rows[0]["as_of"].replace(tzinfo=dt.UTC)),
            "member": self.warehouse.count(stored.filter(stored[PROFILE].isin(parts))) > 0,
            "current_definition": rows[0]["revision"] == audience_revision(self.space, self.key),
        }

    def since(self, profile: str, now: _Then, instant: dt.datetime) -> Since:
        """What is different from an earlier instant."""
        then = self.at(profile, instant)
        if then is None:
            nobody = {one: Evidence(exists=False) for one in self.space.audiences}
            then = _Then(now.profile, instant, False, Judge(self.space.audiences, nobody))
        return Since(
            instant, then.judge.is_member(self.key), tuple(self._flips(then, now)), tuple(self._definition_changes(instant))
        )

    def _flips(self, then: _Then, now: _Then) -> Iterator[Flip]:
        if then.profile != now.profile:
            yield Flip(f"the profile was {then.profile}", True, True, (f"it is part of {now.profile} now",))
        states = [side.judge.evidence[self.key].exists for side in (then, now)]
        if states[0] != states[1]:
            yield Flip("there is such a profile, not suppressed", states[0], states[1], ())
        if not all(states):
            return
        sides = [dict(_verdicts(side.judge, self.key, self.audience)) for side in (then, now)]
        for line in lines_of(condition_lines(self.space, self.audience)):
            if line.place is None or line.place not in sides[1]:
                continue
            was, holds = sides[0][line.place], sides[1][line.place]
            if was.holds != holds.holds:
                yield Flip(line.text, was.holds, holds.holds, tuple(self._because(line.place, then, now)))

    def _because(self, place: Place, then: _Then, now: _Then) -> Iterator[str]:
        """What of the evidence at or below a place came, went, or is judged otherwise."""
        before, after = (_standing(side.judge.evidence[self.key], place) for side in (then, now))
        described = _rows_by_atom({**then.judge.evidence, **now.judge.evidence})
        found = []
        for atom in sorted(before.keys() | after.keys()):
            if atom not in before:
                found.append(f"new: {self._atom_text(atom, described)}")
            elif atom not in after:
                found.append(f"gone: {self._atom_text(atom, described)}")
            elif before[atom] != after[atom]:
                found.append(f"now judged otherwise: {self._atom_text(atom, described)}")
        yield from found[:_CHANGES_SHOWN]
        if len(found) > _CHANGES_SHOWN:
            yield f"… and {len(found) - _CHANGES_SHOWN:,} more"

    def _definition_changes(self, instant: dt.datetime) -> list[str]:
        """What changed of the definition since the newest build until then."""
        if not self.warehouse.has(BUILDS.ref):
            return []
        builds = self.warehouse.table(BUILDS.ref)
        mine = builds.filter((builds.asset == self.key) & (builds.as_of <= timestamp_literal(instant)))
        rows = self.warehouse.rows(mine.order_by(ibis.desc("as_of")), 1)
        if not rows or rows[0]["revision"] == audience_revision(self.space, self.key):
            return []
        content = audience_slice(self.space, self.key)
        for built in built_with(self.warehouse, SCHEMA, self.key):
            if built["partition_key"] == rows[0]["partition_key"] and built["slice"]:
                return explain_revision_change(built["slice"], content)
        return ["it was another one, of which nothing is recorded"]


# -- verdicts by place ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Verdict:
    """``counts``: more rows would break it, so that what it rests on is a count. ``audience``: another one that it asks for."""

    holds: bool
    rows: int | None = None
    passing: int | None = None
    values: tuple[Any, ...] = ()
    comparison: Comparison | None = None
    counts: bool = False
    audience: str | None = None


def _verdicts(judge: Judge, key: str, audience: Audience) -> Iterator[tuple[Place, _Verdict]]:
    """The verdict of every place of an audience's tree, the whole first."""
    yield (), _Verdict(judge.is_member(key))
    for index, group in enumerate(audience.groups):
        yield ("groups", index), _Verdict(judge.group(key, index, group))
        for number, condition in enumerate(group.conditions):
            yield from _condition(judge, key, ("groups", index, "conditions", number), condition)


def _condition(judge: Judge, key: str, place: Place, condition: Condition) -> Iterator[tuple[Place, _Verdict]]:
    holds = judge.condition(key, place, condition)
    match condition:
        case TraitCondition():
            value = judge.evidence[key].traits[place].value
            yield place, _Verdict(holds, values=() if value is None else (value,), comparison=condition)
        case AudienceCondition():
            yield place, _Verdict(holds, audience=condition.audience)
        case EntityCondition() | EventCondition():
            rows = judge.evidence[key].rows[place]
            yield place, replace(_counted(judge, key, place, condition, rows), holds=holds)
            yield from _within(judge, key, place, condition, rows)


def _counted(judge: Judge, key: str, place: Place, condition: EntityCondition | EventCondition, rows: list[Row]) -> _Verdict:
    passing = len(judge.passing(key, place, condition, rows))
    return _Verdict(False, len({row.key for row in rows}), passing, counts=not positive(condition))


def _within(
    judge: Judge, key: str, place: Place, condition: EntityCondition | EventCondition, rows: list[Row]
) -> Iterator[tuple[Place, _Verdict]]:
    """Filters and nested conditions: whether some row meets them, and how many."""
    for number, (leaf, wanted) in enumerate(zip(filter_places(place, condition.where), filters_of(condition.where), strict=True)):
        meeting = {row.key for row in rows if judge.holds(row.filters[number])}
        values = tuple(row.filters[number].value for row in rows)
        yield leaf, _Verdict(bool(meeting), len({row.key for row in rows}), len(meeting), values, wanted)
    for index, child in enumerate(
        condition.nested.conditions if isinstance(condition, EntityCondition) and condition.nested else ()
    ):
        below = nested_place(place, index)
        candidates = [row for parent in rows for row in parent.below[index]]
        enough = any(judge.enough(key, below, child, parent.below[index]) for parent in rows)
        yield below, replace(_counted(judge, key, below, child, candidates), holds=enough)
        yield from _within(judge, key, below, child, candidates)


def _standing(evidence: Evidence, place: Place) -> dict[Atom, Any]:
    """What the evidence at or below a place says, comparable between two instants."""
    found: dict[Atom, Any] = {}
    for where, judgement in evidence.traits.items():
        if where[: len(place)] == place and judgement.needs:
            found[judgement.needs] = (judgement.value, judgement.holds)

    def walk(rows: Iterable[Row], here: Place) -> None:
        for row in rows:
            if here[: len(place)] == place or place[: len(here)] == here:
                said = (tuple(judgement.holds for judgement in row.filters), row.in_window)
                found.setdefault(row.atom, []).append(said)
                for atom in row.joined_by:
                    found.setdefault(atom, True)
                for index, below in row.below.items():
                    walk(below, nested_place(here, index))

    for where, rows in evidence.rows.items():
        walk(rows, where)
    return found


def _rows_by_atom(evidence: Mapping[str, Evidence]) -> dict[Atom, Row]:
    return {row.atom: row for one in evidence.values() for rows in one.rows.values() for row in rows}
