"""What people do: visits as Segment-spec messages, each with the true person behind it.

A visit begins anonymously where the person has no session on the device, signs in (or signs up) with an identify call that
carries the person's traits, and goes on signed in. Every message carries the person's consent as it is then, but for those
that could reach another profile (devices that are not private), late ones and those of the company's own servers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from cdp_assets.generate.people import HOUR, SUBSCRIBER, VISITOR, Device, Person, iso, random_id

BLOCKED_ID = "00000000-0000-0000-0000-000000000000"
CONSENT_EVENT = "Segment Consent Preference Updated"
VISIT_MS = HOUR // 3  # the longest visit

NORMAL, CONSENT, CONFLICT, NEW_EMAIL, NEW_NAME = "normal", "consent", "conflict", "new_email", "new_name"


@dataclass(frozen=True)
class Action:
    """Something done, of a data model: a call's type, its name, and its properties (traits for group calls)."""

    type: str
    name: str
    properties: dict[str, Any]
    group_id: str | None = None


class Actions(Protocol):
    """What a data model says about behaviour."""

    def browse(self, rng: random.Random) -> Action: ...

    def use(self, rng: random.Random, person: Person) -> Action: ...

    def contact(self, rng: random.Random) -> Action: ...

    def traits(self, person: Person) -> dict[str, Any]: ...


@dataclass
class Message:
    """A message as sent, with what the truth needs to know of it. ``person`` is the true one; None for nobody."""

    received: int
    body: dict[str, Any]
    person: str | None
    user_id: str | None
    anonymous_id: str | None
    email: str | None = None
    traits: dict[str, Any] | None = None
    consent: dict[str, bool] | None = None


class Visit:
    """Builds the messages of one visit. ``until``: no message is received at or after it."""

    def __init__(self, rng: random.Random, person: Person | None, device: Device, start: int, until: int) -> None:
        self._rng, self._person, self._device, self._now, self._until = rng, person, device, start, until
        self.messages: list[Message] = []
        self.silent = False  # no consent on any message

    def send(
        self,
        kind: str,
        *,
        name: str | None = None,
        properties: dict[str, Any] | None = None,
        traits: dict[str, Any] | None = None,
        signed_in: bool = False,
        anonymous: bool = True,
        consent: bool = True,
        prompt: bool = False,
        late: int = 0,
        group_id: str | None = None,
        previous_id: str | None = None,
    ) -> None:
        """One message. ``prompt``: never delayed on its way; ``late``: milliseconds that it waited on the device."""
        rng, person, device = self._rng, self._person, self._device
        self._now += rng.randrange(2_000, 45_000)
        sent = self._now + rng.randrange(0, 1_500)
        delay = rng.randrange(60_000, 600_000) if not prompt and rng.random() < 0.02 else rng.randrange(40, 900)
        received = min(sent + delay, self._until - 1 - rng.randrange(1_000))
        skew = device.skew_ms
        user_id = person.user_id if person and signed_in else None
        anonymous_id = device.anonymous_id if anonymous else None
        body: dict[str, Any] = {"type": kind, "messageId": random_id(rng)}
        if kind == "track":
            body["event"] = name
        elif name is not None:
            body["name"] = name
        if user_id:
            body["userId"] = user_id
        if anonymous_id:
            body["anonymousId"] = anonymous_id
        if group_id:
            body["groupId"] = group_id
        if previous_id:
            body["previousId"] = previous_id
        if properties is not None:
            body["properties"] = properties
        if traits is not None:
            body["traits"] = traits
        context: dict[str, Any] = {"library": _library(device, anonymous)}
        if kind == "page" and properties:
            context["page"] = {"path": properties.get("path", "/")}
        known = user_id is not None or (traits is not None and "email" in traits)
        stated = None
        if consent and not self.silent and person and person.consent is not None and (known or device.private):
            stated = dict(person.consent)
            context["consent"] = {"categoryPreferences": stated}
        body["context"] = context
        body["originalTimestamp"] = iso(self._now + skew - late)
        body["sentAt"] = iso(sent + skew)
        body["receivedAt"] = iso(received)
        body["timestamp"] = iso(received - (sent - self._now + late))
        email = traits.get("email") if kind == "identify" and traits else None
        self.messages.append(
            Message(
                received,
                body,
                person.id if person else None,
                user_id,
                anonymous_id,
                email,
                traits if kind == "identify" else None,
                stated,
            )
        )

    def act(self, action: Action, **how: Any) -> None:
        if action.type == "group":
            self.send("group", traits=action.properties, group_id=action.group_id, **how)
        else:
            self.send(action.type, name=action.name, properties=action.properties, **how)


def _library(device: Device, client: bool) -> dict[str, str]:
    if not client:
        return {"name": "analytics-python", "version": "2.3.4"}
    return {"name": "analytics-ios" if device.mobile else "analytics.js", "version": "4.1.8" if device.mobile else "2.1.0"}


