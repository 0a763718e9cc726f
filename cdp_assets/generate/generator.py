"""Generates a space's demo data, and continues it.

The same arguments give the same bytes: every window of time draws from its own generator, seeded by space, seed and window, and
nothing reads the clock. What must survive until more is generated is in ``generator_state.json`` in the space's home; who is who
is in ``truth.json`` beside it.
"""

from __future__ import annotations

import datetime as dt
import random
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cdp_assets.generate import tables
from cdp_assets.generate.behaviour import CONSENT, NORMAL, Message, in_received_order, robots, visit
from cdp_assets.generate.landing import Landing
from cdp_assets.generate.model import DataModel, Plan, pick
from cdp_assets.generate.mural import Mural
from cdp_assets.generate.owl_bank import OwlBank
from cdp_assets.generate.people import (
    CATEGORIES,
    CUSTOMER,
    DAY,
    HOUR,
    Person,
    instant,
    iso,
    make_person,
    millis,
    plant_conflicts,
    plant_shared,
)
from cdp_assets.generate.truth import Truth
from cdp_assets.space.home import Home
from cdp_assets.space.space import Space
from resources.sandbox.satismeter import answer_surveys
from resources.sandbox.store import Store
from resources.warehouse import Warehouse

# Space name -> what its people do and own. Other spaces bring data of their own.
DATA_MODELS: dict[str, type[DataModel]] = {"owl_bank": OwlBank, "mural": Mural}

_MORE = re.compile(r"([1-9]\d{0,2})([dh])")
_CHANGE_OF_MIND = 0.004  # share of signed-in customers a day
_NEWCOMERS = 0.006  # share of people a day


class GenerateError(Exception):
    """The data cannot be generated; the message says what to do."""


@dataclass(frozen=True)
class GenerateResult:
    """What was written. ``start`` and ``end``: the window of received time that this call added (empty if nothing was).

    ``lines`` counts all landing lines of this call, ``duplicates`` and ``malformed`` those planted among them; ``rows`` are entity rows
    added or replaced, by table. ``created`` is False when the home held this data already.
    """

    space: str
    start: dt.datetime
    end: dt.datetime
    people: int
    files: tuple[str, ...]
    lines: int
    duplicates: int
    malformed: int
    rows: dict[str, int]
    created: bool = True


def state_file(home: Home, space: str) -> Path:
    """Where the generator keeps what it needs to continue."""
    return home.space(space) / "generator_state.json"


def stored_end(home: Home, space: str) -> dt.datetime | None:
    """The end of the data generated so far, aware UTC; None when there is none."""
    path = state_file(home, space)
    if not path.exists():
        return None
    return instant(orjson.loads(path.read_bytes())["end"])


def generate(
    space: Space,
    warehouse: Warehouse,
    home: Home,
    *,
    profiles: int,
    days: int,
    seed: int,
    end: dt.datetime,
    more: str | None = None,
) -> GenerateResult:
    """Write landing files, entity tables and the truth of a space.

    The first call makes ``profiles`` people and ``days`` days of events received before ``end`` (aware UTC, cut to the hour). The same
    call again changes nothing, whatever ``end`` is then. ``more`` (``1d``, ``6h``) continues the stored data instead: new events, people,
    consent and entity rows in the window after the stored end; ``profiles``, ``days``, ``seed`` and ``end`` are then not used.

    Raises :class:`GenerateError` for a space without a data model, for other arguments than those of the stored data, and for ``more``
    without stored data.
    """
    model = DATA_MODELS.get(space.name)
    if model is None:
        known = ", ".join(sorted(DATA_MODELS))
        raise GenerateError(
            f"no demo data is known for space {space.name!r}; it is for {known}. Put your own files into {home.landing(space.name)}"
        )
    stored = state_file(home, space.name)
    if more is not None:
        if not stored.exists():
            raise GenerateError(f"space {space.name} has no generated data in {home.root}; generate it without --more first")
        return _Generator.load(space, home, model).more(warehouse, _span(more))
    if stored.exists():
        return _Generator.load(space, home, model).again(warehouse, profiles, days, seed)
    if profiles < 1 or days < 1:
        raise GenerateError("--profiles and --days must be at least 1")
    window_end = millis(end) // HOUR * HOUR
    if instant(window_end - days * DAY).date() < space.config.start_date:
        raise GenerateError(
            f"{days} days before {instant(window_end):%Y-%m-%d} is before the space's start_date {space.config.start_date}; "
            "generate fewer days, a later --end, or set an earlier start_date"
        )
    return _Generator.start(space, home, model, profiles, days, seed, window_end).first(warehouse)


def _span(more: str) -> tuple[int, int]:
    """Windows and their length in milliseconds."""
    match = _MORE.fullmatch(more)
    if not match:
        raise GenerateError(f"--more {more!r} is not a length of time; write for example 1d or 6h")
    return int(match[1]), DAY if match[2] == "d" else HOUR


