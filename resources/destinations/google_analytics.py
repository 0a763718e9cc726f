"""Google Analytics 4: events through the Measurement Protocol.

The protocol answers 2xx to everything, also to what it then drops. So every rule that is known is applied here, before anything is sent, and
what was sent counts as delivered with the warning that nobody can verify it. Events are appended: nothing tells two of them apart.
Settings of the connection: ``measurement_id`` (G-…). Credentials: ``api_secret``.
Settings of the action: ``key_field`` (``client_id``). A payload has ``name``, ``params``, and may have ``user_id``, ``time`` (ISO 8601),
``user_properties`` ({name: value}) and ``consent`` ({ad_user_data, ad_personalization}).
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

import datetime as dt
import re
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
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError, TryAgainError

CAPABILITIES: Final = Capabilities(
    type="google_analytics",
    actions=("events",),
    batch_rows=1,  # a request speaks of one client; several in a batch would share one unknown outcome
    batch_bytes=130_000,  # [M]
    resend="append",
    attribution="none",
    retract="none",
    concurrency=1,
    fields={
        "": {
            "client_id": FieldRule("string"),
            "user_id": FieldRule("string", max_length=256),  # [D]
            "name": FieldRule("string", required=True, max_length=40),  # [D]
            "params": FieldRule(),
            "time": FieldRule("datetime"),
            "user_properties": FieldRule(),
            "consent": FieldRule(),
        }
    },
    default_key_fields={"": "client_id"},
    evidence="https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference",
)

_MAX_PARAMS: Final = 25  # [D]
_MAX_PROPERTIES: Final = 25  # [D]
_OLDEST: Final = dt.timedelta(hours=72)  # [D]
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")  # [D]
_PREFIXES: Final = ("_", "firebase_", "ga_", "google_", "gtag.")  # [D]
_RESERVED: Final = frozenset(  # [D]
    {
        *(
            "ad_activeview",
            "ad_click",
            "ad_exposure",
            "ad_query",
            "ad_reward",
            "adunit_exposure",
            "app_clear_data",
            "app_exception",
        ),
        *("app_remove", "app_store_refund", "app_update", "app_upgrade", "dynamic_link_app_open", "dynamic_link_app_update"),
        *("dynamic_link_first_open", "error", "first_open", "first_visit", "in_app_purchase", "notification_dismiss"),
        *(
            "notification_foreground",
            "notification_open",
            "notification_receive",
            "os_update",
            "session_start",
            "user_engagement",
        ),
    }
)


def connect(connection: Connection) -> GoogleAnalyticsDestination:
    """A connector to a web data stream. Raises :class:`DestinationConfigError`."""
    return GoogleAnalyticsDestination(connection)


class GoogleAnalyticsDestination(Connector):
    """One data stream."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        stream = str(connection.settings.get("measurement_id", ""))
        if connection.mode == "live" and not stream:
            raise DestinationConfigError("a live connection needs settings.measurement_id")
        self._base = wire.base_url(connection, "https://www.google-analytics.com")
        # The protocol takes its secret in the query only.
        self._query = {"measurement_id": stream or "G-SANDBOX", **wire.credentials(connection, "api_secret")}
        account = wire.account_of("google_analytics", connection, self._base, CAPABILITIES.rates)
        self._wire = wire.Wire(connection, account, _judge)

    def close(self) -> None:
        self._wire.close()

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Send each event. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        key_field = str(wire.setting(action.settings, "key_field", "client_id"))
        return [self._collect(operation, {**operation.payload, key_field: operation.key}) for operation in operations]

    def _collect(self, operation: Operation, record: Mapping[str, Any]) -> Outcome:
        if problem := _problem(record):
            return Outcome(operation.id, "rejected", f"invalid: {problem}")
        body: dict[str, Any] = {name: record[name] for name in ("client_id", "user_id", "consent") if record.get(name)}
        if record.get("time"):
            body["timestamp_micros"] = int(_instant(record["time"]).timestamp() * 1_000_000)
        if record.get("user_properties"):
            body["user_properties"] = {name: {"value": value} for name, value in record["user_properties"].items()}
        body["events"] = [{"name": record["name"], "params": record.get("params") or {}}]
        headers = {"Content-Type": "application/json", "Idempotency-Key": wire.idempotency_key([operation])}
        try:
            self._wire.call(
                "POST",
                f"{self._base}/mp/collect",
                writes=True,
                resend=False,
                params=self._query,
                content=orjson.dumps(body),
                headers=headers,
            )
        except CallFailedError as error:
            if error.maybe_applied:
                error = CallFailedError("unknown", error.code, maybe_applied=True)
            return error.outcome(operation)
        return Outcome(operation.id, "delivered", warning="accepted; the protocol verifies nothing")


def _problem(record: Mapping[str, Any]) -> str:
    """Why the protocol would drop the event in silence; '' when nothing is known against it. Names fields, never values."""
    name, params = record.get("name"), record.get("params") or {}
    if not record.get("client_id"):
        return "client_id is empty"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith(_PREFIXES) or name in _RESERVED:
        return "name is not allowed"
    if not isinstance(params, Mapping) or len(params) > _MAX_PARAMS:
        return f"params is an object of at most {_MAX_PARAMS}"
    for key, value in params.items():
        if not _NAME.fullmatch(key) or key.startswith(_PREFIXES):
            return "a parameter's name is not allowed"
        if value is None or (isinstance(value, list | dict) and key != "items"):
            return f"parameter {key} is null, a list or an object"
        if isinstance(value, str) and len(value) > 100:  # [D]
            return f"parameter {key} is longer than 100"
    properties = record.get("user_properties") or {}
    if not isinstance(properties, Mapping) or len(properties) > _MAX_PROPERTIES:
        return f"user_properties is an object of at most {_MAX_PROPERTIES}"
    if any(len(key) > 24 or len(str(value)) > 36 for key, value in properties.items()):  # [D]
        return "a user property is too long"
    if not record.get("time"):
        return ""
    try:
        age = wire.now() - _instant(record["time"])
    except ValueError:
        return "time is not an instant"
    return "time is more than 72 hours ago" if age > _OLDEST else ""


def _instant(value: Any) -> dt.datetime:
    instant = dt.datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    return instant if instant.tzinfo else instant.replace(tzinfo=dt.UTC)


def _judge(response: httpx.Response) -> None:
    if response.status_code // 100 == 2:
        return
    if response.status_code in (408, 429) or response.status_code >= 500:
        raise TryAgainError(str(response.status_code), wire.retry_after(response))
    wire.wait(f"config:{response.status_code}", wire.now() + wire.AFTER_A_LOOK)
