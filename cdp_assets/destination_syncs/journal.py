"""The delivery journal: every operation of a sync, and every answer, committed before the next request goes out.

It outlives a crash of the process and lets the warehouse be closed while delivering. SQLAlchemy Core; SQLite in WAL mode with full
synchronisation by default, any other URL works. Operations leave the journal when the warehouse ledger has them; what stays is one row
per sync, without personal data.

States of a sync: ``planning`` (operations may be missing, nothing was sent), ``ready``, ``settled``.
States of an operation: ``planned`` (not sent), ``sending`` (committed before the request), ``done`` (answered, or decided unsent).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

_METADATA = sa.MetaData()

_SYNCS = sa.Table(
    "cdp_syncs",
    _METADATA,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("activation", sa.String(255), nullable=False),
    sa.Column("account", sa.String(255), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Index("cdp_syncs_of", "activation", "account"),
)
_OPERATIONS = sa.Table(
    "cdp_operations",
    _METADATA,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("message_id", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("destination_key", sa.Text, nullable=False),
    sa.Column("subject_id", sa.String(255)),
    sa.Column("payload", sa.Text),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("warning", sa.Text),
    sa.Column("remote_id", sa.Text),
    sa.Column("attempted_at", sa.DateTime),
    sa.Column("not_before", sa.DateTime),
)

# Asynchronous jobs at destinations that are not known to have ended.
_JOBS = sa.Table(
    "cdp_jobs",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("account", sa.String(255), nullable=False),
    sa.Column("job", sa.String(255), nullable=False),
)

_MOST_PARAMETERS = 10_000  # of a statement; SQLite takes 32,766

ANSWERS = pa.schema(
    {
        "message_id": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "warning": pa.string(),
        "remote_id": pa.string(),
        "attempted_at": pa.timestamp("us"),
        "not_before": pa.timestamp("us"),
    }
)


@dataclass(frozen=True)
class JournaledSync:
    token: str
    activation: str
    account: str
    seq: int
    state: str


@dataclass(frozen=True)
class JournaledOperation:
    """An operation to send. ``subject_id``: the person whose consent it needs, None when it needs none."""

    position: int
    message_id: str
    kind: str
    destination_key: str
    subject_id: str | None
    payload: str


@dataclass(frozen=True)
class Answer:
    """What became of the operation at ``position``. Instants are naive UTC."""

    position: int
    status: str
    reason: str = ""
    warning: str = ""
    remote_id: str = ""
    not_before: dt.datetime | None = None


def _sqlite_durability(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


@dataclass(frozen=True)
class AccountJobs:
    """The book of an account's asynchronous jobs, each change committed at once."""

    engine: sa.Engine
    account: str

    def open(self) -> list[str]:
        """Ids of the jobs that are not known to have ended, oldest first."""
        query = sa.select(_JOBS.c.job).where(_JOBS.c.account == self.account).order_by(_JOBS.c.number)
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def began(self, job: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(_JOBS.insert(), {"account": self.account, "job": job})

    def ended(self, job: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(_JOBS.delete().where(_JOBS.c.account == self.account, _JOBS.c.job == job))


class Journal:
    """An open journal. Safe to use from one thread at a time; close it (or use it as a context manager)."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(parsed, hide_parameters=True)
        if parsed.get_backend_name() == "sqlite":
            sa.event.listen(self._engine, "connect", _sqlite_durability)
        _METADATA.create_all(self._engine)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    # -- syncs ---------------------------------------------------------------------------------------------------

    def begin(self, token: str, activation: str, account: str, seq: int) -> None:
        """Announce a sync before the warehouse knows it, so that a sync that the journal does not know was lost by the journal."""
        row = {"token": token, "activation": activation, "account": account, "seq": seq, "state": "planning"}
        with self._engine.begin() as connection:
            # The same run planned before and crashed before the warehouse had it.
            connection.execute(_OPERATIONS.delete().where(_OPERATIONS.c.token == token))
            connection.execute(_SYNCS.delete().where(_SYNCS.c.token == token))
            connection.execute(_SYNCS.insert(), row)

    def fill(self, token: str, batches: Iterable[Sequence[Mapping[str, Any]]]) -> int:
        """Write the operations, in sending order, and make the sync ready, all in one transaction. The number of operations.

        Rows have message_id, kind, destination_key, subject_id and payload.
        """
        position = 0
        with self._engine.begin() as connection:
            for batch in batches:
                rows = [
                    {**row, "token": token, "position": position + offset, "state": "planned"} for offset, row in enumerate(batch)
                ]
                if rows:
                    connection.execute(_OPERATIONS.insert(), rows)
                position += len(rows)
            connection.execute(_SYNCS.update().where(_SYNCS.c.token == token).values(state="ready"))
        return position

    def last_seq(self, activation: str, account: str) -> int:
        """Highest sequence number of a sync of which operations may have gone out, or that was settled; 0 for none."""
        query = sa.select(sa.func.max(_SYNCS.c.seq)).where(
            _SYNCS.c.activation == activation, _SYNCS.c.account == account, _SYNCS.c.state != "planning"
        )
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)

    def unsettled(self, activation: str | None = None, account: str | None = None) -> list[JournaledSync]:
        """Syncs that the ledger does not have yet, oldest first."""
        query = sa.select(_SYNCS).where(_SYNCS.c.state != "settled")
        if activation is not None:
            query = query.where(_SYNCS.c.activation == activation)
        if account is not None:
            query = query.where(_SYNCS.c.account == account)
        query = query.order_by(_SYNCS.c.activation, _SYNCS.c.account, _SYNCS.c.seq)
        with self._engine.connect() as connection:
            return [JournaledSync(**row) for row in connection.execute(query).mappings()]

    def state(self, token: str) -> str | None:
        """State of a sync, None when the journal does not know it."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_SYNCS.c.state).where(_SYNCS.c.token == token)).scalar()

    def settled(self, token: str) -> None:
        """The ledger has this sync: forget its operations, and syncs of the activation that never were."""
        with self._engine.begin() as connection:
            connection.execute(_OPERATIONS.delete().where(_OPERATIONS.c.token == token))
            connection.execute(_SYNCS.update().where(_SYNCS.c.token == token).values(state="settled"))

    def forget(self, token: str) -> None:
        """The warehouse never had this sync, and nothing of it was sent."""
        with self._engine.begin() as connection:
            connection.execute(_OPERATIONS.delete().where(_OPERATIONS.c.token == token))
            connection.execute(_SYNCS.delete().where(_SYNCS.c.token == token))

    def jobs(self, account: str) -> AccountJobs:
        """The book of an account's asynchronous jobs."""
        return AccountJobs(self._engine, account)

    # -- operations ----------------------------------------------------------------------------------------------

    def count_pending(self, token: str) -> int:
        """Number of operations not sent yet."""
        c = _OPERATIONS.c
        query = sa.select(sa.func.count()).where(c.token == token, c.state == "planned")
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)

    def pending(self, token: str, page: int = 5_000) -> Iterator[JournaledOperation]:
        """Operations not sent yet, in order. Pages are read as they are used, so rows may be answered meanwhile."""
        c = _OPERATIONS.c
        last = -1
        columns = (c.position, c.message_id, c.kind, c.destination_key, c.subject_id, c.payload)
        while True:
            query = sa.select(*columns).where(c.token == token, c.state == "planned", c.position > last)
            with self._engine.connect() as connection:
                rows = connection.execute(query.order_by(c.position).limit(page)).all()
            if not rows:
                return
            last = rows[-1].position
            yield from (JournaledOperation(*row) for row in rows)

    def sending(self, token: str, positions: Sequence[int], at: dt.datetime) -> None:
        """Committed before the request: whatever happens now, these may have arrived."""
        c = _OPERATIONS.c
        statement = _OPERATIONS.update().values(state="sending", attempted_at=at)
        with self._engine.begin() as connection:
            for start in range(0, len(positions), _MOST_PARAMETERS):
                some = positions[start : start + _MOST_PARAMETERS]
                connection.execute(statement.where(c.token == token, c.position.in_(some)))

    def answered(self, token: str, answers: Sequence[Answer]) -> None:
        """Committed before the next request."""
        if not answers:
            return
        c = _OPERATIONS.c
        statement = (
            _OPERATIONS.update()
            .where(c.token == token, c.position == sa.bindparam("p"))
            .values(
                state="done",
                status=sa.bindparam("s"),
                reason=sa.bindparam("r"),
                warning=sa.bindparam("w"),
                remote_id=sa.bindparam("i"),
                not_before=sa.bindparam("n"),
            )
        )
        rows = [
            {"p": a.position, "s": a.status, "r": a.reason, "w": a.warning, "i": a.remote_id, "n": a.not_before} for a in answers
        ]
        with self._engine.begin() as connection:
            connection.execute(statement, rows)

    def park(self, token: str, reason: str, not_before: dt.datetime | None) -> int:
        """All that was not sent waits. The number of operations."""
        c = _OPERATIONS.c
        statement = (
            _OPERATIONS.update()
            .where(c.token == token, c.state == "planned")
            .values(state="done", status="waiting", reason=reason, not_before=not_before)
        )
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def answers(self, token: str, page: int = 20_000) -> Iterator[pa.Table]:
        """What became of each operation, as :data:`ANSWERS`: one still ``sending`` is unknown, one still ``planned`` was interrupted."""
        c = _OPERATIONS.c
        ended = {
            "status": sa.case((c.state == "sending", "unknown"), (c.state == "planned", "waiting"), else_=c.status),
            "reason": sa.case(
                (c.state == "sending", "interrupted while sending"), (c.state == "planned", "interrupted"), else_=c.reason
            ),
        }
        found = {name: ended[name].label(name) if name in ended else c[name] for name in ANSWERS.names}
        last = -1
        while True:
            query = sa.select(c.position, *(found[name] for name in ANSWERS.names))
            query = query.where(c.token == token, c.position > last).order_by(c.position).limit(page)
            with self._engine.connect() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            last = rows[-1].position
            _, *columns = zip(*rows, strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, ANSWERS.types, strict=True)]
            yield pa.Table.from_arrays(arrays, schema=ANSWERS)


@contextlib.contextmanager
def open_journal(url: str) -> Iterator[Journal]:
    """The journal at a SQLAlchemy URL (``Home.journal_url``), created when it is not there."""
    journal = Journal(url)
    try:
        yield journal
    finally:
        journal.close()
