"""What a build continues from, and leaves for the next one: from the warehouse into arrays of numbers, and back.

Only what the entries meet is read: the profiles that hold one of their identifiers, and all that those profiles hold.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.unified_profiles.identifiers import Rules
from cdp_assets.unified_profiles.last_seen import ShownRows
from cdp_assets.unified_profiles.numbers import NO_IDENTIFIER, NO_PROFILE, Entries, Ints, Policy, State
from cdp_assets.unified_profiles.state_tables import HOLDINGS, LAST_SHOWN, PROFILES
from cdp_assets.unified_profiles.work import Work, separations
from resources.warehouse import Warehouse

_BATCH_ROWS = 200_000
_US = pa.timestamp("us")


@dataclass
class Met:
    """What a build works on, in arrays. ``identifier_id``: the warehouse's number of each identifier, ascending.

    ``parts``: every profile that is part of a canonical one met (profile, canonical). ``consent``: canonical profile -> its consent.
    ``roots``: scratch table (profile) of the canonical profiles met.
    """

    entries: Entries
    state: State
    policy: Policy
    identifier_id: Ints
    held_by: Ints
    parts: tuple[Ints, Ints]
    consent: dict[int, str]
    shown: ShownRows
    roots: ir.Table


def column(table: pa.Table, name: str) -> Ints:
    """An integer or timestamp column as int64."""
    array = table.column(name)
    if pa.types.is_timestamp(array.type):
        array = array.cast(_US).cast(pa.int64())
    return array.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def fetch(warehouse: Warehouse, expression: ir.Table) -> pa.Table:
    """The rows of an expression of numbers (or few texts), whole."""
    batches = list(warehouse.batches(expression, _BATCH_ROWS))
    return pa.Table.from_batches(batches) if batches else expression.schema().to_pyarrow().empty_table()


def meet(warehouse: Warehouse, settings: IdentitySettings, work: Work, stack: ExitStack) -> Met:
    """Read what the work meets; rows of entries that are replaced count as gone."""
    pairs = work.identifiers.filter(~work.identifiers.blocked)
    # All that the entries carry, each once.
    carried = work.dictionary.filter(~work.dictionary.blocked).select("identifier_id", "identifier_type")
    holdings, profiles, shown = _standing(warehouse, work)
    held = holdings.join(profiles, "profile").select("identifier_id", "profile", "canonical", "attached_at")
    roots = held.semi_join(carried, "identifier_id").select(profile="canonical").distinct()
    roots = stack.enter_context(warehouse.staged(roots))
    held = held.filter(held.canonical.isin(roots.profile))
    held = held.join(work.before.select("identifier_id", "identifier_type"), "identifier_id")
    parts = fetch(warehouse, profiles.filter(profiles.canonical.isin(roots.profile)))
    before = fetch(warehouse, shown.filter(shown.profile.isin(roots.profile)))
    nodes = _nodes(fetch(warehouse, carried), fetch(warehouse, held), set(before.column("identifier_type").to_pylist()))
    code = {kind: number for number, kind in enumerate(nodes.types)}
    state = _state(nodes, parts)
    entries = _entries(warehouse, work, pairs, nodes.identifier_id)
    canonical = column(parts, "profile") == column(parts, "canonical")
    own = parts.filter(pa.array(canonical))
    return Met(
        entries=entries,
        state=state,
        policy=_policy(warehouse, settings, work, nodes),
        identifier_id=nodes.identifier_id,
        held_by=nodes.held_by,
        parts=(column(parts, "profile"), column(parts, "canonical")),
        consent={
            profile: text
            for profile, text in zip(column(own, "profile").tolist(), own.column("consent").to_pylist(), strict=True)
            if text is not None
        },
        shown=_shown(before, code, nodes.identifier_id),
        roots=roots,
    )


def _standing(warehouse: Warehouse, work: Work) -> tuple[ir.Table, ir.Table, ir.Table]:
    """Holdings, profiles and what was shown, without what is replaced."""
    holdings, profiles, shown = (warehouse.table(spec.ref) for spec in (HOLDINGS, PROFILES, LAST_SHOWN))
    if work.replaced is None:
        return holdings, profiles, shown
    gone = work.replaced.seq
    return (
        holdings.filter(holdings.attached_seq.notin(gone)),
        profiles.filter(profiles.profile.notin(gone)),
        shown.filter(shown.profile.notin(gone)),
    )


@dataclass
class _Nodes:
    """The identifiers met: numbers (ascending), type numbers, and who holds each since when."""

    identifier_id: Ints
    kinds: Ints
    types: tuple[str, ...]
    canonical: Ints
    held_by: Ints
    attached: Ints


def _nodes(carried: pa.Table, held: pa.Table, shown: set[str]) -> _Nodes:
    numbers = np.concatenate([column(carried, "identifier_id"), column(held, "identifier_id")])
    kinds = pa.chunked_array(
        [*carried.column("identifier_type").chunks, *held.column("identifier_type").chunks], pa.string()
    ).dictionary_encode()
    encoded = kinds.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    # Types in the order of their names, not of their arrival.
    names = encoded.dictionary.to_pylist()
    types = tuple(sorted({*names, *shown}))
    code = np.array([types.index(name) for name in names], dtype=np.int64)
    codes = code[encoded.indices.to_numpy(zero_copy_only=False)] if len(names) else np.empty(0, dtype=np.int64)
    identifier_id, first = np.unique(numbers, return_index=True)
    canonical = np.full(len(identifier_id), NO_PROFILE, dtype=np.int64)
    held_by, attached = canonical.copy(), np.zeros(len(identifier_id), dtype=np.int64)
    place = np.searchsorted(identifier_id, column(held, "identifier_id"))
    canonical[place] = column(held, "canonical")
    held_by[place] = column(held, "profile")
    attached[place] = column(held, "attached_at")
    return _Nodes(identifier_id, codes[first], types, canonical, held_by, attached)


def _state(nodes: _Nodes, parts: pa.Table) -> State:
    profile, canonical, merges = (column(parts, name) for name in ("profile", "canonical", "merges"))
    order = np.argsort(profile)
    order = order[(profile == canonical)[order]]
    return State(nodes.kinds, nodes.canonical, nodes.attached, profile[order], merges[order])


def _entries(warehouse: Warehouse, work: Work, pairs: ir.Table, identifier_id: Ints) -> Entries:
    rows = fetch(warehouse, work.entries.select("seq", "received_at", "removes").order_by("seq"))
    seq = column(rows, "seq")
    members = fetch(warehouse, pairs.select("seq", "identifier_id", "position").order_by("seq", "position"))
    return Entries(
        seq=seq,
        at=column(rows, "received_at"),
        removes=rows.column("removes").combine_chunks().to_numpy(zero_copy_only=False).astype(np.bool_),
        starts=_starts(seq, column(members, "seq")),
        members=_place_of(identifier_id)[column(members, "identifier_id")],
    )


def _place_of(identifier_id: Ints) -> Ints:
    """The place of each identifier by its number: numbers are dense, so a table of them is small and quick."""
    place = np.zeros(int(identifier_id.max(initial=0)) + 1, dtype=np.int64)
    place[identifier_id] = np.arange(len(identifier_id))
    return place


def _starts(seq: Ints, of_member: Ints) -> Ints:
    """Where the members of each entry begin, and the end of the last one's: entries and members by seq."""
    starts = np.zeros(len(seq) + 1, dtype=np.int64)
    if not len(of_member):
        return starts
    bounds = np.concatenate([[0], np.flatnonzero(of_member[1:] != of_member[:-1]) + 1, [len(of_member)]])
    if len(bounds) == len(starts):  # none is without members
        return bounds
    starts[1 + np.searchsorted(seq, of_member[bounds[:-1]])] = np.diff(bounds)
    return np.cumsum(starts)


