"""What a model refuses, as problems that name line, cause and remedy."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cdp_assets.space.base import Model
from cdp_assets.space.documents import Document, Place
from cdp_assets.space.models.audiences import CONDITION_KEYS, UNION_TAGS
from cdp_assets.space.query import QueryError
from cdp_assets.space.space import Problem

M = TypeVar("M", bound=Model)


def validate(document: Document, model: type[M], extra: Mapping[str, Any] | None = None) -> tuple[M | None, list[Problem]]:
    """The document as ``model``, or every reason why it is none. ``extra``: values that the file does not hold itself."""
    try:
        return model.model_validate({**document.data, **(extra or {})}), []
    except ValidationError as error:
        return None, _problems(error, document, model)


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A remedy for a misspelt word."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1, 0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return otherwise or (f"known: {', '.join(names)}" if names else "remove it")


def _problems(error: ValidationError, document: Document, model: type[Model]) -> list[Problem]:
    found: dict[tuple[Place, str], Problem] = {}
    unions: dict[Place, int] = {}
    details = error.errors(include_url=False)
    for detail in details:
        path, rest = _place(document.data, detail["loc"])
        if rest and detail["type"] not in ("missing", "extra_forbidden"):
            unions[path] = unions.get(path, 0) + 1
    for detail in details:
        path, _ = _place(document.data, detail["loc"])
        if unions.get(path, 0) > 1:  # each form that a value may take refuses it; say it once
            message, remedy = (
                f"{_called(path)} has none of the forms that it may take",
                "write one value, or a plain list of values",
            )
            found.setdefault((path, "union"), Problem(document.file, document.line(*path), message, remedy))
        elif isinstance(unread := detail.get("ctx", {}).get("error"), QueryError):
            line = document.text_line("query") + (unread.line or 1) - 1
            where = f" (line {unread.line}, column {unread.column} of the query)" if unread.line else ""
            problem = Problem(document.file, line, f"'query': {unread.cause}{where}", unread.remedy)
            found[(path, problem.message)] = problem
        elif not _follows_from_another(detail, path, document):
            message, remedy = _explained(detail, path, document, model)
            if detail["type"] == "misplaced" and detail["ctx"]["field"] in _value(document.data, path):
                path = (*path, detail["ctx"]["field"])
            found[(path, message)] = Problem(document.file, document.line(*path), message, remedy)
    return list(found.values())


def _place(data: Any, location: Iterable[str | int]) -> tuple[Place, Place]:
    """The part of a pydantic location that is in the file, and the part that is not: names of union members, missing keys."""
    path: list[str | int] = []
    rest: list[str | int] = []
    for part in location:
        if isinstance(data, dict) and part in data:
            path.append(part)
            data = data[part]  # type: ignore[index]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
        elif part not in UNION_TAGS:
            rest.append(part)
    return tuple(path), tuple(rest)


def _value(data: Any, path: Place) -> Any:
    for part in path:
        data = data[part]
    return data


def _follows_from_another(detail: ErrorDetails, path: Place, document: Document) -> bool:
    # A list whose items are refused is also called too short.
    value = _value(document.data, path)
    return detail["type"] == "too_short" and isinstance(value, list) and len(value) >= detail["ctx"]["min_length"]


def _called(path: Place) -> str:
    """A value by its key, or by its place in a list."""
    if not path:
        return "the file"
    if isinstance(path[-1], int):
        return f"item {path[-1] + 1} of {_called(path[:-1])}"
    return f"'{path[-1]}'"


def _explained(detail: ErrorDetails, path: Place, document: Document, model: type[Model]) -> tuple[str, str]:
    kind, location, called = detail["type"], detail["loc"], _called(path)
    value = _value(document.data, path)
    context = detail.get("ctx", {})
    if kind == "missing":
        name = str(location[-1])
        description = _description(_models_at(model, location[:-1]), name)
        owner = f" in {called}" if path else ""
        return f"'{name}' is missing{owner}", f"add it: {description}" if description else "add it"
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), _models_at(model, location[:-1]), _value(document.data, path[:-1]))
    if kind == "union_tag_not_found":
        return _no_condition(value, called)
    if kind in ("literal_error", "enum"):
        expected = str(context.get("expected", ""))
        words = [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")]
        return f"{called} has an unknown value", did_you_mean(str(value), words, f"write one of {expected}")
    if kind == "misplaced":
        return context["cause"], context["remedy"]
    if kind == "value_error":
        return _split(detail["msg"].removeprefix("Value error, "), called)
    if kind == "string_type":
        return f"{called} must be text", "put it in quotes" if not isinstance(value, dict | list) else "write one text"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{called} must be a mapping", "write 'key: value' lines below it"
    if kind == "tuple_type":
        return f"{called} must be a list", "write '- item' lines below it, or [a, b]"
    if kind == "string_pattern_mismatch":
        return f"{called} has characters that it must not have", f"it must match {context.get('pattern')}"
    if kind == "too_short":
        return f"{called} is empty", "write at least one item"
    message = detail["msg"].replace("Input should be", "must be").replace("String should", "must")
    remedy = "write YYYY-MM-DD" if kind.startswith("date_") else "correct the value"
    return f"{called} {message[0].lower()}{message[1:]}", remedy


def _unknown_key(key: str, owners: list[type[BaseModel]], neighbours: Any) -> tuple[str, str]:
    if key in CONDITION_KEYS and isinstance(neighbours, dict):
        other = next((name for name in CONDITION_KEYS if name in neighbours and name != key), None)
        if other:
            return f"'{key}' does not go together with '{other}'", "write two conditions"
        if any(set(owner.model_fields) & set(CONDITION_KEYS) for owner in owners):
            return f"'{key}' cannot be nested in an entity condition", "write it as a condition of its own in the group"
    names = {field.alias or name for owner in owners for name, field in owner.model_fields.items()}
    return f"unknown key '{key}'", did_you_mean(key, names)


def _no_condition(value: Any, called: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        return f"{called} is not a condition", "write '- with_entity: slug', '- with_trait: name', …"
    for key in value:
        close = difflib.get_close_matches(key, CONDITION_KEYS, 1, 0.7)
        if close:
            return f"unknown key '{key}'", f"did you mean '{close[0]}'?"
    return f"{called} does not say what kind of condition it is", f"give one of {', '.join(CONDITION_KEYS)}"


def _split(text: str, called: str) -> tuple[str, str]:
    """A model's own message as cause and remedy."""
    cause, _, remedy = text.partition("; ")
    if remedy:
        return f"{called}: {cause}", remedy
    if cause.startswith(("give ", "name ")):
        return f"{called} is incomplete or contradicts itself", cause
    return f"{called}: {cause}", "change one of the keys that it names"


