"""The keys that a sync considers, and the facts about each: desired payloads against the ledger, after merge resolution.

First the keys are set aside about which there is nothing to say, most of them in a usual sync. Of the others, one expression: the
ledger's people are brought up to date (aliases, merges), several rows of one person are told apart (the one with the current destination
key, the others), consent is looked up, and all of it is joined in full with the payloads. What follows from the facts is in
:mod:`states`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence

import ibis
import ibis.expr.types as ir

from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.destination_syncs.people import People, Scope
from cdp_assets.destination_syncs.states import Outcome, maybe
from cdp_assets.destination_syncs.tables import LEDGER
from cdp_assets.unified_profiles.tables import profile_sources
from resources.warehouse import Warehouse, timestamp_literal

# What the facts need of a ledger row.
_NEEDED = (
    *(
        "unit",
        "destination_key",
        "segment_id",
        "path",
        "entity_id",
        "row_key",
        "resolved_segment_id",
        "present",
        "held",
        "episode",
    ),
    *("confirmed_hash", "attempted_hash", "definition_revision", "operation", "status", "uncertain", "reason", "attempts"),
    *("first_attempt_at", "not_before", "seq"),
)


def ledger_rows(warehouse: Warehouse, people: People, columns: Sequence[str] = _NEEDED) -> ir.Table:
    """The activation's ledger rows at the account, with ``now_id`` (the person now) and ``now_unit`` (the unit now)."""
    scope, ledger = people.scope, warehouse.table(LEDGER.ref)
    rows = ledger.filter(ledger.activation == scope.activation, ledger.account == scope.account).select(*columns)
    rows = people.current(rows, "segment_id", scope.as_of, "now_id")
    if scope.unit in ("row", "event"):
        unit = rows.row_key
    elif scope.unit == "entity":
        unit = rows.now_id.concat("|", rows.path, "|", rows.entity_id)
    else:
        unit = rows.now_id
    return rows.mutate(now_unit=unit)


def drifted_rows(warehouse: Warehouse, people: People) -> ir.Table:
    """Whole ledger rows whose person has changed since the last reconciliation, with the new ``resolved_segment_id``."""
    rows = ledger_rows(warehouse, people, tuple(LEDGER.columns))
    drifted = rows.filter(rows.resolved_segment_id != rows.now_id).mutate(resolved_segment_id=rows.now_id)
    return drifted.select(*LEDGER.columns)


def _desired(warehouse: Warehouse, scope: Scope) -> ir.Table:
    payloads = warehouse.table(PAYLOADS.ref)
    rows = payloads.filter(payloads.activation == scope.activation)
    if not scope.desired:
        rows = rows.filter(ibis.literal(False))
    return rows.select(
        d_unit=rows.unit,
        d_key=rows.destination_key,
        d_ok=rows.verdict == "ok",
        d_verdict=rows.verdict,
        d_detail=rows.detail,
        d_segment_id=rows.canonical_segment_id,
        d_path=rows.path,
        d_entity_id=rows.entity_id,
        d_row_key=rows.row_key,
        d_hash=rows.payload_hash,
    )


def _told_apart(ledger: ir.Table, desired: ir.Table) -> ir.Table:
    """Ledger rows with what they are to their unit: ``head`` (of several inside, the one that stays), ``loser``, ``shadow``."""
    known = list(ledger.columns)
    wanted = desired.select(w_unit=desired.d_unit, w_key=desired.d_key, w_ok=desired.d_ok)
    rows = ledger.left_join(wanted, [("now_unit", "w_unit")])
    inside = rows.present | maybe(rows)
    on_key = ibis.coalesce(rows.destination_key == rows.w_key, False)
    order = [ibis.desc(inside), ibis.desc(on_key), ibis.desc(rows.seq), rows.unit, rows.destination_key]
    same_key = [ibis.desc(inside), ibis.desc(rows.held), ibis.desc(rows.seq), rows.unit]
    rows = rows.select(
        *known,
        inside=inside,
        replaced=ibis.ifelse(ibis.coalesce(rows.w_ok, False), ~on_key, ibis.null("boolean")),
        place=ibis.row_number().over(group_by=[rows.now_unit], order_by=order),
        # The copy that matters most comes first.
        copy=ibis.row_number().over(group_by=[rows.now_unit, rows.destination_key], order_by=same_key),
    )
    return rows.select(
        *known,
        head=rows.inside & (rows.place == 0),
        loser=rows.inside & ibis.coalesce(rows.replaced, rows.place > 0),
        shadow=rows.copy > 0,
    )


