"""Builds the traits of a space for one window: the messages are read once for all of them, and one that fails, fails alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from cdp_assets.computed_traits.changes import write_changes
from cdp_assets.computed_traits.compile import TraitRows, event_rows, of_members
from cdp_assets.computed_traits.scan import OWNER
from cdp_assets.computed_traits.sql_traits import run_query
from cdp_assets.computed_traits.tables import (
    ACCOUNT,
    ACCOUNT_CHANGES,
    ACCOUNT_VALUES,
    PROFILE,
    SCHEMA,
    TABLES,
    TRAIT_CHANGES,
    TRAIT_VALUES,
)
from cdp_assets.space.builds import BuildRecord, record_builds
from cdp_assets.space.errors import cause
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from cdp_assets.space.trait_rules import TraitKind
from resources.warehouse import TableRef, Warehouse, timestamp_literal


@dataclass(frozen=True)
class TraitResult:
    """What became of a trait, or why it was not built.

    rows: owners with a value; changed: owners whose value is another than in the trait's partition before; nulled: those of the
    changed that have none any more. Owners are profiles; of a trait of accounts whose members have no value, accounts. accounts:
    accounts with a value. unknown: rows of a SQL trait whose identifier nobody has; oversized: its rows beyond 16 KB, left out.
    """

    rows: int = 0
    error: str | None = None
    unknown: int = 0
    oversized: int = 0
    changed: int = 0
    nulled: int = 0
    accounts: int = 0


@dataclass(frozen=True)
class _Build:
    """What all traits of one build share."""

    warehouse: Warehouse
    space: Space
    window: Window
    as_of: dt.datetime
    loaded_at: dt.datetime
    run_id: str
    revisions: Mapping[str, str]


def build_traits(
    warehouse: Warehouse,
    space: Space,
    keys: Sequence[str],
    window: Window,
    as_of: dt.datetime,
    loaded_at: dt.datetime,
    run_id: str,
    revisions: Mapping[str, str],
) -> dict[str, TraitResult]:
    """Compute the traits ``keys`` as of ``as_of`` and replace their rows of the window's partition.

    Their values, what changed, and the record of the build. ``revisions``: the revision of each trait, stored with its rows. A
    trait that fails keeps its previous partition and has ``error`` set (no row values in it); the others are built all the same.
    SQL traits of one query share its run. Results are in the order of ``keys``.
    """
    warehouse.ensure(*TABLES)
    build = _Build(warehouse, space, window, as_of, loaded_at, run_id, revisions)
    results = _build_event_traits(build, [space.traits[key] for key in keys if space.traits[key].kind is not TraitKind.sql])
    queries: dict[tuple[str, str], list[Trait]] = {}
    for key in keys:
        trait = space.traits[key]
        if trait.kind is TraitKind.sql:
            queries.setdefault((trait.identifier or "", trait.query or ""), []).append(trait)
    for traits in queries.values():
        results |= _build_sql_traits(build, traits)
    return {key: results[key] for key in keys}


def _build_event_traits(build: _Build, traits: Sequence[Trait]) -> dict[str, TraitResult]:
    """All event traits from one scan; when that fails, each by itself, so that only those at fault fail."""
    if not traits:
        return {}
    try:
        with ExitStack() as stack:
            found = event_rows(
                build.warehouse, build.space, traits, build.as_of, keep=lambda e: stack.enter_context(build.warehouse.staged(e))
            )
            return _store(build, found)
    except Exception as error:  # noqa: BLE001 - whatever one trait raises must not reach the others
        if len(traits) == 1:
            return {traits[0].key: TraitResult(error=cause(error))}
        return {key: result for trait in traits for key, result in _build_event_traits(build, [trait]).items()}


def _build_sql_traits(build: _Build, traits: Sequence[Trait]) -> dict[str, TraitResult]:
    """The traits of one query: what is wrong with its rows is wrong for all of them, what is wrong with a column for that one."""
    results: dict[str, TraitResult] = {}
    try:
        with ExitStack() as stack:
            query = run_query(
                build.warehouse, build.space, traits, build.as_of, keep=lambda e: stack.enter_context(build.warehouse.staged(e))
            )
            for trait in traits:
                try:
                    stored = _store(build, [query.rows_of(trait)])[trait.key]
                    results[trait.key] = replace(stored, unknown=query.unknown, oversized=query.oversized)
                except Exception as error:  # noqa: BLE001 - whatever one trait raises must not reach the others
                    results[trait.key] = TraitResult(error=cause(error))
    except Exception as error:  # noqa: BLE001 - as above
        return {trait.key: TraitResult(error=cause(error)) for trait in traits}
    return results


# -- storing -------------------------------------------------------------------------------------------------------------


def _store(build: _Build, found: Sequence[TraitRows]) -> dict[str, TraitResult]:
    """Replace the partition of the traits by their rows, with what changed and the records of their builds, in one transaction."""
    warehouse, keys = build.warehouse, [rows.trait.key for rows in found]
    parts: dict[str, list[ir.Table]] = {PROFILE: [], ACCOUNT: []}
    for number, one in enumerate(found):
        if one.trait.of_accounts:
            parts[ACCOUNT].append(_numbered(number, one.rows, ACCOUNT))
        if one.trait.of_profiles:
            rows = of_members(warehouse, build.space, one.rows, build.as_of) if one.trait.of_accounts else one.rows
            parts[PROFILE].append(_numbered(number, rows, PROFILE))
    with ExitStack() as stack:
        names = stack.enter_context(warehouse.scratch(_names(build, keys)))
        # Together before the transaction: DuckDB writes one table by all its threads, but a union of many small ones by one.
        unions = {
            owner: stack.enter_context(warehouse.staged(reduce(lambda left, right: left.union(right), some)))
            for owner, some in parts.items()
            if some
        }
        stack.enter_context(warehouse.transaction())
        for spec, owner in ((TRAIT_VALUES, PROFILE), (ACCOUNT_VALUES, ACCOUNT)):
            warehouse.delete(spec.ref, [("trait", "in", keys), ("partition_key", "=", build.window.key)])
            if owner in unions:
                warehouse.insert(spec.ref, _stamped(build, unions[owner], names))
        stored = {owner: _counts(build, spec.ref, keys) for owner, spec in ((PROFILE, TRAIT_VALUES), (ACCOUNT, ACCOUNT_VALUES))}
        records = [
            BuildRecord(
                one.trait.key,
                build.revisions[one.trait.key],
                stored[PROFILE if one.trait.of_profiles else ACCOUNT].get(one.trait.key, (0, 0))[0],
            )
            for one in found
        ]
        record_builds(warehouse, SCHEMA, records, build.window.key, build.as_of, build.run_id, build.loaded_at)
        first = write_changes(warehouse, build.space, keys, build.window.key)
        changed = {
            owner: _counts(build, spec.ref, keys) for owner, spec in ((PROFILE, TRAIT_CHANGES), (ACCOUNT, ACCOUNT_CHANGES))
        }
    results = {}
    for one in found:
        key, owner = one.trait.key, PROFILE if one.trait.of_profiles else ACCOUNT
        rows, accounts = stored[owner].get(key, (0, 0))[0], stored[ACCOUNT].get(key, (0, 0))[0]
        changes, nulled = (rows, 0) if key in first else changed[owner].get(key, (0, 0))
        results[key] = TraitResult(rows, changed=changes, nulled=nulled, accounts=accounts)
    return results


def _numbered(number: int, rows: ir.Table, owner: str) -> ir.Table:
    """A trait's rows, its key and revision a number until they are written: texts that are the same in all rows cost as much as others."""
    return rows.select(
        number=ibis.literal(number, type="int32"), **{owner: rows[OWNER]}, value_text="value_text", value_number="value_number"
    )


def _names(build: _Build, keys: Sequence[str]) -> pa.Table:
    """(number, trait, revision)"""
    numbers = pa.array(range(len(keys)), pa.int32())
    return pa.table({"number": numbers, "trait": list(keys), "revision": [build.revisions[key] for key in keys]})


def _stamped(build: _Build, rows: ir.Table, names: ir.Table) -> ir.Table:
    named = rows.join(names, "number").drop("number")
    return named.mutate(partition_key=ibis.literal(build.window.key), as_of=timestamp_literal(build.as_of))


def _counts(build: _Build, ref: TableRef, keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Rows of each trait in the window's partition, and how many of them have no value."""
    table = build.warehouse.table(ref)
    mine = table.filter(table.trait.isin(list(keys)) & (table.partition_key == build.window.key))
    empty = mine.value_text.isnull() & mine.value_number.isnull()
    counted = mine.group_by("trait").aggregate(rows=mine.count(), empty=mine.count(where=empty))
    return {row["trait"]: (int(row["rows"]), int(row["empty"])) for row in build.warehouse.rows(counted, len(keys))}
