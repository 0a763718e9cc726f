"""What an audience's asset shows of its newest build."""

from __future__ import annotations

import base64
import datetime as dt
import re
from xml.etree import ElementTree

from cdp_assets.linked_audiences.shown import markdown, shown, size_plot
from cdp_assets.linked_audiences.tables import AUDIENCE_FUNNELS
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from tests.linked_audiences.bank import bank, bank_space, build, one_group, where
from tests.people import AS_OF, World, window

MONTH = dt.timedelta(days=31)


def people() -> tuple[World, Space]:
    """Seven with accounts, three of them checking; one of the checking ones has no user id. From February on P0 has none any more."""
    kinds = ["checking", "checking", "checking", "savings", "savings", "savings", "savings"]
    world = bank(accounts=[(n, f"p{n}@x", kind) for n, kind in enumerate(kinds)])
    for n in range(7):
        more = {} if n == 1 else {"user_id": f"u{n}"}
        world.profile(f"P{n}", email=f"p{n}@x", **more)
    checking = {"with_entity": "accounts", "where": where(("kind", "equals", "checking"))}
    return world, bank_space(one_group("owners", {"with_entity": "accounts"}), one_group("checking", checking))


def test_it_shows_the_funnel_the_overlap_the_reach_and_some_who_came(warehouse: Warehouse) -> None:
    world, made = people()
    world.write(warehouse)
    results = build(warehouse, made, funnels=True)
    seen = shown(warehouse, made, results, window(made).key, AS_OF)
    checking = markdown(seen["checking"])
    assert checking["profiles left at each condition"].splitlines() == [
        "as of 2026-01-01 00:00",
        "",
        "```",
        "7 profiles; all of these conditions",
        "└─ 7  with at least 1 Accounts (accounts) where",
        '   └─ 3  kind is "checking"',
        "```",
    ]
    assert checking["overlap"].splitlines()[2:] == ["| owners | 3 | 100% | 43% |"]
    assert markdown(seen["owners"])["overlap"].splitlines()[2:] == ["| checking | 3 | 43% | 100% |"]
    assert checking["members with an identifier"].splitlines()[2:] == ["| email | 3 | 100% |", "| user_id | 2 | 67% |"]
    assert checking["changes since the partition before"].splitlines()[2:] == ["| entered | data | 3 |"]
    came = checking["entered since the last build, some"].splitlines()
    assert came == ["- P0, email x0@x, user_id x0", "- P1, email x0@x", "- P2, email x0@x, user_id x0"]
    assert len(markdown(seen["owners"])["entered since the last build, some"].splitlines()) == 5
    assert "size over time" not in checking, "one build is no history"


def test_who_left_is_shown_and_the_size_of_every_partition_is_plotted(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    build(duckdb_warehouse, made, funnels=True)
    world.tables["accounts"][1][0]["kind"] = "savings"
    world.write_tables(duckdb_warehouse)
    later = AS_OF + MONTH
    results = build(duckdb_warehouse, made, later, funnels=True)
    found = shown(duckdb_warehouse, made, results, window(made, later).key, later)["checking"]
    assert (found.entered, list(found.left)) == ([], ["P0, email x0@x, user_id x0"])
    assert found.sizes == [(AS_OF, 3), (later, 2)]
    assert found.changes == {("left", "data"): 1}
    image = re.search(r"base64,([A-Za-z0-9+/=]+)", markdown(found)["size over time"])
    assert image is not None
    assert base64.b64decode(image[1]).decode() == size_plot(found.sizes)


def test_the_plot_is_a_picture_with_every_build(duckdb_warehouse: Warehouse) -> None:
    sizes = [(AS_OF + n * MONTH, count) for n, count in enumerate([0, 1200, 600])]
    drawn = ElementTree.fromstring(size_plot(sizes))
    circles = drawn.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3
    assert [circle.get("cy") for circle in circles] == ["146.0", "12.0", "79.0"]
    words = [text.text for text in drawn.findall("{http://www.w3.org/2000/svg}text")]
    assert words == ["0", "1,200", "2026-01-01", "2026-03-04"]


def test_an_open_partition_is_counted_once_in_a_definition_and_again_when_it_closes(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)

    def counted(as_of: dt.datetime) -> set[dt.datetime]:
        build(duckdb_warehouse, made, as_of, funnels=True)
        return {
            row["as_of"].replace(tzinfo=dt.UTC) for row in duckdb_warehouse.rows(duckdb_warehouse.table(AUDIENCE_FUNNELS.ref), 99)
        }

    first, second, closing = AS_OF + dt.timedelta(days=1), AS_OF + dt.timedelta(days=2), AS_OF + MONTH
    assert counted(first) == {first}
    assert counted(second) == {first}
    assert counted(closing) == {closing}
