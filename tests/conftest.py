"""Fixtures shared by the suite: a fresh warehouse per test, on DuckDB and on Snowflake (the real connector to a local server)."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.destinations.http import is_loopback
from resources.warehouse import Warehouse

ROOT = Path(__file__).parent.parent
# Hundreds of small databases come and go, and each waits for the disk at every commit. Where there is memory for them they need none.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
_numbers = itertools.count(1)
# Expressions are millions of small objects that live briefly; looking through all others again and again is a tenth of the time.
gc.set_threshold(100_000, 50, 50)


# Filled where a test is told to use a real account.
_elsewhere: list[str] = []


def _stay_here(host: Any) -> None:
    """Raises for another machine: nothing is sent to a real host in any test."""
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if not is_loopback(name) and not _elsewhere:
        raise AssertionError("a test reaches for a host that is not this machine")


def _fenced(original: Callable[..., Any], host_of: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fenced(*arguments: Any, **named: Any) -> Any:
        _stay_here(host_of(*arguments, **named))
        return original(*arguments, **named)

    return fenced


def _of_address(_: socket.socket, address: Any) -> Any:
    return address[0] if isinstance(address, tuple) else None


socket.socket.connect = _fenced(socket.socket.connect, _of_address)  # type: ignore[method-assign]
socket.socket.connect_ex = _fenced(socket.socket.connect_ex, _of_address)  # type: ignore[method-assign]
socket.getaddrinfo = _fenced(socket.getaddrinfo, lambda host, *_, **__: host)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--live-snowflake"):
        _elsewhere.append("Snowflake")


@pytest.fixture
def duckdb_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    """An empty DuckDB file."""
    from resources.warehouse.duckdb import open_duckdb

    with open_duckdb(tmp_path / "test.duckdb") as warehouse:
        yield warehouse


@pytest.fixture(scope="session")
def snowflake_server() -> Iterator[dict[str, Any]]:
    """Settings of ``SnowflakeResource`` for a local Snowflake server that speaks the real wire protocol."""
    import fakesnow

    for name in ("snowflake.connector", "uvicorn", "uvicorn.access", "uvicorn.error", "fakesnow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch, fakesnow.server() as given:
        _copy_statements_once(patch)
        connection = dict(given)
        extra = {key: connection.pop(key) for key in list(connection) if key not in ("account", "user", "password")}
        yield {**connection, "additional_snowflake_connection_args": {**extra, "network_timeout": 120}}


class _Steps:
    """A statement on its way through the server's rewriting steps, changed in place."""

    def __init__(self, statement: Any) -> None:
        self.statement = statement

    def transform(self, step: Any, **given: Any) -> _Steps:
        self.statement = self.statement.transform(step, copy=False, **given)
        return self


def _copy_statements_once(patch: pytest.MonkeyPatch) -> None:
    """The server copies a statement for each of its seventy rewriting steps, which is most of its time; once is enough."""
    from fakesnow.cursor import FakeSnowflakeCursor

    rewritten = FakeSnowflakeCursor._transform
    patch.setattr(
        FakeSnowflakeCursor, "_transform", lambda self, tree, params: rewritten(self, _Steps(tree.copy()), params).statement
    )


@pytest.fixture
def snowflake_settings(snowflake_server: dict[str, Any]) -> dict[str, Any]:
    """The server's settings with a database of this test's own."""
    return {**snowflake_server, "database": f"TEST_{next(_numbers)}", "schema": "PUBLIC"}


@pytest.fixture
def snowflake_warehouse(snowflake_settings: dict[str, Any]) -> Iterator[Warehouse]:
    """An empty Snowflake database."""
    from resources.warehouse.snowflake import open_snowflake

    with open_snowflake(snowflake_settings) as warehouse:
        yield warehouse


@pytest.fixture(params=["duckdb", pytest.param("snowflake", marks=pytest.mark.snowflake)])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """An empty warehouse, once on each engine."""
    return request.getfixturevalue(f"{request.param}_warehouse")


@pytest.fixture(scope="session")
def czech_bank_data() -> Path:
    """The czech_bank data; where it is absent its tests are left out, which CI treats as a failure."""
    folder = Path(os.environ.get("CZECH_BANK_DATA", ROOT.parent / "shared" / "data" / "czech_bank"))
    if not (folder / "MANIFEST.json").exists():
        message = "the czech_bank data set is absent: set CZECH_BANK_DATA to its folder"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--live-snowflake",
        action="store_true",
        help="compare the engines on the real account that SNOWFLAKE_ACCOUNT, _USER, _PASSWORD, _WAREHOUSE, _ROLE and _DATABASE name",
    )
