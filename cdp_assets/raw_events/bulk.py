"""Lines in bulk: a chunk of lines as messages and rejections, exactly as :func:`parse_line` says of each.

``parse_line`` states the rules. Here is the short way for the many lines that plainly keep them: what depends on a line's keys and the
types of its values is looked at once per shape; the values come out of DuckDB, in memory, used as a library to read JSON, whichever
warehouse the space has. Every line about which this leaves any doubt goes through ``parse_line``.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.columns import event_slug
from cdp_assets.raw_events.landing import Chunk
from cdp_assets.raw_events.parse import (
    CONSENT_EVENT,
    MAX_MESSAGE_ID,
    PAGE_EVENT,
    SCREEN_EVENT,
    TYPES,
    Message,
    Rejection,
    parse_line,
)
from cdp_assets.raw_events.parsed import PARSED_BATCH, UNSHAPED, Parsed, Rejected, batch_of
from cdp_assets.raw_events.shape import Shapes, shapes_of

_TEXTS = ("messageId", "type", "event", "userId", "anonymousId", "groupId", "previousId", "name", "category")
_TIMES = ("timestamp", "originalTimestamp", "sentAt", "receivedAt")
_DOCUMENTS = ("properties", "traits", "context", "integrations")
_MAX_LINE = 1024 * 1024
_MAX_DEPTH = 200
_MAX_SHAPES = 50_000
_BATCH_LINES = 4_096
# Forms that not every parser reads the same way: a key apart from its colon, an exponent.
_DOUBTFUL = re.compile(rb"\s:|[0-9.][eE]")
# Times in the form that every client library writes. Others are for parse_line.
_TIME = r"(19|20)\d\d-[01]\d-[0-3]\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-4]):[0-5]\d)"
_UNREAD = b"\x00"


def _instant(field: str) -> str:
    read = f'epoch_us(try_cast(read."{field}" AS TIMESTAMPTZ))'
    return f"CASE WHEN regexp_full_match(read.\"{field}\", '{_TIME}') THEN {read} END"


def _read_query() -> str:
    """The fields of each line as texts; all NULL for a line that is no JSON. A statement of its own: DuckDB would else read a line anew
    for each use of a field."""
    kinds = {**dict.fromkeys(_TEXTS + _TIMES, "VARCHAR"), **dict.fromkeys(_DOCUMENTS, "JSON")}
    return f"SELECT place, has_consent, unnest(try(from_json(line, '{json.dumps(kinds)}'))) FROM incoming"


def _judge_query() -> str:
    """The messages among the lines read: their place, and the columns of PARSED_BATCH but the documents, which go on as they are."""
    texts = ", ".join(f'nullif(read."{name}", \'\') AS "{name}"' for name in _TEXTS)
    times = ", ".join(f'{_instant(name)} AS "{name}", read."{name}" IS NULL AS "no {name}"' for name in _TIMES)
    types = ", ".join(f"'{kind}'" for kind in sorted(TYPES))
    return f"""
        WITH split AS MATERIALIZED (SELECT row, place, has_consent, {texts}, {times} FROM read)
        SELECT
            row, place, "messageId" AS message_id, type,
            CASE type WHEN 'track' THEN event WHEN 'page' THEN '{PAGE_EVENT}' WHEN 'screen' THEN '{SCREEN_EVENT}' END AS event,
            "userId" AS user_id, "anonymousId" AS anonymous_id, "groupId" AS group_id, "previousId" AS previous_id, name, category,
            make_timestamp(CASE WHEN "sentAt" IS NOT NULL AND "originalTimestamp" IS NOT NULL
                THEN "receivedAt" - ("sentAt" - "originalTimestamp")
                ELSE coalesce("originalTimestamp", "timestamp", "receivedAt") END) AS "timestamp",
            make_timestamp("originalTimestamp") AS original_timestamp, make_timestamp("sentAt") AS sent_at,
            make_timestamp("receivedAt") AS received_at
        FROM split
        WHERE type IN ({types})
            AND length("messageId") <= {MAX_MESSAGE_ID}
            AND "receivedAt" IS NOT NULL
            AND ("userId" IS NOT NULL OR "anonymousId" IS NOT NULL)
            AND ("no sentAt" OR "sentAt" IS NOT NULL)
            AND ("no originalTimestamp" OR "originalTimestamp" IS NOT NULL)
            AND ("no timestamp" OR "timestamp" IS NOT NULL OR "originalTimestamp" IS NOT NULL)
            AND (type <> 'track' OR (event IS NOT NULL AND (event <> '{CONSENT_EVENT}' OR has_consent)))
            AND (type <> 'group' OR "groupId" IS NOT NULL)
            AND (type <> 'alias' OR "previousId" IS NOT NULL)
        ORDER BY row
    """


_READ, _JUDGE = _read_query(), _judge_query()


@dataclass(frozen=True)
class _Verdict:
    """What a shape says of its lines: whether their values can be read in bulk, and whether they hold consent. Its number is its own."""

    number: int
    plain: bool
    has_consent: bool = False


class Parser:
    """Parses chunks; use as a context manager. ``memory_limit`` bounds the memory of the JSON reader, e.g. ``2GB``."""

    def __init__(self, memory_limit: str | None = None) -> None:
        self._connection = duckdb.connect(config={"memory_limit": memory_limit} if memory_limit else {})
        self._connection.execute("SET TimeZone='UTC'")
        self._connection.execute("SET enable_progress_bar=false")
        self._verdicts: dict[tuple[bytes, bytes], _Verdict] = {}
        self._numbers = itertools.count()

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def parse(self, chunk: Chunk) -> Parsed:
        """The lines of a chunk."""
        if not len(chunk.numbers):
            return Parsed(PARSED_BATCH.empty_table(), np.empty(0, np.int64), [])
        shapes = shapes_of(np.frombuffer(chunk.data, np.uint8), chunk.offsets)
        verdicts = self._judge(chunk, shapes)
        easy, places = self._read(chunk, shapes, verdicts)
        numbers = np.array([verdict.number for verdict in verdicts])[shapes.code[places]]
        left = np.ones(len(chunk.numbers), bool)
        left[places] = False
        lines: list[int] = []
        messages: list[Message] = []
        rejected: list[Rejected] = []
        for place in np.flatnonzero(left).tolist():
            content = chunk.content(place)
            parsed = parse_line(content)
            if isinstance(parsed, Rejection):
                rejected.append(Rejected(int(chunk.numbers[place]), parsed, content))
            else:
                lines.append(int(chunk.numbers[place]))
                messages.append(parsed)
        if not messages:
            return Parsed(easy, numbers, rejected)
        both = pa.concat_tables([easy, batch_of(lines, messages)])
        order = np.argsort(both["line"].to_numpy())
        numbers = np.concatenate([numbers, np.full(len(messages), UNSHAPED)])
        return Parsed(both.take(order), numbers[order], rejected)

    def _judge(self, chunk: Chunk, shapes: Shapes) -> list[_Verdict]:
        """What each shape says of its lines."""
        first = np.zeros(len(shapes.distinct), np.int64)
        order = np.arange(len(shapes.code))[::-1]
        first[shapes.code[order]] = order
        if len(self._verdicts) > _MAX_SHAPES:
            self._verdicts.clear()
        found = []
        for shape, place in zip(shapes.distinct, first.tolist(), strict=True):
            verdict = self._verdicts.get(shape)
            if verdict is None:
                verdict = self._verdicts[shape] = _verdict(next(self._numbers), shape[0], chunk.content(place))
            found.append(verdict)
        return found

    def _read(self, chunk: Chunk, shapes: Shapes, verdicts: list[_Verdict]) -> tuple[pa.Table, np.ndarray]:
        """The messages among the lines that can be read in bulk, and their places in the chunk."""
        plain = np.array([verdict.plain for verdict in verdicts])[shapes.code]
        has_consent = np.array([verdict.has_consent for verdict in verdicts])[shapes.code]
        places = np.flatnonzero(plain & shapes.plain & (np.diff(chunk.offsets) <= _MAX_LINE))
        lines, places = _as_text(chunk, places)
        if not len(places):
            return PARSED_BATCH.empty_table(), places
        incoming = pa.table({"place": places, "has_consent": has_consent[places], "line": lines})
        self._connection.register("incoming", pa.Table.from_batches(incoming.to_batches(_BATCH_LINES)))
        read = self._connection.execute(_READ).to_arrow_table()
        short = read.drop_columns(list(_DOCUMENTS)).append_column("row", pa.array(np.arange(read.num_rows)))
        self._connection.register("read", short)
        rows = self._connection.execute(_JUDGE).to_arrow_table()
        self._connection.unregister("incoming")
        self._connection.unregister("read")
        places = rows["place"].to_numpy()
        kept = read if rows.num_rows == read.num_rows else read.take(rows["row"])
        columns = {name: kept[name].cast(pa.string()) for name in _DOCUMENTS}
        columns |= {"line": pa.array(chunk.numbers[places], pa.int64()), "event_slug": _slugs(rows)}
        arrays = [columns[field.name] if field.name in columns else rows[field.name].cast(field.type) for field in PARSED_BATCH]
        return pa.table(arrays, schema=PARSED_BATCH), places


def _as_text(chunk: Chunk, places: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """The lines at ``places`` that are UTF-8, as texts, and their places."""
    lines = chunk.lines if len(places) == len(chunk.numbers) else chunk.lines.take(pa.array(places))
    try:
        return lines.cast(pa.string()), places
    except pa.ArrowInvalid:
        good = np.array([_is_utf8(line) for line in lines.to_pylist()])
        return lines.filter(pa.array(good)).cast(pa.string()), places[good]


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _slugs(rows: pa.Table) -> pa.Array:
    """Table names of the track events."""
    event = pc.if_else(pc.equal(rows["type"], "track"), rows["event"], pa.scalar(None, pa.string()))
    encoded = event.combine_chunks().dictionary_encode()
    slugs = pa.array([event_slug(name) for name in encoded.dictionary.to_pylist()], pa.string())
    return slugs.take(encoded.indices)


class _TwiceError(Exception):
    """An object has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


