"""What was sent equals what a script computes from the truth file and the entity tables, sharing no code with the product."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from urllib.request import urlopen

import pytest

from cdp_assets.generate import generate
from cdp_assets.pipeline import run_space
from cdp_assets.space.home import Home
from resources.sandbox.server import sandbox
from resources.space import load
from resources.warehouse.open import open_warehouse
from tests.e2e.conftest import END, ROOT, make
from tests.truth import expected_operations as truth

SYSTEMS = {
    "overdue_contacts": ("salesforce", "Contact"),
    "overdue_card_alerts": ("marketo", "leads"),
    "user_profile_segmentation": ("marketo", "leads"),
}
COUNTED = ("considered", "unchanged", "delivered", "withheld", "operations")


def compare(summary: dict, accounts: dict[str, truth.Expected]) -> None:
    for activation, expected in accounts.items():
        found = summary["activations"][activation]
        assert {name: found[name] for name in COUNTED} == {
            "considered": expected.considered,
            "unchanged": expected.unchanged,
            "delivered": expected.delivered,
            "withheld": dict(expected.withheld),
            "operations": {kind: expected.operations.get(kind, 0) for kind in ("enter", "change", "exit", "retract")},
        }, activation


def held_by_twin(url: str, activation: str) -> list[dict]:
    system, thing = SYSTEMS[activation]
    with urlopen(f"{url}/__twin/{system}/records?object={thing}") as response:
        return [record["fields"] for record in json.load(response)["records"]]


@pytest.mark.parametrize("name", ["owl_bank", "mural"])
def test_operations_and_final_records_equal_the_truth_before_and_after_another_day(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, home = tmp_path / "space", Home(tmp_path / "home")
    shutil.copytree(ROOT / "spaces" / name, directory)
    make(directory, home, profiles=120, days=6)
    space = load(directory)
    with sandbox(home.sandbox) as url:
        monkeypatch.setenv("CDP_SANDBOX_URL", url)
        accounts, ledger = truth.sync(name, {}, truth.snapshot(home.root, name, END))
        first = run_space(directory, home, as_of=END)
        assert first.failures == {}
        compare(first.summary, accounts)

        again = run_space(directory, home, as_of=END)
        assert {key: a["delivered"] for key, a in again.summary["activations"].items()} == dict.fromkeys(space.activations, 0)

        with open_warehouse(space, home) as warehouse:
            generate(space, warehouse, home, profiles=0, days=0, seed=0, end=END, more="1d")
        later = END + dt.timedelta(days=1)
        accounts, ledger = truth.sync(name, ledger, truth.snapshot(home.root, name, later))
        third = run_space(directory, home, as_of=later)
        assert third.failures == {}
        compare(third.summary, accounts)
        assert sum(expected.delivered for expected in accounts.values()) > 0
        for activation in accounts:
            assert truth.differences(name, activation, ledger, held_by_twin(url, activation)) == []
