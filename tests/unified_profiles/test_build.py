"""The room's tables: what identity resolution writes, and how it reads as of an instant."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import pyarrow as pa
import pytest

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.build import build_window
from cdp_assets.raw_events.intake import take_in
from cdp_assets.space.builds import builds_spec, record_build
from cdp_assets.space.models.settings import ConsentCategory, IdentifierRule, IdentitySettings, SpaceConfig
from cdp_assets.space.time import windows
from cdp_assets.unified_profiles.build import ProfilesResult, build_profiles
from cdp_assets.unified_profiles.logs import trait_text
from cdp_assets.unified_profiles.tables import (
    built_before_correction,
    canonical_ids_as_of,
    consent_as_of,
    events_as_of,
    identifiers_as_of,
    profiles_as_of,
    traits_as_of,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
AS_OF = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)


def minute(number: float) -> dt.datetime:
    return START + dt.timedelta(minutes=number)


def nth(number: int) -> int:
    """seq of the n-th message (from 1), one a minute: the second, and the rank in it."""
    return int(minute(number - 1).timestamp()) * 2**31 + 1


def read(people, reading, as_of: dt.datetime = AS_OF) -> list[tuple]:
    """A reading's rows; of those about people without whom they belonged to before merges."""
    found = reading(people.warehouse, people.graph, as_of)
    if reading is not canonical_ids_as_of and "segment_id" in found.columns:
        found = found.drop("segment_id")
    return sorted((tuple(row.values()) for row in people.warehouse.rows(found, 10_000)), key=str)


def test_AE4_4_a_blocked_value_alone_resolves_to_nobody(people) -> None:
    message = people.say(anonymous="00000000-0000")
    assert people.build() == ProfilesResult(profiles=0, merges=0, violations=1, resolved=0, unresolved=1)
    assert people.profile_of(message) is None
    assert people.rows("identity_violations", "identifier_type", "reason", "seq") == [
        ("anonymous_id", "id_value_blocked", nth(1)),
        (None, "no_matching_identifiers", nth(1)),
    ]


def test_AE4_5_earlier_anonymous_events_count_for_the_profile_they_merged_into(people) -> None:
    known = people.say("u1", traits={"email": "e@x", "plan": "gold"})
    page = people.say(anonymous="a")
    link = people.say(anonymous="a", traits={"email": "e@x", "plan": "silver", "age": 7})
    result = people.build()
    assert (result.profiles, result.merges, result.resolved) == (1, 1, 3)
    p1, p2 = people.profile_of(known), people.profile_of(page)
    assert p1 != p2 and people.profile_of(link) == p1
    assert people.rows("id_graph_updates", "segment_id", "canonical_segment_id", "triggering_event_id", "seq") == sorted(
        [(p1, p1, known, nth(1)), (p2, p2, page, nth(2)), (p2, p1, link, nth(3))], key=str
    )
    assert read(people, events_as_of) == [(known, p1), (page, p1), (link, p1)]
    assert read(people, events_as_of, minute(2)) == [(known, p1), (page, p2)]
    assert people.rows("user_identifiers", "canonical_segment_id", "type", "value", "seq") == sorted(
        [(p1, "user_id", "u1", nth(1)), (p1, "email", "e@x", nth(1)), (p1, "anonymous_id", "a", nth(2))], key=str
    )


def test_AE5_6_after_a_merge_the_tables_show_one_profile_with_the_newest_values(people) -> None:
    first = people.say("u1", traits={"email": "old@x", "city": "Brno"})
    second = people.say(anonymous="a", traits={"email": "new@x", "age": 7, "tags": ["b"], "city": "Praha"})
    people.say("u1", "a")
    people.say("u1", traits={"city": None})
    people.build()
    p1, p2 = people.profile_of(first), people.profile_of(second)
    assert people.rows("user_traits", "canonical_segment_id", "name", "value") == [
        (p1, "age", "7"),
        (p1, "email", "new@x"),
        (p1, "tags", '["b"]'),
    ]
    assert people.rows("profile_merges", "canonical_segment_id", "segment_id") == sorted([(p1, p1), (p1, p2)], key=str)
    assert read(people, traits_as_of, minute(2)) == sorted(
        [
            (p1, "city", "Brno"),
            (p1, "email", "old@x"),
            *((p2, n, v) for n, v in [("age", "7"), ("city", "Praha"), ("email", "new@x"), ("tags", '["b"]')]),
        ],
        key=str,
    )
    assert read(people, profiles_as_of) == [(p1,)]


