"""Twins for tests: a server per test, with a clock that a test can set."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from resources.destinations import Connection
from resources.sandbox import CLIENT_ID, CLIENT_SECRET


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

    def __init__(self, url: str, folder: Path, clock: Clock) -> None:
        self.url, self.folder, self.clock = url, folder, clock
        self.http = httpx.Client(trust_env=False, timeout=10)

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
        quick = {"timeout_seconds": 0.3, "retry_seconds": 0.5}
        return Connection("sandbox", "sandbox", {**quick, **settings}, {}, self.base(system))

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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def twins(tmp_path: Path, clock: Clock) -> Iterator[Twins]:
    from resources.sandbox.server import sandbox

    with sandbox(tmp_path / "twins", clock=clock) as url:
        running = Twins(url, tmp_path / "twins", clock)
        yield running
        running.http.close()
