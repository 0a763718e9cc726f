"""The traits of a space as a whole: one per column of a SQL query, and what a single file cannot know to be wrong."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, MutableMapping

import ibis

from cdp_assets.space.conditions import trait_references
from cdp_assets.space.documents import Document, Place
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.models.audiences import Audience, EventFilters
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.operators import ConditionError, compare, event_value
from cdp_assets.space.space import Problem
from cdp_assets.space.trait_rules import TraitKind

MAX_SQL_TRAITS = 25

# What filters read of a message. Any instant will do: only the types are looked at.
_MESSAGES = ibis.table({"properties": "string", "context": "string", "name": "string"}, name="messages")
_ANY_INSTANT = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def check_traits(
    written: Mapping[str, Trait],
    documents: Mapping[tuple[str, str], Document],
    keys: MutableMapping[str, list[str]],
    audiences: Mapping[str, Audience],
    activations: Mapping[str, Activation],
) -> tuple[Mapping[str, Trait], list[Problem]]:
    """The traits by key, and all problems. ``written`` and ``documents`` are by file; ``keys`` learns the keys of columns."""
    traits: dict[str, Trait] = {}
    problems: list[Problem] = []
    for file, trait in written.items():
        document = documents["traits", file]
        problems += _filters(document, trait)
        if trait.columns is not None:
            keys["traits"].remove(file)
        for column, expanded in _expanded(file, trait).items():
            if column in traits or (column != file and column in written and written[column].columns is None):
                message = f"there is another trait '{column}'"
                problems.append(
                    Problem(document.file, document.line("columns", column), message, "name the column otherwise, with AS")
                )
            traits[column] = expanded
            if column not in keys["traits"]:
                keys["traits"].append(column)
    problems += _too_many(written, documents)
    problems += _of_accounts(traits, documents, audiences, activations)
    return dict(sorted(traits.items())), problems


def _expanded(file: str, trait: Trait) -> dict[str, Trait]:
    """A trait for each column of its query that is one, or the trait itself."""
    if trait.columns is None:
        return {file: trait}
    return {
        column: trait.model_copy(update={"key": column, "name": f"{trait.name}: {column}", "type": kind, "columns": None})
        for column, kind in trait.columns.items()
    }


def _filters(document: Document, trait: Trait) -> Iterator[Problem]:
    """Filters that no message could be held against."""
    for place, filters in _lists(trait.where):
        for index, wanted in enumerate(filters):
            try:
                compare(event_value(_MESSAGES, wanted), wanted, _ANY_INSTANT)
            except ConditionError as error:
                line = document.line("where", place, index)
                yield Problem(document.file, line, str(error), "correct the operator or its value")


def _lists(where: EventFilters | None) -> Iterator[tuple[str, tuple]]:
    if where is not None:
        yield from ((name, filters) for name, filters in (("all", where.all), ("any", where.any)) if filters is not None)


def _too_many(written: Mapping[str, Trait], documents: Mapping[tuple[str, str], Document]) -> Iterator[Problem]:
    queries = [file for file, trait in written.items() if trait.kind is TraitKind.sql]
    for number, file in enumerate(queries, start=1):
        if number > MAX_SQL_TRAITS:
            document = documents["traits", file]
            message = f"this is SQL trait number {number}; a space has at most {MAX_SQL_TRAITS}"
            yield Problem(document.file, document.line("kind"), message, "put several columns into one query, under 'columns'")


def _of_accounts(
    traits: Mapping[str, Trait],
    documents: Mapping[tuple[str, str], Document],
    audiences: Mapping[str, Audience],
    activations: Mapping[str, Activation],
) -> Iterator[Problem]:
    """Traits that profiles do not have, where a profile's trait is asked for."""
    asked: list[tuple[Document, Place, str]] = []
    for key, audience in audiences.items():
        asked += [(documents["audiences", key], place, name) for place, name in trait_references(audience)]
    for key, activation in activations.items():
        named = enumerate(activation.personalization.traits)
        asked += [(documents["activations", key], ("personalization", "traits", index), name) for index, name in named]
    for document, place, name in asked:
        if name in traits and not traits[name].of_profiles:
            message = f"trait '{name}' is of accounts, and profiles do not have it"
            yield Problem(document.file, document.line(*place), message, "write members: true in the trait")
