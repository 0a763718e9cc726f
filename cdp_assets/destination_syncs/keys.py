"""The keys that a sync considers, and the facts about each: desired payloads against the ledger, after merge resolution.

One expression: the ledger's people are brought up to date (aliases, merges), several rows of one person are told apart (the one with
the current destination key, the others), consent is looked up, and all of it is joined in full with the payloads. What follows from
the facts is in :mod:`states`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.destination_syncs.states import Outcome, maybe
from cdp_assets.destination_syncs.tables import LEDGER, SUPPRESSIONS
from cdp_assets.space.models import ColumnSubject, Consent
from cdp_assets.unified_profiles.tables import ID_ALIASES, canonical_ids_as_of, consent_as_of, identifiers_as_of
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse import functions as fn

# Verdicts of the payload room that say that the person may not be sent to; the others say that the message may not go.
CLOSED_VERDICTS = ("consent", "suppressed")


@dataclass(frozen=True)
class Scope:
    """Whose keys, and as of when. ``as_of`` is the payloads'; ``consent_at`` the newest instant that is known about consent."""

    activation: str
    account: str
    unit: str
    consent: Consent
    graph: DataGraph | None
    as_of: dt.datetime
    consent_at: dt.datetime
    now: dt.datetime
    definition_revision: str
    retry_for: dt.timedelta
    rebase: bool = False
    desired: bool = True

    @property
    def people(self) -> bool:
        """Whether units or subjects are people, so that merges and consent matter."""
        return self.unit != "row" or isinstance(self.consent.subject, ColumnSubject)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.consent.categories)


def _lookup(table: ir.Table, column: str, mapping: ir.Table, name: str) -> ir.Table:
    """``table`` with ``name``: the second column of ``mapping`` where its first equals ``column``, else NULL."""
    key, value = mapping.columns
    pairs = mapping.select(**{f"{name}_key": mapping[key], name: mapping[value]})
    return table.left_join(pairs, [(column, f"{name}_key")]).drop(f"{name}_key")


def _resolved(table: ir.Table, column: str, mapping: ir.Table, name: str) -> ir.Table:
    """As :func:`_lookup`, but an id that the mapping does not know stands for itself."""
    found = _lookup(table, column, mapping, f"{name}_found")
    return found.mutate(**{name: ibis.coalesce(found[f"{name}_found"], found[column])}).drop(f"{name}_found")


def _current(warehouse: Warehouse, table: ir.Table, column: str, scope: Scope, at: dt.datetime, name: str) -> ir.Table:
    """``table`` with ``name``: whom the id in ``column`` stands for at ``at``, through renames and merges."""
    if not scope.people or scope.graph is None:
        return table.mutate(**{name: table[column]})
    source = column
    if warehouse.has(ID_ALIASES.ref) and warehouse.count(warehouse.table(ID_ALIASES.ref)):
        aliases = warehouse.table(ID_ALIASES.ref).select("old_segment_id", "new_segment_id")
        # Twice: a profile may have been renamed again.
        table = _resolved(_resolved(table, column, aliases, "alias_once"), "alias_once", aliases, "alias_twice").drop(
            "alias_once"
        )
        source = "alias_twice"
    table = _resolved(table, source, canonical_ids_as_of(warehouse, scope.graph, at), name)
    return table.drop("alias_twice") if source == "alias_twice" else table


def ledger_rows(warehouse: Warehouse, scope: Scope) -> ir.Table:
    """The activation's ledger rows at the account, with ``now_id`` (the person now) and ``now_unit`` (the unit now)."""
    ledger = warehouse.table(LEDGER.ref)
    rows = ledger.filter(ledger.activation == scope.activation, ledger.account == scope.account)
    rows = _current(warehouse, rows, "segment_id", scope, scope.as_of, "now_id")
    if scope.unit == "row":
        unit = rows.row_key
    elif scope.unit == "entity":
        unit = rows.now_id.concat("|", rows.path, "|", rows.entity_id)
    else:
        unit = rows.now_id
    return rows.mutate(now_unit=unit)


