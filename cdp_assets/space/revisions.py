"""Revisions: what determines the content of a trait, an audience, a model, or what an activation sends, as one short hash.

A *slice* is the part of the configuration that matters, normalised to plain JSON values; a *revision* is its hash. Names,
descriptions, owners and schedules are in no slice, so changing them makes nothing stale; the order of keys in a file does not
count either. A slice holds the revisions of the traits and audiences that it refers to, not their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import sqlglot
from sqlglot.errors import SqlglotError

from cdp_assets.data_graph.model import ColumnJoin, DataGraph, ExternalIdJoin, Join, JunctionJoin, Node, TraitJoin
from cdp_assets.data_graph.printing import print_graph
from cdp_assets.space.base import Model
from cdp_assets.space.conditions import audience_references, entity_paths, trait_references
from cdp_assets.space.consumers import consumers_by_node
from cdp_assets.space.models.audiences import AudienceCondition, EntityCondition, EventCondition, TraitCondition
from cdp_assets.space.space import Space

Slice = dict[str, Any]

_JOINS = {ExternalIdJoin: "external_id", TraitJoin: "trait", ColumnJoin: "column", JunctionJoin: "junction"}


def revision_of(content: Mapping[str, Any]) -> str:
    """Sixteen hex digits that stand for a slice."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trait_revision(space: Space, key: str) -> str:
    """Revision of a trait's values. Raises KeyError for an unknown key."""
    return revision_of(trait_slice(space, key))


def audience_revision(space: Space, key: str) -> str:
    """Revision of an audience's members and context. Raises KeyError for an unknown key."""
    return revision_of(audience_slice(space, key))


def model_revision(space: Space, key: str) -> str:
    """Revision of a model's rows. Raises KeyError for an unknown key."""
    return revision_of(model_slice(space, key))


def definition_revision(space: Space, activation_key: str) -> str:
    """Revision of what an activation sends and to what, consent aside. Raises KeyError for an unknown key."""
    return revision_of(definition_slice(space, activation_key))


def graph_revision(space: Space) -> str:
    """Revision of the data graph's picture: all that its text says, labels included, and who uses which node."""
    consumers = {path: [str(one) for one in found] for path, found in consumers_by_node(space).items()}
    return revision_of({"graph": print_graph(space.graph), "consumers": consumers})


# -- slices --------------------------------------------------------------------------------------------------------------


def trait_slice(space: Space, key: str) -> Slice:
    """What determines a trait's values."""
    trait = space.traits[key]
    left_out = {"key", "name", "description", "owner", "type", "query", "columns"}
    content = _plain(trait, leave_out=left_out if trait.of_accounts else {*left_out, "level", "members"})
    content["type"] = trait.value_type
    content["query"] = _query(space, trait.query) if trait.query else None
    return {"trait": content, "profiles": _profiles(space.graph)}


def audience_slice(space: Space, key: str) -> Slice:
    """What determines an audience's members and context: conditions, nodes, and revisions of traits and audiences."""
    audience = space.audiences[key]
    paths = entity_paths(audience)
    nodes = {node.path: node for node in space.graph.nodes() if node.path in paths}
    joined = [node.join.name for node in nodes.values() if isinstance(node.join, TraitJoin)]
    traits = {name for _, name in trait_references(audience)} | set(joined)
    # Said only where there is one: an option that is added to the language later changes no revision.
    target = {"target_entity": audience.target_entity} if audience.target_entity else {}
    histories = {
        node.entity.slug: {name: str(said).lower() for name, said in _plain(space.config.entities[node.entity.slug]).items()}
        for node in nodes.values()
        if node.entity.slug in space.config.entities
    }
    return {
        **target,
        **({"histories": histories} if histories else {}),
        "match": audience.match,
        "groups": [
            {"match": group.match, "conditions": [_condition(condition) for condition in group.conditions]}
            for group in audience.groups
        ],
        "nodes": {path: _node(node) for path, node in nodes.items()},
        "traits": _trait_revisions(space, traits),
        "audiences": {other: audience_revision(space, other) for other in sorted({o for _, o in audience_references(audience)})},
        "profiles": _profiles(space.graph),
    }


def model_slice(space: Space, key: str) -> Slice:
    """What determines a model's rows: its query, its key, and the traits and audiences that it reads."""
    model = space.models[key]
    return {
        "query": _query(space, model.query),
        "primary_key": model.primary_key.lower(),
        "traits": _trait_revisions(space, model.depends_on),
        "audiences": {other: audience_revision(space, other) for other in sorted(set(model.depends_on) & set(space.audiences))},
    }


def definition_slice(space: Space, activation_key: str) -> Slice:
    """What determines the messages of an activation: its source, what a message holds, and where it goes.

    Schedules, guardrails, policies and consent are no part of it: consent decides whether a message is sent, not what it says.
    """
    activation = space.activations[activation_key]
    destination = space.config.destinations[activation.destination]
    paths = {item.path for item in activation.personalization.entities}
    if activation.trigger.path:
        paths.add(activation.trigger.path)
    # Segment's payload names the entity of each row, so its slug counts here.
    nodes = {node.path: {**_node(node), "entity": node.relationship.entity} for node in space.graph.nodes() if node.path in paths}
    source: Slice
    if activation.events:
        source = {"events": _plain(activation.events)}
    elif activation.audience:
        source = {"audience": activation.audience, "revision": audience_revision(space, activation.audience)}
    else:
        source = {"model": activation.model, "revision": model_revision(space, activation.model or "")}
    return {
        "source": source,
        "trigger": _plain(activation.trigger),
        "identifier": activation.identifier,
        "personalization": _plain(activation.personalization),
        "shape": activation.shape,
        "event_name": activation.event_name,
        "sync_property_changes": activation.sync_property_changes,
        "mapping": activation.mapping,
        "destination": {"type": destination.type, "action": activation.action, "settings": activation.settings},
        "nodes": nodes,
        "traits": _trait_revisions(space, activation.personalization.traits),
    }


