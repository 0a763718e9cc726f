"""Builds the traits of a space for one window: the messages are read once for all of them, and one that fails, fails alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.compile import event_scan, event_trait_rows
from cdp_assets.computed_traits.sql_traits import checked_rows, query_of
from cdp_assets.computed_traits.tables import SCHEMA, TABLES, TRAIT_VALUES
from cdp_assets.space.builds import record_build
from cdp_assets.space.errors import cause
from cdp_assets.space.models import Trait, TraitKind
from cdp_assets.space.space import Space
from cdp_assets.space.time import Window
from resources.warehouse import Warehouse, timestamp_literal


@dataclass(frozen=True)
class TraitResult:
    """What became of a trait: its rows, or why it was not built. ``unknown``: rows of a SQL trait whose identifier nobody has."""

    rows: int = 0
    error: str | None = None
    unknown: int = 0


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

    ``revisions``: the revision of each trait, stored with its rows. A trait that fails keeps its previous partition and has
    ``error`` set (no row values in it); the others are built all the same. Results are in the order of ``keys``.
    """
    warehouse.ensure(*TABLES)
    build = _Build(warehouse, space, window, as_of, loaded_at, run_id, revisions)
    event_traits = [space.traits[key] for key in keys if space.traits[key].kind is not TraitKind.sql]
    results = _build_event_traits(build, event_traits)
    for key in keys:
        if space.traits[key].kind is TraitKind.sql:
            results[key] = _build_sql_trait(build, space.traits[key])
    return {key: results[key] for key in keys}


def _build_event_traits(build: _Build, traits: Sequence[Trait]) -> dict[str, TraitResult]:
    """All event traits from one scan; when that fails, each by itself, so that only those at fault fail."""
    if not traits:
        return {}
    try:
        with ExitStack() as stack:
            scan = stack.enter_context(build.warehouse.staged(event_scan(build.warehouse, build.space, traits, build.as_of)))
            rows = stack.enter_context(build.warehouse.staged(event_trait_rows(scan, traits)))
            counts = _store(build, traits, rows)
    except Exception as error:  # noqa: BLE001 - whatever one trait raises must not reach the others
        if len(traits) == 1:
            return {traits[0].key: TraitResult(error=cause(error))}
        return {key: result for trait in traits for key, result in _build_event_traits(build, [trait]).items()}
    return {trait.key: TraitResult(rows=counts.get(trait.key, 0)) for trait in traits}


def _build_sql_trait(build: _Build, trait: Trait) -> TraitResult:
    try:
        with ExitStack() as stack:
            query = query_of(build.warehouse, build.space, trait, build.as_of)
            # The user's query runs once: its rows are checked, then attached.
            query = stack.enter_context(build.warehouse.staged(query))
            checked = checked_rows(build.warehouse, build.space, trait, build.as_of, query)
            rows = stack.enter_context(build.warehouse.staged(checked.rows))
            counts = _store(build, [trait], rows)
    except Exception as error:  # noqa: BLE001 - whatever one trait raises must not reach the others
        return TraitResult(error=cause(error))
    return TraitResult(rows=counts.get(trait.key, 0), unknown=checked.unknown)


def _store(build: _Build, traits: Sequence[Trait], rows: ir.Table) -> dict[str, int]:
    """Replace the partition of the traits by ``rows`` and record their builds, in one transaction; rows per trait."""
    warehouse, keys = build.warehouse, [trait.key for trait in traits]
    counted = rows.group_by("trait").aggregate(rows=rows.count())
    counts = {row["trait"]: int(row["rows"]) for row in warehouse.rows(counted, len(keys))}
    revision = rows["trait"].cases(*((key, build.revisions[key]) for key in keys), else_="")
    stored = rows.mutate(partition_key=ibis.literal(build.window.key), as_of=timestamp_literal(build.as_of), revision=revision)
    with warehouse.transaction():
        warehouse.delete(TRAIT_VALUES.ref, [("trait", "in", keys), ("partition_key", "=", build.window.key)])
        warehouse.insert(TRAIT_VALUES.ref, stored)
        for key in keys:
            record_build(
                warehouse,
                SCHEMA,
                asset=key,
                partition_key=build.window.key,
                as_of=build.as_of,
                revision=build.revisions[key],
                run_id=build.run_id,
                rows=counts.get(key, 0),
                loaded_at=build.loaded_at,
            )
    return counts
