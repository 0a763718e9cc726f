"""Event traits as expressions: from definitions to (owner, value) rows, all of a space from one scan of the messages.

What belongs here: what each kind of trait means. What does not: which messages a trait looks at (``scan.py``), running, storing,
or what happens when one fails (``build.py``).

Rules of the kinds (Segment's, with ours where its pages are silent)
- Counters and unique counts: an owner that ever performed the event has a row, 0 when nothing is within the window.
- Sums and averages are exact decimal sums of nine places, so that a rebuild gives the same bits; amounts beyond 1e18 are no amounts.
- First and last go by the event's timestamp, then by received order.
- Most frequent needs ``min_frequency`` occurrences; a tie goes to the alphabetically first (of numbers: the smallest).
- A unique list is a JSON array of its distinct values as texts, in code point order.
- An event without the property, or whose value is not of the trait's type, is passed over.
- Of accounts: the same over the events of all who are members at ``as_of``, however long they have been.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.scan import (
    COUNTS_VALUES,
    FROM_ZERO,
    NUMBER,
    OWNER,
    PLACE,
    Needs,
    at_an_end,
    numbered,
    of_accounts,
    of_timestamp,
    running_session,
    scan,
    typed,
)
from cdp_assets.computed_traits.tables import ACCOUNT, PROFILE
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Space
from cdp_assets.space.trait_rules import TraitKind
from cdp_assets.unified_profiles.tables import memberships_as_of, newest_memberships_as_of, profiles_as_of, traits_as_of
from resources.warehouse import Warehouse
from resources.warehouse import functions as fn

Keep = Callable[[ir.Table], ir.Table]
"""What is read several times: the expression itself, or the table that it was staged into."""


@dataclass(frozen=True)
class TraitRows:
    """The values of one trait. rows: (owner, value_text, value_number), one of the two set, owners unique."""

    trait: Trait
    rows: ir.Table


def event_rows(warehouse: Warehouse, space: Space, traits: Sequence[Trait], as_of: dt.datetime, keep: Keep) -> list[TraitRows]:
    """The values of event traits at ``as_of``, those of accounts by group id, the others by canonical id. Raises ConditionError."""
    found: list[TraitRows] = []
    performed = [trait for trait in traits if trait.event]
    of_profiles = [trait for trait in performed if not trait.of_accounts]
    of_groups = [trait for trait in performed if trait.of_accounts]
    memberships = keep(memberships_as_of(warehouse, space.graph, as_of)) if any(t.of_accounts for t in traits) else None
    if performed:
        needs = Needs(tuple(performed))
        profiles = keep(numbered(profiles_as_of(warehouse, space.graph, as_of), PROFILE))
        scanned = keep(scan(warehouse, space, needs, profiles, as_of))
        if of_profiles:
            found += _of_owners(_Scan(scanned, profiles, needs, as_of, keep), of_profiles)
        if memberships is not None and of_groups:
            accounts = keep(numbered(memberships, ACCOUNT))
            members = _as_numbers(memberships, profiles, accounts)
            found += _of_owners(_Scan(keep(of_accounts(scanned, members)), accounts, needs, as_of, keep), of_groups)
    if memberships is not None:
        for trait in traits:
            if trait.user_trait:
                found.append(TraitRows(trait, _of_user_trait(warehouse, space, trait, memberships, as_of)))
    return found


def _as_numbers(memberships: ir.Table, profiles: ir.Table, accounts: ir.Table) -> ir.Table:
    """(member, account) as numbers of this build."""
    members = profiles.select(member=profiles[NUMBER], profile=profiles[OWNER])
    groups = accounts.select(account=accounts[NUMBER], name=accounts[OWNER])
    joined = memberships.join(members, memberships[PROFILE] == members["profile"]).select(ACCOUNT, "member")
    return joined.join(groups, joined[ACCOUNT] == groups["name"]).select("member", "account")


def of_members(warehouse: Warehouse, space: Space, rows: ir.Table, as_of: dt.datetime) -> ir.Table:
    """Rows of accounts as rows of their members, one each: (owner, value_text, value_number)."""
    members = newest_memberships_as_of(warehouse, space.graph, as_of)
    members = members.select(member=members[PROFILE], account=members["group_id"])
    joined = members.join(rows, members["account"] == rows[OWNER])
    return joined.select("member", "value_text", "value_number").rename(**{OWNER: "member"})


# -- aggregates ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scan:
    """The messages that traits look at, and whose they are. rows: of :func:`scan`, or narrowed; owners: (owner, number)."""

    rows: ir.Table
    owners: ir.Table
    needs: Needs
    as_of: dt.datetime
    keep: Keep

    def named(self, table: ir.Table) -> ir.Table:
        """A table by number with the owners themselves, read several times."""
        return self.keep(table.join(self.owners, NUMBER))


def _of_owners(scan: _Scan, traits: Sequence[Trait]) -> Iterator[TraitRows]:
    """All traits of one level over their scan: those that look at any time together, and those of each session together."""
    needs, rows = scan.needs, scan.rows
    columns = [needs.performed[event] for event in Needs(tuple(traits)).performed]
    anytime = [trait for trait in traits if not trait.session]
    wide = scan.named(_wide(rows, anytime, needs, {column: rows.count(where=rows[column]) for column in columns}))

    def ever(trait: Trait) -> ir.Table:
        return wide.filter(wide[needs.performed[trait.event or ""]] > 0)

    for found in _of_wide(scan, wide, anytime):
        kept = ever(found.trait) if found.trait.kind is TraitKind.event_counter else None
        yield found if kept is None else TraitRows(found.trait, as_rows(kept, found.trait, kept[_column(found.trait)]))
    yield from _of_values(scan, anytime, ever)
    for look in dict.fromkeys(needs.look_of(trait) for trait in traits if trait.session):
        together = [trait for trait in traits if trait.session and needs.look_of(trait) == look]
        session = together[0].session
        assert session is not None
        running = replace(scan, rows=scan.keep(running_session(rows, look, session, scan.as_of)))
        narrow = scan.named(_wide(running.rows, together, needs, {}))
        for found in _of_wide(running, narrow, together):
            yield _from_zero(found, ever(found.trait)) if found.trait.kind is TraitKind.event_counter else found
        yield from _of_values(running, together, ever)


def _wide(rows: ir.Table, traits: Sequence[Trait], needs: Needs, others: dict[str, ir.Scalar]) -> ir.Table:
    """One row per owner: the value of each trait that is a plain aggregate, the instant of each first and last, and ``others``."""
    plain = {_column(trait): _aggregate(rows, trait, needs) for trait in traits if trait.kind not in COUNTS_VALUES}
    # Also when nothing is asked of them: who is there at all is.
    return rows.group_by(NUMBER).aggregate(**plain, **others)


def _of_wide(scan: _Scan, wide: ir.Table, traits: Sequence[Trait]) -> Iterator[TraitRows]:
    ends = [trait for trait in traits if at_an_end(trait)]
    if ends:
        at_ends = scan.named(_at_ends(scan.rows, wide, ends, scan.needs))
        yield from (TraitRows(trait, as_rows(at_ends, trait, at_ends[_column(trait)])) for trait in ends)
    for trait in traits:
        if trait.kind not in COUNTS_VALUES and not at_an_end(trait):
            yield TraitRows(trait, as_rows(wide, trait, wide[_column(trait)]))


def _column(trait: Trait) -> str:
    # A key may be any word, also one of ours.
    return f"trait_{trait.key}"


def _aggregate(rows: ir.Table, trait: Trait, needs: Needs) -> ir.Scalar:
    """The value of a trait over one owner's rows of the scan, NULL for none; of a first or last property, its instant."""
    looked = rows[needs.look_of(trait)]
    if trait.kind is TraitKind.event_counter:
        return rows.count(where=looked)
    if of_timestamp(trait):
        return fn.iso_text(_end(rows, trait, looked))
    if trait.function in ("sum", "avg"):
        amount = _only(rows[needs.amounts[trait.property or ""]], looked)
        total = amount.sum().cast("float64")
        return total if trait.function == "sum" else total / amount.count().nullif(0)
    value = rows[needs.value_of(trait) or ""]
    if at_an_end(trait):
        return _end(rows, trait, looked & value.notnull())
    seen = _only(value, looked)
    return seen.min() if trait.function == "min" else seen.max()


