"""The truth file against the landing files, read by a parser that knows nothing but JSON."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.generate.conftest import END, Generate, lines_of

both = pytest.mark.parametrize("space", ["mural", "owl_bank"])


def fault_of(line: bytes) -> str | None:
    """Which planted fault a line has, or None for a message."""
    try:
        body = json.loads(line)
    except ValueError:
        return "broken_json"
    if not isinstance(body, dict):
        return "not_an_object"
    if body.get("type") not in ("identify", "track", "page", "screen", "group", "alias"):
        return "unknown_type"
    if "messageId" not in body:
        return "no_message_id"
    if "userId" not in body and "anonymousId" not in body:
        return "no_identifier"
    if body["type"] == "track" and "event" not in body:
        return "track_without_event"
    if body["receivedAt"] == "yesterday":
        return "bad_received_at"
    if not isinstance(body.get("properties", {}), dict):
        return "properties_not_an_object"
    if body.get("event") == "Segment Consent Preference Updated" and "consent" not in body["context"]:
        return "consent_without_preferences"
    return None


@pytest.fixture
def world(make: Generate, tmp_path: Path):
    """Generates a space and a day more, and gives (truth, lines by file)."""

    def call(space: str, **given: Any) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
        make(space, **given)
        make(space, **given, more="1d")
        folder = tmp_path / "home" / space
        return json.loads((folder / "truth.json").read_text()), lines_of(folder / "landing")

    return call


def messages(files: dict[str, list[bytes]]) -> list[dict[str, Any]]:
    """Every message once, in received order: of equal ids the first received."""
    found: dict[str, dict[str, Any]] = {}
    for lines in files.values():
        for line in lines:
            if fault_of(line) is None:
                body = json.loads(line)
                earlier = found.get(body["messageId"])
                if earlier is None or body["receivedAt"] < earlier["receivedAt"]:
                    found[body["messageId"]] = body
    return sorted(found.values(), key=lambda body: body["receivedAt"])


@both
def test_planted_lines_are_what_a_naive_parser_finds(world, space: str) -> None:
    truth, files = world(space, profiles=250)
    seen: set[str] = set()
    totals: Counter[str] = Counter()
    for name, lines in files.items():
        faults = Counter(fault_of(line) for line in lines)
        good = faults.pop(None, 0)
        fresh = {json.loads(line)["messageId"] for line in lines if fault_of(line) is None} - seen
        seen |= fresh
        expected = truth["files"][name]
        assert dict(faults) == expected["malformed"], name
        assert (len(lines), good - len(fresh)) == (expected["lines"], expected["duplicates"]), name
        totals.update(lines=len(lines), accepted=len(fresh), duplicates=good - len(fresh))
    assert dict(totals) == {key: truth["totals"][key] for key in ("lines", "accepted", "duplicates")}
    assert truth["totals"]["duplicates"] > 10
    assert len(truth["totals"]["malformed"]) == 9, "every kind of malformed line occurs"


@both
def test_every_identifier_belongs_to_the_person_of_the_truth(world, space: str) -> None:
    truth, files = world(space, profiles=120)
    person_of = {(i["type"], i["value"]): i["person"] for i in truth["identifiers"]}
    first_seen: dict[tuple[str, str], str] = {}
    for body in messages(files):
        email = body.get("traits", {}).get("email")
        people = set()
        for kind, value in (("user_id", body.get("userId")), ("email", email)):
            if value:
                people.add(person_of[kind, value])
                first_seen.setdefault((kind, value), body["receivedAt"])
        assert len(people) <= 1
    known = {
        key: i["known_at"]
        for key, i in ((((i["type"], i["value"])), i) for i in truth["identifiers"])
        if key[0] != "anonymous_id"
    }
    assert {key: at for key, at in known.items() if at} == first_seen


@both
def test_all_times_are_within_their_file_and_no_two_messages_are_received_at_once(world, space: str) -> None:
    _, files = world(space)
    found = messages(files)
    received = [body["receivedAt"] for body in found]
    assert len(received) == len(set(received))
    last = dt.datetime.fromisoformat(max(received))
    assert END < last < END + dt.timedelta(days=1)
    new = [json.loads(line) for line in files["2026-11-22.jsonl.gz"] if fault_of(line) is None]
    assert all(body["receivedAt"] >= "2026-11-22T00:00:00.000Z" for body in new), "more reached back before the stored end"


def test_events_are_late_out_of_order_and_by_wrong_clocks(world) -> None:
    _, files = world("owl_bank", profiles=250)
    late = wrong = swapped = rotated = 0
    for name, lines in files.items():
        previous = ""
        for line in lines:
            if fault_of(line) is None:
                body = json.loads(line)
                sent, original = (dt.datetime.fromisoformat(body[key]) for key in ("sentAt", "originalTimestamp"))
                received = dt.datetime.fromisoformat(body["receivedAt"])
                late += sent - original > dt.timedelta(hours=1)
                wrong += abs(received - sent) > dt.timedelta(hours=1)
                swapped += body["receivedAt"] < previous
                rotated += body["receivedAt"][:10] < name[:10]
                previous = body["receivedAt"]
    assert min(late, wrong, swapped, rotated) > 0


@both
def test_consent_over_time_follows_from_the_messages(world, space: str) -> None:
    """For people of whom no two profiles had to merge, and whose devices are their own: replay their messages alone."""
    truth, files = world(space, profiles=400, days=8)
    owner = {i["value"]: i["person"] for i in truth["identifiers"] if i["type"] == "anonymous_id"}
    by_user = {i["value"]: i["person"] for i in truth["identifiers"] if i["type"] == "user_id"}
    entangled = {merge["person"] for merge in truth["merges"]}
    for anonymous_id, device in truth["devices"].items():
        if (device["linked_at"] or device["alone_at"]) and (device["refused"] or device["linked_to"] != owner.get(anonymous_id)):
            entangled.add(owner.get(anonymous_id))
    replayed: dict[str, list[dict[str, str]]] = {}
    for body in messages(files):
        person = by_user.get(body.get("userId")) or owner.get(body.get("anonymousId", ""))
        stated = body["context"].get("consent", {}).get("categoryPreferences")
        if person and person not in entangled and stated is not None:
            state = {category: str(value).lower() for category, value in stated.items()}
            mine = replayed.setdefault(person, [])
            if not mine or mine[-1] != state:
                mine.append(state)
    assert len(replayed) > 100
    assert replayed == {person: [entry["state"] for entry in truth["persons"][person]["consent"]] for person in replayed}
    assert any(len(states) > 1 for states in replayed.values())


def test_some_consent_is_in_conflict_at_the_end(make: Generate, tmp_path: Path) -> None:
    make("owl_bank", profiles=200, days=10)
    truth = json.loads((tmp_path / "home" / "owl_bank" / "truth.json").read_text())
    states = [person["consent"][-1]["state"] for person in truth["persons"].values() if person["consent"]]
    assert any("conflict" in state.values() for state in states)
    assert {"true", "false"} <= {state["Advertising"] for state in states}


def test_everyone_with_entities_is_in_the_truth_with_them(world, tmp_path: Path) -> None:
    import duckdb

    truth, _ = world("owl_bank", profiles=200)
    with duckdb.connect(str(tmp_path / "home" / "owl_bank" / "owl_bank.duckdb"), read_only=True) as connection:
        owned = dict(connection.execute("SELECT account_id, customer_email FROM bank.accounts").fetchall())
    of_people = {
        account: person["emails"][0] for person in truth["persons"].values() for account in person["entities"].get("accounts", [])
    }
    assert of_people.items() <= owned.items()
    assert len(of_people) > 100 and set(owned) - set(of_people), "customers of the branches have accounts, too"
