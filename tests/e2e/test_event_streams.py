"""Raw events sent as they come: each at most once, in order of their person, with consent, from a declared start on."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.destination_syncs.ledger import Selection, replay
from cdp_assets.destination_syncs.tables import LEDGER
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.home import Home
from cdp_assets.unified_profiles.tables import canonical_ids_as_of, consent_as_of, events_as_of, identifiers_as_of
from resources.space import landing_folder, load
from tests.e2e.conftest import END, HOUR, ROOT, Stage, copied, make

KINESIS = """  kinesis:
    type: kinesis
    credentials: {access_key_id: sandbox, secret_access_key: sandbox-secret}
"""
STREAM = """
key: payments
name: Payments
events:
  where: type = "track" and event = "Payment Made" and properties.amount >= 20
  since: 2026-10-03T00:00:00Z
destination: kinesis
action: put
settings: {stream: payments, key_field: user_id}
trigger: {unit: event, when: occurs}
identifier: email
personalization: {traits: [first_name]}
mapping:
  user_id: {"@path": "$.userId"}
  messageId: {"@path": "$.messageId"}
  email: {"@path": "$.context.traits.email"}
  first_name: {"@path": "$.context.traits.first_name"}
  amount: {"@path": "$.properties.amount"}
  occurred_at: {"@path": "$.timestamp"}
consent: {subject: profile, categories: [Advertising]}
first_run: send
"""
SINCE = dt.datetime(2026, 10, 3)


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``space/`` and ``home/``: owl_bank with nothing to send but a stream, generated."""
    folder = tmp_path_factory.mktemp("streaming")
    shutil.copytree(ROOT / "spaces" / "owl_bank", folder / "space")
    for room in ("traits", "audiences", "activations", "tests"):
        shutil.rmtree(folder / "space" / room)
    config = folder / "space" / "space.yaml"
    config.write_text(config.read_text().replace("destinations:\n", f"destinations:\n{KINESIS}", 1))
    (folder / "space" / "activations").mkdir()
    (folder / "space" / "activations" / "payments.yaml").write_text(STREAM)
    make(folder / "space", Home(folder / "home"), profiles=150, days=6)
    return folder


@pytest.fixture
def stage(streaming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with copied(streaming, tmp_path / "stage", monkeypatch) as stage:
        yield stage


def sent(stage: Stage) -> list[dict[str, Any]]:
    """Records of the stream, in order of arrival."""
    records = stage.twin("kinesis/records?object=payments")["records"]
    return [json.loads(base64.b64decode(one["fields"]["Data"])) for one in sorted(records, key=lambda one: one["id"])]


def due(stage: Stage, as_of: dt.datetime) -> set[str]:
    """The message ids of what should have been sent by now, worked out from the tables row by row."""
    graph = load(stage.directory).graph
    with stage.warehouse() as warehouse:
        table = lambda rows: warehouse.arrow(rows).to_pylist()  # noqa: E731
        messages = table(warehouse.table(MESSAGES.ref))
        owner = {row["message_id"]: row["canonical_segment_id"] for row in table(events_as_of(warehouse, graph, as_of))}
        canonical = {
            row["segment_id"]: row["canonical_segment_id"] for row in table(canonical_ids_as_of(warehouse, graph, as_of))
        }
        agreed = {
            canonical[row["canonical_segment_id"]]
            for row in table(consent_as_of(warehouse, graph, as_of))
            if row["category"] == "Advertising" and row["value"] == "true"
        }
        known = table(identifiers_as_of(warehouse, graph, as_of))
    mailable = {row["canonical_segment_id"] for row in known if row["type"] == "email"}
    found = set()
    for row in messages:
        wanted = row["event"] == "Payment Made" and row["received_at"] >= SINCE and json.loads(row["properties"])["amount"] >= 20
        who = owner.get(row["message_id"])
        if wanted and who in agreed and who in mailable:
            found.add(row["message_id"])
    return found


def land(stage: Stage, name: str, messages: list[dict[str, Any]]) -> None:
    folder = landing_folder(load(stage.directory), stage.home)
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / name, "wt") as file:
        file.writelines(json.dumps(message) + "\n" for message in messages)


def payment(user: str, number: int, at: dt.datetime, amount: float = 50) -> dict[str, Any]:
    instant = at.isoformat().replace("+00:00", "Z")
    return {
        "type": "track",
        "event": "Payment Made",
        "messageId": f"test-{number}",
        "userId": user,
        "timestamp": instant,
        "receivedAt": instant,
        "properties": {"amount": amount, "currency": "EUR", "category": "food"},
    }


