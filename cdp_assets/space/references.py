"""References between the files of a space: audiences to the graph and to each other, activations to everything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from cdp_assets.data_graph.model import MAX_DEPTH, DataGraph, ExternalIdJoin
from cdp_assets.space.conditions import (
    EntityReference,
    audience_references,
    compared_traits,
    entity_references,
    trait_conditions,
)
from cdp_assets.space.documents import Document, Place
from cdp_assets.space.located import did_you_mean
from cdp_assets.space.models.activations import Activation, ColumnSubject, SqlModel
from cdp_assets.space.models.audiences import LISTS, ORDERS, TEXTS, UNARY, Audience, Operator, TraitCondition, kind_of
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.space import Problem
from cdp_assets.space.transformations import Transformation

MAX_COLUMNS = 500


def check_references(
    documents: Mapping[tuple[str, str], Document],
    keys: Mapping[str, Sequence[str]],
    *,
    config: SpaceConfig,
    graph: DataGraph | None,
    traits: Mapping[str, Trait],
    audiences: Mapping[str, Audience],
    activations: Mapping[str, Activation],
    models: Mapping[str, SqlModel],
    transformations: Mapping[str, Transformation],
    selected: Mapping[str, frozenset[str]],
) -> list[Problem]:
    """Every reference that leads nowhere.

    ``documents`` are by folder and key, ``keys`` all files by folder, also those that did not validate. References into a
    graph that is itself broken (None) are left out. ``selected``: a model's columns, where its query names them.
    """
    problems: list[Problem] = []
    for key, audience in audiences.items():
        document = documents["audiences", key]
        problems += _audience_graph(document, audience, graph)
        problems += _compared(document, audience, traits)
        problems += _target(document, audience)
        problems += _audience_audiences(document, key, audience, keys["audiences"])
    problems += _cycles(documents, audiences)
    if graph is not None and config.profiles == "built":
        problems += _identifier_types(graph, config)
    if graph is not None:
        problems += _histories(documents["", "space"], graph, config)
    for key, model in models.items():
        problems += _model(documents["models", key], model, (*keys["traits"], *keys["audiences"], *config.pulled_sources))
    for key, activation in activations.items():
        document = documents["activations", key]
        problems += _source(document, activation, keys)
        problems += _destination(document, activation, config)
        problems += _consent(document, activation, config, selected)
        if graph is not None:
            problems += _paths(document, activation, graph, audiences.get(activation.audience or ""))
        problems += _of_entities(document, activation, audiences.get(activation.audience or ""))
        problems += _too_wide(document, activation, audiences.get(activation.audience or ""))
    for key, transformation in transformations.items():
        problems += _scope(documents["transformations", key], transformation, config)
    problems += _claimed_twice(documents, transformations)
    return problems


# -- audiences -----------------------------------------------------------------------------------------------------------


def _audience_graph(document: Document, audience: Audience, graph: DataGraph | None) -> Iterator[Problem]:
    missing: list[str] = []
    paths = {node.path for node in graph.nodes()} if graph is not None else set()
    for reference in entity_references(audience):
        key = "with_entity" if reference.condition.with_entity else "without_entity"
        line = document.line(*reference.place, key)
        if reference.depth == MAX_DEPTH + 1:
            yield Problem(
                document.file,
                line,
                f"this condition is nested {reference.depth} deep, counting the profile; at most {MAX_DEPTH} are allowed",
                "start a condition of its own",
            )
        if graph is None or any(reference.path.startswith(f"{path}:") for path in missing):
            continue
        gone = _taken_away(graph, reference.path)
        if gone is not None:
            missing.append(reference.path)
            yield Problem(document.file, line, f"{gone}: this audience fails at its next run", _ADAPT, "warning")
        elif reference.path not in paths:
            missing.append(reference.path)
            yield Problem(document.file, line, *_missing_relationship(reference, graph))


_ADAPT = "adapt it to the data graph, and take the confirmation out of space.yaml"


def _taken_away(graph: DataGraph, path: str) -> str | None:
    """Why consumers of a path cannot use it although that is known; else None."""
    return next((gone.reason for gone in graph.missing if path == gone.path or path.startswith(f"{gone.path}:")), None)


def _compared(document: Document, audience: Audience, traits: Mapping[str, Trait]) -> Iterator[Problem]:
    """What filters compare with: columns up the same branch, and traits that are one value."""
    for reference in entity_references(audience):
        slugs = reference.path.split(":")
        for place, wanted in reference.filters:
            of = wanted.reference.of if wanted.reference is not None else None
            if of is not None and of not in slugs:
                yield Problem(
                    document.file,
                    document.line(*place, "reference", "of"),
                    f"'{of}' is not on the branch {reference.path}",
                    did_you_mean(of, slugs, f"compare with a column of one of {', '.join(slugs)}, or with a trait"),
                )
    for place, name in compared_traits(audience):
        if name in traits and traits[name].value_type in ("list", "boolean"):
            yield Problem(
                document.file,
                document.line(*place),
                f"trait '{name}' is a {traits[name].value_type}, with which nothing is compared",
                "name a trait that is a number, a text or a timestamp",
            )
    for place, condition in trait_conditions(audience):
        trait = traits.get(condition.trait)
        if trait is not None and not _takes(trait.value_type, condition):
            yield Problem(
                document.file,
                document.line(*place, "operator"),
                f"operator {condition.operator} with this value does not fit trait '{trait.key}', which is a {trait.value_type}",
                f"a {trait.value_type} takes {_TAKEN[trait.value_type]}",
            )


# What a computed trait of each type can be asked, for remedies. Traits from identify calls have no type.
_TAKEN = {
    "number": "equals, differs, one_of, none_of, less_than, at_most, greater_than, at_least with numbers, exists and absent",
    "list": "contains and omits with texts, exists and absent",
    "boolean": "equals and differs with true or false, exists and absent",
    "timestamp": "the operators of dates, exists and absent",
    "string": "any operator",
}


def _takes(kind: str, condition: TraitCondition) -> bool:
    wanted, value = condition.operator, condition.value
    if wanted in UNARY or kind == "string":
        return True
    kinds = {kind_of(one) for one in (value if isinstance(value, tuple) else (value,))}
    if kind == "number":
        return wanted in {Operator.equals, Operator.differs} | ORDERS | LISTS and kinds == {"number"}
    if kind == "boolean":
        return wanted in {Operator.equals, Operator.differs} and kinds == {"boolean"}
    if kind == "list":
        return wanted in {Operator.contains, Operator.omits} and kinds == {"text"}
    return wanted not in TEXTS and not kinds & {"number", "boolean"}


def _target(document: Document, audience: Audience) -> Iterator[Problem]:
    """An audience of entities has those that its conditions match."""
    path = audience.target_entity
    matched = sorted({reference.path for reference in entity_references(audience) if reference.yields})
    if path is not None and path not in matched:
        yield Problem(
            document.file,
            document.line("target_entity"),
            f"the conditions match no entities at '{path}'",
            did_you_mean(
                path, matched, "name the path of a with_entity condition" + (f": {', '.join(matched)}" if matched else "")
            ),
        )


def _missing_relationship(reference: EntityReference, graph: DataGraph) -> tuple[str, str]:
    slug, parent = reference.condition.relationship, reference.parent
    below = f"below relationship '{parent.split(':')[-1]}'" if parent else "directly below the profile"
    elsewhere = [node.path for node in graph.nodes() if node.relationship.slug == slug]
    if elsewhere:
        return f"relationship '{slug}' is not {below}; it is at {elsewhere[0]}", "nest the condition along that path"
    children = [node.relationship.slug for node in graph.nodes() if node.parent == parent]
    return f"there is no relationship '{slug}' {below}", did_you_mean(slug, children)


def _audience_audiences(document: Document, key: str, audience: Audience, known: Sequence[str]) -> Iterator[Problem]:
    for place, other in audience_references(audience):
        line = document.line(*place)
        if other == key:
            yield Problem(document.file, line, f"audience '{key}' refers to itself", "name another audience")
        elif other not in known:
            yield Problem(document.file, line, f"there is no audience '{other}'", did_you_mean(other, known))


def _cycles(documents: Mapping[tuple[str, str], Document], audiences: Mapping[str, Audience]) -> Iterator[Problem]:
    """One problem for each circle of audiences, at the reference of its alphabetically first."""
    edges = {
        key: {
            other: place for place, other in reversed(list(audience_references(audience))) if other in audiences and other != key
        }
        for key, audience in audiences.items()
    }
    for start in sorted(edges):
        circle = _circle(start, edges)
        if circle:
            document = documents["audiences", start]
            yield Problem(
                document.file,
                document.line(*edges[start][circle[1]]),
                f"audiences refer to each other in a circle: {' -> '.join(circle)}",
                "remove one of these references",
            )


def _circle(start: str, edges: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The shortest way from ``start`` back to it through later keys only, so that each circle is found from its first key."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop(0)
        for other in sorted(edges[way[-1]]):
            if other == start:
                return [*way, start]
            if other > start and other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return []


def _model(document: Document, model: SqlModel, known: Sequence[str]) -> Iterator[Problem]:
    for index, other in enumerate(model.depends_on):
        if other not in known:
            line = document.line("depends_on", index)
            yield Problem(
                document.file, line, f"there is no trait, audience or pulled source '{other}'", did_you_mean(other, known)
            )


# -- the data graph ------------------------------------------------------------------------------------------------------


def _identifier_types(graph: DataGraph, config: SpaceConfig) -> Iterator[Problem]:
    """A misspelt type joins nobody, and nothing else would say so. Messages may bring any type, so it is no error."""
    settings = config.identity
    known = {"user_id", "email", *settings.device_types, *settings.custom, *(rule.type for rule in settings.identifiers)}
    for node in graph.nodes():
        if isinstance(node.join, ExternalIdJoin) and node.join.type not in known:
            yield Problem(
                "data_graph.hcl",
                node.relationship.line,
                f"relationship '{node.relationship.slug}' joins by identifier type '{node.join.type}', which identity settings do not name",
                did_you_mean(node.join.type, known, "name it in identity.identifiers or identity.custom in space.yaml"),
                "warning",
            )


def _histories(document: Document, graph: DataGraph, config: SpaceConfig) -> Iterator[Problem]:
    known = {entity.slug for entity in graph.entities}
    for slug in config.entities:
        if slug not in known:
            line = document.line("entities", slug)
            yield Problem(document.file, line, f"the data graph has no entity '{slug}'", did_you_mean(slug, known))


# -- activations -----------------------------------------------------------------------------------------------------------


def _source(document: Document, activation: Activation, keys: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    if activation.events:
        # An event is sent as it comes; computed traits are of the last build of audiences.
        for index, trait in enumerate(activation.personalization.traits):
            if trait in keys["traits"]:
                line = document.line("personalization", "traits", index)
                said = f"'{trait}' is a computed trait, and events are personalised with traits of identify calls"
                yield Problem(document.file, line, said, "leave it out, or send an audience with the trait")
        return
    kind, key = ("audience", activation.audience) if activation.audience else ("model", activation.model)
    known = keys[f"{kind}s"]
    if key not in known:
        yield Problem(document.file, document.line(kind), f"there is no {kind} '{key}'", did_you_mean(str(key), known))


def _destination(document: Document, activation: Activation, config: SpaceConfig) -> Iterator[Problem]:
    if activation.destination not in config.destinations:
        yield Problem(
            document.file,
            document.line("destination"),
            f"space.yaml has no destination '{activation.destination}'",
            did_you_mean(activation.destination, config.destinations, "add it to destinations in space.yaml"),
        )


def _consent(
    document: Document, activation: Activation, config: SpaceConfig, selected: Mapping[str, frozenset[str]]
) -> Iterator[Problem]:
    for index, category in enumerate(activation.consent.categories):
        if category not in config.category_ids:
            yield Problem(
                document.file,
                document.line("consent", "categories", index),
                f"space.yaml has no consent category '{category}'",
                did_you_mean(category, config.category_ids, "add it to consent_categories in space.yaml"),
            )
    subject = activation.consent.subject
    columns = selected.get(activation.model or "")
    if isinstance(subject, ColumnSubject) and columns is not None and subject.column.lower() not in columns:
        yield Problem(
            document.file,
            document.line("consent", "subject", "column"),
            f"model '{activation.model}' has no column {subject.column}",
            did_you_mean(subject.column.lower(), columns),
        )


def _paths(document: Document, activation: Activation, graph: DataGraph, audience: Audience | None) -> Iterator[Problem]:
    known = [node.path for node in graph.nodes()]
    wanted: list[tuple[Place, str]] = []
    if activation.trigger.path is not None:
        wanted.append((("trigger", "path"), activation.trigger.path))
    for index, item in enumerate(activation.personalization.entities):
        wanted.append((("personalization", "entities", index, "path"), item.path))
    for place, path in wanted:
        line = document.line(*place)
        gone = _taken_away(graph, path)
        if gone is not None:
            yield Problem(document.file, line, f"{gone}: this activation fails at its next run", _ADAPT, "warning")
        elif path not in known:
            yield Problem(document.file, line, f"the data graph has no path '{path}'", did_you_mean(path, known))
        elif audience is not None:
            yield from _used(document, line, path, audience, triggers=place[0] == "trigger")


def _of_entities(document: Document, activation: Activation, audience: Audience | None) -> Iterator[Problem]:
    """Who is sent of an audience of entities: these entities."""
    if audience is None or audience.target_entity is None:
        return
    if activation.trigger.unit != "entity" or activation.trigger.path != audience.target_entity:
        yield Problem(
            document.file,
            document.line("trigger"),
            f"audience '{audience.key}' is one of entities, and the trigger is not on them",
            f"write unit: entity and path: {audience.target_entity}",
        )


def _too_wide(document: Document, activation: Activation, audience: Audience | None) -> Iterator[Problem]:
    """Segment's limit on the columns of a linked audience: those of its conditions, and those that its messages carry."""
    if audience is None:
        return
    columns = {
        (reference.path, wanted.column.lower()) for reference in entity_references(audience) for _, wanted in reference.filters
    }
    columns |= {(item.path, column.lower()) for item in activation.personalization.entities for column in item.columns}
    width = len(columns) + len(activation.personalization.traits)
    if width > MAX_COLUMNS:
        yield Problem(
            document.file,
            document.line("personalization"),
            f"audience '{audience.key}' and this activation read {width} columns and traits; at most {MAX_COLUMNS} are allowed",
            "personalize with fewer, or send them through two activations",
        )


