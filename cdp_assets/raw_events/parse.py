"""One landing line as a message, or the reason why it is none.

The rules are Segment's spec for the six calls. A detail names the field that is wrong and never its value.
JSON documents are kept as compact text with their key order.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from cdp_assets.raw_events.columns import event_slug

MAX_MESSAGE_ID = 100
CONSENT_EVENT = "Segment Consent Preference Updated"
PAGE_EVENT = "Page Viewed"
SCREEN_EVENT = "Screen Viewed"
TYPES = frozenset({"identify", "track", "page", "screen", "group", "alias"})
_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Message(NamedTuple):
    """A message, its fields named and typed as the columns of the messages table."""

    message_id: str
    type: str
    event: str | None
    event_slug: str | None
    user_id: str | None
    anonymous_id: str | None
    group_id: str | None
    previous_id: str | None
    name: str | None
    category: str | None
    timestamp: dt.datetime
    original_timestamp: dt.datetime | None
    sent_at: dt.datetime | None
    received_at: dt.datetime
    properties: str | None
    traits: str | None
    context: str | None
    integrations: str | None


class Rejection(NamedTuple):
    """Why a line is not a message, with what could still be read of it."""

    reason: str
    detail: str | None = None
    message_id: str | None = None
    received_at: dt.datetime | None = None


class _Refused(Exception):
    """Carries a reason and its detail out of the checks."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def parse_line(line: bytes) -> Message | Rejection:
    """The message of a line, or a rejection."""
    if b"\x00" in line:
        return Rejection("nul_byte", "the line holds a NUL byte")
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Rejection(*_unreadable(line))
    if type(document) is not dict:
        return Rejection("not_object", "the line is not a JSON object")
    if b"\\u0000" in line and _NUL_ESCAPE.search(line):
        return Rejection("nul_byte", "a text holds a NUL character", *_trace(document))
    try:
        return _message(document)
    except _Refused as refused:
        return Rejection(refused.reason, refused.detail, *_trace(document))


def _unreadable(line: bytes) -> tuple[str, str]:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "invalid_utf8", "the line is not UTF-8"
    return "invalid_json", "the line is not JSON"


def _trace(document: dict[str, Any]) -> tuple[str | None, dt.datetime | None]:
    """message_id and received_at of a rejected line, where they are good."""
    message_id, received_at = document.get("messageId"), document.get("receivedAt")
    known = message_id if isinstance(message_id, str) and 0 < len(message_id) <= MAX_MESSAGE_ID else None
    if known and "\x00" in known:
        known = None
    return known, instant(received_at) if isinstance(received_at, str) else None


def _message(document: dict[str, Any]) -> Message:
    kind = document.get("type")
    if type(kind) is not str or kind not in TYPES:
        raise _Refused("type_unknown" if kind else "type_missing", "type is not one of the six calls")
    message_id = _text(document, "messageId")
    if message_id is None:
        raise _Refused("message_id_missing", "messageId is missing")
    if len(message_id) > MAX_MESSAGE_ID:
        raise _Refused("message_id_too_long", f"messageId has more than {MAX_MESSAGE_ID} characters")
    received_at = _time(document, "receivedAt")
    if received_at is None:
        raise _Refused("received_at_missing", "receivedAt is missing")
    user_id, anonymous_id = _text(document, "userId"), _text(document, "anonymousId")
    if user_id is None and anonymous_id is None:
        raise _Refused("identity_missing", "userId and anonymousId are missing")
    sent_at, original = _time(document, "sentAt"), _time(document, "originalTimestamp")
    event = _event(document, kind)
    context = _object(document, "context")
    _check_consent(event, kind, context)
    return Message(
        message_id,
        kind,
        event,
        event_slug(event) if kind == "track" and event else None,
        user_id,
        anonymous_id,
        _text(document, "groupId") if kind != "group" else _required(document, "groupId", "group_id_missing"),
        _text(document, "previousId") if kind != "alias" else _required(document, "previousId", "previous_id_missing"),
        _text(document, "name"),
        _text(document, "category"),
        _timestamp(document, received_at, sent_at, original),
        original,
        sent_at,
        received_at,
        _compact("properties", _object(document, "properties")),
        _compact("traits", _object(document, "traits")),
        _compact("context", context),
        _compact("integrations", _object(document, "integrations")),
    )


def _event(document: dict[str, Any], kind: str) -> str | None:
    if kind == "track":
        return _required(document, "event", "event_missing")
    return {"page": PAGE_EVENT, "screen": SCREEN_EVENT}.get(kind)


def _timestamp(
    document: dict[str, Any], received_at: dt.datetime, sent_at: dt.datetime | None, original: dt.datetime | None
) -> dt.datetime:
    """When it happened, by the receiver's clock: the client's clock counts only for the distance between its own two times."""
    if sent_at is not None and original is not None:
        try:
            return received_at - (sent_at - original)
        except OverflowError:
            raise _Refused("timestamp_invalid", "originalTimestamp and sentAt give no date") from None
    return original or _time(document, "timestamp") or received_at


def _text(document: dict[str, Any], field: str) -> str | None:
    """A text field; whole numbers count as text, an empty text as absent."""
    value = document.get(field)
    if value is None or value == "":
        return None
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise _Refused("field_invalid", f"{field} is not a text")


def _required(document: dict[str, Any], field: str, reason: str) -> str:
    value = _text(document, field)
    if value is None:
        raise _Refused(reason, f"{field} is missing")
    return value


def _object(document: dict[str, Any], field: str) -> dict[str, Any] | None:
    value = document.get(field)
    if value is None or type(value) is dict:
        return value
    raise _Refused("field_invalid", f"{field} is not an object")


def _time(document: dict[str, Any], field: str) -> dt.datetime | None:
    value = document.get(field)
    if value is None:
        return None
    found = instant(value) if type(value) is str else None
    if found is None:
        reason = "received_at_invalid" if field == "receivedAt" else "timestamp_invalid"
        raise _Refused(reason, f"{field} is not an ISO-8601 time with a zone")
    return found


@lru_cache(maxsize=1024)
def instant(text: str) -> dt.datetime | None:
    """ISO-8601 time with a zone as naive UTC; None for anything else."""
    try:
        found = dt.datetime.fromisoformat(text)
        return found.astimezone(dt.UTC).replace(tzinfo=None) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _compact(field: str, value: dict[str, Any] | None) -> str | None:
    if value is None:
        return None
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # The parser takes deeper nesting than the writer.
        raise _Refused("too_deep", f"{field} is nested too deeply") from None


def _check_consent(event: str | None, kind: str, context: dict[str, Any] | None) -> None:
    consent = (context or {}).get("consent")
    if consent is not None and type(consent) is not dict:
        raise _Refused("consent_invalid", "context.consent is not an object")
    preferences = (consent or {}).get("categoryPreferences")
    if preferences is None:
        if kind == "track" and event == CONSENT_EVENT:
            raise _Refused("consent_missing", "context.consent.categoryPreferences is missing")
        return
    if type(preferences) is not dict or any(type(value) is not bool for value in preferences.values()):
        raise _Refused("consent_invalid", "context.consent.categoryPreferences is not an object of booleans")
