"""Identifiers of a message: where they stand, and values that identify nobody."""

from __future__ import annotations

import json

from cdp_assets.space.models import BlockedValue, IdentitySettings
from cdp_assets.unified_profiles.identifiers import Extractor, Identifier, device_identifiers, external_identifiers


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


def extracted(settings: IdentitySettings, **values: str) -> tuple[tuple[Identifier, ...], tuple[Identifier, ...]]:
    names = ["user_id", "anonymous_id", "email_0", "email_1", "email_2", "device", "ga_client_id", "external_ids"]
    columns = {name: [values.get(name)] for name in names}
    return next(iter(Extractor(settings).of_columns(columns, 1)))


def test_blocked_values_are_set_apart_and_the_empty_text_always() -> None:
    good, bad = extracted(
        IdentitySettings(), user_id="00000000-0000", anonymous_id="-1", email_0="a@x", email_1="a@x", email_2=""
    )
    assert good == (("email", "a@x"),)
    assert bad == (("user_id", "00000000-0000"), ("email", ""), ("anonymous_id", "-1"))
    custom = IdentitySettings(blocked=(BlockedValue(regex="test-.*"),))
    assert extracted(custom, user_id="test-1", anonymous_id="a test-1") == (
        (("anonymous_id", "a test-1"),),
        (("user_id", "test-1"),),
    )


def test_emails_keep_their_case_and_an_object_is_no_email() -> None:
    good, _ = extracted(IdentitySettings(), email_0="A@x", email_1="a@x", email_2='{"a":1}')
    assert good == (("email", "A@x"), ("email", "a@x"))
