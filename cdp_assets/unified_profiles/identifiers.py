"""Where identifiers stand in a message, which values identify nobody, and how identifier types rank.

The places are those that Segment documents (identity resolution, external ids). The warehouse extracts the candidates; Python
reads the distinct documents among them, and decides once per distinct value whether it is blocked.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ibis.expr.types as ir
import orjson

from cdp_assets.space.models.settings import BlockedValue, IdentitySettings
from resources.warehouse import functions as fn

_EMAIL_PLACES = (("traits", "email"), ("context", "traits", "email"), ("properties", "email"))
_DEVICE_TYPES = ("android", "ios")
BUILT_IN = (
    "android.id",
    "android.idfa",
    "android.push_token",
    "anonymous_id",
    "email",
    "ga_client_id",
    "ios.id",
    "ios.idfa",
    "ios.push_token",
    "user_id",
)
_EXTERNAL_ID_FIELDS = ("id", "type", "collection", "encoding")
_WINDOWS = {
    "ever": None,
    "annually": dt.timedelta(days=365),
    "monthly": dt.timedelta(days=30),
    "weekly": dt.timedelta(days=7),
    "daily": dt.timedelta(days=1),
}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Identifier(NamedTuple):
    """Identifier type and value."""

    type: str
    value: str


@dataclass(frozen=True)
class Rule:
    """Limit of one identifier type: most values per profile among those attached within ``window`` (None: ever), and its rank.

    A smaller rank is a higher priority; ranks of different types differ.
    """

    limit: int
    window: dt.timedelta | None
    rank: tuple[int, int, str]


@dataclass(frozen=True)
class Rules:
    """The rules of all types. A type that the configuration does not know gets the defaults, after all known ones."""

    known: Mapping[str, Rule]

    @classmethod
    def of(cls, settings: IdentitySettings) -> Rules:
        """Segment's defaults (user_id 1 ever, all others 5 ever; user_id first, then email, then alphabetical), changed by the settings."""
        given = {rule.type: rule for rule in settings.identifiers}
        others = sorted({*BUILT_IN, *settings.custom, *given} - {"user_id", "email"})
        known = {}
        for position, kind in enumerate(["user_id", "email", *others], start=1):
            rule = given.get(kind)
            limit = rule.limit if rule else (1 if kind == "user_id" else 5)
            window = _WINDOWS[rule.window] if rule else None
            priority = rule.priority if rule and rule.priority else position
            known[kind] = Rule(limit, window, (priority, position, kind))
        return cls(known)

    def rule(self, kind: str) -> Rule:
        return self.known.get(kind) or Rule(5, None, (1_000_000, 0, kind))


class Place(NamedTuple):
    """A column of the candidates that holds values of one type as they are."""

    column: str
    type: str


def candidates(messages: ir.Table, settings: IdentitySettings) -> dict[str, ir.StringValue]:
    """Expressions over the messages table whose values hold identifiers, by the names that :func:`places` and DOCUMENTS read."""
    found = {"user_id": messages.user_id, "anonymous_id": messages.anonymous_id}
    for index, (document, *keys) in enumerate(_EMAIL_PLACES):
        found[f"email_{index}"] = fn.json_text(messages[document], *keys)
    found["device"] = fn.json_text(messages.context, "device")
    found["ga_client_id"] = fn.json_text(messages.context, "integrations", "Google Analytics", "clientId")
    found["external_ids"] = fn.json_text(messages.context, "externalIds")
    for index, key in enumerate(settings.custom.values()):
        for place, (document, *keys) in enumerate(_custom_places(key)):
            found[f"custom_{index}_{place}"] = fn.json_text(messages[document], *keys)
    return found


def places(settings: IdentitySettings) -> list[Place]:
    """The candidates that are values, in the order of extraction. Those in DOCUMENTS come after them."""
    found = [Place("user_id", "user_id")]
    found += [Place(f"email_{index}", "email") for index in range(len(_EMAIL_PLACES))]
    found += [Place("anonymous_id", "anonymous_id"), Place("ga_client_id", "ga_client_id")]
    for index, (kind, key) in enumerate(settings.custom.items()):
        found += [Place(f"custom_{index}_{place}", kind) for place in range(len(_custom_places(key)))]
    return found


def _custom_places(key: str) -> list[tuple[str, ...]]:
    """A configured key in camelCase and snake_case, in each of the documents that may carry it."""
    snake = _CAMEL.sub("_", key).lower()
    head, *rest = snake.split("_")
    spellings = list(dict.fromkeys([key, snake, head + "".join(word.capitalize() for word in rest)]))
    return [(*where, spelling) for where in (("traits",), ("context", "traits"), ("properties",)) for spelling in spellings]


@dataclass
class Blocked:
    """Whether a value identifies nobody. The empty text never does."""

    values: Sequence[BlockedValue]

    def __post_init__(self) -> None:
        self._exact = {"", *(value.exact for value in self.values if value.exact is not None)}
        self._patterns = [re.compile(value.regex) for value in self.values if value.regex is not None]

    def __call__(self, value: str) -> bool:
        return value in self._exact or any(pattern.fullmatch(value) for pattern in self._patterns)


def device_identifiers(text: str) -> list[Identifier]:
    """Identifiers of ``context.device``: its id, push token, and, where tracking is allowed, advertising id."""
    device = _parsed(text)
    kind = device.get("type") if isinstance(device, dict) else None
    kind = kind.lower() if isinstance(kind, str) else None
    if kind not in _DEVICE_TYPES:
        return []
    places = [("id", "id"), ("token", "push_token")]
    if device.get("adTrackingEnabled") is True:
        places.insert(1, ("advertisingId", "idfa"))
    return [Identifier(f"{kind}.{name}", device[key]) for key, name in places if isinstance(device.get(key), str)]


def external_identifiers(text: str) -> list[Identifier]:
    """Identifiers of ``context.externalIds``: entries of users with all four fields, the type in lower case."""
    entries = _parsed(text)
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in _EXTERNAL_ID_FIELDS):
            continue
        if entry["collection"] == "users" and entry["encoding"] == "none" and entry["type"] == entry["type"].lower():
            found.append(Identifier(entry["type"], entry["id"]))
    return found


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


# Candidates that are JSON documents with identifiers inside, and how to read one, in the order of extraction.
DOCUMENTS: Mapping[str, Callable[[str], list[Identifier]]] = {"device": device_identifiers, "external_ids": external_identifiers}
