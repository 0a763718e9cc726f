"""However a history is split into builds, and in whatever order it arrives, the tables are those of one build."""

from __future__ import annotations

import datetime as dt
import random

import pyarrow as pa
import pytest

from cdp_assets.space.models.settings import IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.tables import CORRECTIONS, IDENTITY_CORRECTIONS, external_id_mapping_updates
from tests.unified_profiles.conftest import AS_OF, START, People

WORLDS = 40
CLOCK = {"loaded_at"}


def tables(people: People) -> dict[str, list[tuple]]:
    """All tables without what depends on arrival: the clock, old names, and the record of builds."""
    of_arrival = {"id_aliases", "builds", "identity_corrections", "corrected_builds"}
    return {name: rows for name, rows in people.all_tables().items() if name not in of_arrival}


def minute(number: float) -> dt.datetime:
    return (START + dt.timedelta(minutes=number)).replace(tzinfo=dt.UTC)


def worlds(people: People, chance: random.Random, count: int, shared_devices: str) -> None:
    """Many small worlds of identifiers in one history, several messages in the same second."""
    people.identity = IdentitySettings(
        identifiers=(IdentifierRule(type="email", limit=2, window="daily"),), shared_devices=shared_devices
    )
    for number in range(count):
        world = chance.randrange(WORLDS)
        user = chance.choice([None, None, f"u{world}", f"v{world}", "-1"])
        anonymous = chance.choice([None, f"a{world}", f"b{world}", f"c{world}", f"d{world}", "0000"])
        email = chance.choice([None, None, f"p{world}@x", f"q{world}@x", f"r{world}@x"])
        consent = chance.choice([None, None, {}, {"ad": True}, {"ad": False, "stats": True}])
        traits = {"email": email, "n": chance.randrange(3)} if email or chance.random() < 0.3 else None
        people.say(user, anonymous, minute=number // 3 * 7, traits=traits, consent=consent)


def remove(people: People, correction_id: str, at: dt.datetime, kind: str, value: str) -> None:
    correct(people, correction_id, "remove", [(None, kind, value)], at)


def correct(people: People, correction_id: str, kind: str, sides: list[tuple], at: dt.datetime | None = None) -> None:
    people.warehouse.ensure(IDENTITY_CORRECTIONS)
    rows = [
        {
            "correction_id": correction_id,
            "kind": kind,
            "side": side,
            "identifier_type": identifier_type,
            "identifier_value": value,
            "effective_at": None if at is None else at.replace(tzinfo=None),
            "reason": "asked",
            "loaded_at": START,
        }
        for side, identifier_type, value in sides
    ]
    schema = IDENTITY_CORRECTIONS.schema.to_pyarrow()
    people.warehouse.append(IDENTITY_CORRECTIONS.ref, pa.Table.from_pylist(rows, schema=schema))


@pytest.mark.parametrize("shared_devices", ["merge", "separate"])
def test_any_split_and_any_order_of_arrival_give_the_tables_of_one_build(people, tmp_path, shared_devices: str) -> None:
    from resources.warehouse.duckdb import open_duckdb

    worlds(people, random.Random(5), 400, shared_devices)
    remove(people, "c1", minute(300.5), "email", "p3@x")
    people.build()
    whole = tables(people)
    everything = people.messages
    with open_duckdb(tmp_path / "parts.duckdb") as other:
        parts = People(other)
        parts.identity, parts.messages = people.identity, everything
        remove(parts, "c1", minute(300.5), "email", "p3@x")
        # Ends of builds fall into days, onto messages, and beside them.
        for end in (1, 203, 203.5, 560):
            parts.build(as_of=minute(end))
        parts.build()
        assert tables(parts) == whole
        # Now some are late, and duplicates with a later received_at stood in for others.
        chance = random.Random(6)
        late = {row["message_id"] for row in everything if chance.random() < 0.02}
        stand_in = {row["message_id"] for row in everything if chance.random() < 0.02} - late
        parts.messages = [
            {**row, "received_at": row["received_at"] + dt.timedelta(minutes=90)} if row["message_id"] in stand_in else row
            for row in everything
            if row["message_id"] not in late
        ]
        parts.build(as_of=minute(500))
        parts.build()
        assert tables(parts) != whole
        parts.messages = everything
        assert parts.build().corrected_from is not None
        assert tables(parts) == whole
        assert parts.warehouse.count(parts.warehouse.table(CORRECTIONS.ref)) > 0


def test_a_late_event_leaves_the_rows_of_other_components_alone(people) -> None:
    people.say("u1", minute=10)
    people.say("u2", minute=20)
    people.say("u3", "a", minute=21)
    people.build()
    people.say("u1", minute=5, traits={"email": "e@x"})
    result = people.build()
    assert result.corrected_from == minute(5)
    replaced = people.warehouse.rows(people.warehouse.table(CORRECTIONS.ref), 100)
    assert {row["table_name"] for row in replaced} == {
        "people.id_graph_updates",
        "people.external_id_mapping_updates",
        "unified_profiles.event_profiles",
    }
    assert all('"seq": ' + str(int(minute(10).timestamp()) * 2**31 + 1) in row["row"] for row in replaced)


def test_a_separation_recorded_later_takes_a_profile_apart(people) -> None:
    people.say("u1", "a")
    people.say(None, "a", traits={"email": "e@x"})
    assert people.build().profiles == 1
    correct(people, "s1", "separate", [("a", "user_id", "u1"), ("b", "email", "e@x")])
    assert people.build().profiles == 2
    assert (
        people.rows("identity_violations", "identifier_type", "reason")
        == [("anonymous_id", "separated"), ("email", "separated")][:1]
    )
    people.warehouse.delete(IDENTITY_CORRECTIONS.ref, [])
    assert people.build().profiles == 1


def test_a_removed_identifier_leaves_its_profile_and_may_come_again(people) -> None:
    people.say("u1", traits={"email": "e@x"})
    people.say("u1", minute=10)
    people.build(as_of=minute(5))
    remove(people, "gone", minute(7), "email", "e@x")
    people.build()
    assert people.rows("user_identifiers", "type", "value") == [("user_id", "u1")]
    log = people.warehouse.table(external_id_mapping_updates("people").ref)
    removed = people.warehouse.rows(log.filter(log["__operation"] == "REMOVED"), 10)
    assert [(row["external_id_value"], row["triggering_event_type"], row["triggering_event_id"]) for row in removed] == [
        ("e@x", "remove", "gone")
    ]
    people.say("u2", minute=12, traits={"email": "e@x"})
    people.build()
    assert people.rows("user_identifiers", "type", "value") == [("email", "e@x"), ("user_id", "u1"), ("user_id", "u2")]


def test_a_changed_rule_resolves_everything_again(people) -> None:
    people.say("u1", "a")
    people.say("u2", "b")
    people.say("u1", "b")
    people.build(as_of=AS_OF)
    people.identity = IdentitySettings(identifiers=(IdentifierRule(type="user_id", limit=2),))
    assert people.build().profiles == 1
    people.identity = IdentitySettings()
    assert people.build().profiles == 2
