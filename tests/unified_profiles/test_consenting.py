"""Who consents, found without the newest state of everybody, against consent as it reads for each person."""

from __future__ import annotations

import datetime as dt
import random

import pyarrow as pa
import pytest

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.unified_profiles.tables import CONSENT_STATES, consent_as_of, consenting_as_of, id_graph_updates
from resources.warehouse import TableSpec, Warehouse, naive_utc

GRAPH = DataGraph("v1.0.0", "lab.people", "segment:materialized", (), ())
START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
CATEGORIES = ("ads", "analytics", "sales")
PEOPLE = [f"p{n}" for n in range(40)]


def instant(minute: int) -> dt.datetime:
    return START + dt.timedelta(minutes=minute)


def fill(warehouse: Warehouse, spec: TableSpec, rows: list[dict]) -> None:
    warehouse.ensure(spec)
    warehouse.delete(spec.ref, [])
    names = {name: [row.get(name) for row in rows] for name in spec.columns}
    warehouse.append(spec.ref, pa.table(names, schema=spec.schema.to_pyarrow()))


def write_history(warehouse: Warehouse, draw: random.Random) -> None:
    """200 minutes in each of which a person says something about some categories, or becomes part of another one, or its own again."""
    states, ids = [], [{"segment_id": p, "canonical_segment_id": p, "seq": 0, "received_at": naive_utc(START)} for p in PEOPLE]
    for minute in range(1, 200):
        person, at = draw.choice(PEOPLE), {"seq": minute, "received_at": naive_utc(instant(minute))}
        if draw.random() < 0.15:
            ids.append({"segment_id": person, "canonical_segment_id": draw.choice([person, *PEOPLE]), **at})
            continue
        for category in draw.sample(CATEGORIES, draw.randint(1, 3)):
            value = draw.choices(["true", "false", "conflict"], [6, 2, 1])[0]
            states.append({"segment_id": person, "category": category, "value": value, **at})
    fill(warehouse, CONSENT_STATES, states)
    fill(warehouse, id_graph_updates("people"), ids)


@pytest.mark.parametrize("seed", range(3))
def test_those_who_consent_are_those_whose_every_state_is_true(warehouse: Warehouse, seed: int) -> None:
    draw = random.Random(seed)
    write_history(warehouse, draw)
    sizes = []
    for wanted in (("ads",), ("ads", "sales"), CATEGORIES, ("ads", "ads"), ("nonesuch",)):
        as_of = instant(draw.randint(120, 200))
        said: dict[str, dict[str, str]] = {}
        for row in warehouse.rows(consent_as_of(warehouse, GRAPH, as_of), 1_000):
            said.setdefault(row["canonical_segment_id"], {})[row["category"]] = row["value"]
        expected = {person for person, values in said.items() if all(values.get(category) == "true" for category in wanted)}
        found = warehouse.rows(consenting_as_of(warehouse, GRAPH, wanted, as_of), 1_000)
        assert {row["canonical_segment_id"] for row in found} == expected, wanted
        sizes.append(len(expected))
    assert sizes[0] > sizes[1] > 0 and sizes[4] == 0, sizes
