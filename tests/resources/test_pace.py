"""Pace: no window is overstepped, and where there is work at least nine tenths of what is allowed is used. No real time passes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pyrate_limiter import InMemoryBucket

from resources.destinations import Connection, RateLimit
from resources.destinations import http as wire

_names = itertools.count()


class Time:
    """Seconds that pass when somebody sleeps, and a little with each call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1_000.0
        monkeypatch.setattr(wire.time, "sleep", self.sleep)
        monkeypatch.setattr(InMemoryBucket, "now", lambda _: int(self.seconds * 1000))

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def account(*rates: RateLimit) -> wire.Account:
    connection = Connection("sandbox", f"pace-{next(_names)}", {}, {}, "http://127.0.0.1:1")
    return wire.account_of("pace", connection, "http://127.0.0.1:1", rates)


@pytest.mark.parametrize(
    "rates",
    [
        (RateLimit(50, 20.0),),
        (RateLimit(10, 1.0),),
        (RateLimit(100, 60.0),),
        (RateLimit(3000, 3.0),),
        (RateLimit(10, 1.0), RateLimit(100, 60.0)),
    ],
)
def test_windows_are_used_and_never_overstepped(time: Time, rates: tuple[RateLimit, ...]) -> None:
    shared = account(*rates)
    slowest = min(rates, key=lambda rate: rate.calls / rate.seconds)
    calls: list[float] = []
    began = time.seconds
    for _ in range(slowest.calls * 12):
        shared.enter()
        calls.append(time.seconds)
        time.seconds += 0.0001
    for rate in rates:
        for first, later in zip(calls, calls[rate.calls :], strict=False):
            assert later - first >= rate.seconds - 0.001
    # The first window is there at once; from then on nine tenths of the pace.
    allowed = slowest.calls / slowest.seconds * (time.seconds - began)
    assert len(calls) >= 0.9 * allowed


def test_a_window_of_an_hour_is_not_waited_for(time: Time) -> None:
    shared = account(RateLimit(5, 3600.0))
    for _ in range(5):
        shared.enter()
    with pytest.raises(wire.CallFailedError) as error:
        shared.enter()
    assert (error.value.status, error.value.code) == ("waiting", "paced")
    left = (error.value.not_before or wire.now()) - wire.now()
    assert 3_590 < left.total_seconds() <= 3_601
    assert time.seconds < 1_010


def test_two_activations_of_an_account_share_its_pace(time: Time) -> None:
    connection: Any = Connection("sandbox", f"pace-{next(_names)}", {}, {}, "http://127.0.0.1:1")
    first, second = (wire.account_of("pace", connection, "http://127.0.0.1:1", (RateLimit(10, 1.0),)) for _ in range(2))
    began = time.seconds
    for _ in range(20):
        first.enter()
        second.enter()
    assert time.seconds - began >= 2.9
