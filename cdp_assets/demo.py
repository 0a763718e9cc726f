"""``make demo`` and ``make ui``: the demo spaces from nothing to delivered, and the house alive in the UI."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cdp_assets.generate import generate, stored_end
from cdp_assets.pipeline import Progress, RunReport, run_space
from cdp_assets.space.home import Home
from resources.instance import prepare_home
from resources.space import load
from resources.warehouse.open import open_warehouse

# space -> people and days of events
DEMO_SPACES: Final = {"owl_bank": (800, 14), "mural": (600, 14)}
SPACES: Final = ("owl_bank", "mural", "czech_bank")
ROOT: Final = Path(__file__).parent.parent


def run_demo(name: str, home: Home, progress: Progress | None = None) -> RunReport:
    """Generate the space's data if there is none, then run everything as of the stored end of the data."""
    directory = ROOT / "spaces" / name
    space = load(directory)
    end = stored_end(home, name)
    if end is None:
        profiles, days = DEMO_SPACES[name]
        with open_warehouse(space, home) as warehouse:
            end = generate(space, warehouse, home, profiles=profiles, days=days, seed=7, end=start_of_today()).end
    return run_space(directory, home, as_of=end, progress=progress)


def start_of_today() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def serve(home: Home, port: int, sandbox_port: int, say: Callable[[str], None]) -> int:
    """Run the twins and ``dagster dev`` until interrupted. The exit code of the latter."""
    prepare_home(home, SPACES)
    environment = {
        **os.environ,
        "CDP_HOME": str(home.root),
        "DAGSTER_HOME": str(home.dagster),
        "CDP_SANDBOX_URL": f"http://127.0.0.1:{sandbox_port}",
        "CDP_DEMO": "1",
    }
    twins = subprocess.Popen(
        [sys.executable, "-m", "cdp_assets", "sandbox", "--port", str(sandbox_port), "--home", str(home.root)], env=environment
    )
    say(f"Dagster UI at http://127.0.0.1:{port}/, twins at http://127.0.0.1:{sandbox_port}/ (stop with Ctrl-C)")
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for process in (server, twins):
            if process.poll() is None:
                # dagster dev ends its children on SIGINT; it ignores SIGTERM.
                process.send_signal(signal.SIGINT)
        for process in (server, twins):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
