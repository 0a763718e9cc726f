"""Any JSON API over HTTP, declared in the space: where it is, how to sign in, how many records a call takes, and what success is.

Settings of the connection (``space.yaml``, destinations.KEY.settings):

    url          base URL, live (the twin's in sandbox mode)
    auth         none (default), bearer, basic or header; secrets are credentials: token; username and password; token with ``header``
    header       for auth header: the header that carries the token
    headers      further headers, without secrets
    batch_rows   records in one call (default 1)
    body         record: one bare record in a call (default for batch_rows 1); array: a bare list; or the key below which the list stands
    success      statuses that mean success (default: all of 2xx)
    results      key of the answer's list with one entry for each record, in order; without it a call succeeds or fails as a whole
    ok           for results: the key of an entry that says whether it was taken (default ok)
    resend       upsert (default), set or append: whether the same record may be sent twice
    retract      flag_false (default) or none
    rates        list of {calls, seconds}

Settings of the action: ``path`` (below the URL), ``method`` (POST by default), ``key_field``, ``flag_field``.
An answer 408, 429 or 5xx is tried again, 401 and 403 wait for a person, all else of 4xx is final; a call of several records that is refused
as a whole is halved by the sync until the culprit is alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import orjson

from resources.destinations import (
    Action,
    Capabilities,
    Connection,
    Connector,
    DestinationConfigError,
    FieldRule,
    Operation,
    Outcome,
    RateLimit,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError

CAPABILITIES: Final = Capabilities(
    type="http",
    actions=("upsert",),
    batch_rows=1,
    batch_bytes=1_000_000,
    resend="upsert",
    attribution="whole_batch",
    retract="flag_false",
    fields={"": {"*": FieldRule()}},
    evidence="the space's own declaration",
)
_KNOWN: Final = frozenset(
    {
        *("url", "auth", "header", "headers", "batch_rows", "body", "success", "results", "ok", "resend", "retract", "rates"),
        *("timeout_seconds", "retry_seconds"),
    }
)
_METHODS: Final = ("POST", "PUT", "PATCH")
_CHOICES: Final = {
    "auth": ("none", "bearer", "basic", "header"),
    "resend": ("upsert", "set", "append"),
    "retract": ("flag_false", "none"),
}


def capabilities_of(action: str, settings: Mapping[str, Any]) -> Capabilities:
    """What the declared API can do. Raises :class:`DestinationConfigError` for settings that say nothing clear."""
    if unknown := sorted(set(settings) - _KNOWN):
        raise DestinationConfigError(f"unknown settings: {', '.join(unknown)}; known: {', '.join(sorted(_KNOWN))}")
    for name, choices in _CHOICES.items():
        if settings.get(name, choices[0]) not in choices:
            raise DestinationConfigError(f"settings.{name} is one of {', '.join(choices)}")
    rows = settings.get("batch_rows", 1)
    if not isinstance(rows, int) or rows < 1:
        raise DestinationConfigError("settings.batch_rows is a positive whole number")
    if rows > 1 and settings.get("body", "array") == "record":
        raise DestinationConfigError("settings.body record goes with batch_rows 1")
    try:
        rates = tuple(RateLimit(int(rate["calls"]), float(rate["seconds"])) for rate in settings.get("rates", ()))
    except (TypeError, KeyError, ValueError):
        raise DestinationConfigError("settings.rates is a list of {calls: …, seconds: …}") from None
    return dataclasses.replace(
        CAPABILITIES,
        batch_rows=rows,
        resend=settings.get("resend", "upsert"),
        attribution="positional" if settings.get("results") else "whole_batch",
        retract=settings.get("retract", "flag_false"),
        rates=rates,
    )


def connect(connection: Connection) -> HttpDestination:
    """A connector to the declared API. Raises :class:`DestinationConfigError`."""
    return HttpDestination(connection)


class HttpDestination(Connector):
    """One API. Its secrets go into headers only."""

    def __init__(self, connection: Connection) -> None:
        settings = self._settings = connection.settings
        self.capabilities = capabilities_of("", settings)
        if connection.mode == "live" and not settings.get("url"):
            raise DestinationConfigError("a live connection needs settings.url")
        self._base = wire.base_url(connection, str(settings.get("url", "")))
        self._headers, self._auth = _sign_in(connection)
        account = wire.account_of("http", connection, self._base, self.capabilities.rates)
        self._wire = wire.Wire(connection, account, self._judge)

    def close(self) -> None:
        self._wire.close()

    # -- delivery ----------------------------------------------------------------------------------------------------

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Send one batch. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        method = str(action.settings.get("method", "POST")).upper()
        if method not in _METHODS:
            raise DestinationConfigError(f"settings.method of the activation is one of {', '.join(_METHODS)}")
        url = f"{self._base}/{str(action.settings.get('path', '')).lstrip('/')}".rstrip("/")
        key_field, flag_field = wire.setting(action.settings, "key_field"), action.settings.get("flag_field")
        writes, retracts, outcomes = wire.split(operations, flag_field)
        given = [*writes, *retracts]
        for start in range(0, len(given), self.capabilities.batch_rows):
            batch = given[start : start + self.capabilities.batch_rows]
            outcomes += self._send(method, url, batch, [wire.record_of(o, key_field, flag_field) for o in batch])
        return outcomes

    def _send(self, method: str, url: str, operations: Sequence[Operation], records: list[dict[str, Any]]) -> list[Outcome]:
        append = self.capabilities.resend == "append"
        headers = {**self._headers, "Content-Type": "application/json", "Idempotency-Key": wire.idempotency_key(operations)}
        try:
            response = self._wire.call(
                method,
                url,
                writes=True,
                resend=not append,
                content=orjson.dumps(self._body(records)),
                headers=headers,
                auth=self._auth,
            )
        except CallFailedError as error:
            if append and error.maybe_applied:
                error = CallFailedError("unknown", error.code, maybe_applied=True)
            return wire.failed(operations, error)
        return self._outcomes(operations, response)

    def _body(self, records: list[dict[str, Any]]) -> Any:
        form = self._settings.get("body", "record" if self.capabilities.batch_rows == 1 else "array")
        if form == "record":
            return records[0]
        return records if form == "array" else {str(form): records}

    # -- answers -----------------------------------------------------------------------------------------------------

    def _judge(self, response: httpx.Response) -> None:
        success = self._settings.get("success")
        if success and response.status_code in success:
            return
        wire.judge_status(response)
        if success:
            wire.refuse(str(response.status_code))

    def _outcomes(self, operations: Sequence[Operation], response: httpx.Response) -> list[Outcome]:
        name = self._settings.get("results")
        if not name:
            return [Outcome(operation.id, "delivered") for operation in operations]
        body = wire.body_of(response)
        results = body.get(name) if isinstance(body, dict) else None
        if not isinstance(results, list) or len(results) != len(operations):
            return wire.failed(operations, CallFailedError("unknown", "answer_not_understood", maybe_applied=True))
        ok = str(self._settings.get("ok", "ok"))
        return [
            Outcome(operation.id, "delivered")
            if isinstance(item, dict) and item.get(ok) is True
            else Outcome(operation.id, "rejected", "item_refused")
            for operation, item in zip(operations, results, strict=True)
        ]


def _sign_in(connection: Connection) -> tuple[dict[str, str], httpx.Auth | None]:
    """Headers of every call, and HTTP basic authentication where that is asked for."""
    settings = connection.settings
    headers = {str(name): str(value) for name, value in (settings.get("headers") or {}).items()}
    match settings.get("auth", "none"):
        case "bearer":
            return {**headers, "Authorization": f"Bearer {wire.credentials(connection, 'token')['token']}"}, None
        case "header":
            return {**headers, str(wire.setting(settings, "header")): wire.credentials(connection, "token")["token"]}, None
        case "basic":
            pair = wire.credentials(connection, "username", "password")
            return headers, httpx.BasicAuth(pair["username"], pair["password"])
    return headers, None
