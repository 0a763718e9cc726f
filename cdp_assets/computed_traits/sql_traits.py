"""SQL traits: one SELECT of the user's, its rows attached to profiles by an identifier.

Segment's limits hold: one identifier column, no null and no duplicate identifier, at most 25 columns and 25 million rows,
texts and numbers only. Identifiers that nobody has are counted, not kept.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import SCHEMA
from cdp_assets.raw_events.tables import EVENTS_SCHEMA
from cdp_assets.space.models import Trait
from cdp_assets.space.operators import number_of
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import SCHEMA as PROFILES_SCHEMA
from cdp_assets.unified_profiles.tables import identifiers_as_of, profile_schema
from resources.warehouse import Warehouse
from resources.warehouse import functions as fn

MAX_COLUMNS = 25
MAX_ROWS = 25_000_000


class SqlTraitError(Exception):
    """The query of a SQL trait breaks one of the rules; the message names the trait's column and counts, never values."""


@dataclass(frozen=True)
class SqlTraitRows:
    """Rows of a checked SQL trait in the form of TRAIT_VALUES, and how many of the query's rows belong to no profile."""

    rows: ir.Table
    unknown: int


def query_of(warehouse: Warehouse, space: Space, trait: Trait, as_of: dt.datetime) -> ir.Table:
    """The trait's SELECT as (identifier, value). Raises SqlTraitError, or UserQueryError for what is not one SELECT over known schemas."""
    schemas = [*space.config.warehouse.schemas, profile_schema(space.graph), EVENTS_SCHEMA, PROFILES_SCHEMA, SCHEMA]
    query = warehouse.user_query(trait.query or "", schemas=schemas, parameters={"as_of": as_of})
    identifier, key = (trait.identifier or "").lower(), trait.key
    for column in (identifier, key):
        if column not in query.columns:
            raise SqlTraitError(f"the query has no column {column}; it returns {', '.join(query.columns)}")
    if len(query.columns) > MAX_COLUMNS:
        raise SqlTraitError(f"the query returns {len(query.columns)} columns, more than {MAX_COLUMNS}")
    if {"user_id", "anonymous_id"} <= set(query.columns):
        raise SqlTraitError("the query returns both user_id and anonymous_id; return one of them")
    named, value = query[identifier], query[key]
    if not (named.type().is_string() or named.type().is_integer()):
        raise SqlTraitError(f"column {identifier} is {named.type()}; an identifier is text or a whole number")
    text = named if named.type().is_string() else named.cast("int64").cast("string")
    return query.select(cdp_identifier=text, cdp_value=value)


def checked_rows(warehouse: Warehouse, space: Space, trait: Trait, as_of: dt.datetime, query: ir.Table) -> SqlTraitRows:
    """Attach the rows of :func:`query_of` (an expression, or the table that it was staged into) to profiles. Raises SqlTraitError."""
    _values(query["cdp_value"], trait)
    identifiers = identifiers_as_of(warehouse, space.graph, as_of)
    identifiers = identifiers.filter(identifiers.type == (trait.identifier or ""))
    known = query.left_join(identifiers, query["cdp_identifier"] == identifiers["value"])
    counts = warehouse.rows(
        known.aggregate(
            rows=known.count(),
            named=known["cdp_identifier"].count(),
            distinct=known["cdp_identifier"].nunique(),
            unknown=known.count(where=known["cdp_identifier"].notnull() & known["canonical_segment_id"].isnull()),
        ),
        1,
    )[0]
    if counts["rows"] > counts["named"]:
        raise SqlTraitError(f"the query returned {counts['rows'] - counts['named']} row(s) with a null {trait.identifier}")
    if counts["named"] > counts["distinct"]:
        raise SqlTraitError(
            f"the query returned {counts['named'] - counts['distinct']} row(s) with a duplicate {trait.identifier}"
        )
    if counts["rows"] > MAX_ROWS:
        raise SqlTraitError(f"the query returned {counts['rows']} rows, more than {MAX_ROWS}")
    # A profile may hold several identifiers of the type that have a row: the last seen identifier speaks for it.
    found = query.join(identifiers, query["cdp_identifier"] == identifiers["value"])
    newest = ibis.row_number().over(group_by="canonical_segment_id", order_by=[ibis.desc("seq"), "cdp_identifier"])
    found = found.mutate(cdp_rank=newest)
    text, number = _values(found["cdp_value"], trait)
    rows = found.filter(found["cdp_rank"] == 0).select(
        "canonical_segment_id", trait=ibis.literal(trait.key), value_text=text, value_number=number
    )
    kept = rows.filter(rows["value_text"].notnull() | rows["value_number"].notnull())
    return SqlTraitRows(kept.select("trait", "canonical_segment_id", "value_text", "value_number"), int(counts["unknown"]))


def _values(value: ir.Value, trait: Trait) -> tuple[ir.StringValue, ir.FloatingValue]:
    """The value as (text, number), by the trait's type."""
    dtype, wanted = value.type(), trait.value_type
    no_text, no_number = ibis.null("string"), ibis.null("float64")
    if dtype.is_nested() or dtype.is_json() or dtype.is_binary():
        raise SqlTraitError(f"column {trait.key} is {dtype}; a SQL trait is text, a number, a boolean or an instant")
    if wanted == "number":
        if dtype.is_string():
            return no_text, number_of(value)
        if dtype.is_numeric() and not dtype.is_boolean():
            return no_text, value.cast("float64")
    elif dtype.is_string():
        return (value.lower() if wanted == "boolean" else value), no_number
    elif dtype.is_boolean() and wanted in ("string", "boolean"):
        return ibis.ifelse(value.isnull(), no_text, ibis.ifelse(value, "true", "false")), no_number
    elif dtype.is_integer() and wanted == "string":
        return value.cast("int64").cast("string"), no_number
    elif (dtype.is_timestamp() or dtype.is_date()) and wanted in ("string", "timestamp"):
        return fn.iso_text(value.cast("timestamp(6)")), no_number
    raise SqlTraitError(f"column {trait.key} is {dtype}, which does not fit 'type: {wanted}'; declare the trait's type")
