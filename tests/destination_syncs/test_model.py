"""Random histories against naive models that know what the destination really holds.

People are independent of each other, so one sync carries a history for each of many: who is in, with what, who consents, and what
the destination answers are drawn per person and round.
"""

from __future__ import annotations

import datetime as dt
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp_assets.destination_syncs import ledger as questions
from cdp_assets.destination_syncs.ledger import Selection
from cdp_assets.destination_syncs.release import release
from cdp_assets.destination_syncs.settle import settle_all
from cdp_assets.destination_syncs.tables import INTENTS, LEDGER
from resources.destinations import Operation, Outcome
from resources.warehouse import Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.destination_syncs.lab import Crash, FakeDestination, Lab, lab_in

# Shrinking a history costs more syncs than reading it: people are independent, and the message names the one at fault.
FEW = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_names = itertools.count(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Warehouse, Path]]:
    """One warehouse for all histories: each has an activation and people of its own."""
    folder = tmp_path_factory.mktemp("model")
    with open_duckdb(folder / "model.duckdb") as warehouse:
        yield warehouse, folder


def answering(answers: dict[str, str]) -> Any:
    """A destination that answers by key: delivered, waiting, rejected, arrived or lost (both without an answer)."""

    def step(fake: FakeDestination, operations: list[Operation]) -> list[Outcome]:
        fake.script.insert(0, step)
        outcomes = []
        for operation in operations:
            answer = answers.get(operation.key, "delivered")
            if answer in ("delivered", "arrived"):
                fake.take(operation)
            outcomes.append(Outcome(operation.id, "unknown" if answer in ("arrived", "lost") else answer, answer))
        return outcomes

    return step


def outcomes_of(it: Lab) -> dict[str, str]:
    """Outcome of each key of the newest sync that is not unchanged."""
    rows = it.warehouse.arrow(it.warehouse.table(INTENTS.ref)).to_pylist()
    return {row["destination_key"]: row["outcome"] for row in rows if row["activation"] == it.activation.key}


def considered_naively(it: Lab, wanted: set[str], consent: dict[str, bool], can_retract: bool) -> int:
    """|desired, present or unresolved| by a loop over the ledger."""
    keys = {(person, f"{person}@x") for person in wanted}
    for row in it.warehouse.arrow(it.warehouse.table(LEDGER.ref)).to_pylist():
        if row["activation"] != it.activation.key:
            continue
        taken_back = can_retract and row["held"] and not consent[row["unit"]]
        if row["present"] or row["uncertain"] or row["status"] in ("waiting", "unknown") or taken_back:
            keys.add((row["unit"], row["destination_key"]))
    return len(keys)


@FEW
@given(seed=st.integers(0, 2**32))
def test_what_is_settled_is_right_at_the_destination(shared: tuple[Warehouse, Path], seed: int) -> None:
    """Upserts: a key that is delivered or unchanged is exactly right there, whatever happened before; in the end all are."""
    warehouse, folder = shared
    chance, name = random.Random(seed), f"set{next(_names)}"
    people = [f"{name}p{n}" for n in range(30)]
    with lab_in(folder, warehouse, "enters_or_exits", key=name, sync_property_changes=True, rows=7) as it:
        it.people(*people)
        wanted: dict[str, int] = {}
        consent = dict.fromkeys(people, True)
        for round_ in range(7):
            quiet = round_ >= 5
            if not quiet:
                wanted = {p: chance.randrange(3) for p in people if chance.random() < 0.6}
                changed = {p: chance.random() < 0.7 for p in people if chance.random() < 0.3}
                consent.update(changed)
                it.consent({p: ("true" if yes else chance.choice(["false", "conflict"])) for p, yes in changed.items()})
            it.want(*({"unit": p, "value": value} for p, value in wanted.items()))
            weights = (1, 0, 0, 0, 0) if quiet else (5, 1, 1, 1, 1)
            kinds = ["delivered", "waiting", "rejected", "arrived", "lost"]
            it.destination.script = [answering({f"{p}@x": chance.choices(kinds, weights)[0] for p in people})]
            settle_all(warehouse, it.journal, it.now)
            if quiet:
                questions.replay(warehouse, Selection(activation=name), it.now)
            expected = considered_naively(it, set(wanted), consent, can_retract=True)
            crashed = not quiet and chance.random() < 0.3
            if crashed:
                it.destination.script.insert(0, _dying(chance.random() < 0.5))
                with pytest.raises(Crash):
                    it.sync()
                it.now += dt.timedelta(hours=1)
                continue
            result = it.sync()
            assert result.considered == expected
            _check_settled(it, people, wanted, consent, everyone=round_ == 6)


def _dying(arrived: bool) -> Any:
    def step(fake: FakeDestination, operations: list[Operation]) -> list[Outcome]:
        for operation in operations if arrived else ():
            fake.take(operation)
        raise Crash

    return step