def split_people(warehouse: Warehouse, scope: Scope) -> ir.Table | None:
    """(split_id): people that were one at the last reconciliation and are not any more, both sides. None when there are none."""
    if not scope.people or scope.graph is None:
        return None
    rows = ledger_rows(warehouse, scope)
    drifted = rows.filter(rows.resolved_segment_id != rows.now_id)
    drifted = drifted.select("now_id", former="resolved_segment_id").distinct()
    # A merge or a rename leaves the former id pointing elsewhere; after an unmerge it is a person of its own.
    ids = canonical_ids_as_of(warehouse, scope.graph, scope.as_of)
    own = ids.filter(ids.segment_id == ids.canonical_segment_id).select(own_id=ids.segment_id)
    apart = drifted.join(own, [("former", "own_id")])
    both = apart.select(split_id=apart.now_id).union(apart.select(split_id=apart.former), distinct=True)
    return both if warehouse.count(both) else None


def drifted_rows(warehouse: Warehouse, scope: Scope) -> ir.Table:
    """Whole ledger rows whose person has changed since the last reconciliation, with the new ``resolved_segment_id``."""
    rows = ledger_rows(warehouse, scope)
    drifted = rows.filter(rows.resolved_segment_id != rows.now_id).mutate(resolved_segment_id=rows.now_id)
    return drifted.select(*LEDGER.columns)


def consenting(warehouse: Warehouse, graph: DataGraph, categories: Sequence[str], at: dt.datetime) -> ir.Table:
    """(open_id): canonical ids, as of ``at``, for whom all categories are true."""
    states = consent_as_of(warehouse, graph, at)
    agreed = states.filter(states.category.isin(list(categories)), states.value == "true")
    counted = agreed.group_by("canonical_segment_id").aggregate(n=agreed.category.nunique())
    return counted.filter(counted.n == len(set(categories))).select(open_id="canonical_segment_id")


def suppressed(warehouse: Warehouse, graph: DataGraph, at: dt.datetime) -> ir.Table | None:
    """(suppressed_id): canonical ids, as of ``at``, to whom nothing may be sent. None when there are none."""
    table = warehouse.table(SUPPRESSIONS.ref)
    active = table.filter(table.lifted_at.isnull())
    if not warehouse.count(active):
        return None
    people = active.filter(active.canonical_segment_id.notnull()).select("canonical_segment_id")
    by_id = _resolved(people, "canonical_segment_id", canonical_ids_as_of(warehouse, graph, at), "suppressed_id")
    identifiers = identifiers_as_of(warehouse, graph, at)
    identifiers = identifiers.select("canonical_segment_id", identifier_kind="type", identifier_hash=fn.sha256(identifiers.value))
    hashed = active.filter(active.value_hash.notnull()).select("identifier_type", "value_hash")
    by_value = hashed.join(
        identifiers,
        [("identifier_type", "identifier_kind"), ("value_hash", "identifier_hash")],
    )
    return by_id.select("suppressed_id").union(by_value.select(suppressed_id="canonical_segment_id"), distinct=True)


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
    wanted = desired.select(w_unit=desired.d_unit, w_key=desired.d_key, w_ok=desired.d_ok)
    rows = ledger.left_join(wanted, [("now_unit", "w_unit")])
    rows = rows.mutate(inside=rows.present | maybe(rows), on_key=ibis.coalesce(rows.destination_key == rows.w_key, False))
    order = [ibis.desc(rows.inside), ibis.desc(rows.on_key), ibis.desc(rows.seq), rows.unit, rows.destination_key]
    same_key = [ibis.desc(rows.inside), ibis.desc(rows.held), ibis.desc(rows.seq), rows.unit]  # the copy that matters most
    rows = rows.mutate(
        place=ibis.row_number().over(group_by=["now_unit"], order_by=order),
        copy=ibis.row_number().over(group_by=["now_unit", "destination_key"], order_by=same_key),
    )
    replaced = ibis.ifelse(ibis.coalesce(rows.w_ok, False), ~rows.on_key, rows.place > 0)
    return rows.mutate(head=rows.inside & (rows.place == 0), loser=rows.inside & replaced, shadow=rows.copy > 0)


