"""``cdp …``: thin commands, each calling one function of a room or of the composition.

Exit code 0: done; 1: the space or the run has problems, all printed; 2: the command was misused.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cdp_assets import cli_activations, cli_audiences, cli_graph, cli_identity, cli_privacy
from cdp_assets.cli_ledger import ledger_app
from cdp_assets.cli_replay import replay_app
from cdp_assets.cli_support import (
    AsOfOption,
    CommandError,
    HomeOption,
    JsonOption,
    SpaceOption,
    err,
    instant_of,
    open_space,
    out,
    require_known,
)
from cdp_assets.space.home import Home
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import SpaceError
from resources.run_worker import collect_garbage_seldom
from resources.warehouse import WarehouseError

app = typer.Typer(
    help="An open, warehouse-first customer data platform.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(ledger_app, name="ledger")
cli_activations.register(app)
cli_audiences.register(app)
cli_graph.register(app)
cli_privacy.register(app)
cli_identity.register(app)
app.add_typer(replay_app, name="replay")


def main() -> None:
    """Entry point: configuration problems and warehouse errors become messages, not tracebacks."""
    quiet_logs()
    collect_garbage_seldom()
    try:
        app()
    except SpaceError as error:
        for problem in error.problems:
            err.print(str(problem), style="red", markup=False, highlight=False)
        sys.exit(1)
    except ConditionError as error:
        err.print(f"{error} ({error.remedy})" if error.remedy else str(error), style="red", markup=False, highlight=False)
        sys.exit(1)
    except (WarehouseError, CommandError) as error:
        err.print(str(error), style="red", markup=False, highlight=False)
        sys.exit(1)


def quiet_logs() -> None:
    """Clients log whole URLs at INFO, with addresses and tokens in them: keep them silent."""
    for name in ("httpx", "httpcore", "snowflake.connector", "uvicorn", "uvicorn.access", "dagster"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def _bar(title: str):
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=False) as bar:
        task = bar.add_task(title, total=None)

        def advance(label: str, done: int, total: int) -> None:
            name = label.split("__", 1)[-1].replace("__", " ").replace("_", " ")
            bar.update(task, description=f"{title}: {name}"[:44], completed=done, total=total)

        yield advance


@app.command()
def run(space: SpaceOption, as_of: AsOfOption = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Materialise every asset in order, through Dagster, and deliver."""
    from cdp_assets.pipeline import RunError, run_space

    try:
        with _bar(space.name) as advance:
            report = run_space(
                space,
                Home.of(home),
                as_of=instant_of(as_of),
                progress=advance,
                on_wait=lambda text: err.print(text, style="yellow"),
            )
    except RunError as error:
        raise CommandError(str(error)) from None
    if as_json:
        sys.stdout.write(json.dumps(report.summary) + "\n")
    else:
        print_summary(space.name, report.summary)
    for name, reason in report.failures.items():
        err.print(f"{name}: {reason}", style="red", markup=False, highlight=False)
    if report.failures:
        raise typer.Exit(1)


