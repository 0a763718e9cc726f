"""A space's data graph, counted: who the people are (unified_profiles, computed_traits) put together with the graph's own counting.

The command line and the graph's asset show it.
"""

from __future__ import annotations

import datetime as dt

import ibis
import ibis.expr.types as ir

from cdp_assets.computed_traits.tables import BUILDS as TRAIT_BUILDS
from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.data_graph.keys import key_text
from cdp_assets.data_graph.measure import People, first_rows, measure
from cdp_assets.data_graph.report import GraphReport
from cdp_assets.data_graph.warehouse_check import check_graph
from cdp_assets.space.consumers import consumers_by_entity, consumers_by_node
from cdp_assets.space.space import Problem, Space
from cdp_assets.unified_profiles.tables import identifiers_as_of, profiles_as_of, traits_as_of
from resources.warehouse import MissingTableError, Warehouse, timestamp_literal

PROFILE = "canonical_segment_id"


def graph_report(
    space: Space,
    warehouse: Warehouse | None,
    as_of: dt.datetime,
    *,
    rows: int = 0,
    show_personal: bool = False,
    problems: tuple[Problem, ...] | None = None,
) -> GraphReport:
    """The report; with a warehouse counted in it, people as of ``as_of``, tables as they are now.

    ``rows``: so many first rows of each entity, masked unless ``show_personal``. ``problems``: of the check of the graph against the
    warehouse, which is otherwise made here.
    """
    by_node, by_entity = consumers_by_node(space), consumers_by_entity(space)
    if warehouse is None:
        return GraphReport(space, by_node, by_entity)
    found = check_graph(space.graph, warehouse) if problems is None else problems
    sample = first_rows(space.graph, warehouse, rows, show_personal=show_personal) if rows else {}
    measured = measure(space.graph, warehouse, people_of(space, warehouse, as_of))
    return GraphReport(space, by_node, by_entity, as_of, measured, sample, found)


def people_of(space: Space, warehouse: Warehouse, as_of: dt.datetime) -> People | None:
    """The people as the graph's joins see them; None where there are no profile tables yet."""
    try:
        profiles = profiles_as_of(warehouse, space.graph, as_of)
        known = identifiers_as_of(warehouse, space.graph, as_of)
    except MissingTableError:
        return None
    return People(
        profiles,
        lambda kind: known.filter(known["type"] == kind).select(PROFILE, "value"),
        lambda name: _trait(space, warehouse, as_of, name),
    )


def _trait(space: Space, warehouse: Warehouse, as_of: dt.datetime, name: str) -> ir.Table:
    """(canonical_segment_id, value): a computed trait of its newest build, which hides one of the same name from identify calls."""
    if name not in space.traits:
        said = traits_as_of(warehouse, space.graph, as_of)
        return said.filter(said["name"] == name).select(PROFILE, "value")
    builds = warehouse.table(TRAIT_BUILDS.ref)
    usable = builds.filter((builds.asset == name) & (builds.as_of <= timestamp_literal(as_of)))
    newest = warehouse.rows(usable.order_by(ibis.desc("as_of")).select("partition_key"), 1)
    if not newest:
        raise MissingTableError(f"trait {name} is not built")
    values = stored_values(warehouse, name, newest[0]["partition_key"])
    if space.traits[name].value_type != "number":
        return values.select(PROFILE, value=values["value_text"])
    # Of numbers only whole ones are keys.
    whole = values["value_number"].cast("int64")
    return values.filter(whole.cast("float64") == values["value_number"]).select(PROFILE, value=key_text(whole))
