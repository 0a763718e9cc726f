"""The trigger table, every transition under every trigger, and what no combination of facts may ever lead to."""

from __future__ import annotations

import itertools
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pytest

from cdp_assets.destination_syncs import states
from cdp_assets.destination_syncs.intents import message_id_expression
from cdp_assets.destination_syncs.states import FACTS, Effect, Op, Outcome, Policy, message_id, policy_of
from resources.warehouse import TableRef, TableSpec, Warehouse
from tests.destination_syncs.lab import capabilities

FACT_TABLE = TableSpec(TableRef("lab", "facts"), {"n": "int64", **FACTS, "row_reason": "string"}, "facts", subject=None)
CLEAN = {
    **dict.fromkeys((name for name, kind in FACTS.items() if kind == "boolean"), False),
    **dict.fromkeys((name for name, kind in FACTS.items() if kind == "string"), ""),
    "verdict": "ok",
    "due": True,
    "closed_reason": "consent",
    "row_reason": "as before",
}


def decided(
    warehouse: Warehouse, policy: Policy, facts: list[dict[str, Any]], hold: str = "", **options: Any
) -> list[dict[str, Any]]:
    rows = [{**CLEAN, **fact, "n": n} for n, fact in enumerate(facts)]
    if not warehouse.has(FACT_TABLE.ref):
        warehouse.ensure(FACT_TABLE)
    warehouse.delete(FACT_TABLE.ref, [])
    warehouse.append(FACT_TABLE.ref, pa.Table.from_pylist(rows, schema=FACT_TABLE.schema.to_pyarrow()))

    def build() -> ir.Table:
        table = states.decide(warehouse.table(FACT_TABLE.ref), policy)
        return states.under_hold(table, hold, **options) if hold else table

    table = warehouse.template(("rules", policy, hold, *options.values()), build, {})
    return warehouse.arrow(table.order_by("n")).to_pylist()


IN, OUT = {"present": True, "held": True, "status": "delivered"}, {}
TRANSITIONS: dict[str, dict[str, Any]] = {
    "enter": {**OUT, "desired": True, "changed": True},
    "exit": {**IN, "changed": True},
    "change": {**IN, "desired": True, "changed": True},
    "stay": {**IN, "desired": True},
}
SEND_ENTER, SEND_EXIT, SEND_CHANGE = ("enter", "", "planned"), ("exit", "", "planned"), ("change", "", "planned")
ARM, DISARM, NOTHING = ("", "arm", "unchanged"), ("", "disarm", "unchanged"), ("", "", "unchanged")
TABLE = {
    # trigger, property changes:        enter       exit       change       stay
    ("enters", False): (SEND_ENTER, DISARM, NOTHING, NOTHING),
    ("enters", True): (SEND_ENTER, DISARM, NOTHING, NOTHING),
    ("exits", False): (ARM, SEND_EXIT, NOTHING, NOTHING),
    ("exits", True): (ARM, SEND_EXIT, NOTHING, NOTHING),
    ("enters_or_exits", False): (SEND_ENTER, SEND_EXIT, NOTHING, NOTHING),
    ("enters_or_exits", True): (SEND_ENTER, SEND_EXIT, SEND_CHANGE, NOTHING),
    ("upsert", False): (SEND_ENTER, DISARM, SEND_CHANGE, NOTHING),
    ("mirror", False): (SEND_ENTER, SEND_EXIT, SEND_CHANGE, NOTHING),
    ("occurs", False): (SEND_ENTER, NOTHING, NOTHING, NOTHING),
}


@pytest.mark.parametrize(("trigger", "property_changes"), TABLE)
@pytest.mark.parametrize("resend", ["upsert", "append"])
def test_the_trigger_table(duckdb_warehouse: Warehouse, trigger: str, property_changes: bool, resend: str) -> None:
    policy = policy_of(trigger, capabilities(resend), property_changes=property_changes)
    rows = decided(duckdb_warehouse, policy, list(TRANSITIONS.values()))
    assert [(row["operation"], row["effect"], row["outcome"]) for row in rows] == list(TABLE[trigger, property_changes])


def test_every_trigger_of_the_configuration_is_in_the_table() -> None:
    assert {trigger for trigger, _ in TABLE} == set(states.TRIGGERS)


