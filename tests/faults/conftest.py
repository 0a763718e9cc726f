"""The twins in a process of their own, so that what a killed client had sent stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_SERVE = """
import sys
from resources.sandbox.server import sandbox

with sandbox(sys.argv[1]) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Root URL of the twins, and the file that holds what they know."""
    folder = tmp_path_factory.mktemp("twins")
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin and server.stdout
    yield server.stdout.readline().strip(), folder / "twins.sqlite"
    server.stdin.close()
    server.wait(timeout=20)
