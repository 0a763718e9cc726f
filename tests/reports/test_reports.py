"""Reports: the rows of their query in place of the rows before, refused whole when their key is none, with a plot and no person on it."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import re
from xml.etree import ElementTree

import dagster as dg
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cdp_assets.plots import bars, image
from cdp_assets.reports.build import Report, ReportError, build_report
from cdp_assets.reports.tables import BUILDS, report_ref
from cdp_assets.space.models.activations import ReportSettings, SqlModel
from cdp_assets.space.space import Space
from resources.space import load
from resources.warehouse import TableRef, TableSpec, Warehouse
from tests.e2e.conftest import ROOT

AT = dt.datetime(2026, 10, 8, tzinfo=dt.UTC)
ROWS = TableSpec(
    TableRef("product", "rows"),
    {"user_id": "string", "day": "date", "kind": "string", "boards": "int64"},
    "Rows.",
    subject="user_id",
)
QUERY = "SELECT user_id, day, kind, boards, CAST(boards AS DECIMAL(10, 2)) / 2 AS half FROM product.rows WHERE day < :as_of"


@pytest.fixture
def mural() -> Space:
    return load(ROOT / "spaces" / "mural")


def space_with(mural: Space, query: str = QUERY, **report: object) -> Space:
    plot = {"label": "day", "values": ["boards", "half"]}
    settings = {"plot": plot, "personal": ["user_id"], **report}
    model = SqlModel.model_validate(
        {"key": "activity", "name": "Activity", "primary_key": "user_id", "query": query, "report": settings}
    )
    return dataclasses.replace(mural, models={"activity": model})


def put(warehouse: Warehouse, *rows: tuple[str, int, str, int]) -> None:
    warehouse.ensure(ROWS)
    warehouse.delete(ROWS.ref, [])
    found = [{"user_id": u, "day": dt.date(2026, 10, day), "kind": kind, "boards": n} for u, day, kind, n in rows]
    warehouse.append(ROWS.ref, pa.Table.from_pylist(found, schema=ROWS.schema.to_pyarrow()))


def build(warehouse: Warehouse, space: Space) -> Report:
    return build_report(warehouse, space, "activity", as_of=AT, revision="r", run_id="run", loaded_at=AT)


def table(warehouse: Warehouse) -> list[dict]:
    return warehouse.arrow(warehouse.table(report_ref("activity")).order_by("user_id")).to_pylist()


@pytest.mark.parametrize("engine", ["duckdb_warehouse", pytest.param("snowflake_warehouse", marks=pytest.mark.snowflake)])
def test_the_rows_of_the_query_are_the_report(request: pytest.FixtureRequest, engine: str, mural: Space) -> None:
    warehouse: Warehouse = request.getfixturevalue(engine)
    put(warehouse, ("u1", 1, "a", 4), ("u2", 2, "b", 6), ("u3", 9, "b", 1))
    first = build(warehouse, space_with(mural))
    assert (first.rows, first.rows_before) == (2, None)
    assert [(row["user_id"], row["boards"], row["half"]) for row in table(warehouse)] == [("u1", 4, 2.0), ("u2", 6, 3.0)]
    assert (first.labels, first.series) == (("2026-10-01", "2026-10-02"), {"boards": (4.0, 6.0), "half": (2.0, 3.0)})
    put(warehouse, ("u9", 3, "a", 1))
    changed = space_with(mural, "SELECT user_id, kind FROM product.rows", plot={"count_by": "kind"})
    second = build(warehouse, changed)
    assert (second.rows, second.rows_before, second.labels, second.series) == (1, 2, ("a",), {"rows": (1.0,)})
    assert table(warehouse) == [{"user_id": "u9", "kind": "a"}]
    builds = warehouse.arrow(warehouse.table(BUILDS.ref)).to_pylist()
    assert [(row["asset"], row["rows"]) for row in builds] == [("activity", 1)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT 'same' AS user_id, day, boards, boards AS half FROM product.rows", "2 duplicate and 0 null values"),
        (
            "SELECT CAST(NULL AS VARCHAR) AS user_id, day, boards, boards AS half FROM product.rows",
            "0 duplicate and 3 null values",
        ),
        ("SELECT user_id, day, boards FROM product.rows", "has no column half"),
        ("SELECT user_id FROM secret.rows", "secret"),
    ],
)
def test_a_report_that_cannot_be_keeps_its_old_rows(duckdb_warehouse: Warehouse, mural: Space, query: str, said: str) -> None:
    put(duckdb_warehouse, ("u1", 1, "a", 4), ("u2", 2, "b", 6), ("u3", 3, "b", 1))
    build(duckdb_warehouse, space_with(mural))
    before = table(duckdb_warehouse)
    with pytest.raises(ReportError, match=said):
        build(duckdb_warehouse, space_with(mural, query))
    assert table(duckdb_warehouse) == before


def test_nobody_is_shown(duckdb_warehouse: Warehouse, mural: Space) -> None:
    put(duckdb_warehouse, ("mur_person", 1, "a", 4))
    assert "mur_person" not in json.dumps(build(duckdb_warehouse, space_with(mural)).sample)
    with pytest.raises(ValidationError, match="'user_id' is personal and cannot be drawn"):
        ReportSettings.model_validate({"plot": {"count_by": "user_id"}, "personal": ["user_id"]})


def test_a_plot_has_a_bar_for_each_number_with_heights_in_proportion() -> None:
    svg = bars(["a", "<b>"], {"people": [10, 5], "boards": [0, 20]})
    drawn = ElementTree.fromstring(svg)
    rects = [r for r in drawn.iter("{http://www.w3.org/2000/svg}rect") if r.find("{http://www.w3.org/2000/svg}title") is not None]
    heights = [float(rect.attrib["height"]) for rect in rects]
    assert [round(height / max(heights), 2) for height in heights] == [0.5, 0.25, 0, 1]
    assert rects[1][0].text == "<b>: 5 people"
    encoded = re.search(r"base64,(.*)\)$", image("x", svg))
    assert encoded is not None and base64.b64decode(encoded[1]).decode() == svg


def test_the_reports_of_mural_are_assets_with_checks_built_daily(mural: Space) -> None:
    from cdp_assets.definitions import build_definitions

    definitions = build_definitions(mural.directory, ROOT / "nowhere")
    graph = definitions.resolve_asset_graph()
    for key in ("audit_report", "user_milestone", "user_activity_summary"):
        asset = dg.AssetKey(["mural", "reports", key])
        assert {check.name for check in graph.get_check_keys_for_assets({asset})} == {"not_empty", "not_halved"}
    schedule = definitions.resolve_schedule_def("mural__reports")
    assert schedule.cron_schedule == "30 4 * * *"
