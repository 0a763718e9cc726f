"""The home: where state lives, never in the space folder. ``.cdp/`` by default, or ``CDP_HOME``.

``dagster/`` is the instance, shared by all spaces; ``sandbox/`` the twins' state; ``SPACE/`` the space's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = ".cdp"


@dataclass(frozen=True)
class Home:
    """Paths of a home. Nothing is created by asking for a path."""

    root: Path

    @classmethod
    def of(cls, root: str | Path | None = None) -> Home:
        """The given home, else the one of CDP_HOME, else ``.cdp`` in the working directory."""
        return cls(Path(root or os.environ.get("CDP_HOME") or DEFAULT_HOME).resolve())

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def sandbox(self) -> Path:
        return self.root / "sandbox"

    def space(self, name: str) -> Path:
        return self.root / name

    def warehouse_file(self, name: str) -> Path:
        """The DuckDB file. Its stem is the database name of fully qualified table references."""
        return self.space(name) / f"{name}.duckdb"

    def landing(self, name: str) -> Path:
        return self.space(name) / "landing"

    def journal_url(self, name: str) -> str:
        """SQLAlchemy URL of the delivery journal."""
        return os.environ.get("CDP_JOURNAL_URL") or f"sqlite:///{self.space(name) / 'journal.sqlite'}"

    def truth_file(self, name: str) -> Path:
        """Who is who in generated data."""
        return self.space(name) / "truth.json"
