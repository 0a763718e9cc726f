"""What the fields of an audience activation's mapping read, where that can be said beforehand: a column of its unit, or the same for all.

What belongs here: which column or constant a field is. What does not: the query of the columns, and the payloads made of them
(``audience_columns.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from cdp_assets.activation_payloads.audience_rows import Section, condition_nodes
from cdp_assets.activation_payloads.column_mapping import Made, Path, made_of, path_of
from cdp_assets.activation_payloads.mapping_kit import UNDEFINED, MappingError, prepare, reads
from cdp_assets.activation_payloads.mapping_kit.paths import get
from cdp_assets.activation_payloads.message import ENVELOPE_IDENTIFIERS, AudienceMessages, Member
from cdp_assets.data_graph.model import Node
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space

_FIELD = "value"
# Of a message, what is the same for all of an activation.
_ENVELOPE = ("type", "event", "messageId", "timestamp", "originalTimestamp", "receivedAt", "integrations")


@dataclass(frozen=True)
class Source:
    """A column that a field reads. ``read``: how its values are to be understood. ``otherwise``: what is read where it is null.

    ``there``: a column that is null where the message lacks the field; None: it lacks it wherever there is no value.
    """

    column: str
    read: Literal["plain", "boolean", "list"] = "plain"
    otherwise: Source | None = None
    there: str | None = None

    def columns(self) -> list[str]:
        more = self.otherwise.columns() if self.otherwise else []
        return [self.column, *([self.there] if self.there else []), *more]


@dataclass(frozen=True, eq=False)
class MadeSource:
    """What a directive makes of columns: ``sources`` in the order of what it reads."""

    made: Made
    sources: Sequence[Source]

    def columns(self) -> list[str]:
        return [column for source in self.sources for column in source.columns()]


@dataclass(frozen=True)
class AudienceFields:
    """``sources`` by field; ``constants`` and ``exit_constants``: the values of the others, in messages of entering and leaving.

    first: nodes of which the first row is asked for, each below the first row of its parent, parents first.
    """

    sources: Mapping[str, Source | MadeSource]
    constants: Mapping[str, Any]
    exit_constants: Mapping[str, Any]
    first: Sequence[str] = ()


@dataclass
class _Reader:
    space: Space
    activation: Activation
    members: Section
    entities: Mapping[str, Section]
    messages: AudienceMessages
    nodes: Mapping[str, Node]
    first: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.audience, self.body = str(self.activation.audience), self.messages.body_key
        self.identifiers = {kind: column for column, kind in self.members.columns.items() if column[0] == "i"}
        self.flattened = self.activation.shape == "flattened"

    # -- what is the same for all ------------------------------------------------------------------------------------

    def is_constant(self, value: Any) -> bool:
        if "@liquid" in str(value):
            return False
        paths = reads(value)
        return paths is not None and all(self._same(path) for path in paths)

    def _same(self, path: tuple[str, ...]) -> bool:
        if path[0] in _ENVELOPE or path[:2] == ("context", "personas"):
            return True
        return path[0] == self.body and len(path) > 1 and path[1] in (self.audience, "audience_key")

    # -- a unit's own ------------------------------------------------------------------------------------------------

    def source(self, path: tuple[str, ...]) -> Source | Literal["row", "absent"]:
        """The column at a path; ``absent`` where no message has anything, ``row`` where only a look at the message tells."""
        if len(path) == 1:
            kinds = [kind for kind, place in ENVELOPE_IDENTIFIERS.items() if place == path[0]]
            return Source(self.identifiers[kinds[0]]) if kinds else "row"
        if path[:2] == ("context", "traits") and len(path) == 3:
            return self._address(path[2]) if self.messages.kind == "track" else "absent"
        if path[0] != self.body:
            return "row"
        if len(path) > 2:
            return self._first_row(path)
        return self._named(path[1])

    def made(self, value: Any, nobody: Mapping[str, Any]) -> MadeSource | Literal["row"]:
        """A directive over columns. ``nobody``: a message without anything of a person's."""

        def same(path: Path) -> tuple[bool, Any]:
            if self._same(path):
                return True, get(nobody, ".".join(path))
            return self.source(path) == "absent", UNDEFINED

        found = made_of(value, same)
        # Whether somebody enters or leaves is said by other constants, not by other columns.
        if found is None or any(path[0] == "event" or path[1:2] == (self.audience,) for path, _ in found.always):
            return "row"
        sources = [self.source(path) for path in found.reads]
        return MadeSource(found, [s for s in sources if isinstance(s, Source)]) if "row" not in sources else "row"

    def _address(self, name: str) -> Source | Literal["absent"]:
        known = name in self.identifiers and name not in ENVELOPE_IDENTIFIERS
        return Source(self.identifiers[name]) if known else "absent"

    def _named(self, name: str) -> Source | Literal["row", "absent"]:
        """A name of the message's body that is no part of the audience's own two."""
        trigger = self.activation.trigger.path
        if self.flattened and trigger is not None:
            before = f"{self.nodes[trigger].relationship.slug}__"
            if name.startswith(before):
                return self._of_entity(trigger, name.removeprefix(before))
        if name in self._branches():
            return "row"
        address = self._address(name) if self.messages.kind == "identify" else "absent"
        return self._trait(name, None if address == "absent" else address) or address

    def _branches(self) -> set[str]:
        if not self.flattened:
            return {f"{self.audience}_context"}
        return {node.relationship.slug for node in self.messages.children.get(None, ())}

    def _trait(self, name: str, otherwise: Source | None) -> Source | None:
        """A computed trait hides one of the same name from identify calls, and both an identifier."""
        found = otherwise
        for prefix in ("t", "c", "d"):
            for column, trait in self.members.columns.items():
                if trait == name and column[0] == prefix and column[1:].isdigit():
                    kind = self.space.traits[name].value_type if prefix == "c" else ""
                    found = Source(column, "boolean" if kind == "boolean" else "list" if kind == "list" else "plain", found)
        return None if found is otherwise else found

    def _of_entity(self, path: str, name: str) -> Source | Literal["row"]:
        """A column of the rows that the query joins for a node. Its key is there also when the row itself is gone."""
        if name in {self._slug(child) for child in self.messages.children.get(path, ())}:
            return "row"
        column = next((column for column, known in self.entities[path].columns.items() if known == name), None)
        if column is None:
            return "row"
        key = entity_key(path, self.nodes)
        return Source(f"{key}_{column}", otherwise=Source(key) if column == "n0" else None, there=key)

    def _first_row(self, path: tuple[str, ...]) -> Source | Literal["row"]:
        """``slug[0].slug[0].column`` of a profile's message."""
        steps = path[1:] if self.flattened else path[2:]
        hidden = {*self.identifiers, *self.activation.personalization.traits, self.audience, "audience_key"}
        if self.activation.trigger.path is not None or path[1] in hidden:
            return "row"
        if not self.flattened and path[1] != f"{self.audience}_context":
            return "row"
        if len(steps) < 3 or len(steps) % 2 == 0 or set(steps[1::2]) != {"0"}:
            return "row"
        at: str | None = None
        chain = []
        for slug in steps[:-1:2]:
            below = [node for node in self.messages.children.get(at, ()) if self._slug(node) == slug]
            if len(below) != 1:
                return "row"
            at = below[0].path
            chain.append(at)
        found = self._of_entity(chain[-1], steps[-1])
        if found != "row":
            self.first += [node for node in chain if node not in self.first]
        return found

    def _slug(self, node: Node) -> str:
        return node.relationship.slug if self.flattened else node.relationship.slug.lower()


