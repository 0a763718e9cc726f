"""The real data set: the counts that its documentation and direct queries give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.czech_bank


@pytest.fixture(scope="module")
def summary(czech_bank_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What ``cdp run --json`` prints for the whole history, on a fresh home."""
    home = tmp_path_factory.mktemp("czech")
    command = [
        "-m",
        "cdp_assets",
        "run",
        "--space",
        "spaces/czech_bank",
        "--as-of",
        "1999-01-01T00:00:00Z",
        "--json",
        "--home",
        str(home),
    ]
    environment = {**os.environ, "CZECH_BANK_DATA": str(czech_bank_data)}
    result = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_every_event_of_the_archive_is_accepted(summary: dict) -> None:
    assert summary["raw_events"] == {"accepted": 84_671, "duplicates": 0, "quarantined": 0}


def test_each_client_is_one_profile(summary: dict) -> None:
    assert summary["profiles"] == 5_369


def test_audiences_count_what_a_direct_query_counts(summary: dict) -> None:
    assert {key: audience["members"] for key, audience in summary["audiences"].items()} == {
        "loan_in_debt": 45,
        "debt_and_card": 3,
    }


def test_only_consenting_debtors_are_sent(summary: dict) -> None:
    activation = summary["activations"]["debt_contacts"]
    assert activation["considered"] == 45
    assert activation["delivered"] == 28
    assert activation["withheld"] == {"consent": 17}
    assert activation["operations"] == {"enter": 28, "change": 0, "exit": 0, "retract": 0}
