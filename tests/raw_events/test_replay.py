"""Quarantined lines judged again after the plan was corrected."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from cdp_assets.raw_events.build import affected_windows
from cdp_assets.raw_events.intake import IntakeResult
from cdp_assets.raw_events.replay import ReplayResult, Selection, replay_quarantine
from cdp_assets.raw_events.tables import DUPLICATES, MESSAGES, QUARANTINE, VIOLATIONS
from resources.warehouse import TableSpec
from tests.raw_events.conftest import AS_OF, LOADED_AT, Room, event
from tests.raw_events.planned import enforcing, of_properties, rule, stage_of

STRICT = enforcing(allow_unplanned_events=False, allow_event_on_violations=False)
LATER = LOADED_AT + dt.timedelta(days=1)
CARD_USED = rule(key="Card Used", **of_properties(properties={"amount": {"type": "integer"}}))


def lines(room: Room, spec: TableSpec, *columns: str) -> list[tuple[Any, ...]]:
    table = room.warehouse.table(spec.ref)
    rows = room.warehouse.rows(table.order_by(["file", "line"]).select(*columns), 1_000)
    return [tuple(row.values()) for row in rows]


def replay(room: Room, selection: Selection = Selection(), at: dt.datetime = LATER, **how: Any) -> ReplayResult:
    return replay_quarantine(room.warehouse, room.config, room.stages, selection, at, **how)


@pytest.fixture
def planned(room: Room) -> Room:
    """A window with one message, two unplanned events, one violation and one line that is no message."""
    room.stages = [stage_of(CARD_USED, **STRICT)]
    room.land(
        "a.jsonl",
        event("m1"),
        event("m2", event="Card Lost"),
        event("m3", properties={"amount": "ten"}),
        b"no json",
        event("m4", received_at="2026-01-02T10:00:00Z", event="Card Lost"),
    )
    room.run()
    return room


def test_after_the_plan_is_corrected_lines_become_messages_and_nothing_is_lost(planned: Room) -> None:
    assert lines(planned, QUARANTINE, "line", "reason") == [
        (2, "plan_unplanned_event"),
        (3, "plan_violation"),
        (4, "invalid_json"),
        (5, "plan_unplanned_event"),
    ]
    planned.stages = [stage_of(CARD_USED, rule(key="Card Lost", **of_properties()), **STRICT)]
    before = planned.run()
    result = replay(planned)
    assert (result.considered, result.accepted, result.windows) == (4, 2, {"2026-01-01", "2026-01-02"})
    assert dict(result.stayed) == {"plan_violation": 1, "invalid_json": 1}
    assert lines(planned, MESSAGES, "line", "message_id", "partition_key") == [
        (1, "m1", "2026-01-01"),
        (2, "m2", "2026-01-01"),
        (5, "m4", "2026-01-02"),
    ]
    assert lines(planned, QUARANTINE, "line", "reason") == [(3, "plan_violation"), (4, "invalid_json")]
    assert lines(planned, VIOLATIONS, "line", "violation_type", "action") == [(3, "Invalid Type", "blocked")]
    after = planned.run()
    assert {key: counts.lines for key, counts in after.items()} == {key: counts.lines for key, counts in before.items()}
    assert all(one.accepted + one.duplicates + one.quarantined == one.lines for one in after.values())
    assert affected_windows(planned.warehouse, IntakeResult()) >= set() and after["2026-01-02"].accepted == 1


def test_replaying_twice_changes_nothing(planned: Room) -> None:
    planned.stages = []
    assert replay(planned).accepted == 3
    everything = [lines(planned, spec, "file_hash", "line") for spec in (MESSAGES, DUPLICATES, QUARANTINE, VIOLATIONS)]
    again = replay(planned, at=LATER + dt.timedelta(days=1))
    assert (again.accepted, dict(again.stayed)) == (0, {"invalid_json": 1})
    assert [lines(planned, spec, "file_hash", "line") for spec in (MESSAGES, DUPLICATES, QUARANTINE, VIOLATIONS)] == everything


def test_a_dry_run_says_the_same_and_changes_nothing(planned: Room) -> None:
    planned.stages = []
    before = lines(planned, QUARANTINE, "line", "reason")
    found = replay(planned, dry_run=True)
    assert (found.accepted, dict(found.stayed)) == (3, {"invalid_json": 1})
    assert lines(planned, QUARANTINE, "line", "reason") == before
    assert lines(planned, MESSAGES, "line") == [(1,)]


@pytest.mark.parametrize(
    ("selection", "accepted"),
    [
        (Selection(reason="plan_violation"), [1, 3]),
        (Selection(event="Card Lost"), [1, 2, 5]),
        (Selection(reason="plan_violation", event="Card Lost"), [1]),
        (Selection(file="b.jsonl"), [1]),
    ],
)
def test_only_the_selected_lines_are_judged(planned: Room, selection: Selection, accepted: list[int]) -> None:
    planned.stages = []
    replay(planned, selection)
    assert [line for (line,) in lines(planned, MESSAGES, "line")] == accepted


def test_a_replayed_line_that_another_one_follows_is_the_message(room: Room) -> None:
    room.stages = [stage_of(CARD_USED, **STRICT)]
    room.land("a.jsonl", event("m1", properties={"amount": "ten"}))
    room.land("b.jsonl", event("m1", received_at="2026-01-03T10:00:00Z"))
    room.run()
    assert lines(room, MESSAGES, "file") == [("b.jsonl",)]
    room.stages = []
    result = replay(room)
    assert (result.accepted, result.duplicates) == (1, 1)
    assert lines(room, MESSAGES, "file") == [("a.jsonl",)]
    assert lines(room, DUPLICATES, "file") == [("b.jsonl",)]
    assert room.run(as_of=AS_OF)["2026-01-03"].accepted == 0