# -- which model a location is in ------------------------------------------------------------------------------------


def _description(owners: list[type[BaseModel]], name: str) -> str:
    for owner in owners:
        for key, field in owner.model_fields.items():
            if name in (key, field.alias) and field.description:
                return field.description
    return ""


def _models_at(model: type[BaseModel], location: Iterable[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a pydantic location."""
    candidates: list[Any] = [model]
    for part in location:
        if part in UNION_TAGS:
            candidates = [UNION_TAGS[str(part)]]
        else:
            candidates = [leaf for candidate in candidates for leaf in _step(candidate, part)]
    return [leaf for leaf in candidates if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _step(candidate: Any, part: str | int) -> list[Any]:
    if isinstance(candidate, type) and issubclass(candidate, BaseModel):
        for name, field in candidate.model_fields.items():
            if part in (name, field.alias):
                return _leaves(field.annotation)
        return [candidate] if part == candidate.__name__ else []
    arguments = [argument for argument in typing.get_args(candidate) if argument is not Ellipsis]
    if typing.get_origin(candidate) is tuple and isinstance(part, int):
        return _leaves(arguments[0])
    if typing.get_origin(candidate) is dict:
        return _leaves(arguments[1])
    return [candidate]


def _leaves(annotation: Any) -> list[Any]:
    """An annotation without Annotated, and each member of a union."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _leaves(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [leaf for member in typing.get_args(annotation) for leaf in _leaves(member)]
    return [annotation]
