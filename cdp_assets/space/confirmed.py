"""Breaking changes of the data graph that were confirmed: how space.yaml names them, and what they take away from consumers."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from cdp_assets.data_graph.diff import ChangeKind, GraphChange
from cdp_assets.data_graph.model import DataGraph, MissingNode
from cdp_assets.space.base import Model

PROFILE_CHANGES = ("profile_folder", "profile_type")


class ConfirmedChange(Model):
    """A breaking change of the data graph that may go in, named as ``cdp validate --against`` names it.

    While a removal stands here, the consumers that it hit fail at their runs, and only they. Take it out when they are adapted.
    """

    entity: str | None = Field(None, description="Slug of the entity that changed.")
    relationship: str | None = Field(None, description="Node path of the relationship that changed, as it was: accounts:carts.")
    change: ChangeKind = Field(description="What changed of it.")
    nodes: tuple[str, ...] = Field((), description="For a removed entity: node paths that stood on it and are still there.")
    from_: str | None = Field(None, alias="from", description="What the graph said before; not for removed.")
    to: str | None = Field(None, description="What it says now; not for removed.")

    @model_validator(mode="after")
    def _shape(self) -> ConfirmedChange:
        of_profile = self.change in PROFILE_CHANGES
        if of_profile != (self.entity is None and self.relationship is None) or (self.entity and self.relationship):
            raise ValueError("give exactly one of 'entity' and 'relationship', or neither with profile_folder and profile_type")
        given = [value is not None for value in (self.from_, self.to)]
        if any(given) if self.change == "removed" else not all(given):
            raise ValueError("give 'from' and 'to' with every change but removed")
        if self.nodes and not (self.entity and self.change == "removed"):
            raise ValueError("'nodes' goes with a removed entity; remove it")
        return self

    def text(self) -> str:
        """As one list item of ``confirmed_breaking_changes``."""
        said = self.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
        parts = [f"{key}: {_yaml(value)}" for key, value in said.items()]
        return "- {" + ", ".join(parts) + "}"


def confirmation(change: GraphChange) -> ConfirmedChange:
    """How space.yaml confirms a change."""
    return ConfirmedChange(
        entity=change.entity,
        relationship=change.relationship,
        change=change.kind,
        nodes=tuple(sorted(change.kept)),
        from_=None if change.definite else change.before,
        to=None if change.definite else change.after,
    )


def missing_nodes(confirmed: Sequence[ConfirmedChange], graph: DataGraph) -> tuple[MissingNode, ...]:
    """Nodes that confirmed removals take away from their consumers. Removals that the graph does not show take nothing away."""
    paths = {node.path for node in graph.nodes()}
    entities = {entity.slug for entity in graph.entities}
    found = []
    for one in confirmed:
        if one.change != "removed":
            continue
        if one.relationship and one.relationship not in paths:
            found.append(
                MissingNode(one.relationship, f"relationship {one.relationship} is missing: it was removed from the data graph")
            )
        elif one.entity and one.entity not in entities:
            reason = f"entity {one.entity} is missing: it was removed from the data graph"
            found += [MissingNode(path, reason) for path in one.nodes]
    return tuple(found)


def _yaml(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    text = str(value)
    plain = all(character.isalnum() or character in "_-." for character in text) and text[:1].isalpha()
    return (
        text
        if plain and text.lower() not in ("true", "false", "null")
        else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )
