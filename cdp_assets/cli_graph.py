"""``cdp validate``: is the space sound, and does it break what was built on an earlier one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cdp_assets.cli_support import CommandError, HomeOption, SpaceOption, err, out
from cdp_assets.data_graph.diff import compare
from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.breaking import GRAPH_FILE, breaking_changes, judge
from cdp_assets.space.confirmed import ConfirmedChange, confirmation
from cdp_assets.space.documents import read_text, read_yaml
from cdp_assets.space.home import Home
from cdp_assets.space.space import Problem, Space

AgainstOption = Annotated[
    str | None,
    typer.Option("--against", help="A git commit, branch or tag: refuse breaking changes of the data graph since then."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)


def validate(space: SpaceOption, home: HomeOption = None, against: AgainstOption = None) -> None:
    """Check every file of a space, every reference, and the data graph against the warehouse (and against an earlier one)."""
    from cdp_assets.data_graph.warehouse_check import check_graph
    from resources.space import load
    from resources.warehouse.open import open_warehouse

    old = graph_at(space, against) if against else None
    loaded = load(space, judged=_removals(space, old))
    problems = list(loaded.warnings)
    if old is not None:
        problems += _breaking(loaded, old)
    paths = Home.of(home)
    checked = "the files"
    if loaded.config.warehouse.type != "duckdb" or paths.warehouse_file(loaded.name).exists() or loaded.config.warehouse.files:
        with open_warehouse(loaded, paths, wait=60, on_wait=lambda text: err.print(text, style="yellow")) as warehouse:
            problems += check_graph(loaded.graph, warehouse)
            checked = "the files and the warehouse"
    for problem in sorted(set(problems)):
        style = "yellow" if problem.level == "warning" else "red"
        out.print(str(problem), style=style, markup=False, highlight=False)
    for activation in loaded.activations.values():
        if activation.consent.subject == "none":
            out.print(
                f"activation {activation.key} speaks of no person: {activation.consent.reason}", markup=False, highlight=False
            )
    if any(problem.level == "error" for problem in problems):
        raise typer.Exit(1)
    out.print(f"{loaded.name}: {checked} are valid", style="green", highlight=False)


def graph_at(space: Path, ref: str) -> DataGraph | None:
    """The data graph that a space folder had at a git ref; None when it had none. Raises CommandError."""
    if _git(space, "rev-parse", "--is-inside-work-tree") is None:
        raise CommandError(f"--against needs git, and {space} is in no git repository")
    if ref.startswith("-") or _git(space, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}") is None:
        raise CommandError(f"--against: git knows no commit {ref}; name a commit, branch or tag, and fetch it first")
    place = f"./{GRAPH_FILE}"
    if _git(space, "cat-file", "-e", f"{ref}:{place}") is None:
        return None
    text = _git(space, "show", f"{ref}:{place}")
    graph, problems = parse_graph((text or "").replace("\r\n", "\n"), f"{ref}:{GRAPH_FILE}")
    if graph is None:
        first = next(problem for problem in problems if problem.level == "error")
        raise CommandError(f"the data graph at {ref} does not validate, so nothing can be compared with it: {first}")
    return graph


def _git(space: Path, *arguments: str) -> str | None:
    """What git prints, or None when it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(space), *arguments], capture_output=True, check=True)
    except (subprocess.CalledProcessError, OSError):
        return None
    return done.stdout.decode("utf-8-sig", errors="replace")


def _removals(space: Path, old: DataGraph | None) -> Sequence[ConfirmedChange]:
    """Removals since ``old``: they are reported as breaking changes, so what refers to them need not be an error by itself."""
    text, _ = read_text(space / GRAPH_FILE, GRAPH_FILE)
    new = parse_graph(text)[0] if text is not None else None
    if old is None or new is None:
        return ()
    return [confirmation(change) for change in compare(old, new) if change.definite]


def _breaking(space: Space, old: DataGraph) -> list[Problem]:
    text, _ = read_text(space.directory / "space.yaml", "space.yaml")
    document, _ = read_yaml(text or "", "space.yaml")
    assert document is not None  # it loaded a moment ago
    return judge(breaking_changes(old, space), space.config.confirmed_breaking_changes, document)
