"""A third of all calls goes wrong, in every way; everything deliverable is delivered, and every key is accounted for."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import pytest

from tests.faults.killing import in_child
from tests.faults.world import BAD, BULK, SYSTEMS, World

KINDS = (
    {"kind": "429"},
    {"kind": "commit_then_drop"},
    {"kind": "500"},
    {"kind": "partial_failure", "rows": 0.4, "seed": 7},
    {"kind": "timeout_before_commit", "seconds": 2},
    {"kind": "429", "retry_after": 1},
    {"kind": "expired_token"},
    {"kind": "quota_exhausted"},
    {"kind": "503"},
)
# Three of every ten calls, each time another way; which three is chance, or a sync of ten calls would have the same ones go wrong
# every time.
CHANCE = random.Random("storm")
HIT = [ten + place for ten in range(0, 400, 10) for place in sorted(CHANCE.sample(range(1, 11), 3))]
STORM = [{**kind, "nth": HIT[place :: len(KINDS)]} for place, kind in enumerate(KINDS)]
PEOPLE = [f"p{n}" for n in range(90)]
EVERY = {**{name: system for name, system in SYSTEMS.items() if system.when == "enters_or_exits"}, **BULK}
FEW = {"marketo": 6, "braze": 6}  # rows of a batch where eight are too few calls for every kind to come up
MOST_SYNCS = 24


@pytest.mark.parametrize("system", EVERY)
def test_everything_deliverable_is_delivered(tmp_path: Path, twins: tuple[str, Path], system: str) -> None:
    chance = random.Random(system)
    quiet(tmp_path / "quiet", twins[0], system)
    world = World(
        tmp_path / "storm",
        twins[0],
        EVERY[system],
        rows=max(FEW.get(system, 8), EVERY[system].rows),
        settings={"timeout_seconds": 0.4, "retry_seconds": 0.5},
    )
    world.fault(*STORM)
    bad = set(chance.sample(PEOPLE, 3))
    world.change({p: BAD if p in bad else 1 for p in PEOPLE}, dict.fromkeys(PEOPLE, True))
    settle(world)
    wanted = {p: BAD if p in bad else chance.choice([1, 2]) for p in PEOPLE if chance.random() < 0.8}
    withdrawn = set(chance.sample(PEOPLE, 10))
    world.change(wanted, dict.fromkeys(withdrawn, False))
    settle(world)
    right = {f"{p}@x.org": value for p, value in wanted.items() if p not in withdrawn | bad}
    assert world.held() == right
    calls = world.calls()
    assert {call["fault"] for call in calls} - {None} == {kind["kind"] for kind in KINDS}
    # Where no fault struck, no limit of the system's was overstepped.
    assert not [call for call in calls if call["fault"] is None and call["status"] in (429, 503)]


def quiet(folder: Path, twins: str, system: str) -> None:
    """Syncs in this process, in which nothing goes wrong, so that none of its children has to compile their statements."""
    world = World(folder, twins, EVERY[system])
    for wanted, consent in (({"p1": 1, "p2": 1, "p3": 1}, True), ({"p1": 2}, False)):
        world.change(wanted, {"p1": True, "p2": True, "p3": consent})
        world.sync("quiet")


def settle(world: World) -> None:
    """Sync twice a day, each in a process of its own, until nothing is left to try."""
    for number in range(MOST_SYNCS):
        world.now += dt.timedelta(hours=11)
        result = in_child(lambda: world.sync(f"storm {number}"))
        assert result.considered == result.accounted
        assert not result.hold, result.hold
        if not (result.waiting or result.unknown):
            return
    raise AssertionError(f"after {MOST_SYNCS} syncs {result.waiting} keys wait and {result.unknown} are unknown")
