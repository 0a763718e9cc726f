"""Messages -> profiles: takes the entries that are new, continues from what the last build left, and writes the room's tables.

A full rebuild is the same with nothing to continue from. Content, ids and ``seq`` derive from the messages, the configuration
and the corrections alone: however a history is split into builds, and in whatever order its files arrive, the tables are the same.
Nothing goes back in time: a build as of an earlier instant than the last one keeps what the last one knew, and later rooms
read the logs as of their own instant.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, field

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.builds import record_build
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.unified_profiles import aliases, replaced, snapshots
from cdp_assets.unified_profiles.free import resolve
from cdp_assets.unified_profiles.last_seen import ShownRows, mapping_rows
from cdp_assets.unified_profiles.logs import Rows, Writing, log_rows, log_specs
from cdp_assets.unified_profiles.merges import Merges
from cdp_assets.unified_profiles.numbers import NO_IDENTIFIER, NO_IDENTIFIERS, Ints, Outcome
from cdp_assets.unified_profiles.state import Met, column, fetch, instants, ints, meet
from cdp_assets.unified_profiles.state_tables import (
    APPLIED_CORRECTIONS,
    ENTRIES,
    EVENT_IDENTIFIERS,
    HOLDINGS,
    IDENTIFIERS,
    LAST_SHOWN,
    PROFILES,
    STATE_TABLES,
)
from cdp_assets.unified_profiles.tables import (
    BUILDS,
    CORRECTED_BUILDS,
    CORRECTIONS,
    EVENT_PROFILES,
    ID_ALIASES,
    IDENTITY_CORRECTIONS,
    INTERNAL_TABLES,
    SCHEMA,
    VIOLATIONS,
    canonical_ids_as_of,
    external_id_mapping_updates,
    profile_schema,
    profile_tables,
)
from cdp_assets.unified_profiles.work import Work, gather
from resources.warehouse import Warehouse, naive_utc, timestamp_literal

ASSET = "profiles"
# Of the tables that builds continue from: another one makes the next build start anew.
_LAYOUT = 2


@dataclass(frozen=True)
class ProfilesResult:
    """What is known at the build's as_of. ``profiles``: canonical ones. ``violations``: identifiers refused by a rule.

    ``corrected_from``: the earliest received_at whose rows this build replaced; partitions that end later may be stale.
    """

    profiles: int
    merges: int
    violations: int
    resolved: int
    unresolved: int
    corrected_from: dt.datetime | None = field(default=None, compare=False)


def build_profiles(
    warehouse: Warehouse,
    config: SpaceConfig,
    graph: DataGraph,
    as_of: dt.datetime,
    loaded_at: dt.datetime,
    run_id: str,
) -> ProfilesResult:
    """Bring all tables of the room to the messages with received_at < ``as_of``."""
    schema = profile_schema(graph)
    warehouse.ensure(MESSAGES, *profile_tables(schema), *INTERNAL_TABLES, *STATE_TABLES)
    before, revision = _last_build(warehouse)
    until = max(as_of, before or as_of)
    anew = before is not None and revision != identity_revision(config)
    with ExitStack() as stack:
        work = gather(warehouse, config.identity, until, before, anew=anew, stack=stack)
        met = meet(warehouse, config.identity, work, stack)
        outcome = resolve(met.entries, met.state, met.policy)
        _write(warehouse, config, graph, work, met, outcome, until, loaded_at, run_id, stack)
        corrected = work.corrected_from
    return _result(warehouse, graph, as_of, corrected)


def identity_revision(config: SpaceConfig) -> str:
    """Hash of the configuration that decides the content of this room."""
    content = {"layout": _LAYOUT, "identity": config.identity.model_dump(mode="json"), "categories": config.category_ids}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _last_build(warehouse: Warehouse) -> tuple[dt.datetime | None, str | None]:
    """as_of and revision of the last build."""
    builds = warehouse.table(BUILDS.ref)
    rows = warehouse.rows(builds.filter(builds.asset == ASSET).select("as_of", "revision"), 1)
    return (rows[0]["as_of"].replace(tzinfo=dt.UTC), rows[0]["revision"]) if rows else (None, None)


# -- writing ---------------------------------------------------------------------------------------------------------


def _write(
    warehouse: Warehouse,
    config: SpaceConfig,
    graph: DataGraph,
    work: Work,
    met: Met,
    outcome: Outcome,
    until: dt.datetime,
    loaded_at: dt.datetime,
    run_id: str,
    stack: ExitStack,
) -> None:
    schema = profile_schema(graph)
    merges = Merges.of(met.parts, met.entries.seq[outcome.created], outcome.merged)
    newest = _newest_rows(warehouse, schema, work, met) if len(outcome.removed[0]) else None
    mappings, shown = mapping_rows(met.entries, outcome, met.state, met.policy, met.shown, newest)
    new_names = stack.enter_context(warehouse.scratch(_names(warehouse, work, met, outcome, stack)))
    old_names = _touched_before(warehouse, work, met, stack)
    names = stack.enter_context(warehouse.staged(ibis.union(_surviving(old_names, work), new_names)))
    dictionary = _dictionary(work)
    writing = Writing(warehouse, schema, config, work, met, outcome, names, dictionary, stack)
    rows, consent = log_rows(writing, mappings, merges)
    state = _state_rows(met, outcome, merges, consent, shown)
    state_tables = {ref: stack.enter_context(warehouse.scratch(table)) for ref, table in state.items()}
    renamed, old_rows = None, []
    if work.replaced is not None:
        old_rows = replaced.take_out(warehouse, schema, work.replaced, stack)
        gone = _texts(warehouse, old_names.filter(old_names.profile.isin(work.replaced.seq)).select("segment_id"))
        mapped = stack.enter_context(warehouse.staged(rows[external_id_mapping_updates(schema).ref][0]))  # type: ignore[arg-type]
        rows[external_id_mapping_updates(schema).ref] = [mapped]
        made = _texts(warehouse, new_names.select("segment_id"))
        renamed = aliases.renamed(warehouse, schema, work.replaced, set(gone), made, mapped, loaded_at)
    removed = stack.enter_context(warehouse.scratch(ints(identifier_id=met.identifier_id[outcome.removed[1]])))
    with warehouse.transaction():
        _delete(warehouse, schema, work, met)
        warehouse.delete_matching(HOLDINGS.ref, removed, ["identifier_id"])
        _insert(warehouse, work, rows, state_tables, names)
        replaced.keep_different(warehouse, old_rows, loaded_at, run_id)
        if renamed is not None:
            warehouse.delete(ID_ALIASES.ref, [])
            warehouse.append(ID_ALIASES.ref, renamed)
        parts = state_tables[PROFILES.ref]
        whole = names.select(canonical="profile", canonical_segment_id="segment_id")
        now = parts.join(names, "profile").join(whole, "canonical").select("segment_id", "canonical_segment_id")
        snapshots.refresh(warehouse, schema, old_names.select("segment_id"), now)
        if work.corrected_from is not None:
            corrected = {
                "corrected_from": [naive_utc(work.corrected_from)],
                "run_id": [run_id],
                "loaded_at": [naive_utc(loaded_at)],
            }
            warehouse.append(CORRECTED_BUILDS.ref, pa.table(corrected))
        profiles = warehouse.table(PROFILES.ref)
        record_build(
            warehouse,
            SCHEMA,
            asset=ASSET,
            partition_key="",
            as_of=until,
            revision=identity_revision(config),
            run_id=run_id,
            rows=warehouse.count(profiles.filter(profiles.profile == profiles.canonical)),
            loaded_at=loaded_at,
        )


def _newest_rows(warehouse: Warehouse, schema: str, work: Work, met: Met) -> Ints:
    """seq of the newest mapping row of each identifier met that somebody holds, 0 of the others."""
    holdings = warehouse.table(HOLDINGS.ref)
    profiles = warehouse.table(PROFILES.ref)
    parts = profiles.filter(profiles.canonical.isin(met.roots.profile))
    held = work.before.semi_join(holdings.filter(holdings.profile.isin(parts.profile)), "identifier_id")
    log = warehouse.table(external_id_mapping_updates(schema).ref)
    if work.replaced is not None:
        log = log.filter(log.seq.notin(work.replaced.seq))
    rows = held.join(log, [held.identifier_type == log.external_id_type, held.identifier_value == log.external_id_value])
    found = fetch(warehouse, rows.group_by("identifier_id").aggregate(seq=rows.seq.max()))
    newest = np.zeros(len(met.identifier_id), dtype=np.int64)
    newest[np.searchsorted(met.identifier_id, column(found, "identifier_id"))] = column(found, "seq")
    return newest


def _names(warehouse: Warehouse, work: Work, met: Met, outcome: Outcome, stack: ExitStack) -> pa.Table:
    """(profile, segment_id) of the profiles created: named by the identifier of best rank, and the message that created it."""
    seq = met.entries.seq[outcome.created]
    first = met.identifier_id[_best(met, outcome)] if len(seq) else seq
    rows = stack.enter_context(warehouse.scratch(ints(profile=seq, identifier_id=first)))
    named = rows.join(work.dictionary, "identifier_id").join(work.entries, rows.profile == work.entries.seq)
    table = fetch(warehouse, named.select("profile", "identifier_type", "identifier_value", "entry_id"))
    profile, *texts = (table.column(name).to_pylist() for name in table.column_names)
    names = [segment_id(*content) for content in zip(*texts, strict=True)]
    return pa.table({"profile": pa.array(profile, pa.int64()), "segment_id": pa.array(names, pa.string())})


def segment_id(identifier_type: str, value: str, message_id: str) -> str:
    """A profile's name, by content: its first identifier by priority, and the message that created it."""
    content = json.dumps([identifier_type, value, message_id], ensure_ascii=False)
    return "use_" + hashlib.sha256(content.encode()).hexdigest()[:27]


