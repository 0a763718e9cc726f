"""``cdp replay …``: what was put aside, through the pipeline again."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from cdp_assets.cli_support import HomeOption, SpaceOption, open_space, out

replay_app = typer.Typer(help="Send what was put aside through the pipeline again.", no_args_is_help=True)


@replay_app.callback()
def replay() -> None:
    """Send what was put aside through the pipeline again."""


@replay_app.command("quarantine")
def replay_quarantine(
    space: SpaceOption,
    reason: Annotated[str | None, typer.Option("--reason", help="Only lines with this reason.")] = None,
    event: Annotated[str | None, typer.Option("--event", help="Only track calls of this event.")] = None,
    file: Annotated[str | None, typer.Option("--file", help="Only lines of this landing file.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Judge quarantined lines again, by the space as it is now. What passes becomes messages; the next run builds their windows."""
    from cdp_assets.raw_events.policies import build_stages
    from cdp_assets.raw_events.replay import Selection
    from cdp_assets.raw_events.replay import replay_quarantine as judge_again

    loaded, _, opened = open_space(space, home)
    with opened as warehouse:
        found = judge_again(
            warehouse,
            loaded.config,
            build_stages(loaded, warehouse),
            Selection(reason, event, file),
            dt.datetime.now(dt.UTC),
            dry_run=dry_run,
        )
    would = "would become" if dry_run else "became"
    out.print(f"{found.considered} line(s) judged again: {found.accepted} {would} messages", highlight=False)
    if found.duplicates:
        out.print(f"  {found.duplicates} of them or of their rivals are duplicates", highlight=False)
    for name, count in sorted(found.stayed.items()):
        out.print(f"  {count} stay: {name}", highlight=False)
    if found.windows and not dry_run:
        out.print(f"windows to build with cdp run: {', '.join(sorted(found.windows))}", highlight=False)
