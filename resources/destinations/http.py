"""What every HTTP connector shares: the mode fence, pacing and quotas per account, short retries, tokens, and classes of failure.

A connector says *what* an answer means (its ``judge``); this module does what follows from it. Nothing here knows a system.
Exceptions carry codes only: httpx's own messages hold URLs, and URLs hold e-mail addresses and tokens.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import functools
import hashlib
import ipaddress
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, cast
from urllib.parse import urlsplit

import httpx
import tenacity
from pyrate_limiter import InMemoryBucket, Rate, RateItem

from resources.destinations import Connection, DestinationConfigError, Operation, Outcome, RateLimit, Status, exchanges
from resources.sandbox import CLIENT_ID, CLIENT_SECRET

RETRY_SECONDS: Final = 4.0  # all tries of one call together; longer waits are the next sync's
LONGEST_PAUSE: Final = 3.0  # a Retry-After up to this long is slept through
LONGEST_PACE: Final = 70.0  # and a full rate window up to this long: windows are of seconds or a minute, or else of an hour
TIMEOUT_SECONDS: Final = 30.0
SOON: Final = dt.timedelta(minutes=1)
AFTER_A_LOOK: Final = dt.timedelta(minutes=15)  # a person has to do something: credentials, permissions

# httpx logs every URL at INFO.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def now() -> dt.datetime:
    """The clock of throttles and quotas, which are the destination's and follow real time whatever the sync's as_of."""
    return dt.datetime.now(dt.UTC)


# -- failures ---------------------------------------------------------------------------------------------------------


class CallFailedError(Exception):
    """A call, or a record, that did not succeed: its class and a code. The message never holds a URL, a body or a value."""

    def __init__(self, status: Status, code: str, not_before: dt.datetime | None = None, maybe_applied: bool = False) -> None:
        super().__init__(code)
        self.status, self.code, self.not_before, self.maybe_applied = status, code, not_before, maybe_applied

    def outcome(self, operation: Operation) -> Outcome:
        not_before = (self.not_before or now() + SOON) if self.status == "waiting" else None
        return Outcome(operation.id, self.status, self.code, not_before)


class TryAgainError(Exception):
    """The system asks for another try soon. ``not_before``: what to answer when the short tries are used up."""

    def __init__(self, code: str, retry_after: float | None = None, not_before: dt.datetime | None = None) -> None:
        super().__init__(code)
        self.code, self.retry_after, self.not_before = code, retry_after, not_before


class TokenExpiredError(Exception):
    """The system's own sign that the token is no longer good."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def refuse(code: str) -> NoReturn:
    """The request or record is wrong and stays wrong."""
    raise CallFailedError("rejected", code)


def wait(code: str, until: dt.datetime) -> NoReturn:
    """Nothing was done; there is no use in trying before ``until``."""
    raise CallFailedError("waiting", code, until)


# -- mode fence -------------------------------------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def fence(connection: Connection, url: str) -> str:
    """The URL without a trailing slash, if the connection's mode may talk to it. Raises :class:`DestinationConfigError`.

    Every host goes through here, also one that a system names in an answer.
    """
    host = urlsplit(url).hostname or ""
    if connection.mode == "sandbox":
        if not is_loopback(host):
            raise DestinationConfigError("a sandbox connection talks to loopback only")
    elif is_loopback(host) or urlsplit(url).scheme != "https":
        raise DestinationConfigError("a live connection talks to a remote host over https only")
    return url.rstrip("/")


def base_url(connection: Connection, live: str) -> str:
    """Where to send: the twin's URL, or the live one. Raises :class:`DestinationConfigError` for a mode that is not complete."""
    if connection.mode == "sandbox":
        if not connection.base_url:
            raise DestinationConfigError("a sandbox connection needs the twin's base_url")
        return fence(connection, connection.base_url)
    if not connection.account:
        raise DestinationConfigError("a live connection needs the account that it may write to")
    return fence(connection, connection.base_url or live)


