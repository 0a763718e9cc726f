"""Opens a destination or a source that a space names, in the right mode.

A destination is a sandbox unless CDP_LIVE=1 *and* the space names the account. Ledger rows carry the account and never count for
another one, so a rehearsal in the sandbox leaves nothing behind for the live account.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdp_assets.space.home import Home
from cdp_assets.space.models.settings import DestinationConfig
from cdp_assets.space.pulled import PulledSource
from resources.destinations import Connection, Destination, DestinationConfigError
from resources.destinations.registry import FILES, connect
from resources.sources import Reader
from resources.sources.registry import open_reader
from resources.warehouse import WarehouseError
from resources.warehouse.open import expand

SANDBOX_ACCOUNT = "sandbox"
DEFAULT_SANDBOX_URL = "http://127.0.0.1:8787"


def is_live(config: DestinationConfig | PulledSource, environment: Mapping[str, str] | None = None) -> bool:
    variables = os.environ if environment is None else environment
    return variables.get("CDP_LIVE") == "1" and bool(config.account)


def account_of(config: DestinationConfig | PulledSource) -> str:
    """The name that ledger rows carry: the live account's, or ``sandbox``."""
    return str(config.account) if is_live(config) else SANDBOX_ACCOUNT


def connection_of(config: DestinationConfig | PulledSource) -> Connection:
    """How to reach the account. Raises DestinationConfigError naming a variable that is not set."""
    live = is_live(config)
    base = None if live else sandbox_base(config.type)
    try:
        credentials = {name: expand(value) for name, value in config.credentials.items()}
        settings = {name: _expanded(value) for name, value in config.settings.items()}
    except WarehouseError as error:
        raise DestinationConfigError(str(error)) from None
    return Connection(
        mode="live" if live else "sandbox",
        account=account_of(config),
        settings=settings,
        credentials=credentials,
        base_url=base,
    )


def sandbox_base(kind: str) -> str:
    """Where a type's sandbox is: the twin, or a folder of the home."""
    if kind in FILES:
        folder = os.environ.get("CDP_SANDBOX_FOLDER")
        return str((Path(folder) if folder else Home.of(None).sandbox) / kind)
    return f"{os.environ.get('CDP_SANDBOX_URL', DEFAULT_SANDBOX_URL).rstrip('/')}/{kind}"


def open_source(config: PulledSource) -> Reader:
    """A reader bound to the account; the caller closes it. Raises DestinationConfigError."""
    return open_reader(config.type, connection_of(config))


def open_destination(config: DestinationConfig) -> Destination:
    """A connector bound to the account; the caller closes it. Raises DestinationConfigError."""
    return connect(config.type, connection_of(config))


def _expanded(value: Any) -> Any:
    return expand(value) if isinstance(value, str) else value
