"""``cdp why-merged``, ``cdp unmerge``, ``cdp remove-identifier``: why a profile is one, and saying that it is not."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Annotated

import typer
from rich.markup import escape
from rich.tree import Tree

from cdp_assets.cli_support import CommandError, HomeOption, JsonOption, SpaceOption, open_space, out, print_rows

NEXT = "the next build of unified_profiles applies it: it recomputes these profiles, and nothing is sent because of it"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("why-merged")(why_merged)
    app.command("unmerge")(unmerge)
    app.command("remove-identifier")(remove_identifier)


def why_merged(
    profile: Annotated[str, typer.Argument(help="A segment_id, also a merged one, or an identifier as TYPE:VALUE.")],
    space: SpaceOption,
    home: HomeOption = None,
    unmask: Annotated[bool, typer.Option(help="Show identifier values.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The events and identifiers that joined a profile, and what was refused by which rule."""
    from cdp_assets.unified_profiles.explain import UnknownProfileError
    from cdp_assets.unified_profiles.explain import why_merged as explain

    loaded, _, opened = open_space(space, home)
    with opened as warehouse:
        try:
            found = explain(warehouse, loaded.graph, profile).to_json(unmask=unmask)
        except UnknownProfileError as error:
            raise CommandError(str(error)) from None
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    tree = Tree(f"{found['canonical_segment_id']}: {len(found['parts'])} part(s), {len(found['identifiers'])} identifier(s)")
    for link in found["chain"]:
        what = f"{link['segment_id']} took in {link['loser']}" if "loser" in link else f"{link['segment_id']} {link['kind']}"
        event = " ".join(part for part in (link["type"], link["event"]) if part)
        branch = tree.add(escape(f"{link['received_at']} {what} by {event} {link['message_id']} ({link['file']}:{link['line']})"))
        for identifier in link["identifiers"]:
            owner = f" of {identifier['owned_by']}" if identifier["owned_by"] else ""
            branch.add(escape(f"{identifier['type']} {identifier['value']}{owner}"))
    out.print(tree, highlight=False)
    print_rows(
        f"refused: {found['refused_count']}",
        [
            {name: row[name] for name in ("received_at", "reason", "type", "message_id", "file", "line")}
            for row in found["refused"]
        ],
        as_json=False,
    )


def unmerge(
    space: SpaceOption,
    part: Annotated[
        str | None, typer.Argument(help="The part that should leave: a segment_id that `cdp why-merged` shows.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for those who read the correction later.")] = "",
    undo: Annotated[str | None, typer.Option(help="Take this correction back.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the corrections in force.")] = False,
    home: HomeOption = None,
) -> None:
    """Keep a profile that was merged away apart from the one that took it in."""
    from cdp_assets.unified_profiles import corrections
    from cdp_assets.unified_profiles.explain import UnknownProfileError

    if sum((part is not None, undo is not None, show)) != 1:
        raise CommandError("give one of PART, --undo and --list")
    loaded, _, opened = open_space(space, home)
    with opened as warehouse:
        if show:
            print_rows("corrections", corrections.listed(warehouse), as_json=False)
            return
        try:
            if undo is not None:
                corrections.withdraw(warehouse, undo)
                out.print(f"{undo} is taken back; {NEXT}", highlight=False)
                return
            made = corrections.unmerge(warehouse, loaded.graph, str(part), reason=reason, loaded_at=dt.datetime.now(dt.UTC))
        except (corrections.CorrectionError, UnknownProfileError) as error:
            raise CommandError(str(error)) from None
    sides = {side: sum(of == side for of, _ in made.identifiers) for side in ("a", "b")}
    state = "was recorded before" if made.known else "is recorded"
    out.print(f"{made.correction_id} {state}: {sides['a']} identifier(s) apart from {sides['b']}; {NEXT}", highlight=False)


def remove_identifier(
    identifier: Annotated[str, typer.Argument(help="TYPE:VALUE, e.g. email:a@b.c.")],
    space: SpaceOption,
    reason: Annotated[str, typer.Option(help="Why, for those who read the correction later.")] = "",
    home: HomeOption = None,
) -> None:
    """Take an identifier from its profile from now on."""
    from cdp_assets.unified_profiles import corrections
    from cdp_assets.unified_profiles.identifiers import Identifier

    kind, separator, value = identifier.partition(":")
    if not (kind and separator and value):
        raise CommandError("write the identifier as TYPE:VALUE, e.g. email:a@b.c")
    loaded, _, opened = open_space(space, home)
    with opened as warehouse:
        try:
            made = corrections.remove_identifier(
                warehouse, loaded.graph, Identifier(kind, value), reason=reason, effective_at=dt.datetime.now(dt.UTC)
            )
        except corrections.CorrectionError as error:
            raise CommandError(str(error)) from None
    out.print(f"{made.correction_id} is recorded; {NEXT}", highlight=False)
