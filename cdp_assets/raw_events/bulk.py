"""Lines in bulk: a chunk of lines as messages and rejections, exactly as :func:`parse_line` says of each.

``parse_line`` states the rules. Here is the short way for the many lines that plainly keep them: what depends on a line's keys and the
types of its values is looked at once per shape; the values come out of DuckDB, in memory, used as a library to read JSON, whichever
warehouse the space has. Every line about which this leaves any doubt goes through ``parse_line``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.columns import FirstValues, event_slug
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
from cdp_assets.raw_events.parsed import PARSED_BATCH, Parsed, Rejected, batch_of
from cdp_assets.raw_events.shape import shapes_of

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
    """What a shape says of its lines: whether their values can be read in bulk, and whether they hold consent."""

    plain: bool
    has_consent: bool = False


class Parser:
    """Parses chunks; use as a context manager. ``memory_limit`` bounds the memory of the JSON reader, e.g. ``2GB``."""

    def __init__(self, memory_limit: str | None = None) -> None:
        self._connection = duckdb.connect(config={"memory_limit": memory_limit} if memory_limit else {})
        self._connection.execute("SET TimeZone='UTC'")
        self._verdicts: dict[tuple[bytes, bytes], _Verdict] = {}
        self._seen: tuple[FirstValues | None, set[tuple]] = (None, set())

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def parse(self, chunk: Chunk, values: FirstValues) -> Parsed:
        """The lines of a chunk; ``values`` takes note of what the messages hold, in the order of the lines."""
        if not len(chunk.numbers):
            return Parsed(PARSED_BATCH.empty_table(), [])
        shapes = shapes_of(np.frombuffer(chunk.data, np.uint8), chunk.offsets)
        plain, has_consent = self._judge(chunk, shapes.code, shapes.distinct, shapes.plain)
        easy, places = self._read(chunk, plain, has_consent)
        left = np.ones(len(chunk.numbers), bool)
        left[places] = False
        numbers: list[int] = []
        messages: list[Message] = []
        rejected: list[Rejected] = []
        observed = self._observable(chunk, easy, places, shapes.code, shapes.distinct, values)
        for place in np.flatnonzero(left).tolist():
            content = chunk.content(place)
            parsed = parse_line(content)
            if isinstance(parsed, Rejection):
                rejected.append(Rejected(int(chunk.numbers[place]), parsed, content))
                continue
            message, document = parsed
            observed.append((place, message.type, message.event_slug, message.context, document))
            numbers.append(int(chunk.numbers[place]))
            messages.append(message)
        for _, kind, slug, context, document in sorted(observed, key=lambda one: one[0]):
            values.observe(kind, slug, context, document)
        if not messages:
            return Parsed(easy, rejected)
        both = pa.concat_tables([easy, batch_of(numbers, messages)])
        return Parsed(both.sort_by("line"), rejected)

    def _judge(
        self, chunk: Chunk, code: np.ndarray, distinct: list[tuple[bytes, bytes]], plain: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which lines can be read in bulk, and which of them hold consent."""
        first = np.zeros(len(distinct), np.int64)
        order = np.arange(len(code))[::-1]
        first[code[order]] = order
        if len(self._verdicts) > _MAX_SHAPES:
            self._verdicts.clear()
        found = []
        for shape, place in zip(distinct, first.tolist(), strict=True):
            verdict = self._verdicts.get(shape)
            if verdict is None:
                verdict = self._verdicts[shape] = _verdict(shape[0], chunk.content(place))
            found.append(verdict)
        may = np.array([verdict.plain for verdict in found])[code] & plain & (np.diff(chunk.offsets) <= _MAX_LINE)
        return may, np.array([verdict.has_consent for verdict in found])[code]

    def _read(self, chunk: Chunk, plain: np.ndarray, has_consent: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """The messages among the plain lines, and their places in the chunk."""
        places = np.flatnonzero(plain)
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

    def _observable(
        self,
        chunk: Chunk,
        easy: pa.Table,
        places: np.ndarray,
        code: np.ndarray,
        distinct: list[tuple[bytes, bytes]],
        values: FirstValues,
    ) -> list[tuple[int, str, str | None, str | None, Any]]:
        """The first message of each shape and event that ``values`` has not seen; later ones hold nothing new."""
        if self._seen[0] is not values or len(self._seen[1]) > _MAX_SHAPES:
            self._seen = (values, set())
        if not len(places):
            return []
        names = pc.coalesce(easy["event_slug"], easy["type"]).combine_chunks().dictionary_encode()
        kinds = code[places] * len(names.dictionary) + names.indices.to_numpy()
        found = []
        for kind, row in zip(*np.unique(kinds, return_index=True), strict=True):
            index = int(kind) // len(names.dictionary)
            kind_of, slug = easy["type"][int(row)].as_py(), easy["event_slug"][int(row)].as_py()
            key = (distinct[index], kind_of, slug)
            if key not in self._seen[1]:
                self._seen[1].add(key)
                place = int(places[row])
                found.append((place, kind_of, slug, easy["context"][int(row)].as_py(), orjson.loads(chunk.content(place))))
        return found


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


def _verdict(outside: bytes, line: bytes) -> _Verdict:
    """Of a shape, by one line that has it."""
    if _UNREAD in line or _DOUBTFUL.search(outside) or _depth(outside) > _MAX_DEPTH:
        return _Verdict(False)
    try:
        orjson.loads(line)
        document = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError, _TwiceError):
        return _Verdict(False)
    if type(document) is not dict:
        return _Verdict(False)
    texts = all(type(document.get(name)) in (str, int, type(None)) for name in _TEXTS)
    times = all(type(document.get(name)) in (str, type(None)) for name in _TIMES)
    documents = all(type(document.get(name)) in (dict, type(None)) for name in _DOCUMENTS)
    if not (texts and times and documents and type(document.get("type")) is str):
        return _Verdict(False)
    consent = (document.get("context") or {}).get("consent")
    preferences = consent.get("categoryPreferences") if type(consent) is dict else None
    if type(consent) not in (dict, type(None)) or type(preferences) not in (dict, type(None)):
        return _Verdict(False)
    if any(type(value) is not bool for value in (preferences or {}).values()):
        return _Verdict(False)
    return _Verdict(True, preferences is not None)


def _depth(outside: bytes) -> int:
    deepest = depth = 0
    for byte in outside:
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