def credentials(connection: Connection, *names: str) -> dict[str, str]:
    """The named secrets; in sandbox mode always the twins' public pair, so that a live secret never goes to a twin.

    Raises :class:`DestinationConfigError` naming what is missing.
    """
    if connection.mode == "sandbox":
        public = {"client_id": CLIENT_ID, "username": CLIENT_ID}
        return {name: public.get(name, CLIENT_SECRET) for name in names}
    if missing := [name for name in names if not connection.credentials.get(name)]:
        raise DestinationConfigError(f"credentials are missing: {', '.join(missing)}")
    return {name: connection.credentials[name] for name in names}


# -- accounts ---------------------------------------------------------------------------------------------------------


@dataclass
class Account:
    """What all connectors to one account share in this process: its pace, its token, and until when it is closed."""

    bucket: InMemoryBucket | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    one_at_a_time: threading.RLock = field(default_factory=threading.RLock)
    closed_until: dt.datetime | None = None
    closed_code: str = ""
    token: str | None = None
    url: str | None = None

    def close_until(self, code: str, until: dt.datetime) -> None:
        """No call before ``until``: a quota is used up, or the system asked for a long pause."""
        with self.lock:
            self.closed_code, self.closed_until = code, until

    def enter(self) -> None:
        """Take a place in the rate window, after a pause if need be. Raises :class:`CallFailedError` (waiting) where it would be long."""
        while (pause := self._place()) > 0:
            time.sleep(pause)

    def _place(self) -> float:
        """0 when a place was taken, else the seconds after which to ask again. Raises where that is too long."""
        with self.lock:
            if self.closed_until is not None and now() < self.closed_until:
                wait(self.closed_code, self.closed_until)
            self.closed_until = None
            if self.bucket is None:
                return 0.0
            item = RateItem("call", self.bucket.now())
            self.bucket.leak(item.timestamp)
            if self.bucket.put(item):
                return 0.0
            seconds = cast(int, self.bucket.waiting(item)) / 1000 + 0.01
            if seconds > LONGEST_PACE:
                self.close_until("paced", now() + dt.timedelta(seconds=seconds))
                wait("paced", now() + dt.timedelta(seconds=seconds))
            return seconds


_accounts: dict[tuple[str, ...], Account] = {}
_accounts_lock = threading.Lock()


def account_of(kind: str, connection: Connection, url: str, rates: Sequence[RateLimit]) -> Account:
    """The shared account behind a connection; the first one to ask sets its pace."""
    with _accounts_lock:
        key = (kind, connection.account, url)
        if key not in _accounts:
            bucket = InMemoryBucket([Rate(rate.calls, int(rate.seconds * 1000)) for rate in rates]) if rates else None
            _accounts[key] = Account(bucket)
        return _accounts[key]


# -- calls ------------------------------------------------------------------------------------------------------------

Judge = Callable[[httpx.Response], None]
"""Raises what an answer means when it is not a result: CallFailedError, TryAgainError or TokenExpiredError."""


@functools.cache
def _trust() -> ssl.SSLContext:
    """The trusted authorities. Reading them takes longer than a small batch, so once per process."""
    return httpx.create_ssl_context()


