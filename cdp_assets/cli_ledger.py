"""``cdp ledger …``: what each destination has confirmed, refused, or left unknown."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from cdp_assets.cli_support import HomeOption, JsonOption, SpaceOption, open_space, out, print_rows

ledger_app = typer.Typer(help="What each destination has confirmed, refused, or left unknown.", no_args_is_help=True)

ActivationOption = Annotated[str | None, typer.Option("--activation", help="Only this activation.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Only this reason.")]
KeyOption = Annotated[str | None, typer.Option("--key", help="Only this destination key.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Only keys last tried by this run.")]


@ledger_app.command("outcomes")
def ledger_outcomes(
    space: SpaceOption, activation: ActivationOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Keys of each activation's newest sync by outcome and reason."""
    from cdp_assets.destination_syncs.ledger import outcomes

    with open_space(space, home)[2] as warehouse:
        print_rows("outcomes", outcomes(warehouse, activation=activation), as_json)


@ledger_app.command("syncs")
def ledger_syncs(
    space: SpaceOption,
    activation: ActivationOption = None,
    limit: Annotated[int, typer.Option(help="Rows to show.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The newest syncs with their accounting."""
    from cdp_assets.destination_syncs.ledger import syncs

    with open_space(space, home)[2] as warehouse:
        print_rows("syncs", syncs(warehouse, activation=activation, limit=limit), as_json)


@ledger_app.command("show")
def ledger_show(
    space: SpaceOption,
    activation: ActivationOption = None,
    key: KeyOption = None,
    reason: ReasonOption = None,
    run: RunOption = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only dead letters.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ledger rows with their newest undelivered message, masked."""
    from cdp_assets.destination_syncs.ledger import Selection, dead_letters, show

    selection = Selection(activation=activation, key=key, reason=reason, run_id=run)
    with open_space(space, home)[2] as warehouse:
        print_rows("ledger", (dead_letters if rejected else show)(warehouse, selection), as_json)


@ledger_app.command("replay")
def ledger_replay(
    space: SpaceOption,
    activation: ActivationOption = None,
    key: KeyOption = None,
    reason: ReasonOption = None,
    run: RunOption = None,
    home: HomeOption = None,
) -> None:
    """Let the next sync try rejected keys again, and waiting ones at once."""
    from cdp_assets.destination_syncs.ledger import Selection, replay

    selection = Selection(activation=activation, key=key, reason=reason, run_id=run)
    with open_space(space, home)[2] as warehouse:
        count = replay(warehouse, selection, dt.datetime.now(dt.UTC))
    out.print(f"{count} key(s) will be tried again by the next sync", highlight=False)