def _best(met: Met, outcome: Outcome) -> Ints:
    """Of each creating entry the identifier that it kept with the best rank, the first of equals."""
    entries = met.entries
    rank = np.array(met.policy.rank, dtype=np.int64)[met.state.kinds[entries.members]]
    rank[~outcome.kept] = len(met.policy.rank)
    place = np.arange(len(entries.members), dtype=np.int64)
    # The smallest (rank, place) of each entry with members.
    filled = np.flatnonzero(np.diff(entries.starts) > 0)
    lowest = np.minimum.reduceat(rank * len(place) + place, entries.starts[filled]) % max(len(place), 1)
    return entries.members[lowest[np.searchsorted(filled, outcome.created)]]


def _touched_before(warehouse: Warehouse, work: Work, met: Met, stack: ExitStack) -> ir.Table:
    """(profile, segment_id) of the profiles met, and of those whose entries are resolved again."""
    profiles = warehouse.table(PROFILES.ref)
    touched = profiles.canonical.isin(met.roots.profile)
    if work.replaced is not None:
        touched |= profiles.profile.isin(work.replaced.seq)
    return stack.enter_context(warehouse.staged(profiles.filter(touched).select("profile", "segment_id")))


def _surviving(names: ir.Table, work: Work) -> ir.Table:
    return names if work.replaced is None else names.filter(names.profile.notin(work.replaced.seq))