def _keyed(desired: ir.Table, ledger: ir.Table) -> ir.Table:
    """Desired rows with the key that they are matched by, and whether their person is in under another one.

    A message that may not go leaves its unit where it is, so its key is the one that the unit has.
    """
    heads = ledger.filter(ledger["head"]).select(h_unit="now_unit", h_key="destination_key", h_episode="episode")
    rows = desired.left_join(heads, [("d_unit", "h_unit")])
    key = ibis.ifelse(rows.d_ok, rows.d_key, ibis.coalesce(rows.h_key, rows.d_key, ""))
    moved = rows.d_ok & rows.h_key.notnull() & (rows.h_key != rows.d_key)
    known = list(desired.columns)
    return rows.select(
        *known, match_key=key, d_moved=ibis.coalesce(moved, False), d_episode=ibis.coalesce(rows.h_episode, 0)
    ).view()


class Reconciliation:
    """The two sides of one sync, payloads and ledger, and the statements about them.

    ``loud`` are the units of which there may be something to say, ``still`` counts the keys of the others: each is in with the message
    that it should have, consents, and is the only key of its unit. ``rows`` is the ledger's side of the loud ones, computed once: merges
    resolved, consent looked up, rows of one person told apart. Open it with :func:`reconciliation`. Expressions are over a scope of marks;
    :meth:`template` puts the sync's own values in.
    """

    def __init__(self, warehouse: Warehouse, scope: Scope) -> None:
        self.warehouse, self.real, self.scope = warehouse, scope, scope.marked
        self.people = People(warehouse, self.scope)
        self.loud: ir.Table | None = None
        self.still = 0
        self.found: ir.Table | None = None
        self.wishes: ir.Table | None = None
        self.rows: ir.Table | None = None

    def template(self, name: str, build: Callable[[], ir.Table], *shape: Hashable) -> ir.Table:
        """The statement ``name``. ``shape``: what it depends on besides the scope's shape."""
        sources = profile_sources(self.warehouse, self.scope.graph)
        apart = self.loud is not None
        key = ("destination_syncs", name, self.scope.shape, self.people.renamed, self.people.barring, sources, apart, shape)
        return self.warehouse.template(key, build, self.real.values)

    # -- what is set aside -------------------------------------------------------------------------------------------

    def changed(self) -> ir.Table:
        """(unit): those of a ledger row or a desired row that differs from the other side, as an expression over marks: the diff."""
        ledger = ledger_rows(self.warehouse, self.people)
        trouble = [Outcome.waiting, Outcome.unknown, Outcome.rejected]
        settled = ledger.present & ibis.coalesce(ledger.status, "").notin(trouble) & (ibis.coalesce(ledger.uncertain, "") == "")
        drifted = ibis.coalesce(ledger.resolved_segment_id != ledger.now_id, False)
        # Judged before they are joined: a join carries as little as possible.
        rows = ledger.select(
            r_unit=ledger.now_unit,
            r_key=ledger.destination_key,
            r_hash=ledger.confirmed_hash,
            r_settled=settled,
            r_same_person=(ledger.unit == ledger.now_unit) & ~drifted,
        )
        desired = _desired(self.warehouse, self.scope).select("d_unit", "d_key", "d_hash", "d_ok")
        both = desired.outer_join(rows, [("d_unit", "r_unit")])
        # A unit with further keys has a row here that is not as it should be.
        still = both.r_settled & both.r_same_person & both.d_ok & (both.d_key == both.r_key) & (both.d_hash == both.r_hash)
        if self.scope.once:  # what a sync has dealt with is wanted no more, and stays as it is
            still = still | (both.r_settled & both.d_unit.isnull())
        changed = both.filter(~ibis.coalesce(still, False))
        return changed.select(unit=ibis.coalesce(changed.d_unit, changed.r_unit))

    def closed(self) -> ir.Table:
        """(unit): those of a desired row whose person may not be sent to now, as an expression over marks."""
        desired = _desired(self.warehouse, self.scope)
        rows = desired.select("d_unit", now_id=desired.d_segment_id, verdict=desired.d_verdict)
        asked = self.people.with_consent(rows)
        return asked.filter(asked.closed).select(unit="d_unit")

    def loud_units(self) -> ir.Table:
        """(unit), distinct: those of which there may be something to say."""
        return self.template("loud units", lambda: self.changed().union(self.closed(), distinct=True))

    def count_still(self) -> int:
        """How many keys were set aside: desired ones, of which each is one row, of units that are not loud."""
        assert self.loud is not None
        desired, loud = _desired(self.warehouse, self.scope), self.loud
        return self.warehouse.count(self.template("still", lambda: desired.anti_join(loud, [("d_unit", "unit")])))

    # -- the two sides -----------------------------------------------------------------------------------------------

    def ledger_side(self) -> ir.Table:
        """Ledger rows of the loud units, consent looked up, rows of one person told apart."""

        def build() -> ir.Table:
            rows = self.found if self.found is not None else ledger_rows(self.warehouse, self.people)
            rows = rows.mutate(verdict=ibis.literal(""))
            return _told_apart(self.people.with_consent(rows, few=self.loud is not None), self.desired_side())

        return self.template("ledger side", build)

    def loud_rows(self) -> ir.Table:
        """Ledger rows of the loud units, as they are read once for all that is asked about them."""
        loud = self.loud
        assert loud is not None
        return self.template(
            "loud rows", lambda: ledger_rows(self.warehouse, self.people).semi_join(loud, [("now_unit", "unit")]).view()
        )

    def desired_side(self) -> ir.Table:
        """Desired rows of the loud units, as an expression over marks."""
        return _desired(self.warehouse, self.scope) if self.wishes is None else self.wishes

    def loud_wishes(self) -> ir.Table:
        """Desired rows of the loud units, as they are read once for all that is asked about them."""
        loud = self.loud
        assert loud is not None
        return self.template(
            "loud wishes", lambda: _desired(self.warehouse, self.scope).semi_join(loud, [("d_unit", "unit")]).view()
        )

    def wanted(self) -> ir.Table:
        """Desired rows with the key that they are matched by, as an expression over marks."""
        assert self.rows is not None
        return _keyed(self.desired_side(), self.rows)

    def considered(self, *, can_retract: bool) -> int:
        """Keys that are desired, present or unresolved after merge resolution, by queries of their own that classify nothing.

        Those that were set aside are counted in the ledger here, while what is unchanged counts them among the payloads.
        """

        def build() -> ir.Table:
            rows = self.rows
            assert rows is not None
            live = rows.present | rows.status.isin([Outcome.waiting, Outcome.unknown]) | (rows.uncertain != "")
            if can_retract:
                live = live | (rows.held & rows.closed)
            standing = rows.filter(live & ~rows.shadow).select(k_unit="now_unit", k_key="destination_key")
            return self.wanted().select(k_unit="d_unit", k_key="match_key").union(standing, distinct=True)

        count = self.warehouse.count(self.template("considered", build, can_retract))
        if self.loud is None:
            return count
        loud = self.loud

        def aside() -> ir.Table:
            rows = ledger_rows(self.warehouse, self.people)
            apart = rows.filter(rows.present).anti_join(loud, [("now_unit", "unit")])
            if self.scope.once:
                apart = apart.semi_join(_desired(self.warehouse, self.scope), [("now_unit", "d_unit")])
            return apart

        return count + self.warehouse.count(self.template("aside", aside))

    def facts(self, *, can_retract: bool, splits: bool) -> ir.Table:
        """One row per loud key that is desired, present or unresolved, with :data:`states.FACTS` and the parts that intents and rows need.

        Unresolved are keys whose attempt is waiting or without answer, and those that the destination holds of people who may not be
        sent to any more. Rows with ``shadow`` are second rows of a key, to be cleared, and not counted. An expression over marks.
        """
        ledger = self.rows
        assert ledger is not None
        plain = self.wanted()
        plain = plain.mutate(now_id=plain.d_segment_id, verdict=plain.d_verdict)
        wanted = self.people.with_consent(plain, few=self.loud is not None)
        rows = ledger.select(**{f"r_{name}": ledger[name] for name in ledger.columns})
        # Only the first row of a key meets its payload.
        rows = rows.mutate(r_match=ibis.ifelse(rows.r_shadow, ibis.null("string"), rows.r_now_unit))
        both = wanted.outer_join(rows, [("d_unit", "r_match"), ("match_key", "r_destination_key")])
        facts = _facts(both.view(), self.scope)
        unresolved = facts.status.isin([Outcome.waiting, Outcome.unknown]) | (facts.uncertain != "")
        if can_retract:
            unresolved = unresolved | (facts.held & facts.closed)
        facts = facts.filter(facts.desired | facts.present | unresolved)
        # A key may be that of a unit of which there is nothing else to say.
        facts = _with_claims(facts, _desired(self.warehouse, self.scope), ledger)
        if self.scope.rebase or not splits:
            return facts.mutate(rebase=ibis.literal(self.scope.rebase))
        known = list(facts.columns)
        joined = facts.left_join(self.people.split(ledger), [("now_id", "split_id")])
        return joined.select(*known, rebase=joined.split_id.notnull()).view()

    def splits(self) -> bool:
        """Whether people that were one at the last reconciliation are not any more."""
        if self.people.graph is None or self.rows is None:
            return False
        rows = self.rows
        return self.warehouse.count(self.template("splits", lambda: self.people.split(rows))) > 0

    def drifted(self) -> ir.Table | None:
        """Whole ledger rows whose person has changed since the last reconciliation, with the new id. None when there are none."""
        if self.people.graph is None or self.rows is None:
            return None
        rows = self.rows
        # Who changed is loud.
        if not self.warehouse.count(self.template("any drifted", lambda: rows.filter(rows.resolved_segment_id != rows.now_id))):
            return None
        return self.template("drifted", lambda: drifted_rows(self.warehouse, self.people))