def _verdict(number: int, outside: bytes, line: bytes) -> _Verdict:
    """Of a shape, by one line that has it."""
    if _UNREAD in line or _DOUBTFUL.search(outside) or _depth(outside) > _MAX_DEPTH:
        return _Verdict(number, False)
    try:
        orjson.loads(line)
        document = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError, _TwiceError):
        return _Verdict(number, False)
    if type(document) is not dict:
        return _Verdict(number, False)
    texts = all(type(document.get(name)) in (str, int, type(None)) for name in _TEXTS)
    times = all(type(document.get(name)) in (str, type(None)) for name in _TIMES)
    documents = all(type(document.get(name)) in (dict, type(None)) for name in _DOCUMENTS)
    if not (texts and times and documents and type(document.get("type")) is str):
        return _Verdict(number, False)
    consent = (document.get("context") or {}).get("consent")
    preferences = consent.get("categoryPreferences") if type(consent) is dict else None
    if type(consent) not in (dict, type(None)) or type(preferences) not in (dict, type(None)):
        return _Verdict(number, False)
    if any(type(value) is not bool for value in (preferences or {}).values()):
        return _Verdict(number, False)
    return _Verdict(number, True, preferences is not None)


def _depth(outside: bytes) -> int:
    deepest = depth = 0
    for byte in outside:
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
