"""Delta Lake: rows of one table, merged by a key column. What Databricks, Spark and any other reader of Delta tables sees.

A batch is one merge, after one delete of the rows that left. Each commit carries a transaction id that names the batch, so a batch that was
committed and is sent again changes nothing. New columns are added to the table; a column that comes with another type refuses the batch.
Settings of the connection: ``root`` (folder or URL of the tables: ``s3://…``, ``abfss://…``), live; ``options`` (of the object store).
Credentials: passed on to the object store by their names, e.g. ``aws_access_key_id`` and ``aws_secret_access_key``.
Settings of the action: ``table``, ``key_field``, ``partition_by`` (a column, when the table is made).
Evidence tags: [D] vendor documentation, [C] read in the library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import deltalake
import orjson
import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError

from resources.destinations import (
    Action,
    Capabilities,
    Connection,
    Connector,
    DestinationConfigError,
    FieldRule,
    Operation,
    Outcome,
    exchanges,
)
from resources.destinations import http as wire
from resources.destinations.http import CallFailedError

CAPABILITIES: Final = Capabilities(
    type="delta",
    actions=("merge",),
    batch_rows=50_000,
    batch_bytes=64_000_000,
    resend="upsert",
    attribution="none",
    retract="remove",
    fields={"": {"*": FieldRule()}},
    evidence="https://docs.delta.io/latest/delta-update.html",
)
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYS_IN_A_DELETE: Final = 5_000


def connect(connection: Connection) -> DeltaDestination:
    """A connector to the tables below ``root``. Raises :class:`DestinationConfigError`."""
    return DeltaDestination(connection)


class DeltaDestination(Connector):
    """The tables of one lake."""

    capabilities = CAPABILITIES

    def __init__(self, connection: Connection) -> None:
        if connection.mode == "sandbox":
            if not connection.base_url or "://" in connection.base_url:
                raise DestinationConfigError("a sandbox connection needs a folder of this machine")
            self._root, self._options = connection.base_url, None
            Path(self._root).mkdir(parents=True, exist_ok=True)
        else:
            if not connection.account:
                raise DestinationConfigError("a live connection needs the account that it may write to")
            self._root = str(wire.setting(connection.settings, "root"))
            named = {**connection.settings.get("options", {}), **connection.credentials}
            self._options = {str(name): str(value) for name, value in named.items()}

    def close(self) -> None: ...

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        """Merge one batch. Raises :class:`DestinationConfigError` for an action that cannot work."""
        self.refuse_unknown(action)
        table, key = str(wire.setting(action.settings, "table")), str(wire.setting(action.settings, "key_field"))
        partition = action.settings.get("partition_by")
        if not _TABLE.fullmatch(table) or not _COLUMN.fullmatch(key):
            raise DestinationConfigError("settings.table and settings.key_field are names of letters, digits and _")
        leaving = [operation for operation in operations if operation.kind in ("exit", "retract")]
        staying = [operation for operation in operations if operation.kind not in ("exit", "retract")]
        url = f"{self._root.rstrip('/')}/{table.replace('.', '/')}"
        outcomes: list[Outcome] = []
        for group, write in ((leaving, self._delete), (staying, self._merge)):
            if group:
                outcomes += self._commit(url, key, partition, group, write)
        return outcomes

    def _commit(self, url: str, key: str, partition: str | None, group: Sequence[Operation], write: Any) -> list[Outcome]:
        transaction = deltalake.Transaction(f"cdp-{wire.idempotency_key(group)}", 1)
        failure: CallFailedError | None = None
        try:
            write(url, key, partition, group, transaction)
        except (SchemaMismatchError, pa.ArrowInvalid, pa.ArrowTypeError):
            failure = CallFailedError("rejected", "batch:schema")
        except CommitFailedError:
            failure = CallFailedError("waiting", "commit_conflict")
        except (DeltaError, OSError) as error:
            failure = CallFailedError("waiting", f"storage:{type(error).__name__}")
        exchanges.count_call()
        if exchanges.watched():
            rows = [o.payload if write == self._merge else {key: o.key} for o in group]
            table = None if failure else self._table(url)
            done = {"version": table.version()} if table is not None else None
            name = "MERGE" if write == self._merge else "DELETE"
            exchanges.saw(exchanges.Exchange(name, url.removeprefix(self._root), (), {}, list(rows), None, done))
        return wire.failed(group, failure) if failure else [Outcome(operation.id, "delivered") for operation in group]

    def _table(self, url: str) -> deltalake.DeltaTable | None:
        if not deltalake.DeltaTable.is_deltatable(url, storage_options=self._options):
            return None
        return deltalake.DeltaTable(url, storage_options=self._options)

    def _merge(
        self, url: str, key: str, partition: str | None, group: Sequence[Operation], transaction: deltalake.Transaction
    ) -> None:
        commit = deltalake.CommitProperties(app_transactions=[transaction])
        table = self._table(url)
        rows = _arrow([{**operation.payload, key: operation.key} for operation in group], table)
        if table is None:
            by = [partition] if partition else None
            # The file that makes the table is put if it is absent: who loses the race is told, and comes again.
            deltalake.write_deltalake(
                url, rows, mode="error", partition_by=by, storage_options=self._options, commit_properties=commit
            )
            return
        if table.transaction_version(transaction.app_id) is not None:
            return
        merger = table.merge(
            rows,
            predicate=f"held.{key} = given.{key}",
            source_alias="given",
            target_alias="held",
            merge_schema=True,
            commit_properties=commit,
        )
        merger.when_matched_update_all().when_not_matched_insert_all().execute()

    def _delete(
        self, url: str, key: str, partition: str | None, group: Sequence[Operation], transaction: deltalake.Transaction
    ) -> None:
        table = self._table(url)
        if table is None or table.transaction_version(transaction.app_id) is not None:
            return
        for start in range(0, len(group), _KEYS_IN_A_DELETE):
            part = group[start : start + _KEYS_IN_A_DELETE]
            last = start + _KEYS_IN_A_DELETE >= len(group)
            commit = deltalake.CommitProperties(app_transactions=[transaction]) if last else None
            quoted = ", ".join("'" + operation.key.replace("'", "''") + "'" for operation in part)
            table.delete(f"{key} IN ({quoted})", commit_properties=commit)


def _arrow(rows: list[dict[str, Any]], table: deltalake.DeltaTable | None) -> pa.Table:
    """The rows with the types of the table's columns; others as they come, and as text where all are empty or nested.

    Raises pyarrow's errors for values that do not fit.
    """
    known: Mapping[str, pa.DataType] = {}
    if table is not None:
        schema = pa.schema(table.schema().to_arrow())
        known = {field.name: field.type for field in schema}
    names = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if any(isinstance(value, dict | list) for value in values):
            values = [None if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode() for value in values]
        kind = known.get(name)
        found = pa.array(values, kind) if kind is not None else pa.array(values)
        columns[name] = found.cast(pa.string()) if pa.types.is_null(found.type) else found
    return pa.table(columns)
