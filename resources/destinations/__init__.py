"""The Destination contract: what a connector must do, and what it says about itself as data.

A connector is one module, found through :mod:`resources.destinations.registry`. It turns one batch of operations into
HTTP calls and returns one outcome per operation. Batching, order, retry over syncs, bookkeeping and consent are the sync
engine's; authentication, wire format, in-call throttling and reading answers are the connector's.

Connectors raise nothing for a bad record or a refused call: they answer. Messages and reasons carry codes, never URLs, bodies or
personal values.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

Kind = Literal["enter", "change", "exit", "retract"]
Status = Literal["delivered", "rejected", "waiting", "unknown"]


@dataclass(frozen=True)
class FieldRule:
    """What a destination field accepts. ``kind`` any means unchecked."""

    kind: Literal["string", "number", "integer", "boolean", "email", "datetime", "date", "any"] = "any"
    required: bool = False
    max_length: int | None = None


@dataclass(frozen=True)
class RateLimit:
    """At most ``calls`` in any ``seconds``."""

    calls: int
    seconds: float


@dataclass(frozen=True)
class Bulk:
    """A way for many records: a sync of ``from_rows`` operations or more is cut into batches of these sizes instead."""

    from_rows: int
    batch_rows: int
    batch_bytes: int


@dataclass(frozen=True)
class Capabilities:
    """What a destination can do, as data.

    ``resend``: is the same operation safe to send twice (set, upsert), unsafe (append), or to be looked up first (insert_only)?
    ``attribution``: how an answer names the records that failed. ``retract``: how a withdrawal of consent is carried out.
    ``fields``: per object, the rules of known fields; an object with ``"*"`` accepts unknown fields. ``bulk``: the destination
    takes large batches as asynchronous jobs; its connector then keeps the book of :meth:`Connector.remember`.
    """

    type: str
    actions: tuple[str, ...]
    batch_rows: int
    batch_bytes: int
    resend: Literal["set", "upsert", "append", "insert_only"]
    attribution: Literal["positional", "keyed", "none", "whole_batch"]
    retract: Literal["remove", "flag_false", "none"]
    rates: tuple[RateLimit, ...] = ()
    daily_calls: int | None = None
    concurrency: int = 1
    bulk: Bulk | None = None
    fields: Mapping[str, Mapping[str, FieldRule]] = field(default_factory=dict)
    default_key_fields: Mapping[str, str] = field(default_factory=dict)
    evidence: str = ""


@dataclass(frozen=True)
class Operation:
    """One message to send. ``id`` is the ledger's row; ``key`` the destination key; ``payload`` the destination record."""

    id: str
    kind: Kind
    key: str
    payload: Mapping[str, Any]
    message_id: str


@dataclass(frozen=True)
class Outcome:
    """What became of an operation. ``not_before``: earliest next try, for waiting. ``reason``: a code and words without values."""

    id: str
    status: Status
    reason: str = ""
    not_before: dt.datetime | None = None
    warning: str = ""
    remote_id: str = ""


@dataclass(frozen=True)
class Action:
    """What an activation asks of a connector: the action's name and its settings (object, key_field, flag_field, …)."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Connection:
    """How to reach an account. ``base_url`` is the twin's in sandbox mode, else None (the connector knows its own hosts)."""

    mode: Literal["sandbox", "live"]
    account: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict)
    base_url: str | None = None


class JobBook(Protocol):
    """The asynchronous jobs of an account that are not known to have ended, kept through crashes.

    A job is noted before its data are sent, so that no second one is begun while the first may still write older values.
    """

    def open(self) -> list[str]:
        """Ids of the jobs, oldest first."""
        ...

    def began(self, job: str) -> None: ...

    def ended(self, job: str) -> None: ...


class Destination(Protocol):
    """A connector bound to one account. Use as a context manager; not thread-safe."""

    capabilities: Capabilities

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Send one batch (within the capabilities' caps, one operation per key). One outcome per operation, in any order."""
        ...

    def remember(self, jobs: JobBook) -> None:
        """Keep asynchronous jobs in this book; called once, before the first batch."""
        ...

    def close(self) -> None: ...


class DestinationConfigError(Exception):
    """The destination's configuration cannot work: unknown type or action, missing setting, or a host of the wrong mode."""


class Connector(ABC):
    """Base of the connectors: a context manager that closes itself, and refuses actions that it does not have."""

    capabilities: Capabilities
    jobs: JobBook | None = None

    @abstractmethod
    def close(self) -> None: ...

    def remember(self, jobs: JobBook) -> None:
        """Keep asynchronous jobs in this book."""
        self.jobs = jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def refuse_unknown(self, action: Action) -> None:
        """Raises :class:`DestinationConfigError` for an action that the connector does not have."""
        if action.name not in self.capabilities.actions:
            raise DestinationConfigError(f"unknown action; known: {', '.join(self.capabilities.actions)}")
