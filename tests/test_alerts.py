"""Alerts arrive at a real local webhook and mail server; what cannot be sent is said without URL or secret, and fails nothing."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from pydantic import ValidationError

from cdp_assets.destination_syncs.accounting import SyncResult
from cdp_assets.destination_syncs.alerts import sync_alert
from cdp_assets.space.alerts import Alerts, EmailAlerts, Thresholds
from resources import alerts
from resources.alerts import send_alert
from resources.space import load
from sensors.failures import build_failure_sensors, failure_text
from tests.e2e.conftest import ROOT

SECRET_PATH = "/services/T000/B000/very-secret"


class Hook:
    """A webhook that keeps what it gets. ``answers``: the statuses of the next calls, then 200."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = hook.answers.pop(0) if hook.answers else 200
                if status == 200 and self.path == SECRET_PATH:
                    hook.received.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET_PATH}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture(autouse=True)
def _brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "FIRST_PAUSE_SECONDS", 0.005)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.server.shutdown()


class Inbox:
    """Keeps messages; refuses recipients at refused.example."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.endswith("@refused.example"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.messages.append(message_from_bytes(envelope.content))
        return "250 OK"


def _sign_in(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"alerts", b"mail-secret")
    return AuthResult(success=good)


@pytest.fixture
def mail() -> Iterator[tuple[Inbox, int]]:
    inbox = Inbox()
    with socket.socket() as free:  # the controller looks for itself at the port that it was given
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port, authenticator=_sign_in, auth_require_tls=False)
    controller.start()
    yield inbox, port
    controller.stop()


def email(port: int, **other: Any) -> EmailAlerts:
    return EmailAlerts.model_validate(
        {
            "host": "127.0.0.1",
            "port": port,
            "sender": "cdp@example.com",
            "to": ["a@example.com", "b@example.com"],
            "tls": False,
            **other,
        }
    )


def test_every_channel_gets_it(hook: Hook, mail: tuple[Inbox, int], monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, port = mail
    monkeypatch.setenv("HOOK", hook.url)
    monkeypatch.setenv("MAIL_PASSWORD", "mail-secret")
    alerts = Alerts(webhook="${HOOK}", email=email(port, username="alerts", password="${MAIL_PASSWORD}"))
    assert send_alert(alerts, "mural: a run failed", ["step: ValueError", "look"]) == []
    assert hook.received == [{"text": "*mural: a run failed*\nstep: ValueError\nlook"}]
    (message,) = inbox.messages
    assert (message["Subject"], message["To"]) == ("mural: a run failed", "a@example.com, b@example.com")
    assert str(message.get_payload()).splitlines() == ["step: ValueError", "look"]


def test_a_busy_webhook_is_asked_again(hook: Hook) -> None:
    hook.answers = [503, 429]
    assert send_alert(Alerts(webhook=hook.url), "s", ["x"]) == []
    assert len(hook.received) == 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [([404], "webhook: answered 404"), ([500, 500, 500], "webhook: did not take it (TransportError 500)")],
)
def test_a_webhook_that_refuses_is_named_without_its_url(hook: Hook, answers: list[int], said: str) -> None:
    hook.answers = answers
    assert send_alert(Alerts(webhook=hook.url), "s", ["x"]) == [said]


def test_channels_that_are_not_there_are_told_apart(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Alerts(webhook="http://127.0.0.1:1/very-secret", email=email(1))
    assert send_alert(gone, "s", ["x"]) == [
        "webhook: did not take it (ConnectError)",
        "email: the server did not take it (ConnectionRefusedError)",
    ]
    monkeypatch.delenv("NO_SUCH_HOOK", raising=False)
    (unset,) = send_alert(Alerts(webhook="${NO_SUCH_HOOK}"), "s", ["x"])
    assert "NO_SUCH_HOOK" in unset


@pytest.mark.parametrize(
    ("change", "said"),
    [
        # A wrong password: smtplib tries further ways to sign in, and the server hangs up.
        ({"username": "alerts", "password": "wrong"}, "email: the server did not take it (SMTPServerDisconnected)"),
        ({"to": ["x@refused.example"]}, "email: the server did not take it (SMTPRecipientsRefused)"),
        ({"tls": True}, "email: the server did not take it (SMTPNotSupportedError)"),
    ],
)
def test_a_mail_server_that_refuses_is_named(
    mail: tuple[Inbox, int], change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, port = mail
    monkeypatch.setattr(alerts, "TIMEOUT_SECONDS", 0.4)
    assert send_alert(Alerts(email=email(port, **change)), "s", ["x"]) == [said]
    assert inbox.messages == []


def test_mail_to_another_machine_takes_tls() -> None:
    with pytest.raises(ValidationError, match="only a server on this machine goes without TLS"):
        email(25, host="mail.example.com")


# -- when ----------------------------------------------------------------------------------------------------------------


def result(**counts: Any) -> SyncResult:
    return SyncResult(activation="a", account="sandbox", seq=1, considered=100, unchanged=0, **counts)


@pytest.mark.parametrize(
    ("counts", "first"),
    [
        ({"delivered": 100}, None),
        ({"delivered": 95, "rejected": 5}, None),
        ({"delivered": 94, "rejected": 6}, "6 of 100 keys rejected"),
        ({"delivered": 50, "waiting": 50}, None),
        ({"delivered": 49, "waiting": 51}, "51 of 100 keys waiting"),
        ({"delivered": 99, "unknown": 1}, "1 keys without an answer"),
        ({"held": {"exits": 100}, "hold": "exits", "hold_detail": "100 would leave"}, "held: exits: 100 would leave"),
    ],
)
def test_a_sync_is_told_of_when_it_does_worse_than_it_may(counts: dict[str, Any], first: str | None) -> None:
    lines = sync_alert(result(**counts), Thresholds(), "mural", {"rejected: 5": 6})
    assert (lines[0] if lines else None) == first
    if first:
        assert "6 × rejected: 5" in lines
        assert "cdp ledger outcomes --activation a" in lines[-1]


def test_one_refused_retract_is_told_of_with_what_to_do() -> None:
    lines = sync_alert(result(delivered=99, rejected=1), Thresholds(), "mural", {"rejected: 5": 1}, refused_retracts=1)
    assert lines[0] == "1 retracts refused: the destination keeps what is to be gone"
    assert lines[-2] == "once its cause is mended, try again with: cdp ledger replay --activation a"
    assert sync_alert(result(delivered=99, rejected=1), Thresholds(refused_retracts=2), "mural", {}, refused_retracts=1) == []


def test_thresholds_can_be_switched_off() -> None:
    off = Thresholds(rejected_share=None, waiting_share=None, unknown=None, refused_retracts=None, held=False)
    bad = result(rejected=40, waiting=59, unknown=1, hold="exits")
    assert sync_alert(bad, off, "mural", {}, refused_retracts=40) == []


def test_a_failed_run_is_told_of_by_step_and_class_and_nothing_that_the_error_says(hook: Hook, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "spaces" / "mural", tmp_path / "mural"))
    config = folder / "space.yaml"
    config.write_text(config.read_text() + f"\nalerts: {{webhook: '${{MURAL_HOOK:-{hook.url}}}'}}\n")
    space = load(folder)
    (sensor,) = build_failure_sensors(space, folder)
    assert build_failure_sensors(load(ROOT / "spaces" / "mural"), folder) == []

    @dg.op
    def breaks() -> None:
        raise ValueError("ann@example.com is no number")

    @dg.job
    def job() -> None:
        breaks()

    with dg.instance_for_test() as instance:
        failed = job.execute_in_process(instance=instance, raise_on_error=False)
        context = dg.build_run_status_sensor_context(
            sensor_name=sensor.name,
            dagster_instance=instance,
            dagster_run=failed.dagster_run,
            dagster_event=failed.get_run_failure_event() if hasattr(failed, "get_run_failure_event") else failed.all_events[-1],
        )
        sensor(context.for_run_failure())
        assert failure_text(instance, failed.dagster_run)[0] == "breaks: ValueError"
    (told,) = hook.received
    assert told["text"] == f"*mural: a run failed*\nbreaks: ValueError\nlook at run {failed.run_id} in the Dagster UI"