@contextlib.contextmanager
def reconciliation(warehouse: Warehouse, scope: Scope) -> Iterator[Reconciliation]:
    """Both sides of a sync, as long as the context is open."""
    both = Reconciliation(warehouse, scope)
    with contextlib.ExitStack() as scratch:
        if both.people.graph is not None:
            for name, at in (("sync_merged", both.scope.as_of), ("sync_merged_since", both.scope.consent_at)):
                merged = both.template(name, functools.partial(both.people.merges, at))
                both.people.merged[at] = scratch.enter_context(warehouse.staged(merged, name=name))
        if both.people.graph is not None and scope.categories:
            agreed = both.template("consenting", both.people.consenting)
            both.people.agreed = scratch.enter_context(warehouse.staged(agreed, name="sync_consenting"))
        # Where all differences are recorded, or nobody is wanted, every key has its say; so has it where nothing was ever sent.
        if not scope.rebase and scope.desired and _sent_before(warehouse, scope):
            both.loud = scratch.enter_context(warehouse.staged(both.loud_units(), name="sync_loud_units"))
            both.still = both.count_still()
            both.found = scratch.enter_context(warehouse.staged(both.loud_rows(), name="sync_loud_rows"))
            both.wishes = scratch.enter_context(warehouse.staged(both.loud_wishes(), name="sync_loud_wishes"))
        both.rows = scratch.enter_context(warehouse.staged(both.ledger_side(), name="sync_ledger_side"))
        yield both


