"""What a masked record still shows: shape, numbers, codes and instants; never what it says of a person."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_assets.space.masking import looks_personal, mask_record, mask_value


def test_a_masked_value_keeps_its_shape() -> None:
    assert mask_value("Ada.Löve@Example-1.com") == "Xxx.Xxxx@Xxxxxxx-0.xxx"
    assert mask_value("+49 (170) 123") == "+00 (000) 000"


@given(st.text(min_size=1))
def test_no_letter_and_no_digit_of_a_value_survives(text: str) -> None:
    masked = mask_value(text)
    assert len(masked) == len(text)
    assert {character for character in masked if character.isalpha() or character.isdigit()} <= {"x", "X", "0"}


def test_numbers_truths_codes_and_instants_stay() -> None:
    record = {"n": 3, "share": 0.5, "flag": True, "none": None, "state": "past_due", "at": "2026-01-01T00:00:00Z"}
    assert mask_record(record) == record
    assert mask_record({"on": dt.date(2026, 1, 1)}) == {"on": dt.date(2026, 1, 1)}


def test_other_texts_are_masked_because_a_name_looks_like_a_word() -> None:
    assert mask_record({"owner": "ada", "company": "Acme"}) == {"owner": "xxx", "company": "Xxxx"}


@pytest.mark.parametrize("field", ["email", "Phone", "firstName", "access_token", "userId", "zip_code"])
def test_a_field_named_like_a_personal_one_is_masked_whatever_it_holds(field: str) -> None:
    assert mask_record({field: "past_due"}) == {field: "xxxx_xxx"}
    assert mask_record({field: 1701234567}) == {field: "0000000000"}


def test_named_columns_are_masked_inside_documents_too() -> None:
    document = json.dumps({"plan": "pro_plan", "count": 3, "to": [{"x": "Ada"}]})
    masked = mask_record({"doc": document, "nested": {"doc": "pro_plan", "other": "pro_plan"}}, personal=["doc"])
    assert json.loads(masked["doc"]) == {"plan": "xxx_xxxx", "count": "0", "to": [{"x": "Xxx"}]}
    assert masked["nested"] == {"doc": "xxx_xxxx", "other": "pro_plan"}
    assert mask_record({"doc": "{broken"}) == {"doc": "{xxxxxx"}


def test_e_mails_and_phones_are_recognised_and_instants_are_not() -> None:
    assert looks_personal("write to ada@example.com")
    assert looks_personal("call 0170-1234567")
    assert not looks_personal("2026-01-01 12:30:00")
    assert not looks_personal("past_due")
    assert not looks_personal("550e8400-e29b-41d4-a716-446655440000")
    assert not looks_personal(12345678901)