def _keyed(desired: ir.Table, ledger: ir.Table) -> ir.Table:
    """Desired rows with the key that they are matched by, and whether their person is in under another one.

    A message that may not go leaves its unit where it is, so its key is the one that the unit has.
    """
    heads = ledger.filter(ledger["head"]).select(h_unit="now_unit", h_key="destination_key", h_episode="episode")
    rows = desired.left_join(heads, [("d_unit", "h_unit")])
    key = ibis.ifelse(rows.d_ok, rows.d_key, ibis.coalesce(rows.h_key, rows.d_key, ""))
    moved = rows.d_ok & rows.h_key.notnull() & (rows.h_key != rows.d_key)
    return rows.mutate(match_key=key, d_moved=ibis.coalesce(moved, False), d_episode=ibis.coalesce(rows.h_episode, 0))


def considered_facts(warehouse: Warehouse, scope: Scope, *, can_retract: bool) -> ir.Table:
    """One row per key that is desired, present or unresolved, with :data:`states.FACTS` and the parts that intents and ledger rows need.

    Unresolved are keys whose attempt is waiting or without answer, and those that the destination holds of people who may not be sent
    to any more. Rows with ``shadow`` are second rows of a key, to be cleared, and not counted.
    """
    desired = _desired(warehouse, scope)
    ledger = _told_apart(ledger_rows(warehouse, scope), desired)
    wanted = _keyed(desired, ledger)
    renamed = {name: f"r_{name}" for name in ledger.columns}
    rows = ledger.select(**{new: ledger[old] for old, new in renamed.items()})
    # Only the first row of a key meets its payload.
    rows = rows.mutate(r_match=ibis.ifelse(rows.r_shadow, ibis.null("string"), rows.r_now_unit))
    both = wanted.outer_join(rows, [("d_unit", "r_match"), ("match_key", "r_destination_key")])
    # As a relation of its own: Ibis would add the joins below to this one, where computed columns cannot be joined on.
    facts = _facts(both.view(), scope)
    facts = _with_consent(warehouse, facts, scope)
    facts = _with_claims(facts, wanted)
    facts = _with_rebase(warehouse, facts, scope)
    unresolved = facts.status.isin([Outcome.waiting, Outcome.unknown]) | (facts.uncertain != "")
    if can_retract:
        unresolved = unresolved | (facts.held & facts.closed)
    return facts.filter(facts.desired | facts.present | unresolved)


def _facts(both: ir.Table, scope: Scope) -> ir.Table:
    def flag(column: ir.BooleanValue) -> ir.BooleanValue:
        return ibis.coalesce(column, False)

    def word(column: ir.StringValue) -> ir.StringValue:
        return ibis.coalesce(column, "")

    desired = both.d_unit.notnull()
    tried = word(both.r_operation)
    # Exits and retracts are built from what was stored; only a new definition makes another message of them.
    same_message = ibis.ifelse(tried.isin(["enter", "change"]), word(both.r_attempted_hash) == word(both.d_hash), True)
    gave_up = scope.now - scope.retry_for
    return both.select(
        unit=ibis.coalesce(both.r_unit, both.d_unit),
        destination_key=ibis.coalesce(both.r_destination_key, both.match_key),
        now_unit=ibis.coalesce(both.d_unit, both.r_now_unit),
        now_id=ibis.coalesce(both.d_segment_id, both.r_now_id),
        segment_id=ibis.coalesce(both.r_segment_id, both.d_segment_id),
        path=ibis.coalesce(both.r_path, both.d_path),
        entity_id=ibis.coalesce(both.r_entity_id, both.d_entity_id),
        row_key=ibis.coalesce(both.r_row_key, both.d_row_key),
        known=both.r_unit.notnull(),
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
        expired=flag(both.r_first_attempt_at < timestamp_literal(gave_up)),
        moved=flag(both.d_moved),
        moved_episode=ibis.coalesce(both.d_episode, 0),
        loser=flag(both.r_loser),
        shadow=flag(both.r_shadow),
    )