def _dictionary(work: Work) -> ir.Table:
    columns = ["identifier_id", "identifier_type", "identifier_value"]
    new = work.dictionary.filter(~work.dictionary.known)
    return ibis.union(work.before.select(*columns), new.select(*columns))


def _texts(warehouse: Warehouse, expression: ir.Table) -> list[str]:
    return fetch(warehouse, expression).column(0).to_pylist()


def _state_rows(met: Met, outcome: Outcome, merges: Merges, consent: dict[int, str], shown: ShownRows) -> dict:
    """The rows of the tables that the next build continues from, of all that was met or created."""
    canonical = merges.canonical()
    return {
        PROFILES.ref: ints(
            profile=merges.profiles, canonical=canonical, merges=_merge_counts(met, outcome, merges)
        ).append_column("consent", pa.array([consent.get(profile) for profile in merges.profiles.tolist()], pa.string())),
        HOLDINGS.ref: _holdings(met, outcome),
        LAST_SHOWN.ref: ints(
            profile=shown.profile,
            position=shown.position,
            identifier_id=_numbers_of(met, shown.identifier),
            seen_seq=shown.seen,
            row_seq=shown.row,
        ).append_column("identifier_type", pa.array(met.policy.types, pa.string()).take(pa.array(shown.kind, pa.int64()))),
    }


def _numbers_of(met: Met, identifier: Ints) -> pa.Array:
    """The warehouse's numbers of identifiers, NULL for NO_IDENTIFIER."""
    absent = identifier == NO_IDENTIFIER
    numbers = np.zeros(len(identifier), dtype=np.int64)
    numbers[~absent] = met.identifier_id[identifier[~absent]]
    return pa.array(numbers, pa.int64(), mask=absent)


def _merge_counts(met: Met, outcome: Outcome, merges: Merges) -> Ints:
    """How many profiles each canonical one took in; of the others 0."""
    counts = np.zeros(len(merges.profiles), dtype=np.int64)
    root = merges.places(merges.canonical())
    np.add.at(counts, root[merges.places(met.state.profiles)], met.state.merges)
    np.add.at(counts, root[merges.places(outcome.merged[1])], 1)
    return counts


