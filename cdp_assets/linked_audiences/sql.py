"""An audience as one SQL query for people to read and run, in the dialect of their choice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import ibis

from cdp_assets.computed_traits.tables import TABLES as TRAIT_TABLES
from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.linked_audiences.compile import compile_inline
from cdp_assets.linked_audiences.evidence import counting_query
from cdp_assets.linked_audiences.tables import BUILDS
from cdp_assets.raw_events.tables import TABLES as EVENT_TABLES
from cdp_assets.raw_events.tables import any_suppressions
from cdp_assets.space.documents import Place
from cdp_assets.space.space import Space
from cdp_assets.space.time import window_of
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_schema, profile_tables
from resources.warehouse import MissingTableError, TableRef, Warehouse
from resources.warehouse.compiling import CompilingWarehouse

Schemas = Callable[[TableRef], ibis.Schema]


def audience_sql(space: Space, key: str, dialect: str, schemas: Warehouse | Schemas, *, as_of: dt.datetime | None = None) -> str:
    """The members query of an audience in ``dialect`` (duckdb, snowflake, databricks, bigquery), audiences it refers to in place.

    ``schemas``: the open warehouse of the space, or a function that gives a table's schema and raises MissingTableError; tables
    that the project itself makes need not exist yet. ``as_of``: default the audience's newest build, or else the end of
    the space's first partition. Raises ConditionError, MissingTableError, and WarehouseError for an unknown dialect.
    """
    catalogue = schemas.schema if isinstance(schemas, Warehouse) else schemas
    instant = as_of or (_newest_build(schemas, key) if isinstance(schemas, Warehouse) else None) or _first_end(space)
    warehouse = CompilingWarehouse(dialect, _with_own_tables(space, catalogue))
    partition = window_of(space.config, instant).key
    compiled = compile_inline(
        warehouse,
        space,
        key,
        instant,
        trait_values=lambda trait: stored_values(warehouse, trait, partition),
        suppressions=isinstance(schemas, Warehouse) and any_suppressions(schemas),
    )
    return warehouse.pretty_sql(compiled.members)


def counting_sql(space: Space, key: str, place: Place, warehouse: Warehouse, as_of: dt.datetime, profile: str) -> str:
    """The query, in the warehouse's dialect, of the rows of one profile that pass the condition of audience ``key`` at ``place``."""
    compiling = CompilingWarehouse(warehouse.dialect, _with_own_tables(space, warehouse.schema))
    partition = window_of(space.config, as_of).key
    rows = counting_query(
        compiling, space, key, place, as_of, profile, trait_values=lambda trait: stored_values(compiling, trait, partition)
    )
    return compiling.pretty_sql(rows)


def _with_own_tables(space: Space, catalogue: Schemas) -> Schemas:
    """The catalogue, and the declared columns of tables that the project has not made yet."""
    people = () if space.graph.external else profile_tables(profile_schema(space.graph))
    own = {spec.ref: spec.schema for spec in (*people, *INTERNAL_TABLES, *EVENT_TABLES, *TRAIT_TABLES)}

    def schema(ref: TableRef) -> ibis.Schema:
        try:
            return catalogue(ref)
        except MissingTableError:
            if ref not in own:
                raise
            return own[ref]

    return schema


def _newest_build(warehouse: Warehouse, key: str) -> dt.datetime | None:
    if not warehouse.has(BUILDS.ref):
        return None
    builds = warehouse.table(BUILDS.ref)
    rows = warehouse.rows(builds.filter(builds.asset == key).order_by(ibis.desc("as_of")).select("as_of"), 1)
    return rows[0]["as_of"].replace(tzinfo=dt.UTC) if rows else None


def _first_end(space: Space) -> dt.datetime:
    start = space.config.start_date
    return window_of(space.config, dt.datetime(start.year, start.month, start.day, 0, 0, 1, tzinfo=dt.UTC)).end
