"""Landing files: gzip JSON lines per window of received time, with what real files have besides messages.

Planted: the same message again (in its own file, or in a later one with later times), lines that are not messages, neighbours in
another order, and lines that arrived just after their file was closed.
"""

from __future__ import annotations

import gzip
import io
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cdp_assets.generate.behaviour import CONSENT_EVENT, Message
from cdp_assets.generate.people import iso, random_id

DUPLICATE_SHARE = 0.012
MALFORMED_SHARE = 0.004
POOL = 200  # messages that may come again
_ROTATION_MS = 1_800_000  # before the file closes


@dataclass
class Landing:
    """Writes one file per window. ``pool`` and ``kind`` (how many malformed lines so far) continue between generations."""

    folder: Path
    pool: list[str] = field(default_factory=list)
    kind: int = 0
    carried: list[bytes] = field(default_factory=list)

    def write(
        self, rng: random.Random, name: str, messages: list[Message], window: tuple[int, int], *, last: bool
    ) -> tuple[int, int, dict[str, int]]:
        """Write a window's messages (in received order). ``last``: no file follows, so nothing is carried over.

        Returns lines, duplicates and malformed lines by kind.
        """
        fresh = [(m.received, orjson.dumps(m.body)) for m in messages]
        kept, carry = self._rotate(rng, fresh, window[1], last)
        lines = self.carried + kept
        self.carried = carry
        _swap_neighbours(rng, lines)
        duplicates = self._duplicate(rng, lines, len(kept), window)
        malformed = self._malform(rng, lines, window)
        self._remember(rng, [line for _, line in fresh])
        _write_gzip(self.folder / name, lines)
        return len(lines), duplicates, malformed

    @staticmethod
    def _rotate(rng: random.Random, fresh: list[tuple[int, bytes]], end: int, last: bool) -> tuple[list[bytes], list[bytes]]:
        kept: list[bytes] = []
        carry: list[bytes] = []
        for received, line in fresh:
            late = not last and received >= end - _ROTATION_MS and rng.random() < 0.4
            (carry if late else kept).append(line)
        return kept, carry

    def _duplicate(self, rng: random.Random, lines: list[bytes], messages: int, window: tuple[int, int]) -> int:
        count = round(messages * DUPLICATE_SHARE + rng.random() - 0.5)
        count = max(0, min(count, messages))
        for _ in range(count):
            if self.pool and rng.random() < 0.7:
                line = _resent(rng, rng.choice(self.pool), window)
            else:
                line = rng.choice(lines)
            lines.insert(rng.randrange(len(lines) + 1), line)
        return count

    def _malform(self, rng: random.Random, lines: list[bytes], window: tuple[int, int]) -> dict[str, int]:
        count = max(0, round(len(lines) * MALFORMED_SHARE + rng.random() - 0.5))
        kinds: Counter[str] = Counter()
        for _ in range(count):
            kind = MALFORMED[self.kind % len(MALFORMED)]
            self.kind += 1
            kinds[kind] += 1
            lines.insert(rng.randrange(len(lines) + 1), _malformed(rng, kind, window))
        return dict(sorted(kinds.items()))

    def _remember(self, rng: random.Random, fresh: list[bytes]) -> None:
        for line in rng.sample(fresh, min(len(fresh), 25)):
            self.pool.append(line.decode())
        del self.pool[:-POOL]


def _swap_neighbours(rng: random.Random, lines: list[bytes]) -> None:
    for index in range(len(lines) - 1):
        if rng.random() < 0.05:
            lines[index], lines[index + 1] = lines[index + 1], lines[index]


def _resent(rng: random.Random, line: str, window: tuple[int, int]) -> bytes:
    """The same message sent again within the window: same messageId, later times."""
    body = orjson.loads(line)
    received = rng.randrange(*window)
    body["sentAt"], body["receivedAt"] = iso(received - 120), iso(received)
    return orjson.dumps(body)


MALFORMED = (
    "broken_json",
    "not_an_object",
    "unknown_type",
    "no_identifier",
    "track_without_event",
    "bad_received_at",
    "no_message_id",
    "consent_without_preferences",
    "properties_not_an_object",
)


def _malformed(rng: random.Random, kind: str, window: tuple[int, int]) -> bytes:
    """A line that is not a message. None of them names a person of the space."""
    at = iso(rng.randrange(*window))
    body: dict[str, Any] = {
        "type": "track",
        "event": "Login",
        "messageId": random_id(rng),
        "anonymousId": random_id(rng),
        "properties": {"channel": "web"},
        "context": {"library": {"name": "analytics.js", "version": "2.1.0"}},
        "originalTimestamp": at,
        "sentAt": at,
        "receivedAt": at,
    }
    if kind == "broken_json":
        line = orjson.dumps(body)
        return line[: rng.randrange(len(line) // 2, len(line) - 1)]
    if kind == "not_an_object":
        return orjson.dumps(["track", "Login"])
    if kind == "unknown_type":
        body["type"] = "trak"
    elif kind == "no_identifier":
        del body["anonymousId"]
    elif kind == "track_without_event":
        del body["event"]
    elif kind == "bad_received_at":
        body["receivedAt"] = "yesterday"
    elif kind == "no_message_id":
        del body["messageId"]
    elif kind == "consent_without_preferences":
        body["event"] = CONSENT_EVENT
    elif kind == "properties_not_an_object":
        body["properties"] = "channel=web"
    return orjson.dumps(body)


def _write_gzip(path: Path, lines: list[bytes]) -> None:
    """Written beside and renamed, so that a reader never sees half a file. The same lines give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=5, mtime=0) as file:
        file.write(b"".join(line + b"\n" for line in lines))
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(buffer.getvalue())
    beside.replace(path)