def _policy(warehouse: Warehouse, settings: IdentitySettings, work: Work, nodes: _Nodes) -> Policy:
    known, new = work.before, work.dictionary
    names = ["identifier_type", "identifier_value", "identifier_id"]
    dictionary = ibis.union(known.select(*names), new.filter(~new.known).select(*names))
    sides = []
    for pair in separations(warehouse, dictionary):
        one, other = (_places(nodes.identifier_id, side) for side in pair)
        if one and other:
            sides.append((one, other))
    return Policy.of(
        Rules.of(settings),
        nodes.types,
        devices=settings.device_types,
        separate_devices=settings.shared_devices == "separate",
        separations=tuple(sides),
    )


def _places(identifier_id: Ints, numbers: frozenset[int]) -> frozenset[int]:
    wanted = np.array(sorted(numbers), dtype=np.int64)
    return frozenset(np.flatnonzero(np.isin(identifier_id, wanted)).tolist())


def _shown(rows: pa.Table, code: dict[str, int], identifier_id: Ints) -> ShownRows:
    kinds = np.array([code[kind] for kind in rows.column("identifier_type").to_pylist()], dtype=np.int64)
    removed = np.array(rows.column("identifier_id").is_null().to_pylist(), dtype=np.bool_)
    number = column(rows.append_column("number", rows.column("identifier_id").fill_null(0)), "number")
    return ShownRows(
        column(rows, "profile"),
        kinds,
        column(rows, "position"),
        np.where(removed, NO_IDENTIFIER, np.searchsorted(identifier_id, number)).astype(np.int64),
        column(rows, "seen_seq"),
        column(rows, "row_seq"),
    )


def ints(**columns: Any) -> pa.Table:
    """Columns of whole numbers."""
    return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


def instants(values: Ints) -> pa.Array:
    """Microseconds since 1970 as timestamps."""
    return pc.cast(pa.array(values, pa.int64()), _US)