def test_AE4_6_the_graph_depends_on_the_received_order_and_not_on_the_order_of_arrival(people) -> None:
    for user, anonymous in [("u1", "a"), (None, "b"), ("u2", "b"), ("u1", "b"), (None, "a")]:
        people.say(user, anonymous)
    people.build()
    expected = people.all_tables()
    people.messages.reverse()
    people.build()
    assert people.all_tables() == expected


def test_merges_are_recursive(people) -> None:
    ids = [people.say(anonymous=name) for name in "abc"]
    people.say("u", "c", minute=10, context={"traits": {"email": "e"}})
    people.say(None, "b", minute=11, context={"traits": {"email": "e"}})
    people.say(None, "a", minute=12, context={"traits": {"email": "e"}})
    people.build()
    a, b, c = (people.profile_of(message) for message in ids)
    assert people.rows("id_graph_updates", "seq", "segment_id", "canonical_segment_id") == sorted(
        [(nth(1), a, a), (nth(2), b, b), (nth(3), c, c), (nth(12), c, b), (nth(13), b, a), (nth(13), c, a)], key=str
    )
    assert read(people, canonical_ids_as_of) == sorted([(a, a), (b, a), (c, a)], key=str)


def test_AE9_3_profiles_that_differ_in_consent_conflict_until_the_next_object(people) -> None:
    people.say("u1", consent={"ad": True, "unknown": True})
    people.say(None, "a", consent={"ad": False, "stats": False})
    people.say("u1", "a")
    people.say("u1", consent={"ad": True})
    people.build()
    p1, p2 = (people.profile_of(f"m00{n}") for n in (0, 1))
    assert read(people, consent_as_of, minute(2)) == sorted(
        [(p1, "ad", "true"), (p1, "stats", "false"), (p2, "ad", "false"), (p2, "stats", "false")], key=str
    )
    assert read(people, consent_as_of, minute(3)) == [(p1, "ad", "conflict"), (p1, "stats", "false")]
    assert read(people, consent_as_of) == [(p1, "ad", "true"), (p1, "stats", "false")]
    assert len(people.rows("consent_updates", "seq")) == 6


def test_consent_of_a_profile_that_never_said_counts_as_false_in_a_merge(people) -> None:
    people.say("u1", consent={"ad": True})
    people.say(None, "a")
    people.say("u1", "a")
    people.say("u1", consent={})
    people.build()
    assert people.rows("consent_states", "seq", "category", "value") == [
        (nth(1), "ad", "true"),
        (nth(1), "stats", "false"),
        (nth(3), "ad", "conflict"),
        (nth(4), "ad", "false"),
    ]


def test_identifiers_come_from_every_documented_place(any_people) -> None:
    people = any_people
    people.identity = IdentitySettings(custom={"owl_card": "cardNumber"})
    people.say(
        "u1",
        "a",
        traits={"email": "1@x", "card_number": 77},
        properties={"email": "3@x"},
        context={
            "traits": {"email": "2@x", "cardNumber": "88"},
            "device": {"type": "ios", "id": "d"},
            "integrations": {"Google Analytics": {"clientId": "g"}},
            "externalIds": [{"id": "x", "type": "zoo", "collection": "users", "encoding": "none"}],
        },
    )
    people.build()
    assert people.rows("user_identifiers", "type", "value") == sorted(
        [
            ("user_id", "u1"),
            ("anonymous_id", "a"),
            ("email", "1@x"),
            ("email", "2@x"),
            ("email", "3@x"),
            ("owl_card", "77"),
            ("owl_card", "88"),
            ("ios.id", "d"),
            ("ga_client_id", "g"),
            ("zoo", "x"),
        ],
        key=str,
    )