def entity_key(path: str, nodes: Mapping[str, Node]) -> str:
    """The column of a node's key as text in the query of units; its values are ``<key>_<column>``."""
    return f"e{list(nodes).index(path)}"


def audience_fields(
    space: Space, activation: Activation, members: Section, entities: Mapping[str, Section]
) -> AudienceFields | None:
    """The fields of an activation's mapping, or None where one of them takes a look at each message.

    ``members`` and ``entities``: what the messages say of members, and of the rows of each node that the audience's conditions name.
    """
    if any(name.startswith(("@", "__segment")) for name in activation.mapping):
        return None
    nodes = condition_nodes(space, activation)
    messages = AudienceMessages(space, activation, nodes)
    nobody = messages.message(Member("", {}, {}))
    reader = _Reader(space, activation, members, entities, messages, nodes)
    sources: dict[str, Source | MadeSource] = {}
    constants: dict[str, Any] = {}
    exit_constants: dict[str, Any] = {}
    for name, value in activation.mapping.items():
        if reader.is_constant(value):
            try:
                for message, found in ((nobody, constants), (messages.exit_of(nobody), exit_constants)):
                    said = prepare({_FIELD: value})(message).get(_FIELD, UNDEFINED)
                    if said is not UNDEFINED:
                        orjson.dumps(said)
                        found[name] = said
            except (MappingError, TypeError):
                return None
            continue
        path = path_of(value)
        source = reader.source(path) if path else reader.made(value, nobody)
        if source == "row":
            return None
        if source != "absent":
            sources[name] = source
    return AudienceFields(sources, constants, exit_constants, tuple(reader.first))
