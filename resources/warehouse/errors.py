"""What goes wrong in a warehouse. Messages name tables, queries and causes, never row values."""

from __future__ import annotations


class WarehouseError(Exception):
    """A statement could not run. The message names the table or query and the cause, never row values."""


class MissingTableError(WarehouseError):
    """The catalogue has no such table."""


class UserQueryError(WarehouseError):
    """User SQL was refused: not one SELECT, or it reads what it must not."""