def _end(rows: ir.Table, trait: Trait, looked: ir.BooleanValue) -> ir.Scalar:
    at = _only(rows["at"], looked)
    return at.min() if trait.kind is TraitKind.first else at.max()


def _only(value: ir.Column, wanted: ir.BooleanValue) -> ir.Column:
    """The value where it is wanted, else NULL: of many aggregates DuckDB makes these faster than as many with a filter each."""
    return ibis.ifelse(wanted, value, ibis.null(value.type()))


def _at_ends(rows: ir.Table, wide: ir.Table, traits: Sequence[Trait], needs: Needs) -> ir.Table:
    """The properties of the first and last events: of one instant, of the first and last in received order.

    Going back for the few rows at the ends costs less than to sort every history.
    """
    instants = wide.select(whose=wide[NUMBER], **{_column(trait): wide[_column(trait)] for trait in traits})
    joined = rows.join(instants, rows[NUMBER] == instants["whose"])

    def at_end(table: ir.Table, trait: Trait) -> ir.BooleanValue:
        looked = table[needs.look_of(trait)] & table[needs.value_of(trait) or ""].notnull()
        return looked & (table["at"] == table[_column(trait)])

    kept = joined.filter(ibis.or_(*(at_end(joined, trait) for trait in traits)))
    found = {}
    for trait in traits:
        value = kept[needs.value_of(trait) or ""]
        pick = value.argmin if trait.kind is TraitKind.first else value.argmax
        found[_column(trait)] = pick(kept[PLACE], where=at_end(kept, trait))
    return kept.group_by(NUMBER).aggregate(**found)


