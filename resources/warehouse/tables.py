"""What a table is called, and what the room that owns it says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ibis

from resources.warehouse.values import dtype_of


@dataclass(frozen=True, order=True)
class TableRef:
    """A table's logical, lower-case name: ``schema.name``, and a database where the reference is fully qualified."""

    schema: str
    name: str
    database: str | None = None

    @classmethod
    def parse(cls, text: str) -> TableRef:
        """``SCHEMA.TABLE`` or ``DB.SCHEMA.TABLE`` in any case. Raises ValueError for another number of parts."""
        parts = [part.strip().strip('"').lower() for part in text.split(".")]
        if len(parts) == 2:
            return cls(parts[0], parts[1])
        if len(parts) == 3:
            return cls(parts[1], parts[2], parts[0])
        raise ValueError(f"{text!r} has {len(parts)} part(s); write SCHEMA.TABLE or DB.SCHEMA.TABLE")

    def __str__(self) -> str:
        return ".".join(part for part in (self.database, self.schema, self.name) if part)


@dataclass(frozen=True)
class TableSpec:
    """A table that a room owns: its reference, columns (ibis type strings, in order), and whose data a row is.

    ``subject`` names the column that says whose data a row is (a profile or person identifier), or None when a row
    is nobody's. Erasure and masking work from it. ``personal`` lists columns that may hold personal values. ``repeated`` lists text
    columns of few values, ``varied`` those of which hardly two rows are alike: an engine that would try how to store a text need not.
    """

    ref: TableRef
    columns: Mapping[str, str]
    description: str
    subject: str | None
    keys: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()

    @property
    def schema(self) -> ibis.Schema:
        return ibis.schema({name: dtype_of(kind) for name, kind in self.columns.items()})
