"""Verdicts from evidence agree with the naive interpreter; what is cited decides, and what is missing is missing."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from random import Random

import pytest

from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.linked_audiences.evidence import gather
from cdp_assets.linked_audiences.verdicts import Atom, Judge, decisive, failing, missing
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.linked_audiences.oracle import Oracle
from tests.linked_audiences.test_oracle import store_logins
from tests.linked_audiences.worlds import Town, town
from tests.people import AS_OF, World


@pytest.fixture(scope="module")
def kept_warehouse() -> Iterator[Warehouse]:
    with open_duckdb(":memory:") as warehouse:
        yield warehouse


def logins_of(world: World, canonical: dict[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for event in world.events:
        if event["received_at"] < AS_OF.replace(tzinfo=None) and event["event"] == "Login":
            person = canonical[event["segment_id"]]
            counts[person] = counts.get(person, 0) + 1
    return counts


def oracle_of(world: World, drawn: Town, logins: dict[str, int] | None = None) -> Oracle:
    oracle = Oracle(world, drawn.made.graph, AS_OF, {}, drawn.made.audiences)
    oracle.computed = {"logins": logins_of(world, oracle.canonical) if logins is None else logins}
    return oracle


def only(world: World, person: str, oracle: Oracle, kept: Collection[Atom]) -> World:
    """The household's world with nothing but what is cited of a person."""
    mine = copy.copy(world)
    mine.identifiers = [r for r in world.identifiers if ("identifier", r["external_id_type"], r["external_id_value"]) in kept]
    mine.traits = [r for r in world.traits if oracle.canonical.get(r["segment_id"]) == person and ("trait", r["name"]) in kept]
    mine.events = [r for r in world.events if ("event", r["message_id"]) in kept]
    mine.tables = {}
    for name, (columns, rows) in world.tables.items():
        table = str(TableRef("bank", name))
        if name == "pairs":
            there = [r for r in rows if ("link", table, str(r["l"]), str(r["r"])) in kept]
        else:
            there = [r for r in rows if ("row", table, str(r["id"])) in kept]
        mine.tables[name] = (columns, there)
    return mine


def holds_on(world: World, person: str, drawn: Town, whole: Oracle, key: str, kept: Collection[Atom]) -> bool:
    counts = {person: whole.computed["logins"][person]} if ("trait", "logins") in kept else {}
    if person not in whole.computed["logins"]:
        counts = {}
    return oracle_of(only(world, person, whole, kept), drawn, counts).is_member(person, drawn.made.audiences[key])


@dataclass
class Asked:
    """One triple: who, which audience, and the two answers' material."""

    world: World
    oracle: Oracle
    person: str
    key: str
    judge: Judge

    @property
    def member(self) -> bool:
        return self.judge.is_member(self.key)


def asked(warehouse: Warehouse, drawn: Town) -> Iterator[Asked]:
    drawn.world.write(warehouse)
    oracles = [oracle_of(world, drawn) for world in drawn.households]
    store_logins(warehouse, {person: count for oracle in oracles for person, count in oracle.computed["logins"].items()})
    for key in drawn.made.audiences:
        values = lambda trait: stored_values(warehouse, trait, "now")  # noqa: E731
        found = gather(warehouse, drawn.made, key, AS_OF, None, trait_values=values, suppressions=False)
        for world, oracle in zip(drawn.households, oracles, strict=True):
            for person in oracle.people:
                yield Asked(world, oracle, person, key, Judge(drawn.made.audiences, found[person]))


@pytest.mark.parametrize("seed", range(6))
def test_verdicts_and_context_agree_with_the_interpreter(kept_warehouse: Warehouse, seed: int) -> None:
    drawn = town(Random(f"why {seed}"), households=40, audiences=12)
    random, cited, lacking = Random(seed), 0, 0
    members = 0
    for triple in asked(kept_warehouse, drawn):
        audience = drawn.made.audiences[triple.key]
        assert triple.member == triple.oracle.is_member(triple.person, audience), (triple.person, audience)
        if triple.member:
            members += 1
            wanted = {witness[1:3] for witness in triple.oracle.of_person(triple.person, audience)}
            assert {(path, row.key) for path, row in triple.judge.context(triple.key)} == wanted, (triple.person, audience)
            if random.random() < 0.3:
                cited += check_cited(triple, drawn)
        elif random.random() < 0.3:
            lacking += check_missing(triple)
    assert members > 100
    assert cited > 10 and lacking > 10, "some of both kinds rest on more than nothing"


def check_cited(triple: Asked, drawn: Town) -> bool:
    """The cited evidence decides: on it alone the interpreter says yes, and without any one piece of it no."""
    kept = decisive(triple.judge, triple.key)

    def holds(some: Collection[Atom]) -> bool:
        return holds_on(triple.world, triple.person, drawn, triple.oracle, triple.key, some)

    assert holds(kept), (triple.person, triple.key, kept)
    for gone in kept:
        assert not holds([atom for atom in kept if atom != gone]), (triple.person, triple.key, kept, gone)
    return len(kept) > 1


def check_missing(triple: Asked) -> bool:
    """With the missing leaves granted it is a member, and with fewer leaves it is not."""
    leaves = missing(triple.judge, triple.key)
    judge = triple.judge
    assert Judge(judge.audiences, judge.evidence, None, frozenset(leaves)).is_member(triple.key)
    others = list(dict.fromkeys(failing(judge, triple.key)))
    assert set(leaves) <= set(others)
    for fewer in itertools.combinations(others, len(leaves) - 1):
        assert not Judge(judge.audiences, judge.evidence, None, frozenset(fewer)).is_member(triple.key)
    return bool(leaves)