class Wire:
    """Calls to one account. ``judge`` reads each answer; a new token comes from ``sign_in`` and is shared by the account."""

    def __init__(
        self,
        connection: Connection,
        account: Account,
        judge: Judge,
        sign_in: Callable[[], str] | None = None,
        token_header: tuple[str, str] = ("Authorization", "Bearer {}"),
    ) -> None:
        settings = connection.settings
        self.account = account
        self._judge, self._sign_in, self._token_header = judge, sign_in, token_header
        self._retry_seconds = float(settings.get("retry_seconds", RETRY_SECONDS))
        self._client = httpx.Client(
            timeout=float(settings.get("timeout_seconds", TIMEOUT_SECONDS)),
            verify=_trust(),
            # Proxy settings of the environment must not carry a sandbox's traffic off this machine.
            trust_env=connection.mode == "live",
            headers={"Accept": "application/json"},
            # Servers close idle connections after some seconds; a fresh one is cheaper than an ambiguous loss.
            limits=httpx.Limits(keepalive_expiry=2.0),
        )

    def close(self) -> None:
        self._client.close()

    def ready(self) -> None:
        """Sign in if nobody has: some systems say only then where to send. Raises :class:`CallFailedError`."""
        self._token()

    def call(
        self, method: str, url: str, *, writes: bool, resend: bool = True, judge: Judge | None = None, **request: Any
    ) -> httpx.Response:
        """One call with sign-in, pace and short retries. Raises :class:`CallFailedError` for anything but a result.

        ``writes``: no answer then means unknown, not merely failed. ``resend``: a server error may be followed by the same
        request at once; without it only refusals that came before any work (throttles) are tried again.
        """
        if self._sign_in is None:
            return self._send(method, url, writes, resend, judge or self._judge, request)
        token = self._token()
        try:
            return self._send(method, url, writes, resend, judge or self._judge, self._with_token(request, token))
        except TokenExpiredError:
            self._forget(token)
        try:
            return self._send(method, url, writes, resend, judge or self._judge, self._with_token(request, self._token()))
        except TokenExpiredError as error:
            code = error.code
        wait(f"auth:{code}", now() + AFTER_A_LOOK)

    def _token(self) -> str:
        with self.account.lock:  # one refresh at a time; the others wait for it and use its token
            if self.account.token is None:
                assert self._sign_in is not None
                self.account.token = self._sign_in()
            return self.account.token

    def _forget(self, token: str) -> None:
        with self.account.lock:
            if self.account.token == token:
                self.account.token = None

    def _with_token(self, request: Mapping[str, Any], token: str) -> dict[str, Any]:
        name, form = self._token_header
        return {**request, "headers": {**request.get("headers", {}), name: form.format(token)}}

    def _send(
        self, method: str, url: str, writes: bool, resend: bool, judge: Judge, request: Mapping[str, Any]
    ) -> httpx.Response:
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda e: isinstance(e, TryAgainError) and (e.retry_after or 0) <= LONGEST_PAUSE and (resend or e.code[:1] != "5")
            ),
            wait=_pause,
            stop=tenacity.stop_before_delay(self._retry_seconds),
            reraise=True,
        )
        try:
            return tries(self._once, method, url, writes, judge, request)
        except TryAgainError as error:
            failure = error
        asked = now() + dt.timedelta(seconds=failure.retry_after or 0)
        until = max(asked, failure.not_before or now() + SOON)
        if (failure.retry_after or 0) > LONGEST_PAUSE:
            self.account.close_until(failure.code, until)
        raise CallFailedError("waiting", failure.code, until, maybe_applied=writes and failure.code[:1] == "5")

    def _once(self, method: str, url: str, writes: bool, judge: Judge, request: Mapping[str, Any]) -> httpx.Response:
        self.account.enter()
        failure: Exception
        auth = request.get("auth", httpx.USE_CLIENT_DEFAULT)
        asked = self._client.build_request(method, url, **{name: value for name, value in request.items() if name != "auth"})
        response: httpx.Response | None = None
        try:
            response = self._client.send(asked, auth=auth)
            judge(response)
            return response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            failure = TryAgainError("not_connected")
        except httpx.TimeoutException:
            failure = _lost("no_answer", writes)
        except httpx.HTTPError:
            failure = _lost("connection_lost", writes)
        finally:
            exchanges.count_call()
            exchanges.saw_http(asked, response)
        # Raised outside of the handler, so that httpx's exception with its URL is not kept as context.
        raise failure


def _lost(code: str, writes: bool) -> Exception:
    """A call without an answer: a write may have been carried out; a read can be asked again."""
    return CallFailedError("unknown", code, maybe_applied=True) if writes else TryAgainError(code)


