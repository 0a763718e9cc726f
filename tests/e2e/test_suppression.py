"""A suppressed person from the command to the twins: nothing more comes in, no audience has them, destinations give back what they hold."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cdp_assets.cli import app
from cdp_assets.cli_support import CommandError
from cdp_assets.destination_syncs.tables import LEDGER
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.raw_events.tables import MESSAGES, QUARANTINE, SUPPRESSIONS
from tests.e2e.conftest import HOUR, Stage
from tests.e2e.test_definition_change import ALERTS, CONTACTS, NONE, operations, record, rows
from tests.e2e.test_privacy import texts

BEFORE, DAY = "2026-10-07", "2026-10-08"
MINUTE = dt.timedelta(minutes=1)
# Words that only messages of the suppressed person carry.
PLANTED, PLANTED_LATER = "Qvintessa", "Zyxwvutsr"
SCHEMAS = (
    *("raw_events", "events", "profiles", "unified_profiles", "computed_traits"),
    *("linked_audiences", "activation_payloads", "destination_syncs"),
)


def cdp(stage: Stage, *arguments: str) -> str:
    where = ["--space", str(stage.directory), "--home", str(stage.home.root)]
    result = CliRunner().invoke(app, [*arguments, *where], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def land(stage: Stage, name: str, at: dt.datetime, *messages: dict[str, Any]) -> None:
    when = dict.fromkeys(("originalTimestamp", "sentAt", "receivedAt", "timestamp"), at.isoformat().replace("+00:00", "Z"))
    lines = [json.dumps({"messageId": f"{name}-{i}", **when, **message}) for i, message in enumerate(messages)]
    (stage.home.landing("owl_bank") / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def audiences_of(stage: Stage, person: str) -> set[tuple[str, str]]:
    """(audience, partition) that have the person, in members or in context."""
    found = [row for spec in (AUDIENCE_MEMBERS, AUDIENCE_CONTEXT) for row in rows(stage, spec, canonical_segment_id=person)]
    return {(row["audience"], row["partition_key"]) for row in found}


def tables_with(stage: Stage, word: str) -> set[str]:
    """Tables of the project that hold a word in any cell."""
    found = set()
    with stage.warehouse() as warehouse:
        for schema in SCHEMAS:
            for ref in warehouse.list_tables(schema):
                cells = warehouse.arrow(warehouse.table(ref)).to_pylist()
                if any(word.lower() in str(value).lower() for row in cells for value in row.values()):
                    found.add(str(ref))
    return found


def someone(stage: Stage) -> tuple[str, str, str]:
    """(canonical id, user id, e-mail) of a person whom both destinations hold."""
    told = {row["segment_id"]: row["destination_key"] for row in rows(stage, LEDGER, activation=CONTACTS, held=True)}
    alerted = {row["segment_id"]: row["destination_key"] for row in rows(stage, LEDGER, activation=ALERTS, held=True)}
    person = min(told.keys() & alerted.keys())
    return person, told[person], alerted[person]


def test_a_suppressed_person_is_refused_forgotten_by_audiences_and_taken_back_until_undone(owl_bank: Stage) -> None:
    person, user_id, email = someone(owl_bank)
    contact, lead = record(owl_bank, "salesforce", "Cdp_Id__c", user_id), record(owl_bank, "marketo", "email", email)
    cards = len(rows(owl_bank, LEDGER, activation=ALERTS, held=True, segment_id=person))
    was_in = {audience for audience, _ in audiences_of(owl_bank, person)}

    at = owl_bank.now + 15 * MINUTE
    told = cdp(owl_bank, "suppress", user_id, "--as-of", at.isoformat(), "--reason", "asked")
    assert f"profile {person}" in told and f"next sync of {CONTACTS} takes back 1" in told
    assert all(audience in told for audience in was_in)
    assert user_id not in told and email not in told
    assert "already" in cdp(owl_bank, "suppress", user_id, "--as-of", (at + MINUTE).isoformat())
    assert len(rows(owl_bank, SUPPRESSIONS)) == 1

    renamed = {"type": "identify", "userId": user_id, "traits": {"first_name": PLANTED}}
    alias, no_message = {**renamed, "type": "alias", "previousId": "other"}, {**renamed, "type": "clap"}
    land(owl_bank, "refused", at, renamed, alias, no_message)
    land(owl_bank, "earlier", at - MINUTE, {"type": "track", "event": "Login", "userId": user_id})
    report = owl_bank.run(owl_bank.now + HOUR)
    assert report.failures == {}
    refused = {row["message_id"]: (row["reason"], row["raw"]) for row in rows(owl_bank, QUARANTINE, file="refused.jsonl")}
    assert refused == {f"refused-{i}": (r, None) for i, r in enumerate(("suppressed", "suppressed", "type_unknown"))}
    assert len(rows(owl_bank, MESSAGES, file="earlier.jsonl")) == 1
    assert tables_with(owl_bank, PLANTED) == set()

    assert audiences_of(owl_bank, person) == {(audience, BEFORE) for audience in was_in}
    assert operations(report) == {CONTACTS: NONE | {"retract": 1}, ALERTS: NONE | {"retract": cards}}
    assert record(owl_bank, "salesforce", "Cdp_Id__c", user_id) == {**contact, "Overdue_Checking__c": False}
    assert record(owl_bank, "marketo", "email", email) == {**lead, "Card_Overdue_Alert__c": False}
    owl_bank.forget_calls()
    assert operations(owl_bank.run(owl_bank.now + 2 * HOUR)) == {CONTACTS: NONE, ALERTS: NONE}
    assert owl_bank.new_calls() == 0

    until = owl_bank.now + 2 * HOUR + MINUTE
    assert "was suppressed" in cdp(owl_bank, "suppress", user_id, "--undo", "--as-of", until.isoformat())
    land(owl_bank, "late", at + MINUTE, {**renamed, "traits": {"first_name": PLANTED_LATER}})
    land(owl_bank, "welcome", until, {"type": "identify", "userId": user_id, "traits": {"first_name": "Again"}})
    report = owl_bank.run(owl_bank.now + 3 * HOUR)
    assert operations(report) == {CONTACTS: NONE | {"enter": 1}, ALERTS: NONE | {"enter": cards}}
    assert {audience for audience, day in audiences_of(owl_bank, person) if day == DAY} == was_in
    assert record(owl_bank, "salesforce", "Cdp_Id__c", user_id)["FirstName"] == "Again"
    assert tables_with(owl_bank, PLANTED) == tables_with(owl_bank, PLANTED_LATER) == set()


def test_the_suppressed_identifier_is_in_no_log_and_in_no_table_that_did_not_have_it(
    owl_bank: Stage, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stranger = "stranger@planted.example"
    before = cdp(owl_bank, "suppress", stranger, "--type", "email", "--as-of", owl_bank.now.isoformat())
    assert "no profile has this email" in before
    land(owl_bank, "stranger", owl_bank.now + MINUTE, {"type": "identify", "anonymousId": "a-1", "traits": {"email": stranger}})
    report = owl_bank.run(owl_bank.now + HOUR)
    (line,) = rows(owl_bank, QUARANTINE, file="stranger.jsonl")
    assert (line["reason"], line["detail"], line["raw"]) == ("suppressed", "email is suppressed", None)
    assert tables_with(owl_bank, stranger) == set()
    out, err = capfd.readouterr()
    told = [before, out, err, caplog.text, json.dumps([report.summary, report.failures])]
    told += [text for _, text in texts(owl_bank.home.dagster)]
    assert not [text for text in told if stranger in text]


def test_suppress_says_what_it_cannot_do(owl_bank: Stage) -> None:
    future = (dt.datetime.now(dt.UTC) + HOUR).isoformat()
    for arguments, says in (
        (("u1", "--type", "emial"), "no identifier type emial"),
        (("u1", "--as-of", future), "not in the future"),
        (("u1", "--undo", "--reason", "x"), "--reason"),
    ):
        with pytest.raises(CommandError, match=says):
            cdp(owl_bank, "suppress", *arguments)
    assert "never was" in cdp(owl_bank, "suppress", "u1", "--undo")
    assert rows(owl_bank, SUPPRESSIONS) == []
