"""``make demo`` and ``make ui``: the demo spaces from nothing to delivered, and the house alive in the UI."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cdp_assets.generate import generate, stored_end
from cdp_assets.pipeline import Progress, RunReport, run_space
from cdp_assets.space.home import Home
from resources.instance import end_orphans, open_instance, prepare_home
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
    """Run the twins and ``dagster dev`` until interrupted. The exit code of the latter; 1 when a port is taken."""
    for purpose, wanted in (("the Dagster UI", port), ("the twins", sandbox_port)):
        if _taken(wanted):
            say(f"port {wanted} is in use; choose another one for {purpose} with --port or --sandbox-port")
            return 1
    prepare_home(home, SPACES)
    with open_instance(home) as instance:
        for run_id in end_orphans(instance):
            say(f"run {run_id} was cut off when the UI was last stopped; it has failed, and its work is done anew")
    environment = {
        **os.environ,
        "CDP_HOME": str(home.root),
        "DAGSTER_HOME": str(home.dagster),
        "CDP_SANDBOX_URL": f"http://127.0.0.1:{sandbox_port}",
        "CDP_DEMO": "1",
        # Dagster recommends another command for new projects at every start.
        "PYTHONWARNINGS": "ignore:Function `dev_command` is superseded",
    }
    # Closing the terminal and `kill` end everything as Ctrl-C does. Set before the children start: a shell without job control
    # starts its background jobs with SIGINT ignored, which children would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    twins = [sys.executable, "-m", "cdp_assets", "sandbox", "--port", str(sandbox_port), "--home", str(home.root)]
    server = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (twins, server):
            # In sessions of their own, so that Ctrl-C reaches this process alone, which then ends them in order.
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True))
        say(f"Dagster UI at http://127.0.0.1:{port}/, twins at http://127.0.0.1:{sandbox_port}/ (stop with Ctrl-C)")
        return started[-1].wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in reversed(started):
            _end(process)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and whatever it leaves behind in it."""
    if process.poll() is None:
        # dagster dev ends its children on SIGINT; it ignores SIGTERM.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
