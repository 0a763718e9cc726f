"""``python -m benchmarks [NAME …] [--scale 0.1] [--write]``: run benchmarks, print their figures, put them into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.figures import section, write_section
from resources.run_worker import collect_garbage_seldom

# Modules of this package with TITLE, TEXT and run(scale, folder) -> list[Figure].
NAMES: tuple[str, ...] = (
    "landing",
    "protocols",
    "identity",
    "traits",
    "audiences",
    "mapping",
    "audience_mapping",
    "delivery",
    "memory",
)
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *NAMES], help=f"which: {', '.join(NAMES) or 'none yet'}; default all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size; 1 is what the targets speak about")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/benchmarks.md")
    options = parser.parse_args()
    console = Console()
    missed = 0
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        collect_garbage_seldom()  # as runs do
        with tempfile.TemporaryDirectory(prefix="cdp-bench-") as folder:
            figures = module.run(options.scale, Path(folder))
        command = f"make bench NAME={name}" + (f" SCALE={options.scale:g}" if options.scale != 1 else "")
        text = section(module.TITLE, module.TEXT, command, figures)
        console.print(Markdown(text))
        missed += sum(figure.met is False for figure in figures)
        if options.write:
            write_section(PAGE, module.TITLE, text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
