"""SQL traits: one SELECT of the user's, its rows attached to profiles or accounts by an identifier.

Segment's limits hold: one identifier column, no null and no duplicate identifier, at most 25 columns and 25 million rows, texts
and numbers only (booleans and instants are kept as texts), rows of at most 16 KB (larger ones are dropped, and counted).
Identifiers that nobody has are counted, not kept.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.compile import Keep, TraitRows
from cdp_assets.computed_traits.scan import OWNER, typed
from cdp_assets.computed_traits.tables import ACCOUNT, PROFILE
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.operators import finite
from cdp_assets.space.queries import MAX_COLUMNS, PEOPLE_COLUMNS
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import group_traits_as_of, identifiers_as_of, memberships_as_of
from resources.warehouse import Warehouse
from resources.warehouse import functions as fn

MAX_ROWS = 25_000_000
MAX_ROW_BYTES = 16 * 1024


class SqlTraitError(Exception):
    """The query of a SQL trait breaks one of the rules; the message names the trait's column and counts, never values."""


@dataclass(frozen=True)
class SqlQuery:
    """The checked result of one query, for all traits that are columns of it.

    attached: (owner, trait_KEY …), one row per owner. returned: the query's columns. unknown: rows whose identifier nobody has;
    oversized: rows beyond 16 KB. Neither is in ``attached``.
    """

    attached: ir.Table
    returned: tuple[str, ...]
    unknown: int
    oversized: int

    def rows_of(self, trait: Trait) -> TraitRows:
        """The values of one of its columns. Raises SqlTraitError for a column that is missing or not of the trait's type."""
        if trait.key not in self.returned:
            raise _no_column(trait.key, self.returned)
        text, number = _values(self.attached[_column(trait)], trait)
        rows = self.attached.select(OWNER, value_text=text, value_number=number)
        return TraitRows(trait, rows.filter(rows["value_text"].notnull() | rows["value_number"].notnull()))


def run_query(
    warehouse: Warehouse, space: Space, traits: Sequence[Trait], as_of: dt.datetime, keep: Keep, most_rows: int = MAX_ROWS
) -> SqlQuery:
    """The SELECT that ``traits`` share, run once, checked and attached.

    Raises SqlTraitError, and UserQueryError for what is not one SELECT over known schemas.
    """
    identifier = str(traits[0].identifier)
    query = warehouse.user_query(traits[0].query or "", schemas=space.readable_schemas, parameters={"as_of": as_of})
    _check_columns(query, identifier)
    named = query[identifier]
    wanted = {_column(trait): query[trait.key] for trait in traits if trait.key in query.columns}
    if not wanted:
        raise _no_column(traits[0].key, query.columns)
    told = query.select(
        identifier=named if named.type().is_string() else named.cast("int64").cast("string"), bytes=_row_bytes(query), **wanted
    )
    # One row more than allowed is enough to refuse the rest.
    told = keep(told.limit(most_rows + 1))
    owners = keep(_owners(warehouse, space, identifier, as_of))
    unknown, oversized = _check_rows(warehouse, told, owners, identifier, most_rows)
    kept = told.filter(told["bytes"] <= MAX_ROW_BYTES)
    joined = kept.join(owners, kept["identifier"] == owners["known"])
    # An owner may have several identifiers of the type that have a row: the last seen identifier speaks for it.
    newest = ibis.row_number().over(group_by=OWNER, order_by=[ibis.desc("seq"), "identifier"])
    ranked = joined.mutate(place=newest)
    attached = ranked.filter(ranked["place"] == 0).select(OWNER, *wanted)
    return SqlQuery(keep(attached), tuple(query.columns), unknown, oversized)


def _column(trait: Trait) -> str:
    # A key may be any word, also one of ours.
    return f"trait_{trait.key}"


def _no_column(name: str, returned: Sequence[str]) -> SqlTraitError:
    return SqlTraitError(f"the query has no column {name}; it returns {', '.join(returned)}")


