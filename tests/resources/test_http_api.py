"""Any declared JSON API: forms of bodies, sign-in, success rules and classes of outcome, against its twin."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest

from cdp_assets.space.space import SpaceError
from resources.destinations import Action, Connection, DestinationConfigError, Operation, Outcome, RateLimit, http_api, registry
from resources.space import load
from tests.e2e.conftest import ROOT
from tests.resources.conftest import Twins

ACTION = Action("upsert", {"path": "/contacts", "key_field": "id", "flag_field": "in"})


def operations(count: int, kind: Any = "enter", **payload: Any) -> list[Operation]:
    return [Operation(f"op{n}", kind, f"key{n}", {"name": f"n{n}", **payload}, f"message{n}") for n in range(count)]


def deliver(twins: Twins, given: list[Operation], action: Action = ACTION, **settings: Any) -> list[Outcome]:
    with http_api.connect(twins.connection("http", **settings)) as destination:
        outcomes = destination.deliver(action, given)
    assert sorted(outcome.id for outcome in outcomes) == sorted(operation.id for operation in given)
    return sorted(outcomes, key=lambda outcome: int(outcome.id[2:]))


def held(twins: Twins) -> dict[str, Any]:
    return {record["id"]: record for record in twins.records("http")}


@pytest.mark.parametrize(
    ("settings", "calls"), [({}, 5), ({"batch_rows": 2}, 3), ({"batch_rows": 3, "body": "contacts", "results": "results"}, 2)]
)
def test_records_arrive_once_in_every_form_of_body(twins: Twins, settings: dict[str, Any], calls: int) -> None:
    for _ in range(2):
        assert {outcome.status for outcome in deliver(twins, operations(5), **settings)} == {"delivered"}
    assert held(twins) == {f"key{n}": {"id": f"key{n}", "name": f"n{n}", "in": True} for n in range(5)}
    assert len(twins.calls("http")) == 2 * calls
    assert {(call["method"], call["path"]) for call in twins.calls("http")} == {("POST", "/contacts")}


def test_exits_and_retracts_put_the_flag_down_and_a_retract_says_nothing_else(twins: Twins) -> None:
    deliver(twins, operations(2))
    deliver(twins, operations(1, "exit"))
    deliver(twins, [dataclasses.replace(one, payload={"name": "leaked"}) for one in operations(2, "retract")[1:]])
    assert held(twins) == {n: {"id": n, "name": f"n{n[3:]}", "in": False} for n in ("key0", "key1")}


@pytest.mark.parametrize("auth", [{"auth": "bearer"}, {"auth": "basic"}, {"auth": "header", "header": "X-Api-Key"}])
def test_every_way_to_sign_in_is_accepted_and_a_wrong_secret_waits_for_a_person(twins: Twins, auth: dict[str, Any]) -> None:
    assert deliver(twins, operations(1), **auth)[0].status == "delivered"
    twins.fault("http", kind="expired_token", times=1)
    outcome = deliver(twins, operations(1), **auth)[0]
    assert (outcome.status, outcome.reason) == ("waiting", "auth:401")


def test_results_name_the_record_that_was_refused(twins: Twins) -> None:
    given = operations(3)
    given[1] = dataclasses.replace(given[1], payload={"refuse": True})
    outcomes = deliver(twins, given, batch_rows=3, body="records", results="results")
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [
        ("delivered", ""),
        ("rejected", "item_refused"),
        ("delivered", ""),
    ]
    assert set(held(twins)) == {"key0", "key2"}
    assert deliver(twins, given, batch_rows=3, results="other")[0].reason == "answer_not_understood"


def test_one_record_that_is_refused_is_rejected_with_its_status(twins: Twins) -> None:
    assert [(o.status, o.reason) for o in deliver(twins, operations(1, refuse=True))] == [("rejected", "422")]


def test_the_space_may_say_which_statuses_are_success(twins: Twins) -> None:
    assert deliver(twins, operations(1), success=[201])[0].reason == "200"
    assert deliver(twins, operations(1, refuse=True), success=[200, 422])[0].status == "delivered"


@pytest.mark.parametrize(("resend", "status", "calls"), [("upsert", "delivered", 2), ("append", "unknown", 1)])
def test_a_server_error_is_tried_again_where_that_is_safe(twins: Twins, resend: str, status: str, calls: int) -> None:
    twins.fault("http", kind="503", times=1)
    assert deliver(twins, operations(1), resend=resend)[0].status == status
    assert len(twins.calls("http")) == calls


def test_no_answer_is_unknown_and_a_throttle_waits(twins: Twins) -> None:
    twins.fault("http", kind="commit_then_drop", times=1)
    assert deliver(twins, operations(1))[0].status == "unknown"
    assert len(held(twins)) == 1
    twins.fault("http", kind="429", retry_after=60, times=1)
    assert [(o.status, o.reason) for o in deliver(twins, operations(1))] == [("waiting", "429")]


def test_what_is_declared_becomes_capabilities() -> None:
    settings = {"batch_rows": 50, "results": "r", "resend": "append", "retract": "none", "rates": [{"calls": 5, "seconds": 1}]}
    found = registry.capabilities("http", "upsert", settings)
    assert (found.batch_rows, found.attribution, found.resend, found.retract) == (50, "positional", "append", "none")
    assert found.rates == (RateLimit(5, 1.0),)
    assert registry.capabilities("http", "upsert", {}).attribution == "whole_batch"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_row": 5}, "unknown settings: batch_row"),
        ({"auth": "oauth"}, "settings.auth is one of none, bearer, basic, header"),
        ({"batch_rows": 0}, "batch_rows is a positive whole number"),
        ({"batch_rows": 2, "body": "record"}, "body record goes with batch_rows 1"),
        ({"rates": [{"calls": 5}]}, "rates is a list"),
    ],
)
def test_settings_that_say_nothing_clear_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DestinationConfigError, match=message):
        http_api.capabilities_of("upsert", settings)


def test_live_it_needs_a_remote_https_url_and_its_secrets() -> None:
    def live(url: str | None, **more: Any) -> None:
        credentials = more.pop("credentials", {})
        http_api.connect(Connection("live", "acme", {**({"url": url} if url else {}), **more}, credentials)).close()

    for url, more, message in (
        (None, {}, "settings.url"),
        ("http://api.acme.example", {}, "https only"),
        ("https://localhost/x", {}, "remote host"),
        ("https://api.acme.example", {"auth": "bearer"}, "credentials are missing: token"),
    ):
        with pytest.raises(DestinationConfigError, match=message):
            live(url, **more)
    live("https://api.acme.example", auth="bearer", credentials={"token": "t"})


def test_a_space_with_such_a_destination_says_where_a_setting_is_wrong(tmp_path: Any) -> None:
    space = shutil.copytree(ROOT / "spaces" / "owl_bank", tmp_path / "space")
    config = space / "space.yaml"
    config.write_text(config.read_text().replace("    type: marketo\n", "    type: http\n    settings: {batch_row: 5}\n"))
    with pytest.raises(SpaceError) as error:
        load(space)
    (problem,) = [one for one in error.value.problems if "batch_row" in one.message]
    assert problem.file == "space.yaml"
    assert "marketo" in config.read_text().splitlines()[problem.line - 1]