class _Generator:
    """One space's generation. ``state`` holds the arguments, the end so far, and the next person's number."""

    def __init__(
        self,
        space: Space,
        home: Home,
        model: DataModel,
        state: dict[str, Any],
        people: list[Person],
        truth: Truth,
        landing: Landing,
    ) -> None:
        self.space, self.home, self.model, self.state = space, home, model, state
        self.people, self.truth, self.landing = people, truth, landing
        self.files: list[str] = []

    @classmethod
    def start(cls, space: Space, home: Home, model: type[DataModel], profiles: int, days: int, seed: int, end: int) -> _Generator:
        state = {"profiles": profiles, "days": days, "seed": seed, "end": end, "next_person": 1}
        return cls(space, home, model(), state, [], Truth(), Landing(home.landing(space.name)))

    @classmethod
    def load(cls, space: Space, home: Home, model: type[DataModel]) -> _Generator:
        stored = orjson.loads(state_file(home, space.name).read_bytes())
        landing = Landing(home.landing(space.name), pool=stored.pop("pool"), kind=stored.pop("kind"))
        people = [Person.of(person) for person in stored.pop("people")]
        return cls(space, home, model(stored.pop("model")), stored, people, Truth.read(home.truth_file(space.name)), landing)

    def save(self) -> None:
        name = self.space.name
        self.truth.document.update(space=name, seed=self.state["seed"], end=iso(self.state["end"]))
        for person in self.people:
            self.truth.describe(person)
        for person_id, entities in self.model.entities_of(self.people).items():
            self.truth.persons[person_id]["entities"] = entities
        self.home.space(name).mkdir(parents=True, exist_ok=True)
        self.truth.write(self.home.truth_file(name))
        stored = {
            **self.state,
            "people": self.people,
            "model": self.model.state,
            "pool": self.landing.pool,
            "kind": self.landing.kind,
        }
        path = state_file(self.home, name)
        beside = path.with_suffix(".part")
        beside.write_bytes(orjson.dumps(stored, option=orjson.OPT_SORT_KEYS))
        beside.replace(path)

    def rng(self, *of: object) -> random.Random:
        return random.Random("/".join(map(str, (self.space.name, self.state["seed"], *of))))

    # -- the three calls ---------------------------------------------------------------------------------------

    def first(self, warehouse: Warehouse) -> GenerateResult:
        if any(warehouse.has(spec.ref) for spec in self.model.tables.values()):
            raise GenerateError(
                f"the warehouse of space {self.space.name} has these tables already, and {state_file(self.home, self.space.name)} is missing; "
                f"generate into an empty home"
            )
        end, days = self.state["end"], self.state["days"]
        start = end - days * DAY
        self.truth.document["start"] = iso(start)
        rng = self.rng("people")
        self.model.prepare(rng, self.state["profiles"], end)
        for _ in range(self.state["profiles"]):
            self._newcomer(rng, (start, end))
        plant_conflicts(rng, self.people)
        plant_shared(rng, self.people)
        for person in self.people:
            self.truth.describe(person)
        windows = [(at, at + DAY) for at in range(start, end, DAY)]
        for window in windows:
            draw = self.rng("window", window[0], window[1])
            plan = Plan()
            if window == windows[-1]:
                for person_id, kind in self.model.last_day(draw, self.people).items():
                    plan.visits[person_id] = (kind, None)
            self._change_of_mind(draw, plan, window)
            self._window(draw, window, plan, last=window == windows[-1])
        change = self.model.populate(self.rng("entities"), self.people, end)
        tables.write_new(warehouse, self.model.tables, change.added)
        return self._result(start, {name: len(rows) for name, rows in change.added.items()})

    def more(self, warehouse: Warehouse, span: tuple[int, int]) -> GenerateResult:
        count, length = span
        start = self.state["end"]
        rows: dict[str, int] = {}
        for index in range(count):
            window = (start + index * length, start + (index + 1) * length)
            draw = self.rng("window", window[0], window[1])
            newcomers = [
                self._newcomer(draw, window)
                for _ in range(pick(draw, max(2.0, self.state["profiles"] * _NEWCOMERS), length / DAY))
            ]
            for person in newcomers:
                self.truth.describe(person)
            before = {p.id for p in self.people if p.signed_up}
            plan = self.model.plan(draw, self.people, window)
            self._window(draw, window, plan, last=index == count - 1)
            for person in self.people:
                if (
                    person.kind == CUSTOMER
                    and person.signed_up
                    and person.id not in before
                    and (person.new or person in newcomers)
                ):
                    plan.change.join(self.model.joined(draw, person, window))
            self.model.apply(plan.change)
            tables.write_new(warehouse, self.model.tables, plan.change.added)
            replaced = {name: list(found.values()) for name, found in plan.change.replaced.items()}
            tables.replace_rows(warehouse, self.model.tables, replaced)
            for name, found in [*plan.change.added.items(), *replaced.items()]:
                rows[name] = rows.get(name, 0) + len(found)
        self.state["end"] = start + count * length
        return self._result(start, rows)

    def again(self, warehouse: Warehouse, profiles: int, days: int, seed: int) -> GenerateResult:
        given = {"profiles": profiles, "days": days, "seed": seed}
        differing = [f"--{name} {self.state[name]}" for name, value in given.items() if self.state[name] != value]
        if differing:
            raise GenerateError(
                f"the home holds data of space {self.space.name} generated with {', '.join(differing)}; "
                "continue it with --more, or generate into another home"
            )
        missing = [str(spec.ref) for spec in self.model.tables.values() if not warehouse.has(spec.ref)]
        if missing:
            raise GenerateError(
                f"the home holds generated data of space {self.space.name}, but its warehouse lacks {', '.join(missing)}; "
                f"remove {self.home.space(self.space.name)} and generate again"
            )
        end = instant(self.state["end"])
        return GenerateResult(self.space.name, end, end, len(self.people), (), 0, 0, 0, {}, created=False)

    def _result(self, start: int, rows: dict[str, int]) -> GenerateResult:
        self.save()
        responses = self.model.surveys(self.rng("surveys", start), self.people, (start, self.state["end"]))
        if responses:
            with closing(Store(self.home.sandbox)) as store:
                answer_surveys(store, responses, instant(self.state["end"]))
        files = [self.truth.document["files"][name] for name in self.files]
        return GenerateResult(
            space=self.space.name,
            start=instant(start),
            end=instant(self.state["end"]),
            people=len(self.people),
            files=tuple(self.files),
            lines=sum(file["lines"] for file in files),
            duplicates=sum(file["duplicates"] for file in files),
            malformed=sum(sum(file["malformed"].values()) for file in files),
            rows=dict(sorted(rows.items())),
        )

    # -- a window ----------------------------------------------------------------------------------------------

    def _newcomer(self, rng: random.Random, window: tuple[int, int]) -> Person:
        number = self.state["next_person"]
        self.state["next_person"] += 1
        domain = self.model.domain(rng)
        person = make_person(rng, number, window, user_prefix=self.model.user_prefix, domain=domain)
        self.model.placed(person)
        self.people.append(person)
        return person

    def _change_of_mind(self, rng: random.Random, plan: Plan, window: tuple[int, int]) -> None:
        for person in self.people:
            if person.signed_up and person.kind == CUSTOMER and person.id not in plan.visits and rng.random() < _CHANGE_OF_MIND:
                flipped = rng.choice(CATEGORIES)
                now = person.consent or dict.fromkeys(CATEGORIES, False)
                plan.visits[person.id] = (CONSENT, {**now, flipped: not now[flipped]})

    def _window(self, rng: random.Random, window: tuple[int, int], plan: Plan, *, last: bool) -> None:
        """Everyone's visits of a window, into its landing file and the truth."""
        messages: list[Message] = []
        share = (window[1] - window[0]) / DAY
        for person in self.people:
            messages.extend(self._visits(rng, person, window, plan, share))
        messages.extend(robots(rng, self.model, pick(rng, 1 + len(self.people) / 200, share), window))
        ordered = in_received_order(messages)
        for person in self.people:
            if person.id in plan.visits:  # a visit with a reason may bring a new address or device
                self.truth.describe(person)
        for message in ordered:
            self.truth.observe(message)
        name = _file_name(window)
        lines, duplicates, malformed = self.landing.write(rng, name, ordered, window, last=last)
        self.truth.file(name, lines, duplicates, malformed)
        self.files.append(name)

    def _visits(self, rng: random.Random, person: Person, window: tuple[int, int], plan: Plan, share: float) -> list[Message]:
        start, end = window
        if person.id in plan.visits:
            kind, consent = plan.visits[person.id]
            if consent is not None:
                person.consent = consent
            return visit(rng, self.model, person, kind, window)
        if person.arrives_at >= end:
            return []
        if person.arrives_at >= start:
            found = visit(rng, self.model, person, NORMAL, window, start=person.arrives_at)
            if not person.new:
                return found
            return found + self._sign_up(rng, person, window)
        if person.new and not person.signed_up and start <= (person.signs_up_at or 0) < end:
            return self._sign_up(rng, person, window)
        if rng.random() < person.rate * share:
            return visit(rng, self.model, person, NORMAL, window)
        return []

    def _sign_up(self, rng: random.Random, person: Person, window: tuple[int, int]) -> list[Message]:
        at = person.signs_up_at or 0
        return visit(rng, self.model, person, NORMAL, window, start=at) if window[0] <= at < window[1] else []


def _file_name(window: tuple[int, int]) -> str:
    """``2026-11-22.jsonl.gz`` for a day of the calendar, ``2026-11-22T10.jsonl.gz`` for an hour, with its length for a day from another hour."""
    start, length = instant(window[0]), window[1] - window[0]
    if length == HOUR:
        return f"{start:%Y-%m-%dT%H}.jsonl.gz"
    return f"{start:%Y-%m-%d}.jsonl.gz" if start.hour == 0 else f"{start:%Y-%m-%dT%H}-1d.jsonl.gz"
