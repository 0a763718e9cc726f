"""Syncs from the desired state to a destination in memory: what is sent, and how it is counted."""

from __future__ import annotations

from collections.abc import Callable

from tests.destination_syncs.lab import Lab


def test_a_member_enters_changes_and_leaves(lab: Callable[..., Lab]) -> None:
    it = lab("enters_or_exits", sync_property_changes=True)
    it.people("p1", "p2")
    it.want("p1", "p2")
    first = it.sync()
    assert (first.considered, first.delivered, first.operations) == (2, 2, {"enter": 2})
    assert it.sync().unchanged == 2
    it.want({"unit": "p1", "value": 2})
    second = it.sync()
    assert second.operations == {"change": 1, "exit": 1}
    assert list(it.destination.records) == ["p1@x"]
    assert it.destination.records["p1@x"]["value"] == 2
    assert it.sync().considered == 1
