"""Segment's documented examples of identity resolution and of the tables after a merge, from messages to tables."""

from __future__ import annotations

import datetime as dt
import random

from cdp_assets.space.models.settings import IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.tables import canonical_ids_as_of, events_as_of

DAY = 24 * 60  # minutes
SIX_MONTHS = dt.datetime(2026, 7, 1, tzinfo=dt.UTC)


def identifiers_of(people, message: str) -> set[tuple[str, str]]:
    """Identifiers of the profile that the message belongs to now."""
    canonical = dict(people.rows("profile_merges", "segment_id", "canonical_segment_id"))
    profile = canonical[people.profile_of(message)]
    return {
        (kind, value)
        for owner, kind, value in people.rows("user_identifiers", "canonical_segment_id", "type", "value")
        if owner == profile
    }


def refusals(people) -> list[tuple[str, str, str]]:
    return people.rows("identity_violations", "message_id", "identifier_type", "reason")


def limits(*rules: IdentifierRule) -> IdentitySettings:
    return IdentitySettings(identifiers=rules)


def test_ae4_1_a_second_user_id_with_a_shared_email_becomes_a_profile_without_it(any_people) -> None:
    people = any_people
    first = people.say("a", traits={"email": "e@x"})
    second = people.say("b", traits={"email": "e@x"})
    assert people.build().profiles == 2
    assert people.profile_of(first) != people.profile_of(second)
    assert identifiers_of(people, first) == {("user_id", "a"), ("email", "e@x")}
    assert identifiers_of(people, second) == {("user_id", "b")}
    assert refusals(people) == [(second, "email", "identifier_value_limit_exceeded")]


def test_ae4_2_a_sixth_anonymous_id_resolves_to_the_user_and_is_not_attached(any_people) -> None:
    people = any_people
    said = [people.say("u", f"a{number}") for number in range(6)]
    assert people.build().profiles == 1
    assert {people.profile_of(message) for message in said} == {people.profile_of(said[0])}
    assert identifiers_of(people, said[5]) == {("user_id", "u"), *(("anonymous_id", f"a{number}") for number in range(5))}
    assert refusals(people) == [(said[5], "anonymous_id", "identifier_value_limit_exceeded")]


def test_ae4_3_identifiers_attached_before_the_window_leave_room_for_a_new_one(any_people) -> None:
    people = any_people
    people.identity = limits(IdentifierRule(type="anonymous_id", limit=5, window="weekly"))
    for number in range(5):
        people.say("u", f"a{number}", minute=number)
    refused = people.say("u", "six days later", minute=6 * DAY)
    attached = people.say("u", "eight days later", minute=8 * DAY)
    people.build()
    found = {value for kind, value in identifiers_of(people, attached) if kind == "anonymous_id"}
    assert found == {*(f"a{number}" for number in range(5)), "eight days later"}
    assert refusals(people) == [(refused, "anonymous_id", "identifier_value_time_limit_exceeded")]


def test_ae4_4_a_blocked_value_alone_makes_no_profile(any_people) -> None:
    people = any_people
    message = people.say(anonymous="00000000-0000")
    assert people.build().profiles == 0
    assert people.rows("event_profiles", "message_id", "segment_id") == [(message, None)]
    assert people.rows("user_identifiers", "value") == people.rows("id_graph_updates", "segment_id") == []
    assert refusals(people) == sorted(
        [(message, "anonymous_id", "id_value_blocked"), (message, None, "no_matching_identifiers")], key=str
    )


def test_ae4_5_identify_with_a_known_email_merges_and_earlier_page_views_count(any_people) -> None:
    people = any_people
    known = people.say("u1", traits={"email": "e@x"})
    pages = [people.say(anonymous="a") for _ in range(3)]
    link = people.say(anonymous="a", traits={"email": "e@x"})
    assert people.build().profiles == 1
    p1, p2 = people.profile_of(known), people.profile_of(pages[0])
    graph = people.rows("id_graph_updates", "segment_id", "canonical_segment_id", "triggering_event_id")
    assert graph == sorted([(p1, p1, known), (p2, p2, pages[0]), (p2, p1, link)], key=str)
    assert {people.profile_of(page) for page in pages} == {p2}, "segment_id is the profile at event time"
    counted = people.warehouse.rows(events_as_of(people.warehouse, people.graph, SIX_MONTHS), 100)
    assert {row["message_id"] for row in counted if row["canonical_segment_id"] == p1} == {known, *pages, link}


def test_ae4_6_a_rebuild_after_late_events_gives_the_graph_of_the_received_order(people) -> None:
    for number, (user, anonymous) in enumerate([("u1", "a"), (None, "b"), ("u2", "b"), ("u1", "b"), (None, "c"), ("u2", "c")]):
        people.say(user, anonymous, traits={"email": f"{number % 2}@x"})
    people.build()
    everything, expected = list(people.messages), people.all_tables()
    for seed in range(2):
        arrived = random.Random(seed).sample(everything, len(everything))
        for count in (2, 4, 6):
            people.messages = arrived[:count]
            people.build()
        found = people.all_tables()
        for table in ("id_graph_updates", "external_id_mapping_updates", "user_identifiers", "profile_merges", "event_profiles"):
            assert found[table] == expected[table]


def test_ae4_7_the_hundred_and_first_merge_is_refused_and_the_event_still_resolves(any_people) -> None:
    people = any_people
    people.identity = limits(IdentifierRule(type="anonymous_id", limit=500))
    first = people.say(anonymous="a0")
    for number in range(1, 102):
        people.say(anonymous=f"a{number}")
    links = [people.say(traits={}, anonymous="a0", context=device_of(number)) for number in range(1, 102)]
    result = people.build()
    assert (result.profiles, result.merges) == (2, 100)
    assert people.profile_of(links[-1]) == people.profile_of(first)
    assert refusals(people) == [(links[-1], "anonymous_id", "profile_merge_limit_reached")]
    assert identifiers_of(people, "m101") == {("anonymous_id", "a101")}


def device_of(number: int) -> dict:
    """A context that names the anonymous id of another device."""
    entry = {"id": f"a{number}", "type": "anonymous_id", "collection": "users", "encoding": "none"}
    return {"externalIds": [entry]}


def test_ae5_6_after_a_merge_no_table_shows_the_merged_profile_as_one_of_its_own(any_people) -> None:
    people = any_people
    first = people.say("u1", traits={"email": "old@x", "city": "Brno"})
    second = people.say(anonymous="a", traits={"email": "new@x", "city": "Praha"})
    people.say("u1", "a")
    people.build()
    p1, p2 = people.profile_of(first), people.profile_of(second)
    assert people.rows("user_traits", "canonical_segment_id", "name", "value") == [(p1, "city", "Praha"), (p1, "email", "new@x")]
    assert {row[0] for row in people.rows("user_identifiers", "canonical_segment_id")} == {p1}
    assert people.rows("profile_merges", "canonical_segment_id", "segment_id") == sorted([(p1, p1), (p1, p2)], key=str)
    merged = people.warehouse.rows(canonical_ids_as_of(people.warehouse, people.graph, SIX_MONTHS), 10)
    assert sorted(tuple(row.values()) for row in merged) == sorted([(p1, p1), (p2, p1)])