def _pause(state: tenacity.RetryCallState) -> float:
    """As long as the system asked, else exponential with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgainError) and error.retry_after is not None:
        return error.retry_after
    return tenacity.wait_exponential_jitter(initial=0.2, max=2.0, jitter=0.2)(state)


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header, in either of its forms; None without a readable one."""
    value = response.headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - now()).total_seconds())
    except (ValueError, TypeError):
        return None


def body_of(response: httpx.Response) -> Any:
    """The JSON body, or None where there is none."""
    try:
        return response.json()
    except ValueError:
        return None


def judge_status(response: httpx.Response) -> None:
    """The :data:`Judge` of a system whose status says all: 2xx is a result, busy ones are tried again, 401 and 403 wait for a person."""
    status = response.status_code
    if response.is_success:
        return
    if status in (408, 429) or status >= 500:
        raise TryAgainError(str(status), retry_after(response))
    if status in (401, 403):
        wait(f"auth:{status}", now() + AFTER_A_LOOK)
    refuse(str(status))


def judge_sign_in(response: httpx.Response) -> None:
    """The :data:`Judge` of an OAuth token endpoint: busy ones are tried again, a refusal waits for a person."""
    if response.status_code == 200:
        return
    if response.status_code == 429 or response.status_code >= 500:
        raise TryAgainError(f"{response.status_code}:sign_in", retry_after(response))
    body = body_of(response)
    code = body.get("error") if isinstance(body, dict) else None
    wait(f"auth:{code or response.status_code}", now() + AFTER_A_LOOK)


# -- operations -------------------------------------------------------------------------------------------------------


def setting(settings: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A setting of the action. Raises :class:`DestinationConfigError` when it is missing and has no default."""
    value = settings.get(name, default)
    if value is None:
        raise DestinationConfigError(f"the action needs the setting {name!r}")
    return value


def record_of(operation: Operation, key_field: str, flag_field: str | None) -> dict[str, Any]:
    """The destination record of an operation: payload, key, and the membership flag where there is one.

    A retract carries key and flag only, whatever the payload says.
    """
    if operation.kind == "retract":
        return {key_field: operation.key, str(flag_field): False}
    flag = {flag_field: operation.kind != "exit"} if flag_field and flag_field not in operation.payload else {}
    return {**operation.payload, key_field: operation.key, **flag}


def idempotency_key(operations: Iterable[Operation]) -> str:
    """Names a batch by its messages: the same messages again give the same key. No system acts on it; logs can be joined by it."""
    return hashlib.sha256("\n".join(sorted(o.message_id for o in operations)).encode()).hexdigest()[:32]


def failed(operations: Iterable[Operation], error: CallFailedError) -> list[Outcome]:
    """The same outcome for all."""
    return [error.outcome(operation) for operation in operations]


def by_halves(operations: Sequence[Operation], send: Callable[[Sequence[Operation]], list[Outcome]]) -> list[Outcome]:
    """What ``send`` says of all; where it refuses them as a whole, of each half, until the record at fault stands alone.

    For calls that may be repeated: the good ones are sent again with each half. ``send`` raises :class:`CallFailedError`.
    """
    if not operations:
        return []
    try:
        return send(operations)
    except CallFailedError as error:
        if error.status != "rejected" or len(operations) == 1:
            return failed(operations, error)
    middle = len(operations) // 2
    return [*by_halves(operations[:middle], send), *by_halves(operations[middle:], send)]


def split(operations: Sequence[Operation], flag_field: str | None) -> tuple[list[Operation], list[Operation], list[Outcome]]:
    """(to write, to retract, outcomes of retracts that cannot be carried out for want of a flag field)."""
    writes = [o for o in operations if o.kind != "retract"]
    retracts = [o for o in operations if o.kind == "retract"]
    if retracts and not flag_field:
        return writes, [], [Outcome(o.id, "rejected", "config:flag_field is missing, nothing to retract with") for o in retracts]
    return writes, retracts, []
