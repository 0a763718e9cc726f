"""What was sent equals what a script computes from the truth file and the entity tables, sharing no code with the product."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest

from cdp_assets.generate import generate
from cdp_assets.pipeline import run_space
from cdp_assets.space.home import Home
from resources.sandbox.server import sandbox
from resources.space import load
from resources.warehouse.open import open_warehouse
from tests.e2e.against_truth import held_by_twin, reported, wanted
from tests.e2e.conftest import END, ROOT, make
from tests.truth import expected_operations as truth


def test_operations_and_final_records_equal_the_truth_before_and_after_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, directory, home = "owl_bank", tmp_path / "space", Home(tmp_path / "home")
    shutil.copytree(ROOT / "spaces" / name, directory)
    make(directory, home, profiles=120, days=6)
    space = load(directory)
    with sandbox(home.sandbox) as url:
        monkeypatch.setenv("CDP_SANDBOX_URL", url)
        accounts, ledger = truth.sync(name, {}, truth.snapshot(home.root, name, END))
        first = run_space(directory, home, as_of=END)
        assert first.failures == {}
        assert reported(first.summary, accounts) == wanted(accounts)

        again = run_space(directory, home, as_of=END)
        assert {key: a["delivered"] for key, a in again.summary["activations"].items()} == dict.fromkeys(space.activations, 0)

        with open_warehouse(space, home) as warehouse:
            generate(space, warehouse, home, profiles=0, days=0, seed=0, end=END, more="1d")
        later = END + dt.timedelta(days=1)
        accounts, ledger = truth.sync(name, ledger, truth.snapshot(home.root, name, later))
        third = run_space(directory, home, as_of=later)
        assert third.failures == {}
        assert reported(third.summary, accounts) == wanted(accounts)
        assert sum(expected.delivered for expected in accounts.values()) > 0
        for activation in accounts:
            assert truth.differences(name, activation, ledger, held_by_twin(url, activation)) == []
