"""What a partition changed: the rows of ``trait_changes``, from the values of a partition and of the one before it.

A trait's partition before is the newest earlier one that was built, whatever its revision: what a destination was told last is
what counts. When a partition is built again, the changes of the next one are written again, too, so that changes always lead
from each partition's values to the next one's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import (
    ACCOUNT,
    ACCOUNT_CHANGES,
    ACCOUNT_VALUES,
    BUILDS,
    PROFILE,
    TRAIT_CHANGES,
    TRAIT_VALUES,
)
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import profiles_as_of
from resources.warehouse import Warehouse

_TABLES = ((TRAIT_VALUES, TRAIT_CHANGES, PROFILE), (ACCOUNT_VALUES, ACCOUNT_CHANGES, ACCOUNT))
_VALUE = ("value_text", "value_number")


def write_changes(warehouse: Warehouse, space: Space, keys: Sequence[str], partition_key: str) -> list[str]:
    """Replace the changes of a partition that was just built, and recorded, and of the built partition after it.

    Call it within the transaction that wrote the values. Returns the traits of which no partition is earlier: their first
    partition has no rows of its own, all its values are new.
    """
    neighbours = _neighbours(warehouse, keys, partition_key)
    first: list[str] = []
    for before, traits in _grouped((row["before"], str(row["asset"])) for row in neighbours):
        _clear(warehouse, traits, partition_key)
        if before is None:
            first += traits
        else:
            _write(warehouse, space, traits, partition_key, before)
    for after, traits in _grouped((row["after"], str(row["asset"])) for row in neighbours):
        if after is not None:
            _clear(warehouse, traits, after)
            _write(warehouse, space, traits, after, partition_key)
    return first


def _clear(warehouse: Warehouse, traits: Sequence[str], partition_key: str) -> None:
    for _, changes, _ in _TABLES:
        warehouse.delete(changes.ref, [("trait", "in", list(traits)), ("partition_key", "=", partition_key)])


def _grouped(pairs: Iterable[tuple[str | None, str]]) -> list[tuple[str | None, list[str]]]:
    """Traits by partition, in the order of partitions."""
    found: dict[str | None, list[str]] = {}
    for partition, trait in pairs:
        found.setdefault(partition, []).append(trait)
    return sorted(found.items(), key=lambda item: item[0] or "")


def _neighbours(warehouse: Warehouse, keys: Sequence[str], partition_key: str) -> list[dict[str, str | None]]:
    """asset, before, after: the built partitions of each trait around this one. Partition keys sort as their times do."""
    builds = warehouse.table(BUILDS.ref)
    builds = builds.filter(builds.asset.isin(list(keys)))
    key = builds.partition_key
    found = builds.group_by("asset").aggregate(
        before=key.max(where=key < partition_key), after=key.min(where=key > partition_key)
    )
    return warehouse.rows(found.order_by("asset"), len(keys))


def _write(warehouse: Warehouse, space: Space, traits: Sequence[str], partition_key: str, before: str) -> None:
    builds = warehouse.table(BUILDS.ref)
    built = builds.filter(builds.asset.isin(list(traits)) & (builds.partition_key == partition_key)).select(
        "asset", "as_of", "revision"
    )
    instants = sorted({row["as_of"] for row in warehouse.rows(built.select("as_of").distinct(), len(traits))})
    for values, changes, owner in _TABLES:
        stored = warehouse.table(values.ref)
        stored = stored.filter(stored.trait.isin(list(traits)))
        now = stored.filter(stored.partition_key == partition_key)
        then = stored.filter(stored.partition_key == before).select("trait", owner, *_VALUE)
        warehouse.insert(changes.ref, _changed(now, then, owner))
        for instant in instants:
            made = built.filter(built.as_of == instant)
            gone = _gone(now, then, owner, made)
            if owner == PROFILE:
                # A profile that was merged away since is no profile: what it had is not taken from anybody.
                gone = gone.semi_join(profiles_as_of(warehouse, space.graph, instant.replace(tzinfo=dt.UTC)), owner)
            warehouse.insert(changes.ref, gone.mutate(partition_key=ibis.literal(partition_key)))


def _changed(now: ir.Table, then: ir.Table, owner: str) -> ir.Table:
    old = then.rename(old_trait="trait", old_owner=owner, old_text="value_text", old_number="value_number")
    joined = now.left_join(old, [now["trait"] == old["old_trait"], now[owner] == old["old_owner"]])
    same = joined["value_text"].identical_to(joined["old_text"]) & joined["value_number"].identical_to(joined["old_number"])
    return joined.filter(~same).select(*now.columns)


def _gone(now: ir.Table, then: ir.Table, owner: str, made: ir.Table) -> ir.Table:
    """(trait, owner, as_of, revision) of those that had a value and have none, of the traits in ``made``."""
    missing = then.anti_join(now, ["trait", owner]).select("trait", owner)
    return missing.join(made, missing["trait"] == made["asset"]).select("trait", owner, "as_of", "revision")
