"""Masking: what may be shown of a record on an asset, in a check, or in a log.

A masked value keeps its shape (length, case, punctuation), so that a person can still see what is wrong with it, and nothing
of what it says. Numbers, booleans, instants and words that look like a code (``past_due``) stay unless their field is known to
be personal; every other text is masked, because a name cannot be told from a word by looking at it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

_CODE = re.compile(r"[a-z][a-z0-9]{0,15}(?:[_:-][a-z0-9]{1,15}){1,4}|true|false")
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?")
_PERSONAL_FIELD = re.compile(
    r"(?i)e-?mail|phone|mobile|fax|name|token|secret|password|street|address|city|zip|postal|birth|user.?id|anonymous.?id|identifier"
)
# A run of digits inside an identifier (a UUID, a hash) is no phone number.
_LOOKS_PERSONAL = re.compile(r"\S@\S|(?<![0-9A-Za-z-])\+?\d[\d ()/.-]{6,}\d(?![0-9A-Za-z])")


def mask_value(value: Any) -> str:
    """A value as text with every letter as ``x`` or ``X`` and every digit as ``0``; punctuation and length stay."""
    return "".join("0" if c.isdigit() else ("X" if c.isupper() else "x") if c.isalpha() else c for c in str(value))


def looks_personal(value: Any) -> bool:
    """Whether a text holds something like an e-mail address or a phone number. Instants do not."""
    return isinstance(value, str) and not _INSTANT.fullmatch(value) and _LOOKS_PERSONAL.search(value) is not None


def mask_record(record: Mapping[str, Any], personal: Collection[str] = ()) -> dict[str, Any]:
    """The record with personal values masked, nested objects and JSON texts included; field names stay.

    ``personal``: fields whose values are masked whatever they look like (also numbers). Without it, fields named like a
    personal one (name, e-mail, phone, token, …) are.
    """
    return {
        key: _masked(value, key in personal or _PERSONAL_FIELD.search(key) is not None, personal) for key, value in record.items()
    }


def _masked(value: Any, is_personal: bool, personal: Collection[str]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        if is_personal:
            return {key: _masked(inner, True, personal) for key, inner in value.items()}
        return mask_record(value, personal)
    if isinstance(value, (list, tuple)):
        return [_masked(inner, is_personal, personal) for inner in value]
    if isinstance(value, str):
        return _masked_text(value, is_personal, personal)
    if isinstance(value, (dt.datetime, dt.date, int, float)) and not is_personal:
        return value
    return mask_value(value)


def _masked_text(text: str, is_personal: bool, personal: Collection[str]) -> str:
    if text[:1] in ("{", "["):
        try:
            document = json.loads(text)
        except ValueError:
            return mask_value(text)
        return json.dumps(_masked(document, is_personal, personal), ensure_ascii=False)
    if not is_personal and (_INSTANT.fullmatch(text) or _CODE.fullmatch(text)):
        return text
    return mask_value(text)
