"""A space whose Profiles Sync tables are the company's own: copies of what our run made, in a schema that no room writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from ruamel.yaml import YAML

from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.computed_traits.tables import TRAIT_VALUES
from cdp_assets.definitions import build_definitions
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.space.naming import snake_case
from cdp_assets.unified_profiles.external import CONSENT_TRAIT, PastError
from cdp_assets.unified_profiles.tables import CONSENT_STATES, consent_as_of, identifiers_as_of, traits_as_of
from resources.space import load
from resources.warehouse import TableRef, Warehouse
from tests.e2e.conftest import Stage

OURS, THEIRS = "profiles", "segment_sync"
CATEGORIES = ("Functional", "Analytics", "Advertising")
EVENT_TABLES = ("identifies", "tracks", "pages")
# What a build says of itself.
OUTSIDE = {"run_id", "loaded_at", "source_run_id"}


def copy(warehouse: Warehouse, *names: str) -> None:
    for name in names:
        if warehouse.has(TableRef(OURS, name)):
            warehouse.create(TableRef(THEIRS, name), warehouse.table(TableRef(OURS, name)))


def raw_tables(warehouse: Warehouse) -> None:
    """The raw tables, consent among the traits as Segment has it, and the event tables."""
    copy(warehouse, "id_graph_updates", "external_id_mapping_updates", "profile_traits_updates", *EVENT_TABLES)
    traits = TableRef(THEIRS, "profile_traits_updates")
    states = warehouse.table(CONSENT_STATES.ref)
    for category in CATEGORIES:
        column = snake_case(CONSENT_TRAIT + category)
        warehouse.add_columns(traits, {column: "string"})
        mine = states.filter(states.category == category)
        warehouse.insert(traits, mine.select("segment_id", "seq", "received_at", **{column: mine.value}))


def materialized_tables(warehouse: Warehouse) -> None:
    copy(warehouse, "user_identifiers", "user_traits", "profile_merges", *EVENT_TABLES)
    states = warehouse.table(CONSENT_STATES.ref)
    newest = states.group_by("segment_id", "category").agg(
        value=states.value.argmax(states.seq), received_at=states.received_at.max(), seq=states.seq.max()
    )
    merges = warehouse.table(TableRef(OURS, "profile_merges"))
    kept = newest.semi_join(merges, newest.segment_id == merges.canonical_segment_id)
    rows = kept.select("value", "seq", "received_at", canonical_segment_id=kept.segment_id, name=CONSENT_TRAIT + kept.category)
    warehouse.insert(TableRef(THEIRS, "user_traits"), rows)


def dbt_tables(warehouse: Warehouse) -> None:
    raw_tables(warehouse)
    copy(warehouse, "id_graph", "external_id_mapping", "profile_traits")
    updates = warehouse.table(TableRef(THEIRS, "profile_traits_updates"))
    graph = warehouse.table(TableRef(OURS, "id_graph")).select("segment_id", "canonical_segment_id")
    held = updates.join(graph, "segment_id")
    columns = [snake_case(CONSENT_TRAIT + category) for category in CATEGORIES]
    consent = held.group_by("canonical_segment_id").agg(
        **{column: held[column].argmax(held.seq, where=held[column].notnull()) for column in columns}
    )
    traits = TableRef(THEIRS, "profile_traits")
    warehouse.create(
        traits, warehouse.table(traits).left_join(consent, "canonical_segment_id").drop("canonical_segment_id_right")
    )
    for name in ("id_graph_updates", "external_id_mapping_updates", "profile_traits_updates"):
        warehouse.drop(TableRef(THEIRS, name))


def results(warehouse: Warehouse) -> dict[str, list[tuple]]:
    found: dict[str, list[tuple]] = {}
    for spec in (AUDIENCE_MEMBERS, AUDIENCE_CONTEXT, TRAIT_VALUES, PAYLOADS):
        columns = [c for c in spec.columns if c not in OUTSIDE and "revision" not in c]
        rows: list[dict[str, Any]] = warehouse.arrow(warehouse.table(spec.ref).select(*columns)).to_pylist()
        found[spec.ref.name] = sorted((tuple(row.values()) for row in rows), key=repr)
    return found


def bring_own_tables(stage: Stage, profile_type: str, tables: Callable[[Warehouse], None]) -> None:
    """Copy the tables, point the space at them, and take ours away."""
    with stage.warehouse() as warehouse:
        tables(warehouse)
        for ref in warehouse.list_tables("unified_profiles"):
            warehouse.drop(ref)
        for name in ("id_graph_updates", "external_id_mapping_updates", "user_identifiers", "user_traits", "profile_merges"):
            warehouse.drop(TableRef(OURS, name))
    graph = stage.directory / "data_graph.hcl"
    text = graph.read_text().replace("owl_bank.profiles", f"owl_bank.{THEIRS}")
    graph.write_text(text.replace("segment:materialized", profile_type))
    yaml = YAML()
    document = yaml.load(stage.directory / "space.yaml")
    document["profiles"] = "external"
    yaml.dump(document, stage.directory / "space.yaml")


@pytest.mark.parametrize(
    ("profile_type", "tables"),
    [
        ("segment:unmaterialized", raw_tables),
        ("segment:materialized", materialized_tables),
        ("segment:dbt", dbt_tables),
    ],
)
def test_existing_profiles_sync_tables_give_the_same_audiences_and_payloads(
    owl_bank: Stage, profile_type: str, tables: Callable[[Warehouse], None]
) -> None:
    with owl_bank.warehouse() as warehouse:
        expected = results(warehouse)
    bring_own_tables(owl_bank, profile_type, tables)
    report = owl_bank.run()
    assert report.failures == {}
    space = load(owl_bank.directory)
    with owl_bank.warehouse() as warehouse:
        assert results(warehouse) == expected
        assert warehouse.list_tables("unified_profiles") == []
        past = owl_bank.now - dt.timedelta(days=2)
        if profile_type == "segment:unmaterialized":
            assert warehouse.count(identifiers_as_of(warehouse, space.graph, past)) > 0
            assert warehouse.count(identifiers_as_of(warehouse, space.graph, past)) < warehouse.count(
                identifiers_as_of(warehouse, space.graph, owl_bank.now)
            )
        else:
            with pytest.raises(PastError, match="id_graph_updates, external_id_mapping_updates, profile_traits_updates"):
                identifiers_as_of(warehouse, space.graph, past)
    assert expected["payloads"]
    keys = build_definitions(owl_bank.directory, owl_bank.home.root).resolve_asset_graph().get_all_asset_keys()
    room = {key.path[2] for key in keys if key.path[1] == "unified_profiles"}
    assert len(room) == 3
    assert not room & {"event_profiles", "consent_states"}


def test_without_consent_among_the_traits_nobody_consents(owl_bank: Stage) -> None:
    def tables(warehouse: Warehouse) -> None:
        copy(warehouse, "user_identifiers", "user_traits", "profile_merges", *EVENT_TABLES)

    bring_own_tables(owl_bank, "segment:materialized", tables)
    report = owl_bank.run()
    assert report.failures == {}
    space = load(owl_bank.directory)
    with owl_bank.warehouse() as warehouse:
        assert warehouse.count(consent_as_of(warehouse, space.graph, owl_bank.now)) == 0
        assert warehouse.count(traits_as_of(warehouse, space.graph, owl_bank.now)) > 0
        payloads = warehouse.table(PAYLOADS.ref)
        assert {row["verdict"] for row in warehouse.rows(payloads.select("verdict").distinct(), 10)} == {"consent"}