def test_the_email_shown_last_has_the_highest_seq(people) -> None:
    for email in ("old@x", "new@x", "old@x", "old@x"):
        people.say("u1", traits={"email": email})
    people.build()
    emails = [(row[3], row[2]) for row in read(people, identifiers_as_of) if row[1] == "email"]
    assert max(emails)[1] == "old@x"
    emails = [(row[3], row[2]) for row in read(people, identifiers_as_of, minute(2)) if row[1] == "email"]
    assert max(emails)[1] == "new@x"


def test_a_refused_identifier_is_logged_without_its_value(people) -> None:
    people.say("u1", traits={"email": "e@x"})
    people.say("u2", traits={"email": "e@x"})
    assert people.build().violations == 1
    (row,) = people.rows("identity_violations", "message_id", "identifier_type", "reason", "value_hash", "segment_id")
    assert row[:3] == ("m001", "email", "identifier_value_limit_exceeded")
    assert "e@x" not in str(row) and row[4] == people.profile_of("m001")


def test_a_late_event_outdates_what_was_built_of_later_instants_until_it_is_built_again(people) -> None:
    people.say("u1", minute=10)
    people.build()
    before, after = AS_OF - dt.timedelta(hours=1), AS_OF + dt.timedelta(hours=1)

    def built(partition: str, as_of: dt.datetime, loaded_at: dt.datetime) -> None:
        record_build(
            people.warehouse,
            "rooms",
            asset="a",
            partition_key=partition,
            as_of=as_of,
            revision="r",
            run_id="r",
            rows=0,
            loaded_at=loaded_at,
        )

    def outdated() -> list[tuple]:
        builds = people.warehouse.table(builds_spec("rooms").ref)
        rows = people.warehouse.rows(built_before_correction(people.warehouse, builds), 10)
        return sorted(tuple(row.values()) for row in rows)

    built("early", minute(5), before)
    built("late", minute(20), before)
    people.say("u2", minute=30)
    people.build()
    assert outdated() == []
    people.say("u1", minute=6)
    assert people.build().corrected_from == minute(6)
    assert outdated() == [("a", "late", minute(6).replace(tzinfo=None))]
    built("late", minute(20), after)
    assert outdated() == []


def test_a_profile_that_a_late_event_renames_is_found_by_its_old_id(people) -> None:
    first = people.say("u1", minute=10)
    people.build()
    old = people.profile_of(first)
    people.say("u1", minute=5, message_id="earlier")
    people.build()
    new = people.profile_of(first)
    assert new != old
    assert people.rows("id_aliases", "old_segment_id", "new_segment_id") == [(old, new)]
    people.say("u1", minute=1, message_id="earliest")
    people.build()
    newest = people.profile_of(first)
    assert people.rows("id_aliases", "old_segment_id", "new_segment_id") == sorted([(old, newest), (new, newest)], key=str)
    people.messages = people.messages[:1]
    people.build()
    assert people.rows("id_aliases", "old_segment_id", "new_segment_id") == sorted([(new, old), (newest, old)], key=str)


def test_a_build_as_of_an_earlier_instant_forgets_nothing(people) -> None:
    people.say("u1")
    people.say("u2")
    people.say("u1", "a")
    people.build()
    everything = people.all_tables()
    assert people.build(as_of=minute(1)) == ProfilesResult(profiles=1, merges=0, violations=0, resolved=1, unresolved=0)
    assert people.all_tables() == everything


def test_a_past_as_of_reads_what_a_build_then_wrote(people) -> None:
    chance = random.Random(1)
    scatter(people, chance, 60)
    past = {}
    for number in (10, 25, 40):
        people.build(as_of=minute(number))
        past[number] = {r.__name__: read(people, r, minute(number)) for r in READINGS}
    people.build()
    for number, expected in past.items():
        assert {r.__name__: read(people, r, minute(number)) for r in READINGS} == expected