def test_each_event_goes_once_in_order_and_only_with_consent(stage: Stage) -> None:
    report = stage.run(END + HOUR)
    assert report.failures == {}
    counts, first = report.summary["activations"]["payments"], sent(stage)
    expected = due(stage, END + HOUR)
    assert {one["messageId"] for one in first} == expected
    assert len(first) == len(expected) == counts["delivered"] > 50
    assert counts["withheld"]["consent"] > 0
    by_user: dict[str, list[str]] = {}
    for one in first:
        by_user.setdefault(one["user_id"], []).append(one["occurred_at"])
    assert max(len(times) for times in by_user.values()) > 2
    assert all(times == sorted(times) for times in by_user.values())
    assert all("@" in one["email"] for one in first)

    again = stage.run(END + 2 * HOUR).summary["activations"]["payments"]
    assert (again["delivered"], again["operations"]["enter"]) == (0, 0)
    assert sent(stage) == first

    user = first[0]["user_id"]
    late = SINCE.replace(tzinfo=dt.UTC) + HOUR
    news = [payment(user, 1, END + 2 * HOUR), payment(user, 2, END + 2 * HOUR, amount=19.99), payment(user, 3, late)]
    before_start = payment(user, 4, late - 2 * HOUR)
    land(stage, "more.jsonl.gz", [*news, news[0], before_start])
    third = stage.run(END + 3 * HOUR)
    assert third.failures == {}
    assert sorted(one["messageId"] for one in sent(stage)[len(first) :]) == ["test-1", "test-3"]


def test_consent_that_comes_later_does_not_send_what_was_passed_over(stage: Stage) -> None:
    stage.run(END + HOUR)
    before = len(sent(stage))
    with stage.warehouse() as warehouse:
        ledger = warehouse.table(LEDGER.ref)
        passed = ledger.filter((ledger.activation == "payments") & (ledger.reason == "consent"))
        rows = warehouse.rows(passed.order_by("unit"), 10_000)
        assert {(row["present"], row["held"], row["status"]) for row in rows} == {(True, False, "recorded")}
        messages = warehouse.table(MESSAGES.ref)
        user = warehouse.rows(messages.filter(messages.message_id == rows[0]["unit"]), 1)[0]["user_id"]
    at = END + HOUR
    agrees = {
        **payment(user, 10, at),
        "event": "Segment Consent Preference Updated",
        "properties": {},
        "context": {"consent": {"categoryPreferences": {"Advertising": True, "Analytics": True, "Functional": True}}},
    }
    land(stage, "agrees.jsonl.gz", [agrees, payment(user, 11, at + dt.timedelta(minutes=1))])
    report = stage.run(END + 3 * HOUR)
    assert report.failures == {}
    assert [one["messageId"] for one in sent(stage)[before:]] == ["test-11"]


def test_what_the_destination_could_not_take_comes_again_and_nothing_twice(stage: Stage) -> None:
    stage.faults("kinesis", {"kind": "429"})
    report = stage.run(END + HOUR)
    counts = report.summary["activations"]["payments"]
    assert (counts["delivered"], sent(stage)) == (0, [])
    assert counts["waiting"] > 50
    stage.no_faults("kinesis")
    with stage.warehouse() as warehouse:
        assert replay(warehouse, Selection(activation="payments"), dt.datetime.now(dt.UTC)) == counts["waiting"]
    stage.run(END + 2 * HOUR)
    waited = stage.run(END + 3 * HOUR)
    assert waited.failures == {}
    ids = [one["messageId"] for one in sent(stage)]
    assert len(set(ids)) == len(ids)
    assert set(ids) == due(stage, END + 3 * HOUR)


@pytest.mark.parametrize("policy", ["hold", "resend"])
def test_what_got_no_answer_is_held_or_sent_again_as_the_activation_says(stage: Stage, policy: str) -> None:
    (stage.directory / "activations" / "payments.yaml").write_text(f"{STREAM}on_unknown: {policy}\n")
    stage.faults("kinesis", {"kind": "commit_then_drop", "nth": 1})
    first = stage.run(END + HOUR).summary["activations"]["payments"]
    assert first["unknown"] > 10
    again = stage.run(END + 2 * HOUR)
    counts, after = again.summary["activations"]["payments"], [one["messageId"] for one in sent(stage)]
    assert set(after) == due(stage, END + 2 * HOUR)
    twice = len(after) - len(set(after))
    assert (counts["unknown"], twice) == ((first["unknown"], 0) if policy == "hold" else (0, first["unknown"]))


def test_the_destinations_transformations_change_or_hold_back_what_it_gets(stage: Stage) -> None:
    folder = stage.directory / "transformations"
    folder.mkdir(exist_ok=True)
    (folder / "no_food.yaml").write_text(
        'key: no_food\nname: No food\ndestination: kinesis\nif: properties.category = "groceries"\ndrop: true\n'
    )
    (folder / "rounded.yaml").write_text(
        'key: rounded\nname: Rounded\ndestination: kinesis\nif: type = "track"\nset: [{paths: [properties.amount], value: 1}]\n'
    )
    counts = stage.run(END + HOUR).summary["activations"]["payments"]
    assert counts["withheld"]["filter"] > 5
    assert {one["amount"] for one in sent(stage)} == {1}
    again = stage.run(END + 2 * HOUR).summary["activations"]["payments"]
    assert "filter" not in again["withheld"]
