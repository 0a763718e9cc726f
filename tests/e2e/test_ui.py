"""The real UI in a real browser: ``dagster dev`` on an owl_bank that has run once, read and operated through Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from cdp_assets.dagster_support import GROUPS, WAREHOUSE_GROUP
from tests.e2e.conftest import Stage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Waits are for a busy machine: on a quiet one nothing here takes more than fifteen seconds.
PATIENCE_MS = 240_000
LOCATIONS = "{workspaceOrError {... on Workspace {locationEntries {name locationOrLoadError {__typename}}}}}"


@pytest.fixture(scope="module")
def browser_path() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        message = f"no Chromium was found (looked for {', '.join(BROWSERS)}): the test of the UI in a browser is left out"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def locations(url: str) -> dict[str, str]:
    """Code location -> ``RepositoryLocation`` when it has loaded, ``PythonError`` when it failed to."""
    body = json.dumps({"query": LOCATIONS}).encode()
    with urlopen(Request(f"{url}/graphql", data=body, headers={"Content-Type": "application/json"}), timeout=60) as response:
        entries = json.load(response)["data"]["workspaceOrError"]["locationEntries"]
    return {entry["name"]: entry["locationOrLoadError"]["__typename"] for entry in entries if entry["locationOrLoadError"]}


def wait_until_loaded(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < deadline:
        assert server.poll() is None, f"dagster dev ended by itself:\n{log.read_text()[-3000:]}"
        try:
            if loaded := locations(url):
                assert loaded == {"owl_bank": "RepositoryLocation"}, log.read_text()[-3000:]
                return
        except (URLError, OSError):
            pass
        time.sleep(0.5)
    pytest.fail(f"dagster dev did not load owl_bank:\n{log.read_text()[-3000:]}")


@pytest.fixture
def ui(browser_path: str, owl_bank: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a Dagster UI whose only code location is the stage's owl_bank; sensors and schedules off, so that nothing else runs."""
    settings = owl_bank.directory / "space.yaml"
    settings.write_text(settings.read_text() + "\nautomation: off\n")
    definitions = {"relative_path": str(owl_bank.directory / "definitions.py"), "location_name": "owl_bank"}
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(json.dumps({"load_from": [{"python_file": definitions}]}))
    monkeypatch.delenv("CDP_DEMO", raising=False)
    monkeypatch.setenv("CDP_HOME", str(owl_bank.home.root))
    monkeypatch.setenv("DAGSTER_HOME", str(owl_bank.home.dagster))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
    # A shell without job control starts its background jobs with SIGINT ignored, which children inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    log = tmp_path / "dagster_dev.log"
    with log.open("wb") as output:
        # A session of its own: the whole group is ended below, runs included.
        server = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_loaded(url, server, log)
        yield url
    finally:
        end_group(server)


def end_group(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_user_finds_the_rooms_reads_an_audience_and_launches_a_run(ui: str, browser_path: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=browser_path, args=arguments) as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(PATIENCE_MS)
        # The dialog that invites to the community comes when it likes and takes every click.
        page.add_locator_handler(page.get_by_role("button", name="Skip", exact=True), lambda skip: skip.click())

        page.goto(f"{ui}/asset-groups", wait_until="domcontentloaded")
        # The space has neither pulled sources nor reports.
        used = [group for room, group in GROUPS.items() if room not in ("pulled_sources", "reports")]
        expect(page.get_by_text(used[-1], exact=True).first).to_be_visible()
        lines = page.inner_text("body").splitlines()
        groups = list(dict.fromkeys(line for line in lines if re.fullmatch(r"\d_[a-z_]+", line)))
        assert groups == [WAREHOUSE_GROUP, *used]

        page.goto(f"{ui}/assets/owl_bank/linked_audiences/overdue_checking", wait_until="domcontentloaded")
        expect(page.get_by_text("with at least 1 Accounts (accounts) where").first).to_be_visible()
        expect(page.get_by_text("overdue_amount is greater than 0").first).to_be_visible()
        for shown in (
            "customer-data",
            "DuckDB",
            "linked_audiences.audience_members",
            "members",
            "profiles left at each condition",
        ):
            expect(page.get_by_text(shown, exact=True).first).to_be_visible()

        page.goto(f"{ui}/assets/owl_bank/activation_payloads/overdue_contacts", wait_until="domcontentloaded")
        expect(page.get_by_text("Row count", exact=True)).to_be_visible()
        page.get_by_role("button", name=re.compile("Materialize$")).click()
        page.get_by_role("link", name="View", exact=True).click()
        page.wait_for_url("**/runs/*")
        expect(page.get_by_text("owl_bank__payloads__overdue_contacts").first).to_be_visible()
        outcome = page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
        expect(outcome).to_be_visible()
        assert outcome.inner_text() == "Success"
