"""Suppression: who asked not to be known any more, and the stage that keeps what they send from being accepted.

What is kept of a person is the SHA-256 of one identifier: it recognises the identifier when a message names it, and says nothing
to who reads the table. A message is refused when it was received while an identifier that it names was suppressed; received
time decides, so a file may land at any time and in any order. Messages of the same person that name only other identifiers are
accepted: nobody can tell from such a message alone whose it is. What the person's profile may be used for is decided where
profiles are known.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.stages import MESSAGE_BATCH, REFUSED, StageResult
from cdp_assets.raw_events.tables import SUPPRESSIONS, any_suppressions, suppressions_at
from cdp_assets.space.models.settings import IdentitySettings
from resources.warehouse import Warehouse, naive_utc

REASON: Final = "suppressed"
_EMAIL: Final = (("traits", "email"), ("context", "traits", "email"), ("properties", "email"))
# Columns that hold an identifier by themselves. previous_id names the user or visitor that an alias call speaks of.
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "user_id": ("user_id", "previous_id"),
    "anonymous_id": ("anonymous_id", "previous_id"),
}
_FIELDS: Final = {"user_id": "userId", "anonymous_id": "anonymousId", "previous_id": "previousId"}
_DOCUMENTS: Final = ("traits", "context", "properties")
_NEWEST: Final = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)  # after all that is recorded
_NEVER: Final = naive_utc(_NEWEST)
_DEVICE: Final[Mapping[str, tuple[str, str]]] = {
    f"{platform}.{name}": (platform, key)
    for platform in ("android", "ios")
    for name, key in (("id", "id"), ("idfa", "advertisingId"), ("push_token", "token"))
}


class SuppressionError(Exception):
    """A suppression cannot be recorded as it was asked for; the message says why, without the value."""


@dataclass(frozen=True)
class Suppression:
    """One identifier's suppression after a command. ``changed``: whether the command changed anything.

    ``suppressed_at``: since when it is, or was last, in force; None when it never was. ``lifted_at``: until when.
    """

    identifier_type: str
    changed: bool
    suppressed_at: dt.datetime | None = None
    lifted_at: dt.datetime | None = None

    @property
    def in_force(self) -> bool:
        return self.suppressed_at is not None and self.lifted_at is None


def value_hash(value: str) -> str:
    """What is kept of an identifier's value: the hexadecimal SHA-256 of its UTF-8 text."""
    return hashlib.sha256(value.encode()).hexdigest()


