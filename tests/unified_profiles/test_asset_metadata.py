"""The asset shows how well profiles are persons where the home knows who is who, and nothing of it elsewhere."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from cdp_assets.dagster_support import TAG_AS_OF, asset_key
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from cdp_assets.unified_profiles.assets import build_unified_profiles
from resources.space import SpaceResource
from resources.warehouse.duckdb import open_duckdb

SPACE = Path(__file__).parents[2] / "spaces" / "owl_bank"
PARTS = {"p1": {"parts": [[["user_id", "u1"], ["anonymous_id", "a"]]]}, "p2": {"parts": [[["email", "e@x"]]]}}
AT = dt.datetime(2026, 6, 1)
MESSAGE = {"message_id": "m", "type": "identify", "user_id": "u1", "anonymous_id": "a", "received_at": AT, "timestamp": AT}


@pytest.mark.parametrize("known", [True, False])
def test_precision_and_recall_are_shown_where_there_is_a_truth(tmp_path: Path, known: bool) -> None:
    space, home = load_space(SPACE), Home(tmp_path)
    file = home.warehouse_file(space.name)
    file.parent.mkdir(parents=True)
    with open_duckdb(file) as warehouse:
        warehouse.ensure(MESSAGES)
        row = {**MESSAGE, "traits": '{"email":"e@x"}'}
        schema = MESSAGES.schema.to_pyarrow()
        warehouse.append(
            MESSAGES.ref, pa.table({name: pa.array([value], schema.field(name).type) for name, value in row.items()})
        )
    if known:
        home.truth_file(space.name).write_text(json.dumps({"persons": PARTS}))
    result = dg.materialize(
        [build_unified_profiles(space.config, space.graph)],
        resources={"space": SpaceResource(directory=str(SPACE), home=str(tmp_path))},
        tags={TAG_AS_OF: "2026-07-01T00:00:00+00:00"},
    )
    metadata = {event.asset_key: event.materialization.metadata for event in result.get_asset_materialization_events()}
    shown = metadata.pop(asset_key(space.name, "unified_profiles", "user_identifiers"))
    assert metadata and all("pairwise precision" not in of_other for of_other in metadata.values())
    assert ("pairwise precision" in shown) is known
    if known:
        assert shown["pairwise precision"].value == pytest.approx(1 / 3)
        assert shown["pairwise recall"].value == shown["reachable recall"].value == 1.0
        report = shown["beside the truth"].value
        assert "data:image/svg+xml;base64," in report and "e@x" not in report
