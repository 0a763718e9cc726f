"""The desired state of audience activations: units, verdicts, consent, and what a build leaves behind."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any

import pytest
from activation_payloads_world import AS_OF, WINDOW, World, activation

from cdp_assets.activation_payloads import audience_columns, payloads
from cdp_assets.activation_payloads.payloads import PayloadError
from cdp_assets.activation_payloads.tables import BUILDS, MESSAGE_ID_TOKEN, PAYLOAD_BUILDS, PAYLOADS, TIMESTAMP_TOKEN
from cdp_assets.raw_events.suppression import suppress
from cdp_assets.space.models.settings import IdentitySettings
from resources.warehouse import Warehouse

CARD_ENTERS = {"unit": "entity", "path": "Accounts:cards", "when": "enters"}
WHOLE = {"email": {"@path": "$.context.traits.email"}, "message": {"@path": "$."}}
CARDS = {"entities": [{"path": "Accounts:cards", "columns": ["balance"]}]}


@pytest.fixture
def world(duckdb_warehouse: Warehouse) -> World:
    return World(duckdb_warehouse)


def two_cards(world: World) -> None:
    world.profile("p1", email="ann@example.com", user_id="u1")
    world.account(1)
    world.card("c1", 1, "500")
    world.card("c2", 1, "20.25")
    world.member("p1", [(1, "c1"), (1, "c2")])


# -- acceptance examples -----------------------------------------------------------------------------------------------


def test_ae3_1_two_cards_are_two_entity_units_each_flattened_and_one_profile_unit_listing_both(world: World) -> None:
    two_cards(world)
    world.build(activation(trigger=CARD_ENTERS, personalization=CARDS, mapping=WHOLE))
    units = world.stored()
    assert [row["unit"] for row in units] == ["p1|Accounts:cards|c1", "p1|Accounts:cards|c2"]
    first = units[0]["payload"]["message"]
    assert (first["type"], first["event"]) == ("track", "Entity Added")
    assert first["properties"]["cards__CARD_ID"] == "c1"
    assert first["properties"]["cards__balance"] == 500
    assert units[1]["payload"]["message"]["properties"]["cards__balance"] == 20.25

    world.build(activation(personalization=CARDS, mapping=WHOLE))
    (whole,) = world.stored()
    cards = whole["payload"]["message"]["properties"]["Accounts"][0]["cards"]
    assert [card["CARD_ID"] for card in cards] == ["c1", "c2"]


def test_ae3_2_a_third_card_is_one_more_entity_unit_and_no_more_profile_units(world: World) -> None:
    two_cards(world)
    by_entity = activation(trigger=CARD_ENTERS)
    assert world.build(by_entity).units == 2
    before = {row["unit"]: row["payload_hash"] for row in world.stored()}
    world.card("c3", 1)
    world.rows = {ref: rows for ref, rows in world.rows.items() if ref.name not in ("audience_members", "audience_context")}
    world.member("p1", [(1, "c1"), (1, "c2"), (1, "c3")])
    assert world.build(by_entity).units == 3
    after = {row["unit"]: row["payload_hash"] for row in world.stored()}
    assert {unit: after[unit] for unit in before} == before
    assert world.build(activation()).units == 1


def test_ae3_5_a_message_of_forty_kilobytes_is_withheld_and_the_others_go_on(world: World) -> None:
    two_cards(world)
    world.profile("p2", email="bo@example.com")
    world.account(2)
    world.card("big", 2, note="n" * 40 * 1024)
    world.member("p2", [(2, "big")])
    one = activation(personalization={"entities": [{"path": "Accounts:cards", "columns": ["note"]}]})
    result = world.build(one)
    assert world.verdicts() == {"p1": "ok", "p2": "too_large"}
    assert (result.ok, result.withheld) == (1, {"too_large": 1})
    assert "41 KB" in world.stored()[1]["detail"]


@pytest.mark.parametrize(
    ("categories", "verdict"), [(["ads", "analytics"], "consent"), (["ads"], "ok"), (["analytics"], "consent")]
)
def test_ae9_1_a_destination_needs_all_of_its_categories(world: World, categories: list[str], verdict: str) -> None:
    world.profile("p1", email="ann@example.com", consent={"ads": "true", "analytics": "false"})
    world.member("p1")
    world.build(activation(consent={"subject": "profile", "categories": categories}))
    assert world.verdicts() == {"p1": verdict}


# -- consent -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consent", [{}, {"ads": "conflict"}, {"ads": "false"}])
def test_never_collected_and_conflict_block_as_no_does(world: World, consent: dict[str, str]) -> None:
    world.profile("p1", email="ann@example.com", consent=consent)
    world.member("p1")
    assert world.build(activation()).withheld == {"consent": 1}


def test_of_somebody_who_does_not_consent_only_key_and_flag_are_kept(world: World) -> None:
    world.profile("p1", email="ann@example.com", consent={})
    world.member("p1")
    world.build(activation())
    (row,) = world.stored()
    assert (row["payload"], row["exit_payload"], row["identifiers"], row["payload_hash"]) == (None, None, None, None)
    assert row["retract_payload"] == {"email": "ann@example.com", "overdue": False}


def test_consent_is_read_as_of_its_own_instant_and_follows_a_later_merge(world: World) -> None:
    late = AS_OF.replace(tzinfo=None) + dt.timedelta(hours=1)
    for name in ("p1", "p2", "p3"):
        world.profile(name, email=f"{name}@example.com")
        world.member(name)
    world.consent("p1", "ads", "false", late)
    world.merge("p2", "p3", late)
    world.consent("p3", "ads", "conflict", late)
    world.build(activation())
    assert world.verdicts() == {"p1": "consent", "p2": "consent", "p3": "consent"}
    world.build(activation(), consent_as_of_instant=AS_OF)
    assert world.verdicts() == {"p1": "ok", "p2": "ok", "p3": "ok"}


def test_a_suppressed_person_is_withheld_before_anything_else(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.profile("p2", email="bo@example.com", consent={})
    world.profile("p3", email="cy@example.com")
    for name in ("p1", "p2", "p3"):
        world.member(name)
    for value in ("ann@example.com", "bo@example.com"):
        suppress(world.warehouse, IdentitySettings(), "email", value, AS_OF)
    world.build(activation())
    assert world.verdicts() == {"p1": "suppressed", "p2": "suppressed", "p3": "ok"}
    world.build(activation(), consent_as_of_instant=AS_OF - dt.timedelta(seconds=1))
    assert world.verdicts() == {"p1": "ok", "p2": "consent", "p3": "ok"}


def test_of_a_suppressed_person_nothing_but_key_and_flag_is_kept(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.member("p1", cards=[(1, "c1")])
    suppress(world.warehouse, IdentitySettings(), "email", "ann@example.com", AS_OF)
    assert world.build(activation()).withheld == {"suppressed": 1}
    (row,) = world.stored()
    assert (row["payload"], row["exit_payload"], row["identifiers"], row["payload_hash"]) == (None, None, None, None)
    assert row["retract_payload"] == {"email": "ann@example.com", "overdue": False}


# -- identifiers, traits, keys -----------------------------------------------------------------------------------------


def test_the_last_seen_identifier_known_by_then_is_sent(world: World) -> None:
    world.profile("p1", email="old@example.com")
    world.identifier("p1", "email", "new@example.com")
    world.identifier("p1", "email", "future@example.com", AS_OF.replace(tzinfo=None))
    world.member("p1")
    world.build(activation())
    (row,) = world.stored()
    assert row["destination_key"] == "new@example.com"
    assert row["identifiers"] == {"email": "new@example.com"}


def test_without_the_identifier_or_the_destination_key_nothing_goes(world: World) -> None:
    world.profile("p1", user_id="u1")
    world.profile("p2", email="bo@example.com")
    world.member("p1")
    world.member("p2")
    world.build(activation())
    assert world.verdicts() == {"p1": "no_identifier", "p2": "ok"}
    world.build(activation(settings={"object": "contact", "key_field": "absent"}))
    assert world.verdicts() == {"p1": "no_identifier", "p2": "no_identifier"}


def test_a_computed_trait_wins_and_keeps_its_type(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.trait("p1", "logins", "said")
    world.trait("p1", "plan", "gold")
    world.computed("p1", "logins", number=3.0)
    world.computed("p1", "channels", text='["app","web"]')
    world.profile("p2", email="bo@example.com")
    world.trait("p2", "logins", "said")
    world.member("p1")
    world.member("p2")
    personal = {"traits": ["plan", "logins", "channels", "nothing"]}
    world.build(activation(personalization=personal, mapping={**WHOLE, "p": {"@path": "$.properties"}}))
    said = [row["payload"]["p"] for row in world.stored()]
    assert {key: said[0][key] for key in ("plan", "logins", "channels")} == {
        "plan": "gold",
        "logins": 3,
        "channels": ["app", "web"],
    }
    assert said[1] == {"audience_key": "overdue", "overdue": True, "logins": "said"}


def test_field_rules_of_the_destination_name_fields_never_values(world: World) -> None:
    world.profile("p1", email="not-an-address")
    world.member("p1")
    mapping = {"email": {"@path": "$.context.traits.email"}, "limit": "much", "code": "too long", "free": [1]}
    result = world.build(activation(mapping=mapping))
    assert result.withheld == {"invalid": 1}
    assert world.stored()[0]["detail"] == "code is longer than 4 characters; email is not an email; limit is not a number"
    assert result.problems == ["1 × code is longer than 4 characters; email is not an email; limit is not a number"]


def test_a_mapping_that_fails_on_one_unit_withholds_that_unit(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.trait("p1", "which", "email")
    world.profile("p2", email="bo@example.com")
    world.member("p1")
    world.member("p2")
    mapping = {"email": {"@path": "$.context.traits.email"}, "x": {"@path": {"@path": "$.properties.which"}}}
    world.build(activation(mapping=mapping, personalization={"traits": ["which"]}))
    assert world.verdicts() == {"p1": "ok", "p2": "invalid"}
    assert world.stored()[1]["detail"] == "mapping: @path: expected string, got undefined"


# -- units -------------------------------------------------------------------------------------------------------------


def test_an_entity_with_several_parents_counts_once_and_lists_all_of_them(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.account(1)
    world.account(2)
    world.account(3)
    world.card("c1", 1)
    world.card("c2", 3)
    world.member("p1", [(1, "c1"), (2, "c1"), (3, "c2")])
    world.build(activation(trigger=CARD_ENTERS, mapping=WHOLE))
    first, second = world.stored()
    assert [account["ID"] for account in first["payload"]["message"]["properties"]["Accounts"]] == [1, 2]
    assert [account["ID"] for account in second["payload"]["message"]["properties"]["Accounts"]] == [3]


def test_an_entity_that_is_gone_from_its_table_keeps_its_key(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.member("p1", [(1, "c1")])
    world.build(activation(trigger=CARD_ENTERS, personalization=CARDS, mapping=WHOLE))
    said = world.stored()[0]["payload"]["message"]["properties"]
    assert (said["cards__CARD_ID"], said["cards__balance"]) == ("c1", None)


def test_exit_and_retract_say_false_and_a_retract_says_nothing_else(world: World) -> None:
    two_cards(world)
    mapping = {"email": {"@path": "$.traits.email"}, "overdue": {"@path": "$.traits.overdue"}, "id": {"@path": "$.userId"}}
    world.build(activation(trigger={"unit": "profile", "when": "enters_or_exits"}, mapping=mapping))
    (row,) = world.stored()
    assert row["payload"] == {"email": "ann@example.com", "overdue": True, "id": "u1"}
    assert row["exit_payload"] == {"email": "ann@example.com", "overdue": False, "id": "u1"}
    assert row["retract_payload"] == {"email": "ann@example.com", "overdue": False}


@pytest.mark.parametrize(
    ("when", "name", "enter", "exit_"),
    [
        ("enters", None, "Audience Entered", "Audience Exited"),
        ("enters", "Card Overdue", "Card Overdue", "Audience Exited"),
        ("exits", "All Paid", "Audience Entered", "All Paid"),
    ],
)
def test_an_event_name_of_its_own_belongs_to_what_the_trigger_announces(
    world: World, when: str, name: str | None, enter: str, exit_: str
) -> None:
    two_cards(world)
    mapping = {"email": {"@path": "$.context.traits.email"}, "event": {"@path": "$.event"}}
    world.build(activation(trigger={"unit": "profile", "when": when}, event_name=name, mapping=mapping))
    (row,) = world.stored()
    assert (row["payload"]["event"], row["exit_payload"]["event"]) == (enter, exit_)


# -- what a build leaves behind ----------------------------------------------------------------------------------------


def everything(world: World) -> list[dict[str, Any]]:
    return world.warehouse.rows(world.warehouse.table(PAYLOADS.ref).order_by("activation", "unit"), 1000)


def test_two_builds_give_the_same_bytes_and_payloads_hold_no_clock(world: World) -> None:
    two_cards(world)
    one = activation(mapping=WHOLE, personalization=CARDS)
    world.build(one)
    first = everything(world)
    world.build(one, run_id="another", loaded_at=AS_OF + dt.timedelta(days=1))
    assert everything(world) == first
    message = world.stored()[0]["payload"]["message"]
    assert message["messageId"] == MESSAGE_ID_TOKEN
    assert {message[name] for name in ("timestamp", "originalTimestamp", "receivedAt")} == {TIMESTAMP_TOKEN}
    assert first[0]["payload_hash"] == hashlib.sha256(first[0]["payload"].encode()).hexdigest()
    assert first[0]["payload"] == json.dumps(json.loads(first[0]["payload"]), sort_keys=True, separators=(",", ":"))


def test_a_build_says_which_materialisation_it_read(world: World) -> None:
    two_cards(world)
    world.build(activation())
    (build,) = world.warehouse.rows(world.warehouse.table(PAYLOAD_BUILDS.ref), 10)
    assert (build["source"], build["source_partition"], build["source_revision"], build["source_run_id"]) == (
        "overdue",
        WINDOW,
        "rev-1",
        "run-1",
    )
    assert (json.loads(build["tables"]), build["rows"], build["run_id"]) == ({"bank.cards": 7}, 1, "run-2")
    (own,) = world.warehouse.rows(world.warehouse.table(BUILDS.ref), 10)
    assert (own["asset"], own["rows"], own["revision"]) == ("notify", 1, "def-1")


@pytest.mark.parametrize("by_column", [True, False], ids=["by column", "one by one"])
def test_a_build_that_fails_halfway_leaves_the_old_content(
    world: World, monkeypatch: pytest.MonkeyPatch, by_column: bool
) -> None:
    # Liquid has each message looked at.
    wanted = activation() if by_column else activation(mapping={"email": {"@liquid": "{{context.traits.email}}"}})
    step = (payloads.AudienceMapper, "map") if by_column else (payloads._Writer, "_row")
    two_cards(world)
    world.profile("p2", email="bo@example.com")
    world.build(wanted)
    before = everything(world)
    world.member("p2")
    monkeypatch.setattr(payloads, "WRITE_ROWS", 1)
    monkeypatch.setattr(audience_columns, "BATCH_ROWS", 1)
    real, calls = getattr(*step), []

    def fail_at_second(self: Any, what: Any) -> Any:
        calls.append(what)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return real(self, what)

    monkeypatch.setattr(*step, fail_at_second)
    with pytest.raises(RuntimeError, match="killed"):
        world.build(wanted)
    assert everything(world) == before
    monkeypatch.setattr(*step, real)
    assert world.build(wanted).units == 2


def test_only_the_given_partition_and_activation_are_touched(world: World) -> None:
    two_cards(world)
    world.build(activation())
    world.build(activation(key="other"))
    with pytest.raises(PayloadError, match="no build of partition 2026-02-01"):
        world.build(activation(), window_key="2026-02-01")
    assert {row["activation"] for row in everything(world)} == {"notify", "other"}


def test_a_column_that_is_not_there_is_named_before_anything_is_written(world: World) -> None:
    two_cards(world)
    with pytest.raises(PayloadError, match=r"table bank\.cards has no column limits"):
        world.build(activation(personalization={"entities": [{"path": "Accounts:cards", "columns": ["limits"]}]}))


def test_the_sample_is_masked(world: World) -> None:
    two_cards(world)
    world.trait("p1", "first_name", "Ann")
    mapping = {
        "email": {"@path": "$.context.traits.email"},
        "Key__c": {"@path": "$.userId"},
        "greeting": {"@template": "Dear {{properties.first_name}}"},
        "overdue": {"@path": "$.properties.overdue"},
        "balance": {"@path": "$.properties.Accounts[0].cards[0].balance"},
    }
    result = world.build(activation(mapping=mapping, personalization={"traits": ["first_name"], **CARDS}))
    (shown,) = result.sample
    text = json.dumps(shown)
    assert "ann" not in text.lower()
    assert "u1" not in text
    assert (shown["overdue"], shown["balance"]) == (True, 500)


def test_many_members_stream_in_batches_with_their_context(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from cdp_assets.activation_payloads import audience_rows, payloads

    monkeypatch.setattr(audience_rows, "BATCH_ROWS", 7)
    monkeypatch.setattr(payloads, "WRITE_ROWS", 4)
    for number in range(30):
        world.profile(f"p{number:02}", email=f"p{number}@example.com")
        world.account(number)
        world.card(f"c{number}", number)
        world.card(f"d{number}", number)
        world.member(f"p{number:02}", [(number, f"c{number}"), (number, f"d{number}")])
    mapping = {"email": {"@path": "$.context.traits.email"}, "cards": {"@path": "$.properties.Accounts[0].cards"}}
    assert world.build(activation(mapping=mapping)).ok == 30
    for number, row in enumerate(world.stored()):
        assert [card["CARD_ID"] for card in row["payload"]["cards"]] == [f"c{number}", f"d{number}"]


# -- both engines ------------------------------------------------------------------------------------------------------


def test_every_engine_builds_the_same_payload(warehouse: Warehouse) -> None:
    world = World(warehouse)
    two_cards(world)
    world.trait("p1", "plan", "gold")
    world.computed("p1", "logins", number=3.0)
    world.profile("p2", email="bo@example.com", consent={})
    world.member("p2")
    personal = {"traits": ["plan", "logins"], "entities": [{"path": "Accounts:cards", "columns": ["balance", "due"]}]}
    mapping = {"email": {"@path": "$.context.traits.email"}, "said": {"@path": "$.properties"}}
    result = world.build(activation(personalization=personal, mapping=mapping))
    assert (result.units, result.withheld) == (2, {"consent": 1})
    first, _ = world.stored()
    assert first["payload"] == {
        "email": "ann@example.com",
        "said": {
            "plan": "gold",
            "logins": 3,
            "Accounts": [
                {
                    "ID": 1,
                    "__entity": "account",
                    "cards": [
                        {"CARD_ID": "c1", "balance": 500, "due": "2026-04-01", "__entity": "card"},
                        {"CARD_ID": "c2", "balance": 20.25, "due": "2026-04-01", "__entity": "card"},
                    ],
                }
            ],
            "audience_key": "overdue",
            "overdue": True,
        },
    }
    assert first["payload_hash"] == "cfd5abbf85223ff2686e88a9b8f9dce4e2355aff3a398980ac740eb31aa8ca05"