def print_summary(title: str, summary: dict[str, Any]) -> None:
    """The summary as tables for people."""
    events = summary["raw_events"]
    table = Table(title=f"{title} as of {summary['as_of']}", title_justify="left", show_header=False)
    table.add_row(
        "events accepted / duplicate / quarantined",
        f"{events['accepted']:,} / {events['duplicates']:,} / {events['quarantined']:,}",
    )
    table.add_row("profiles (merges)", f"{summary['profiles']:,} ({summary['merges']:,})")
    for key, rows in summary.get("pulled_sources", {}).items():
        table.add_row(f"pulled {key}", f"{rows:,} records")
    for key, rows in summary["traits"].items():
        table.add_row(f"trait {key}", f"{rows:,} profiles")
    for key, audience in summary["audiences"].items():
        table.add_row(f"audience {key}", f"{audience['members']:,} members, {audience['entities']:,} entities")
    out.print(table)
    if not summary["activations"]:
        return
    always = ("considered", "unchanged", "delivered", "withheld", "rejected")
    found = summary["activations"].values()
    outcomes = [*always, *(o for o in ("waiting", "unknown", "held") if any(_total(a[o]) for a in found))]
    table = Table(title="activations", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("activation", no_wrap=True)
    for outcome in outcomes:
        table.add_column(outcome, justify="right", no_wrap=True)
    for key, activation in summary["activations"].items():
        table.add_row(key, *(f"{_total(activation[outcome]):,}" for outcome in outcomes))
    out.print(table)
    if not any(_total(a["delivered"]) for a in summary["activations"].values()):
        out.print("nothing new to send: every destination already has what it should have", style="green")


def _total(count: Any) -> int:
    return sum(count.values()) if isinstance(count, dict) else int(count)


@app.command("map")
def map_lines() -> None:
    """JSON lines {"mapping", "payload"} in, {"output"} or {"error"} out, in order."""
    from cdp_assets.activation_payloads.mapping_kit import map_line

    for line in sys.stdin:
        if line.strip():
            sys.stdout.write(map_line(line) + "\n")


@app.command()
def schema(folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("docs/schemas")) -> None:
    """Write the JSON Schemas of the space folder's files, for editors."""
    from cdp_assets.space.schemas import json_schemas

    folder.mkdir(parents=True, exist_ok=True)
    for kind, document in json_schemas().items():
        (folder / f"{kind}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        out.print(f"{folder / kind}.json")


@app.command()
def docs(folder: Annotated[Path, typer.Option(help="Where to write.")] = Path("docs/destinations")) -> None:
    """Write the page of each destination type: settings, credentials, limits, fields, what each outcome means."""
    from cdp_assets.destination_docs import destination_pages

    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in destination_pages().items():
        (folder / f"{kind}.md").write_text(text, encoding="utf-8")
        out.print(f"{folder / kind}.md")


@app.command("sandbox")
def run_sandbox(port: Annotated[int, typer.Option(help="Loopback port.")] = 8787, home: HomeOption = None) -> None:
    """Run the twins, with a page of what they received, on loopback."""
    from resources.sandbox.server import run_server

    paths = Home.of(home)
    paths.sandbox.mkdir(parents=True, exist_ok=True)
    out.print(f"twins at http://127.0.0.1:{port}/ (stop with Ctrl-C)", highlight=False)
    run_server(port, paths.sandbox)


@app.command()
def release(
    activation: str,
    space: SpaceOption,
    send: Annotated[bool, typer.Option("--send", help="The next sync sends the differences.")] = False,
    rebaseline: Annotated[
        bool, typer.Option("--rebaseline", help="The next sync records them as confirmed and sends none.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Lift what held an activation's newest sync, for its next one."""
    from cdp_assets.destination_syncs.release import NothingHeldError
    from cdp_assets.destination_syncs.release import release as lift

    if send == rebaseline:
        raise CommandError("give one of --send and --rebaseline")
    _, _, opened = open_space(space, home)
    with opened as warehouse:
        try:
            lifted = lift(warehouse, activation, "send" if send else "rebaseline", dt.datetime.now(dt.UTC))
        except NothingHeldError as error:
            raise CommandError(str(error)) from None
    for one in lifted:
        out.print(str(one), markup=False, highlight=False)


@app.command()
def retire(
    activation: str,
    space: SpaceOption,
    with_exits: Annotated[bool, typer.Option("--exit", help="Exit everybody who is in.")] = False,
    home: HomeOption = None,
) -> None:
    """End an activation. Without --exit the destination keeps what it holds."""
    from cdp_assets.destination_syncs.retire import UnknownActivationError
    from cdp_assets.destination_syncs.retire import retire as end

    loaded, paths, opened = open_space(space, home)
    if not with_exits:
        with opened as warehouse:
            try:
                accounts = end(warehouse, activation, dt.datetime.now(dt.UTC))
            except UnknownActivationError as error:
                raise CommandError(str(error)) from None
        out.print(f"{activation} is retired at {', '.join(accounts)}; nobody was exited", highlight=False)
        return
    opened.close()
    from cdp_assets.pipeline import retire_activation

    require_known(loaded.activations, activation, "activation")
    result = retire_activation(loaded, paths, activation)
    out.print_json(json.dumps(result.to_json()))


@app.command()
def generate(
    space: SpaceOption,
    profiles: Annotated[int, typer.Option(help="People to make.")] = 800,
    days: Annotated[int, typer.Option(help="Days of events.")] = 14,
    seed: Annotated[int, typer.Option(help="Same seed, same data.")] = 7,
    end: Annotated[
        str | None, typer.Option(help="End of the events, UTC; default: the start of today at the first generation.")
    ] = None,
    more: Annotated[str | None, typer.Option(help="Continue an earlier generation by this much: 1d or 1h.")] = None,
    home: HomeOption = None,
) -> None:
    """Make realistic demo data, with the truth about it beside it."""
    from cdp_assets.demo import start_of_today
    from cdp_assets.generate import GenerateError
    from cdp_assets.generate import generate as make

    loaded, paths, opened = open_space(space, home)
    with opened as warehouse:
        try:
            result = make(
                loaded,
                warehouse,
                paths,
                profiles=profiles,
                days=days,
                seed=seed,
                end=instant_of(end) or start_of_today(),
                more=more,
            )
        except GenerateError as error:
            raise CommandError(str(error)) from None
    out.print(
        f"{loaded.name}: {result.lines:,} landing lines up to {result.end.isoformat()} in {len(result.files)} files",
        highlight=False,
    )


@app.command()
def demo(home: HomeOption = None) -> None:
    """Generate data, run every asset of the demo spaces, deliver, and print what happened."""
    from cdp_assets.demo import DEMO_SPACES, run_demo

    failed = False
    for name in DEMO_SPACES:
        with _bar(name) as advance:
            report = run_demo(name, Home.of(home), advance)
        print_summary(name, report.summary)
        for asset, reason in report.failures.items():
            err.print(f"{asset}: {reason}", style="red", markup=False, highlight=False)
            failed = True
    out.print("see it in the Dagster UI: make ui", style="green", highlight=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    sandbox_port: Annotated[int, typer.Option(help="Port of the twins.")] = 8787,
    home: HomeOption = None,
) -> None:
    """Open the Dagster UI with its daemon, the twins beside it, sensors and schedules on."""
    from cdp_assets.demo import serve

    raise typer.Exit(serve(Home.of(home), port, sandbox_port, lambda text: out.print(text, highlight=False)))