def _check_settled(it: Lab, people: list[str], wanted: dict[str, int], consent: dict[str, bool], *, everyone: bool) -> None:
    outcomes = outcomes_of(it)
    for person in people:
        key = f"{person}@x"
        outcome = outcomes.get(key, "unchanged")
        if not everyone and outcome not in ("unchanged", "delivered"):
            continue
        record = it.destination.records.get(key)
        right = wanted.get(person) if consent[person] else None
        # Somebody who never was in the destination and is not wanted is not there; nor is who withdrew.
        assert (record["value"] if record else None) == right, (person, outcome, record, right, it.history_of(person))


@dataclass
class Sequence:
    """The naive model of one person under ``enters`` where messages only append."""

    inside: bool = False
    blocked: bool = False
    waiting: bool = False
    refused: int | None = None
    arrived: list[int] = field(default_factory=list)

    def sync(self, wanted: int | None, consents: bool, answer: str) -> str:
        if self.blocked:
            return "unknown"
        if wanted is None:
            was, waited, self.inside, self.waiting = self.inside, self.waiting, False, False
            if was:
                return "unchanged" if consents else "withheld"
            return "unchanged" if waited else ""
        if not consents:
            return "withheld"
        if self.inside:
            return "unchanged"
        if self.refused == wanted:
            return "rejected"
        self.refused = wanted if answer == "rejected" else None
        if answer in ("delivered", "arrived"):
            self.arrived.append(wanted)
        self.inside, self.waiting = answer == "delivered", answer == "waiting"
        self.blocked = answer in ("arrived", "lost")
        return {"arrived": "unknown", "lost": "unknown"}.get(answer, answer)


@FEW
@given(seed=st.integers(0, 2**32))
def test_each_enter_is_appended_once(shared: tuple[Warehouse, Path], seed: int) -> None:
    """Appends: every person's messages and outcomes are those of the naive model, round by round."""
    warehouse, folder = shared
    chance, name = random.Random(seed), f"append{next(_names)}"
    people = [f"{name}p{n}" for n in range(40)]
    models = {person: Sequence() for person in people}
    with lab_in(folder, warehouse, "enters", "append", key=name, rows=7) as it:
        it.people(*people)
        consent = dict.fromkeys(people, True)
        for _ in range(6):
            changed = {p: chance.random() < 0.6 for p in people if chance.random() < 0.3}
            consent.update(changed)
            it.consent({p: str(yes).lower() for p, yes in changed.items()})
            wanted = {p: chance.randrange(2) for p in people if chance.random() < 0.6}
            it.want(*({"unit": p, "value": value} for p, value in wanted.items()))
            kinds = chance.choices(["delivered", "waiting", "rejected", "arrived", "lost"], (12, 2, 2, 1, 1), k=len(people))
            answers = dict(zip(people, kinds, strict=True))
            it.destination.script = [answering({f"{p}@x": answer for p, answer in answers.items()})]
            result = it.sync()
            expected = {p: models[p].sync(wanted.get(p), consent[p], answers[p]) for p in people}
            outcomes = outcomes_of(it)
            for person in people:
                assert outcomes.get(f"{person}@x", "unchanged") == (expected[person] or "unchanged"), (person, expected[person])
            assert result.considered == sum(outcome != "" for outcome in expected.values())
    for person in people:
        sent = [operation.payload["value"] for operation in it.destination.log if operation.key == f"{person}@x"]
        assert sent == models[person].arrived, person
    ids = [operation.message_id for operation in it.destination.log]
    assert len(ids) == len(set(ids))


@FEW
@given(seed=st.integers(0, 2**32))
def test_merges_and_definitions_never_exit_who_stays(shared: tuple[Warehouse, Path], seed: int) -> None:
    """Merges, changed keys and definitions, upserts: no exit for someone who is wanted, nothing under a hold, and in the end all is right."""
    warehouse, folder = shared
    chance, name = random.Random(seed), f"merge{next(_names)}"
    people = [f"{name}p{n}" for n in range(24)]
    with lab_in(folder, warehouse, "enters_or_exits", key=name, guardrails={"max_exit_share": None}) as it:
        it.people(*people)
        alive, keys = list(people), {person: f"{person}@x" for person in people}
        wanted: set[str] = set()
        for round_ in range(7):
            pairs = chance.sample(alive, 4) if round_ in (1, 2, 4) else []
            for loser, winner in zip(pairs[::2], pairs[1::2], strict=True):
                it.merge(loser, winner)
                alive.remove(loser)
                keys[winner] = chance.choice([keys[winner], keys[loser]])
            for person in chance.sample(alive, 2):
                keys[person] = f"{person}-{round_}@x"
            wanted = {person for person in alive if chance.random() < 0.7}
            it.want(*({"unit": person, "key": keys[person]} for person in sorted(wanted)))
            it.destination.log.clear()
            if round_ == 3:
                it.revision = "rev-2"
                it.want(*({"unit": person, "key": keys[person]} for person in sorted(wanted)))
                held = it.sync()
                assert held.hold == "definition changed" and not it.destination.log
                release(warehouse, name, "send", it.now)
            it.sync()
            stay = {keys[person] for person in wanted}
            for operation in it.destination.log:
                assert not (operation.kind in ("exit", "retract") and operation.key in stay), operation.key
            assert set(it.destination.records) == stay
            assert {
                row["destination_key"] for row in it.ledger().values() if row["present"] and row["activation"] == name
            } == stay