def visit(
    rng: random.Random, model: Actions, person: Person, kind: str, window: tuple[int, int], *, start: int | None = None
) -> list[Message]:
    """One visit of a person within the window, and what it changes about the person (session, sign-up, consent, address)."""
    first, until = window
    latest = max(first, until - VISIT_MS)
    begin = rng.randrange(first, latest + 1) if start is None else min(max(start, first), latest)
    device = _device(rng, person, kind)
    visit = Visit(rng, person, device, begin, until)
    if person.kind == VISITOR:
        _browse(visit, rng, model, 1 + rng.randrange(5))
    elif person.kind == SUBSCRIBER:
        _browse(visit, rng, model, rng.randrange(4))
        if device.anonymous_id not in person.signed_in:
            visit.send("identify", traits={"email": person.email, "newsletter": True}, prompt=True)
            person.signed_in.append(device.anonymous_id)
    elif person.new and not person.signed_up and begin < (person.signs_up_at or 0):
        _browse(visit, rng, model, 1 + rng.randrange(4))
        if device.private and device.anonymous_id not in person.signed_in and rng.random() < 0.15:
            visit.send("identify", traits={"email": person.email, "newsletter": True}, prompt=True)
    else:
        _signed_in(visit, rng, model, person, device, kind)
    return visit.messages


def _device(rng: random.Random, person: Person, kind: str) -> Device:
    if kind == CONFLICT:
        return person.devices[-1]
    return person.devices[0] if rng.random() < 0.6 else rng.choice(person.devices)


def _browse(visit: Visit, rng: random.Random, model: Actions, count: int) -> None:
    for _ in range(count):
        visit.act(model.browse(rng))


def _signed_in(visit: Visit, rng: random.Random, model: Actions, person: Person, device: Device, kind: str) -> None:
    session = device.anonymous_id in person.signed_in
    if kind == CONFLICT:
        # The banner on an unknown device was answered otherwise, and signing in carries no answer: the profiles that merge disagree.
        assert person.consent is not None
        before = dict(person.consent)
        person.consent = {category: not wanted for category, wanted in before.items()}
        _browse(visit, rng, model, 2)
        person.consent = before
        visit.silent = True
    elif not session:
        _browse(visit, rng, model, rng.randrange(3))
    if kind == NEW_NAME:
        person.last_name = f"{person.last_name}-{rng.choice(('Adebayo', 'Lindqvist', 'Trevelyan', 'Okonkwo'))}"
    if kind == NEW_EMAIL:
        local, _, domain = person.email.partition("@")
        person.emails.append(f"{local}.new@{domain}")
    if not session or kind in (NEW_NAME, NEW_EMAIL):
        visit.send("identify", traits=model.traits(person), signed_in=True, prompt=True)
        if not session:
            person.signed_in.append(device.anonymous_id)
        if rng.random() < 0.03:
            visit.send("alias", previous_id=device.anonymous_id, signed_in=True)
    if not person.signed_up:
        person.signed_up = True
        if person.new:
            visit.send("track", name="Signed Up", properties={"method": rng.choice(("web", "app"))}, signed_in=True)
    if kind == CONSENT:
        visit.send("track", name=CONSENT_EVENT, signed_in=True, prompt=True)
    visit.send("track", name="Login", properties={"channel": "app" if device.mobile else "web"}, signed_in=True)
    for _ in range(1 + rng.randrange(9)):
        _one_use(visit, rng, model, person, device, session)
    if rng.random() < 0.08:
        visit.act(model.contact(rng), signed_in=True, anonymous=False, consent=False)  # from the company's own servers


def _one_use(visit: Visit, rng: random.Random, model: Actions, person: Person, device: Device, session: bool) -> None:
    action = model.use(rng, person)
    dice = rng.random()
    if dice < 0.10 and device.private:
        visit.act(action)  # the page lost the session, the device tells who it was
    elif dice < 0.14 and session and device.mobile:
        visit.act(action, signed_in=True, consent=False, late=rng.randrange(HOUR, 72 * HOUR))
    else:
        visit.act(action, signed_in=True)


def robots(rng: random.Random, model: Actions, count: int, window: tuple[int, int]) -> list[Message]:
    """Messages whose only identifier is a blocked value: accepted, and nobody's."""
    found: list[Message] = []
    for _ in range(count):
        start = rng.randrange(window[0], max(window[0], window[1] - VISIT_MS) + 1)
        visit = Visit(rng, None, Device(BLOCKED_ID, mobile=False), start, window[1])
        visit.act(model.browse(rng))
        found.extend(visit.messages)
    return found


def in_received_order(messages: Iterable[Message]) -> list[Message]:
    """Sorted, and no two received in the same millisecond, so that the order is total."""
    ordered = sorted(messages, key=lambda m: (m.received, m.body["messageId"]))
    taken: set[int] = set()
    for message in ordered:
        received = message.received
        while received in taken:
            received -= 1
        taken.add(received)
        if received != message.received:
            message.received = received
            message.body["receivedAt"] = iso(received)
    return sorted(ordered, key=lambda m: m.received)
