"""Bulk parsing says of every line exactly what the line-by-line rules say, and what is found in them is the same."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdp_assets.raw_events.bulk import Parser
from cdp_assets.raw_events.first_values import FirstValues
from cdp_assets.raw_events.landing import Chunk
from cdp_assets.raw_events.parse import Rejection, parse_line
from cdp_assets.raw_events.parsed import Rejected, batch_of
from cdp_assets.raw_events.shape import shapes_of

PARSER = Parser()
GOOD = {
    "type": "track",
    "event": "Card Used",
    "messageId": "m1",
    "userId": "u1",
    "receivedAt": "2026-01-01T10:00:00.5Z",
    "properties": {"a": 1, "b": {"c": [1, {"d": "x"}]}},
    "context": {"consent": {"categoryPreferences": {"ads": True}}},
}
TIMES = st.sampled_from(
    [
        "2026-01-01T10:00:00Z",
        "2026-01-01T10:00:00.123456+02:00",
        "2026-01-01T10:00:00.1234567Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T23:59:60Z",
        "2026-02-30T10:00:00Z",
        "2026-01-01T10:00:00+14:30",
        "2026-01-01T10:00:00-99:00",
        "2026-01-01 10:00:00Z",
        "2026-01-01T10:00:00",
        "20260101T100000Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "infinity",
        "epoch",
        "",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | TIMES
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", '"', "\\", ""]) | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("receivedAt", "sentAt", "originalTimestamp", "timestamp"), TIMES | VALUES),
        **dict.fromkeys(("messageId", "userId", "anonymousId", "groupId", "previousId", "name", "category", "event"), VALUES),
        **dict.fromkeys(("properties", "traits", "context", "integrations"), VALUES),
        "type": st.sampled_from(["track", "identify", "page", "screen", "group", "alias"]) | VALUES,
        "context": st.fixed_dictionaries({"consent": st.fixed_dictionaries({"categoryPreferences": VALUES}) | VALUES}) | VALUES,
    },
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :\t")])


@st.composite
def documents(draw) -> bytes:
    document = {**GOOD, **draw(CHANGES)}
    return json.dumps(document, separators=draw(SEPARATORS), ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@st.composite
def spoiled(draw) -> bytes:
    """A line with some bytes replaced."""
    line = draw(documents())
    start = draw(st.integers(0, len(line)))
    pieces = st.sampled_from(
        [b"", b'"', b"\\", b",", b"}", b"{", b"[", b"1e5", b"-0", b"0001", b"NaN", b"\x00", b"\xff", b"\x7f", b"\t"]
    )
    return line[:start] + draw(pieces | st.binary(max_size=4)).replace(b"\n", b"") + line[start + draw(st.integers(0, 3)) :]


NASTY = [
    json.dumps(GOOD)[:-1].encode() + tail
    for tail in (
        b',"type":"page"}',
        b',"properties":{"a":1,"a":2}}',
        b',"properties":{"x":[{"a":1,"a":2}]}}',
        b',"properties":{"x":1e400}}',
        b',"properties":{"x":1e16,"y":0.00001,"z":-0,"w":-0.0,"big":123456789012345678901234567890}}',
        b',"properties":{"x":"\\u0000"}}',
        b',"properties":{"x":"\\u001f\\u007f\\ud800"}}',
        b',"properties":{"x":"\\ud83d\\ude00\\/\\b"}}',
        b',"properties":{"x":[1,]}}',
        b',"properties":{"x":Infinity}}',
        b',"properties":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}",
        b',"properties":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'} {"a":1}',
        b',"userId":12345678901234567890}',
        b',"userId":-0}',
        b',"userId":1.5}',
        b',"event":"Segment Consent Preference Updated","context":{}}',
        b"   }\t",
    )
]


def chunk_of(lines: list[bytes]) -> Chunk:
    data = b"".join(line + b"\n" for line in lines)
    offsets = np.concatenate([[0], np.cumsum([len(line) + 1 for line in lines])]).astype(np.int64)
    return Chunk(np.arange(1, len(lines) + 1), data, offsets)


def one_by_one(lines: list[bytes]) -> tuple[list[dict], list[Rejected], dict]:
    numbers, messages, rejected = [], [], []
    for number, line in enumerate(lines, 1):
        parsed = parse_line(line.strip())
        if isinstance(parsed, Rejection):
            rejected.append(Rejected(number, parsed, line.strip()))
            continue
        numbers.append(number)
        messages.append(parsed)
    values, batch = FirstValues(), batch_of(numbers, messages)
    values.observe(batch)
    return batch.to_pylist(), rejected, values.found


def in_bulk(lines: list[bytes]) -> tuple[list[dict], list[Rejected], dict]:
    values = FirstValues()
    parsed = PARSER.parse(chunk_of(lines))
    values.observe(parsed.messages, parsed)
    return parsed.messages.to_pylist(), parsed.rejected, values.found


@settings(max_examples=200, deadline=None)
@given(st.lists(documents() | spoiled() | st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), min_size=1, max_size=8))
@example(NASTY)
@example([json.dumps(GOOD).encode(), b'"', json.dumps(GOOD).encode(), b'{"a":"\xff"}', json.dumps(GOOD).encode()])
def test_bulk_parsing_is_parsing_line_by_line(lines: list[bytes]) -> None:
    lines = [line for line in lines if line.strip()]
    (messages, rejected, found), (messages_1, rejected_1, found_1) = in_bulk(lines), one_by_one(lines)
    assert messages == messages_1
    assert rejected == rejected_1
    assert list(found.items()) == list(found_1.items())


def test_plain_lines_are_not_parsed_one_by_one(monkeypatch) -> None:
    """Else bulk parsing would be right and of no use."""

    def never(line: bytes) -> None:
        raise AssertionError(line)

    monkeypatch.setattr("cdp_assets.raw_events.bulk.parse_line", never)
    variants = [
        GOOD,
        {**GOOD, "userId": 7, "receivedAt": "2026-01-01T12:00:00+02:00"},
        {**GOOD, "type": "page", "name": "Příjem", "properties": {"url": 'a "quoted" \\ text', "x": -12.5, "n": None}},
        {**GOOD, "type": "identify", "traits": {"tags": ["a", "b"]}, "sentAt": "2026-01-01T10:00:00Z"},
    ]
    lines = [json.dumps(variant, ensure_ascii=ascii_only).encode() for variant in variants for ascii_only in (True, False)]
    messages, rejected, _ = in_bulk(lines * 3)
    assert (len(messages), rejected) == (24, [])


def test_a_shape_knows_keys_and_types_and_no_values() -> None:
    lines = [
        b'{"a":"x","b":1}',
        b'{"a":"","b":-234}',
        b'{"a":"x","b":1.5}',
        b'{"a":"x","c":1}',
        b'{"a":[],"b":1}',
        b'{"a1":"","b":1}',
    ]
    chunk = chunk_of(lines)
    code = shapes_of(np.frombuffer(chunk.data, np.uint8), chunk.offsets).code.tolist()
    assert code[0] == code[1]
    assert len(set(code)) == 5