def _holdings(met: Met, outcome: Outcome) -> pa.Table:
    """The new holdings: each identifier's last attachment, unless it was removed after it."""
    entry, identifier, profile = outcome.attached
    last = np.full(len(met.identifier_id), -1, dtype=np.int64)
    np.maximum.at(last, outcome.removed[1], outcome.removed[0])
    stays = entry > last[identifier]
    entry, identifier, profile = entry[stays], identifier[stays], profile[stays]
    table = ints(identifier_id=met.identifier_id[identifier], profile=profile, attached_seq=met.entries.seq[entry])
    return table.append_column("attached_at", instants(met.entries.at[entry]))


def _delete(warehouse: Warehouse, schema: str, work: Work, met: Met) -> None:
    """Take out what the new rows replace."""
    if work.anew:
        for spec in (*log_specs(schema), *STATE_TABLES):
            if spec is not CORRECTIONS:
                warehouse.delete(spec.ref, [])
    elif work.replaced is not None:
        for spec in (*log_specs(schema), ENTRIES, EVENT_IDENTIFIERS):
            warehouse.delete_matching(spec.ref, work.replaced, ["seq"])
        warehouse.delete_matching(HOLDINGS.ref, work.replaced.select(attached_seq="seq"), ["attached_seq"])
        for spec in (PROFILES, LAST_SHOWN):
            warehouse.delete_matching(spec.ref, work.replaced.select(profile="seq"), ["profile"])
    profiles = warehouse.table(PROFILES.ref)
    parts = profiles.filter(profiles.canonical.isin(met.roots.profile)).select("profile")
    warehouse.delete_matching(PROFILES.ref, parts, ["profile"])
    warehouse.delete_matching(LAST_SHOWN.ref, met.roots, ["profile"])


def _insert(warehouse: Warehouse, work: Work, rows: Rows, state: dict, names: ir.Table) -> None:
    warehouse.insert(ENTRIES.ref, work.entries.select("seq", "entry_id", "fingerprint"))
    warehouse.insert(EVENT_IDENTIFIERS.ref, work.identifiers.select("seq", "position", "identifier_id"))
    for ref, parts in rows.items():
        for part in parts:
            if isinstance(part, pa.Table):
                warehouse.append(ref, part)
            else:
                warehouse.insert(ref, part)
    # After the logs, which read the identifiers as they were beside the new ones.
    warehouse.insert(IDENTIFIERS.ref, work.dictionary.filter(~work.dictionary.known).drop("known"))
    warehouse.insert(PROFILES.ref, state[PROFILES.ref].join(names, "profile"))
    warehouse.insert(LAST_SHOWN.ref, state[LAST_SHOWN.ref])
    warehouse.insert(HOLDINGS.ref, state[HOLDINGS.ref])
    warehouse.delete(APPLIED_CORRECTIONS.ref, [])
    corrections = warehouse.table(IDENTITY_CORRECTIONS.ref)
    warehouse.insert(APPLIED_CORRECTIONS.ref, corrections.select(*APPLIED_CORRECTIONS.columns))


# -- counting --------------------------------------------------------------------------------------------------------


def _result(warehouse: Warehouse, graph: DataGraph, as_of: dt.datetime, corrected_from: dt.datetime | None) -> ProfilesResult:
    """Counts of what was known at ``as_of``, which may be earlier than what the logs reach."""
    known = timestamp_literal(as_of)
    ids = canonical_ids_as_of(warehouse, graph, as_of)
    canonical = ids.segment_id == ids.canonical_segment_id
    profiles = warehouse.rows(ids.aggregate(created=ids.count(), canonical=canonical.sum()), 1)[0]
    events, violations = warehouse.table(EVENT_PROFILES.ref), warehouse.table(VIOLATIONS.ref)
    events = events.filter(events.received_at < known)
    refused = violations.filter((violations.received_at < known) & (violations.reason != NO_IDENTIFIERS))
    taken = warehouse.rows(events.aggregate(all=events.count(), resolved=events.segment_id.count()), 1)[0]
    count = int(profiles["canonical"] or 0)
    return ProfilesResult(
        count,
        profiles["created"] - count,
        warehouse.count(refused),
        taken["resolved"],
        taken["all"] - taken["resolved"],
        corrected_from,
    )
