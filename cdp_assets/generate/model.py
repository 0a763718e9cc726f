"""What a data model supplies: behaviour, entities, and how both change."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cdp_assets.generate.behaviour import Action
from cdp_assets.generate.people import Person
from cdp_assets.generate.tables import Row
from resources.warehouse import TableSpec


@dataclass
class Change:
    """Entity rows to add and to put in place of older ones, by table name."""

    added: dict[str, list[Row]] = field(default_factory=dict)
    replaced: dict[str, dict[str, Row]] = field(default_factory=dict)

    def add(self, table: str, row: Row) -> None:
        self.added.setdefault(table, []).append(row)

    def replace(self, table: str, key: str, row: Row) -> None:
        """A later row of the same key wins."""
        self.replaced.setdefault(table, {})[key] = row

    def join(self, other: Change) -> None:
        for table, rows in other.added.items():
            self.added.setdefault(table, []).extend(rows)
        for table, replaced in other.replaced.items():
            self.replaced.setdefault(table, {}).update(replaced)


@dataclass
class Plan:
    """A window's turns: who visits and why (person id -> kind and new consent), and what changes in the tables."""

    change: Change = field(default_factory=Change)
    visits: dict[str, tuple[str, dict[str, bool] | None]] = field(default_factory=dict)

    def visit(self, person: Person, kind: str, consent: dict[str, bool] | None = None) -> None:
        self.visits[person.id] = (kind, consent)


def pick(rng: random.Random, a_day: float, days: float) -> int:
    """How many of something that happens so often a day, in a window of so many days."""
    wanted = a_day * days
    whole = int(wanted)
    return whole + (rng.random() < wanted - whole)


class DataModel(ABC):
    """One space's data. ``state`` is JSON: rows by table and id, and whatever else must survive until more is generated.

    Dates and timestamps in rows are ISO texts; they become typed when they are written.
    """

    space: ClassVar[str]
    tables: ClassVar[Mapping[str, TableSpec]]
    user_prefix: ClassVar[str]

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state: dict[str, Any] = state if state is not None else {"rows": {}, "numbers": {}}

    def rows(self, table: str) -> dict[str, Row]:
        """The rows of a table that can still change, by key."""
        return self.state["rows"].setdefault(table, {})

    def number(self, kind: str) -> int:
        """The next number of a kind, from 1."""
        self.state["numbers"][kind] = self.state["numbers"].get(kind, 0) + 1
        return self.state["numbers"][kind]

    def domain(self, rng: random.Random) -> str | None:
        """Domain of the next person's address; None for any."""
        return None

    def placed(self, person: Person) -> None:  # noqa: B027 - optional
        """Called with each person once made, after :meth:`domain`."""

    def prepare(self, rng: random.Random, profiles: int, end: int) -> None:  # noqa: B027 - optional
        """Called once, before there are people."""

    @abstractmethod
    def browse(self, rng: random.Random) -> Action:
        """Something that anyone does."""

    @abstractmethod
    def use(self, rng: random.Random, person: Person) -> Action:
        """Something that a signed-in person does."""

    @abstractmethod
    def contact(self, rng: random.Random) -> Action:
        """Something that the company's servers say about a person."""

    @abstractmethod
    def traits(self, person: Person) -> dict[str, Any]:
        """Traits of an identify call."""

    @abstractmethod
    def populate(self, rng: random.Random, people: list[Person], end: int) -> Change:
        """All entities as they are at the first end."""

    @abstractmethod
    def plan(self, rng: random.Random, people: list[Person], window: tuple[int, int]) -> Plan:
        """What happens in a window after the first end."""

    @abstractmethod
    def last_day(self, rng: random.Random, people: list[Person]) -> dict[str, str]:
        """Visits (person id -> kind) of the last day before the first end."""

    @abstractmethod
    def joined(self, rng: random.Random, person: Person, window: tuple[int, int]) -> Change:
        """Entities of someone who signed up in a window after the first end."""

    @abstractmethod
    def entities_of(self, people: list[Person]) -> dict[str, dict[str, list[str]]]:
        """Person id -> table name -> keys."""

    def surveys(self, rng: random.Random, people: list[Person], window: tuple[int, int]) -> list[dict[str, Any]]:
        """What people answered in a window to surveys that another system holds; none by default."""
        return []

    def apply(self, change: Change) -> None:
        """Take replaced rows into the state."""
        for table, replaced in change.replaced.items():
            self.rows(table).update(replaced)
