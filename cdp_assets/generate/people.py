"""The people of a space, their devices, and their consent: what is true about them before anyone observes it."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from dataclasses import dataclass, field
from typing import Any

from cdp_assets.generate import names

HOUR, DAY = 3_600_000, 86_400_000  # milliseconds
CATEGORIES = ("Functional", "Analytics", "Advertising")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

CUSTOMER, SUBSCRIBER, VISITOR = "customer", "subscriber", "visitor"

# Identity resolution attaches at most this many anonymous ids to a profile (the spaces say so).
MAX_DEVICES = 5


def millis(instant: dt.datetime) -> int:
    return round((instant - EPOCH) / dt.timedelta(milliseconds=1))


def instant(ms: int) -> dt.datetime:
    return EPOCH + dt.timedelta(milliseconds=ms)


def iso(ms: int) -> str:
    """``2026-11-22T09:30:00.250Z``."""
    return (EPOCH + dt.timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")[:23] + "Z"


def random_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


@dataclass
class Device:
    """A browser or phone. ``private``: one person's, and within the limit of devices, so that it links to that person."""

    anonymous_id: str
    mobile: bool
    private: bool = True
    skew_ms: int = 0


@dataclass
class Person:
    """A true person. ``kind``: a customer signs up (or has), a subscriber leaves only an address, a visitor leaves nothing.

    ``consent`` is what the person wants now; None when never asked. ``signed_in`` are the devices with a session.
    Times are milliseconds since the epoch.
    """

    id: str
    kind: str
    first_name: str
    last_name: str
    emails: list[str]
    phone: str
    user_id: str | None
    devices: list[Device]
    arrives_at: int
    signs_up_at: int | None
    rate: float
    consent: dict[str, bool] | None
    new: bool = False  # signs up while observed; else was a customer before
    signed_up: bool = False
    signed_in: list[str] = field(default_factory=list)

    @property
    def email(self) -> str:
        return self.emails[-1]

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Person:
        return cls(**{**stored, "devices": [Device(**device) for device in stored["devices"]]})


def device(rng: random.Random) -> Device:
    skew = rng.choice((DAY, -3 * HOUR, 11 * HOUR)) if rng.random() < 0.02 else 0
    return Device(random_id(rng), mobile=rng.random() < 0.4, skew_ms=skew)


def preferences(rng: random.Random) -> dict[str, bool] | None:
    """A first answer to the consent banner, or None for someone who was never asked."""
    if rng.random() < 0.04:
        return None
    return {"Functional": rng.random() < 0.96, "Analytics": rng.random() < 0.76, "Advertising": rng.random() < 0.64}


def make_person(
    rng: random.Random, number: int, window: tuple[int, int], *, user_prefix: str, domain: str | None = None
) -> Person:
    """Someone who first comes at some time within the window. Few come late, so that most are known at its end."""
    first, last = names.full_name(rng)
    kind = CUSTOMER if rng.random() < 0.85 else SUBSCRIBER if rng.random() < 0.4 else VISITOR
    start, end = window
    arrives = start + int((end - start) * rng.random() ** 1.6 * 0.98)
    new = kind is CUSTOMER and rng.random() < 0.35
    signs_up = arrives + int(rng.random() ** 2 * 4 * DAY) if new else arrives
    return Person(
        id=f"p{number:06d}",
        kind=kind,
        first_name=first,
        last_name=last,
        emails=[names.email(rng, first, last, number, domain)] if kind is not VISITOR else [],
        phone=names.phone(rng),
        user_id=f"{user_prefix}_{rng.getrandbits(48):012x}" if kind is CUSTOMER else None,
        devices=[device(rng) for _ in range(rng.choices((1, 2, 3, 4), (55, 30, 12, 3))[0])],
        arrives_at=arrives,
        signs_up_at=signs_up if kind is not VISITOR else None,
        rate=min(0.9, rng.lognormvariate(-1.75, 0.6)),
        consent=preferences(rng),
        new=new,
    )


def plant_conflicts(rng: random.Random, people: list[Person]) -> None:
    """A few customers share a device, and a few have more devices than a profile may hold. None of these devices is private."""
    customers = [p for p in people if p.kind == CUSTOMER]
    rng.shuffle(customers)
    pairs = max(1, len(customers) // 50)
    for first, second in zip(customers[:pairs], customers[pairs : 2 * pairs], strict=False):
        shared = first.devices[0]
        shared.private = False
        second.devices.append(shared)
    for person in customers[2 * pairs : 2 * pairs + max(1, len(customers) // 200)]:
        while len(person.devices) < MAX_DEVICES + 2:
            person.devices.append(device(rng))
        for spare in person.devices:
            spare.private = False


def plant_shared(rng: random.Random, people: list[Person]) -> None:
    """Some share a device without signing in on it: families a tablet where several leave their address, and a branch has a kiosk.

    Under Segment's default rules an address that somebody leaves on such a device joins the profile of whoever was there before.
    """
    subscribers = [p for p in people if p.kind == SUBSCRIBER]
    customers = [p for p in people if p.kind == CUSTOMER and p.devices[0].private]
    rng.shuffle(subscribers)
    rng.shuffle(customers)
    families = max(1, len(people) // 100)
    for family in range(families):
        tablet = device(rng)
        tablet.private = False
        for person in (*subscribers[2 * family : 2 * family + 2], *customers[family : family + 1]):
            person.devices.append(tablet)
    kiosk = device(rng)
    kiosk.private = False
    for person in (*subscribers[2 * families :][: 1 + families], *customers[families:][: 2 + 2 * families]):
        person.devices.append(kiosk)
