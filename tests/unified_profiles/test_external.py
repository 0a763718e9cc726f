"""Readings of Profiles Sync tables that a company already has, and what validation says of them."""

from __future__ import annotations

import dataclasses
import datetime as dt

import ibis
import pytest

from cdp_assets.data_graph.model import DataGraph, ExternalProfiles
from cdp_assets.data_graph.warehouse_check import check_graph
from cdp_assets.unified_profiles.external import PastError
from cdp_assets.unified_profiles.sync_tables import build_sync_tables
from cdp_assets.unified_profiles.tables import (
    canonical_ids_as_of,
    consent_as_of,
    events_as_of,
    group_traits_as_of,
    identifiers_as_of,
    memberships_as_of,
    placed_events_as_of,
    traits_as_of,
)
from resources.warehouse import STAND_INS_END, MissingTableError, TableRef, TableSpec
from tests.unified_profiles.conftest import AS_OF, START, People

THEIRS = "theirs"
RAW = ("id_graph_updates", "external_id_mapping_updates", "profile_traits_updates")
PLAIN = ("profile_merges", "user_identifiers", "user_traits")
DBT = ("id_graph", "external_id_mapping", "profile_traits")
READINGS = (canonical_ids_as_of, identifiers_as_of, traits_as_of)


def told(people: People) -> People:
    people.say("u1", traits={"email": "e@x", "plan": "gold"})
    people.say(anonymous="a", traits={"age": 7, "plan": "silver"})
    people.say("u1", "a")
    people.say("u2", traits={"plan": "none"})
    people.build()
    build_sync_tables(people.warehouse, people.config, people.graph)
    return people


def theirs(people: People, *names: str, kind: str = "segment:materialized") -> DataGraph:
    for name in names:
        people.warehouse.create(TableRef(THEIRS, name), people.warehouse.table(TableRef("people", name)))
    return dataclasses.replace(
        people.graph, profile_folder=f"DB.{THEIRS}", profile_type=kind, external=ExternalProfiles(("ad", "stats"))
    )


def read(people: People, graph: DataGraph, reading, as_of: dt.datetime = AS_OF) -> list[tuple]:
    found = reading(people.warehouse, graph, as_of)
    # Materialized tables say neither when something was said nor of whom before merges.
    left_out = {"seq"} if reading is canonical_ids_as_of else {"seq", "segment_id"}
    columns = [column for column in found.columns if column not in left_out]
    return sorted(tuple(row.values()) for row in people.warehouse.rows(found.select(*columns), 1_000))


@pytest.mark.parametrize("names", [RAW, PLAIN, DBT, (*PLAIN, *RAW)])
def test_each_kind_of_tables_reads_as_our_own(people: People, names: tuple[str, ...]) -> None:
    people = told(people)
    graph = theirs(people, *names)
    for reading in READINGS:
        assert read(people, graph, reading) == read(people, people.graph, reading), reading.__name__
        assert read(people, graph, reading)


def test_raw_tables_hold_the_past_and_others_say_which_are_missing(people: People) -> None:
    told(people)
    past = START.replace(tzinfo=dt.UTC) + dt.timedelta(minutes=2)
    raw = theirs(people, *RAW, *PLAIN)
    for reading in READINGS:
        assert read(people, raw, reading, past) == read(people, people.graph, reading, past)
    for name in RAW[1:]:
        people.warehouse.drop(TableRef(THEIRS, name))
    assert read(people, raw, canonical_ids_as_of, past)
    with pytest.raises(
        PastError, match=r"user_traits holds rows of 2026-01-01T00:03:00Z .* external_id_mapping_updates, profile_traits_"
    ):
        traits_as_of(people.warehouse, raw, past)
    # an instant that stands for others in a template is not judged
    traits_as_of(people.warehouse, raw, STAND_INS_END - dt.timedelta(days=1))
    for name in (*RAW, *PLAIN):
        people.warehouse.drop(TableRef(THEIRS, name))
    with pytest.raises(MissingTableError, match="has none of id_graph_updates, profile_merges, id_graph"):
        canonical_ids_as_of(people.warehouse, raw, AS_OF)


def test_columns_of_other_types_are_cast(people: People) -> None:
    told(people)
    graph = theirs(people, *RAW)
    updates = people.warehouse.table(TableRef(THEIRS, "profile_traits_updates"))
    zoned = updates.mutate(age=updates.age.cast("int64"), received_at=updates.received_at.cast("timestamp('UTC')"))
    people.warehouse.create(TableRef(THEIRS, "profile_traits_updates"), zoned)
    assert read(people, graph, traits_as_of) == read(people, people.graph, traits_as_of)


