"""Where identifiers stand in a message, which values identify nobody, and how identifier types rank.

The places are those that Segment documents (identity resolution, external ids). The warehouse extracts the candidates; Python
turns a row of candidates into the message's identifiers.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import ibis.expr.types as ir
import orjson

from cdp_assets.space.models import BlockedValue, IdentitySettings
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


def candidates(messages: ir.Table, settings: IdentitySettings) -> dict[str, ir.StringValue]:
    """Expressions over the messages table whose values hold identifiers, by the name that :class:`Extractor` reads them under."""
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


def _custom_places(key: str) -> list[tuple[str, ...]]:
    """A configured key in camelCase and snake_case, in each of the documents that may carry it."""
    snake = _CAMEL.sub("_", key).lower()
    head, *rest = snake.split("_")
    spellings = list(dict.fromkeys([key, snake, head + "".join(word.capitalize() for word in rest)]))
    return [(*where, spelling) for where in (("traits",), ("context", "traits"), ("properties",)) for spelling in spellings]


@dataclass
class Extractor:
    """Rows of candidates -> identifiers, in a fixed order and without repetition; blocked values apart."""

    settings: IdentitySettings
    _plain: list[tuple[str, str]] = field(init=False)
    _blocked: _Blocked = field(init=False)

    def __post_init__(self) -> None:
        self._blocked = _Blocked(self.settings.blocked)
        self._plain = [("user_id", "user_id")]
        self._plain += [(f"email_{index}", "email") for index in range(len(_EMAIL_PLACES))]
        self._plain += [("anonymous_id", "anonymous_id"), ("ga_client_id", "ga_client_id")]
        for index, (kind, key) in enumerate(self.settings.custom.items()):
            self._plain += [(f"custom_{index}_{place}", kind) for place in range(len(_custom_places(key)))]

    def of_columns(
        self, columns: Mapping[str, Sequence[str | None]], rows: int
    ) -> Iterable[tuple[tuple[Identifier, ...], tuple[Identifier, ...]]]:
        """(identifiers, blocked ones) of each of ``rows`` rows; ``columns`` are those of :func:`candidates`."""
        # Most candidates are absent from whole batches: look only at columns that hold something.
        plain = [(columns[name], kind) for name, kind in self._plain if any(v is not None for v in columns[name])]
        devices, externals = columns["device"], columns["external_ids"]
        for index in range(rows):
            found = [Identifier(kind, value) for column, kind in plain if (value := column[index]) is not None]
            if (device := devices[index]) is not None:
                found += device_identifiers(device)
            if (external := externals[index]) is not None:
                found += external_identifiers(external)
            good: list[Identifier] = []
            bad: list[Identifier] = []
            for identifier in dict.fromkeys(found):
                if identifier.value[:1] in ("{", "["):
                    continue  # an object or array where a value belongs
                (bad if self._blocked(identifier.value) else good).append(identifier)
            yield tuple(good), tuple(bad)


@dataclass
class _Blocked:
    """Whether a value identifies nobody. The empty text never does."""

    values: Sequence[BlockedValue]

    def __post_init__(self) -> None:
        self._exact = {"", *(value.exact for value in self.values if value.exact is not None)}
        self._patterns = [re.compile(value.regex) for value in self.values if value.regex is not None]

    def __call__(self, value: str) -> bool:
        return value in self._exact or any(pattern.fullmatch(value) for pattern in self._patterns)


@lru_cache(maxsize=10_000)
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
