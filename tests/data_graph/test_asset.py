"""The data graph's asset: what a scan shows and judges, and when the next one is due."""

from __future__ import annotations

import base64
import datetime as dt
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import dagster as dg
import pytest

from cdp_assets.dagster_support import TAG_AS_OF, WAREHOUSE_GROUP
from cdp_assets.data_graph.assets import FITS, KEYS, build_data_graph, key_of, scan_is_due
from cdp_assets.definitions import build_definitions
from cdp_assets.graph_report import graph_report
from cdp_assets.space.home import Home
from resources.space import SpaceResource, load
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.open import open_warehouse
from tests.people import World
from tests.sensors.conftest import MINI

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


class Scan:
    """The mini space with a small warehouse, and scans of its graph on an instance."""

    def __init__(self, folder: Path, home: Home, instance: dg.DagsterInstance) -> None:
        self.folder, self.home, self.instance = folder, home, instance

    def warehouse(self) -> Warehouse:
        return open_warehouse(load(self.folder), self.home)

    def run(self) -> tuple[dict[str, object], dict[str, dg.AssetCheckEvaluation]]:
        """Metadata of the asset, and its checks by name."""
        space = load(self.folder)
        made = build_data_graph(space, lambda *given: graph_report(*given[:3], rows=given[3]))
        resource = SpaceResource(directory=str(self.folder), home=str(self.home.root))
        done = dg.materialize([made], instance=self.instance, resources={"space": resource}, tags={TAG_AS_OF: NOW.isoformat()})
        (event,) = done.get_asset_materialization_events()
        metadata = {name: value.value for name, value in event.materialization.metadata.items()}
        return metadata, {one.check_name: one for one in done.get_asset_check_evaluations()}


@pytest.fixture
def scan(tmp_path: Path) -> Iterator[Scan]:
    folder = shutil.copytree(MINI, tmp_path / "mini")
    with dg.DagsterInstance.ephemeral() as instance:
        made = Scan(folder, Home(tmp_path / "home"), instance)
        with made.warehouse() as warehouse:
            world = World()
            world.profile("P", email="first@x.test")
            world.table("accounts", {"id": "int64", "email": "string"}, [{"id": 1, "email": "first@x.test"}])
            cards = {"id": "int64", "account_id": "int64", "overdue": "float64"}
            world.table("cards", cards, [{"id": 1, "account_id": 1, "overdue": 2.0}, {"id": 1, "account_id": 7, "overdue": None}])
            world.table("shops", {"id": "int64", "code": "string"}, [])
            world.table("purchases", {"id": "int64", "card_id": "int64", "shop_id": "int64"}, [])
            world.write(warehouse)
        yield made


def test_a_scan_shows_the_picture_the_counts_and_masked_rows(scan: Scan) -> None:
    metadata, checks = scan.run()
    found = re.fullmatch(r"!\[data graph\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", str(metadata["picture"]))
    assert found
    texts = [element.text for element in ElementTree.fromstring(base64.b64decode(found[1])).iter()]
    assert "50 % of 2 rows match" in texts
    assert "| accounts:cards | card | 2 | ID = ACCOUNT_ID | 50 % | 100 % | 1 |" in str(metadata["nodes"])
    assert "activation overdue_crm, audience overdue, model accounts" in str(metadata["nodes"])
    assert metadata["consumers"] == 5
    assert "first@x.test" not in str(metadata)
    assert "xxxxx@x.xxxx" in str(metadata["first rows of account, masked"])
    assert checks[FITS].passed
    # The two cards share a key.
    assert (checks[KEYS].passed, checks[KEYS].severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "is not unique: 2 rows have 1 values" in str(checks[KEYS].description)


def test_a_table_that_went_away_fails_the_check_and_clears_when_it_is_back(scan: Scan) -> None:
    with scan.warehouse() as warehouse:
        shops = warehouse.arrow(warehouse.table(TableRef("bank", "shops")))
        warehouse.drop(TableRef("bank", "shops"))
    metadata, checks = scan.run()
    assert (checks[FITS].passed, checks[FITS].severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert str(checks[FITS].description).startswith("data_graph.hcl:16: table mini.bank.shops of entity 'shop' does not exist")
    assert "accounts:cards" in str(metadata["nodes"])
    with scan.warehouse() as warehouse:
        world = World()
        world.table("shops", {"id": "int64", "code": "string"}, shops.to_pylist())
        world.write(warehouse)
    assert scan.run()[1][FITS].passed


def test_a_scan_is_due_once_a_day_and_when_the_graph_or_its_consumers_change(scan: Scan) -> None:
    def due(after: dt.timedelta) -> bool:
        return scan_is_due(scan.instance, load(scan.folder), NOW + after)

    assert due(dt.timedelta())
    scan.run()
    assert not due(dt.timedelta())
    assert not due(dt.timedelta(hours=23))
    assert not due(-dt.timedelta(days=3))
    assert due(dt.timedelta(days=1))
    (scan.folder / "audiences" / "shoppers.yaml").write_text(
        "key: shoppers\nname: Shoppers\ngroups: [{conditions: [{with_entity: home-shop}]}]\n"
    )
    assert due(dt.timedelta())


def test_the_asset_stands_beside_the_tables_and_nothing_waits_for_it(scan: Scan) -> None:
    graph = build_definitions(scan.folder, scan.home.root).resolve_asset_graph()
    node = graph.get(key_of(load(scan.folder)))
    assert node.group_name == WAREHOUSE_GROUP
    assert node.child_keys == set()
    assert {key.path[-1] for key in node.parent_keys} == {"accounts", "cards", "shops", "user_identifiers"}
    assert "![data graph](data:image/svg+xml;base64," in str(node.description)
    assert node.pools == {"mini_duckdb"}
