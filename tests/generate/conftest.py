"""A small world per test: the space from its folder, a home of its own, and a call of the generator."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.generate import GenerateResult, generate
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from resources.warehouse.duckdb import open_duckdb

SPACES = Path(__file__).parents[2] / "spaces"
END = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)

Generate = Callable[..., GenerateResult]


@pytest.fixture
def make(tmp_path: Path) -> Generate:
    """``make("owl_bank", home="a", profiles=…)``: generates into ``tmp_path / home``."""

    def call(space: str, *, home: str = "home", **given: Any) -> GenerateResult:
        where = Home(tmp_path / home)
        arguments: dict[str, Any] = {"profiles": 60, "days": 5, "seed": 3, "end": END, **given}
        with open_duckdb(where.warehouse_file(space)) as warehouse:
            return generate(load_space(SPACES / space), warehouse, where, **arguments)

    return call


def lines_of(folder: Path) -> dict[str, list[bytes]]:
    """Lines of every landing file, by file name."""
    return {path.name: gzip.decompress(path.read_bytes()).splitlines() for path in sorted(folder.glob("*.jsonl.gz"))}
