"""``cdp suppress``: who asks not to be known any more."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from cdp_assets.cli_support import AsOfOption, CommandError, HomeOption, SpaceOption, instant_of, open_space, out

if TYPE_CHECKING:
    from cdp_assets.destination_syncs.footprint import Footprint


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("suppress")(suppress)


def suppress(
    identifier: Annotated[str, typer.Argument(help="The value of an identifier of the person.", metavar="ID")],
    space: SpaceOption,
    kind: Annotated[str, typer.Option("--type", help="The identifier's type.")] = "user_id",
    undo: Annotated[bool, typer.Option("--undo", help="Let new data in again. What was refused meanwhile was not kept.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the record; name nobody in it.")] = None,
    as_of: AsOfOption = None,
    home: HomeOption = None,
) -> None:
    """Suppress a person: no more data comes in, no audience has the profile, destinations give back what they hold."""
    from cdp_assets.destination_syncs.footprint import footprint
    from cdp_assets.raw_events.suppression import SuppressionError, lift
    from cdp_assets.raw_events.suppression import suppress as record

    now = dt.datetime.now(dt.UTC)
    at = instant_of(as_of) or now
    if at > now:
        raise CommandError("--as-of: a suppression begins and ends now or earlier, not in the future")
    if undo and reason:
        raise CommandError("--reason belongs to a suppression, not to --undo")
    loaded, _, opened = open_space(space, home)
    with opened as warehouse:
        try:
            if undo:
                found = lift(warehouse, loaded.config.identity, kind, identifier, at)
            else:
                found = record(warehouse, loaded.config.identity, kind, identifier, at, reason)
        except SuppressionError as error:
            raise CommandError(str(error)) from None
        where = footprint(warehouse, loaded.graph, kind, identifier)
    for line in (_state(kind, found.changed, found.suppressed_at, found.lifted_at), *_profile(where, kind)):
        out.print(line, markup=False, highlight=False)
    for line in _next_run(where) if found.in_force else _after_undo(where):
        out.print(f"- {line}", markup=False, highlight=False)


def _state(kind: str, changed: bool, since: dt.datetime | None, until: dt.datetime | None) -> str:
    if since is None:
        return f"this {kind} is not suppressed and never was"
    if until is None:
        return f"this {kind} is suppressed since {since.isoformat()}" + ("" if changed else " already")
    return f"this {kind} was suppressed from {since.isoformat()} until {until.isoformat()}" + ("" if changed else " already")


def _profile(where: Footprint, kind: str) -> list[str]:
    if where.profile is None:
        return [f"no profile has this {kind} now"]
    known = ", ".join(f"{one} {value}" for one, values in where.identifiers.items() for value in values)
    return [f"profile {where.profile}, known by {known}"]


def _next_run(where: Footprint) -> list[str]:
    lines = ["messages received from then on that name it are quarantined as suppressed, without their text"]
    if where.audiences:
        lines.append(f"the next build takes the profile out of {', '.join(where.audiences)}")
    for activation, records in where.held.items():
        lines.append(f"the next sync of {activation} takes back {records} record(s), or withholds what cannot be taken back")
    lines.append("nothing new is sent of the profile; what is stored of it stays")
    return lines


def _after_undo(where: Footprint) -> list[str]:
    lines = ["messages received from then on are accepted; those that were refused were not kept"]
    return [*lines, "the next build may have the profile in audiences again"] if where.profile else lines
