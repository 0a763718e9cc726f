"""``cdp preview``, ``cdp why``, ``cdp sql``, ``cdp query``: what an audience is, who is in it, and why."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdp_assets.cli_support import (
    AsOfOption,
    CommandError,
    HomeOption,
    JsonOption,
    SpaceOption,
    instant_of,
    open_space,
    out,
    require_known,
)
from cdp_assets.space.documents import read_yaml
from cdp_assets.space.load import Draft


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("preview")(preview)
    app.command("why")(why)
    app.command("sql")(sql)
    app.command("query")(query)


def preview(
    audience: Annotated[str, typer.Argument(help="An audience; or a file with one that is not in the space yet, - for stdin.")],
    space: SpaceOption,
    as_of: AsOfOption = None,
    home: HomeOption = None,
    sample: Annotated[int, typer.Option(help="Members to show.")] = 10,
    unmask: Annotated[bool, typer.Option(help="Show personal values.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Count and sample an audience without writing anything."""
    from cdp_assets.computed_traits.inline import inline_values
    from cdp_assets.linked_audiences.preview import preview as preview_audience

    draft = _draft(audience)
    loaded, _, opened = open_space(space, home, draft=draft)
    audience = draft.key if draft is not None else audience
    require_known(loaded.audiences, audience, "audience")
    instant = instant_of(as_of) or dt.datetime.now(dt.UTC)
    with opened as warehouse:
        found = preview_audience(
            warehouse,
            loaded,
            audience,
            instant,
            sample=sample,
            show_personal=unmask,
            inline_traits=inline_values(warehouse, loaded, instant),
        )
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), default=str) + "\n")
    else:
        out.print(found.to_text(), markup=False, highlight=False)


def _draft(argument: str) -> Draft | None:
    """The audience in a file or on standard input; None for a key. Its key: as it says, else the file's name, else draft."""
    path = Path(argument)
    if argument != "-" and path.suffix not in (".yaml", ".yml"):
        return None
    if argument == "-":
        text = sys.stdin.read()
    elif path.is_file():
        text = path.read_text(encoding="utf-8-sig")
    else:
        raise CommandError(f"there is no file {argument}")
    found, _ = read_yaml(text, argument)
    said = found.data.get("key") if found is not None else None
    stem = path.stem.lower().replace("-", "_") if argument != "-" else "draft"
    return Draft(said if isinstance(said, str) and said else stem, "<stdin>" if argument == "-" else argument, text)


def why(
    profile: Annotated[str, typer.Argument(help="A segment_id, also a merged one, or an identifier as TYPE:VALUE.")],
    audience: str,
    space: SpaceOption,
    as_of: AsOfOption = None,
    since: Annotated[str | None, typer.Option(help="Also what changed since this UTC instant, ISO 8601.")] = None,
    queries: Annotated[bool, typer.Option("--sql", help="Print the queries of conditions that rest on a count.")] = False,
    unmask: Annotated[bool, typer.Option(help="Show personal values.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why a profile is in an audience, or is not: every condition's verdict, the rows that decide, what is lacking."""
    from cdp_assets.computed_traits.inline import inline_values
    from cdp_assets.linked_audiences.why import why as explain

    loaded, _, opened = open_space(space, home)
    require_known(loaded.audiences, audience, "audience")
    with opened as warehouse:
        found = explain(
            warehouse,
            loaded,
            audience,
            profile,
            instant_of(as_of) or dt.datetime.now(dt.UTC),
            since=instant_of(since),
            inline_traits=lambda instant: inline_values(warehouse, loaded, instant),
            show_personal=unmask,
        )
    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), default=str) + "\n")
    else:
        out.print(found.to_text(queries=queries), markup=False, highlight=False)


def sql(
    audience: str,
    space: SpaceOption,
    dialect: Annotated[str, typer.Option(help="duckdb, snowflake, databricks or bigquery.")] = "duckdb",
    home: HomeOption = None,
) -> None:
    """Print the compiled query of an audience."""
    from cdp_assets.linked_audiences.sql import audience_sql

    loaded, _, opened = open_space(space, home)
    require_known(loaded.audiences, audience, "audience")
    with opened as warehouse:
        sys.stdout.write(audience_sql(loaded, audience, dialect, warehouse) + "\n")


def query(audience: str, space: SpaceOption) -> None:
    """Print an audience's conditions in Segment's query language."""
    from cdp_assets.space.query import QueryError
    from cdp_assets.space.query.printer import print_query
    from resources.space import load

    loaded = load(space)
    require_known(loaded.audiences, audience, "audience")
    try:
        sys.stdout.write(print_query(loaded.audiences[audience]) + "\n")
    except QueryError as error:
        raise CommandError(f"audience {audience} has no query text: {error}") from None
