"""The twins' server: control surface, fault plans, what survives a restart, and what people see."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import httpx
import pytest

from resources.sandbox.server import create_app, is_up, sandbox

EMAIL = "jan.novak@example.com"


def sync(twins, rows: list[dict], headers: dict | None = None) -> httpx.Response:
    body = {"input": rows}
    return twins.http.post(
        f"{twins.base('marketo')}/rest/v1/leads.json", json=body, headers={**twins.marketo(), **(headers or {})}
    )


def statuses(response: httpx.Response) -> list[str]:
    return [item["status"] for item in response.json()["result"]]


def test_what_was_received_survives_a_restart(tmp_path: Path) -> None:
    for expected in ("created", "updated"):
        with sandbox(tmp_path) as url:
            query = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}
            token = httpx.get(f"{url}/marketo/identity/oauth/token", params=query).json()["access_token"]
            answer = httpx.post(
                f"{url}/marketo/rest/v1/leads.json",
                json={"input": [{"email": EMAIL}]},
                headers={"Authorization": f"Bearer {token}"},
            )
            assert answer.json()["result"][0]["status"] == expected
            calls = httpx.get(f"{url}/__twin/marketo/calls").json()["calls"]
    assert len(calls) == 4
    assert len({call["id"] for call in calls}) == 4


def test_a_token_and_a_fault_plan_survive_a_restart(tmp_path: Path) -> None:
    with sandbox(tmp_path) as url:
        form = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}
        token = httpx.post(f"{url}/salesforce/services/oauth2/token", data=form).json()["access_token"]
        httpx.post(f"{url}/__twin/salesforce/faults", json={"kind": "503", "nth": 2})
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}/salesforce/services/data/v61.0/limits", headers=headers).status_code == 200
    with sandbox(tmp_path) as url:
        assert httpx.get(f"{url}/salesforce/services/data/v61.0/limits", headers=headers).status_code == 503
        assert httpx.get(f"{url}/salesforce/services/data/v61.0/limits", headers=headers).status_code == 200


def test_every_call_is_recorded_with_time_size_status_and_idempotency_key(twins) -> None:
    sync(twins, [{"email": EMAIL}], {"Idempotency-Key": "abc"})
    sign_in, call = twins.calls("marketo")
    assert sign_in["path"] == "/identity/oauth/token"
    assert (call["method"], call["path"], call["status"], call["idempotency_key"]) == ("POST", "/rest/v1/leads.json", 200, "abc")
    assert call["size"] == len(b'{"input":[{"email":"%s"}]}' % EMAIL.encode())
    assert call["time"] == "2026-06-15T12:00:00.000000Z"
    assert twins.calls("salesforce") == []


def test_the_records_are_what_the_system_now_holds(twins) -> None:
    sync(twins, [{"email": EMAIL, "firstName": "Jan"}])
    sync(twins, [{"email": EMAIL.upper(), "firstName": None}])
    assert twins.records("marketo") == [{"id": 1, "email": EMAIL.upper(), "firstName": None}]
    assert twins.records("marketo", "lists/1") == []


def test_the_nth_call_fails_and_signing_in_is_not_counted(twins) -> None:
    twins.fault("marketo", kind="429", nth=2)
    codes = [sync(twins, [{"email": EMAIL}]).json().get("errors", [{}])[0].get("code") for _ in range(3)]
    assert codes == [None, "606", None]


def test_a_rate_of_failures_is_the_same_for_the_same_seed(twins) -> None:
    headers = {"accesskey": "sandbox-secret", "Accept": "application/json"}

    def run(seed: int) -> list[int]:
        twins.no_faults("gainsight")
        twins.fault("gainsight", kind="500", rate=0.5, seed=seed)
        url = f"{twins.base('gainsight')}/v1/data/objects/query/Company"
        return [twins.http.post(url, json={"select": ["Name"]}, headers=headers).status_code for _ in range(20)]

    first, again, other = run(1), run(1), run(2)
    assert first == again != other
    assert {200, 500} == set(first)


def test_a_plan_stops_after_its_number_of_times(twins) -> None:
    twins.fault("marketo", kind="503", times=1)
    assert [sync(twins, [{"email": EMAIL}]).json()["success"] for _ in range(3)] == [False, True, True]


def test_a_plan_can_name_a_path_even_of_the_sign_in(twins) -> None:
    twins.fault("salesforce", kind="500", path="/oauth2/")
    assert twins.http.post(f"{twins.base('salesforce')}/services/oauth2/token", data={}).status_code == 500


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        ({"kind": "404"}, "kind"),
        ({"kind": "500", "nht": 1}, "nht"),
        ({"kind": "500", "nth": 1, "rate": 0.1}, "not both"),
        ({"kind": "500", "rate": 7}, "rate"),
        ({"kind": "500", "nth": 0}, "nth"),
        (["no"], "object"),
    ],
)
def test_an_unclear_plan_is_refused(twins, plan, word) -> None:
    answer = twins.http.post(f"{twins.url}/__twin/marketo/faults", json=plan)
    assert answer.status_code == 400
    assert word in answer.json()["error"]
    assert twins.http.get(f"{twins.url}/__twin/marketo/faults").json()["faults"] == []


def test_a_timeout_before_commit_stores_nothing(twins) -> None:
    headers = twins.marketo()
    twins.fault("marketo", kind="timeout_before_commit", seconds=0.3)
    started = time.monotonic()
    with pytest.raises(httpx.RemoteProtocolError):
        twins.http.post(f"{twins.base('marketo')}/rest/v1/leads.json", json={"input": [{"email": EMAIL}]}, headers=headers)
    assert time.monotonic() - started >= 0.3
    assert twins.records("marketo") == []
    assert twins.calls("marketo")[-1]["status"] is None


def test_commit_then_drop_stores_everything_and_answers_nothing(twins) -> None:
    headers = twins.marketo()
    twins.fault("marketo", kind="commit_then_drop")
    with pytest.raises(httpx.RemoteProtocolError):
        twins.http.post(f"{twins.base('marketo')}/rest/v1/leads.json", json={"input": [{"email": EMAIL}]}, headers=headers)
    assert [lead["email"] for lead in twins.records("marketo")] == [EMAIL]
    assert twins.calls("marketo")[-1]["status"] is None


def test_a_slow_answer_is_a_good_answer(twins) -> None:
    twins.fault("marketo", kind="slow", seconds=0.2)
    started = time.monotonic()
    assert statuses(sync(twins, [{"email": EMAIL}])) == ["created"]
    assert time.monotonic() - started >= 0.2


def test_a_partial_failure_hits_the_same_records_again(twins) -> None:
    twins.fault("marketo", kind="partial_failure", rows=0.5, seed=3)
    rows = [{"email": f"p{n}@example.com"} for n in range(20)]
    first, again = statuses(sync(twins, rows)), statuses(sync(twins, rows))
    assert {"created", "skipped"} == set(first)
    assert [s == "skipped" for s in first] == [s == "skipped" for s in again]
    assert len(twins.records("marketo")) == first.count("created")


def test_a_reset_forgets_one_system_or_all(twins) -> None:
    sync(twins, [{"email": EMAIL}])
    twins.http.get(f"{twins.base('salesforce')}/services/data")
    twins.http.post(f"{twins.url}/__twin/reset?system=salesforce")
    assert twins.calls("salesforce") == []
    assert len(twins.records("marketo")) == 1
    twins.http.post(f"{twins.url}/__twin/reset")
    assert twins.records("marketo") == twins.calls("marketo") == []


def test_the_page_masks_values_until_asked_not_to(twins) -> None:
    sync(twins, [{"email": EMAIL, "lastName": "Nováková", "Note__c": "<b>"}])
    twins.http.get(f"{twins.base('salesforce')}/services/data/v61.0/sobjects/Contact/CDP_Id__c/{EMAIL}")
    masked, shown = twins.http.get(f"{twins.url}/").text, twins.http.get(f"{twins.url}/?unmask=1").text
    assert EMAIL not in masked and "Nováková" not in masked and "j•••@•••" in masked
    assert EMAIL in shown and "Nováková" in shown
    assert "<b>" not in shown and "&lt;b&gt;" in shown


def test_an_unknown_system_is_not_found(twins) -> None:
    assert twins.http.get(f"{twins.url}/__twin/hubspot/records").status_code == 404
    assert twins.http.get(f"{twins.url}/hubspot/contacts").status_code == 404


def test_it_is_up_while_it_runs(tmp_path: Path) -> None:
    with sandbox(tmp_path) as url:
        assert is_up(url)
    assert not is_up(url)


def test_a_taken_port_is_an_error_and_not_a_second_server(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError), sandbox(tmp_path, port=taken.getsockname()[1]):
            pass


def test_only_this_machine_can_reach_it(twins) -> None:
    port = int(twins.url.rsplit(":", 1)[1])
    assert twins.url.startswith("http://127.0.0.1:")
    own = socket.gethostbyname(socket.gethostname())
    if not own.startswith("127."):
        with pytest.raises(OSError), socket.create_connection((own, port), timeout=1):
            pass


def test_nothing_of_a_request_is_printed_or_logged(twins, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sync(twins, [{"email": EMAIL}])
    twins.http.get(f"{twins.base('salesforce')}/services/data/v61.0/sobjects/Contact/CDP_Id__c/{EMAIL}")
    printed = capfd.readouterr()
    assert EMAIL not in caplog.text + printed.out + printed.err


def test_a_page_for_every_registered_destination(tmp_path: Path) -> None:
    from resources.destinations.registry import CONNECTORS, FILES
    from resources.sources.registry import READERS

    mounted = {getattr(route, "path", "").strip("/") for route in create_app(tmp_path).routes}
    assert {*CONNECTORS, *READERS} - FILES <= mounted
    assert not FILES & mounted


def test_thousands_of_records_a_second(twins) -> None:
    headers = twins.marketo()
    started = time.monotonic()
    for n in range(10):
        rows = [{"email": f"p{n}.{i}@example.com"} for i in range(300)]
        twins.http.post(f"{twins.base('marketo')}/rest/v1/leads.json", json={"input": rows}, headers=headers)
    assert time.monotonic() - started < 3
    assert len(twins.records("marketo")) == 3000


def test_a_request_that_fails_half_way_stores_nothing_and_quotes_nothing(twins, monkeypatch, caplog) -> None:
    from resources.sandbox.marketo import MarketoTwin

    def stumble(self, call, writes, results) -> None:
        self.store.put(self.system, "leads", [("1", {"email": EMAIL})], call.at)
        raise ValueError(EMAIL)

    monkeypatch.setattr(MarketoTwin, "_write", stumble)
    assert sync(twins, [{"email": EMAIL}]).status_code == 502
    assert twins.records("marketo") == []
    assert "ValueError" in caplog.text and EMAIL not in caplog.text


def test_the_server_stops_on_a_signal_and_leaves_its_state(tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from resources.sandbox.server import run_server; run_server({port}, {str(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 30
        while not is_up(f"http://127.0.0.1:{port}"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert "Traceback" not in output
    assert (tmp_path / "twins.sqlite").exists()
