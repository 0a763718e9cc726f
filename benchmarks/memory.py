"""The memory that a sync takes at its most, by the number of its records, each in a process of its own."""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.delivery import ACCOUNT, CAPABILITIES, GRAPH, NOW, Instant, activation, write_payloads, write_people
from benchmarks.figures import Figure
from cdp_assets.activation_payloads.tables import PAYLOAD_BUILDS, PAYLOADS
from cdp_assets.destination_syncs import sync
from cdp_assets.destination_syncs.journal import open_journal
from cdp_assets.destination_syncs.plan import SyncRequest
from cdp_assets.destination_syncs.sync import Surroundings
from cdp_assets.destination_syncs.tables import TABLES as SYNC_TABLES
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_schema, profile_tables
from resources.warehouse.duckdb import DuckDBWarehouse, open_duckdb

TITLE = "Delivery: memory"
TEXT = """
A sync of first messages to a destination that answers at once, its phases each in a process of its own, as a run has steps. Memory is all that
a process takes at its most, with Python and the libraries. *Delivering* reads the journal and sends. *Planning and settling* are set
operations of a DuckDB that may keep 1 GB in memory and works beside it on disk beyond that: the larger of the two.
"""

SIZES = (10_000, 100_000, 1_000_000)
LIMIT = "1GB"
PHASES = ("write", "plan", "deliver", "settle")


def run(scale: float, folder: Path) -> list[Figure]:
    found = {size: _measured(folder / str(size)) for size in (int(size * scale) for size in SIZES)}
    least = found[min(found)]
    figures = []
    for name, phases, most in (("delivering", ("deliver",), 1.25), ("planning and settling", ("plan", "settle"), None)):
        for size, told in found.items():
            megabytes, before = (max(one[phase]["megabytes"] for phase in phases) for one in (told, least))
            compared = (f"the memory of {min(found):,}", megabytes / before) if told is not least else ("", None)
            seconds = sum(told[phase]["seconds"] for phase in phases)
            figures.append(
                Figure(f"{name} {size:,}", seconds, size, *compared, most if compared[0] else None, f"{megabytes:,} MB")
            )
    return figures


def _measured(folder: Path) -> dict[str, dict[str, float]]:
    """What each phase of a sync takes; the folder's name says of how many records."""
    folder.mkdir()
    told = {}
    # A process begins with the most memory that the one which starts it ever took: this one does nothing itself.
    for phase in PHASES:
        command = [sys.executable, "-m", "benchmarks.memory", phase, str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parent.parent)
        told[phase] = json.loads(done.stdout)
    return told


def _write(warehouse: DuckDBWarehouse, records: int) -> None:
    warehouse.ensure(PAYLOADS, PAYLOAD_BUILDS, *SYNC_TABLES, *profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES)
    write_people(warehouse, records)
    write_payloads(warehouse, "fresh", records)


def _phase(name: str, folder: Path) -> dict[str, float]:
    """Do a phase of the folder's sync; what the phases before it told lies beside the journal."""
    request = SyncRequest(activation("fresh"), ACCOUNT, CAPABILITIES, GRAPH, "bench", NOW)
    with open_journal(f"sqlite:///{folder / 'journal.sqlite'}") as journal:
        around = Surroundings(
            open_warehouse=lambda: closing(open_duckdb(folder / "warehouse.duckdb", memory_limit=LIMIT)),
            journal=journal,
            connect=Instant,
            clock=lambda: NOW,
        )
        start = time.perf_counter()
        told: object = None
        if name == "write":
            with closing(open_duckdb(folder / "warehouse.duckdb", memory_limit=LIMIT)) as warehouse:
                _write(warehouse, int(folder.name))
        elif name == "plan":
            with around.open_warehouse() as warehouse:
                told = sync.plan(warehouse, journal, request)
        elif name == "deliver":
            told = sync.deliver(request, pickle.loads((folder / "plan").read_bytes()), around)
        else:
            planned, report = (pickle.loads((folder / phase).read_bytes()) for phase in ("plan", "deliver"))
            with around.open_warehouse() as warehouse:
                told = result = sync.settle(warehouse, journal, planned, NOW, report)
            assert result.considered == result.delivered > 0, result
        seconds = time.perf_counter() - start
    (folder / name).write_bytes(pickle.dumps(told))
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


if __name__ == "__main__":
    print(json.dumps(_phase(sys.argv[1], Path(sys.argv[2]))))