def _trait_revisions(space: Space, names: Iterable[str]) -> Slice:
    """Revisions of the named traits that are computed; those from identify calls have none."""
    return {name: trait_revision(space, name) for name in sorted(set(names)) if name in space.traits}


def _profiles(graph: DataGraph) -> Slice:
    own = {"external": True} if graph.external else {}
    return {"folder": graph.profile_folder.lower(), "type": graph.profile_type, **own}


def _node(node: Node) -> Slice:
    """What a node reads and how it joins. Names of tables and columns are compared without case."""
    return {
        "table": node.entity.table_ref.lower(),
        "primary_key": node.entity.primary_key.lower(),
        "join": {"kind": _JOINS[type(node.join)], **_join_columns(node.join)},
    }


def _join_columns(join: Join) -> Slice:
    kept = ("type", "name")  # identifier types and traits are values, not names of the catalogue
    return {name: value if name in kept else value.lower() for name, value in asdict(join).items()}


def _plain(model: Model, leave_out: set[str] | None = None) -> Slice:
    # Without nulls, an option that is added to the language later changes no revision.
    return model.model_dump(mode="json", by_alias=True, exclude=leave_out, exclude_none=True)


def _condition(condition: object) -> Slice:
    """A condition with its defaults written out, so that saying one explicitly changes nothing."""
    if isinstance(condition, EntityCondition):
        return {
            "entity": condition.relationship,
            "without": condition.without_entity is not None,
            "quantifier": list(condition.quantifier),
            "where": _lower_columns(_plain(condition.where)) if condition.where else None,
            "nested": {
                "match": condition.nested.match,
                "conditions": [_condition(child) for child in condition.nested.conditions],
            }
            if condition.nested
            else None,
        }
    if isinstance(condition, EventCondition):
        rest = _plain(condition, leave_out={"with_event", "without_event", "at_least", "exactly", "at_most"})
        return {
            "event": condition.event,
            "without": condition.without_event is not None,
            "quantifier": list(condition.quantifier),
            **rest,
        }
    if isinstance(condition, TraitCondition):
        comparison = _plain(condition, leave_out={"with_trait", "without_trait"})
        return {"trait": condition.trait, "without": condition.without_trait is not None, **comparison}
    assert isinstance(condition, AudienceCondition)
    return {"audience": condition.audience, "without": condition.not_part_of is not None}


def _lower_columns(filters: Slice) -> Slice:
    return {junction: [_lower_column(item) for item in items] for junction, items in filters.items()}


def _lower_column(item: Slice) -> Slice:
    reference = item.get("reference", {})
    lowered = {"reference": {**reference, "column": reference["column"].lower()}} if "column" in reference else {}
    return {**item, "column": item["column"].lower(), **lowered}


def _query(space: Space, text: str) -> str:
    """SQL without its layout and comments."""
    dialect = space.config.warehouse.type
    try:
        return sqlglot.parse_one(text, read=dialect).sql(dialect, comments=False)
    except SqlglotError:
        return " ".join(text.split())


# -- what changed --------------------------------------------------------------------------------------------------------

_REFERENCES = {"traits": "trait", "audiences": "audience"}


def explain_revision_change(old_slice: Mapping[str, Any], new_slice: Mapping[str, Any]) -> list[str]:
    """What differs between two slices of the same asset, one sentence each, in order. Empty when they are equal.

    Places are named, and columns and tables of joins; operands of conditions are not, for they may be personal.
    """
    if revision_of(old_slice) == revision_of(new_slice):
        return []
    changes: list[str] = []
    for part in sorted(set(old_slice) | set(new_slice)):
        old, new = old_slice.get(part), new_slice.get(part)
        if old == new:
            continue
        if part in _REFERENCES:
            changes += _changed_references(_REFERENCES[part], old or {}, new or {})
        elif part == "nodes":
            changes += _changed_nodes(old or {}, new or {})
        else:
            changes += _changed_values(part, old, new)
    return changes


def _changed_references(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(set(old) | set(new)):
        if key not in old:
            yield f"{kind} {key} is now read"
        elif key not in new:
            yield f"{kind} {key} is no longer read"
        elif old[key] != new[key]:
            yield f"{kind} {key} changed"


def _changed_nodes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for path in sorted(set(old) | set(new)):
        if path not in old:
            yield f"node {path} is now read"
        elif path not in new:
            yield f"node {path} is no longer read"
        else:
            for name, before, after in _differences("", old[path], new[path]):
                yield f"node {path}: {name.strip('.')} changed from {before} to {after}"


def _changed_values(part: str, old: Any, new: Any) -> Iterator[str]:
    for place, before, after in _differences(part, old, new):
        verb = "was added" if before is None else "was removed" if after is None else "changed"
        yield f"{place} {verb}"


def _differences(place: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The smallest places at which two plain values differ, list items counted from 1."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) | set(new)):
            yield from _differences(f"{place}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else None
            after = new[index] if index < len(new) else None
            yield from _differences(f"{place}[{index + 1}]", before, after)
    elif old != new:
        yield place, old, new
