"""The picture of a graph: XML for any graph, nothing on top of anything else, everything said that there is to say."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings

from cdp_assets.data_graph.measure import JoinCounts, Measured
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.data_graph.picture import CARD_HEIGHT, CARD_WIDTH, Box, Picture, draw, lay_out, share_text
from tests.data_graph.graphs import V1, graphs, parsed

SVG = "{http://www.w3.org/2000/svg}"


def boxes(graph: DataGraph) -> list[Box]:
    layout = lay_out(graph)
    return [*([layout.profile] if layout.profile else []), *layout.nodes.values(), *layout.alone.values()]


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_any_graph_is_drawn_without_overlaps_inside_of_its_frame(graph: DataGraph) -> None:
    found = boxes(graph)
    assert len(found) == bool(graph.relationships) + len(list(graph.nodes())) + len(lay_out(graph).alone)
    for one, other in itertools.combinations(found, 2):
        apart = abs(one.x - other.x) >= CARD_WIDTH or abs(one.y - other.y) >= CARD_HEIGHT
        assert apart, (one, other)
    layout = lay_out(graph)
    assert all(box.x > 0 and box.right < layout.width and 0 < box.y < layout.height - CARD_HEIGHT for box in found)
    for box in layout.nodes.values():
        assert box.node is not None
        above = layout.nodes[box.node.parent] if box.node.parent else layout.profile
        assert above is not None
        assert above.right < box.x
    counts = Measured(0, {entity.slug: 0 for entity in graph.entities}, {})
    first = draw(graph, Picture("a <title> & more", {}, counts))
    assert first == draw(graph, Picture("a <title> & more", {}, counts))
    root = ElementTree.fromstring(first)
    assert root.tag == f"{SVG}svg"
    fluid = ElementTree.fromstring(draw(graph, Picture("a"), fluid=True))
    assert (root.get("width"), fluid.get("width"), fluid.get("viewBox")) == (f"{layout.width:g}", None, root.get("viewBox"))
    assert not {element.tag for element in root.iter()} & {f"{SVG}script", f"{SVG}image", f"{SVG}a"}


def said(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_says_tables_keys_counts_and_consumers() -> None:
    joins = {"accounts": JoinCounts(10, 8, 12, 12, 13), "accounts:carts": JoinCounts(12, 0, 5, 0, 0)}
    picture = Picture(
        "shop · data graph",
        {"accounts": ["activation crm", "audience buyers", "audience lapsed"]},
        Measured(10, {"account": 12, "cart": 5}, joins),
        {"product": "table missing"},
        "as of today",
    )
    found = said(draw(parsed(V1), picture))
    for text in (
        "10 profiles",
        "DB.CUST.ACCOUNT",
        "12 rows · key ID",
        "external_id email = EMAIL",
        "ID = ACCOUNT_ID",
        "via DB.CUST.CART_PRODUCT",
        "ID = CART_ID, SKU = SKU",
        "100 % of 12 rows match",
        "80 % of 10 profiles match",
        "0 % of 5 rows match",
        "13 pairs joined",
        "2 audiences · 1 activation",
        "buyers, lapsed, crm",
        "not used",
        "table missing",
        "as of today",
    ):
        assert text in found, text


def test_without_a_warehouse_nothing_is_counted() -> None:
    found = said(draw(parsed(V1), Picture("shop")))
    assert not [text for text in found if "match" in text or "rows" in text or "profiles" in text.split()]
    assert "key ID" in found


def test_names_that_do_not_fit_are_shortened_and_counted() -> None:
    names = [f"audience a_rather_long_name_{number}" for number in range(9)]
    found = said(draw(parsed(V1), Picture("shop", {"accounts": names})))
    assert "9 audiences" in found
    assert "a_rather_long_name_0 +8" in found


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 7, "0 %"), (7, 7, "100 %"), (1, 2, "50 %"), (1, 100_000, "0.1 %"), (99_999, 100_000, "99.9 %"), (995, 1000, "99.5 %")],
)
def test_only_none_is_0_and_only_all_is_100_per_cent(part: int, whole: int, text: str) -> None:
    assert share_text(part, whole) == text
