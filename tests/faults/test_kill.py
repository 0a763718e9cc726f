"""The process dies at every write and at every send; the next sync puts everything right."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from tests.faults.killing import Points, every_point, in_child, names_of
from tests.faults.world import BULK, HTTP, SYSTEMS, World

# Who is in before and after: p1 and p2 stay, p3 changes, p4 leaves, p5 withdraws its consent, p6 to p8 enter.
BEFORE = {"p1": 1, "p2": 1, "p3": 1, "p4": 1, "p5": 1}
AFTER = {"p1": 1, "p2": 1, "p3": 2, "p5": 1, "p6": 1, "p7": 1, "p8": 1}
RIGHT = {f"{person}@x.org": value for person, value in AFTER.items() if person != "p5"}
EVERY = {**SYSTEMS, "http": HTTP, "salesforce in bulk": BULK["salesforce in bulk"]}
PEOPLE = dict.fromkeys([f"p{n}" for n in range(1, 9)], True)


def prepared(folder: Path, twins: tuple[str, Path], system: str) -> tuple[World, Path]:
    """A world in which BEFORE is delivered and AFTER is wanted, and its files."""
    world = World(folder / "world", twins[0], EVERY[system])
    world.change(BEFORE, PEOPLE)
    assert world.sync("first").delivered == len(BEFORE)
    world.change(AFTER, {"p5": False})
    kept, now = folder / "kept", world.now
    world.keep(twins[1], kept)
    # Once here, so that no child has to compile the statements again.
    world.sync("killed")
    put_right(world)
    world.take_back(kept, twins[1])
    world.now = now
    return world, kept


@pytest.mark.parametrize("system", EVERY)
def test_set_and_upsert_destinations_end_exactly_right(tmp_path: Path, twins: tuple[str, Path], system: str) -> None:
    world, kept = prepared(tmp_path, twins, system)
    names = names_of(lambda: world.sync("killed"))
    assert sum(name.startswith("send") for name in names) >= 3, names
    for number, name in every_point(names):
        world.take_back(kept, twins[1])
        in_child(lambda: world.sync("killed"), Points(number))
        in_child(lambda: put_right(world))
        assert world.held() == RIGHT, (number, name)
    assert in_child(lambda: sum(world.sync("after").operations.values())) == 0


def put_right(world: World) -> None:
    """The next sync accounts for every key, and holds nothing back."""
    world.now += dt.timedelta(days=1)
    result = world.sync("recovering")
    assert result.considered == result.accounted
    assert not result.hold, result.hold
    assert not (result.waiting or result.unknown or result.rejected), result
