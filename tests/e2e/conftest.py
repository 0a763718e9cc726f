"""A small owl_bank that has run once, copied for each test: space folder, home, and twins on that home's state."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from cdp_assets.generate import generate
from cdp_assets.pipeline import RunReport, run_space
from cdp_assets.space.home import Home
from resources.sandbox.server import sandbox
from resources.space import load
from resources.warehouse import Warehouse
from resources.warehouse.open import open_warehouse

ROOT = Path(__file__).parent.parent.parent
END = dt.datetime(2026, 10, 8, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@dataclass
class Stage:
    """A space folder and a home of the test's own, with the twins running on it."""

    directory: Path
    home: Home
    url: str
    now: dt.datetime = END

    def run(self, as_of: dt.datetime | None = None) -> RunReport:
        return run_space(self.directory, self.home, as_of=as_of or self.now)

    def warehouse(self) -> Warehouse:
        return open_warehouse(load(self.directory), self.home)

    def twin(self, path: str) -> Any:
        with urlopen(f"{self.url}/__twin/{path}") as response:
            return json.load(response)

    def calls(self, system: str) -> list[dict[str, Any]]:
        """Requests that the twin received, token requests left out."""
        answer = self.twin(f"{system}/calls")
        calls = answer["calls"] if isinstance(answer, dict) else answer
        return [call for call in calls if "oauth" not in call["path"]]

    def forget_calls(self) -> None:
        """What was counted so far; the twins keep their records."""
        self.seen = {system: len(self.calls(system)) for system in ("salesforce", "marketo", "gainsight")}

    def new_calls(self) -> int:
        return sum(len(self.calls(system)) - count for system, count in self.seen.items())

    def people(self, space: str) -> list[dict[str, str]]:
        """Identifiers by type of everybody whom the generator made, one entry for each set that was seen together."""
        truth = json.loads((self.home.space(space) / "truth.json").read_text())
        return [dict(part) for person in truth["persons"].values() for part in person["parts"]]

    def withdraw(self, space: str, people: Iterable[dict[str, str]]) -> None:
        """Land a file in which these people agree to nothing any more, half an hour after now."""
        at = (self.now + HOUR / 2).isoformat().replace("+00:00", "Z")
        refusal = {"categoryPreferences": {"Functional": False, "Analytics": False, "Advertising": False}}
        events = [
            {
                "type": "track",
                "event": "Segment Consent Preference Updated",
                "messageId": f"withdrawn-{number}",
                **{name: one[kind] for kind, name in (("user_id", "userId"), ("anonymous_id", "anonymousId")) if kind in one},
                "context": {"consent": refusal, "traits": {"email": one["email"]} if "email" in one else {}},
                **dict.fromkeys(("originalTimestamp", "sentAt", "receivedAt", "timestamp"), at),
            }
            for number, one in enumerate(people)
        ]
        (self.home.landing(space) / "withdrawn.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    def faults(self, system: str, plan: dict[str, Any]) -> None:
        request = Request(
            f"{self.url}/__twin/{system}/faults",
            data=json.dumps(plan).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        urlopen(request).close()

    def no_faults(self, system: str) -> None:
        urlopen(Request(f"{self.url}/__twin/{system}/faults", method="DELETE")).close()


def make(directory: Path, home: Home, *, profiles: int, days: int, seed: int = 7) -> None:
    space = load(directory)
    with open_warehouse(space, home) as warehouse:
        generate(space, warehouse, home, profiles=profiles, days=days, seed=seed, end=END)


@contextmanager
def copied(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A copy of a folder with ``space/`` and ``home/``, its twins running."""
    shutil.copytree(made, folder)
    home = Home(folder / "home")
    with sandbox(home.sandbox) as url:
        monkeypatch.setenv("CDP_SANDBOX_URL", url)
        yield Stage(folder / "space", home, url)


@pytest.fixture(scope="session")
def owl_bank_after_one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``space/`` and ``home/``: owl_bank generated and run once as of END."""
    folder = tmp_path_factory.mktemp("owl_bank")
    shutil.copytree(ROOT / "spaces" / "owl_bank", folder / "space")
    home = Home(folder / "home")
    make(folder / "space", home, profiles=150, days=6)
    with sandbox(home.sandbox) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDP_SANDBOX_URL", url)
        report = run_space(folder / "space", home, as_of=END)
    assert report.failures == {}
    (folder / "summary.json").write_text(json.dumps(report.summary))
    return folder


@pytest.fixture
def owl_bank(owl_bank_after_one_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A copy of the owl_bank that has run once; its twins hold what that run delivered."""
    with copied(owl_bank_after_one_run, tmp_path / "stage", monkeypatch) as stage:
        stage.forget_calls()
        yield stage


@pytest.fixture
def first_summary(owl_bank_after_one_run: Path) -> dict[str, Any]:
    return json.loads((owl_bank_after_one_run / "summary.json").read_text())
