"""Why a profile is one: the events that made its parts and joined them, through which identifiers, and what was refused by which rule.

Everything is read from the logs, for one profile at a time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.masking import mask_value
from cdp_assets.unified_profiles.identifiers import Identifier
from cdp_assets.unified_profiles.state_tables import EVENT_IDENTIFIERS, IDENTIFIERS
from cdp_assets.unified_profiles.tables import (
    ID_ALIASES,
    VIOLATIONS,
    external_id_mapping_updates,
    id_graph_updates,
    profile_merges,
    profile_schema,
    user_identifiers,
)
from resources.warehouse import TableRef, Warehouse

# A profile has at most 100 merges and 1,000 mappings; identifiers that keep being shown have more rows.
_MANY = 100_000
_REFUSED_SHOWN = 1_000


class UnknownProfileError(Exception):
    """Nobody is known by that id or identifier. The message does not repeat it."""


@dataclass(frozen=True)
class Place:
    """Where a message came from."""

    message_id: str
    type: str
    event: str | None
    received_at: dt.datetime
    file: str | None
    line: int | None


@dataclass(frozen=True)
class Link:
    """One step of the chain. ``kind``: created (a profile began), attached (identifiers came to it), merged (``loser`` became part).

    ``identifiers``: those of the event that say so; for a merge all that it carried, each with the part that owned it before.
    """

    kind: str
    seq: int
    place: Place
    segment_id: str
    loser: str | None
    identifiers: tuple[tuple[Identifier, str | None], ...]


@dataclass(frozen=True)
class Refused:
    """An identifier that an event carried and the profile did not take, and the rule. The value is not known here, only its hash."""

    place: Place
    identifier_type: str | None
    value_hash: str | None
    reason: str


@dataclass(frozen=True)
class Explanation:
    """A profile: its canonical id, its parts (segment ids, oldest first), the chain, what was refused (the first thousand)."""

    canonical_segment_id: str
    parts: tuple[str, ...]
    identifiers: tuple[Identifier, ...]
    chain: tuple[Link, ...]
    refused: tuple[Refused, ...]
    refused_count: int

    def to_json(self, *, unmask: bool = False) -> dict[str, Any]:
        """As one JSON object; identifier values are masked unless asked."""

        def shown(identifier: Identifier) -> dict[str, str]:
            return {"type": identifier.type, "value": identifier.value if unmask else mask_value(identifier.value)}

        return {
            "canonical_segment_id": self.canonical_segment_id,
            "parts": list(self.parts),
            "identifiers": [shown(identifier) for identifier in self.identifiers],
            "chain": [
                {
                    "kind": link.kind,
                    "segment_id": link.segment_id,
                    **({"loser": link.loser} if link.loser else {}),
                    "identifiers": [{**shown(identifier), "owned_by": owner} for identifier, owner in link.identifiers],
                    **_place_json(link.place),
                }
                for link in self.chain
            ],
            "refused": [
                {
                    "reason": refused.reason,
                    "type": refused.identifier_type,
                    "value_hash": refused.value_hash,
                    **_place_json(refused.place),
                }
                for refused in self.refused
            ],
            "refused_count": self.refused_count,
        }


def _place_json(place: Place) -> dict[str, Any]:
    return {
        "message_id": place.message_id,
        "type": place.type,
        "event": place.event,
        "received_at": place.received_at.isoformat() + "Z",
        "file": place.file,
        "line": place.line,
    }


def canonical_id(warehouse: Warehouse, graph: DataGraph, profile: str) -> str:
    """The canonical id now of a segment_id (merged or renamed ones too) or of an identifier written ``type:value``.

    Raises :class:`UnknownProfileError`.
    """
    schema = profile_schema(graph)
    renamed = warehouse.table(ID_ALIASES.ref)
    found = warehouse.rows(renamed.filter(renamed.old_segment_id == profile).select("new_segment_id"), 1)
    segment = found[0]["new_segment_id"] if found else profile
    merges = warehouse.table(profile_merges(schema).ref)
    found = warehouse.rows(merges.filter(merges.segment_id == segment).select("canonical_segment_id"), 1)
    if not found and ":" in profile:
        kind, value = profile.split(":", 1)
        identifiers = warehouse.table(user_identifiers(schema).ref)
        owned = identifiers.filter(identifiers.type == kind, identifiers.value == value)
        found = warehouse.rows(owned.select("canonical_segment_id"), 1)
    if not found:
        raise UnknownProfileError("nobody is known by that; give a segment_id, or an identifier as TYPE:VALUE, e.g. email:a@b.c")
    return str(found[0]["canonical_segment_id"])


def parts_of(warehouse: Warehouse, graph: DataGraph, canonical: str) -> list[str]:
    """Every profile that is part of a canonical one now, oldest first."""
    updates = _of(warehouse, id_graph_updates(profile_schema(graph)).ref, "canonical_segment_id", [canonical])
    rows = warehouse.rows(updates.group_by("segment_id").agg(seq=updates.seq.min()).select("segment_id"), _MANY)
    everything = _of(warehouse, id_graph_updates(profile_schema(graph)).ref, "segment_id", [row["segment_id"] for row in rows])
    created = everything.group_by("segment_id").agg(seq=everything.seq.min()).order_by("seq", "segment_id")
    return [row["segment_id"] for row in warehouse.rows(created, _MANY)]


def why_merged(warehouse: Warehouse, graph: DataGraph, profile: str) -> Explanation:
    """The chain of events and identifiers that made ``profile`` (see :func:`canonical_id`) what it is now."""
    schema = profile_schema(graph)
    canonical = canonical_id(warehouse, graph, profile)
    parts = parts_of(warehouse, graph, canonical)
    steps = warehouse.rows(_of(warehouse, id_graph_updates(schema).ref, "segment_id", parts).order_by("seq", "segment_id"), _MANY)
    mappings = _of(warehouse, external_id_mapping_updates(schema).ref, "segment_id", parts)
    mappings = warehouse.rows(mappings.order_by("seq", "external_id_type", "external_id_value"), _MANY)
    violations = _of(warehouse, VIOLATIONS.ref, "segment_id", parts)
    refused = warehouse.rows(violations.order_by("seq", "identifier_type", "value_hash", "reason"), _REFUSED_SHOWN)
    events = {row["triggering_event_id"] for row in (*steps, *mappings)} | {row["message_id"] for row in refused}
    places = _places(warehouse, events)
    joining = {row["seq"] for row in steps if row["segment_id"] != row["canonical_segment_id"]}
    return Explanation(
        canonical,
        tuple(parts),
        tuple(_held(warehouse, schema, canonical)),
        tuple(_chain(steps, mappings, places, _carried(warehouse, joining))),
        tuple(
            Refused(_place(places, row["message_id"], row), row["identifier_type"], row["value_hash"], row["reason"])
            for row in refused
        ),
        warehouse.count(violations),
    )


def _of(warehouse: Warehouse, ref: TableRef, column: str, values: Collection[str]) -> ir.Table:
    table = warehouse.table(ref)
    return table.filter(table[column].isin(sorted(values)))


def _held(warehouse: Warehouse, schema: str, canonical: str) -> list[Identifier]:
    table = _of(warehouse, user_identifiers(schema).ref, "canonical_segment_id", [canonical])
    return [Identifier(row["type"], row["value"]) for row in warehouse.rows(table.order_by("seq", "type", "value"), _MANY)]


def _places(warehouse: Warehouse, message_ids: Collection[str]) -> dict[str, Place]:
    columns = ("message_id", "type", "event", "received_at", "file", "line")
    rows = warehouse.rows(_of(warehouse, MESSAGES.ref, "message_id", message_ids).select(*columns), _MANY)
    return {row["message_id"]: Place(**row) for row in rows}


def _place(places: Mapping[str, Place], message_id: str, row: Mapping[str, Any]) -> Place:
    """A removal is no message: it has no place in a file."""
    return places.get(message_id) or Place(message_id, "remove", None, row["received_at"], None, None)


def _carried(warehouse: Warehouse, seqs: Collection[int]) -> dict[int, list[Identifier]]:
    """The identifiers of some entries, in the order in which they were found."""
    carried = warehouse.table(EVENT_IDENTIFIERS.ref)
    carried = carried.filter(carried.seq.isin(sorted(seqs))).join(warehouse.table(IDENTIFIERS.ref), "identifier_id")
    rows = warehouse.rows(
        carried.select("seq", "position", "identifier_type", "identifier_value").order_by("seq", "position"), _MANY
    )
    found: dict[int, list[Identifier]] = {}
    for row in rows:
        found.setdefault(row["seq"], []).append(Identifier(row["identifier_type"], row["identifier_value"]))
    return found


def _chain(
    steps: Sequence[Mapping[str, Any]],
    mappings: Sequence[Mapping[str, Any]],
    places: Mapping[str, Place],
    carried: Mapping[int, list[Identifier]],
) -> list[Link]:
    """Creations, merges and attachments in received order. Shown-again rows of the mapping log are no steps of the chain."""
    owner: dict[Identifier, str] = {}
    whole: dict[str, str] = {}
    links: list[Link] = []
    by_seq: dict[int, tuple[list, list]] = {}
    for row in steps:
        by_seq.setdefault(row["seq"], ([], []))[0].append(row)
    for row in mappings:
        by_seq.setdefault(row["seq"], ([], []))[1].append(row)
    for seq in sorted(by_seq):
        graph_rows, mapping_rows = by_seq[seq]
        any_row = (graph_rows or mapping_rows)[0]
        place = _place(places, any_row["triggering_event_id"], any_row)
        # Rows of profiles that had been merged before follow the profile that they are part of.
        direct = [row for row in graph_rows if whole.get(row["segment_id"], row["segment_id"]) == row["segment_id"]]
        shown = tuple((identifier, owner.get(identifier)) for identifier in carried.get(seq, ()))
        for row in direct:
            segment, canonical = row["segment_id"], row["canonical_segment_id"]
            if segment != canonical:
                links.append(Link("merged", seq, place, canonical, segment, shown))
        for row in graph_rows:
            whole[row["segment_id"]] = row["canonical_segment_id"]
        created = [row["segment_id"] for row in graph_rows if row["segment_id"] == row["canonical_segment_id"]]
        removed = [row for row in mapping_rows if row["__operation"] == "REMOVED"]
        attached: dict[str, list[Identifier]] = {}
        for row in mapping_rows:
            identifier = Identifier(row["external_id_type"], row["external_id_value"])
            if row["__operation"] == "REMOVED":
                owner.pop(identifier, None)
            elif identifier not in owner:
                attached.setdefault(row["segment_id"], []).append(identifier)
                owner[identifier] = row["segment_id"]
        for segment, identifiers in attached.items():
            kind = "created" if segment in created else "attached"
            links.append(Link(kind, seq, place, segment, None, tuple((identifier, None) for identifier in identifiers)))
        links += [
            Link(
                "removed",
                seq,
                place,
                row["segment_id"],
                None,
                ((Identifier(row["external_id_type"], row["external_id_value"]), None),),
            )
            for row in removed
        ]
    return links
