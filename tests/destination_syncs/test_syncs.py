"""Syncs from the desired state to a destination in memory: what is sent, what is recorded, and how it is counted."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdp_assets.destination_syncs import ledger as questions
from cdp_assets.destination_syncs.journal import Journal
from cdp_assets.destination_syncs.ledger import Selection
from cdp_assets.destination_syncs.people import sendable
from cdp_assets.destination_syncs.plan import SyncError
from cdp_assets.destination_syncs.release import NothingHeldError, release
from cdp_assets.destination_syncs.retire import UnknownActivationError, retire, retire_with_exits
from cdp_assets.destination_syncs.settle import open_syncs, settle_all, settle_sync
from cdp_assets.destination_syncs.sync import deliver, plan
from cdp_assets.destination_syncs.tables import DELIVERY_STATE, INTENTS, LEDGER, OUTCOMES, SYNCS
from cdp_assets.raw_events.suppression import lift as lift_suppression
from cdp_assets.raw_events.suppression import suppress as record_suppression
from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.unified_profiles.tables import ID_ALIASES, external_id_mapping_updates
from resources.destinations import Outcome
from resources.warehouse import TableSpec, Warehouse, naive_utc
from tests.destination_syncs.lab import GRAPH, Lab, all_answer, crash, lab_in, no_answer

MakeLab = Callable[..., Lab]


def rows_of(it: Lab, spec: TableSpec) -> list[dict[str, Any]]:
    return it.warehouse.arrow(it.warehouse.table(spec.ref)).to_pylist()


def test_a_member_enters_changes_and_leaves_on_every_engine(warehouse: Warehouse, tmp_path: Path) -> None:
    with lab_in(tmp_path, warehouse, "enters_or_exits", sync_property_changes=True) as it:
        it.people("p1", "p2")
        it.want("p1", "p2")
        first = it.sync()
        assert (first.considered, first.delivered, first.operations) == (2, 2, {"enter": 2})
        it.want({"unit": "p1", "value": 2})
        second = it.sync()
        assert second.to_json()["operations"] == {"enter": 0, "change": 1, "exit": 1, "retract": 0}
        assert list(it.destination.records) == ["p1@x"]
        assert it.destination.records["p1@x"]["value"] == 2
        # The exit was built from what the enter left behind, under the id of its own message.
        exit_ = next(operation for operation in it.destination.log if operation.kind == "exit")
        assert exit_.payload == {"key": "p2@x", "value": 1, "in": False, "id": exit_.message_id}


# -- acceptance examples -------------------------------------------------------------------------------------------------


def test_ae3_2_a_third_card_is_one_entity_added_and_no_profile_enter(lab: MakeLab) -> None:
    it = lab("enters", "append", unit="entity")
    it.people("p")
    it.want("p|accounts:cards|1", "p|accounts:cards|2")
    assert it.sync().operations == {"enter": 2}
    it.want("p|accounts:cards|1", "p|accounts:cards|2", "p|accounts:cards|3")
    added = it.sync()
    assert (added.operations, added.unchanged) == ({"enter": 1}, 2)
    assert it.destination.sent()[-1] == ("enter", "p|accounts:cards|3@x")


def test_ae3_3_the_last_card_leaves_with_its_last_known_columns(lab: MakeLab) -> None:
    it = lab("exits", "append", unit="entity")
    it.people("p")
    it.want({"unit": "p|accounts:cards|1", "value": 500})
    assert it.sync().unchanged == 1
    it.want()
    assert it.sync().operations == {"exit": 1}
    (message,) = it.destination.log
    assert (message.payload["value"], message.payload["in"]) == (500, False)


@pytest.mark.parametrize(("first_run", "sent"), [("baseline", 0), ("send", 3)])
def test_ae3_4_the_first_run_sends_or_records(lab: MakeLab, first_run: str, sent: int) -> None:
    it = lab("enters_or_exits", first_run=first_run)
    it.people("p1", "p2", "p3")
    it.want("p1", "p2", "p3")
    assert it.sync().delivered == sent
    assert it.present() == {"p1@x", "p2@x", "p3@x"}
    it.want("p1", "p2")
    assert it.sync().operations == {"exit": 1}  # also who was only recorded leaves with a message


def test_ae3_6_a_throttled_message_arrives_once_and_a_refused_one_is_not_retried(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    it.want("p")
    for _ in range(3):
        it.destination.script = [all_answer("waiting", "429", it.now + dt.timedelta(minutes=5))]
        assert it.sync().waiting == 1
    assert it.ledger()["p", "p@x"]["attempts"] == 3
    assert it.sync().delivered == 1
    assert it.sync().unchanged == 1
    assert it.destination.sent() == [("enter", "p@x")]
    it.want("p", "q")
    it.destination.script = [all_answer("rejected", "400 invalid field")]
    assert it.sync().rejected == 1
    again = it.sync()
    assert (again.rejected, again.batches) == (1, 0)


def test_ae3_7_a_replay_after_a_crash_repeats_no_message(lab: MakeLab) -> None:
    it = lab("enters", "append", rows=1)
    it.people("p1", "p2", "p3")
    it.want("p1", "p2", "p3")
    # The process dies right after planning, and again in the middle of delivering.
    planned = plan(it.warehouse, it.journal, it.request())
    it.destination.script = [None, crash(arrived=True)]
    with contextlib.suppress(BaseException):
        deliver(it.request(), planned, it.around)
    it.destination.script = []
    result = it.sync()
    # What was out is not sent twice: nobody can know whether it arrived. The rest goes.
    assert (result.unchanged, result.unknown, result.delivered) == (1, 1, 1)
    ids = [operation.message_id for operation in it.destination.log]
    assert len(ids) == len(set(ids)) == 3


def test_ae7_1_a_first_sync_that_records_sends_one_changed_row_later(lab: MakeLab) -> None:
    it = lab("upsert", first_run="baseline")
    it.want("r1", "r2")
    assert it.sync().unchanged == 2
    it.want("r1", {"unit": "r2", "value": 2})
    assert it.sync().operations == {"change": 1}


def test_ae7_2_a_deleted_row_is_deleted_by_mirror_and_not_by_upsert(lab: MakeLab) -> None:
    it = lab("mirror")
    it.want("r1", "r2")
    it.sync()
    it.want("r1")
    assert it.sync().operations == {"exit": 1}
    assert it.destination.sent()[-1] == ("exit", "r2@x")
    it.activation = it.activation.model_copy(update={"trigger": it.activation.trigger.model_copy(update={"when": "upsert"})})
    it.want()
    assert (it.sync().unchanged, it.destination.sent()) == (1, [])
    it.want("r1")
    assert it.sync().operations == {"enter": 1}


def test_ae7_4_only_the_newest_version_of_a_refused_row_is_sent(lab: MakeLab) -> None:
    it = lab("upsert")
    it.want({"unit": "x", "value": 1})
    it.destination.script = [all_answer("waiting", "500")]
    it.sync()
    it.want({"unit": "x", "value": 2})
    it.destination.script = [all_answer("rejected", "500")]
    it.sync()
    it.want({"unit": "x", "value": 3})
    assert it.sync().delivered == 1
    assert [operation.payload["value"] for operation in it.destination.log] == [3]


# -- episodes and doubt --------------------------------------------------------------------------------------------------


def test_each_enter_begins_an_episode_and_has_its_own_message_id(lab: MakeLab) -> None:
    it = lab("enters", "append")
    it.people("p")
    for wanted in (["p"], [], ["p"]):
        it.want(*wanted)
        it.sync()
    first, second = it.destination.log
    assert first.message_id != second.message_id
    assert it.ledger()["p", "p@x"]["episode"] == 2


def test_an_enter_without_answer_is_sent_again_under_its_id_or_undone(lab: MakeLab) -> None:
    it = lab("enters_or_exits", rows=1)
    it.people("p", "q")
    it.want("p", "q")
    it.destination.script = [no_answer(arrived=True), no_answer(arrived=False)]
    assert it.sync().unknown == 2
    it.want("p")
    assert it.sync().operations == {"enter": 1, "exit": 1}
    assert list(it.destination.records) == ["p@x"]
    ids = {operation.message_id for operation in it.destination.log if operation.key == "p@x"}
    assert len(ids) == 1
    assert it.ledger()["q", "q@x"]["present"] is False


def test_an_append_without_answer_waits_for_someone_to_decide(lab: MakeLab) -> None:
    it = lab("enters", "append", rows=1)
    it.people("p", "q", "r")
    it.want("p", "q", "r")
    it.destination.script = [no_answer(arrived=True), no_answer(arrived=False)]
    it.sync()
    result = it.sync()
    assert (result.unknown, result.batches, result.unchanged) == (2, 0, 1)
    settled = questions.resolve_unknown(it.warehouse, Selection(key="p@x"), "delivered", it.now)
    missing = questions.resolve_unknown(it.warehouse, Selection(key=questions.key_hash("q@x")), "not_delivered", it.now)
    assert (settled, missing) == (1, 1)
    assert it.sync().delivered == 1
    assert sorted(it.destination.sent()) == [("enter", "p@x"), ("enter", "q@x"), ("enter", "r@x")]


def test_waiting_ends_after_its_days(lab: MakeLab) -> None:
    it = lab("enters", retry_for_days=2)
    it.people("p")
    it.want("p")
    it.destination.script = [all_answer("waiting", "503")] * 2
    assert it.sync().waiting == 1
    it.now += dt.timedelta(days=3)
    expired = it.sync()
    assert (expired.rejected, expired.batches) == (1, 0)
    assert it.sync().rejected == 1
    it.want({"unit": "p", "value": 2})
    it.destination.script = []
    assert it.sync().delivered == 1


# -- people --------------------------------------------------------------------------------------------------------------


def test_a_merge_is_never_an_exit_and_an_enter(lab: MakeLab) -> None:
    it = lab("enters_or_exits")
    it.people("old", "young", "other")
    it.want("old", "young", "other")
    it.sync()
    it.destination.sent()
    it.merge("young", "old")
    it.want({"unit": "old", "key": "young@x"}, "other")
    merged = it.sync()
    # The row with the current key stays, under the unit as delivered; the other is retracted.
    assert (merged.considered, merged.operations) == (3, {"retract": 1})
    assert it.destination.sent() == [("retract", "old@x")]
    assert it.sync().unchanged == 2
    it.want("other")
    assert it.sync().operations == {"exit": 1}
    assert it.destination.sent() == [("exit", "young@x")]
    # Unmerged, both sides begin as they are found.
    it.unmerge("young")
    it.want("old", "young", "other")
    apart = it.sync()
    assert (apart.unchanged, apart.batches) == (3, 0)
    assert it.present() == {"old@x", "young@x", "other@x"}


def test_a_merge_that_changes_nothing_else_is_recorded_so_that_an_unmerge_is_noticed(lab: MakeLab) -> None:
    it = lab()
    it.people("young", "old", "other")
    it.sync_after_want({"unit": "young", "key": "k@x", "value": 1}, "other")
    it.merge("young", "old")
    merged = it.sync_after_want({"unit": "old", "key": "k@x", "value": 1}, "other")
    assert (merged.considered, merged.unchanged, merged.batches) == (2, 2, 0)
    assert it.ledger()["young", "k@x"]["resolved_segment_id"] == "old"
    it.unmerge("young")
    apart = it.sync_after_want({"unit": "young", "key": "k@x", "value": 1}, {"unit": "old", "key": "o@x", "value": 1}, "other")
    assert (apart.considered, apart.unchanged, apart.batches) == (3, 3, 0), "both sides begin as they are found"


def test_a_merge_where_messages_only_append_is_silent(lab: MakeLab) -> None:
    it = lab("enters_or_exits", "append")
    it.people("old", "young")
    it.want("old", "young")
    it.sync()
    it.merge("young", "old")
    it.want("old")
    merged = it.sync()
    assert (merged.considered, merged.unchanged, merged.batches) == (2, 2, 0)
    assert it.present() == {"old@x"}


def test_a_renamed_profile_keeps_its_episode(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("before")
    it.want("before")
    it.sync()
    it.people("after")
    it._append(
        ID_ALIASES,
        [{"old_segment_id": "before", "new_segment_id": "after"}],
    )
    it.want({"unit": "after", "key": "before@x"})
    assert (it.sync().unchanged, len(it.destination.log)) == (1, 1)
    assert [row["segment_id"] for row in it.ledger().values()] == ["before"]


def test_a_changed_destination_key_moves_within_one_episode(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    it.want({"unit": "p", "key": "k1"}, {"unit": "q", "key": "kq"})
    it.sync()
    it.destination.sent()
    it.want({"unit": "p", "key": "k2"}, {"unit": "q", "key": "k1"})
    # k1 has another holder now: it is not taken away, and kq goes.
    assert it.sync().operations == {"change": 2, "retract": 1}
    assert it.destination.sent()[0] == ("retract", "kq")
    assert sorted(it.destination.records) == ["k1", "k2"]
    assert it.ledger()["p", "k2"]["episode"] == 1
    assert it.sync().unchanged == 2


def test_withdrawal_takes_back_with_key_and_flag_only_and_consent_enters_anew(lab: MakeLab) -> None:
    it = lab("enters_or_exits")
    it.people("p", "q", "r")
    it.want("p", "q", "r")
    it.sync()
    it.destination.log.clear()
    it.consent({"p": "false", "q": "conflict"})
    assert it.sync().operations == {"retract": 2}
    assert [operation.payload for operation in it.destination.log] == [{"key": f"{who}@x", "in": False} for who in "pq"]
    assert it.sync().withheld == {"consent": 2}
    it.consent({"p": "true"})
    assert it.sync().operations == {"enter": 1}
    assert it.ledger()["p", "p@x"]["episode"] == 2


def test_who_left_silently_is_still_taken_back(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p")
    it.want("p")
    it.sync()
    it.want()
    assert it.sync().unchanged == 1
    assert it.sync().considered == 0
    it.consent({"p": "false"})
    assert it.sync().operations == {"retract": 1}
    assert it.destination.records == {}
    assert rows_of(it, DELIVERY_STATE) == []


def test_an_exit_is_not_sent_to_who_withdrew(lab: MakeLab) -> None:
    it = lab("enters_or_exits", "append")
    it.people("p")
    it.want("p")
    it.sync()
    it.want()
    it.consent({"p": "false"})
    assert it.sync().withheld == {"consent": 1}
    it.consent({"p": "true"})
    assert it.sync().considered == 0
    assert it.destination.sent() == [("enter", "p@x")]


def suppress(it: Lab, kind: str, value: str, at: dt.datetime | None = None) -> None:
    record_suppression(it.warehouse, IdentitySettings(), kind, value, at or it.now)


def known_as(it: Lab, person: str, kind: str, value: str) -> None:
    it.seq += 1
    seen = {"seq": it.seq, "received_at": naive_utc(it.now - dt.timedelta(hours=1)), "__operation": "CREATED"}
    row = {"segment_id": person, "external_id_type": kind, "external_id_value": value, **seen}
    it._append(external_id_mapping_updates("people"), [row])


@pytest.mark.parametrize("kind", ["email", "user_id"])
def test_suppressed_people_are_taken_back_and_get_nothing(lab: MakeLab, kind: str) -> None:
    it = lab("enters")
    it.people("p", "q", "r")
    for person in "pqr":
        known_as(it, person, kind, f"{person}@x")
    it.want("p", "q", "r")
    it.sync()
    suppress(it, kind, "q@x")
    suppress(it, "anonymous_id", "r@x")  # a value of another type is another identifier
    it.want("p", {"unit": "q", "value": 2}, "r")
    assert it.sync().operations == {"retract": 1}
    assert it.sync().withheld == {"suppressed": 1}
    assert sorted(it.destination.records) == ["p@x", "r@x"]
    lift_suppression(it.warehouse, IdentitySettings(), kind, "q@x", it.now)
    assert it.sync().operations == {"enter": 1}


def test_of_a_suppressed_person_every_entity_is_taken_back_and_nothing_else_is_sent(lab: MakeLab) -> None:
    it = lab("enters_or_exits", unit="entity")
    it.people("p", "q")
    known_as(it, "p", "user_id", "u1")
    cards = ["p|accounts:cards|c1", "p|accounts:cards|c2", "q|accounts:cards|c3"]
    it.want(*cards)
    it.sync()
    assert sorted(it.destination.sent()) == [("enter", f"{card}@x") for card in cards]
    suppress(it, "user_id", "u1")
    it.want(cards[2])  # the next build has the person in no audience
    assert it.sync().operations == {"retract": 2}
    assert sorted(it.destination.sent()) == [("retract", f"{card}@x") for card in cards[:2]]
    assert it.sync().considered == 1
    assert it.destination.sent() == []


def test_where_nothing_can_be_taken_back_a_suppressed_person_gets_no_exit(lab: MakeLab) -> None:
    it = lab("enters_or_exits", "append")
    it.people("p")
    known_as(it, "p", "user_id", "u1")
    it.want("p")
    it.sync()
    suppress(it, "user_id", "u1")
    it.want()
    assert it.sync().withheld == {"suppressed": 1}
    lift_suppression(it.warehouse, IdentitySettings(), "user_id", "u1", it.now)
    assert it.sync().considered == 0
    assert it.destination.sent() == [("enter", "p@x")]


def test_a_merge_suppresses_the_whole_person_and_an_unmerge_only_the_side_that_was_named(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    known_as(it, "p", "email", "p@x")
    known_as(it, "q", "email", "q@x")
    suppress(it, "email", "q@x")
    it.merge("q", "p")
    it.want("p")
    assert it.sync().withheld == {"suppressed": 1}
    it.unmerge("q")
    it.consent({"q": "true"})
    it.want("p", "q")
    result = it.sync()
    assert (result.operations, result.withheld) == ({"enter": 1}, {"suppressed": 1})
    assert list(it.destination.records) == ["p@x"]


def test_who_is_suppressed_between_the_plan_and_the_batch_gets_nothing(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    known_as(it, "q", "user_id", "u1")
    it.want("p", "q")

    def agreed(ids: Sequence[str]) -> set[str]:
        suppress(it, "user_id", "u1")
        return sendable(it.warehouse, GRAPH, ["ads"], dt.datetime(9999, 1, 1, tzinfo=dt.UTC), ids)

    it.consent_now = agreed
    assert it.sync().operations == {"enter": 1}
    assert list(it.destination.records) == ["p@x"]
    assert it.sync().withheld == {"suppressed": 1}


def test_a_withheld_message_keeps_its_unit_in(lab: MakeLab) -> None:
    it = lab("enters_or_exits", sync_property_changes=True)
    it.people("p", "q", "r")
    it.want("p", "q", {"unit": "r", "verdict": "too_large"})
    assert it.sync().withheld == {"too_large": 1}
    it.want({"unit": "p", "verdict": "no_identifier", "key": None, "value": 2}, {"unit": "q", "verdict": "too_large"}, "r")
    result = it.sync()
    assert (result.considered, result.withheld, result.unchanged, result.delivered) == (3, {"no_identifier": 1}, 1, 1)
    assert it.present() == {"p@x", "q@x", "r@x"}


def test_consent_is_read_again_right_before_the_batch(lab: MakeLab) -> None:
    it = lab("enters", rows=1)
    it.people("p1", "p2", "p3")
    it.want("p1", "p2", "p3")
    it.consent_now = lambda ids: set(ids) - {"p3"}
    result = it.sync()
    assert (result.delivered, result.withheld) == (2, {"consent": 1})
    assert ("p3", "p3@x") not in it.ledger()


# -- holds ---------------------------------------------------------------------------------------------------------------


def test_a_changed_definition_is_held_until_released_and_then_exactly_the_difference_goes(lab: MakeLab) -> None:
    it = lab("enters_or_exits")
    it.people("p", "q", "r", "s")
    it.want("p", "q", "s")
    it.sync()
    it.destination.sent()
    it.revision = "rev-2"
    it.want("q", "r", "s")
    for _ in range(2):
        result = it.sync()
        assert (result.hold, result.held, result.unchanged) == ("definition changed", {"definition changed": 2}, 2)
    assert it.sync(backfill=True).hold == "backfill"
    # What consent requires goes all the same.
    it.consent({"s": "false"})
    assert it.sync().operations == {"retract": 1}
    assert it.destination.sent() == [("retract", "s@x")]
    release(it.warehouse, "act", "send", it.now)
    assert it.sync().operations == {"enter": 1, "exit": 1}
    assert sorted(it.destination.sent()) == [("enter", "r@x"), ("exit", "p@x")]
    with pytest.raises(NothingHeldError):
        release(it.warehouse, "act", "send", it.now)


@pytest.mark.parametrize("policy", ["hold", "rebaseline"])
def test_rebaseline_takes_the_new_state_as_sent(lab: MakeLab, policy: str) -> None:
    it = lab("enters_or_exits", on_definition_change=policy)
    it.people("p", "q", "r")
    it.want("p", "q")
    it.sync()
    it.revision = "rev-2"
    it.want({"unit": "q", "value": 2}, "r")
    if policy == "hold":
        assert it.sync().hold == "definition changed"
        release(it.warehouse, "act", "rebaseline", it.now)
    result = it.sync()
    assert (result.unchanged, result.batches) == (3, 0)
    it.want("r")
    assert it.sync().operations == {"exit": 1}


def test_exits_and_tables_hold_and_the_restored_state_goes_on(lab: MakeLab) -> None:
    it = lab("enters_or_exits", guardrails={"max_exits": 1})
    it.people("p", "q", "r", "s")
    it.tables = {"bank.cards": 10, "bank.accounts": 10}
    it.want("p", "q", "r", "s")
    it.sync()
    it.destination.sent()
    it.want("p")
    assert it.sync().held == {"guardrail": 3}
    it.tables = {"bank.cards": 0, "bank.accounts": 3}
    emptied = it.sync_after_want("p", "q", "r", "s")
    assert (emptied.hold, emptied.unchanged) == ("guardrail", 4)
    assert "bank.cards is empty" in emptied.hold_detail and "bank.accounts has 3 rows" in emptied.hold_detail
    assert it.destination.sent() == []
    it.tables = {"bank.cards": 10, "bank.accounts": 10}
    assert it.sync_after_want("p", "q", "r").operations == {"exit": 1}


def test_checks_and_older_payloads_hold(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    it.want("p")
    assert it.sync(failed_checks=("members are profiles: missing",)).held == {"checks": 1}
    with pytest.raises(NothingHeldError):
        release(it.warehouse, "act", "send", it.now)
    it.want("p")
    it.sync()
    now, it.now = it.now, it.now - dt.timedelta(days=1)
    it.want("p", "q")
    it.now = now
    assert it.sync().held == {"older as_of": 1}


def test_a_lost_ledger_is_held_whoever_remembers(lab: MakeLab) -> None:
    it = lab("enters", first_run="baseline")
    it.people("p", "q")
    it.want("p")
    assert it.sync(history_knows=True).hold == "ledger lost"
    assert it.sync().hold == "ledger lost"
    release(it.warehouse, "act", "rebaseline", it.now)
    assert it.sync().unchanged == 1
    # The whole warehouse is gone, the journal is not.
    for spec in (LEDGER, SYNCS, INTENTS):
        it.warehouse.delete(spec.ref, [])
    it.want("p", "q")
    assert it.sync().held == {"ledger lost": 2}
    release(it.warehouse, "act", "send", it.now)
    assert it.sync().operations == {"enter": 2}


def test_another_destination_a_new_name_and_a_retired_key_are_held(lab: MakeLab) -> None:
    it = lab("enters_or_exits")
    it.people("p")
    it.want("p")
    it.sync()
    it.activation = it.activation.model_copy(update={"destination": "erp"})
    assert it.sync().hold == "destination changed"
    # Another account has a ledger of its own.
    it.activation = it.activation.model_copy(update={"destination": "crm"})
    it.account = "live:1"
    assert it.sync().operations == {"enter": 1}
    it.activation = it.activation.model_copy(update={"key": "renamed"})
    it.want("p")
    assert it.sync(active={"renamed"}).hold == "renamed"
    it.activation = it.activation.model_copy(update={"key": "act"})
    retire(it.warehouse, "act", it.now)
    assert it.sync().hold == "retired key"
    with pytest.raises(UnknownActivationError):
        retire(it.warehouse, "nobody", it.now)


def test_retiring_with_exits_empties_the_destination(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    it.want("p", "q")
    it.sync()
    result = retire_with_exits(it.request(), it.around)
    assert (result.operations, it.destination.records) == ({"retract": 2}, {})
    assert it.sync().hold == "retired key"


def test_an_activation_without_payloads_says_so(lab: MakeLab) -> None:
    with pytest.raises(SyncError, match="build them first"):
        lab("enters").sync()


# -- crashes -------------------------------------------------------------------------------------------------------------


def crashed_at(it: Lab, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a sync that dies at ``point``."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if point == "before the warehouse commits":
            patch.setattr("cdp_assets.destination_syncs.plan._write", die)
        elif point == "before the journal has the operations":
            patch.setattr(Journal, "fill", die)
        elif point == "before the first batch":
            patch.setattr(Journal, "sending", die)
        elif point == "before the ledger has the answers":
            patch.setattr("cdp_assets.destination_syncs.settle._merge", die)
        elif point == "before the journal knows that they are settled":
            patch.setattr(Journal, "settled", die)
        with pytest.raises(KeyboardInterrupt):
            it.sync()
    it.now += dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("point", "arrived"),
    [
        ("before the warehouse commits", False),
        ("before the journal has the operations", False),
        ("before the first batch", False),
        ("before the ledger has the answers", True),
        ("before the journal knows that they are settled", True),
    ],
)
def test_a_crash_at_a_phase_boundary_loses_nothing_and_sends_nothing_twice(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch, point: str, arrived: bool
) -> None:
    it = lab("enters", "append")
    it.people("p", "q")
    it.want("p", "q")
    crashed_at(it, point, monkeypatch)
    assert len(it.destination.log) == (2 if arrived else 0)
    result = it.sync()
    assert (result.considered, result.unknown) == (2, 0)
    assert len(it.destination.log) == 2
    assert it.journal.unsettled() == []
    finished = [row for row in rows_of(it, SYNCS) if row["state"] == "settled"]
    for row in finished:
        counted = row["unchanged"] + row["delivered"] + row["waiting"] + row["unknown"] + row["rejected"]
        assert counted == row["considered"] == 2


def test_a_lost_journal_turns_what_was_open_into_unknown(lab: MakeLab, tmp_path: Path) -> None:
    it = lab("enters", "append", rows=1)
    it.people("p", "q")
    it.want("p", "q")
    it.destination.script = [None, crash(arrived=False)]
    it.crash_in_sync()
    with Journal(f"sqlite:///{tmp_path / 'another.sqlite'}") as empty:
        it.journal = empty
        result = it.sync()
        assert (result.unknown, result.batches) == (2, 0)
        assert {row["reason"] for row in rows_of(it, OUTCOMES)} == {"journal lost"}


def test_settling_the_same_answers_again_changes_nothing(lab: MakeLab) -> None:
    it = lab("enters_or_exits", rows=1)
    it.people("p", "q", "r")
    it.want("p", "q", "r")
    it.destination.script = [None, no_answer(arrived=True), all_answer("rejected", "no")]
    request = it.request()
    planned = plan(it.warehouse, it.journal, request)
    deliver(request, planned, it.around)
    (sync,) = open_syncs(it.warehouse)
    with (
        it.warehouse.staged(it.warehouse.table(INTENTS.ref)) as kept,
        it.warehouse.staged(it.warehouse.table(SYNCS.ref)) as synced,
    ):
        answers = list(it.journal.answers(planned.token))
        first = settle_sync(it.warehouse, it.journal, sync, it.now)
        tables = (LEDGER, DELIVERY_STATE, OUTCOMES, SYNCS, INTENTS)
        once = {spec.ref: sorted(map(str, rows_of(it, spec))) for spec in tables}
        # The warehouse's commit was there, the journal's mark was not: the same answers come again.
        for spec, rows in ((INTENTS, kept), (SYNCS, synced)):
            it.warehouse.delete(spec.ref, [])
            it.warehouse.insert(spec.ref, rows)
        it.journal.begin(planned.token, "act", "sandbox", planned.seq)
        operations = [
            {
                "message_id": row["message_id"],
                "kind": "enter",
                "destination_key": row["message_id"],
                "subject_id": None,
                "payload": "{}",
            }
            for page in answers
            for row in page.to_pylist()
        ]
        it.journal.fill(planned.token, [operations])
        it.journal.answered(planned.token, _as_answers(answers))
        _stamp(it.journal, planned.token, answers)
        again = settle_sync(it.warehouse, it.journal, sync, it.now)
    assert again == first
    ledger_again = {spec.ref: sorted(map(str, rows_of(it, spec))) for spec in tables}
    attempts = {row["attempts"] for row in it.ledger().values()}
    assert ledger_again[OUTCOMES.ref] == once[OUTCOMES.ref]
    assert ledger_again[SYNCS.ref] == once[SYNCS.ref]
    assert attempts <= {1, 2}
    assert settle_all(it.warehouse, it.journal, it.now) == []
    assert {spec.ref: sorted(map(str, rows_of(it, spec))) for spec in tables} == ledger_again


def _as_answers(pages: list[pa.Table]) -> list[Any]:
    from cdp_assets.destination_syncs.journal import Answer

    rows = [row for page in pages for row in page.to_pylist()]
    return [
        Answer(n, row["status"], row["reason"] or "", row["warning"] or "", row["remote_id"] or "") for n, row in enumerate(rows)
    ]


def _stamp(journal: Journal, token: str, pages: list[pa.Table]) -> None:
    from cdp_assets.destination_syncs.journal import _OPERATIONS

    rows = [row for page in pages for row in page.to_pylist()]
    with journal._engine.begin() as connection:
        for n, row in enumerate(rows):
            update = _OPERATIONS.update().where(_OPERATIONS.c.token == token, _OPERATIONS.c.position == n)
            connection.execute(update.values(attempted_at=row["attempted_at"]))


# -- the ledger's answers ------------------------------------------------------------------------------------------------


def test_dead_letters_are_found_shown_masked_and_replayed(lab: MakeLab) -> None:
    it = lab("enters")
    it.people("p", "q")
    it.want("p", "q")

    def refuse_p(fake: Any, operations: Any) -> list[Outcome]:
        return [Outcome(o.id, "rejected", "INVALID_EMAIL") if o.key == "p@x" else fake.take(o) for o in operations]

    it.destination.script = [refuse_p]
    it.sync()
    (letter,) = questions.dead_letters(it.warehouse)
    assert letter["request"] == {"key": "•••", "value": "•••", "in": True, "id": "•••"}
    assert "p@x" not in json.dumps(letter, default=str)
    counts = {(row["outcome"], row["reason"]): row["keys"] for row in questions.outcomes(it.warehouse, activation="act")}
    assert counts == {("delivered", ""): 1, ("rejected", "INVALID_EMAIL"): 1}
    assert questions.syncs(it.warehouse)[0]["operations"] == {"enter": 1}
    assert questions.replay(it.warehouse, Selection(reason="SOMETHING_ELSE"), it.now) == 0
    assert questions.replay(it.warehouse, Selection(run_id="run-1", reason="INVALID_EMAIL"), it.now) == 1
    assert it.sync().delivered == 1
    attempts = questions.history(it.warehouse, Selection(key="p@x"))
    assert [(row["status"], row["operation"]) for row in attempts] == [("delivered", "enter"), ("rejected", "enter")]
    assert questions.dead_letters(it.warehouse) == []


def test_each_system_has_a_book_of_jobs_of_its_own(lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    it = lab("enters")
    it.people("p")
    it.want("p")
    books: list[Any] = []
    monkeypatch.setattr(type(it.destination), "remember", lambda _, jobs: books.append(jobs))
    assert it.sync().delivered == 1
    assert [(book.account, book.open()) for book in books] == [(f"{it.destination.capabilities.type}:sandbox", [])]
