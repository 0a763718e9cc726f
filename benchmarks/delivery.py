"""Five million payload hashes against the ledger, one in a hundred changed, beside the bare join; and a sync of many records."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.figures import Clock, Figure
from cdp_assets.activation_payloads.tables import PAYLOAD_BUILDS, PAYLOADS
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.destination_syncs import sync as syncing
from cdp_assets.destination_syncs.activation_state import State, write_state
from cdp_assets.destination_syncs.journal import open_journal
from cdp_assets.destination_syncs.keys import Reconciliation, reconciliation
from cdp_assets.destination_syncs.people import Scope
from cdp_assets.destination_syncs.plan import SyncRequest, plan_sync
from cdp_assets.destination_syncs.sync import Surroundings
from cdp_assets.destination_syncs.tables import LEDGER
from cdp_assets.destination_syncs.tables import TABLES as SYNC_TABLES
from cdp_assets.space.models.activations import Activation
from cdp_assets.unified_profiles.tables import CONSENT_STATES, INTERNAL_TABLES, id_graph_updates, profile_schema, profile_tables
from resources.destinations import Action, Capabilities, Connector, Operation, Outcome
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Delivery: what changed, and sending it"
TEXT = """
An activation whose payloads were all delivered once, one message each for a person who consents. *The diff* finds the units whose message is
another now, renames and merges resolved, and those whose last attempt is not settled. *Bare* is DuckDB's full join of the two tables by unit
and key with the hashes compared. *Reconciled* is the diff, and who may not be sent to as of now, one key a person, every key accounted for.
All three are timed in a process that has done them once. *A sync* plans, journals, delivers and settles first messages in batches of 200 to a
destination that answers at once, ledger and journal on; *delivering* is the part of it that sends.
"""

KEYS = 5_000_000
SENT = 200_000
BATCH = 200
NOW = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
GRAPH = DataGraph("v1.0.0", "BENCH.PROFILES", "segment:materialized", (), ())
CAPABILITIES = Capabilities("instant", ("upsert",), BATCH, 10_000_000, "upsert", "positional", "flag_false")
ACCOUNT = "bench"
REVISION = "r1"


class Instant(Connector):
    """A destination that takes everything at once."""

    capabilities = CAPABILITIES

    def deliver(self, action: Action, operations: Sequence[Operation]) -> list[Outcome]:
        return [Outcome(operation.id, "delivered") for operation in operations]

    def close(self) -> None:
        pass


def run(scale: float, folder: Path) -> list[Figure]:
    keys, sent = int(KEYS * scale), int(SENT * scale)
    clock = Clock()
    file, url = folder / "delivery.duckdb", f"sqlite:///{folder / 'journal.sqlite'}"
    with closing(open_duckdb(file, memory_limit="12GB")) as warehouse:
        warehouse.ensure(PAYLOADS, PAYLOAD_BUILDS, *SYNC_TABLES, *profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES)
        write_people(warehouse, keys)
        write_payloads(warehouse, "changed", keys)
        _ledger(warehouse, "changed", keys)
        write_payloads(warehouse, "fresh", sent)
        # The first pass over a file that was just written, in a process that has no memory yet, is not the one to time.
        _bare(warehouse)
        with clock.part("bare"):
            changed = _bare(warehouse)
        for part in ("first diff", "diff"):
            with clock.part(part):
                both = Reconciliation(warehouse, _scope("changed"))
                units = warehouse.count(both.template("changed", both.changed))
        assert units == changed, (units, changed)
        for part in ("first time reconciled", "reconciled"):
            with clock.part(part), reconciliation(warehouse, _scope("changed")) as both:
                considered = both.considered(can_retract=True)
        assert (considered, considered - both.still) == (keys, changed), (considered, both.still, changed)
        with open_journal(url) as journal:
            with clock.part("plan"):
                planned = plan_sync(warehouse, journal, _request("changed"))
            assert (planned.considered, planned.operations) == (keys, changed), planned
    with open_journal(url) as journal:
        around = Surroundings(
            open_warehouse=lambda: closing(open_duckdb(file, memory_limit="12GB")),
            journal=journal,
            connect=Instant,
            clock=lambda: NOW,
        )
        request = _request("fresh")
        with clock.part("sync"):
            with around.open_warehouse() as warehouse:
                planned = syncing.plan(warehouse, journal, request)
            with clock.part("deliver"):
                report = syncing.deliver(request, planned, around)
            with around.open_warehouse() as warehouse:
                result = syncing.settle(warehouse, journal, planned, NOW, report)
        assert (result.considered, result.delivered) == (sent, sent), result
    s = clock.seconds
    rate = sent / s["deliver"]
    return [
        Figure("bare full join", s["bare"], keys, note=f"{changed:,} changed"),
        Figure("the diff", s["diff"], keys, "bare", s["diff"] / s["bare"], 1.5),
        Figure("reconciled", s["reconciled"], keys, "bare", s["reconciled"] / s["bare"]),
        Figure("reconciled, decided, written down and journalled", s["plan"], keys, "bare", s["plan"] / s["bare"]),
        Figure("delivering", s["deliver"], sent, "8,000 records a second", 8000 / rate, 1.0, f"{rate:,.0f} records a second"),
        Figure(
            "a sync of first messages",
            s["sync"],
            sent,
            "8,000 records a second",
            8000 * s["sync"] / sent,
            1.0,
            f"{sent / s['sync']:,.0f} records a second",
        ),
    ]


def activation(key: str) -> Activation:
    return Activation.model_validate(
        {
            "key": key,
            "name": key,
            "audience": "everybody",
            "destination": "instant",
            "trigger": {"unit": "profile", "when": "enters_or_exits"},
            "sync_property_changes": True,
            "mapping": {},
            "consent": {"subject": "profile", "categories": ["ads"]},
            "first_run": "send",
        }
    )


def _request(key: str) -> SyncRequest:
    return SyncRequest(activation(key), ACCOUNT, CAPABILITIES, GRAPH, "bench", NOW)


def _scope(key: str) -> Scope:
    return Scope(
        activation=key,
        account=ACCOUNT,
        unit="profile",
        consent=activation(key).consent,
        graph=GRAPH,
        as_of=NOW,
        instant=NOW.isoformat(),
        consent_at=NOW,
        now=NOW,
        gave_up=NOW - dt.timedelta(days=14),
        definition_revision=REVISION,
        seq=2,
    )


def _bare(warehouse: DuckDBWarehouse) -> int:
    row = warehouse._connection.execute(
        f"""
        SELECT count(*) FROM (SELECT * FROM {warehouse.name(PAYLOADS.ref)} WHERE activation = 'changed') p
        FULL JOIN (SELECT * FROM {warehouse.name(LEDGER.ref)} WHERE activation = 'changed') l
          ON p.unit = l.unit AND p.destination_key = l.destination_key
        WHERE p.payload_hash IS DISTINCT FROM l.confirmed_hash
        """
    ).fetchone()
    return int(row[0]) if row else 0


# -- data --------------------------------------------------------------------------------------------------------------------


def write_people(warehouse: DuckDBWarehouse, people: int) -> None:
    warehouse._run(
        f"INSERT INTO {warehouse.name(id_graph_updates(profile_schema(GRAPH)).ref)} (segment_id, canonical_segment_id, seq, received_at) "
        f"SELECT md5('p' || i), md5('p' || i), i, TIMESTAMP '2026-01-01' FROM range({people}) AS r(i)"
    )
    warehouse._run(
        f"INSERT INTO {warehouse.name(CONSENT_STATES.ref)} (segment_id, category, value, seq, received_at) "
        f"SELECT md5('p' || i), 'ads', 'true', i, TIMESTAMP '2026-01-01' FROM range({people}) AS r(i)"
    )


def write_payloads(warehouse: DuckDBWarehouse, activation: str, count: int) -> None:
    """One in a hundred has another hash than the ledger's."""
    record = '\'{"email":"e\' || i || \'@x.org","plan":"gold","in":true}\''
    warehouse._run(
        f"""
        INSERT INTO {warehouse.name(PAYLOADS.ref)} (activation, unit, canonical_segment_id, destination_key, payload, payload_hash,
            exit_payload, retract_payload, identifiers, verdict, detail, as_of, definition_revision)
        SELECT '{activation}', md5('p' || i), md5('p' || i), 'e' || i || '@x.org', {record},
            sha256(CASE WHEN i % 100 = 0 THEN 'new' ELSE 'same' END || i), {record}, {record}, '{{}}', 'ok', '',
            TIMESTAMP '2026-04-01', '{REVISION}'
        FROM range({count}) AS r(i)
        """
    )
    warehouse._run(
        f"INSERT INTO {warehouse.name(PAYLOAD_BUILDS.ref)} (activation, as_of, definition_revision, source, tables, rows) "
        f"VALUES ('{activation}', TIMESTAMP '2026-04-01', '{REVISION}', 'everybody', '{{}}', {count})"
    )


def _ledger(warehouse: DuckDBWarehouse, activation: str, count: int) -> None:
    warehouse._run(
        f"""
        INSERT INTO {warehouse.name(LEDGER.ref)} (activation, account, unit, destination_key, segment_id, resolved_segment_id, present, held,
            episode, confirmed_hash, attempted_hash, definition_revision, operation, status, uncertain, reason, attempts, seq)
        SELECT '{activation}', '{ACCOUNT}', md5('p' || i), 'e' || i || '@x.org', md5('p' || i), md5('p' || i), true, true,
            1, sha256('same' || i), sha256('same' || i), '{REVISION}', 'enter', 'delivered', '', '', 1, 1
        FROM range({count}) AS r(i)
        """
    )
    state = State(
        destination="instant", source="everybody", revision=REVISION, as_of=NOW - dt.timedelta(days=1), seq=1, ledger_rows=count
    )
    write_state(warehouse, activation, ACCOUNT, state)