READINGS = (canonical_ids_as_of, profiles_as_of, identifiers_as_of, traits_as_of, consent_as_of, events_as_of)


def scatter(people, chance: random.Random, count: int) -> None:
    """A history with shared devices, changing e-mails, conflicts, merges and blocked values."""
    people.identity = IdentitySettings(identifiers=(IdentifierRule(type="email", limit=2, window="daily"),))
    for _ in range(count):
        user = chance.choice([None, None, "u1", "u2", "u3", "u4", "-1"])
        anonymous = chance.choice([None, "a", "b", "c", "d", "e", "0000"])
        email = chance.choice([None, None, "p@x", "q@x", "r@x"])
        consent = chance.choice([None, None, {}, {"ad": True}, {"ad": False, "stats": True}])
        if email or chance.random() < 0.3:
            people.say(
                user, anonymous, traits={"email": email, "n": chance.randrange(3), "o": {"k": [1.5, None]}}, consent=consent
            )
        else:
            people.say(user, anonymous, consent=consent)


def test_both_engines_write_the_same_tables(both_people) -> None:
    written = []
    for people in both_people:
        scatter(people, random.Random(7), 80)
        people.say("u1", "a", context={"device": {"type": "ios", "id": "d"}, "x": {"deep": "é'\\"}})
        result = people.build()
        written.append((result, people.all_tables()))
    assert written[0] == written[1]
    assert written[0][0].merges > 0 and written[0][0].violations > 0
    of_corrections = {"id_aliases", "identity_corrections", "corrections", "applied_corrections", "corrected_builds"}
    assert {name for name, rows in written[0][1].items() if not rows} <= of_corrections


def test_an_identifier_has_one_profile_and_a_profile_is_canonical(people) -> None:
    scatter(people, random.Random(3), 150)
    people.build()
    pairs = people.rows("user_identifiers", "type", "value")
    assert len(pairs) == len(set(pairs))
    canonical = {row[0] for row in read(people, profiles_as_of)}
    assert {row[0] for row in people.rows("user_identifiers", "canonical_segment_id")} <= canonical
    assert set(people.rows("profile_merges", "segment_id", "canonical_segment_id")) == set(read(people, canonical_ids_as_of))


def test_no_messages_make_no_profiles(people) -> None:
    assert people.build() == ProfilesResult(0, 0, 0, 0, 0)


def test_trait_values_are_texts() -> None:
    assert [trait_text(v) for v in ("x", 7, 1.5, True, None, [1], {"a": "é"})] == [
        "x",
        "7",
        "1.5",
        "true",
        None,
        "[1]",
        '{"a":"é"}',
    ]


@pytest.mark.czech_bank
@pytest.mark.czech_bank
def test_czech_bank_has_a_profile_for_each_client(duckdb_warehouse, czech_bank_data: Path) -> None:
    categories = tuple(ConsentCategory(id=c, name=c) for c in ("Functional", "Analytics", "Advertising", "DataSharing"))
    config = SpaceConfig(name="cz", start_date=dt.date(1993, 1, 1), partitions="monthly", consent_categories=categories)
    as_of = dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    graph = DataGraph("v1.0.0", "CZ.PROFILES", "segment:materialized", (), ())
    take_in(duckdb_warehouse, config, czech_bank_data / "events", as_of)
    build_window(duckdb_warehouse, config, windows(config, as_of), as_of)
    result = build_profiles(duckdb_warehouse, config, graph, as_of, as_of, "run")
    assert result == ProfilesResult(profiles=5_369, merges=0, violations=0, resolved=84_671, unresolved=0)
    consent = duckdb_warehouse.arrow(consent_as_of(duckdb_warehouse, graph, as_of))
    given = consent.filter(pa.compute.equal(consent["value"], "true")).group_by("category").aggregate([([], "count_all")])
    counts = dict(zip(given["category"].to_pylist(), given["count_all"].to_pylist(), strict=True))
    assert counts == {"Functional": 5_369, "Analytics": 4_290, "Advertising": 2_984, "DataSharing": 1_620}
