"""``cdp test``: what an activation sends of one profile, and what the destination answers."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Annotated, Any

import typer

from cdp_assets.cli_support import CommandError, HomeOption, JsonOption, SpaceOption, err, open_space, out, require_known


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("test")(test)


def test(
    activation: str,
    profile: Annotated[str, typer.Argument(help="A segment_id or TYPE:VALUE; of a model's activation a row's key.")],
    space: SpaceOption,
    send: Annotated[bool, typer.Option("--send", help="Send it to the destination, and show what that answers.")] = False,
    leaves: Annotated[bool, typer.Option("--leaves", help="The message of one who leaves.")] = False,
    unmask: Annotated[bool, typer.Option(help="Show personal values.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The exact request that an activation makes of one profile; with --send also the answer. The ledger does not change."""
    from cdp_assets.pipeline import sandbox_at
    from cdp_assets.rehearsal import MOST_UNITS, RehearsalError, rehearse, send_it, show_it
    from resources.destinations import DestinationConfigError

    loaded, paths, opened = open_space(space, home)
    require_known(loaded.activations, activation, "activation")
    with opened as warehouse:
        try:
            found = rehearse(warehouse, loaded, activation, profile, dt.datetime.now(dt.UTC), leaves=leaves)
        except RehearsalError as error:
            raise CommandError(str(error)) from None
    if found.more:
        err.print(f"the profile has more than {MOST_UNITS} units; these are the first", style="yellow")
    if found.operations:
        try:
            if send:
                with sandbox_at(paths):
                    found = send_it(loaded, activation, found)
            else:
                found = show_it(loaded, activation, found)
        except DestinationConfigError as error:
            raise CommandError(f"destination {loaded.activations[activation].destination}: {error}") from None
    exchanges: list[dict[str, Any]] = found.shown(unmask=unmask)
    if not send:  # what a twin that knows nothing answers says nothing
        exchanges = [{name: value for name, value in one.items() if name not in ("status", "answer")} for one in exchanges]
    withheld = [f"{one.verdict}{f': {one.detail}' if one.detail else ''}" for one in found.withheld]
    outcomes = [f"{one.status}{f': {one.reason}' if one.reason else ''}" for one in found.outcomes]
    if as_json:
        sys.stdout.write(json.dumps({"exchanges": exchanges, "outcomes": outcomes, "withheld": withheld}) + "\n")
    else:
        _print(exchanges, outcomes, withheld, sent=send)
    if found.withheld or any(one.status != "delivered" for one in found.outcomes):
        raise typer.Exit(1)


def _print(exchanges: list[dict[str, Any]], outcomes: list[str], withheld: list[str], *, sent: bool) -> None:
    for one in exchanges:
        out.print(one["request"], style="bold", markup=False, highlight=False)
        for name, value in one["query"].items():
            out.print(f"  {name}={value}", markup=False, highlight=False)
        for name, value in one["headers"].items():
            out.print(f"  {name}: {value}", markup=False, highlight=False)
        _print_content(one["body"])
        if sent:
            out.print(f"  -> {one['status'] or 'no answer'}", markup=False, highlight=False)
            _print_content(one["answer"])
    for outcome in outcomes:
        out.print(outcome, style="green" if outcome == "delivered" else "red", markup=False, highlight=False)
    for reason in withheld:
        out.print(f"withheld, not sent: {reason}", style="yellow", markup=False, highlight=False)
    if exchanges and not sent:
        out.print("nothing was sent; --send sends it", style="green")


def _print_content(content: Any) -> None:
    if content is None:
        return
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
    for line in text.splitlines():
        out.print(f"  {line}", markup=False, highlight=False)
