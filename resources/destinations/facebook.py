"""Facebook (Meta) custom audiences: the members of one audience kept in step, by hashed particulars.

An enter adds, an exit or a retract removes; both may be repeated. The answer counts invalid entries without naming them, so a call that has
some is halved until they stand alone. Particulars are normalised and hashed here; nothing leaves in clear but ids that mean nothing elsewhere.
Settings of the connection: ``api_version``. Credentials: ``access_token``, and ``app_secret`` where the app demands proof.
Settings of the action: ``audience`` (its id), ``key_field`` (``email`` by default; ``phone``, ``extern_id`` or ``madid``).
Evidence tags: [D] vendor documentation, [C] read in production connectors, [P] seen with the vendor's own client.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence
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
    normalise,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError, TryAgainError

_Rule = Callable[[Any], str]

# Our field -> (schema key, normalisation, whether it is hashed) [D].
FIELDS: Final[dict[str, tuple[str, _Rule, bool]]] = {
    "extern_id": ("EXTERN_ID", lambda value: "" if value is None else str(value).strip(), False),
    "madid": ("MADID", lambda value: "" if value is None else str(value).strip().lower(), False),
    "email": ("EMAIL", normalise.email, True),
    "phone": ("PHONE", normalise.phone, True),
    "first_name": ("FN", normalise.name, True),
    "last_name": ("LN", normalise.name, True),
    "city": ("CT", normalise.place, True),
    "state": ("ST", normalise.place, True),
    "zip": ("ZIP", normalise.postcode, True),
    "country": ("COUNTRY", normalise.country, True),
    "gender": ("GEN", normalise.gender, True),
}
_KEYS: Final = ("email", "phone", "extern_id", "madid")

CAPABILITIES: Final = Capabilities(
    type="facebook",
    actions=("members",),
    batch_rows=10_000,  # [D]
    batch_bytes=8_000_000,  # [M] no limit in bytes is published
    resend="set",
    attribution="none",  # resolved here, by halving
    retract="remove",
    concurrency=1,
    fields={"": {name: FieldRule("string") for name in FIELDS}},
    default_key_fields={"": "email"},
    evidence="https://developers.facebook.com/docs/marketing-api/audiences/guides/custom-audiences",
)

_HOST: Final = "https://graph.facebook.com"
_API_VERSION: Final = "v24.0"
_AGAIN: Final = {1, 2, 341, 368, 5000, 21009}  # [C]
_THROTTLED: Final = {4, 17, 32, 613, 80003}  # [C][M]
_AUTH: Final = {10, 102, 190, 200, 294}  # [C] a person has to renew the token or the permission
_MISSING: Final = 33  # subcode of 100: no such audience, or not ours [C]


def connect(connection: Connection) -> FacebookDestination:
    """A connector to an ad account's audiences. Raises :class:`DestinationConfigError`."""
    return FacebookDestination(connection)


class FacebookDestination(Connector):
    """One access token."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        self._base = wire.base_url(connection, _HOST)
        self._version = str(connection.settings.get("api_version", _API_VERSION))
        self._token = wire.credentials(connection, "access_token")["access_token"]
        self._secret = connection.credentials.get("app_secret", "") if connection.mode == "live" else ""
        account = wire.account_of("facebook", connection, self._base, CAPABILITIES.rates)
        self._wire = wire.Wire(connection, account, _judge)

    def close(self) -> None:
        self._wire.close()

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Add and remove one batch of members. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        audience = str(wire.setting(action.settings, "audience"))
        key_field = str(wire.setting(action.settings, "key_field", "email"))
        if key_field not in _KEYS:
            raise DestinationConfigError(f"settings.key_field is one of {', '.join(_KEYS)}")
        outcomes: list[Outcome] = []
        rows: dict[str, dict[str, str]] = {}
        for operation in operations:
            row = _row(operation, key_field)
            if row is None:
                outcomes.append(Outcome(operation.id, "rejected", f"{key_field} is not usable as an identifier"))
            else:
                rows[operation.id] = row
        for method, kinds in (("DELETE", ("exit", "retract")), ("POST", ("enter", "change"))):
            group = [o for o in operations if o.id in rows and o.kind in kinds]
            if group:
                outcomes += wire.by_halves(group, functools.partial(self._users, method, audience, rows))
        return outcomes

    def _users(
        self, method: str, audience: str, rows: dict[str, dict[str, str]], operations: Sequence[Operation]
    ) -> list[Outcome]:
        schema = sorted({name for operation in operations for name in rows[operation.id]})
        name = wire.idempotency_key(operations)
        body = {
            "access_token": self._token,  # in the body: URLs end up in logs on the way
            "payload": {"schema": schema, "data": [[rows[o.id].get(key, "") for key in schema] for o in operations]},
            "session": {
                "session_id": int(name[:12], 16) + 1,
                "batch_seq": 1,
                "last_batch_flag": True,
                "estimated_num_total": len(operations),
            },
        }
        if self._secret:
            body["appsecret_proof"] = hmac.new(self._secret.encode(), self._token.encode(), hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "Idempotency-Key": name}
        url = f"{self._base}/{self._version}/{audience}/users"
        answer = wire.body_of(self._wire.call(method, url, writes=True, content=orjson.dumps(body), headers=headers))
        if not isinstance(answer, dict) or answer.get("num_received") != len(operations):
            raise CallFailedError("unknown", "answer_not_understood", maybe_applied=True)
        if answer.get("num_invalid_entries"):
            wire.refuse("entry_invalid")
        return [Outcome(operation.id, "delivered") for operation in operations]


def _row(operation: Operation, key_field: str) -> dict[str, str] | None:
    """Schema key -> value of a member; None where its key says nothing. Who leaves is named by the key only."""
    given = (
        {key_field: operation.key} if operation.kind in ("exit", "retract") else {**operation.payload, key_field: operation.key}
    )
    row = {}
    for name, (key, rule, hashed) in FIELDS.items():
        value = rule(given.get(name))
        if value:
            row[key] = normalise.sha256(value) if hashed else value
    return row if FIELDS[key_field][0] in row else None


def _judge(response: httpx.Response) -> None:
    """The body says it, whatever the status [P]."""
    body = wire.body_of(response)
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        if response.status_code == 200 and isinstance(body, dict):
            return
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise TryAgainError(str(response.status_code), wire.retry_after(response))
        raise CallFailedError("unknown", f"{response.status_code}:answer_not_understood", maybe_applied=True)
    code, subcode = int(error.get("code") or 0), int(error.get("error_subcode") or 0)
    said = f"{code}/{subcode}" if subcode else str(code)
    if code in _AUTH:
        wire.wait(f"auth:{said}", wire.now() + wire.AFTER_A_LOOK)
    if code in _THROTTLED:
        raise TryAgainError(said, wire.retry_after(response), wire.now() + wire.AFTER_A_LOOK)
    # A code of nobody's list may still say of itself that it passes [M].
    if code in _AGAIN or error.get("is_transient") is True or response.status_code >= 500:
        raise TryAgainError(f"{response.status_code}:{said}", wire.retry_after(response))
    if code == 100 and subcode == _MISSING:
        wire.wait(f"config:{said}", wire.now() + wire.AFTER_A_LOOK)
    wire.refuse(said)
