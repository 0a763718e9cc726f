"""Marketo: create or update leads by a lookup field, usually the e-mail address, and keep static lists.

Two actions. ``upsert``: membership is a boolean lead field (``flag_field``); a retract sets it to false on an existing lead and never makes
one. ``list``: membership is that of a static list; who leaves, or is retracted, is taken off it.
Settings of the connection: ``bulk_from_rows`` (a sync of so many operations goes as bulk imports; 0: never), ``bulk_wait_minutes``
(for the end of an import; longer ones are looked at again), ``bulk_unanswered_minutes`` (60: how long after an import that got no answer
nothing else is written, retracts included, since it could still be worked through). The account is the munchkin id.
Credentials: ``client_id``, ``client_secret`` of an API user.
Settings of the action: ``key_field`` (the lookup field, default ``email``), ``partition``; of upsert ``flag_field``; of list ``list_id``.
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

import httpx
import orjson

from resources.destinations import (
    Action,
    Capabilities,
    Connection,
    Connector,
    FieldRule,
    JobBook,
    Operation,
    Outcome,
    RateLimit,
    bulk,
    marketo_bulk,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError, TokenExpiredError, TryAgainError
from resources.destinations.marketo_bulk import BULK

_TEXT = FieldRule("string", max_length=255)

CAPABILITIES: Final = Capabilities(
    type="marketo",
    actions=("upsert", "list"),
    batch_rows=300,  # [D]
    batch_bytes=1_000_000,  # [D] 1 MB, answered with 413 above
    resend="upsert",
    attribution="positional",
    retract="flag_false",
    rates=(RateLimit(50, 20.0),),  # [D] 100 calls in 20 s per instance; the vendor asks an integration to stay at half
    daily_calls=50_000,  # [D] shared with every other integration
    bulk=BULK,
    concurrency=1,  # [D] 10 are allowed, but concurrent calls with one key can make duplicates
    fields={
        "Lead": {
            "email": FieldRule("email", max_length=255),  # [D] ASCII only
            "firstName": _TEXT,
            "lastName": _TEXT,
            "title": _TEXT,
            "phone": _TEXT,
            "city": _TEXT,
            "state": _TEXT,
            "country": _TEXT,
            "postalCode": _TEXT,
            "leadScore": FieldRule("integer"),
            "unsubscribed": FieldRule("boolean"),
            "*": FieldRule(),  # custom fields; their types are the subscription's
        }
    },
    default_key_fields={"Lead": "email"},
    evidence="https://experienceleague.adobe.com/en/docs/marketo-developer/marketo/rest/lead-database/leads",
)

# A list holds a lead or does not, however often it is said.
_LIST: Final = dataclasses.replace(CAPABILITIES, resend="set", retract="remove")

_QUOTA_ZONE: Final = ZoneInfo("America/Chicago")  # the quota's day begins at 00:00 US Central [D]
_RATE_WINDOW: Final = dt.timedelta(seconds=20)  # [D]

# Codes of a whole call [D]. What is in no table is tried again by a later sync, as two production connectors do [C].
_TOKEN: Final = {"601", "602"}
_AGAIN: Final = {"502", "604", "606", "608", "611", "614", "615", "713", "719", "1016", "1019", "1029"}
_FORBIDDEN: Final = {"603"}
_QUOTA: Final = "607"
_WRONG: Final = {"605", "609", "610", "612", "613", "616", "714", "718"} | {str(n) for n in (*range(701, 705), *range(709, 713))}
# Codes of a record [D]; 1022 (in use) and 1014 are waited for, as the vendor's own client does [P].
_ROW_WRONG: Final = {
    *("1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "1013", "1015", "1017", "1018"),
    *("1021", "1036"),
}
_NOT_FOUND: Final = "1004"
_NOTHING: Final = "nothing to retract: no such record"
_NO_LIST: Final = "1013"
_NOT_IN_LIST: Final = "1015"


def capabilities_of(action: str, settings: Mapping[str, Any]) -> Capabilities:
    """What an action can do: leads are flagged, members of a static list are taken off it; with the connection's threshold of bulk.

    Raises :class:`DestinationConfigError` for a threshold that is no number.
    """
    return bulk.with_threshold(_LIST if action == "list" else CAPABILITIES, settings)


def connect(connection: Connection) -> MarketoDestination:
    """A connector to the subscription. Raises :class:`DestinationConfigError`."""
    return MarketoDestination(connection)


class MarketoDestination(Connector):
    """One subscription. Signs in when first needed, and again only when told that the token is spent."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        self.capabilities = capabilities_of("upsert", connection.settings)
        self._settings = connection.settings
        self._base = wire.base_url(connection, f"https://{connection.account}.mktorest.com").removesuffix("/rest")
        self._secrets = wire.credentials(connection, "client_id", "client_secret")
        self._account = wire.account_of("marketo", connection, self._base, CAPABILITIES.rates)
        self._wire = wire.Wire(connection, self._account, self._judge, self._sign_in)
        self._identity = wire.Wire(connection, self._account, wire.judge_sign_in)

    def close(self) -> None:
        self._wire.close()
        self._identity.close()

    # -- delivery ----------------------------------------------------------------------------------------------------

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Create or update one batch of leads. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        try:
            if self.jobs and self.jobs.open():
                self._imports(self.jobs).end_open()
        except CallFailedError as error:
            return wire.failed(operations, error)
        if action.name == "list":
            return self._deliver_to_list(action, operations)
        lookup = wire.setting(action.settings, "key_field", CAPABILITIES.default_key_fields["Lead"])
        flag_field = action.settings.get("flag_field")
        writes, retracts, outcomes = wire.split(operations, flag_field)
        with self._account.one_at_a_time:  # also across activations: they share leads
            done, writes = self._import(action, lookup, flag_field, {}, writes)
            outcomes += done
            for mode, group in (("createOrUpdate", writes), ("updateOnly", retracts)):
                for start in range(0, len(group), CAPABILITIES.batch_rows):
                    outcomes += self._sync(action, mode, lookup, flag_field, group[start : start + CAPABILITIES.batch_rows])
        return outcomes

    def _sync(
        self, action: Action, mode: str, lookup: str, flag_field: str | None, operations: Sequence[Operation]
    ) -> list[Outcome]:
        rows = [wire.record_of(operation, lookup, flag_field) for operation in operations]
        partition = {"partitionName": action.settings["partition"]} if action.settings.get("partition") else {}
        body = orjson.dumps({"action": mode, "lookupField": lookup, **partition, "input": rows})
        headers = {"Content-Type": "application/json", "Idempotency-Key": wire.idempotency_key(operations)}
        try:
            answer = wire.body_of(
                self._wire.call("POST", f"{self._base}/rest/v1/leads.json", writes=True, content=body, headers=headers)
            )
        except CallFailedError as error:
            if error.code == "413" and len(operations) > 1:
                half = len(operations) // 2
                return [
                    outcome
                    for part in (operations[:half], operations[half:])
                    for outcome in self._sync(action, mode, lookup, flag_field, part)
                ]
            return wire.failed(operations, error)
        results = answer.get("result")
        if not isinstance(results, list) or len(results) != len(operations):
            return wire.failed(operations, CallFailedError("unknown", "answer_not_understood"))
        return [_row_outcome(operation, item) for operation, item in zip(operations, results, strict=True)]

    def _import(
        self,
        action: Action,
        lookup: str,
        flag_field: str | None,
        settings: Mapping[str, str],
        operations: Sequence[Operation],
    ) -> tuple[list[Outcome], list[Operation]]:
        """(outcomes of a bulk import, what is left for single calls): everything where there are few."""
        known = self.capabilities.bulk
        if known is None or self.jobs is None or len(operations) < min(known.from_rows, known.batch_rows):
            return [], list(operations)
        rows = [(o, wire.record_of(o, lookup, flag_field)) for o in operations]
        fitting = [(o, record) for o, record in rows if marketo_bulk.fits(record)]
        if not fitting:
            return [], list(operations)
        partition = {"partitionName": str(action.settings["partition"])} if action.settings.get("partition") else {}
        outcomes, refused = self._imports(self.jobs).upsert(lookup, {**settings, **partition}, fitting)
        return outcomes, [*refused, *(o for o, record in rows if not marketo_bulk.fits(record))]

    def _imports(self, jobs: JobBook) -> marketo_bulk.Imports:
        return marketo_bulk.Imports(self._call, self._judge, jobs, self._settings)

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self._wire.call(method, f"{self._base}/{path}", **request)

    # -- static lists ------------------------------------------------------------------------------------------------

    def _deliver_to_list(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Put the leads of one batch on a list, made or updated first, and take others off it."""
        list_id = int(wire.setting(action.settings, "list_id"))
        lookup = wire.setting(action.settings, "key_field", CAPABILITIES.default_key_fields["Lead"])
        joining = [operation for operation in operations if operation.kind in ("enter", "change")]
        leaving = [operation for operation in operations if operation.kind in ("exit", "retract")]
        with self._account.one_at_a_time:
            outcomes, joining = self._import(action, lookup, None, {"listId": str(list_id)}, joining)
            for method, mode, group in (("DELETE", "updateOnly", leaving), ("POST", "createOrUpdate", joining)):
                for start in range(0, len(group), CAPABILITIES.batch_rows):
                    outcomes += self._list(action, list_id, method, mode, lookup, group[start : start + CAPABILITIES.batch_rows])
        return outcomes

    def _list(
        self, action: Action, list_id: int, method: str, mode: str, lookup: str, operations: Sequence[Operation]
    ) -> list[Outcome]:
        """The list takes ids, so the leads come first. Who leaves is only looked up: no field of theirs is written."""
        leaves = mode == "updateOnly"
        leads = [dataclasses.replace(o, kind="exit", payload={}) for o in operations] if leaves else operations
        found = self._sync(action, mode, lookup, None, leads)
        if leaves:
            found = [Outcome(o.id, "delivered", warning=_NOTHING) if o.reason == _NOT_FOUND else o for o in found]
        ids = {outcome.id: outcome.remote_id for outcome in found if outcome.status == "delivered" and outcome.remote_id}
        done = [outcome for outcome in found if outcome.id not in ids]
        members = [operation for operation in operations if operation.id in ids]
        if not members:
            return done
        url = f"{self._base}/rest/v1/lists/{list_id}/leads.json"
        try:
            call = self._wire.call(method, url, writes=True, params={"id": ",".join(str(ids[o.id]) for o in members)})
            results = (wire.body_of(call) or {}).get("result")
        except CallFailedError as error:
            if error.code == _NO_LIST:  # somebody has to look; no record is at fault
                error = CallFailedError("waiting", f"config:{_NO_LIST}", wire.now() + wire.AFTER_A_LOOK)
            return [*done, *wire.failed(members, error)]
        if not isinstance(results, list) or len(results) != len(members):
            return [*done, *wire.failed(members, CallFailedError("unknown", "answer_not_understood"))]
        return [*done, *(_member_outcome(o, item, str(ids[o.id])) for o, item in zip(members, results, strict=True))]

    # -- sign-in -----------------------------------------------------------------------------------------------------

    def _sign_in(self) -> str:
        form = {"grant_type": "client_credentials", **self._secrets}
        # In the body, not in the query: URLs end up in logs on the way.
        answer = wire.body_of(self._identity.call("POST", f"{self._base}/identity/oauth/token", writes=False, data=form)) or {}
        if not answer.get("access_token"):
            wire.wait("auth:answer_not_understood", wire.now() + wire.AFTER_A_LOOK)
        return answer["access_token"]

    # -- answers -----------------------------------------------------------------------------------------------------

    def _judge(self, response: httpx.Response) -> None:
        """HTTP 200 says nothing; the body's ``success`` and string codes do [D]."""
        if response.status_code in (413, 414):
            wire.refuse(str(response.status_code))
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise TryAgainError(str(response.status_code), wire.retry_after(response))
        body = wire.body_of(response)
        if response.status_code != 200 or not isinstance(body, dict):
            raise CallFailedError("unknown", f"{response.status_code}:answer_not_understood", maybe_applied=True)
        if body.get("success") is True:
            return
        errors = body.get("errors")
        code = str(errors[0].get("code")) if isinstance(errors, list) and errors and isinstance(errors[0], dict) else "NO_CODE"
        self._raise_for(code, response)

    def _raise_for(self, code: str, response: httpx.Response) -> None:
        if code in _TOKEN:
            raise TokenExpiredError(code)
        if code == _QUOTA:
            until = next_quota_day(wire.now())
            self._account.close_until(f"quota:{code}", until)
            wire.wait(f"quota:{code}", until)
        if code in _FORBIDDEN:
            wire.wait(f"auth:{code}", wire.now() + wire.AFTER_A_LOOK)
        if code in _AGAIN:
            raise TryAgainError(code, wire.retry_after(response), wire.now() + _RATE_WINDOW)
        if code in _WRONG or code in _ROW_WRONG:
            wire.refuse(code)
        wire.wait(code, wire.now() + wire.SOON)


def next_quota_day(at: dt.datetime) -> dt.datetime:
    """The next midnight of US Central after an instant, in UTC."""
    tomorrow = at.astimezone(_QUOTA_ZONE).date() + dt.timedelta(days=1)
    return dt.datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=_QUOTA_ZONE).astimezone(dt.UTC)