def suppressed_among(warehouse: Warehouse, named: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of these identifiers, (type, value), those that are suppressed now, whoever names them."""
    if not named or not any_suppressions(warehouse):
        return set()
    hashes = {(kind, value_hash(value)): (kind, value) for kind, value in named}
    table = suppressions_at(warehouse, _NEWEST)
    asked = table.filter(table.value_hash.isin(sorted({hashed for _, hashed in hashes})))
    found = {(row["identifier_type"], row["value_hash"]) for row in warehouse.arrow(asked).to_pylist()}
    return {pair for key, pair in hashes.items() if key in found}


def suppress(
    warehouse: Warehouse, identity: IdentitySettings, kind: str, value: str, at: dt.datetime, reason: str | None = None
) -> Suppression:
    """Record that an identifier is suppressed from ``at`` on. One that already is stays as it is. Raises :class:`SuppressionError`."""
    newest = _newest(warehouse, identity, kind, value)
    if newest.in_force:
        return newest
    if newest.lifted_at is not None and at < newest.lifted_at:
        raise SuppressionError(f"this {kind} was suppressed until {newest.lifted_at.isoformat()}; give a later instant")
    _write(warehouse, kind, value_hash(value), at, None, reason)
    return Suppression(kind, True, at)


def lift(warehouse: Warehouse, identity: IdentitySettings, kind: str, value: str, at: dt.datetime) -> Suppression:
    """End the suppression of an identifier at ``at``. What was refused meanwhile was not kept. Raises :class:`SuppressionError`."""
    newest = _newest(warehouse, identity, kind, value)
    if not newest.in_force:
        return newest
    assert newest.suppressed_at is not None
    if at < newest.suppressed_at:
        raise SuppressionError(f"this {kind} is suppressed since {newest.suppressed_at.isoformat()}; give a later instant")
    hashed = value_hash(value)
    with warehouse.transaction():
        table = warehouse.table(SUPPRESSIONS.ref)
        own = table.filter(table.suppression_id == _id(kind, hashed, newest.suppressed_at)).select("reason")
        reason = warehouse.rows(own, 1)[0]["reason"]
        _write(warehouse, kind, hashed, newest.suppressed_at, at, reason)
    return Suppression(kind, True, newest.suppressed_at, at)


def _id(kind: str, hashed: str, at: dt.datetime) -> str:
    return hashlib.sha256(f"{kind} {hashed} {naive_utc(at).isoformat()}".encode()).hexdigest()[:32]


def _write(
    warehouse: Warehouse, kind: str, hashed: str, at: dt.datetime, lifted_at: dt.datetime | None, reason: str | None
) -> None:
    """Write a suppression, in place of an earlier row of the same one."""
    row = {
        "suppression_id": _id(kind, hashed, at),
        "identifier_type": kind,
        "value_hash": hashed,
        "reason": reason,
        "suppressed_at": naive_utc(at),
        "lifted_at": naive_utc(lifted_at) if lifted_at else None,
    }
    with warehouse.transaction():
        warehouse.delete(SUPPRESSIONS.ref, [("suppression_id", "=", row["suppression_id"])])
        warehouse.append(SUPPRESSIONS.ref, pa.Table.from_pylist([row], schema=SUPPRESSIONS.schema.to_pyarrow()))


def _newest(warehouse: Warehouse, identity: IdentitySettings, kind: str, value: str) -> Suppression:
    """The newest suppression of an identifier, unchanged."""
    if not value:
        raise SuppressionError(f"an empty {kind} identifies nobody")
    _check_type(identity, kind)
    warehouse.ensure(SUPPRESSIONS)
    table = warehouse.table(SUPPRESSIONS.ref)
    mine = table.filter((table.identifier_type == kind) & (table.value_hash == value_hash(value)))
    rows = warehouse.rows(mine.order_by(mine.suppressed_at.desc()).select("suppressed_at", "lifted_at"), 1)
    if not rows:
        return Suppression(kind, False)
    since, until = rows[0]["suppressed_at"], rows[0]["lifted_at"]
    return Suppression(kind, False, since.replace(tzinfo=dt.UTC), until.replace(tzinfo=dt.UTC) if until else None)


def _check_type(identity: IdentitySettings, kind: str) -> None:
    """A misspelt type would suppress nobody and say nothing. Types of externalIds that no configuration names are configured first."""
    known = sorted(
        {"email", *_COLUMNS, *_DEVICE, "ga_client_id", *identity.custom, *(rule.type for rule in identity.identifiers)}
    )
    if kind not in known:
        raise SuppressionError(f"no identifier type {kind}; known: {', '.join(known)}")


# -- the stage -------------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """In force from ``start`` until ``end`` (None: not lifted); naive UTC, as received times are."""

    start: dt.datetime
    end: dt.datetime | None

    def holds(self, at: dt.datetime) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


@dataclass(frozen=True)
class SuppressionStage:
    """Refuses messages that name an identifier which was suppressed when they were received.

    ``spans``: identifier type -> value hash -> when it was in force. ``custom``: as in the identity settings.
    """

    spans: Mapping[str, Mapping[str, tuple[Span, ...]]]
    custom: Mapping[str, str]

    def apply(self, messages: pa.Table) -> StageResult:
        """Judge rows of MESSAGE_BATCH. The detail of a refusal is the identifier's type."""
        received = messages["received_at"]
        refused: dict[int, str] = {}
        for kind in sorted(self.spans):
            for row, value in self._named(messages, kind):
                spans = self._spans(kind, value)
                if spans and row not in refused and any(span.holds(received[row].as_py()) for span in spans):
                    refused[row] = kind
        if not refused:
            return StageResult(messages)
        rows = pa.array(sorted(refused), pa.int64())
        places = messages.take(rows).select(["file_hash", "line"])
        details = [f"{refused[row]} is suppressed" for row in sorted(refused)]
        out = pa.table([*places.columns, pa.array([REASON] * len(rows)), pa.array(details)], schema=REFUSED)
        goes_on = pc.invert(pc.is_in(pa.array(range(messages.num_rows), pa.int64()), rows))
        return StageResult(messages.filter(goes_on), out)

    def names(self, line: bytes, received_at: dt.datetime | None) -> bool:
        """Whether a line that is no message, but is JSON, names an identifier that was suppressed at ``received_at`` (naive UTC).

        Without a received time, one whose suppression was not lifted.
        """
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(document, dict):
            return False
        texts = {column: next(iter(_text(document.get(key))), None) for column, key in _FIELDS.items()}
        try:
            inner = {name: orjson.dumps(document[name]).decode() for name in _DOCUMENTS if isinstance(document.get(name), dict)}
        except orjson.JSONEncodeError:
            return True  # nested too deeply to look into
        row = {**texts, **inner, "received_at": received_at or _NEVER, "file_hash": "", "line": 0}
        return self.apply(pa.Table.from_pylist([row], schema=MESSAGE_BATCH)).refused.num_rows > 0

    def _spans(self, kind: str, value: str) -> tuple[Span, ...]:
        return self.spans[kind].get(value_hash(value), ())

    def _named(self, messages: pa.Table, kind: str) -> Iterator[tuple[int, str]]:
        """(row, value) of what the messages name as identifiers of a type, as far as it may be a suppressed one."""
        for column in _COLUMNS.get(kind, ()):
            yield from self._of_column(messages[column], kind)
        if kind not in ("user_id", "anonymous_id"):
            yield from _of_documents(messages, kind, self.custom.get(kind))
        yield from _of_external_ids(messages, kind)

    def _of_column(self, column: pa.ChunkedArray, kind: str) -> Iterator[tuple[int, str]]:
        """Each distinct value is hashed once, whatever the number of rows."""
        values = [value for value in pc.unique(column).to_pylist() if value is not None and self._spans(kind, value)]
        found = pc.is_in(column, pa.array(values, pa.string()))
        for row in pc.indices_nonzero(found).to_pylist():
            yield row, column[row].as_py()


def suppression_stage(warehouse: Warehouse, identity: IdentitySettings) -> SuppressionStage | None:
    """The stage that knows all suppressions, past ones too; None when there are none."""
    if not warehouse.has(SUPPRESSIONS.ref):
        return None
    columns = ("identifier_type", "value_hash", "suppressed_at", "lifted_at")
    spans: dict[str, dict[str, tuple[Span, ...]]] = {}
    for batch in warehouse.batches(warehouse.table(SUPPRESSIONS.ref).select(*columns)):
        for kind, hashed, start, end in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            known = spans.setdefault(kind, {})
            known[hashed] = (*known.get(hashed, ()), Span(start, end))
    return SuppressionStage(spans, identity.custom) if spans else None


# -- where messages name identifiers ---------------------------------------------------------------------------------------


def _of_documents(messages: pa.Table, kind: str, custom: str | None) -> Iterator[tuple[int, str]]:
    if kind == "email":
        yield from _at_places(messages, _EMAIL)
    elif kind == "ga_client_id":
        yield from _at_places(messages, [("context", "integrations", "Google Analytics", "clientId")])
    elif kind in _DEVICE:
        yield from _of_devices(messages, *_DEVICE[kind])
    if custom is not None:
        yield from _at_places(messages, [(*where, key) for where in _CUSTOM_PLACES for key in _spellings(custom)])


_CUSTOM_PLACES: Final = (("traits",), ("context", "traits"), ("properties",))
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _spellings(key: str) -> list[str]:
    """A configured key as it stands, in snake_case and in camelCase."""
    snake = _CAMEL.sub("_", key).lower()
    head, *rest = snake.split("_")
    return list(dict.fromkeys([key, snake, head + "".join(word.capitalize() for word in rest)]))


def _at_places(messages: pa.Table, places: Iterable[tuple[str, ...]]) -> Iterator[tuple[int, str]]:
    by_document: dict[str, list[tuple[str, ...]]] = {}
    for document, *keys in places:
        by_document.setdefault(document, []).append(tuple(keys))
    for document, wanted in by_document.items():
        for row, content in _documents(messages[document], {keys[-1] for keys in wanted}):
            for path in wanted:
                found: Any = content
                for key in path:
                    found = found.get(key) if isinstance(found, dict) else None
                yield from ((row, value) for value in _text(found))


def _of_devices(messages: pa.Table, platform: str, key: str) -> Iterator[tuple[int, str]]:
    """Also where tracking is switched off, when identity does not use the advertising id: the message names the device."""
    for row, context in _documents(messages["context"], {"device"}):
        device = context.get("device")
        if not isinstance(device, dict):
            continue
        kind = device.get("type")
        if isinstance(kind, str) and kind.lower() == platform:
            yield from ((row, value) for value in _text(device.get(key)))


def _of_external_ids(messages: pa.Table, kind: str) -> Iterator[tuple[int, str]]:
    for row, context in _documents(messages["context"], {"externalIds"}):
        entries = context.get("externalIds")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("type") == kind:
                yield from ((row, value) for value in _text(entry.get("id")))


def _documents(column: pa.ChunkedArray, keys: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, content) of the documents that hold one of the keys at all: the others are not even parsed."""
    holds: Callable[[str], Any] = lambda key: pc.match_substring(column, orjson.dumps(key).decode())  # noqa: E731
    for row in sorted({row for key in keys for row in pc.indices_nonzero(holds(key)).to_pylist()}):
        content = orjson.loads(column[row].as_py())
        if isinstance(content, dict):
            yield row, content


def _text(value: Any) -> tuple[str, ...]:
    """A value as identifiers are compared: texts as they are, numbers in digits; nothing of objects and lists."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (orjson.dumps(value).decode(),)
    return ()
