"""What a benchmark returns, and how it becomes a page: ratios of times measured in one run on the same data."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured line. ``ratio``: this time over ``against``'s; ``target``: the most that the ratio should be."""

    name: str
    seconds: float
    rows: int | None = None
    against: str = ""
    ratio: float | None = None
    target: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within its target; None where there is nothing to meet."""
        return None if self.ratio is None or self.target is None else self.ratio <= self.target


@dataclass
class Clock:
    """Times parts of a benchmark by name; a part timed twice adds up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def best_of(runs: int, work: Callable[[], None]) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


HEADER = ["| what | rows | seconds | ratio | target | |", "|---|---:|---:|---:|---:|---|"]


def section(title: str, text: str, command: str, figures: list[Figure]) -> str:
    """A benchmark's part of the page, in Markdown."""
    lines = [f"## {title}", "", text.strip(), "", f"    {command}", "", *HEADER]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.3g} × {figure.against}"
        target = "" if figure.target is None else f"≤ {figure.target:g}"
        verdict = {None: "", True: "met", False: "**missed**"}[figure.met]
        rows = "" if figure.rows is None else f"{figure.rows:,}"
        remark = "; ".join(part for part in (verdict, figure.note) if part)
        lines.append(f"| {figure.name} | {rows} | {figure.seconds:.2f} | {ratio} | {target} | {remark} |")
    return "\n".join(lines) + "\n"


def write_section(page: Path, title: str, text: str) -> None:
    """Put a section into the page in place of the one with its title, or at the end."""
    old = page.read_text() if page.exists() else "# Benchmarks\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    new = pattern.sub(lambda _: text + "\n", old) if pattern.search(old) else f"{old.rstrip()}\n\n{text}"
    page.write_text(new.rstrip() + "\n")