def _from_zero(rows: TraitRows, ever: ir.Table) -> TraitRows:
    """The rows of a count, and 0 for all others of ``ever``: (owner, …)."""
    some = rows.rows.select(counted=rows.rows[OWNER], number="value_number")
    joined = ever.select(OWNER).left_join(some, ever[OWNER] == some["counted"]).select(OWNER, "number")
    return TraitRows(rows.trait, as_rows(joined, rows.trait, joined["number"].fill_null(0)))


# -- kinds that count values ---------------------------------------------------------------------------------------------


def _of_values(scan: _Scan, traits: Sequence[Trait], ever: Callable[[Trait], ir.Table]) -> Iterator[TraitRows]:
    """Traits over the values of a property: how often each occurs in each of their looks is counted once per property."""
    counting = [trait for trait in traits if trait.kind in COUNTS_VALUES]
    for column in dict.fromkeys(scan.needs.value_of(trait) or "" for trait in counting):
        together = [trait for trait in counting if scan.needs.value_of(trait) == column]
        found = scan.named(_of_column(scan, column, together))
        for trait in together:
            made = TraitRows(trait, as_rows(found, trait, found[_column(trait)]))
            yield _from_zero(made, ever(trait)) if trait.kind in FROM_ZERO else made


def _of_column(scan: _Scan, column: str, traits: Sequence[Trait]) -> ir.Table:
    """One row per owner, by number, with the value of each trait."""
    rows = scan.rows
    times = {trait.key: f"times_{scan.needs.look_of(trait)}" for trait in traits}
    looks = dict.fromkeys(scan.needs.look_of(trait) for trait in traits)
    seen = rows.filter(rows[column].notnull() & ibis.or_(*(rows[look] for look in looks)))
    counts = seen.group_by(NUMBER, value=seen[column]).aggregate(
        **{f"times_{look}": seen.count(where=seen[look]) for look in looks}
    )
    if any(trait.kind is TraitKind.unique_list for trait in traits):
        counts = counts.mutate(element=fn.json_inside(counts["value"]))
    counts = scan.keep(counts)
    often = dict.fromkeys(times[trait.key] for trait in traits if trait.kind is TraitKind.most_frequent)
    if often:
        most = counts.group_by(whose=counts[NUMBER]).aggregate(**{f"most_{name}": counts[name].max() for name in often})
        counts = counts.join(most, counts[NUMBER] == most["whose"])
    return counts.group_by(NUMBER).aggregate(**{_column(trait): _of_counts(counts, trait, times[trait.key]) for trait in traits})


def _of_counts(counts: ir.Table, trait: Trait, times: str) -> ir.Scalar:
    """The value of a trait over one owner's values and how often each occurs."""
    value, number = counts["value"], counts[times]
    if trait.kind is TraitKind.unique_list_count:
        return counts.count(where=number > 0)
    if trait.kind is TraitKind.most_frequent:
        return value.min(where=(number == counts[f"most_{times}"]) & (number >= trait.min_frequency))
    element = ibis.ifelse(number > 0, counts["element"], ibis.null("string"))
    listed = ibis.literal('["') + fn.sorted_join(element, '","') + ibis.literal('"]')
    return ibis.ifelse(counts.count(where=number > 0) > 0, listed, ibis.null("string"))


def _of_user_trait(warehouse: Warehouse, space: Space, trait: Trait, memberships: ir.Table, as_of: dt.datetime) -> ir.Table:
    """The value that most members of each account have of a trait from identify calls."""
    traits = traits_as_of(warehouse, space.graph, as_of)
    traits = traits.filter(traits.name == trait.user_trait)
    traits = traits.select(whose=traits[PROFILE], value=typed(traits.value, trait.value_type))
    joined = memberships.join(traits, memberships[PROFILE] == traits["whose"]).select("group_id", "value")
    joined = joined.filter(joined["value"].notnull())
    counts = joined.group_by(**{OWNER: joined["group_id"]}, value=joined["value"]).aggregate(times=joined.count())
    counts = counts.mutate(most_times=counts["times"].max().over(ibis.window(group_by=OWNER)))
    found = counts.group_by(OWNER).aggregate(best=_of_counts(counts, trait, "times"))
    return as_rows(found, trait, found["best"])


def as_rows(table: ir.Table, trait: Trait, value: ir.Value) -> ir.Table:
    """(owner, value_text, value_number) of those that have a value."""
    columns: dict[str, Any] = {"value_text": ibis.null("string"), "value_number": ibis.null("float64")}
    if trait.value_type == "number":
        columns["value_number"] = value.cast("float64")
    else:
        columns["value_text"] = value
    rows = table.select(OWNER, **columns)
    return rows.filter(rows["value_number" if trait.value_type == "number" else "value_text"].notnull())
