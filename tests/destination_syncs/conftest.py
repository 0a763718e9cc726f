"""Fixtures of the destination_syncs room."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.warehouse import Warehouse
from tests.destination_syncs.lab import Lab, lab_in


@pytest.fixture
def lab(duckdb_warehouse: Warehouse, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Make a lab: ``lab("enters", "append", …)`` with the trigger, the resend class, and fields of the activation."""
    with contextlib.ExitStack() as stack:

        def make(when: str = "enters_or_exits", resend: str = "upsert", **given: Any) -> Lab:
            return stack.enter_context(lab_in(tmp_path, duckdb_warehouse, when, resend, **given))

        yield make
