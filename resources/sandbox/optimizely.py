"""The Optimizely Data Platform twin: profiles of one account.

A profile is found by any of its identifiers. A call with one bad object is refused as a whole. Both forms of an object that public scripts
show are taken: identifiers and attributes apart, or everything among the attributes; the vendor's pages do not show the body [M].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from resources.sandbox import CLIENT_SECRET
from resources.sandbox.twin import Answer, Call, MalformedError, Twin

_MAX_OBJECTS: Final = 500  # [D]
_IDENTIFIERS: Final = ("email", "vuid", "customer_id", "phone", "fs_user_id")


class OptimizelyTwin(Twin):
    system = "optimizely"
    title = "Optimizely"
    limits = {"calls_per_second": 10}
    routes = (("POST", "/v3/profiles", "profiles"), ("GET", "/v3/profiles", "read"))

    def handle(self, call: Call) -> Answer:
        if call.headers.get("x-api-key") != CLIENT_SECRET:
            return _error(403, "Forbidden")
        if self.store.count(self.system, f"second {call.at:%Y-%m-%dT%H:%M:%S}") > self.limit("calls_per_second"):
            return _error(429, "Too Many Requests")
        try:
            return self.dispatch(call) or _error(404, "Not Found")
        except MalformedError:
            return _error(400, "Bad Request")

    def refuse(self, call: Call, kind: str, plan: Mapping[str, Any]) -> Answer:
        codes = {"429": 429, "quota_exhausted": 429, "expired_token": 403}
        return _error(codes.get(kind) or int(kind), kind)

    def profiles(self, call: Call) -> Answer:
        body = call.json()
        given = body if isinstance(body, list) else [body]
        if not 1 <= len(given) <= _MAX_OBJECTS:
            return _error(400, f"At most {_MAX_OBJECTS} objects")
        profiles = [_profile(item) for item in given]
        if any(profile is None or call.row_fails(item) for profile, item in zip(profiles, given, strict=True)):
            return _error(400, "Bad Request")
        for profile in profiles:
            if profile is not None:
                self._merge(call, *profile)
        return Answer(202, {"title": "Accepted", "status": 202, "timestamp": call.at.isoformat()})

    def _merge(self, call: Call, identifiers: dict[str, Any], attributes: dict[str, Any]) -> None:
        known = None
        for name, value in identifiers.items():
            found = self.store.find(self.system, "profiles", name, [value])
            known = known or next((group[0] for group in found.values() if group), None)
        id = known.id if known else f"{self.store.count(self.system, 'profiles'):012}"
        fields = {**(known.fields if known else {}), **identifiers, **attributes}
        self.store.put(self.system, "profiles", [(id, {n: v for n, v in fields.items() if v is not None})], call.at)

    def read(self, call: Call) -> Answer:
        for name in _IDENTIFIERS:
            if call.arg(name):
                found = self.store.find(self.system, "profiles", name, [call.arg(name)])
                record = next((group[0] for group in found.values() if group), None)
                return Answer(200, {"attributes": record.fields}) if record else _error(404, "Not Found")
        return _error(400, "Bad Request")


def _profile(item: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(identifiers, attributes) of an object; None for a bad one."""
    if not isinstance(item, dict) or set(item) - {"identifiers", "attributes"}:
        return None
    attributes = dict(item.get("attributes") or {})
    identifiers = {**{n: attributes.pop(n) for n in _IDENTIFIERS if n in attributes}, **(item.get("identifiers") or {})}
    identifiers = {name: value for name, value in identifiers.items() if value not in (None, "")}
    if not identifiers or set(identifiers) - set(_IDENTIFIERS):
        return None
    if "email" in identifiers and "@" not in str(identifiers["email"]):
        return None
    return None if any(isinstance(value, list | dict) for value in attributes.values()) else (identifiers, attributes)


def _error(status: int, title: str) -> Answer:
    return Answer(status, {"title": title, "status": status, "detail": {}})


def create(store: Any) -> Twin:
    """The twin over a store."""
    return OptimizelyTwin(store)
