"""DuckDB connections that stay open for a moment after their warehouse is closed, for whoever opens the same file next in this process.

Opening and closing a file costs as much as a dozen statements: its catalogue is read, a checkpoint is written. The steps of a run do it one
after the other. A moment is short enough for other processes, which ask for the file again and again while they wait for it.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import duckdb

# Seconds, until the next step of a run; less than what other processes wait before they ask for the file again.
LINGER: Final = 0.2


@dataclass(frozen=True)
class Rested:
    """A connection, what closes it, and how it was set up."""

    connection: duckdb.DuckDBPyConnection
    stack: ExitStack
    setup: Hashable


_rested: dict[str, Rested] = {}
# Held while one is closed, too: who opens the file meanwhile would get a database that is about to go, with its settings locked.
_lock = threading.RLock()


def rest(path: str, rested: Rested, seconds: float) -> None:
    """Keep a connection to a file for so long, unless somebody takes it."""

    def end() -> None:
        with _lock:
            if _rested.get(path) is rested:
                release(path)

    with _lock:
        release(path)
        _rested[path] = rested
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def take(path: str, setup: Hashable) -> Rested | None:
    """The connection to a file that rests here and was set up so. One that was set up otherwise is closed."""
    with _lock:
        if path in _rested and _rested[path].setup == setup:
            return _rested.pop(path)
        release(path)
    return None


def release(path: str | None = None) -> None:
    """Close what rests: of one file, or all."""
    with _lock:
        for one in [path] if path is not None else list(_rested):
            if one in _rested:
                _rested.pop(one).stack.close()


def _before_fork() -> None:
    # A database must not be closed by two processes; and a lock that another thread holds now would be held for ever in the new one.
    _lock.acquire()
    release()


atexit.register(release)
os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
