"""A process that has imported what runs need and waits to be told which run to execute; ``run_launcher`` starts it.

It reads one line: the arguments of a ``dagster`` command, as JSON, and the path of a file to lock while the run lasts. It ends
with the run, or when its launcher goes away without a line.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    try:
        _import_everything()
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        return
    if not line:
        return
    told = json.loads(line)
    sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    path = Path(told["lock"])
    with path.open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        sys.argv = ["dagster", *told["arguments"]]
        try:
            runpy.run_module("dagster", run_name="__main__", alter_sys=True)
        finally:
            path.unlink(missing_ok=True)


def _import_everything() -> None:
    from resources.destinations.registry import CONNECTORS
    from resources.sources.registry import READERS

    for name in ("cdp_assets.definitions", "dagster._cli.api", "scipy.sparse.csgraph", *CONNECTORS.values(), *READERS.values()):
        importlib.import_module(name)
    collect_garbage_seldom()


def collect_garbage_seldom() -> None:
    """Expressions are millions of small objects that live briefly: looking through all others again and again is a tenth of a run."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


if __name__ == "__main__":
    main()
