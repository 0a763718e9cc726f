"""The Google Analytics 4 twin: the Measurement Protocol of one data stream, and its validator.

``/mp/collect`` answers 204 to everything [C]; what the real one drops in silence is kept apart, as ``Dropped``, with the reason, so that a test
can see it. ``/debug/mp/collect`` says what is wrong and records nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from resources.sandbox import CLIENT_SECRET
from resources.sandbox.twin import Answer, Call, MalformedError, Twin

_MAX_EVENTS: Final = 25  # [M]
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_RESERVED: Final = re.compile(
    r"(_|firebase_|ga_|google_|gtag\.)|(first_open|first_visit|session_start|user_engagement|error|app_remove)$"
)
_HOURS: Final = 72  # [D]


class GoogleAnalyticsTwin(Twin):
    system = "google_analytics"
    title = "Google Analytics"
    limits = {"calls_per_second": 100_000}
    routes = (("POST", "/mp/collect", "collect"), ("POST", "/debug/mp/collect", "debug"))

    def handle(self, call: Call) -> Answer:
        return self.dispatch(call) or Answer(404)

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        # There is no throttle and no token that ends: only a server in trouble.
        return Answer(int(kind) if kind.isdigit() else 503)

    def collect(self, call: Call) -> Answer:
        try:
            body = call.json()
        except MalformedError:
            body = None
        problems = _problems(call, body)
        if call.arg("api_secret") != CLIENT_SECRET or not call.arg("measurement_id"):
            problems.append(("api_secret", "INVALID_SECRET", "the secret or the stream is not known"))
        if call.row_fails(body):
            problems.append(("events", "INTERNAL_ERROR", "dropped by plan"))
        said: dict[str, Any] = body if isinstance(body, dict) else {}
        given = said.get("events")
        events: list[Any] = given if isinstance(given, list) else [{}]
        about = {n: said[n] for n in ("client_id", "user_id", "timestamp_micros") if n in said}
        object = "Dropped" if problems else "Event"
        last = self.store.count(self.system, object, len(events))
        why = {"reason": problems[0][1]} if problems else {}
        documents = ((f"{last - len(events) + n:012}", {**about, **why, "event": event}) for n, event in enumerate(events, 1))
        self.store.put(self.system, object, documents, call.at)
        return Answer(204)

    def debug(self, call: Call) -> Answer:
        try:
            problems = _problems(call, call.json())
        except MalformedError:
            problems = [("", "VALUE_INVALID", "the body is not JSON")]
        return Answer(
            200, {"validationMessages": [{"fieldPath": f, "validationCode": c, "description": d} for f, c, d in problems]}
        )


def _problems(call: Call, body: Any) -> list[tuple[str, str, str]]:
    """(field, code, description) of what the protocol would not take."""
    if not isinstance(body, dict):
        return [("", "VALUE_INVALID", "the body is not an object")]
    found = []
    if not body.get("client_id"):
        found.append(("client_id", "VALUE_REQUIRED", "client_id is required"))
    micros = body.get("timestamp_micros")
    if micros is not None and not call.at.timestamp() - _HOURS * 3600 <= int(micros) / 1e6:
        found.append(("timestamp_micros", "VALUE_OUT_OF_BOUNDS", "older than three days"))
    events = body.get("events")
    if not isinstance(events, list) or not 1 <= len(events) <= _MAX_EVENTS:
        return [*found, ("events", "VALUE_INVALID", f"1 to {_MAX_EVENTS} events")]
    for event in events:
        name = event.get("name") if isinstance(event, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            found.append(("events.name", "NAME_INVALID", "the name has other characters or is too long"))
        elif _RESERVED.match(name):
            found.append(("events.name", "NAME_RESERVED", "the name is reserved"))
        params = event.get("params", {}) if isinstance(event, dict) else {}
        if len(params) > 25 or any(v is None or (isinstance(v, list | dict) and k != "items") for k, v in params.items()):
            found.append(("events.params", "VALUE_INVALID", "a parameter is not a plain value, or there are too many"))
        elif any(isinstance(value, str) and len(value) > 100 for value in params.values()):
            found.append(("events.params", "EXCEEDED_MAX_LENGTH", "a value is longer than 100"))
    return found


def create(store: Any) -> Twin:
    """The twin over a store."""
    return GoogleAnalyticsTwin(store)
