"""DuckDB files that stay open between the steps of a run: for the next of them, and not for long."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resources.warehouse import TableRef
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb
from resources.warehouse.resting import release

_ASK = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])"


def asks(path: Path, statement: str = "SELECT 1") -> bool:
    """Whether another process can open the file now, and run a statement."""
    asked = subprocess.run([sys.executable, "-c", _ASK, str(path), statement], capture_output=True, text=True)
    assert not asked.returncode or "lock" in asked.stderr, asked.stderr
    return not asked.returncode


def connection_of(path: Path, **options: object) -> int:
    """Which connection somebody gets who opens the file, and closes it again."""
    with open_duckdb(path, linger=60.0, **options) as warehouse:
        assert isinstance(warehouse, DuckDBWarehouse)
        warehouse.ensure_schema("x")
        return id(warehouse._connection)


def limit_of(warehouse: DuckDBWarehouse) -> str:
    return warehouse._connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]


def test_who_opens_a_file_again_at_once_gets_the_connection_that_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    assert connection_of(path) == connection_of(path)
    assert not asks(path)
    release(str(path))
    assert asks(path)


def test_a_file_is_let_go_after_its_moment(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    open_duckdb(path, linger=0.3).close()
    assert not asks(path, "CREATE TABLE early AS SELECT 1")
    end = time.monotonic() + 30
    while not asks(path, "CREATE OR REPLACE TABLE mine AS SELECT 1"):
        assert time.monotonic() < end
    # What another process wrote meanwhile is there.
    with open_duckdb(path) as warehouse:
        assert warehouse.has(TableRef("main", "mine"))
        assert not warehouse.has(TableRef("main", "early"))


def test_without_a_moment_a_file_is_let_go_at_once(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    with open_duckdb(path, linger=60.0):
        pass
    with open_duckdb(path):
        pass
    assert asks(path)


def test_who_closes_twice_does_not_end_what_somebody_else_has_by_then(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    first = open_duckdb(path, linger=60.0)
    first.close()
    first.close()
    with open_duckdb(path, linger=60.0) as second:
        first.close()
        second.ensure_schema("x")
    release()


def test_an_error_ends_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    with pytest.raises(ValueError, match="of the step"), open_duckdb(path, linger=60.0):
        raise ValueError("of the step")
    assert asks(path)


def test_other_folders_or_limits_are_another_connection(tmp_path: Path) -> None:
    path, folder = tmp_path / "space.duckdb", tmp_path / "files"
    folder.mkdir()
    with open_duckdb(path, linger=60.0) as warehouse:
        assert limit_of(warehouse) != "953.6 MiB"
    with open_duckdb(path, linger=60.0, memory_limit="1GB") as warehouse:
        assert limit_of(warehouse) == "953.6 MiB"
    with open_duckdb(path, linger=60.0, views={"crm": folder}) as warehouse:
        assert not warehouse.list_tables("crm")
        warehouse._connection.execute(f"COPY (SELECT 1 AS id) TO '{folder}/accounts.parquet'")
    with open_duckdb(path, linger=60.0, views={"crm": folder}) as warehouse:
        assert warehouse.list_tables("crm") == [TableRef("crm", "accounts")], "files that came since are there"
    release()


def test_a_forked_process_has_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    open_duckdb(path, linger=60.0).close()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert asks(path)


# In a process of its own: to fork one as large as a test run takes half a second.
_FORKS = """
import os, pathlib, signal, sys, time
from resources.warehouse.duckdb import open_duckdb

for number in range(60):
    path = pathlib.Path(sys.argv[1]) / f"{number}.duckdb"
    open_duckdb(path, linger=0.001).close()
    time.sleep(0.001 * (number % 4))
    child = os.fork()
    if child == 0:
        open_duckdb(path, linger=0.001).close()
        os._exit(0)
    end = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert time.monotonic() < end or os.kill(child, signal.SIGKILL), "the new process waits for ever"
        time.sleep(0.002)
"""


def test_a_process_that_is_forked_while_one_is_closed_can_open_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FORKS, str(tmp_path)], check=True)


def test_a_process_that_ends_lets_go_of_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "space.duckdb"
    write = f"""
from resources.warehouse.duckdb import open_duckdb
with open_duckdb({str(path)!r}, linger=60.0) as warehouse:
    warehouse._run("CREATE TABLE mine AS SELECT 1")
"""
    subprocess.run([sys.executable, "-c", write], check=True)
    assert not path.with_suffix(".duckdb.wal").exists()
    assert asks(path, "SELECT * FROM mine")
