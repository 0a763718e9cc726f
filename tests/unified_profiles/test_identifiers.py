"""Identifiers of a message: where they stand, and values that identify nobody."""

from __future__ import annotations

import json

from cdp_assets.space.models.settings import BlockedValue, IdentitySettings
from cdp_assets.unified_profiles.identifiers import Blocked, device_identifiers, external_identifiers


def test_device_identifiers_need_a_known_platform_and_leave_to_track() -> None:
    device = {"id": "d", "type": "Android", "advertisingId": "ad", "token": "t"}
    assert device_identifiers(json.dumps(device)) == [("android.id", "d"), ("android.push_token", "t")]
    tracked = {**device, "type": "ios", "adTrackingEnabled": True}
    assert device_identifiers(json.dumps(tracked)) == [("ios.id", "d"), ("ios.idfa", "ad"), ("ios.push_token", "t")]
    assert device_identifiers(json.dumps({**device, "type": "toaster"})) == []


def test_external_ids_need_all_four_fields_and_a_lower_case_type_of_users() -> None:
    good = {"id": "1", "type": "owl_card", "collection": "users", "encoding": "none"}
    bad = [
        {**good, "type": "Owl"},
        {**good, "collection": "accounts"},
        {key: value for key, value in good.items() if key != "encoding"},
        {**good, "id": 7},
        "text",
    ]
    assert external_identifiers(json.dumps([good, *bad])) == [("owl_card", "1")]
    assert external_identifiers('{"id":"1"}') == external_identifiers("no json") == []


def test_only_values_that_name_nobody_are_blocked_and_the_empty_text_always() -> None:
    blocked = Blocked(IdentitySettings().blocked)
    assert [value for value in ("00000000-0000", "-1", "", "null", "anonymous", "a@x", "0-1", "NULL") if blocked(value)] == [
        "00000000-0000",
        "-1",
        "",
        "null",
        "anonymous",
    ]
    custom = Blocked((BlockedValue(regex="test-.*"),))
    assert [value for value in ("test-1", "a test-1", "-1", "") if custom(value)] == ["test-1", ""]


def test_blocked_values_are_set_apart_and_told(any_people) -> None:
    people = any_people
    people.say("00000000-0000", "-1", traits={"email": "a@x"}, properties={"email": ""}, context={"traits": {"email": "a@x"}})
    people.build()
    assert people.rows("user_identifiers", "type", "value") == [("email", "a@x")]
    assert people.rows("identity_violations", "identifier_type", "reason") == [
        ("anonymous_id", "id_value_blocked"),
        ("email", "id_value_blocked"),
        ("user_id", "id_value_blocked"),
    ]


def test_emails_keep_their_case_and_an_object_is_no_email(people) -> None:
    people.say(None, None, traits={"email": "A@x"}, properties={"email": {"a": 1}}, context={"traits": {"email": "a@x"}})
    people.build()
    assert people.rows("user_identifiers", "type", "value") == [("email", "A@x"), ("email", "a@x")]
