"""Salesforce: upsert of sObject rows by external id: few with the Collections resource, many as jobs of Bulk API 2.0.

Membership is a checkbox field (``flag_field``); a retract sets it to false on an existing row and never makes one.
Settings of the connection: ``my_domain`` (host of the organisation, live), ``api_version``, ``quota_share``, ``bulk_from_rows``
(a sync of so many operations goes in bulk; 0: never), ``bulk_wait_minutes`` (for the end of a job; longer ones are looked at again);
``grant`` (``client_credentials`` or ``jwt``) and, of jwt, ``audience`` (``https://test.salesforce.com`` for a sandbox organisation).
Credentials: ``client_id``, ``client_secret`` of a connected app; of jwt ``client_id``, ``username`` and ``private_key`` (PEM).
Settings of the action: ``object``, ``key_field`` (an external id field), ``flag_field``.
Evidence tags: [D] vendor documentation, [C] read in production connectors, [M] general knowledge, not confirmed.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from resources.destinations import (
    Action,
    Capabilities,
    Connection,
    Connector,
    DestinationConfigError,
    FieldRule,
    JobBook,
    Operation,
    Outcome,
    bulk,
    exchanges,
    salesforce_bulk,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError, TokenExpiredError, TryAgainError
from resources.destinations.salesforce_bulk import BULK

_TEXT = {n: FieldRule("string", max_length=n) for n in (40, 80, 128, 255, 32_000)}
_PERSON = {
    "LastName": FieldRule("string", required=True, max_length=80),
    "FirstName": _TEXT[40],
    "Salutation": _TEXT[40],
    "Title": _TEXT[128],
    "Email": FieldRule("email", max_length=80),
    "Phone": _TEXT[40],
    "MobilePhone": _TEXT[40],
    "Description": _TEXT[32_000],
    "HasOptedOutOfEmail": FieldRule("boolean"),
    "DoNotCall": FieldRule("boolean"),
    "*": FieldRule(),  # custom fields; their types are the organisation's
}

CAPABILITIES: Final = Capabilities(
    type="salesforce",
    actions=("upsert",),
    batch_rows=200,  # [D] records of a Collections call
    batch_bytes=4_000_000,  # [M] well under the limit of a REST request body
    resend="upsert",
    attribution="positional",
    retract="flag_false",
    rates=(),  # no rate per second is published; the quota is the organisation's day [D]
    daily_calls=100_000,  # [M] Enterprise Edition's base; the answers' Sforce-Limit-Info header decides
    concurrency=1,
    bulk=BULK,
    fields={
        "Account": {
            "Name": FieldRule("string", required=True, max_length=255),
            "AccountNumber": _TEXT[40],
            "AnnualRevenue": FieldRule("number"),
            "Description": _TEXT[32_000],
            "Industry": _TEXT[255],
            "NumberOfEmployees": FieldRule("number"),
            "Phone": _TEXT[40],
            "Type": _TEXT[255],
            "Website": _TEXT[255],
            "*": FieldRule(),
        },
        "Contact": {**_PERSON, "Birthdate": FieldRule("date"), "Department": _TEXT[80]},
        "Lead": {**_PERSON, "Company": FieldRule("string", required=True, max_length=255), "Website": _TEXT[255]},
    },
    default_key_fields={},  # an external id field is the organisation's own: name it
    evidence="https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/api_rest/resources_composite_sobjects_collections_upsert.htm",
)

_API_VERSION: Final = "61.0"  # Collections upsert needs 46 [D]
_QUOTA_SHARE: Final = 0.95  # the organisation's other integrations share the day's quota
_QUOTA_PAUSE: Final = dt.timedelta(hours=1)  # the quota is a rolling day [M]: some calls come back every hour

# Codes of a record that may succeed later, unchanged; every other code is the record's own fault.
_ROW_WAITS: Final = {
    "UNABLE_TO_LOCK_ROW",  # [C]
    "REQUEST_LIMIT_EXCEEDED",  # [D]
    "SERVER_UNAVAILABLE",  # [D]
    "ALL_OR_NONE_OPERATION_ROLLED_BACK",  # [M]
    "UNKNOWN_EXCEPTION",  # [M]
}
_BUSY_TRIGGER: Final = "Too many SOQL queries"  # inside CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY: an overloaded trigger [C]
_NAME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")


_AUDIENCE: Final = "https://login.salesforce.com"  # [C]
_ASSERTION_LIFE: Final = dt.timedelta(minutes=3)  # [C]


def capabilities_of(action: str, settings: Mapping[str, Any]) -> Capabilities:
    """With the connection's own threshold of bulk. Raises :class:`DestinationConfigError` for one that is no number."""
    return bulk.with_threshold(CAPABILITIES, settings)


def connect(connection: Connection) -> SalesforceDestination:
    """A connector to the organisation. Raises :class:`DestinationConfigError`."""
    return SalesforceDestination(connection)


