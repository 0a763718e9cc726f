"""Opens the warehouse that a space names. The registry of warehouse types is here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdp_assets.space.home import Home
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse, WarehouseError

if TYPE_CHECKING:
    from resources.warehouse.duckdb import Connect

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")


def expand(text: str, environment: Mapping[str, str] | None = None) -> str:
    """``${NAME}`` and ``${NAME:-default}`` filled in. Raises WarehouseError naming a variable that is not set."""
    variables = os.environ if environment is None else environment

    def fill(match: re.Match[str]) -> str:
        value = variables.get(match[1]) or match[2]
        if value is None:
            raise WarehouseError(f"environment variable {match[1]} is not set")
        return value

    return _VARIABLE.sub(fill, text)


def open_warehouse(
    space: Space,
    home: Home,
    *,
    wait: float = 60.0,
    on_wait: Callable[[str], None] | None = None,
    connect: Connect | None = None,
    linger: float = 0.0,
) -> Warehouse:
    """An open warehouse of the space; the caller closes it. Waits for a DuckDB file that another process holds.

    ``connect``: how a DuckDB file is connected to; default directly. ``linger``: seconds that it stays open for who opens it next.
    """
    config = space.config.warehouse
    if config.type == "duckdb":
        from resources.warehouse.duckdb import connect_directly, open_duckdb

        views: dict[str, Path] = {schema: space.path(expand(folder)) for schema, folder in config.files.items()}
        return open_duckdb(
            home.warehouse_file(space.name),
            views=views,
            wait=wait,
            on_wait=on_wait,
            memory_limit=config.memory_limit,
            connect=connect or connect_directly,
            linger=linger,
        )
    from resources.warehouse.snowflake import open_snowflake

    return open_snowflake(_expanded(config.settings))


def _expanded(value: Any) -> Any:
    if isinstance(value, str):
        return expand(value)
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return value
