"""Watching what connectors say and hear, for a person who wants to see the exact request, and counting it. Nothing is kept unless asked."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
import orjson


@dataclass(frozen=True)
class Exchange:
    """One call. ``path``: of the URL, without host and query. Bodies: JSON or form as values, other content as text.

    ``status`` and ``answer`` are None where nothing was heard. It holds credentials and personal data: mask before showing.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: Any
    status: int | None
    answer: Any


_watched: Final[contextvars.ContextVar[list[Exchange] | None]] = contextvars.ContextVar("watched", default=None)


@contextlib.contextmanager
def watching() -> Iterator[list[Exchange]]:
    """The calls that are made inside, in order, by this thread."""
    seen: list[Exchange] = []
    token = _watched.set(seen)
    try:
        yield seen
    finally:
        _watched.reset(token)


@dataclass
class Counted:
    """Calls that were made, and what the system last said of its quota: used, and in all."""

    calls: int = 0
    used: int | None = None
    limit: int | None = None


_counted: Final[contextvars.ContextVar[Counted | None]] = contextvars.ContextVar("counted", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Counted]:
    """The calls that are made inside, by this thread."""
    found = Counted()
    token = _counted.set(found)
    try:
        yield found
    finally:
        _counted.reset(token)


def count_call() -> None:
    """One more call."""
    found = _counted.get()
    if found is not None:
        found.calls += 1


def tell_quota(used: int, limit: int) -> None:
    """What the system says of its quota."""
    found = _counted.get()
    if found is not None:
        found.used, found.limit = used, limit


def watched() -> bool:
    """Whether anybody watches."""
    return _watched.get() is not None


def saw(exchange: Exchange) -> None:
    """Tell whoever watches."""
    seen = _watched.get()
    if seen is not None:
        seen.append(exchange)


def saw_http(request: httpx.Request, response: httpx.Response | None) -> None:
    """Tell whoever watches of an HTTP call; ``response`` None: nothing was heard."""
    if not watched():
        return
    url = urlsplit(str(request.url))
    content_type = request.headers.get("content-type", "")
    saw(
        Exchange(
            request.method,
            url.path,
            tuple(parse_qsl(url.query, keep_blank_values=True)),
            dict(request.headers),
            _content(request.read(), content_type),
            None if response is None else response.status_code,
            None if response is None else _content(response.content, response.headers.get("content-type", "")),
        )
    )


def _content(content: bytes, content_type: str) -> Any:
    if not content:
        return None
    if content_type.startswith("application/x-www-form-urlencoded"):
        return {name: _json_or_text(value.encode()) for name, value in parse_qsl(content.decode(errors="replace"))}
    return _json_or_text(content)


def _json_or_text(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode(errors="replace")