class SalesforceDestination(Connector):
    """One organisation. Signs in when first needed."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        self.capabilities = capabilities_of("upsert", connection.settings)
        self._patience = bulk.patience_of(connection.settings)
        host = connection.settings.get("my_domain")
        if connection.mode == "live" and not host:
            raise DestinationConfigError("a live Salesforce connection needs settings.my_domain, e.g. acme.my.salesforce.com")
        self._login = wire.base_url(connection, f"https://{host}")
        self._connection = connection
        self._grant = str(connection.settings.get("grant", "client_credentials"))
        if self._grant not in ("client_credentials", "jwt"):
            raise DestinationConfigError("settings.grant is client_credentials or jwt")
        wanted = ("client_id", "username", "private_key") if self._grant == "jwt" else ("client_id", "client_secret")
        self._secrets = wire.credentials(connection, *wanted)
        self._version = connection.settings.get("api_version", _API_VERSION)
        self._quota_share = float(connection.settings.get("quota_share", _QUOTA_SHARE))
        self._account = wire.account_of("salesforce", connection, self._login, CAPABILITIES.rates)
        self._wire = wire.Wire(connection, self._account, self._judge, self._sign_in)
        self._identity = wire.Wire(connection, self._account, wire.judge_sign_in)

    def close(self) -> None:
        self._wire.close()
        self._identity.close()

    # -- delivery ----------------------------------------------------------------------------------------------------

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Upsert one batch of one object. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        object, key_field = (wire.setting(action.settings, name) for name in ("object", "key_field"))
        flag_field = action.settings.get("flag_field")
        if not all(_NAME.match(name) for name in (object, key_field)):
            raise DestinationConfigError("object and key_field are API names")
        try:
            if self.jobs and self.jobs.open():
                self._ingest(self.jobs).end_open()
        except CallFailedError as error:
            return wire.failed(operations, error)
        writes, retracts, outcomes = wire.split(operations, flag_field)
        known = self.capabilities.bulk
        if known and self.jobs and len(writes) >= min(known.from_rows, known.batch_rows):
            done, writes = self._in_bulk(self.jobs, object, key_field, flag_field, writes)
            outcomes += done
        for start in range(0, len(writes), CAPABILITIES.batch_rows):
            outcomes += self._upsert(object, key_field, flag_field, writes[start : start + CAPABILITIES.batch_rows])
        outcomes += [self._retract(object, key_field, flag_field, operation) for operation in retracts]
        return outcomes

    def _upsert(self, object: str, key_field: str, flag_field: str | None, operations: Sequence[Operation]) -> list[Outcome]:
        records = [{"attributes": {"type": object}, **wire.record_of(o, key_field, flag_field)} for o in operations]
        try:
            items = self._patch(f"composite/sobjects/{object}/{key_field}", {"allOrNone": False, "records": records}, operations)
        except CallFailedError as error:
            return wire.failed(operations, error)
        if not isinstance(items, list) or len(items) != len(operations):
            return wire.failed(operations, CallFailedError("unknown", "answer_not_understood"))
        return [_row_outcome(operation, item) for operation, item in zip(operations, items, strict=True)]

    def _in_bulk(
        self, jobs: JobBook, object: str, key_field: str, flag_field: str | None, operations: Sequence[Operation]
    ) -> tuple[list[Outcome], list[Operation]]:
        """(outcomes, what is left for Collections: rows that CSV cannot say, and rows that the job did not come to)."""
        rows = [(o, wire.record_of(o, key_field, flag_field)) for o in operations]
        fitting = [(o, record) for o, record in rows if salesforce_bulk.fits(record)]
        if not fitting:
            return [], list(operations)
        outcomes, refused = self._ingest(jobs).upsert(object, key_field, fitting)
        return outcomes, [*refused, *(o for o, record in rows if not salesforce_bulk.fits(record))]

    def _ingest(self, jobs: JobBook) -> salesforce_bulk.IngestJobs:
        return salesforce_bulk.IngestJobs(self._api, jobs, _bulk_row_outcome, self._patience)

    def _retract(self, object: str, key_field: str, flag_field: str | None, operation: Operation) -> Outcome:
        """One row at a time: only the single-row resource can be told not to create [D]."""
        path = f"sobjects/{object}/{key_field}/{quote(operation.key, safe='')}?updateOnly=true"
        flag = {str(flag_field): False}
        try:
            self._patch(path, flag, [operation])
        except CallFailedError as error:
            if error.code == "404:NOT_FOUND":
                return Outcome(operation.id, "delivered", warning="nothing to retract: no such record")
            return error.outcome(operation)
        return Outcome(operation.id, "delivered")

    def _patch(self, path: str, body: Any, operations: Sequence[Operation]) -> Any:
        headers = {"Content-Type": "application/json", "Idempotency-Key": wire.idempotency_key(operations)}
        return wire.body_of(self._api("PATCH", path, writes=True, content=orjson.dumps(body), headers=headers))

    def _api(self, method: str, path: str, **request: Any) -> httpx.Response:
        self._wire.ready()
        return self._wire.call(method, f"{self._account.url}/services/data/v{self._version}/{path}", **request)

    # -- sign-in -----------------------------------------------------------------------------------------------------

    def _sign_in(self) -> str:
        form = {"grant_type": "client_credentials", **self._secrets} if self._grant != "jwt" else self._assertion()
        answer = wire.body_of(self._identity.call("POST", f"{self._login}/services/oauth2/token", writes=False, data=form)) or {}
        if not answer.get("access_token") or not answer.get("instance_url"):
            wire.wait("auth:answer_not_understood", wire.now() + wire.AFTER_A_LOOK)
        if self._connection.mode == "live" and f"/{self._connection.account[:15]}" not in str(answer.get("id", "")):
            raise DestinationConfigError("the credentials belong to another organisation than the account named")
        self._account.url = wire.fence(self._connection, answer["instance_url"])  # where every later call goes [D]
        return answer["access_token"]

    def _assertion(self) -> dict[str, str]:
        """A signed statement of who signs in, good for three minutes [C]. Raises :class:`DestinationConfigError` for a key that is none."""
        key = self._secrets["private_key"]
        if self._connection.mode == "sandbox":  # the twin looks at the claims; no live key goes to it
            made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            key = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        audience = str(self._connection.settings.get("audience", _AUDIENCE))
        claims = {"iss": self._secrets["client_id"], "sub": self._secrets["username"], "aud": audience}
        expires = int((wire.now() + _ASSERTION_LIFE).timestamp())
        try:
            signed = jwt.encode({**claims, "exp": expires}, key, algorithm="RS256")
        except (jwt.InvalidKeyError, ValueError, TypeError):
            signed = ""  # the library's error may hold the key
        if not signed:
            raise DestinationConfigError("credentials.private_key is no RSA key in PEM form")
        return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": signed}

    # -- answers -----------------------------------------------------------------------------------------------------

    def _judge(self, response: httpx.Response) -> None:
        if response.status_code in (200, 201, 204):
            self._watch_quota(response)
            return
        code = _code_of(response)
        if response.status_code == 401:
            raise TokenExpiredError(code)
        if code == "REQUEST_LIMIT_EXCEEDED" and response.status_code == 403:
            until = wire.now() + _QUOTA_PAUSE
            self._account.close_until(f"quota:{code}", until)
            wire.wait(f"quota:{code}", until)
        if response.status_code == 403:
            wire.wait(f"auth:{code}", wire.now() + wire.AFTER_A_LOOK)
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise TryAgainError(f"{response.status_code}:{code}", wire.retry_after(response))
        if _may_pass_later(code, _first_error(response)):  # of the one row that the call is about
            raise CallFailedError("waiting", f"{response.status_code}:{code}")
        wire.refuse(f"{response.status_code}:{code}")

    def _watch_quota(self, response: httpx.Response) -> None:
        """Close the account before the organisation's quota is gone, which would stop its other integrations too."""
        usage = re.search(r"api-usage=(\d+)/(\d+)", response.headers.get("sforce-limit-info", ""))
        if usage:
            exchanges.tell_quota(int(usage[1]), int(usage[2]))
        if usage and int(usage[1]) >= self._quota_share * int(usage[2]):
            self._account.close_until("quota:share", wire.now() + _QUOTA_PAUSE)


