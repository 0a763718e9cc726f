"""What a build has to resolve: the entries that are new, and those whose components late data or a correction touched.

Entries are messages and removals of identifiers, in received order: (received_at, id). In the ordinary case all new entries come
after everything seen. Otherwise a component of identifiers that ever occurred together is resolved again from its beginning.
All of it is set operations in the warehouse; Python reads distinct documents, and distinct new values to see which are blocked.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.unified_profiles.identifiers import DOCUMENTS, Blocked, candidates, places
from cdp_assets.unified_profiles.state_tables import APPLIED_CORRECTIONS, ENTRIES, EVENT_IDENTIFIERS, IDENTIFIERS
from cdp_assets.unified_profiles.tables import IDENTITY_CORRECTIONS
from resources.warehouse import Warehouse, timestamp_literal
from resources.warehouse import functions as fn

REMOVE, SEPARATE = "remove", "separate"
# Ranks within one second take the lower bits of seq.
_SECOND = 2**31
_PLACE_WIDTH = 100_000
_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Work:
    """Scratch tables of one build.

    ``entries``: (seq, entry_id, fingerprint, removes, type, event, source, received_at, timestamp, preferences). ``identifiers``: (seq,
    position, identifier_id, blocked). ``dictionary``: (identifier_type, identifier_value, identifier_id, blocked, known) of them.
    ``replaced``: (seq) of the entries as the last build numbered them, whose rows go; None when everything comes after it.
    ``before``: the identifiers as the last build numbered them (none when all is resolved ``anew``).
    ``corrected_from``: the earliest received_at among entries that are not new, or were there and are gone.
    """

    entries: ir.Table
    identifiers: ir.Table
    dictionary: ir.Table
    replaced: ir.Table | None
    before: ir.Table
    anew: bool
    corrected_from: dt.datetime | None


def gather(
    warehouse: Warehouse,
    settings: IdentitySettings,
    until: dt.datetime,
    before: dt.datetime | None,
    *,
    anew: bool,
    stack: ExitStack,
) -> Work:
    """Stage the work of a build: entries with received_at < ``until`` where the last build reached ``before`` (None: the first).

    ``anew``: resolve everything again. Scratch tables live as long as ``stack``. DDL: call it outside a transaction.
    """
    known = known_entries(warehouse, settings, until)
    replaced: ir.Table | None = None
    if before is None or anew:
        numbered = _numbered(known)
        if anew:
            replaced = stack.enter_context(warehouse.staged(warehouse.table(ENTRIES.ref).select("seq")))
    else:
        start = before.replace(microsecond=0)
        new = known.received_at >= timestamp_literal(before)
        changed = _changed(warehouse, settings, known.filter(~new), stack)
        if changed is None:
            numbered = _numbered(known.filter(known.received_at >= timestamp_literal(start)))
            numbered = numbered.filter(numbered.received_at >= timestamp_literal(before))
        else:
            replaced, again = changed
            seconds = again.select(second=again.received_at.truncate("s")).distinct()
            second = known.received_at.truncate("s")
            near = known.filter((known.received_at >= timestamp_literal(start)) | second.isin(seconds.second))
            numbered = _numbered(near)
            numbered = numbered.filter(
                (numbered.received_at >= timestamp_literal(before)) | numbered.fingerprint.isin(again.fingerprint)
            )
    entries = stack.enter_context(warehouse.staged(numbered))
    standing = warehouse.table(IDENTIFIERS.ref).filter(ibis.literal(not anew))
    dictionary, identifiers = _identifiers(warehouse, settings, entries, standing, stack)
    corrected = None if replaced is None else _earliest(warehouse, entries, replaced, before)
    return Work(entries, identifiers, dictionary, replaced, standing, anew, corrected)


def _earliest(warehouse: Warehouse, entries: ir.Table, replaced: ir.Table, before: dt.datetime | None) -> dt.datetime | None:
    old = warehouse.scalar(replaced.seq.min())
    again = (
        warehouse.scalar(entries.filter(entries.received_at < timestamp_literal(before)).received_at.min()) if before else None
    )
    found = [again.replace(tzinfo=dt.UTC)] if again is not None else []
    if old is not None:
        found.append(dt.datetime.fromtimestamp(old // _SECOND, dt.UTC))
    return min(found, default=None)


# -- entries in received order ---------------------------------------------------------------------------------------


def known_entries(warehouse: Warehouse, settings: IdentitySettings, until: dt.datetime) -> ir.Table:
    """Messages and removals with received_at < ``until``, with their candidates for identifiers."""
    messages = warehouse.table(MESSAGES.ref)
    messages = messages.filter(messages.received_at < timestamp_literal(until))
    found = candidates(messages, settings)
    shared = {
        "entry_id": messages.message_id,
        "received_at": messages.received_at,
        "fingerprint": fn.fingerprint(messages.message_id, messages.received_at, messages.file_hash, messages.line),
        "removes": ibis.literal(False),
        "type": messages.type,
        "event": messages.event,
        "source": messages.source,
        "timestamp": messages.timestamp,
        "preferences": fn.json_text(messages.context, "consent", "categoryPreferences"),
        "removed_type": ibis.null("string"),
        "removed_value": ibis.null("string"),
    }
    of_messages = messages.select(**shared, **found)
    removals = warehouse.table(IDENTITY_CORRECTIONS.ref)
    removals = removals.filter((removals.kind == REMOVE) & (removals.effective_at < timestamp_literal(until)))
    what = removals.correction_id + " " + removals.identifier_type + " " + removals.identifier_value
    own = {
        "entry_id": removals.correction_id,
        "received_at": removals.effective_at,
        "fingerprint": fn.fingerprint(what, removals.effective_at, ibis.null("string"), ibis.null("int64")),
        "removes": ibis.literal(True),
        "type": ibis.literal(REMOVE),
        "timestamp": removals.effective_at,
        "removed_type": removals.identifier_type,
        "removed_value": removals.identifier_value,
    }
    absent = {name: ibis.null(column.type()) for name, column in {**shared, **found}.items() if name not in own}
    of_removals = removals.select(**{name: {**own, **absent}[name] for name in of_messages.columns})
    return ibis.union(of_messages, of_removals)


def _numbered(entries: ir.Table) -> ir.Table:
    """With seq: the second, and the rank in it. Needs all entries of each second."""
    second = entries.received_at.truncate("s")
    rank = ibis.row_number().over(group_by=second, order_by=[entries.received_at, entries.entry_id, entries.fingerprint])
    return entries.mutate(seq=second.epoch_seconds().cast("int64") * _SECOND + rank.cast("int64") + 1)


# -- identifiers -----------------------------------------------------------------------------------------------------


def _identifiers(
    warehouse: Warehouse, settings: IdentitySettings, entries: ir.Table, dictionary: ir.Table, stack: ExitStack
) -> tuple[ir.Table, ir.Table]:
    found = stack.enter_context(warehouse.staged(_found(warehouse, settings, entries, stack)))
    values = found.group_by("identifier_type", "identifier_value").aggregate(first=found.seq.min())
    highest = warehouse.scalar(dictionary.identifier_id.max()) or 0
    met = values.left_join(
        dictionary,
        [values.identifier_type == dictionary.identifier_type, values.identifier_value == dictionary.identifier_value],
    ).select(
        values.identifier_type, values.identifier_value, values.first, number=dictionary.identifier_id, bad=dictionary.blocked
    )
    # Numbered as they appear: numbers of identifiers that meet lie close together.
    order = ibis.row_number().over(group_by=met.number.isnull(), order_by=[met.first, met.identifier_type, met.identifier_value])
    numbered = met.select(
        "identifier_type",
        "identifier_value",
        "bad",
        identifier_id=met.number.fill_null(order.cast("int64") + 1 + highest),
        known=met.number.notnull(),
    )
    numbered = stack.enter_context(warehouse.staged(numbered))
    blocked = stack.enter_context(warehouse.scratch(_blocked(warehouse, settings, numbered)))
    judged = numbered.select(
        "identifier_type",
        "identifier_value",
        "identifier_id",
        "known",
        blocked=numbered.bad.fill_null(numbered.identifier_id.isin(blocked.identifier_id)),
    )
    judged = stack.enter_context(warehouse.staged(judged))
    joined = found.join(judged, ["identifier_type", "identifier_value"])
    pairs = joined.group_by("seq", "identifier_id", "blocked").aggregate(position=joined.position.min())
    return judged, stack.enter_context(warehouse.staged(pairs))


def _found(warehouse: Warehouse, settings: IdentitySettings, entries: ir.Table, stack: ExitStack) -> ir.Table:
    """(seq, position, identifier_type, identifier_value) of every place that holds a value."""
    parts = []
    plain = places(settings)
    for number, place in enumerate(plain):
        value = entries[place.column]
        # The first character of an object or array where a value belongs.
        rows = entries.filter(value.notnull() & ~value.substr(0, 1).isin(["{", "["]))
        parts.append(_row(rows, ibis.literal(number * _PLACE_WIDTH), ibis.literal(place.type), rows[place.column]))
    for number, name in enumerate(DOCUMENTS, start=len(plain)):
        read = stack.enter_context(warehouse.scratch(_documents(warehouse, entries, name)))
        rows = entries.join(read, entries[name] == read.document)
        parts.append(_row(rows, rows.place + number * _PLACE_WIDTH, rows.identifier_type, rows.identifier_value))
    removals = entries.filter(entries.removes)
    parts.append(_row(removals, ibis.literal(0), removals.removed_type, removals.removed_value))
    return ibis.union(*parts)


def _row(rows: ir.Table, position: ir.Value, kind: ir.Value, value: ir.Value) -> ir.Table:
    return rows.select("seq", position=position.cast("int64"), identifier_type=kind, identifier_value=value)


def _documents(warehouse: Warehouse, entries: ir.Table, name: str) -> pa.Table:
    """The identifiers in each distinct document: (document, place, identifier_type, identifier_value)."""
    texts = entries.filter(entries[name].notnull()).select(document=name).distinct()
    rows: list[tuple[str, int, str, str]] = []
    for batch in warehouse.batches(texts, _BATCH_ROWS):
        for text in batch.column(0).to_pylist():
            found = (i for i in dict.fromkeys(DOCUMENTS[name](text)) if i.value[:1] not in ("{", "["))
            rows += [(text, place, *identifier) for place, identifier in enumerate(found)]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    kinds = {"document": pa.string(), "place": pa.int64(), "identifier_type": pa.string(), "identifier_value": pa.string()}
    return pa.table({name: pa.array(column, kind) for (name, kind), column in zip(kinds.items(), columns, strict=True)})


def _blocked(warehouse: Warehouse, settings: IdentitySettings, numbered: ir.Table) -> pa.Table:
    """(identifier_id) of the new identifiers that are blocked."""
    is_blocked = Blocked(settings.blocked)
    found: list[int] = []
    for batch in warehouse.batches(numbered.filter(~numbered.known).select("identifier_id", "identifier_value"), _BATCH_ROWS):
        values = batch.column("identifier_value").to_pylist()
        places_of = [place for place, value in enumerate(values) if is_blocked(value)]
        found += batch.column("identifier_id").take(pa.array(places_of, pa.int64())).to_pylist()
    return pa.table({"identifier_id": pa.array(found, pa.int64())})


# -- late data and corrections ---------------------------------------------------------------------------------------


def _changed(
    warehouse: Warehouse, settings: IdentitySettings, known: ir.Table, stack: ExitStack
) -> tuple[ir.Table, ir.Table] | None:
    """What must be resolved again: (seq of the old entries that go, entries that come); None when nothing changed.

    ``known``: the entries before the end of the last build, as they are now. What changed takes with it all entries of its second
    (their numbers change), and every component of identifiers that one of these touches.
    """
    entries = warehouse.table(ENTRIES.ref)
    corrections = _changed_corrections(warehouse)
    if not corrections and _digest(warehouse, entries) == _digest(warehouse, known):
        return None
    added = stack.enter_context(warehouse.staged(known.anti_join(entries, "fingerprint").mutate(seq=ibis.literal(0, "int64"))))
    gone = entries.anti_join(known, "fingerprint").select("seq", second=entries.seq // _SECOND)
    seconds = ibis.union(
        gone.select("second"), added.select(second=added.received_at.truncate("s").epoch_seconds().cast("int64"))
    ).distinct()
    renumbered = stack.enter_context(
        warehouse.staged(entries.filter((entries.seq // _SECOND).isin(seconds.second)).select("seq"))
    )
    new = _found(warehouse, settings, added, stack).select("identifier_type", "identifier_value").distinct()
    touched = stack.enter_context(warehouse.scratch(_identifier_rows(corrections)))
    seeds = ibis.union(new, touched).join(warehouse.table(IDENTIFIERS.ref), ["identifier_type", "identifier_value"])
    carried = _carried(warehouse)
    first = ibis.union(
        seeds.filter(~seeds.blocked).select("identifier_id"),
        carried.filter(carried.seq.isin(renumbered.seq)).select("identifier_id"),
    ).distinct()
    component = _component(warehouse, carried, first, stack)
    touched_seqs = carried.filter(carried.identifier_id.isin(component.identifier_id)).select("seq")
    replaced = stack.enter_context(warehouse.staged(ibis.union(touched_seqs, renumbered).distinct()))
    again = ibis.union(
        entries.filter(entries.seq.isin(replaced.seq)).select("fingerprint"), added.select("fingerprint")
    ).distinct()
    coming = known.select("fingerprint", "received_at").semi_join(again, "fingerprint")
    return replaced, stack.enter_context(warehouse.staged(coming))


def _digest(warehouse: Warehouse, entries: ir.Table) -> tuple:
    """Count and sums of the fingerprints: different sets of entries differ in it."""
    low, high = entries.fingerprint % _SECOND, entries.fingerprint // _SECOND
    sums = entries.aggregate(n=entries.count(), low=low.sum(), high=high.sum())
    return tuple(value or 0 for value in warehouse.rows(sums, 1)[0].values())


def _carried(warehouse: Warehouse) -> ir.Table:
    """(seq, identifier_id) of every entry so far, without blocked identifiers."""
    pairs, dictionary = warehouse.table(EVENT_IDENTIFIERS.ref), warehouse.table(IDENTIFIERS.ref)
    blocked = dictionary.filter(dictionary.blocked)
    return pairs.anti_join(blocked, "identifier_id").select("seq", "identifier_id")


def _component(warehouse: Warehouse, carried: ir.Table, first: ir.Table, stack: ExitStack) -> ir.Table:
    """All identifiers that are connected with ``first`` through entries: one statement per step outwards."""
    reached = stack.enter_context(warehouse.staged(first))
    count = warehouse.count(reached)
    while True:
        entries = carried.filter(carried.identifier_id.isin(reached.identifier_id)).select("seq").distinct()
        wider = ibis.union(reached, carried.filter(carried.seq.isin(entries.seq)).select("identifier_id"), distinct=True)
        reached = stack.enter_context(warehouse.staged(wider))
        wider_count = warehouse.count(reached)
        if wider_count == count:
            return reached
        count = wider_count


Correction = tuple[str, str, str | None, str, str, dt.datetime | None]


def corrections_of(warehouse: Warehouse, table: ir.Table) -> set[Correction]:
    """The rows of a table of corrections without when and why they were made."""
    rows = warehouse.arrow(table.select(*APPLIED_CORRECTIONS.columns)).to_pylist()
    return {tuple(row.values()) for row in rows}  # type: ignore[misc]


def _changed_corrections(warehouse: Warehouse) -> list[Correction]:
    """Corrections made, or taken back, since the last build, but for removals: those are entries."""
    now = corrections_of(warehouse, warehouse.table(IDENTITY_CORRECTIONS.ref))
    then = corrections_of(warehouse, warehouse.table(APPLIED_CORRECTIONS.ref))
    return sorted((row for row in now ^ then if row[1] == SEPARATE), key=str)


def _identifier_rows(corrections: Sequence[Correction]) -> pa.Table:
    return pa.table(
        {
            "identifier_type": pa.array([row[3] for row in corrections], pa.string()),
            "identifier_value": pa.array([row[4] for row in corrections], pa.string()),
        }
    )


def separations(warehouse: Warehouse, dictionary: ir.Table) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """The identifier numbers (in ``dictionary``) of both sides of each separation."""
    rows = warehouse.table(IDENTITY_CORRECTIONS.ref)
    rows = rows.filter(rows.kind == SEPARATE).join(dictionary, ["identifier_type", "identifier_value"])
    sides: dict[str, dict[str, set[int]]] = {}
    for row in warehouse.arrow(rows.select("correction_id", "side", "identifier_id").order_by("correction_id")).to_pylist():
        sides.setdefault(row["correction_id"], {"a": set(), "b": set()})[row["side"]].add(row["identifier_id"])
    for found in sides.values():
        if found["a"] and found["b"]:
            yield frozenset(found["a"]), frozenset(found["b"])
