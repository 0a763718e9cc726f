"""Twins for tests: one server, emptied before each test, with a clock that a test can set."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from resources.destinations import Connection
from resources.sandbox import CLIENT_ID, CLIENT_SECRET

_accounts = itertools.count(1)


class Clock:
    """Aware UTC, standing still until moved."""

    def __init__(self) -> None:
        self.at = dt.datetime(2026, 6, 15, 12, 0, 0, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.at

    def pass_(self, **time: float) -> None:
        self.at += dt.timedelta(**time)


class Twins:
    """The running twins, as tests and independent HTTP clients see them."""

    def __init__(self, url: str, clock: Clock, http: httpx.Client, folder: Path) -> None:
        self.url, self.clock, self.http, self.folder = url, clock, http, folder
        self.account = f"account-{next(_accounts)}"  # connectors share pace and token by account, tests must not

    def base(self, system: str) -> str:
        return f"{self.url}/{system}"

    def records(self, system: str, object: str | None = None) -> list[dict[str, Any]]:
        """The fields of what a system holds."""
        query = {"object": object} if object else {}
        return [r["fields"] for r in self.http.get(f"{self.url}/__twin/{system}/records", params=query).json()["records"]]

    def calls(self, system: str) -> list[dict[str, Any]]:
        return self.http.get(f"{self.url}/__twin/{system}/calls").json()["calls"]

    def fault(self, system: str, **plan: Any) -> None:
        assert self.http.post(f"{self.url}/__twin/{system}/faults", json=plan).status_code == 201

    def no_faults(self, system: str) -> None:
        self.http.delete(f"{self.url}/__twin/{system}/faults")

    def limit(self, system: str, **limits: int) -> None:
        assert self.http.post(f"{self.url}/__twin/{system}/limits", json=limits).status_code == 200

    def connection(self, system: str, **settings: Any) -> Connection:
        quick = {"timeout_seconds": 2.0, "retry_seconds": 0.5}
        return Connection("sandbox", self.account, {**quick, **settings}, {}, self.base(system))

    def salesforce(self) -> dict[str, str]:
        """Headers of a session."""
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        token = self.http.post(f"{self.base('salesforce')}/services/oauth2/token", data=form).json()["access_token"]
        return {"Authorization": f"Bearer {token}"}

    def marketo(self) -> dict[str, str]:
        """Headers of a session."""
        query = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        token = self.http.get(f"{self.base('marketo')}/identity/oauth/token", params=query).json()["access_token"]
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Clock, httpx.Client, Path]]:
    from resources.sandbox.server import sandbox

    clock = Clock()
    folder = tmp_path_factory.mktemp("twins")
    with sandbox(folder, clock=clock) as url, httpx.Client(trust_env=False, timeout=10) as http:
        yield url, clock, http, folder


@pytest.fixture
def clock(_running: tuple[str, Clock, httpx.Client, Path]) -> Clock:
    return _running[1]


@pytest.fixture
def twins(_running: tuple[str, Clock, httpx.Client, Path]) -> Twins:
    """Twins that have received nothing yet, at the clock's beginning."""
    url, clock, http, folder = _running
    clock.at = Clock().at
    http.post(f"{url}/__twin/reset")
    return Twins(url, clock, http, folder)
