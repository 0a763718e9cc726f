"""LinkedIn matched audiences: the people of one DMP segment kept in step, by hashed e-mail address.

Adding and removing are actions of one batch call, and both may be repeated; a status 200 can hide an element that failed.
Settings of the connection: ``version`` (YYYYMM; each lives about a year), live. Credentials: ``client_id``, ``client_secret``, ``refresh_token``.
Settings of the action: ``segment`` (its id), ``key_field`` (``email`` by default, or ``google_aid``).
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    normalise,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError, TokenExpiredError, TryAgainError

_ABOUT: Final = {"first_name": "firstName", "last_name": "lastName", "title": "title", "company": "company", "country": "country"}
_ID_TYPES: Final = {"email": "SHA256_EMAIL", "google_aid": "GOOGLE_AID"}  # [D]

CAPABILITIES: Final = Capabilities(
    type="linkedin",
    actions=("members",),
    batch_rows=5_000,  # [D]
    batch_bytes=8_000_000,  # [M] no limit in bytes is published
    resend="set",
    attribution="positional",
    retract="remove",
    rates=(RateLimit(500, 60.0),),  # [D] 600 in a minute for a member, 500 in older documentation
    concurrency=1,
    fields={"": {name: FieldRule("string") for name in (*_ID_TYPES, *_ABOUT)}},
    default_key_fields={"": "email"},
    evidence="https://learn.microsoft.com/en-us/linkedin/marketing/matched-audiences/create-and-manage-segment-users",
)

_VERSION: Final = "202510"
_LOGIN: Final = "https://www.linkedin.com"
_AGAIN: Final = {408, 409, 423, 429, 500, 502, 503, 504}  # [C]


def connect(connection: Connection) -> LinkedInDestination:
    """A connector to an advertiser's segments. Raises :class:`DestinationConfigError`."""
    return LinkedInDestination(connection)


class LinkedInDestination(Connector):
    """One member's authorisation, renewed by its refresh token."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        self._base = wire.base_url(connection, "https://api.linkedin.com")
        self._login = self._base if connection.mode == "sandbox" else wire.fence(connection, _LOGIN)
        self._version = str(connection.settings.get("version", _VERSION))
        self._secrets = wire.credentials(connection, "client_id", "client_secret", "refresh_token")
        account = wire.account_of("linkedin", connection, self._base, CAPABILITIES.rates)
        self._wire = wire.Wire(connection, account, _judge, self._sign_in)
        self._identity = wire.Wire(connection, account, wire.judge_sign_in)

    def close(self) -> None:
        self._wire.close()
        self._identity.close()

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Add and remove one batch of people. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        segment = str(wire.setting(action.settings, "segment"))
        key_field = str(wire.setting(action.settings, "key_field", "email"))
        if key_field not in _ID_TYPES:
            raise DestinationConfigError(f"settings.key_field is one of {', '.join(_ID_TYPES)}")
        outcomes, given, elements = [], [], []
        for operation in operations:
            element = _element(operation, key_field)
            if element is None:
                outcomes.append(Outcome(operation.id, "rejected", f"{key_field} is not usable as an identifier"))
            else:
                given.append(operation)
                elements.append(element)
        return outcomes + self._users(segment, given, elements) if given else outcomes

    def _users(self, segment: str, operations: Sequence[Operation], elements: list[dict[str, Any]]) -> list[Outcome]:
        headers = {
            "Content-Type": "application/json",
            "LinkedIn-Version": self._version,
            "X-Restli-Protocol-Version": "2.0.0",
            "X-RestLi-Method": "BATCH_CREATE",
            "Idempotency-Key": wire.idempotency_key(operations),
        }
        url = f"{self._base}/rest/dmpSegments/{segment}/users"
        content = orjson.dumps({"elements": elements})
        try:
            answer = wire.body_of(self._wire.call("POST", url, writes=True, content=content, headers=headers))
        except CallFailedError as error:
            return wire.failed(operations, error)
        results = answer.get("elements") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != len(operations):  # an empty reply is no result [C]
            return wire.failed(operations, CallFailedError("unknown", "answer_not_understood", maybe_applied=True))
        return [_outcome(operation, item) for operation, item in zip(operations, results, strict=True)]

    def _sign_in(self) -> str:
        form = {"grant_type": "refresh_token", **self._secrets}
        answer = wire.body_of(self._identity.call("POST", f"{self._login}/oauth/v2/accessToken", writes=False, data=form)) or {}
        if not answer.get("access_token"):
            wire.wait("auth:answer_not_understood", wire.now() + wire.AFTER_A_LOOK)
        return answer["access_token"]


def _element(operation: Operation, key_field: str) -> dict[str, Any] | None:
    value = normalise.sha256(normalise.email(operation.key)) if key_field == "email" else operation.key.strip()
    if not value:
        return None
    leaves = operation.kind in ("exit", "retract")
    element: dict[str, Any] = {
        "action": "REMOVE" if leaves else "ADD",
        "userIds": [{"idType": _ID_TYPES[key_field], "idValue": value}],
    }
    if not leaves:
        element |= {theirs: operation.payload[ours] for ours, theirs in _ABOUT.items() if operation.payload.get(ours)}
    return element


def _outcome(operation: Operation, item: Any) -> Outcome:
    status = int(item.get("status") or 0) if isinstance(item, dict) else 0
    if 200 <= status < 300:
        return Outcome(operation.id, "delivered")
    if status in _AGAIN:
        return CallFailedError("waiting", str(status)).outcome(operation)
    return Outcome(operation.id, "rejected", f"element_refused:{status}")


def _judge(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 201):
        return
    if status == 401:
        raise TokenExpiredError("401")
    if status == 403:
        wire.wait("auth:403", wire.now() + wire.AFTER_A_LOOK)
    if status in _AGAIN:
        raise TryAgainError(str(status), wire.retry_after(response))
    if status in (404, 426):  # a segment that was just made, or is none [D]; a version that has ended
        wire.wait(f"config:{status}", wire.now() + wire.AFTER_A_LOOK)
    wire.refuse(str(status))