def _first_error(response: httpx.Response) -> dict[str, Any]:
    """The first top-level error. Messages stay here: they quote values."""
    body = wire.body_of(response)
    first = body[0] if isinstance(body, list) and body else None
    return first if isinstance(first, dict) else {}


def _code_of(response: httpx.Response) -> str:
    return str(_first_error(response).get("errorCode") or "NO_CODE")


def _row_outcome(operation: Operation, item: Any) -> Outcome:
    if not isinstance(item, dict):
        return Outcome(operation.id, "unknown", "answer_not_understood")
    if item.get("success"):
        return Outcome(operation.id, "delivered", remote_id=str(item.get("id", "")))
    errors = [e for e in item.get("errors", []) if isinstance(e, dict)]
    codes = [str(error.get("statusCode", "NO_CODE")) for error in errors] or ["NO_CODE"]
    names = sorted({str(name) for error in errors for name in error.get("fields", [])})
    reason = ", ".join(dict.fromkeys(codes)) + (f" ({', '.join(names)})" if names else "")
    if all(_may_pass_later(code, error) for code, error in zip(codes, errors or [{}], strict=True)):
        return CallFailedError("waiting", reason).outcome(operation)
    return Outcome(operation.id, "rejected", reason)


def _bulk_row_outcome(operation: Operation, code: str, message: str) -> Outcome:
    """Of a row of a job's failed results: code, and ``text:fields --`` [C]."""
    fields = message.rpartition(":")[2].removesuffix("--").split(",")
    names = [name.strip() for name in fields if _NAME.match(name.strip())]
    error = {"statusCode": code, "message": message, "fields": names}
    return _row_outcome(operation, {"success": False, "errors": [error]})


def _may_pass_later(code: str, error: dict[str, Any]) -> bool:
    busy = code == "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY" and _BUSY_TRIGGER in str(error.get("message", ""))
    return busy or code in _ROW_WAITS
