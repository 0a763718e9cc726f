"""What all commands share: where they print, their common options, opening a space, and errors that become messages."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cdp_assets.space.home import Home

if TYPE_CHECKING:
    from cdp_assets.space.load import Draft
    from cdp_assets.space.space import Space
    from resources.warehouse import Warehouse

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 110)
err = Console(stderr=True, soft_wrap=True)

SpaceOption = Annotated[Path, typer.Option("--space", help="The space folder.", exists=True, file_okay=False)]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Where state lives; default CDP_HOME, else .cdp.")]
AsOfOption = Annotated[str | None, typer.Option("--as-of", help="UTC instant, ISO 8601; default: now.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""


def instant_of(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    from cdp_assets.dagster_support import parse_instant

    try:
        return parse_instant(text)
    except ValueError as error:
        raise CommandError(f"--as-of: {error}") from None


def open_space(space_dir: Path, home: Path | None, *, draft: Draft | None = None) -> tuple[Space, Home, Warehouse]:
    """The space of a folder, its home, and its open warehouse. Waits for the warehouse file, and says so. ``draft``: of ``load_space``."""
    from resources.space_folder import load
    from resources.warehouse.open import open_warehouse

    space = load(space_dir, draft=draft)
    paths = Home.of(home)
    return space, paths, open_warehouse(space, paths, wait=60, on_wait=lambda text: err.print(text, style="yellow"))


def require_known(mapping: Any, key: str, kind: str) -> None:
    if key not in mapping:
        raise CommandError(f"no {kind} {key}; known: {', '.join(mapping) or 'none'}")


def print_rows(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(row, default=str) + "\n")
        return
    if not rows:
        out.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(json.dumps(v) if isinstance(v, dict | list) else str(v if v is not None else "") for v in row.values()))
    out.print(table)