def _check_columns(query: ir.Table, identifier: str) -> None:
    if identifier not in query.columns:
        raise _no_column(identifier, query.columns)
    if len(query.columns) > MAX_COLUMNS:
        raise SqlTraitError(f"the query returns {len(query.columns)} columns, more than {MAX_COLUMNS}")
    if set(PEOPLE_COLUMNS) <= set(query.columns):
        raise SqlTraitError(f"the query returns both {' and '.join(PEOPLE_COLUMNS)}; return one of them")
    dtype = query[identifier].type()
    if not (dtype.is_string() or dtype.is_integer()):
        raise SqlTraitError(f"column {identifier} is {dtype}; an identifier is text or a whole number")
    for name in query.columns:
        if _is_document(query[name]):
            raise SqlTraitError(f"column {name} is {query[name].type()}; a SQL trait is text, a number, a boolean or an instant")


def _is_document(value: ir.Value) -> bool:
    dtype = value.type()
    return dtype.is_nested() or dtype.is_json() or dtype.is_binary()


def _row_bytes(query: ir.Table) -> ir.IntegerValue:
    sizes = [fn.byte_length(query[name].cast("string")).fill_null(0) for name in query.columns]
    return sum(sizes[1:], start=sizes[0])


def _owners(warehouse: Warehouse, space: Space, identifier: str, as_of: dt.datetime) -> ir.Table:
    """(known, owner, seq): whose each identifier is. Of accounts: every group that has a member or a trait."""
    if identifier == ACCOUNT:
        groups = memberships_as_of(warehouse, space.graph, as_of).select(ACCOUNT)
        groups = groups.union(group_traits_as_of(warehouse, space.graph, as_of).select(ACCOUNT)).distinct()
        return groups.select(known=groups[ACCOUNT], owner=groups[ACCOUNT], seq=ibis.literal(0, "int64"))
    identifiers = identifiers_as_of(warehouse, space.graph, as_of)
    identifiers = identifiers.filter(identifiers.type == identifier)
    return identifiers.select(known=identifiers.value, owner=identifiers[PROFILE], seq=identifiers.seq)


def _check_rows(warehouse: Warehouse, told: ir.Table, owners: ir.Table, identifier: str, most_rows: int) -> tuple[int, int]:
    """How many rows are of nobody, and how many are too large. Raises SqlTraitError for what refuses the whole result."""
    known = told.left_join(owners, told["identifier"] == owners["known"])
    counts = warehouse.rows(
        known.aggregate(
            rows=known.count(),
            named=known["identifier"].count(),
            different=known["identifier"].nunique(),
            unknown=known.count(where=known["identifier"].notnull() & known["known"].isnull()),
            oversized=known.count(where=known["bytes"] > MAX_ROW_BYTES),
        ),
        1,
    )[0]
    if counts["rows"] > most_rows:
        raise SqlTraitError(f"the query returned more than {most_rows} rows")
    if counts["rows"] > counts["named"]:
        raise SqlTraitError(f"the query returned {counts['rows'] - counts['named']} row(s) with a null {identifier}")
    if counts["named"] > counts["different"]:
        raise SqlTraitError(f"the query returned {counts['named'] - counts['different']} row(s) with a duplicate {identifier}")
    return int(counts["unknown"]), int(counts["oversized"])


def _values(value: ir.Value, trait: Trait) -> tuple[ir.StringValue, ir.FloatingValue]:
    """The value as (text, number), by the trait's type."""
    dtype, wanted = value.type(), trait.value_type
    no_text, no_number = ibis.null("string"), ibis.null("float64")
    if wanted == "number":
        if dtype.is_string():
            return no_text, typed(value, "number")
        if dtype.is_numeric() and not dtype.is_boolean():
            return no_text, finite(value.cast("float64"))
    elif dtype.is_string():
        return typed(value, wanted), no_number
    elif dtype.is_boolean() and wanted in ("string", "boolean"):
        return ibis.ifelse(value.isnull(), no_text, ibis.ifelse(value, "true", "false")), no_number
    elif dtype.is_integer() and wanted == "string":
        return value.cast("int64").cast("string"), no_number
    elif (dtype.is_timestamp() or dtype.is_date()) and wanted in ("string", "timestamp"):
        return fn.iso_text(value.cast("timestamp(6)")), no_number
    raise SqlTraitError(f"column {trait.key} is {dtype}, which does not fit 'type: {wanted}'; declare the trait's type")
