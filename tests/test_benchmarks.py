"""Benchmarks run, and what they check in themselves holds, at a size that measures nothing."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES

# Their least size is no small one.
SLOW = {"landing", "audiences"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW])
def test_a_benchmark_runs(tmp_path: Path, name: str) -> None:
    figures = importlib.import_module(f"benchmarks.{name}").run(0.002, tmp_path)
    assert figures and all(figure.seconds > 0 for figure in figures)
