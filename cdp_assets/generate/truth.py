"""Who is who, as the company cannot see it: the true person of every identifier, and what follows from what was received.

Messages come in received order. The rules here are those of the demo's own world (devices are claimed once, a customer has
one user id, addresses are never shared), so they need no general identity resolution; tests compare the pipeline with them.
All times in the file are received times, ISO-8601 UTC.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from cdp_assets.generate.behaviour import BLOCKED_ID, Message
from cdp_assets.generate.people import CATEGORIES, MAX_DEVICES, Person, iso

TRAITS_OF_INTEREST = ("email", "first_name", "last_name")


class Truth:
    """The content of ``truth.json``.

    ``persons``: by id, with identifiers, since when the person is known, traits and consent over time, and entities; ``parts`` are
    the identifiers of the person's messages, those together that messages of this person connect.
    ``identifiers``: type, value, the true person, since when it is attached to the person's profile (null: never).
    ``devices``: by anonymous id, when it was first seen alone, when it was linked and to whom, whether a profile of its own merged.
    ``files``: by landing file, lines, duplicates and malformed lines by kind. ``totals``: the same, summed.
    """

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.document = document or {
            "persons": {},
            "identifiers": [],
            "devices": {},
            "merges": [],
            "refused": 0,
            "unresolved": 0,
            "files": {},
            "totals": {"lines": 0, "accepted": 0, "duplicates": 0, "malformed": {}},
            "events": {},
        }
        self.persons: dict[str, dict[str, Any]] = self.document["persons"]
        self.devices: dict[str, dict[str, Any]] = self.document["devices"]
        self._attached = {(i["type"], i["value"]): i for i in self.document["identifiers"]}
        self._device_counts: dict[str, int] = {}
        for device in self.devices.values():
            if device["linked_to"]:
                self._device_counts[device["linked_to"]] = self._device_counts.get(device["linked_to"], 0) + 1

    @classmethod
    def read(cls, path: Path) -> Truth:
        return cls(orjson.loads(path.read_bytes()))

    def write(self, path: Path) -> None:
        self.document["identifiers"] = sorted(self._attached.values(), key=lambda i: (i["type"], i["value"]))
        path.write_bytes(orjson.dumps(self.document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))

    # -- people ------------------------------------------------------------------------------------------------

    def describe(self, person: Person) -> None:
        """Record a person and all identifiers, attached or not yet."""
        entry = self.persons.setdefault(
            person.id,
            {
                "known_at": None,
                "traits": [],
                "consent": [],
                "entities": {},
                "kind": person.kind,
                "user_id": person.user_id,
                "parts": [],
            },
        )
        entry.update(
            first_name=person.first_name, last_name=person.last_name, phone=person.phone, emails=list(person.emails), email=None
        )
        entry["email"] = person.emails[-1] if person.emails else None
        if person.user_id:
            self._identifier("user_id", person.user_id, person.id)
        for email in person.emails:
            self._identifier("email", email, person.id)
        for device in person.devices:
            self._device(device.anonymous_id)
            self._identifier("anonymous_id", device.anonymous_id, person.id)

    def _identifier(self, kind: str, value: str, person: str) -> dict[str, Any]:
        return self._attached.setdefault((kind, value), {"type": kind, "value": value, "person": person, "known_at": None})

    def _device(self, anonymous_id: str) -> dict[str, Any]:
        return self.devices.setdefault(
            anonymous_id, {"alone_at": None, "linked_at": None, "linked_to": None, "merged": False, "refused": 0, "consent": []}
        )

    # -- messages ----------------------------------------------------------------------------------------------

    def observe(self, message: Message) -> None:
        """Take in one accepted message, in received order."""
        body = message.body
        name = {"page": "Page Viewed", "screen": "Screen Viewed"}.get(body["type"], body.get("event", body["type"]))
        self.document["events"][name] = self.document["events"].get(name, 0) + 1
        anonymous = None if message.anonymous_id == BLOCKED_ID else message.anonymous_id
        at = iso(message.received)
        self._connect(message, anonymous)
        if message.user_id or message.email:
            assert message.person is not None
            self._known(message, at)
            if anonymous:
                self._link(message.person, anonymous, at)
            self._consent(self.persons[message.person]["consent"], message.consent, at)
            return
        if anonymous is None:
            self.document["unresolved"] += 1
            return
        device = self._device(anonymous)
        if device["linked_to"]:
            self._consent(self.persons[device["linked_to"]]["consent"], message.consent, at)
        else:
            device["alone_at"] = device["alone_at"] or at
            self._consent(device["consent"], message.consent, at)

    def _connect(self, message: Message, anonymous_id: str | None) -> None:
        """Identifiers of one message belong together, as far as its true person goes."""
        given = {"user_id": message.user_id, "email": message.email, "anonymous_id": anonymous_id}
        together = [[kind, value] for kind, value in given.items() if value]
        if message.person is None or not together:
            return
        entry = self.persons[message.person]
        touched = [part for part in entry["parts"] if any(identifier in part for identifier in together)]
        if len(touched) == 1 and all(identifier in touched[0] for identifier in together):
            return
        rest = [part for part in entry["parts"] if part not in touched]
        joined = sorted({tuple(identifier) for part in (together, *touched) for identifier in part})
        entry["parts"] = sorted([*rest, [list(identifier) for identifier in joined]])

    def _known(self, message: Message, at: str) -> None:
        person = self.persons[message.person or ""]
        self._existed = person["known_at"] is not None
        person["known_at"] = person["known_at"] or at
        for kind, value in (("user_id", message.user_id), ("email", message.email)):
            if value:
                identifier = self._identifier(kind, value, message.person or "")
                identifier["known_at"] = identifier["known_at"] or at
        if message.traits:
            wanted = {name: message.traits[name] for name in TRAITS_OF_INTEREST if name in message.traits}
            last = {name: value for name, value in person["traits"][-1].items() if name != "at"} if person["traits"] else {}
            if {**last, **wanted} != last:
                person["traits"].append({"at": at, **last, **wanted})

    def _link(self, person: str, anonymous_id: str, at: str) -> None:
        device = self._device(anonymous_id)
        if device["linked_to"] == person:
            return
        if device["linked_to"] or self._device_counts.get(person, 0) >= MAX_DEVICES:
            device["refused"] += 1
            self.document["refused"] += 1
            return
        self._device_counts[person] = self._device_counts.get(person, 0) + 1
        device.update(linked_to=person, linked_at=at)
        self._identifier("anonymous_id", anonymous_id, person).update(known_at=at, person=person)
        if not device["alone_at"]:
            return
        mine = self.persons[person]["consent"]
        if self._existed:
            device["merged"] = True
            self.document["merges"].append({"at": at, "anonymous_id": anonymous_id, "person": person})
            if mine and device["consent"]:
                self._merge_consent(mine, device["consent"][-1]["state"], at)
        if not mine and device["consent"]:
            self._set(mine, device["consent"][-1]["state"], at)

    def _merge_consent(self, mine: list[dict[str, Any]], other: dict[str, str], at: str) -> None:
        current = mine[-1]["state"]
        self._set(mine, {c: current[c] if current[c] == other[c] else "conflict" for c in CATEGORIES}, at)

    def _consent(self, timeline: list[dict[str, Any]], stated: dict[str, bool] | None, at: str) -> None:
        if stated is not None:
            self._set(timeline, {c: "true" if stated.get(c, False) else "false" for c in CATEGORIES}, at)

    @staticmethod
    def _set(timeline: list[dict[str, Any]], state: dict[str, str], at: str) -> None:
        if timeline and timeline[-1]["at"] == at:
            timeline.pop()
        if not timeline or timeline[-1]["state"] != state:
            timeline.append({"at": at, "state": state})

    # -- files -------------------------------------------------------------------------------------------------

    def file(self, name: str, lines: int, duplicates: int, malformed: dict[str, int]) -> None:
        """Record what a landing file holds, and add it to the totals."""
        accepted = lines - duplicates - sum(malformed.values())
        self.document["files"][name] = {"lines": lines, "accepted": accepted, "duplicates": duplicates, "malformed": malformed}
        totals = self.document["totals"]
        totals["lines"] += lines
        totals["accepted"] += accepted
        totals["duplicates"] += duplicates
        for kind, count in malformed.items():
            totals["malformed"][kind] = totals["malformed"].get(kind, 0) + count
