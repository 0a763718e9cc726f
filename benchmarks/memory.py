"""The memory that a sync takes at its most, by the number of its records, each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.delivery import ACCOUNT, CAPABILITIES, GRAPH, NOW, Instant, activation, write_payloads, write_people
from benchmarks.figures import Figure
from cdp_assets.activation_payloads.tables import PAYLOAD_BUILDS, PAYLOADS
from cdp_assets.destination_syncs.journal import open_journal
from cdp_assets.destination_syncs.plan import SyncRequest
from cdp_assets.destination_syncs.sync import Surroundings, sync_activation
from cdp_assets.destination_syncs.tables import TABLES as SYNC_TABLES
from cdp_assets.unified_profiles.tables import INTERNAL_TABLES, profile_schema, profile_tables
from resources.warehouse.duckdb import open_duckdb

TITLE = "Delivery: memory"
TEXT = """
A sync of first messages, from what is planned to what is settled, to a destination that answers at once: all that its process takes at its
most, with Python, the libraries, and a DuckDB that may keep 1 GB in memory and works beside it on disk beyond that.
"""

SIZES = (10_000, 100_000, 1_000_000)
LIMIT = "1GB"


def run(scale: float, folder: Path) -> list[Figure]:
    found = []
    for size in (int(size * scale) for size in SIZES):
        place = folder / str(size)
        place.mkdir()
        with closing(open_duckdb(place / "warehouse.duckdb", memory_limit="4GB")) as warehouse:
            warehouse.ensure(PAYLOADS, PAYLOAD_BUILDS, *SYNC_TABLES, *profile_tables(profile_schema(GRAPH)), *INTERNAL_TABLES)
            write_people(warehouse, size)
            write_payloads(warehouse, "fresh", size)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", str(place)],
            stdout=subprocess.PIPE,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
        found.append((size, json.loads(done.stdout)))
    (_, least), *_ = found
    return [
        Figure(
            f"a sync of {size:,}",
            told["seconds"],
            size,
            f"the memory of {found[0][0]:,}" if told is not least else "",
            told["megabytes"] / least["megabytes"] if told is not least else None,
            note=f"{told['megabytes']:,} MB",
        )
        for size, told in found
    ]


def _sync(folder: Path) -> dict[str, float]:
    with open_journal(f"sqlite:///{folder / 'journal.sqlite'}") as journal:
        around = Surroundings(
            open_warehouse=lambda: closing(open_duckdb(folder / "warehouse.duckdb", memory_limit=LIMIT)),
            journal=journal,
            connect=Instant,
            clock=lambda: NOW,
        )
        start = time.perf_counter()
        result = sync_activation(SyncRequest(activation("fresh"), ACCOUNT, CAPABILITIES, GRAPH, "bench", NOW), around)
    assert result.considered == result.delivered > 0, result
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


if __name__ == "__main__":
    print(json.dumps(_sync(Path(sys.argv[1]))))
