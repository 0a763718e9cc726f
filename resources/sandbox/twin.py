"""What every twin is: a table of routes over one store, asked one call at a time and answering in its system's own words.

Here are the call, the answer and the routing. No system's rule belongs here.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import orjson
from starlette.routing import compile_path

from resources.sandbox.faults import fails_row
from resources.sandbox.store import Store


class MalformedError(ValueError):
    """A body that is not what its content type says."""


@dataclass(frozen=True)
class Call:
    """One HTTP request to a twin; ``path`` without the twin's prefix, decoded."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes
    at: dt.datetime
    base_url: str
    in_flight: int = 1
    fault: dict[str, Any] | None = None
    params: dict[str, str] = field(default_factory=dict)

    def arg(self, name: str, default: str = "") -> str:
        """First value of a query parameter."""
        return next((value for key, value in self.query if key == name), default)

    def args(self, name: str) -> list[str]:
        """All values of a query parameter, the repeated form and the comma form alike."""
        return [part for key, value in self.query if key == name for part in value.split(",") if part]

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    def json(self) -> Any:
        """The body. Raises :class:`MalformedError`."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise MalformedError("not JSON") from error

    def row_fails(self, record: Any) -> bool:
        """True where a planned partial failure hits this record."""
        return fails_row(self.fault, record)


@dataclass(frozen=True)
class Answer:
    """One HTTP response. ``headers`` include the content type unless the body is JSON."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> tuple[int, bytes, dict[str, str]]:
        if self.body is None:
            return self.status, b"", dict(self.headers)
        if isinstance(self.body, bytes):
            return self.status, self.body, dict(self.headers)
        return self.status, orjson.dumps(self.body), {"content-type": "application/json;charset=UTF-8", **self.headers}


class Twin(ABC):
    """Base of the twins. A subclass names its system, its routes (method, path, name of the handler), limits and sign-in paths."""

    system: ClassVar[str]
    title: ClassVar[str]
    routes: ClassVar[tuple[tuple[str, str, str], ...]]
    sign_in: ClassVar[str] = ""
    limits: ClassVar[dict[str, int]]

    def __init__(self, store: Store) -> None:
        self.store = store
        self._table: list[tuple[str, re.Pattern[str], Callable[[Call], Answer]]] = [
            (method, compile_path(path)[0], getattr(self, handler)) for method, path, handler in self.routes
        ]

    @abstractmethod
    def handle(self, call: Call) -> Answer:
        """The answer, after whatever the call changes. Runs inside the request's transaction."""

    @abstractmethod
    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        """The system's own form of a planned 429, 500, 503, expired_token or quota_exhausted."""

    def signs_in(self, path: str) -> bool:
        return bool(self.sign_in) and path.startswith(self.sign_in)

    def limit(self, name: str) -> int:
        """A limit, as set through the control surface or as documented."""
        return int(self.store.value(self.system, "limits", {}).get(name, self.limits[name]))

    def dispatch(self, call: Call) -> Answer | None:
        """The matching handler's answer, or None where the system has no such path or method."""
        for method, pattern, handler in self._table:
            if method == call.method and (match := pattern.match(call.path)):
                return handler(Call(**{**call.__dict__, "params": match.groupdict()}))
        return None

    # -- tokens ------------------------------------------------------------------------------------------------------

    def issue_token(self, at: dt.datetime, lifetime: float, prefix: str = "") -> str:
        token = prefix + secrets.token_hex(24)
        alive = {t: e for t, e in self.store.value(self.system, "tokens", {}).items() if e > at.timestamp()}
        self.store.set_value(self.system, "tokens", {**alive, token: at.timestamp() + lifetime})
        return token

    def tokens(self) -> dict[str, float]:
        """Token -> end of its life, epoch seconds. Expired ones stay until the next is issued."""
        return self.store.value(self.system, "tokens", {})

    def expire_tokens(self) -> None:
        self.store.set_value(self.system, "tokens", dict.fromkeys(self.tokens(), 0.0))


def bearer(call: Call, schemes: tuple[str, ...] = ("bearer",)) -> str:
    """The token of the Authorization header, or nothing."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() in schemes else ""


def number_of(text: str) -> int | float | None:
    """The number that a text is when it reads back the same; ``0123`` is none."""
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return None