def _member_outcome(operation: Operation, item: Any, lead: str) -> Outcome:
    if isinstance(item, dict) and item.get("status") in ("added", "removed", "memberof"):
        return Outcome(operation.id, "delivered", remote_id=lead)
    reasons = [str(r.get("code")) for r in item.get("reasons", []) if isinstance(r, dict)] if isinstance(item, dict) else []
    if reasons == [_NOT_IN_LIST]:
        return Outcome(operation.id, "delivered", remote_id=lead, warning="nothing to take off: not on the list")
    return _row_outcome(operation, item)


def _row_outcome(operation: Operation, item: Any) -> Outcome:
    if not isinstance(item, dict):
        return Outcome(operation.id, "unknown", "answer_not_understood")
    if item.get("status") in ("created", "updated"):
        return Outcome(operation.id, "delivered", remote_id=str(item.get("id", "")))
    reasons = [str(r.get("code")) for r in item.get("reasons", []) if isinstance(r, dict)] or ["NO_CODE"]
    if operation.kind == "retract" and reasons == [_NOT_FOUND]:
        return Outcome(operation.id, "delivered", warning=_NOTHING)
    reason = ", ".join(reasons)
    if any(code in _ROW_WRONG for code in reasons):
        return Outcome(operation.id, "rejected", reason)
    return CallFailedError("waiting", reason).outcome(operation)
