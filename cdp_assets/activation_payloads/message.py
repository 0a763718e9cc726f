"""The message of one unit in Segment's shape, before mapping: envelope, membership, personalization.

Shapes: ``context`` nests the matched entities by relationship under ``<audience>_context``; ``flattened`` puts the trigger
entity's columns at the top as ``<slug>__<column>`` and every other branch as arrays. Keys are as the configuration writes
them, so that messages are the same on every warehouse. Nothing here knows a clock: ids and times are tokens.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from cdp_assets.activation_payloads.tables import MESSAGE_ID_TOKEN, TIMESTAMP_TOKEN
from cdp_assets.data_graph.model import Node
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space

# Event names of audience messages, by unit and whether it enters or exits.
EVENT_NAMES = {
    ("profile", True): "Audience Entered",
    ("profile", False): "Audience Exited",
    ("entity", True): "Entity Added",
    ("entity", False): "Entity Removed",
}
# The identifiers with a place of their own in a message; any other goes among the traits, by its type.
ENVELOPE_IDENTIFIERS = {"user_id": "userId", "anonymous_id": "anonymousId"}


@dataclass(frozen=True)
class EntityRow:
    """One matched entity row of a member. ``parent`` is '' directly below the profile; ``values`` start with the primary key."""

    entity_id: str
    parent: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Member:
    """What a message may say about one member. ``context``: rows by node path, each in order of entity_id, parent."""

    canonical_segment_id: str
    identifiers: Mapping[str, str]
    traits: Mapping[str, Any]
    context: Mapping[str, tuple[EntityRow, ...]] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """A warehouse value as JSON: instants as ISO-8601 in UTC, whole numbers without a fraction on every engine."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            return None
        return int(value) if value == int(value) else float(value)
    if isinstance(value, dt.datetime):
        instant = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
        return instant.isoformat() + "Z"
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _token(prefix: str, *parts: str) -> str:
    return prefix + hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]


class AudienceMessages:
    """Builds the messages of one audience activation. ``nodes``: the nodes that the audience's conditions name, by path."""

    def __init__(self, space: Space, activation: Activation, nodes: Mapping[str, Node]) -> None:
        self.activation = activation
        self.audience = str(activation.audience)
        self.nodes = nodes
        self.children: dict[str | None, list[Node]] = {}
        for node in nodes.values():
            self.children.setdefault(node.parent, []).append(node)
        self.kind: Literal["track", "identify"] = "identify" if activation.trigger.when == "enters_or_exits" else "track"
        self.body_key = "traits" if self.kind == "identify" else "properties"
        space_id = _token("spa_", space.name)
        self.personas = {
            "computation_class": "audience",
            "computation_id": _token("aud_", space.name, self.audience),
            "computation_key": self.audience,
            "event_emitter_id": _token("evt_", space.name, activation.key),
            "namespace": space_id,
            "space_id": space_id,
        }

    def message(self, member: Member, entity_id: str | None = None, *, present: bool = True) -> dict[str, Any]:
        """The message of a member, or of a (member, entity) pair. ``present`` False: the one that says it left."""
        addresses = {kind: value for kind, value in member.identifiers.items() if kind not in ENVELOPE_IDENTIFIERS}
        body: dict[str, Any] = dict(addresses) if self.kind == "identify" else {}
        body.update(member.traits)
        body.update(self._entities(member, entity_id))
        body.update({"audience_key": self.audience, self.audience: present})
        context: dict[str, Any] = {"personas": self.personas}
        if self.kind == "track" and addresses:
            context["traits"] = addresses
        message: dict[str, Any] = {"type": self.kind}
        if self.kind == "track":
            message["event"] = self._event_name(present)
        for kind, place in ENVELOPE_IDENTIFIERS.items():
            if kind in member.identifiers:
                message[place] = member.identifiers[kind]
        return {
            **message,
            "messageId": MESSAGE_ID_TOKEN,
            "timestamp": TIMESTAMP_TOKEN,
            "originalTimestamp": TIMESTAMP_TOKEN,
            "receivedAt": TIMESTAMP_TOKEN,
            "context": context,
            "integrations": {"All": False, self.activation.destination: True},
            self.body_key: body,
        }

    def exit_of(self, message: dict[str, Any]) -> dict[str, Any]:
        """The same message, saying that the unit left."""
        left = {**message, self.body_key: {**message[self.body_key], self.audience: False}}
        if self.kind == "track":
            left["event"] = self._event_name(False)
        return left

    def _event_name(self, present: bool) -> str:
        """The activation's own name belongs to the side that its trigger announces."""
        announced = present == (self.activation.trigger.when == "enters")
        if self.activation.event_name and announced:
            return self.activation.event_name
        return EVENT_NAMES[self.activation.trigger.unit, present]

    # -- entities --------------------------------------------------------------------------------------------------

    def _entities(self, member: Member, entity_id: str | None) -> dict[str, Any]:
        kept = self._kept(member, entity_id)
        flattened = self.activation.shape == "flattened"
        trigger = self.activation.trigger.path if flattened and entity_id is not None else None
        branches = self._branches(None, "", member, kept, skip=trigger)
        if not flattened:
            return {f"{self.audience}_context": branches} if self.nodes else {}
        if trigger is not None and entity_id is not None:
            branches.update(self._flat(self.nodes[trigger], entity_id, member, kept))
        return branches

    def _kept(self, member: Member, entity_id: str | None) -> dict[str, set[str]]:
        """For an entity's message: of each node from the trigger up, the rows that lead to it. Other nodes keep all."""
        if entity_id is None or self.activation.trigger.path is None:
            return {}
        kept: dict[str, set[str]] = {}
        path: str | None = self.activation.trigger.path
        wanted = {entity_id}
        while path is not None:
            kept[path] = wanted
            wanted = {row.parent for row in member.context.get(path, ()) if row.entity_id in wanted}
            path = self.nodes[path].parent
        return kept

    def _branches(
        self, parent: str | None, parent_id: str, member: Member, kept: Mapping[str, set[str]], skip: str | None
    ) -> dict[str, Any]:
        """Arrays of the entities below one row, by relationship slug; a branch without rows is left out."""
        found: dict[str, Any] = {}
        for node in self.children.get(parent, ()):
            if node.path == skip:
                continue
            rows = [
                row
                for row in member.context.get(node.path, ())
                if row.parent == parent_id and (node.path not in kept or row.entity_id in kept[node.path])
            ]
            if rows:
                slug = node.relationship.slug
                found[slug if self.activation.shape == "flattened" else slug.lower()] = [
                    {**self._object(node, row), **self._branches(node.path, row.entity_id, member, kept, skip)} for row in rows
                ]
        return found

    def _object(self, node: Node, row: EntityRow) -> dict[str, Any]:
        marker = {"__entity": node.entity.slug} if self.activation.shape == "flattened" else {}
        return {**row.values, **marker}

    def _flat(self, node: Node, entity_id: str, member: Member, kept: Mapping[str, set[str]]) -> dict[str, Any]:
        row = next(row for row in member.context[node.path] if row.entity_id == entity_id)
        inside = {**self._object(node, row), **self._branches(node.path, entity_id, member, kept, skip=None)}
        return {f"{node.relationship.slug}__{key}": value for key, value in inside.items()}


def row_message(values: Mapping[str, Any], destination: str) -> dict[str, Any]:
    """The message of a model's row: its columns as properties."""
    return {
        "type": "row",
        "messageId": MESSAGE_ID_TOKEN,
        "timestamp": TIMESTAMP_TOKEN,
        "integrations": {"All": False, destination: True},
        "properties": dict(values),
    }
