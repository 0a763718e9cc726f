"""Delta tables: rows merged by key, deletes, batches that come twice, and what an independent reading of log and files finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import deltalake
import duckdb
import pytest
from deltalake.exceptions import CommitFailedError

from resources.destinations import Action, Connection, DestinationConfigError, Operation, Outcome
from resources.destinations.registry import capabilities, connect

ACTION = Action("merge", {"table": "product.activity", "key_field": "id", "partition_by": "day"})


def op(n: int, kind: str = "enter", **payload: Any) -> Operation:
    said = {"day": f"2026-11-{n % 3 + 1:02}", "events": n, **payload}
    return Operation(str(n), kind, f"k{n}", said, f"message-{n}-{sorted(payload.items())}")  # type: ignore[arg-type]


def deliver(folder: Path, *operations: Operation, action: Action = ACTION) -> dict[str, tuple[str, str]]:
    destination = connect("delta", Connection("sandbox", "sandbox", {}, {}, str(folder)))
    return {outcome.id: (outcome.status, outcome.reason) for outcome in destination.deliver(action, operations)}


def log(folder: Path) -> list[dict[str, Any]]:
    """All actions of the table's log, in order, as the protocol writes them."""
    files = sorted((folder / "product" / "activity" / "_delta_log").glob("*.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def read(folder: Path) -> dict[str, tuple[str, int]]:
    """Key -> (day, events), by the log's live files, which DuckDB reads; the partition is what the log says of each file."""
    live: dict[str, str] = {}
    for action in log(folder):
        if "add" in action:
            live[action["add"]["path"]] = action["add"]["partitionValues"]["day"]
        if "remove" in action:
            live.pop(action["remove"]["path"], None)
    found = {}
    for path, day in live.items():
        file = folder / "product" / "activity" / unquote(path)
        for key, events in duckdb.sql(f"SELECT id, events FROM read_parquet('{file}', hive_partitioning = false)").fetchall():
            assert key not in found
            found[key] = (day, events)
    return found


def test_rows_are_merged_by_key_and_taken_out(tmp_path: Path) -> None:
    assert set(deliver(tmp_path, op(1), op(2), op(3)).values()) == {("delivered", "")}
    assert read(tmp_path) == {"k1": ("2026-11-02", 1), "k2": ("2026-11-03", 2), "k3": ("2026-11-01", 3)}
    found = deliver(tmp_path, op(1, "change", events=10), op(2, "exit"), op(3, "retract"), op(4), op(9, "exit"))
    assert set(found.values()) == {("delivered", "")}
    assert read(tmp_path) == {"k1": ("2026-11-02", 10), "k4": ("2026-11-02", 4)}
    # A row moves to another partition.
    deliver(tmp_path, op(1, "change", day="2026-12-24", events=11))
    assert read(tmp_path)["k1"] == ("2026-12-24", 11)


def test_a_batch_that_was_committed_and_comes_again_writes_nothing(tmp_path: Path) -> None:
    deliver(tmp_path, op(1), op(2))
    deliver(tmp_path, op(1, "change", events=5), op(2, "exit"))
    before = log(tmp_path)
    assert set(deliver(tmp_path, op(1, "change", events=5), op(2, "exit")).values()) == {("delivered", "")}
    assert log(tmp_path) == before
    ids = [action["txn"]["appId"] for action in before if "txn" in action]
    assert len(ids) == len(set(ids)) == 3


def test_an_outdated_batch_that_comes_again_does_not_undo_a_newer_one(tmp_path: Path) -> None:
    deliver(tmp_path, op(1))
    old, new = op(1, "change", events=5), op(1, "change", events=6)
    deliver(tmp_path, old)
    deliver(tmp_path, new)
    deliver(tmp_path, old)
    assert read(tmp_path)["k1"][1] == 6


def test_new_columns_are_added_and_other_types_refuse_the_batch(tmp_path: Path) -> None:
    deliver(tmp_path, op(1))
    assert deliver(tmp_path, op(2, tags=["a", "b"], note=None)) == {"2": ("delivered", "")}
    table = deltalake.DeltaTable(str(tmp_path / "product" / "activity"))
    rows = {row["id"]: row for row in duckdb.arrow(table.to_pyarrow_table()).to_arrow_table().to_pylist()}
    assert (rows["k2"]["tags"], rows["k1"]["tags"]) == ('["a","b"]', None)
    assert deliver(tmp_path, op(3, events="many"), op(4)) == dict.fromkeys("34", ("rejected", "batch:schema"))
    assert set(read(tmp_path)) == {"k1", "k2"}
    assert capabilities("delta").attribution == "none", "the sync halves what is refused as a batch"


def test_a_lost_race_and_a_store_that_is_not_there_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(tmp_path, op(1))

    def loses(*_: Any, **__: Any) -> None:
        raise CommitFailedError("version 1 already exists")

    with monkeypatch.context() as patch:
        patch.setattr(deltalake.DeltaTable, "merge", loses)
        assert deliver(tmp_path, op(2)) == {"2": ("waiting", "commit_conflict")}
    (tmp_path / "product" / "other").write_text("a file where a folder should be")
    status, reason = deliver(tmp_path, op(2), action=Action("merge", {"table": "product.other", "key_field": "id"}))["2"]
    assert (status, reason.split(":")[0]) == ("waiting", "storage")


@pytest.mark.parametrize(
    ("connection", "action"),
    [
        (Connection("sandbox", "sandbox", {}, {}, "s3://bucket"), ACTION),
        (Connection("live", "", {"root": "s3://bucket"}, {}), ACTION),
        (Connection("live", "lake", {}, {}), ACTION),
        (Connection("sandbox", "sandbox", {}, {}, "{folder}"), Action("merge", {"table": "../x", "key_field": "id"})),
        (Connection("sandbox", "sandbox", {}, {}, "{folder}"), Action("merge", {"table": "x", "key_field": "id = id --"})),
        (Connection("sandbox", "sandbox", {}, {}, "{folder}"), Action("merge", {"key_field": "id"})),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path, connection: Connection, action: Action) -> None:
    base = str(tmp_path / "lake") if connection.base_url == "{folder}" else connection.base_url
    made = Connection(connection.mode, connection.account, connection.settings, connection.credentials, base)
    with pytest.raises(DestinationConfigError):
        connect("delta", made).deliver(action, [op(1)])
    assert list(tmp_path.rglob("_delta_log")) == []


def test_outcomes_are_one_for_each(tmp_path: Path) -> None:
    destination = connect("delta", Connection("sandbox", "sandbox", {}, {}, str(tmp_path)))
    outcomes = destination.deliver(ACTION, [op(1), op(2, "exit")])
    assert sorted(outcomes, key=lambda o: o.id) == [Outcome("1", "delivered"), Outcome("2", "delivered")]
