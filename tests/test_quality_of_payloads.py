"""The rules of payloads and syncs fail on tables that break them, on both engines, and let right ones pass."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest

from cdp_assets.activation_payloads import schemas as payloads
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.destination_syncs import schemas as syncs
from cdp_assets.destination_syncs.tables import INTENTS, LEDGER, OUTCOMES, SYNCS
from cdp_assets.quality import RowRule, RuleResult, evaluate
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.models.settings import DestinationConfig, SpaceConfig
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import CONSENT_STATES, external_id_mapping_updates, id_graph_updates
from resources.destinations import FieldRule
from resources.warehouse import TableSpec, Warehouse

T0 = dt.datetime(2026, 1, 1)
GRAPH = DataGraph("v1.0.0", "DB.PROFILES", "segment:materialized", (), ())
CONFIG = SpaceConfig(name="test", start_date=dt.date(2026, 1, 1), destinations={"crm": DestinationConfig(type="salesforce")})


def put(warehouse: Warehouse, spec: TableSpec, rows: Sequence[dict[str, Any]]) -> Any:
    """The table with these rows; what a row does not say is NULL."""
    warehouse.ensure(spec)
    target = spec.schema.to_pyarrow()
    if rows:
        warehouse.append(spec.ref, arrow.table({f.name: arrow.array([r.get(f.name) for r in rows], f.type) for f in target}))
    return warehouse.table(spec.ref)


def broken(results: Sequence[RuleResult]) -> dict[str, int]:
    return {result.rule: result.failing for result in results if not result.passed}


def samples(results: Sequence[RuleResult], rule: str) -> list[dict[str, Any]]:
    return [dict(row) for result in results if result.rule == rule for row in result.sample]


def space_of(consent: dict[str, Any], **more: Any) -> tuple[Space, Activation]:
    """A space with one activation to Salesforce contacts."""
    activation = Activation.model_validate(
        {
            "key": "ads",
            "name": "Ads",
            "destination": "crm",
            "settings": {"object": "Contact", "key_field": "Email", "flag_field": "In__c"},
            "mapping": {
                "Email": {"@path": "$.e"},
                "LastName": {"@path": "$.n"},
                "In__c": True,
                "Nested__c": {"Plan": {"@path": "$.p"}},
            },
            "consent": consent,
            "first_run": "send",
            "audience": "a",
            "trigger": {"unit": "profile", "when": "enters"},
            **more,
        }
    )
    return Space(Path("nowhere"), CONFIG, GRAPH, activations={"ads": activation}), activation


def row(unit: str, **values: Any) -> dict[str, Any]:
    """A payload that breaks nothing, but for ``values``; a dict payload is written as JSON."""
    payload = values.pop("payload", {"Email": f"{unit}@example.com", "LastName": "Byron"})
    given = {
        "activation": "ads",
        "unit": unit,
        "canonical_segment_id": unit,
        "destination_key": f"{unit}@example.com",
        "payload": json.dumps(payload, separators=(",", ":"), ensure_ascii=False) if isinstance(payload, dict) else payload,
        "payload_hash": "h",
        "retract_payload": json.dumps({"Email": f"{unit}@example.com", "In__c": False}),
        "verdict": "ok",
        "as_of": T0,
        "definition_revision": "r",
    }
    return given | values


def people(warehouse: Warehouse) -> None:
    """p1 consents to Ads; p2 merged into p1; p3 to Ads and Mail but later no more to Ads; p4 is in conflict; p5 said nothing."""
    created = [("p1", "p1"), ("p2", "p2"), ("p3", "p3"), ("p4", "p4"), ("p5", "p5"), ("p2", "p1")]
    put(
        warehouse,
        id_graph_updates("profiles"),
        [{"segment_id": s, "canonical_segment_id": c, "seq": n, "received_at": T0} for n, (s, c) in enumerate(created)],
    )
    states = [
        ("p1", "Ads", "true"),
        ("p1", "Mail", "true"),
        ("p2", "Ads", "false"),
        ("p3", "Ads", "true"),
        ("p3", "Mail", "true"),
    ]
    states += [("p3", "Ads", "false"), ("p4", "Ads", "conflict"), ("p4", "Mail", "true")]
    put(
        warehouse,
        CONSENT_STATES,
        [{"segment_id": s, "category": c, "value": v, "seq": n, "received_at": T0} for n, (s, c, v) in enumerate(states)],
    )
    known = [("p1", "email", "ada@example.com"), ("p3", "user_id", "1001"), ("p3", "external_key", "Gold Müller")]
    put(
        warehouse,
        external_id_mapping_updates("profiles"),
        [
            {"segment_id": s, "external_id_type": t, "external_id_value": v, "seq": n, "received_at": T0, "__operation": "ADDED"}
            for n, (s, t, v) in enumerate(known)
        ],
    )


def test_a_payload_that_may_go_is_consented_complete_and_fits(warehouse: Warehouse) -> None:
    people(warehouse)
    space, activation = space_of({"subject": "profile", "categories": ["Ads", "Mail"]})
    rows = [row("p1"), row("p2"), row("p3", verdict="consent", payload=None)]  # p2 is p1 now
    table = put(warehouse, PAYLOADS, rows)
    rules = payloads.payload_rules(space, activation)
    assert broken(evaluate(warehouse, payloads.payloads_schema(), table, extra_rules=rules)) == {}
    bad = [
        *(row(unit) for unit in ("p3", "p4", "p5", "p9")),
        row("nobody", canonical_segment_id=None),
        row("p1"),
        row("v", verdict="fine"),
        row("p1|cards|1", payload={"Email": "nonsense", "LastName": ""}),
        row("p1|cards|2", payload={"Email": None, "LastName": "x" * 81}, canonical_segment_id="p1", destination_key=""),
        row("kept", verdict="suppressed"),
        row("chatty", verdict="filter", retract_payload='{"Email":"p1@example.com","LastName":"Byron"}'),
        {"activation": None, "unit": "", "verdict": None},
    ]
    put(warehouse, PAYLOADS, bad)
    results = evaluate(warehouse, payloads.payloads_schema(), table, extra_rules=rules)
    assert broken(results) == {
        "activation.not_null": 1,
        "unit.str_length": 1,
        "verdict.not_null": 1,
        "verdict.isin": 1,
        "as_of.not_null": 1,
        "definition_revision.not_null": 1,
        "unique(activation, unit)": 4,
        "consented": 6,
        "destination_fields": 2,
        "ok_is_complete": 1,
        "withheld_keeps_nothing": 1,
        "retract_is_bare": 1,
    }
    assert [sample["unit"] for sample in samples(results, "consented")][:5] == ["nobody", "p1|cards|1", "p3", "p4", "p5"]
    assert samples(results, "destination_fields") == [
        {"activation": "ads", "unit": "p1|cards|1", "problem": "Email is no email"},
        {"activation": "ads", "unit": "p1|cards|2", "problem": "LastName is longer than 80 characters"},
    ]
    assert "example.com" not in str([result.sample for result in results])


def test_where_nobody_is_concerned_no_text_is_an_identifier(warehouse: Warehouse) -> None:
    people(warehouse)
    space, activation = space_of(
        {"subject": "none", "reason": "companies"}, audience=None, model="m", trigger={"unit": "row", "when": "upsert"}
    )
    rows = [
        row("1", payload={"Email": "info@example.org", "LastName": "Acme", "In__c": 1001}),
        row("2", payload={"Email": "ADA@example.com", "LastName": "Acme"}),
        row("3", payload={"Email": "x@example.org", "LastName": "1001"}),
        row("4", payload={"Email": "y@example.org", "LastName": "Acme", "Nested__c": {"Plan": "gold müller"}}),
        row("2", payload={"Email": "ada@example.com"}, activation="other"),
    ]
    rules = [rule for rule in payloads.payload_rules(space, activation) if rule.name == payloads.NOBODY]
    assert payloads.CONSENTED not in [rule.name for rule in payloads.payload_rules(space, activation)]
    results = evaluate(warehouse, payloads.payloads_schema(), put(warehouse, PAYLOADS, rows), extra_rules=rules)
    assert broken(results) == {payloads.NOBODY: 3}
    assert samples(results, payloads.NOBODY)[0] == {"unit": "2", "field": "Email", "identifier_type": "email"}


FIELDS = {
    "text": FieldRule("string", max_length=3),
    "number": FieldRule("number"),
    "whole": FieldRule("integer"),
    "truth": FieldRule("boolean"),
    "mail": FieldRule("email"),
    "instant": FieldRule("datetime"),
    "day": FieldRule("date"),
    "must": FieldRule("number", required=True),
    "free": FieldRule(),
}
RIGHT = {
    "text": "abc",
    "number": 1.5,
    "whole": "12",
    "truth": True,
    "mail": "a@b.co",
    "instant": "2026-01-01T00:00:00Z",
    "day": "2026-01-01",
    "must": 0,
    "free": {"a": [1]},
}
WRONG = {
    "text": "abcd",
    "number": "one",
    "whole": 1.5,
    "truth": "yes",
    "mail": "a@b",
    "instant": "soon",
    "day": "1 January",
    "must": "",
    "extra": "x",
}


def test_every_kind_of_field_rule_finds_the_value_that_breaks_it(warehouse: Warehouse) -> None:
    rows = [row("right", payload=RIGHT), row("nulls", payload={**dict.fromkeys(RIGHT), "must": "7"})]
    rows += [row(name, payload={**RIGHT, name: value}) for name, value in WRONG.items()]
    rows += [row("absent", payload={name: value for name, value in RIGHT.items() if name != "must"})]
    rows += [row("withheld", payload=WRONG, verdict="invalid")]
    rule: RowRule = payloads._destination_fields(FIELDS, [*FIELDS, "extra", "@merge"])
    results = evaluate(warehouse, payloads.payloads_schema(), put(warehouse, PAYLOADS, rows), extra_rules=[rule])
    found = {sample["unit"]: sample["problem"] for sample in samples(results, payloads.FIELD_RULES)}
    assert broken(results) == {payloads.FIELD_RULES: 10}
    assert found == {
        "absent": "must is required",
        "day": "day is no date",
        "extra": "extra is not a field of the object",
        "instant": "instant is no datetime",
        "mail": "mail is no email",
        "must": "must is required",
        "number": "number is no number",
        "text": "text is longer than 3 characters",
        "truth": "truth is no boolean",
        "whole": "whole is no integer",
    }


# -- syncs ---------------------------------------------------------------------------------------------------------------------

KEY = {"activation": "ads", "account": "x", "unit": "p1", "destination_key": "k"}
SYNC = {
    "activation": "ads",
    "account": "x",
    "seq": 1,
    "state": "settled",
    "withheld": "{}",
    "held": "{}",
    "warnings": 0,
    "present": 3,
    "considered": 3,
    "unchanged": 2,
    "delivered": 1,
    "rejected": 0,
    "waiting": 0,
    "unknown": 0,
}


def test_every_sync_accounts_for_what_it_considered(warehouse: Warehouse) -> None:
    intents = [
        {**KEY, "seq": 2, "outcome": "delivered", "operation": "enter"},
        {**KEY, "unit": "p2", "seq": 2, "outcome": "withheld", "operation": ""},
        {**KEY, "account": "y", "seq": 1, "outcome": "rejected", "operation": "enter"},
    ]
    put(warehouse, INTENTS, intents)
    newest = {**SYNC, "seq": 2, "considered": 4, "withheld": '{"consent":1}'}
    table = put(warehouse, SYNCS, [SYNC, newest, {**SYNC, "seq": 3, "account": "z", "state": "planned", "considered": 9}])
    assert broken(evaluate(warehouse, syncs.SYNCS_SCHEMA, table, extra_rules=syncs.sync_rules())) == {}
    put(
        warehouse,
        SYNCS,
        [
            {**SYNC, "account": "y"},  # its rows say rejected, it says delivered
            {**SYNC, "account": "w", "considered": 4},  # one key is lost
            {**SYNC, "account": "v", "held": '{"guardrail":1}'},  # the held one is not among the considered
            {**SYNC, "account": "v"},
            {**SYNC, "account": "u", "state": "done", "seq": None, "unchanged": -1},
        ],
    )
    results = evaluate(warehouse, syncs.SYNCS_SCHEMA, table, extra_rules=syncs.sync_rules())
    assert broken(results) == {
        "seq.not_null": 1,
        "state.isin": 1,
        "unchanged.greater_than_or_equal_to": 1,
        "unique(activation, account, seq)": 2,
        "accounted_for": 2,
        "counted_from_rows": 4,
    }
    assert {sample["account"] for sample in samples(results, "counted_from_rows")} == {"y", "w", "v"}


def test_ledger_intents_and_outcomes_break_their_rules(warehouse: Warehouse) -> None:
    held = {**KEY, "present": True, "held": True, "episode": 1, "status": "delivered", "operation": "enter", "uncertain": ""}
    rows = [held, {**held, "status": "sent"}, {"uncertain": "perhaps", "operation": "clap", "episode": -1}]
    missing = {f"{column}.not_null": 1 for column in KEY}
    assert broken(evaluate(warehouse, syncs.LEDGER_SCHEMA, put(warehouse, LEDGER, rows))) == {
        **missing,
        "present.not_null": 1,
        "held.not_null": 1,
        "episode.greater_than_or_equal_to": 1,
        "operation.isin": 1,
        "status.not_null": 1,
        "status.isin": 1,
        "uncertain.isin": 1,
        "unique(activation, account, unit, destination_key)": 2,
    }
    intent = {**KEY, "seq": 1, "outcome": "planned", "operation": "enter"}
    rows = [intent, {**intent, "outcome": "unchanged"}, {"operation": "clap"}]
    assert broken(evaluate(warehouse, syncs.INTENTS_SCHEMA, put(warehouse, INTENTS, rows))) == {
        **{rule: 1 for rule in missing if not rule.startswith("destination_key")},
        "outcome.not_null": 1,
        "outcome.isin": 1,
        "operation.isin": 1,
        "unique(activation, account, unit, destination_key)": 2,
    }
    outcome = {**KEY, "seq": 1, "message_id": "m", "operation": "enter", "status": "delivered"}
    rows = [outcome, {**outcome, "status": "planned"}, {"operation": ""}]
    assert broken(evaluate(warehouse, syncs.OUTCOMES_SCHEMA, put(warehouse, OUTCOMES, rows))) == {
        **{f"{column}.not_null": 1 for column in ("activation", "account", "seq", "message_id", "status")},
        "operation.isin": 1,
        "status.isin": 1,
        "unique(activation, account, seq, message_id)": 2,
    }


def test_rules_need_a_destination_key() -> None:
    space, activation = space_of({"subject": "profile", "categories": ["Ads"]}, settings={"object": "Contact"})
    with pytest.raises(Exception, match="name it in settings"):
        payloads.payload_rules(space, activation)
