"""Whose keys a sync is about, and the people behind them: who an id stands for, who consents, who is suppressed."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import any_suppressions
from cdp_assets.space.models.activations import ColumnSubject, Consent
from cdp_assets.unified_profiles.tables import (
    ID_ALIASES,
    canonical_ids_as_of,
    consenting_as_of,
    merged_ids_as_of,
    profile_schema,
    suppressed_as_of,
)
from resources.warehouse import Warehouse

# Verdicts of the payload room that say that the person may not be sent to; the others say that the message may not go.
CLOSED_VERDICTS = ("consent", "suppressed")


# Stand for what varies between two syncs of one shape, so that their statements are compiled once (Warehouse.template).
_FAR = dt.datetime(1800, 1, 1, tzinfo=dt.UTC)
MARKS: Final[dict[str, Any]] = {
    "activation": "cdp:activation",
    "account": "cdp:account",
    "definition_revision": "cdp:definition-revision",
    "instant": "cdp:instant",
    "seq": 987_654_321_987_001,
    "as_of": _FAR,
    "consent_at": _FAR + dt.timedelta(days=1),
    "now": _FAR + dt.timedelta(days=2),
    "gave_up": _FAR + dt.timedelta(days=3),
}


@dataclass(frozen=True)
class Scope:
    """Whose keys, and as of when.

    ``as_of`` is the payloads', ``instant`` the same as messages write it; ``consent_at`` is the newest instant that is known about
    consent; what waits since before ``gave_up`` has waited too long. ``seq`` numbers the sync. ``rebase``: differences are recorded, not
    sent. ``desired``: without, nobody is wanted.
    """

    activation: str
    account: str
    unit: str
    consent: Consent
    graph: DataGraph | None
    as_of: dt.datetime
    instant: str
    consent_at: dt.datetime
    now: dt.datetime
    gave_up: dt.datetime
    definition_revision: str
    seq: int
    rebase: bool = False
    desired: bool = True

    @property
    def once(self) -> bool:
        """Whether units are events, which leave the payloads when a sync has dealt with them."""
        return self.unit == "event"

    @property
    def people(self) -> bool:
        """Whether units or subjects are people, so that merges and consent matter."""
        return self.unit != "row" or isinstance(self.consent.subject, ColumnSubject)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.consent.categories)

    @property
    def shape(self) -> tuple[Hashable, ...]:
        """All that decides how the statements of a sync read, but for the marks."""
        schema = profile_schema(self.graph) if self.graph is not None else None
        return (self.unit, self.people, self.categories, schema, self.rebase, self.desired)

    @property
    def marked(self) -> Scope:
        return dataclasses.replace(self, **MARKS)

    @property
    def values(self) -> dict[Any, Any]:
        """What each mark stands for."""
        return {mark: getattr(self, name) for name, mark in MARKS.items()}


class People:
    """Who an id stands for, who consents, and who is suppressed, as expressions. Asks the warehouse once what there is to look up."""

    def __init__(self, warehouse: Warehouse, scope: Scope) -> None:
        self.warehouse, self.scope = warehouse, scope
        self.graph = scope.graph if scope.people else None
        self.renamed = (
            self.graph is not None and warehouse.has(ID_ALIASES.ref) and warehouse.count(warehouse.table(ID_ALIASES.ref)) > 0
        )
        self.barring = self.graph is not None and any_suppressions(warehouse)
        # What was computed of them, for those who read them several times.
        self.agreed: ir.Table | None = None
        self.merged: dict[dt.datetime, ir.Table] = {}

    def current(self, table: ir.Table, column: str, at: dt.datetime, name: str) -> ir.Table:
        """``table`` with ``name``: whom the id in ``column`` stands for at ``at``, through renames and merges."""
        if self.graph is None:
            return table.mutate(**{name: table[column]})
        source = column
        if self.renamed:
            aliases = self.warehouse.table(ID_ALIASES.ref).select("old_segment_id", "new_segment_id")
            # Twice: a profile may have been renamed again.
            table = _resolved(_resolved(table, column, aliases, "renamed_id"), "renamed_id", aliases, "renamed_again_id")
            source = "renamed_again_id"
        table = _resolved(table, source, self.merged[at] if at in self.merged else self.merges(at), name)
        return table.drop("renamed_id", "renamed_again_id") if self.renamed else table

    def split(self, rows: ir.Table) -> ir.Table:
        """(split_id): people that were one at the last reconciliation and are not any more, both sides."""
        assert self.graph is not None
        drifted = rows.filter(rows.resolved_segment_id != rows.now_id).select("now_id", former="resolved_segment_id").distinct()
        # A merge or a rename leaves the former id pointing elsewhere; after an unmerge it is a person of its own.
        ids = canonical_ids_as_of(self.warehouse, self.graph, self.scope.as_of)
        own = ids.filter(ids.segment_id == ids.canonical_segment_id).select(own_id=ids.segment_id)
        apart = drifted.join(own, [("former", "own_id")])
        return apart.select(split_id=apart.now_id).union(apart.select(split_id=apart.former), distinct=True)

    def merges(self, at: dt.datetime) -> ir.Table:
        """(segment_id, canonical_segment_id): who is part of somebody else at ``at``."""
        assert self.graph is not None
        return merged_ids_as_of(self.warehouse, self.graph, at)

    def consenting(self) -> ir.Table:
        """(open_id): who consents as of the newest instant that is known about consent."""
        assert self.graph is not None
        agreed = consenting_as_of(self.warehouse, self.graph, self.scope.categories, self.scope.consent_at)
        return agreed.select(open_id="canonical_segment_id")

    def with_consent(self, table: ir.Table, *, few: bool = False) -> ir.Table:
        """``table`` with ``subject_id`` (its ``now_id`` as of the newest consent), ``closed`` and ``closed_reason``; it has ``verdict``.

        ``few``: most people are in no row of the table.
        """
        closed = table.verdict.isin(list(CLOSED_VERDICTS))
        if self.graph is None:
            return table.mutate(subject_id=ibis.null("string"), closed=closed, closed_reason=table.verdict)
        known = list(table.columns)
        table = self.current(table, "now_id", self.scope.consent_at, "subject_id")
        closed = table.verdict.isin(list(CLOSED_VERDICTS))
        reason = ibis.ifelse(closed, table.verdict, "consent")
        if self.scope.categories:
            agreed = self.agreed if self.agreed is not None else self.consenting()
            if few:  # a set of those asked for, not of everybody
                agreed = agreed.semi_join(table, [("open_id", "subject_id")])
            # Asked for, not joined: a join may carry all of the table's columns from one side to the other.
            consents = ibis.coalesce(table.subject_id.isin(agreed.open_id), False)
            # A row without a person is the payload room's to judge (no_subject), it is not a withdrawal.
            closed = closed | (~consents & table.subject_id.notnull())
        if self.barring:
            table = table.select(*known, "subject_id", closed=closed, closed_reason=reason)
            barred = suppressed_as_of(self.warehouse, self.graph, self.scope.consent_at)
            table = table.left_join(barred.select(suppressed_id="canonical_segment_id"), [("subject_id", "suppressed_id")])
            found = table.suppressed_id.notnull()
            closed, reason = table.closed | found, ibis.ifelse(found, "suppressed", table.closed_reason)
        return table.select(*known, "subject_id", closed=closed, closed_reason=reason).view()


def _resolved(table: ir.Table, column: str, mapping: ir.Table, name: str) -> ir.Table:
    """``table`` with ``name``: what ``mapping`` (id, current id) says of the id in ``column``; one that it does not know stands for itself."""
    known = list(table.columns)
    before, after = mapping.columns
    pairs = mapping.select(**{f"{name}_before": mapping[before], f"{name}_after": mapping[after]})
    joined = table.left_join(pairs, [(column, f"{name}_before")])
    # As a relation of its own: Ibis would add a further join to this one, where computed columns cannot be joined on.
    return joined.select(*known, **{name: ibis.coalesce(joined[f"{name}_after"], joined[column])}).view()


def sendable(warehouse: Warehouse, graph: DataGraph, categories: Sequence[str], at: dt.datetime, ids: Sequence[str]) -> set[str]:
    """Of these canonical ids, those who consent to all categories at ``at`` and are not suppressed."""
    agreed = consenting_as_of(warehouse, graph, categories, at)
    agreed = agreed.filter(agreed.canonical_segment_id.isin(list(ids)))
    if any_suppressions(warehouse):
        agreed = agreed.anti_join(suppressed_as_of(warehouse, graph, at), "canonical_segment_id")
    return {row["canonical_segment_id"] for row in warehouse.rows(agreed.distinct(), len(ids) + 1)}
