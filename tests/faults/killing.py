"""Kill -9 at every write and every send, by number: a forked child counts the points that it passes and dies at the chosen one.

A point lies before each commit of the warehouse, before each commit of the journal, and before each request. What happens between
two points leaves no trace outside of the process, so dying before a point is dying anywhere since the one before: also after the
destination took a batch and before its answer was written down.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa
from botocore.httpsession import URLLib3Session

from resources.warehouse.duckdb import DuckDBWarehouse

_WRITES = ("INSERT", "DELETE", "UPDATE", "CREATE", "DROP", "ALTER", "MERGE")


class Points:
    """Counts points in this process. ``deadly``: the number of the one at which it dies, None for none."""

    def __init__(self, deadly: int | None = None) -> None:
        self.deadly, self.passed = deadly, 0
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        if self.passed == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1
        self.names.append(name)

    def watch(self) -> None:
        """From now on, for good: meant for a child that ends."""
        run, append = DuckDBWarehouse._run, DuckDBWarehouse._append
        handle, send = httpx.HTTPTransport.handle_request, URLLib3Session.send

        def watched_run(warehouse: DuckDBWarehouse, sql: str) -> int | None:
            if sql == "COMMIT" or (warehouse._depth == 0 and sql.startswith(_WRITES)):
                self.reach(f"warehouse: {' '.join(sql.split()[:3])}")
            return run(warehouse, sql)

        def watched_append(warehouse: DuckDBWarehouse, ref: Any, rows: Any) -> None:
            if warehouse._depth == 0:
                self.reach(f"warehouse: append to {ref}")
            append(warehouse, ref, rows)

        def watched_request(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            self.reach(f"send: {request.method} {request.url.path}")
            return handle(transport, request)

        def watched_send(session: URLLib3Session, request: Any) -> Any:
            self.reach(f"send: {request.method} {urlsplit(request.url).path}")
            return send(session, request)

        DuckDBWarehouse._run = watched_run  # type: ignore[method-assign]
        DuckDBWarehouse._append = watched_append  # type: ignore[method-assign]
        httpx.HTTPTransport.handle_request = watched_request  # type: ignore[method-assign]
        URLLib3Session.send = watched_send
        sa.event.listen(sa.Engine, "commit", lambda connection: self.reach("journal: commit"))


def in_child(body: Callable[[], Any], points: Points | None = None) -> Any:
    """What ``body`` returns when run in a fork of this process; None when the child was killed.

    A fork shares what is imported and compiled, so a child costs no more than its work. Raises AssertionError, with the child's
    traceback on standard error, when ``body`` raises.
    """
    reader, writer = os.pipe()
    gc.freeze()  # a collection in the child would copy the memory that it shares
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            if points is not None:
                points.watch()
            answer = pickle.dumps(body())
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, a child never goes on as a second test run
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return None
    assert status == 0, f"the child ended with {status}"
    return pickle.loads(answer)


def names_of(body: Callable[[], Any]) -> list[str]:
    """The points that ``body`` passes, in order."""
    points = Points()

    def counted() -> list[str]:
        body()
        return points.names

    return in_child(counted, points)


def every_point(names: list[str]) -> Iterator[tuple[int, str]]:
    """(number, name) of each point, and the end."""
    yield from enumerate([*names, "the end"])


def copy_of(source: Path, target: Path) -> None:
    """Make a SQLite file that others have open hold what ``source`` holds."""
    with sqlite3.connect(target, timeout=30) as database:
        database.execute("ATTACH ? AS kept", [str(source)])
        for (table,) in database.execute("SELECT name FROM kept.sqlite_master WHERE type = 'table'").fetchall():
            database.execute(f'DELETE FROM main."{table}"')
            database.execute(f'INSERT INTO main."{table}" SELECT * FROM kept."{table}"')
    database.close()
