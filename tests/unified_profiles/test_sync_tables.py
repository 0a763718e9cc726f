"""The Profiles Sync tables that follow from the logs, and groups: on both engines, and the same day by day as in one go."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from cdp_assets.raw_events.tables import EVENTS_SCHEMA, MESSAGES
from cdp_assets.space.models.settings import SourceConfig
from cdp_assets.unified_profiles import wide_traits
from cdp_assets.unified_profiles.sync_tables import build_sync_tables, sync_specs, traits_without_column
from cdp_assets.unified_profiles.tables import group_traits_as_of, memberships_as_of, profile_schema
from resources.warehouse import TableRef, TableSpec
from tests.unified_profiles.conftest import AS_OF, START, People

KEY = lambda row: tuple(map(str, row))  # noqa: E731 - sorts rows with NULLs


def sync(people: People, as_of: dt.datetime = AS_OF) -> None:
    people.build(as_of)
    config = people.config.model_copy(update={"sources": {"web": SourceConfig(name="Website"), "app": SourceConfig()}})
    build_sync_tables(people.warehouse, config, people.graph)


def rows(people: People, table: str, *columns: str, schema: str = "people") -> list[tuple]:
    found = people.warehouse.table(TableRef(schema, table))
    return sorted((tuple(row.values()) for row in people.warehouse.rows(found.select(*columns), 10_000)), key=KEY)


def everything(people: People) -> dict[str, list[tuple]]:
    refs = [spec.ref for spec in sync_specs(people.graph)] + [TableRef("unified_profiles", "trait_entries")]
    return {ref.name: rows(people, ref.name, *sorted(people.warehouse.schema(ref)), schema=ref.schema) for ref in refs}


def group(people: People, user: str, group_id: str | None, traits: dict[str, Any] | None = None, **more: Any) -> str:
    """A group call, or with ``type`` another message that names the group in its context."""
    message = people.say(user, properties=more.pop("properties", None))
    row = people.messages[-1]
    row |= {"type": "group", "event": None, "group_id": group_id, "traits": None if traits is None else json.dumps(traits)}
    row |= more
    for other in people.messages:
        other.setdefault("group_id", None)
        other.setdefault("source", None)
    return message


def test_profile_traits_updates_has_a_row_per_identify_that_changed_a_trait_and_per_merge(any_people: People) -> None:
    people = any_people
    first = people.say("u1", traits={"email": "e@x", "Plan Name": "gold"})
    people.say("u1", traits={"email": "e@x", "Plan Name": "gold"})  # changes nothing
    other = people.say(anonymous="a", traits={"age": 7, "planName": "silver", "tags": ["b"], "userId": "x"})
    link = people.say("u1", "a")
    people.say("u1", traits={"age": 7})  # known since the merge
    gone = people.say("u1", traits={"age": None})
    people.messages[0]["source"] = "web"
    for row in people.messages[1:]:
        row["source"] = "app"
    sync(people)
    p1, p2 = people.profile_of(first), people.profile_of(other)
    columns = ("segment_id", "triggering_event_id", "email", "plan_name", "age", "tags")
    assert rows(people, "profile_traits_updates", *columns) == sorted(
        [
            (p1, first, "e@x", "gold", None, None),
            (p2, other, None, "silver", "7", '["b"]'),
            (p1, link, "e@x", "silver", "7", '["b"]'),
            (p1, gone, None, None, None, None),
        ],
        key=KEY,
    )
    assert "user_id" not in people.warehouse.schema(TableRef("people", "profile_traits_updates"))
    assert traits_without_column(people.warehouse) == 1
    said = ("triggering_event_source_id", "triggering_event_source_name", "triggering_event_source_slug", "triggering_event_type")
    assert rows(people, "profile_traits_updates", "triggering_event_id", *said)[:3] == [
        (first, "web", "Website", "web", "identify"),
        (other, "app", "app", "app", "identify"),
        (link, "app", "app", "app", "track"),
    ]
    assert rows(people, "id_graph_updates", "triggering_event_id", said[0], said[2]) == [
        (first, "web", "web"),
        (other, "app", "app"),
        (link, "app", "app"),
    ]
    mapped = rows(people, "external_id_mapping_updates", "triggering_event_id", said[0])
    assert {(first, "web"), (other, "app")} <= set(mapped)


def test_profile_traits_has_a_row_per_profile_ever_and_tombstones(people: People) -> None:
    ids = [people.say(anonymous=name, traits={"n": name, "only": name if name == "c" else None}) for name in "abc"]
    people.say("u", "c", minute=10, context={"traits": {"email": "e"}})
    people.say(None, "b", minute=11, context={"traits": {"email": "e"}})
    last = people.say(None, "a", minute=12, context={"traits": {"email": "e"}})
    sync(people)
    a, b, c = (people.profile_of(message) for message in ids)
    assert rows(people, "profile_traits", "canonical_segment_id", "merged_to", "n", "only") == sorted(
        [(a, None, "c", "c"), (b, a, None, None), (c, a, None, None)], key=KEY
    )
    assert rows(people, "id_graph", "segment_id", "canonical_segment_id") == sorted([(a, a), (b, a), (c, a)], key=KEY)
    assert rows(people, "external_id_mapping", "canonical_segment_id", "external_id_type", "external_id_value") == sorted(
        [(a, "user_id", "u"), (a, "email", "e"), *((a, "anonymous_id", name) for name in "abc")], key=KEY
    )
    # the merge has a row on the side that remains alone
    of_last = [row[0] for row in rows(people, "profile_traits_updates", "segment_id", "triggering_event_id") if row[1] == last]
    assert of_last == [a]
    seqs = dict(rows(people, "event_profiles", "message_id", "seq", schema="unified_profiles"))
    assert (a, seqs[last]) in rows(people, "profile_traits_updates", "segment_id", "seq")


def test_day_by_day_and_late_entries_give_the_tables_of_one_go(people: People) -> None:
    people.say("u1", traits={"plan": "a", "firstName": "x"}, minute=1)
    people.say(anonymous="b", traits={"plan": "b"}, minute=2)
    group(people, "u1", "g1", {"size": 3})
    people.messages[-1] |= {"received_at": START + dt.timedelta(minutes=3), "timestamp": START + dt.timedelta(minutes=3)}
    people.say("u1", "b", minute=4)
    people.say("u2", traits={"first_name": "y", "2nd": 1}, minute=5)
    for row in people.messages:
        row.setdefault("source", None)
        row.setdefault("group_id", None)
    history = people.messages
    late = {**history[1], "message_id": "late", "received_at": START, "timestamp": START, "traits": '{"plan": "z", "late": 1}'}
    for count in range(1, len(history) + 1):
        people.messages = history[:count]
        sync(people)
    people.messages = [*history, late]
    sync(people)
    found = everything(people)
    for spec in (*sync_specs(people.graph), wide_traits.TRAIT_COLUMNS, wide_traits.TRAIT_ENTRIES):
        if spec.ref.name not in ("id_graph", "external_id_mapping", "profile_traits"):
            people.warehouse.delete(spec.ref, [])
    people.warehouse.delete(TableRef("unified_profiles", "windows_read"), [])
    sync(people)
    assert everything(people) == found
    assert len(found["profile_traits_updates"]) == 5
    assert len(found["group_memberships"]) == 1


def test_what_is_there_and_right_is_not_written_again(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    people.say("u1", traits={"plan": "a"})
    group(people, "u1", "g1")
    sync(people)
    written: list[str] = []
    run = type(people.warehouse)._run
    monkeypatch.setattr(
        type(people.warehouse), "_run", lambda self, sql: (written.append(sql) if "people" in sql else None, run(self, sql))[1]
    )
    build_sync_tables(people.warehouse, people.config, people.graph)
    scratch = people.warehouse.name(people.warehouse.scratch_ref("s1")).removesuffix('"s1"')
    assert [sql for sql in written if not sql.startswith(f"CREATE OR REPLACE TABLE {scratch}")] == []


def test_memberships_come_from_group_calls_and_from_context(any_people: People) -> None:
    people = any_people
    first = people.say("u1", "a")
    group(people, "u1", "acme", {"name": "Acme", "seats": 5, "old": 1})
    group(people, "u2", None, type="track", event="Seen", context=json.dumps({"groupId": "beta"}))
    group(people, "u1", None, type="track", event="Seen", context=json.dumps({"groupId": ""}))
    group(people, "u1", "x" * 501, {"name": "no"})
    group(people, "u2", "acme", {"seats": 6, "old": None})
    group(people, "00000", "nobody")
    sync(people)
    p1 = people.profile_of(first)
    p2 = people.profile_of(people.messages[2]["message_id"])
    read = people.warehouse.rows(memberships_as_of(people.warehouse, people.graph, AS_OF), 100)
    assert sorted(tuple(row.values()) for row in read) == sorted([(p1, "acme"), (p2, "acme"), (p2, "beta")])
    earlier = START.replace(tzinfo=dt.UTC) + dt.timedelta(minutes=2)
    read = people.warehouse.rows(memberships_as_of(people.warehouse, people.graph, earlier), 100)
    assert [tuple(row.values()) for row in read] == [(p1, "acme")]
    read = people.warehouse.rows(group_traits_as_of(people.warehouse, people.graph, AS_OF), 100)
    assert sorted(tuple(row.values()) for row in read) == [("acme", "name", "Acme"), ("acme", "seats", "6")]
    assert [row[0] for row in rows(people, "message_violations", "reason", schema="unified_profiles")] == [
        "group_id_empty",
        "group_id_too_long",
    ]
    assert (None, "nobody") in rows(people, "group_memberships", "segment_id", "group_id", schema="unified_profiles")


def test_too_many_traits_and_properties_are_counted_and_kept(people: People) -> None:
    many = {f"key_{number:03}": number for number in range(300)}
    people.say("u1", traits=many)
    people.say("u1", properties=many)
    people.say("u1", traits=dict(list(many.items())[:299]))
    sync(people)
    assert rows(people, "message_violations", "message_id", "reason", schema="unified_profiles") == [
        ("m000", "too_many_traits"),
        ("m001", "too_many_properties"),
    ]
    assert rows(people, "profile_traits", "key_299") == [("299",)]


def test_event_tables_say_the_profile_at_event_time_and_the_source(any_people: People) -> None:
    people = any_people
    page = people.say(anonymous="a")
    people.say("u1", context={"traits": {"email": "e"}})
    people.say("u1", "a")
    for row in people.messages:
        row["source"] = "web"
    columns = {"id": "string", "received_at": "timestamp", "amount": "int64"}
    for name in ("tracks", "id_graph"):
        spec = TableSpec(TableRef(EVENTS_SCHEMA, name), columns, name, subject=None)
        people.warehouse.ensure(spec)
    people.build()
    messages = people.warehouse.table(MESSAGES.ref)
    people.warehouse.insert(TableRef(EVENTS_SCHEMA, "tracks"), messages.select("received_at", id=messages.message_id))
    sync(people)
    assert (page, people.profile_of(page), "web") in rows(people, "tracks", "id", "segment_id", "event_source_id")
    assert len(rows(people, "tracks", "id")) == 3
    # a track event may be called like one of our tables
    assert rows(people, "_id_graph", "id", "segment_id", "event_source_id") == []
    assert people.warehouse.count(people.warehouse.table(TableRef(profile_schema(people.graph), "id_graph"))) == 2
    people.warehouse.add_columns(TableRef(EVENTS_SCHEMA, "tracks"), {"colour": "string"})
    sync(people)
    assert "colour" in people.warehouse.schema(TableRef("people", "tracks"))
