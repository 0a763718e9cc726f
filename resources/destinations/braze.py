"""Braze: attributes of users, and events, through ``/users/track``.

Two actions. ``attributes`` sets attributes of a user; membership is a boolean custom attribute (``flag_field``), and a retract sets it to
false on a user that exists and never makes one. ``events`` appends an event for each message; nothing tells two of them apart, so what got
no answer stays unknown.
Settings of the connection: ``endpoint``, the cluster's REST host, live; ``calls`` and ``seconds``, another rate than the older contracts'.
Credentials: ``api_key``.
Settings of the action: ``key_field`` (default ``external_id``), ``flag_field`` (attributes).
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
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
from resources.destinations.http import CallFailedError, TryAgainError

_TEXT: Final = FieldRule("string", max_length=255)  # [D]

CAPABILITIES: Final = Capabilities(
    type="braze",
    actions=("attributes", "events"),
    batch_rows=75,  # of each array [D]
    batch_bytes=4_000_000,  # [D]
    resend="set",
    attribution="positional",
    retract="flag_false",
    rates=(RateLimit(3000, 3.0),),  # [D] of older contracts; newer ones have an hourly limit: settings calls and seconds
    concurrency=1,
    fields={
        "User": {
            "external_id": _TEXT,
            "first_name": _TEXT,
            "last_name": _TEXT,
            "email": FieldRule("email", max_length=255),
            "phone": _TEXT,
            "country": _TEXT,
            "home_city": _TEXT,
            "language": _TEXT,
            "*": FieldRule(),
        },
        "Event": {
            "external_id": _TEXT,
            "name": FieldRule("string", required=True, max_length=255),  # [D]
            "time": FieldRule("datetime", required=True),  # [D]
            "properties": FieldRule(),
        },
    },
    default_key_fields={"User": "external_id", "Event": "external_id", "": "external_id"},
    evidence="https://www.braze.com/docs/api/endpoints/user_data/post_user_track/",
)
_EVENTS: Final = dataclasses.replace(CAPABILITIES, resend="append", retract="none")


def capabilities_of(action: str, settings: Mapping[str, Any]) -> Capabilities:
    """What an action can do: attributes are set, so they may be set again; an event that is sent again is another event."""
    return _EVENTS if action == "events" else CAPABILITIES


def connect(connection: Connection) -> BrazeDestination:
    """A connector to a workspace. Raises :class:`DestinationConfigError`."""
    return BrazeDestination(connection)


class BrazeDestination(Connector):
    """One workspace, by its REST key."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        endpoint = str(connection.settings.get("endpoint", "")).removeprefix("https://")
        if connection.mode == "live" and not endpoint:
            raise DestinationConfigError("a live connection needs settings.endpoint, the cluster's REST host")
        self._base = wire.base_url(connection, f"https://{endpoint}")
        self._key = wire.credentials(connection, "api_key")["api_key"]
        rates = CAPABILITIES.rates
        if "calls" in connection.settings:
            rates = (RateLimit(int(connection.settings["calls"]), float(connection.settings.get("seconds", 3600))),)
        self._account = wire.account_of("braze", connection, self._base, rates)
        self._wire = wire.Wire(connection, self._account, _judge)

    def close(self) -> None:
        self._wire.close()

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Send one batch. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        key_field = wire.setting(action.settings, "key_field", "external_id")
        outcomes: list[Outcome] = []
        if action.name == "events":
            writes = list(operations)
            items = [{**operation.payload, key_field: operation.key} for operation in writes]
        else:
            flag_field = action.settings.get("flag_field")
            writes, retracts, outcomes = wire.split(operations, flag_field)
            writes = [*writes, *retracts]
            items = [
                wire.record_of(operation, key_field, flag_field)
                | ({"_update_existing_only": True} if operation.kind == "retract" else {})
                for operation in writes
            ]
        rows = CAPABILITIES.batch_rows
        for start in range(0, len(writes), rows):
            outcomes += self._track(action.name, writes[start : start + rows], items[start : start + rows])
        return outcomes

    def _track(self, array: str, operations: Sequence[Operation], items: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        append = array == "events"
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._key}",
            "Idempotency-Key": wire.idempotency_key(operations),
        }
        try:
            response = self._wire.call(
                "POST",
                f"{self._base}/users/track",
                writes=True,
                resend=not append,
                content=orjson.dumps({array: list(items)}),
                headers=headers,
            )
        except CallFailedError as error:
            if error.code in ("400", "413") and len(operations) > 1:
                half = len(operations) // 2
                return [
                    outcome
                    for part in (slice(None, half), slice(half, None))
                    for outcome in self._track(array, operations[part], items[part])
                ]
            if append and error.maybe_applied:
                # A server that failed may have taken the events before it did.
                error = CallFailedError("unknown", error.code, maybe_applied=True)
            return wire.failed(operations, error)
        return _outcomes(array, operations, response)


def _judge(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 201, 202):
        return
    if status == 429:
        raise TryAgainError("429", _until_reset(response))
    if status >= 500 or status == 408:
        raise TryAgainError(str(status), wire.retry_after(response))
    if status in (401, 403, 404):
        wire.wait(f"auth:{status}", wire.now() + wire.AFTER_A_LOOK)
    wire.refuse(str(status))


def _until_reset(response: httpx.Response) -> float | None:
    """Seconds until the window ends, which this system gives as an instant [D]."""
    reset = response.headers.get("x-ratelimit-reset", "")
    return max(float(reset) - wire.now().timestamp(), 0.05) if reset.isdigit() else wire.retry_after(response)


def _outcomes(array: str, operations: Sequence[Operation], response: httpx.Response) -> list[Outcome]:
    """ "success" means taken, but for the positions that ``errors`` names; several errors can name one."""
    body = wire.body_of(response)
    if not isinstance(body, dict) or body.get("message") not in ("success", "queued"):
        return wire.failed(operations, CallFailedError("unknown", "answer_not_understood", maybe_applied=True))
    # The words of an error can quote the value, so only its kind is kept; what failed at the system's side may pass another time.
    failures: dict[Any, bool] = {}
    for error in body.get("errors") or []:
        if isinstance(error, dict) and error.get("input_array", array) == array:
            index = error.get("index")
            failures[index] = failures.get(index, True) and "internal" in str(error.get("type", "")).lower()
    queued = "queued: the system is in maintenance" if body["message"] == "queued" else ""
    outcomes = []
    for index, operation in enumerate(operations):
        if index not in failures:
            outcomes.append(Outcome(operation.id, "delivered", warning=queued))
        elif failures[index]:
            outcomes.append(CallFailedError("waiting", "item_failed").outcome(operation))
        else:
            outcomes.append(Outcome(operation.id, "rejected", "item_refused"))
    return outcomes