def _used(document: Document, line: int, path: str, audience: Audience, *, triggers: bool) -> Iterator[Problem]:
    """A path that the conditions never speak about has no matched entities."""
    references = [reference for reference in entity_references(audience) if reference.path == path]
    if not references and triggers:
        yield Problem(
            document.file,
            line,
            f"the conditions of audience '{audience.key}' do not speak about '{path}', so nothing enters or exits there",
            "trigger on a path of the conditions, or add a condition on it",
        )
    elif not any(reference.yields for reference in references):
        yield Problem(
            document.file,
            line,
            f"audience '{audience.key}' matches no entities at '{path}': its conditions name it not at all, or only to be absent",
            "add a with_entity condition on it",
            "warning",
        )


# -- transformations -----------------------------------------------------------------------------------------------------


def _scope(document: Document, transformation: Transformation, config: SpaceConfig) -> Iterator[Problem]:
    for index, source in enumerate(transformation.sources):
        if source not in config.sources:
            line = document.line("sources", index)
            yield Problem(document.file, line, f"there is no source '{source}'", did_you_mean(source, config.sources))
    destination = transformation.destination
    if destination is not None and destination not in config.destinations:
        remedy = did_you_mean(destination, config.destinations)
        yield Problem(document.file, document.line("destination"), f"there is no destination '{destination}'", remedy)


def _claimed_twice(
    documents: Mapping[tuple[str, str], Document], transformations: Mapping[str, Transformation]
) -> Iterator[Problem]:
    """Segment takes one transformation per source, type, event and destination; which types and events is read off ``if``."""
    enabled = {key: transformation for key, transformation in transformations.items() if transformation.enabled}
    for (other, earlier), (key, later) in itertools.combinations(enabled.items(), 2):
        shared = not earlier.sources or not later.sources or bool({*earlier.sources} & {*later.sources})
        if shared and earlier.destination == later.destination and earlier.claims & later.claims:
            document = documents["transformations", key]
            message = f"transformation '{other}' already has these events of this source for this destination"
            yield Problem(document.file, document.line("if"), message, "put both into one, or narrow 'if'")