def _sent_before(warehouse: Warehouse, scope: Scope) -> bool:
    ledger = warehouse.table(LEDGER.ref)
    mine = ledger.filter(ledger.activation == scope.activation, ledger.account == scope.account)
    return bool(warehouse.rows(mine.select("unit"), 1))


def _facts(both: ir.Table, scope: Scope) -> ir.Table:
    def flag(column: ir.BooleanValue) -> ir.BooleanValue:
        return ibis.coalesce(column, False)

    def word(column: ir.StringValue) -> ir.StringValue:
        return ibis.coalesce(column, "")

    desired = both.d_unit.notnull()
    tried = word(both.r_operation)
    # Exits and retracts are built from what was stored; only a new definition makes another message of them.
    same_message = ibis.ifelse(tried.isin(["enter", "change"]), word(both.r_attempted_hash) == word(both.d_hash), True)
    return both.select(
        unit=ibis.coalesce(both.r_unit, both.d_unit),
        destination_key=ibis.coalesce(both.r_destination_key, both.match_key),
        now_unit=ibis.coalesce(both.d_unit, both.r_now_unit),
        now_id=ibis.coalesce(both.now_id, both.r_now_id),
        subject_id=ibis.coalesce(both.subject_id, both.r_subject_id),
        segment_id=ibis.coalesce(both.r_segment_id, both.d_segment_id),
        path=ibis.coalesce(both.r_path, both.d_path),
        entity_id=ibis.coalesce(both.r_entity_id, both.d_entity_id),
        row_key=ibis.coalesce(both.r_row_key, both.d_row_key),
        desired=desired,
        verdict=word(both.d_verdict),
        detail=both.d_detail,
        payload_hash=both.d_hash,
        present=flag(both.r_present),
        held=flag(both.r_held),
        status=word(both.r_status),
        tried=tried,
        uncertain=word(both.r_uncertain),
        row_reason=word(both.r_reason),
        episode=ibis.coalesce(both.r_episode, 0),
        attempts=ibis.coalesce(both.r_attempts, 0),
        not_before=both.r_not_before,
        changed=word(both.r_confirmed_hash) != word(both.d_hash),
        same=same_message & (word(both.r_definition_revision) == scope.definition_revision),
        due=ibis.coalesce(both.r_not_before <= timestamp_literal(scope.now), True),
        expired=flag(both.r_first_attempt_at < timestamp_literal(scope.gave_up)),
        moved=flag(both.d_moved),
        moved_episode=ibis.coalesce(both.d_episode, 0),
        loser=flag(both.r_loser),
        shadow=flag(both.r_shadow),
        closed=ibis.ifelse(desired, both.closed, both.r_closed),
        closed_reason=ibis.coalesce(both.closed_reason, both.r_closed_reason),
    ).view()


def _with_claims(facts: ir.Table, desired: ir.Table, rows: ir.Table) -> ir.Table:
    """``claimed``: the key is some unit's current one. Of a loser that is another unit's, since it is not its own's."""
    losers = rows.filter(rows.loser).select(loser_key=rows.destination_key).distinct()
    taken = desired.filter(desired.d_ok).semi_join(losers, [("d_key", "loser_key")]).select(claimed_key="d_key").distinct()
    known = list(facts.columns)
    joined = facts.left_join(taken, [("destination_key", "claimed_key")])
    return joined.select(*known, claimed=joined.claimed_key.notnull()).view()
