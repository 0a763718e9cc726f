"""Windows: each line is a message, a duplicate or in quarantine, whenever its file landed."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from cdp_assets.raw_events.build import Counts
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.builds import record_build

DAY_1, DAY_2, DAY_3 = "2026-01-01", "2026-01-02", "2026-01-03"


def test_lines_go_to_the_window_of_their_received_time(any_room, message) -> None:
    any_room.land(
        "a.jsonl.gz",
        message("m1", f"{DAY_1}T10:00:00Z"),
        message("m2", f"{DAY_3}T00:00:00Z"),
        message("m1", f"{DAY_2}T10:00:00Z"),
        message(None, f"{DAY_2}T11:00:00Z"),
        message("old", "2025-12-31T23:59:59Z"),
        message("future", "2026-02-01T00:00:00Z"),
    )
    counts = any_room.run()
    assert counts == {DAY_1: Counts(2, 1, 0, 1), DAY_2: Counts(2, 0, 1, 1), DAY_3: Counts(1, 1, 0, 0)}
    # What is received after as_of stands in its own window already; readers look at what is known at their as_of.
    assert any_room.rows("messages", "partition_key", "message_id") == [(DAY_1, "m1"), (DAY_3, "m2"), ("2026-02-01", "future")]
    assert any_room.rows("quarantine", "line", "reason") == [(4, "message_id_missing"), (5, "before_start")]
    assert any_room.affected == {DAY_1, DAY_2, DAY_3, "2026-02-01"}
    assert any_room.run() == counts


def test_a_late_earlier_duplicate_takes_the_place_of_an_accepted_line(any_room, message) -> None:
    any_room.land("a.jsonl", message("m1", f"{DAY_3}T10:00:00Z"), message("m2", f"{DAY_3}T11:00:00Z"))
    any_room.run()
    any_room.land("late.jsonl", message("m1", f"{DAY_1}T10:00:00Z"))
    counts = any_room.run(DAY_1)
    assert any_room.affected == {DAY_1, DAY_3}
    assert counts == {DAY_1: Counts(1, 1, 0, 0)}
    assert any_room.rows("messages", "partition_key", "message_id") == [(DAY_1, "m1"), (DAY_3, "m2")]
    assert any_room.rows("duplicates", "partition_key", "message_id") == [(DAY_3, "m1")]
    assert any_room.run(DAY_3) == {DAY_3: Counts(2, 1, 1, 0)}


def test_lines_received_at_or_after_as_of_are_not_known_yet(room, message) -> None:
    room.land("a.jsonl", message("m1", f"{DAY_1}T10:00:00Z"), message("m2", f"{DAY_1}T12:00:00Z"))
    noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    assert room.run(as_of=noon) == {DAY_1: Counts(1, 1, 0, 0)}
    assert room.run(DAY_1) == {DAY_1: Counts(2, 2, 0, 0)}


def test_files_that_no_build_followed_are_still_to_be_built(room, message) -> None:
    room.land("a.jsonl", message("m1", f"{DAY_1}T10:00:00Z"))
    room.run()
    before = dt.datetime(2026, 1, 15, tzinfo=dt.UTC)
    record_build(
        room.warehouse,
        "raw_events",
        asset="messages",
        partition_key=DAY_1,
        as_of=before,
        revision="",
        run_id="",
        rows=1,
        loaded_at=before,
    )
    room.run()
    assert (room.intake.files, room.affected) == (0, {DAY_1})


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_landing_and_building_gives_the_same_windows(tmp_path, seed: int, message, room) -> None:
    chance = random.Random(seed)
    lines = [
        message(f"m{chance.randrange(8)}", f"2026-01-0{chance.randrange(1, 4)}T{chance.randrange(24):02}:00:00Z")
        for _ in range(40)
    ]
    for number in range(8):
        room.land(f"{number}.jsonl", *lines[number * 5 : number * 5 + 5])
        room.run(*chance.sample([DAY_1, DAY_2, DAY_3], 2))
    counts = room.run()
    firsts: dict[str, str] = {}
    for line in lines:
        firsts[line["messageId"]] = min(firsts.get(line["messageId"], "9"), line["receivedAt"])
    found = {name: at.isoformat() + "Z" for name, at in room.rows("messages", "message_id", "received_at")}
    assert found == firsts
    assert sum(count.accepted for count in counts.values()) == len(firsts)
    assert all(c.accepted + c.duplicates + c.quarantined == c.lines for c in counts.values())
    assert sum(c.lines for c in counts.values()) == 40


def test_a_count_is_taken_from_its_own_table(room, message) -> None:
    """A row that gets lost shows in the counts."""
    room.land("a.jsonl", message("m1"), message("m2"))
    room.run()
    room.warehouse.delete(MESSAGES.ref, [("message_id", "=", "m1")])
    assert room.run(DAY_1) == {DAY_1: Counts(2, 1, 0, 0)}
