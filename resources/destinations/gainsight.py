"""Gainsight: Company and low-volume custom objects, upserted by a key field, and people.

Action ``person`` upserts people by their e-mail address, one in a call. Action ``upsert`` is for objects: there is no upsert call: existing keys are asked for, known ones are updated (PUT), new ones inserted (POST). A write with one bad
record is refused as a whole, so it is halved until the bad one stands alone. An insert without an answer is read back by key.
Settings of the connection: ``calls_per_minute``, where the package allows more; the account is the tenant's host.
Credentials: ``access_key``.
Settings of the action: ``object`` (Company or NAME__gc; Person), ``key_field`` (default Name; of people Email), ``flag_field``.
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
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

_TEXT = FieldRule("string", max_length=250)

CAPABILITIES: Final = Capabilities(
    type="gainsight",
    actions=("upsert", "person"),
    batch_rows=200,  # one look-up for four writes of 50 [D]
    batch_bytes=4_000_000,  # [M] no limit in bytes is published
    resend="upsert",  # an insert alone would not be; every delivery looks first
    attribution="whole_batch",  # resolved here, by halving
    retract="flag_false",
    rates=(RateLimit(100, 60.0),),  # [D] fixed windows; a sliding one never asks for more
    daily_calls=50_000,  # [D]
    concurrency=1,  # look-up and write are two calls: serialise per object
    fields={
        "Company": {
            "Name": FieldRule("string", required=True, max_length=250),
            "Industry": _TEXT,
            "Stage": _TEXT,
            "Status": _TEXT,
            "Employees": FieldRule("number"),
            "Users": FieldRule("number"),
            "ARR": FieldRule("number"),
            "RenewalDate": FieldRule("date"),
            "OriginalContractDate": FieldRule("date"),
            "*": FieldRule(),  # custom fields; their types are the tenant's
        },
        "Person": {
            "Email": FieldRule("email", required=True, max_length=250),  # [C]
            "FirstName": _TEXT,
            "LastName": _TEXT,
            "*": FieldRule(),
        },
    },
    default_key_fields={"Company": "Name", "Person": "Email"},
    evidence="https://support.gainsight.com/gainsight_nxt/API_and_Developer_Docs/Company_and_Relationship_API/Company_API_Documentation",
)

_PERSON: Final = dataclasses.replace(CAPABILITIES, batch_rows=20, attribution="positional")
_WRITE_ROWS: Final = 50  # [D]
_READ_ROWS: Final = 5000  # [D]
_NAME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")


def capabilities_of(action: str, settings: Mapping[str, Any]) -> Capabilities:
    """What an action can do: people are written one in a call."""
    return _PERSON if action == "person" else CAPABILITIES


def connect(connection: Connection) -> GainsightDestination:
    """A connector to the tenant. Raises :class:`DestinationConfigError`."""
    return GainsightDestination(connection)


class GainsightDestination(Connector):
    """One tenant."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        self._base = wire.base_url(connection, f"https://{connection.account}")
        self._key = wire.credentials(connection, "access_key")["access_key"]
        calls = int(connection.settings.get("calls_per_minute", CAPABILITIES.rates[0].calls))
        self._account = wire.account_of("gainsight", connection, self._base, (RateLimit(calls, 60.0),))
        self._wire = wire.Wire(connection, self._account, _judge)

    def close(self) -> None:
        self._wire.close()

    # -- delivery ----------------------------------------------------------------------------------------------------

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Upsert one batch of one object. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        if action.name == "person":
            return self._people(action, operations)
        object = wire.setting(action.settings, "object")
        key_field = wire.setting(action.settings, "key_field", CAPABILITIES.default_key_fields.get(object))
        if not all(_NAME.match(name) for name in (object, key_field)):
            raise DestinationConfigError("object and key_field are API names")
        flag_field = action.settings.get("flag_field")
        writes, retracts, outcomes = wire.split(operations, flag_field)
        target = _Target(object, key_field, flag_field)
        with self._account.one_at_a_time:
            return outcomes + self._upsert(target, [*writes, *retracts])

    def _upsert(self, target: _Target, operations: Sequence[Operation]) -> list[Outcome]:
        try:
            known = self._known(target, operations)
        except CallFailedError as error:
            return wire.failed(operations, error)
        outcomes, inserts, updates = [], [], []
        for operation in operations:
            matches = known[_fold(operation.key)]
            if matches > 1:
                outcomes.append(Outcome(operation.id, "rejected", f"several records have this key ({target.key_field})"))
            elif matches:
                updates.append(operation)
            elif operation.kind == "retract":
                outcomes.append(Outcome(operation.id, "delivered", warning="nothing to retract: no such record"))
            else:
                inserts.append(operation)
        for method, group in (("PUT", updates), ("POST", inserts)):
            for start in range(0, len(group), _WRITE_ROWS):
                outcomes += self._write(target, method, group[start : start + _WRITE_ROWS])
        return outcomes

    def _people(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Each person in a call of their own, an upsert by e-mail address [C]. A retract is one, too: it makes who is gone again."""
        flag_field = action.settings.get("flag_field")
        writes, retracts, outcomes = wire.split(operations, flag_field)
        headers = {"accesskey": self._key, "Content-Type": "application/json"}
        for operation in [*writes, *retracts]:
            body = orjson.dumps(wire.record_of(operation, "Email", flag_field))
            named = {**headers, "Idempotency-Key": wire.idempotency_key([operation])}
            try:
                answer = wire.body_of(
                    self._wire.call("PUT", f"{self._base}/v1.0/api/people", writes=True, content=body, headers=named)
                )
            except CallFailedError as error:
                outcomes.append(error.outcome(operation))
                continue
            data = answer.get("data")
            made = data.get("id") if isinstance(data, dict) else None
            outcomes.append(Outcome(operation.id, "delivered", remote_id=str(made or "")))
        return outcomes

    def _known(self, target: _Target, operations: Sequence[Operation]) -> Counter[str]:
        """How many records have each of the keys."""
        if not operations:
            return Counter()
        condition = {"name": target.key_field, "alias": "A", "value": [o.key for o in operations], "operator": "IN"}  # IN: [M]
        body = {
            "select": [target.key_field],
            "where": {"conditions": [condition], "expression": "A"},
            "limit": _READ_ROWS,
            "offset": 0,
        }
        answer = self._call("POST", f"query/{target.object}", body, operations, writes=False)
        data = answer.get("data")
        rows = data.get("records") if isinstance(data, dict) else data
        return Counter(_fold(row.get(target.key_field)) for row in rows or [])

    def _write(self, target: _Target, method: str, operations: Sequence[Operation]) -> list[Outcome]:
        """One call; halved where it is refused, so that a bad record never fails its neighbours."""
        keys = f"?keys={target.key_field}" if method == "PUT" else ""
        records = [wire.record_of(operation, target.key_field, target.flag_field) for operation in operations]
        try:
            answer = self._call(
                method, f"{target.object}{keys}", {"records": records}, operations, writes=True, resend=method == "PUT"
            )
        except CallFailedError as error:
            if error.status == "rejected" and len(operations) > 1:
                half = len(operations) // 2
                return self._write(target, method, operations[:half]) + self._write(target, method, operations[half:])
            if error.maybe_applied and method == "POST":
                return self._read_back(target, operations, error)
            return wire.failed(operations, error)
        data = answer.get("data")
        stored = data.get("records") if isinstance(data, dict) else None
        ids = {_fold(row.get(target.key_field)): str(row.get("Gsid") or "") for row in stored or [] if isinstance(row, dict)}
        return [Outcome(o.id, "delivered", remote_id=ids.get(_fold(o.key), "")) for o in operations]

    def _read_back(self, target: _Target, operations: Sequence[Operation], error: CallFailedError) -> list[Outcome]:
        """What became of an insert without an answer: what is there now was inserted; what is not may still come."""
        try:
            known = self._known(target, operations)
        except CallFailedError:
            return wire.failed(operations, error)
        return [
            Outcome(o.id, "delivered", warning="no answer; found by reading back") if known[_fold(o.key)] else error.outcome(o)
            for o in operations
        ]

    def _call(
        self, method: str, path: str, body: Any, operations: Sequence[Operation], *, writes: bool, resend: bool = True
    ) -> dict[str, Any]:
        headers = {
            "accesskey": self._key,
            "Content-Type": "application/json",
            "Idempotency-Key": wire.idempotency_key(operations),
        }
        url = f"{self._base}/v1/data/objects/{path}"
        response = self._wire.call(method, url, writes=writes, resend=resend, content=orjson.dumps(body), headers=headers)
        return wire.body_of(response)


class _Target:
    """Object, key field and flag field of an action."""

    def __init__(self, object: str, key_field: str, flag_field: str | None) -> None:
        self.object, self.key_field, self.flag_field = object, key_field, flag_field


def _fold(key: Any) -> str:
    return str(key).casefold()


def _judge(response: httpx.Response) -> None:
    body = wire.body_of(response)
    code = str(body.get("errorCode") or "NO_CODE") if isinstance(body, dict) else "not_json"
    if response.status_code == 429:
        # The windows are fixed minutes [D]; without a Retry-After the next one begins within sixty seconds.
        seconds = wire.retry_after(response)
        raise TryAgainError(f"429:{code}", seconds if seconds is not None else 60.0 - wire.now().second)
    if response.status_code == 408 or response.status_code >= 500:
        raise TryAgainError(f"{response.status_code}:{code}", wire.retry_after(response))
    if response.status_code in (401, 403):
        wire.wait(f"auth:{response.status_code}:{code}", wire.now() + wire.AFTER_A_LOOK)
    if not isinstance(body, dict):  # some errors come as a page with status 200 [C]
        raise CallFailedError("unknown", f"{response.status_code}:answer_not_understood", maybe_applied=True)
    if response.status_code != 200 or body.get("result") is not True:
        wire.refuse(f"{response.status_code}:{code}")