def test_consent_is_among_the_traits_and_what_is_neither_true_nor_conflict_is_false(any_people: People) -> None:
    people = told(any_people)
    graph = theirs(people, *PLAIN)
    traits = TableRef(THEIRS, "user_traits")
    assert read(people, graph, consent_as_of) == []
    who = people.profile_of("m000")
    merges = people.warehouse.table(TableRef(THEIRS, "profile_merges"))
    row = merges.filter(merges.segment_id == who).select("seq", "received_at", canonical_segment_id="segment_id")
    for name, value in {"ad": "conflict", "stats": "yes", "unknown": "true"}.items():
        people.warehouse.insert(
            traits, row.mutate(name=ibis.literal(f"segment_consent_preference.categories.{name}"), value=ibis.literal(value))
        )
    assert read(people, graph, consent_as_of) == [(who, "ad", "conflict"), (who, "stats", "false")]


def test_events_are_those_of_the_event_tables_else_of_the_messages_identifiers(any_people: People) -> None:
    people = told(any_people)
    graph = theirs(people, *RAW)
    assert read(people, graph, events_as_of) == read(people, people.graph, events_as_of)
    columns = {"id": "string", "segment_id": "string", "received_at": "timestamp"}
    people.warehouse.ensure(TableSpec(TableRef(THEIRS, "tracks"), columns, "tracks", subject="segment_id"))
    profiles = people.warehouse.table(TableRef("unified_profiles", "event_profiles"))
    one = profiles.filter(profiles.message_id == "m001")
    people.warehouse.insert(TableRef(THEIRS, "tracks"), one.select("segment_id", "received_at", id=one.message_id))
    assert read(people, graph, events_as_of) == [("m001", people.profile_of("m000"))]


def test_places_of_messages_are_in_received_order_then_by_id(any_people: People) -> None:
    people = told(any_people)
    events = people.warehouse.table(TableRef("unified_profiles", "event_profiles"))
    expected = [row["message_id"] for row in people.warehouse.rows(events.order_by("received_at", "message_id"), 100)]
    assert len(expected) > 3

    def placed(graph: DataGraph) -> list[str]:
        rows = people.warehouse.rows(placed_events_as_of(people.warehouse, graph, AS_OF), 100)
        return [row["message_id"] for row in sorted(rows, key=lambda row: row["place"])]

    assert placed(people.graph) == expected
    graph = theirs(people, *RAW)
    assert placed(graph) == expected
    columns = {"id": "string", "segment_id": "string", "received_at": "timestamp"}
    people.warehouse.ensure(TableSpec(TableRef(THEIRS, "tracks"), columns, "tracks", subject="segment_id"))
    people.warehouse.insert(TableRef(THEIRS, "tracks"), events.select("segment_id", "received_at", id=events.message_id))
    assert placed(graph) == expected


def test_groups_are_those_of_the_table_of_group_calls(any_people: People) -> None:
    people = told(any_people)
    graph = theirs(people, *RAW)
    columns = {"id": "string", "segment_id": "string", "group_id": "string", "received_at": "timestamp", "seats": "int64"}
    groups = TableSpec(TableRef(THEIRS, "groups"), columns, "groups", subject="segment_id")
    people.warehouse.ensure(groups)
    profiles = people.warehouse.table(TableRef("unified_profiles", "event_profiles"))
    for message, seats in {"m001": 3, "m003": 4}.items():
        one = profiles.filter(profiles.message_id == message)
        people.warehouse.insert(
            groups.ref,
            one.select("segment_id", "received_at", id=one.message_id, group_id=ibis.literal("acme"), seats=ibis.literal(seats)),
        )
    both = sorted([(people.profile_of("m000"), "acme"), (people.profile_of("m003"), "acme")])
    assert read(people, graph, memberships_as_of) == both
    assert read(people, graph, group_traits_as_of) == [("acme", "seats", "4")]


def test_validation_names_missing_tables_and_columns(people: People) -> None:
    told(people)
    graph = theirs(people, *RAW)
    assert check_graph(graph, people.warehouse) == ()
    broken = people.warehouse.table(TableRef(THEIRS, "id_graph_updates")).drop("seq", "received_at")
    people.warehouse.create(TableRef(THEIRS, "id_graph_updates"), broken)
    people.warehouse.drop(TableRef(THEIRS, "profile_traits_updates"))
    people.warehouse.create(TableRef(THEIRS, "user_identifiers"), people.warehouse.table(TableRef("people", "user_identifiers")))
    people.warehouse.drop(TableRef(THEIRS, "external_id_mapping_updates"))
    found = {(problem.level, problem.message) for problem in check_graph(graph, people.warehouse)}
    assert found == {
        ("error", f"table {THEIRS}.id_graph_updates has no column seq, received_at"),
        ("error", f"profile_folder DB.{THEIRS} has none of the tables profile_traits_updates, user_traits, profile_traits"),
        (
            "warning",
            f"profile_folder DB.{THEIRS} has no external_id_mapping_updates: user_identifiers is read, which does not hold the past",
        ),
    }
