"""``cdp validate``: is the space sound, and does it break what was built on an earlier one. ``cdp graph show``: what it looks like."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cdp_assets.cli_support import AsOfOption, CommandError, HomeOption, JsonOption, SpaceOption, err, instant_of, out, print_rows
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
    """Add this module's commands."""
    app.command()(validate)
    graph_app = typer.Typer(help="The data graph.", no_args_is_help=True)
    graph_app.command("show")(show)
    app.add_typer(graph_app, name="graph")


def validate(space: SpaceOption, home: HomeOption = None, against: AgainstOption = None) -> None:
    """Check a space: its files and references, its activation tests, its data graph against the warehouse (and an earlier one)."""
    from cdp_assets.activation_payloads.unit_tests import failing_cases
    from cdp_assets.data_graph.warehouse_check import check_graph
    from cdp_assets.linked_audiences.warehouse_check import check_audiences
    from resources.space import load
    from resources.warehouse.open import open_warehouse

    old = graph_at(space, against) if against else None
    loaded = load(space, judged=_removals(space, old))
    problems = [*loaded.warnings, *failing_cases(loaded)]
    if old is not None:
        problems += _breaking(loaded, old)
    paths = Home.of(home)
    checked = "the files"
    if _has_warehouse(loaded, paths):
        with open_warehouse(loaded, paths, wait=60, on_wait=lambda text: err.print(text, style="yellow")) as warehouse:
            problems += check_graph(loaded.graph, warehouse)
            problems += check_audiences(loaded, warehouse)
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
    cases = sum(len(tests.cases) for tests in loaded.tests.values())
    passed = f", activation tests pass: {cases}" if cases else ""
    out.print(f"{loaded.name}: {checked} are valid{passed}", style="green", highlight=False)


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


def show(
    space: SpaceOption,
    home: HomeOption = None,
    as_of: AsOfOption = None,
    file: Annotated[
        Path | None, typer.Option("--svg", help="Where the picture goes; default: data_graph.svg in the home.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=100, help="First rows of each entity to show.")] = 3,
    unmask: Annotated[bool, typer.Option(help="Show personal values in them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the data graph, with row counts, match rates of its joins, and who uses each node. Writes nothing to the warehouse."""
    from cdp_assets.graph_report import graph_report
    from resources.space import load
    from resources.warehouse.open import open_warehouse

    loaded, paths = load(space), Home.of(home)
    instant = instant_of(as_of) or dt.datetime.now(dt.UTC)
    if _has_warehouse(loaded, paths):
        with open_warehouse(loaded, paths, wait=60, on_wait=lambda text: err.print(text, style="yellow")) as warehouse:
            report = graph_report(loaded, warehouse, instant, rows=rows, show_personal=unmask)
    else:
        report = graph_report(loaded, None, instant)
    target = file or paths.space(loaded.name) / "data_graph.svg"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(report.svg(), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps({**report.to_json(), "svg": str(target)}, default=str) + "\n")
        return
    out.print(report.to_text(), markup=False, highlight=False)
    for slug, found in report.rows.items():
        print_rows(f"first rows of {slug}", [dict(row) for row in found], as_json=False)
    for problem in report.problems:
        style = "yellow" if problem.level == "warning" else "red"
        err.print(str(problem), style=style, markup=False, highlight=False)
    if report.measured is None:
        err.print("there is no warehouse yet: run the space to see numbers", style="yellow")
    out.print(f"picture: {target}", highlight=False)


def _has_warehouse(space: Space, paths: Home) -> bool:
    """Whether there is one to ask; a DuckDB file that no run has made yet is not made for a look."""
    config = space.config.warehouse
    return config.type != "duckdb" or bool(config.files) or paths.warehouse_file(space.name).exists()