def _with_consent(warehouse: Warehouse, facts: ir.Table, scope: Scope) -> ir.Table:
    """``closed``, ``closed_reason`` and ``subject_id`` (the person now, as of the newest consent)."""
    by_verdict = facts.verdict.isin(list(CLOSED_VERDICTS))
    if not scope.people or scope.graph is None:
        return facts.mutate(closed=by_verdict, closed_reason=facts.verdict, subject_id=ibis.null("string"))
    facts = _current(warehouse, facts, "now_id", scope, scope.consent_at, "subject_id")
    closed, reason = facts.verdict.isin(list(CLOSED_VERDICTS)), ibis.ifelse(by_verdict, facts.verdict, "consent")
    if scope.categories:
        agreed = consenting(warehouse, scope.graph, scope.categories, scope.consent_at)
        facts = _lookup(facts, "subject_id", agreed.select("open_id", is_open="open_id"), "agreed")
        # A row without a person is the payload room's to judge (no_subject), it is not a withdrawal.
        closed = closed | (facts.agreed.isnull() & facts.subject_id.notnull())
    barred = suppressed(warehouse, scope.graph, scope.consent_at)
    if barred is not None:
        facts = _lookup(facts, "subject_id", barred.select("suppressed_id", is_barred="suppressed_id"), "barred")
        closed, reason = closed | facts.barred.notnull(), ibis.ifelse(facts.barred.notnull(), "suppressed", reason)
    facts = facts.mutate(closed=closed, closed_reason=reason)
    return facts.drop(*(name for name in ("agreed", "barred") if name in facts.columns))


def _with_claims(facts: ir.Table, wanted: ir.Table) -> ir.Table:
    """``claimed``: the key is some unit's current one. Of a loser that is another unit's, since it is not its own's."""
    keys = wanted.filter(wanted.d_ok).select(claimed_key=wanted.d_key).distinct()
    losers = facts.filter(facts.loser).select(loser_key=facts.destination_key).distinct()
    taken = keys.join(losers, [("claimed_key", "loser_key")]).select("claimed_key")
    joined = facts.left_join(taken, [("destination_key", "claimed_key")])
    return joined.mutate(claimed=joined.claimed_key.notnull()).drop("claimed_key")


def _with_rebase(warehouse: Warehouse, facts: ir.Table, scope: Scope) -> ir.Table:
    """``rebase``: differences of this key are recorded, not sent."""
    if scope.rebase:
        return facts.mutate(rebase=ibis.literal(True))
    split = split_people(warehouse, scope)
    if split is None:
        return facts.mutate(rebase=ibis.literal(False))
    joined = facts.left_join(split, [("now_id", "split_id")])
    return joined.mutate(rebase=joined.split_id.notnull()).drop("split_id")


def counted_keys(warehouse: Warehouse, scope: Scope, *, can_retract: bool) -> int:
    """``considered``: keys that are desired, present or unresolved after merge resolution, by a query of its own that classifies nothing."""
    desired = _desired(warehouse, scope)
    ledger = _told_apart(ledger_rows(warehouse, scope), desired)
    wanted = _keyed(desired, ledger).select(k_unit="d_unit", k_key="match_key")
    mine = _with_consent(warehouse, ledger.mutate(verdict=ibis.literal("")), scope) if can_retract else ledger
    open_ = mine.status.isin([Outcome.waiting, Outcome.unknown]) | (ibis.coalesce(mine.uncertain, "") != "")
    live = mine.present | open_
    if can_retract:
        live = live | (mine.held & mine.closed)
    standing = mine.filter(live & ~mine.shadow).select(k_unit="now_unit", k_key="destination_key")
    return warehouse.count(wanted.union(standing, distinct=True))
