"""Both payload shapes, whole, for one member with two accounts and three cards, and the envelope of every trigger."""

from __future__ import annotations

from typing import Any

import pytest
from activation_payloads_world import activation, space

from cdp_assets.activation_payloads.audience_rows import condition_nodes
from cdp_assets.activation_payloads.message import AudienceMessages, EntityRow, Member, plain
from cdp_assets.activation_payloads.tables import MESSAGE_ID_TOKEN, TIMESTAMP_TOKEN

MEMBER = Member(
    "p1",
    {"user_id": "u1", "anonymous_id": "a1", "email": "ann@example.com"},
    {"plan": "gold"},
    {
        "Accounts": (EntityRow("1", "", {"ID": 1, "KIND": "checking"}), EntityRow("2", "", {"ID": 2, "KIND": "savings"})),
        "Accounts:cards": (
            EntityRow("c1", "1", {"CARD_ID": "c1", "BALANCE": 5}),
            EntityRow("c1", "2", {"CARD_ID": "c1", "BALANCE": 5}),
            EntityRow("c2", "1", {"CARD_ID": "c2", "BALANCE": 7}),
        ),
    },
)
CARD = {"unit": "entity", "path": "Accounts:cards", "when": "enters"}
ACCOUNT = {"unit": "entity", "path": "Accounts", "when": "enters"}


def built(entity_id: str | None = None, **changes: Any) -> dict[str, Any]:
    one = activation(**changes)
    loaded = space(one)
    return AudienceMessages(loaded, one, condition_nodes(loaded, one)).message(MEMBER, entity_id)


def test_the_envelope_of_a_track_message() -> None:
    message = built()
    personas = message["context"].pop("personas")
    body = message.pop("properties")
    assert message == {
        "type": "track",
        "event": "Audience Entered",
        "userId": "u1",
        "anonymousId": "a1",
        "messageId": MESSAGE_ID_TOKEN,
        "timestamp": TIMESTAMP_TOKEN,
        "originalTimestamp": TIMESTAMP_TOKEN,
        "receivedAt": TIMESTAMP_TOKEN,
        "context": {"traits": {"email": "ann@example.com"}},
        "integrations": {"All": False, "crm": True},
    }
    assert (body["audience_key"], body["overdue"], body["plan"]) == ("overdue", True, "gold")
    assert (personas["computation_class"], personas["computation_key"]) == ("audience", "overdue")
    assert personas["computation_id"].startswith("aud_")
    assert personas["space_id"].startswith("spa_") and personas["space_id"] == personas["namespace"]


def test_membership_of_both_kinds_is_an_identify_with_the_address_among_its_traits() -> None:
    message = built(trigger={"unit": "profile", "when": "enters_or_exits"})
    assert message["type"] == "identify"
    assert "event" not in message and "properties" not in message and "traits" not in message["context"]
    assert message["traits"]["email"] == "ann@example.com"
    assert message["traits"]["overdue"] is True


def test_an_identifier_of_another_type_goes_by_its_type() -> None:
    one = activation(identifier="owl_card")
    loaded = space(one)
    member = Member("p1", {"owl_card": "o1"}, {}, {})
    message = AudienceMessages(loaded, one, condition_nodes(loaded, one)).message(member)
    assert message["context"]["traits"] == {"owl_card": "o1"}
    assert "userId" not in message


def test_the_flattened_shape_of_a_profile_lists_every_branch() -> None:
    assert built()["properties"] == {
        "plan": "gold",
        "Accounts": [
            {
                "ID": 1,
                "KIND": "checking",
                "__entity": "account",
                "cards": [
                    {"CARD_ID": "c1", "BALANCE": 5, "__entity": "card"},
                    {"CARD_ID": "c2", "BALANCE": 7, "__entity": "card"},
                ],
            },
            {
                "ID": 2,
                "KIND": "savings",
                "__entity": "account",
                "cards": [{"CARD_ID": "c1", "BALANCE": 5, "__entity": "card"}],
            },
        ],
        "audience_key": "overdue",
        "overdue": True,
    }


def test_the_flattened_shape_of_an_entity_puts_it_on_top_and_keeps_what_leads_to_it() -> None:
    assert built("c2", trigger=CARD)["properties"] == {
        "plan": "gold",
        "Accounts": [{"ID": 1, "KIND": "checking", "__entity": "account"}],
        "cards__CARD_ID": "c2",
        "cards__BALANCE": 7,
        "cards____entity": "card",
        "audience_key": "overdue",
        "overdue": True,
    }


def test_the_flattened_shape_of_a_parent_keeps_its_children_as_arrays() -> None:
    assert built("2", trigger=ACCOUNT)["properties"] == {
        "plan": "gold",
        "Accounts__ID": 2,
        "Accounts__KIND": "savings",
        "Accounts____entity": "account",
        "Accounts__cards": [{"CARD_ID": "c1", "BALANCE": 5, "__entity": "card"}],
        "audience_key": "overdue",
        "overdue": True,
    }


def test_the_context_shape_nests_by_relationship_in_lower_case() -> None:
    assert built(shape="context")["properties"] == {
        "plan": "gold",
        "overdue_context": {
            "accounts": [
                {
                    "ID": 1,
                    "KIND": "checking",
                    "cards": [{"CARD_ID": "c1", "BALANCE": 5}, {"CARD_ID": "c2", "BALANCE": 7}],
                },
                {"ID": 2, "KIND": "savings", "cards": [{"CARD_ID": "c1", "BALANCE": 5}]},
            ]
        },
        "audience_key": "overdue",
        "overdue": True,
    }


def test_the_context_shape_of_an_entity_holds_only_its_own_line() -> None:
    assert built("c2", trigger=CARD, shape="context")["properties"]["overdue_context"] == {
        "accounts": [{"ID": 1, "KIND": "checking", "cards": [{"CARD_ID": "c2", "BALANCE": 7}]}]
    }


def test_a_trait_named_like_the_audience_cannot_fake_the_membership() -> None:
    one = activation()
    loaded = space(one)
    member = Member("p1", {}, {"overdue": "no", "audience_key": "x"}, {})
    body = AudienceMessages(loaded, one, condition_nodes(loaded, one)).message(member)["properties"]
    assert (body["overdue"], body["audience_key"]) == (True, "overdue")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_null(value: float) -> None:
    assert plain(value) is None
