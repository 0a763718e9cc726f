"""The process dies at every write and every send of events that cannot be taken back: none is there twice, none is lost unsaid."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import httpx
import pytest

from tests.faults.killing import Points, every_point, in_child, names_of
from tests.faults.world import APPENDING, World

PEOPLE = {f"p{n}": 1 for n in range(1, 6)}


@pytest.fixture(params=APPENDING)
def world(request: pytest.FixtureRequest, tmp_path: Path, twins: tuple[str, Path]) -> World:
    httpx.post(f"{twins[0]}/__twin/reset", trust_env=False, verify=False).raise_for_status()
    return World(tmp_path / "world", twins[0], APPENDING[request.param])


def test_no_event_is_sent_twice_and_what_nobody_can_know_is_unknown(
    tmp_path: Path, twins: tuple[str, Path], world: World
) -> None:
    world.change(PEOPLE, dict.fromkeys(PEOPLE, True))
    kept, now = tmp_path / "kept", world.now
    world.keep(twins[1], kept)
    names, doubtful = names_of(lambda: world.sync("killed")), 0
    assert sum(name.startswith("send") for name in names) == 3, names
    for number, name in every_point(names):
        world.take_back(kept, twins[1])
        world.now = now
        in_child(lambda: world.sync("killed"), Points(number))
        world.now += dt.timedelta(days=1)
        result = in_child(lambda: world.sync("recovering"))
        held = world.held()
        assert result.considered == result.accounted, (number, name)
        assert set(held.values()) <= {1}, (number, name, held)
        assert len(PEOPLE) - len(held) <= result.unknown <= world.rows, (number, name, held, result)
        doubtful += result.unknown
        if result.unknown:
            again = in_child(lambda: world.sync("again"))
            assert (again.unknown, world.held()) == (result.unknown, held), "what is unknown is held until somebody decides"
    assert doubtful > 0, "some of the points lie between a send and its answer"


def test_a_storm_doubles_no_event(world: World) -> None:
    kinds = ("commit_then_drop", "429", "500", "timeout_before_commit", "partial_failure")
    world.settings = {"timeout_seconds": 0.4, "retry_seconds": 0.5}
    world.fault(*({"kind": kind, "nth": list(range(2 + place, 60, 7)), "seconds": 1} for place, kind in enumerate(kinds)))
    people = {f"p{n}": 1 for n in range(40)}
    world.change(people, dict.fromkeys(people, True))
    for number in range(12):
        world.now += dt.timedelta(hours=11)
        result = in_child(lambda: world.sync(f"storm {number}"))
        assert result.considered == result.accounted
        if not result.waiting:
            break
    held = world.held()
    assert set(held.values()) == {1}
    assert len(people) - len(held) <= result.unknown
    assert (result.waiting, result.rejected) == (0, 0)
    assert {call["fault"] for call in world.calls()} - {None} == set(kinds)