CASES: list[tuple[str, str, str, dict[str, Any], tuple[str, str, str, str]]] = [
    # what, trigger, resend, facts, (operation, effect, outcome, reason)
    ("a rejected message waits for another payload", "enters", "upsert",
     {"desired": True, "changed": True, "status": "rejected", "tried": "enter", "same": True}, ("enter", "", "rejected", "as before")),
    ("another payload is tried", "enters", "upsert",
     {"desired": True, "changed": True, "status": "rejected", "tried": "enter"}, ("enter", "", "planned", "")),
    ("a parked message waits", "enters", "upsert",
     {"desired": True, "changed": True, "status": "waiting", "tried": "enter", "due": False}, ("enter", "", "waiting", "as before")),
    ("a wait has an end", "enters", "upsert",
     {"desired": True, "changed": True, "status": "waiting", "tried": "enter", "expired": True}, ("enter", "expire", "rejected", "expired")),
    ("who left while waiting was never there", "enters", "upsert",
     {"status": "waiting", "tried": "enter"}, ("", "close", "unchanged", "")),
    ("an enter without answer is sent again where that is safe", "enters", "upsert",
     {"desired": True, "changed": True, "status": "unknown", "tried": "enter", "uncertain": "enter"}, ("enter", "", "planned", "")),
    ("and blocks where it is not", "enters", "append",
     {"desired": True, "changed": True, "status": "unknown", "tried": "enter", "uncertain": "enter"},
     ("", "", "unknown", "no answer, sending twice is unsafe")),
    ("an enter without answer may have to be undone", "enters_or_exits", "upsert",
     {"status": "unknown", "tried": "enter", "uncertain": "enter"}, ("exit", "", "planned", "")),
    ("an exit without answer is said again to who came back", "enters_or_exits", "upsert",
     {**IN, "desired": True, "status": "unknown", "tried": "exit", "uncertain": "exit"}, ("enter", "", "planned", "")),
    ("who withdrew is taken back", "enters", "upsert",
     {**IN, "desired": True, "closed": True, "verdict": "consent"}, ("retract", "", "planned", "consent")),
    ("also long after leaving, as long as the destination holds them", "enters", "upsert",
     {"held": True, "status": "recorded", "closed": True}, ("retract", "", "planned", "consent")),
    ("where nothing can be taken back, nothing is sent", "enters", "append",
     {**IN, "desired": True, "closed": True, "verdict": "consent"}, ("", "", "withheld", "consent")),
    ("an exit is not sent to who does not consent, now or later", "exits", "append",
     {**IN, "closed": True}, ("", "disarm", "withheld", "consent")),
    ("a message too large keeps its unit in", "enters_or_exits", "upsert",
     {"desired": True, "changed": True, "verdict": "too_large"}, ("enter", "", "withheld", "too_large")),
    ("another row of the person is retracted, never exited", "enters_or_exits", "upsert",
     {**IN, "loser": True}, ("retract", "", "planned", "replaced")),
    ("or dropped where messages only append", "enters_or_exits", "append", {**IN, "loser": True}, ("", "drop", "unchanged", "")),
    ("or dropped when its key has another holder", "enters_or_exits", "upsert",
     {**IN, "loser": True, "claimed": True}, ("", "drop", "unchanged", "")),
    ("who moves to another key does not enter again", "enters", "upsert",
     {"desired": True, "changed": True, "moved": True}, ("change", "", "planned", "")),
    ("nor later, when the move did not get through", "enters", "upsert",
     {"desired": True, "changed": True, "status": "waiting", "tried": "change"}, ("change", "", "planned", "")),
    ("and moves silently where messages only append", "enters", "append",
     {"desired": True, "changed": True, "moved": True}, ("", "arm", "unchanged", "")),
    ("a baseline takes members as sent", "enters", "upsert", {"desired": True, "changed": True, "rebase": True}, ("", "arm", "unchanged", "")),
    ("but not those whose message may not go", "enters", "upsert",
     {"desired": True, "changed": True, "rebase": True, "verdict": "no_identifier"}, ("enter", "", "withheld", "no_identifier")),
    ("a baseline exits nobody", "enters_or_exits", "upsert", {**IN, "rebase": True}, ("", "disarm", "unchanged", "")),
    ("a second row of a key is cleared", "enters", "upsert", {**IN, "shadow": True}, ("", "drop", "unchanged", "")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_what_stands_in_the_way(duckdb_warehouse: Warehouse, case: tuple) -> None:
    _, trigger, resend, facts, expected = case
    row = decided(duckdb_warehouse, policy_of(trigger, capabilities(resend)), [facts])[0]
    assert (row["operation"], row["effect"], row["outcome"], row["reason"]) == expected


def all_facts() -> list[dict[str, Any]]:
    """Every combination that matters: membership, attempts, people, holds on the message."""
    memberships = itertools.product([False, True], [False, True], [False, True], [False, True])
    attempts = [("", "", ""), ("recorded", "", ""), ("delivered", "enter", "")]
    attempts += [(status, tried, "") for status in ("rejected", "waiting") for tried in ("enter", "change", "exit", "retract")]
    attempts += [(status, tried, tried) for status in ("unknown", "waiting") for tried in ("enter", "change", "exit", "retract")]
    people = ["", "moved", "loser", "claimed", "shadow"]
    found = []
    for (desired, present, held, changed), (status, tried, uncertain), who in itertools.product(memberships, attempts, people):
        for closed, verdict, rebase, due in itertools.product([False, True], ["ok", "too_large"], [False, True], [False, True]):
            found.append(
                {
                    "desired": desired,
                    "present": present,
                    "held": held,
                    "changed": changed,
                    "status": status,
                    "tried": tried,
                    "uncertain": uncertain,
                    "closed": closed,
                    "verdict": verdict,
                    "rebase": rebase,
                    "due": due,
                    "moved": who == "moved",
                    "loser": who in ("loser", "claimed"),
                    "claimed": who == "claimed",
                    "shadow": who == "shadow",
                    "same": changed,
                }
            )
    return found


@pytest.mark.parametrize(
    ("trigger", "resend"), [("enters", "append"), ("enters_or_exits", "upsert"), ("exits", "set"), ("mirror", "upsert")]
)
def test_whatever_the_facts_the_rules_of_the_house_hold(duckdb_warehouse: Warehouse, trigger: str, resend: str) -> None:
    policy = policy_of(trigger, capabilities(resend), property_changes=True)
    facts = all_facts()
    rows = decided(duckdb_warehouse, policy, facts)
    assert len(rows) == len(facts)
    for row in rows:
        operation = row["operation"] if row["outcome"] == Outcome.planned else ""
        assert row["outcome"] in set(Outcome) - {Outcome.delivered, Outcome.held}
        assert (row["outcome"] == Outcome.planned) == (operation != ""), row
        assert not (operation and row["effect"]), row
        if row["closed"]:
            assert operation in ("", "retract"), row
        if row["loser"] or row["shadow"]:
            assert operation in ("", "retract"), row
        if row["rebase"] and not row["closed"]:
            assert operation == "", row
        if not row["desired"]:
            assert operation in ("", "exit", "retract"), row
        if row["verdict"] != "ok":
            assert operation not in ("enter", "change"), row
        if operation == "retract":
            assert policy.can_retract and (row["closed"] or row["loser"]), row
        if policy.append and row["uncertain"] and not row["shadow"]:
            assert row["outcome"] == Outcome.unknown, row
        if row["status"] == "waiting" and not row["due"]:
            assert operation == "", row
    held = decided(duckdb_warehouse, policy, facts, "guardrail", retracts_pass=True)
    for before, row in zip(rows, held, strict=True):
        assert row["effect"] == Effect.none
        if row["outcome"] == Outcome.planned:
            assert row["operation"] == Op.retract and row["closed"], row
        moves = before["outcome"] == Outcome.planned or before["effect"] in ("arm", "disarm", "drop", "expire")
        if row["outcome"] != before["outcome"]:
            assert moves and row["outcome"] == Outcome.held and row["reason"] == "guardrail"
    silent = decided(duckdb_warehouse, policy, facts, "backfill", retracts_pass=False)
    assert Outcome.planned not in {row["outcome"] for row in silent}


def test_the_message_id_is_one_formula_on_every_engine(warehouse: Warehouse) -> None:
    spec = TableSpec(
        TableRef("lab", "messages"),
        {"unit": "string", "destination_key": "string", "operation": "string", "next_episode": "int64", "message_hash": "string"},
        "messages",
        subject=None,
    )
    warehouse.ensure(spec)
    rows = [("p|1", "a|b@x", "enter", 1, "h"), ("p|1", "a|b@x", "change", 2, "h"), ("p", "1|a", "exit", 12, None)]
    warehouse.append(spec.ref, pa.Table.from_pylist([dict(zip(spec.columns, row, strict=True)) for row in rows]))
    table = warehouse.table(spec.ref)
    found = warehouse.rows(table.mutate(id=message_id_expression(table, "act", "sandbox")).order_by("next_episode"), 3)
    assert [row["id"] for row in found] == [message_id("act", "sandbox", *row[:4], row[4] or "") for row in rows]
    assert len({row["id"] for row in found}) == 3
