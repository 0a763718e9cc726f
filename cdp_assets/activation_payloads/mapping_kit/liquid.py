"""The ``@liquid`` directive on python-liquid, fenced in as the original does: no loops, no includes, no list filters.

The clock is fenced off as well (``'now' | date``): the same payload gives the same text at any time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from liquid import BoundTemplate, Environment, Node, TokenStream
from liquid.builtin.filters.misc import date as liquid_date
from liquid.exceptions import LiquidError, LiquidSyntaxError
from liquid.tag import Tag

from cdp_assets.activation_payloads.mapping_kit.validate import MAX_LIQUID_LENGTH
from cdp_assets.activation_payloads.mapping_kit.values import MappingError

DISABLED_TAGS = ("case", "for", "include", "layout", "render", "tablerow")
DISABLED_FILTERS = (
    "array_to_sentence_string",
    "concat",
    "find",
    "find_exp",
    "find_index",
    "find_index_exp",
    "group_by",
    "group_by_exp",
    "has",
    "has_exp",
    "map",
    "newline_to_br",
    "reject",
    "reject_exp",
    "reverse",
    "sort",
    "sort_natural",
    "uniq",
    "where_exp",
    "type",
)


class _DisabledError(LiquidSyntaxError):
    """The template uses a tag or filter that mappings may not use."""


def _disabled_tag(tag_name: str) -> type[Tag]:
    class Disabled(Tag):
        name = tag_name
        block = False

        def parse(self, stream: TokenStream) -> Node:
            raise _DisabledError(f'tag "{tag_name}" is disabled', token=stream.current)

    return Disabled


def _disabled_filter(filter_name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise _DisabledError(f'filter "{filter_name}" is disabled', token=None)

    return refuse


def _date(value: Any, form: Any = None, *, environment: Environment) -> Any:
    """The ``date`` filter without the clock."""
    if value in ("now", "today"):
        raise _DisabledError("the current time is disabled", token=None)
    return liquid_date(value, form, environment=environment)


_date.with_environment = True  # type: ignore[attr-defined]


@functools.cache
def _environment() -> Environment:
    environment = Environment(strict_filters=False)
    for name in DISABLED_TAGS:
        environment.add_tag(_disabled_tag(name))
    for name in DISABLED_FILTERS:
        environment.add_filter(name, _disabled_filter(name))
    environment.add_filter("date", _date)
    return environment


@functools.lru_cache(maxsize=256)
def _parse(template: str) -> BoundTemplate:
    if len(template) > MAX_LIQUID_LENGTH:
        raise MappingError(f"liquid template values are limited to {MAX_LIQUID_LENGTH} characters")
    try:
        return _environment().from_string(template)
    except LiquidError as error:
        raise _mapping_error(error, template, "cannot be parsed") from None


def render(template: str, payload: Any) -> str:
    """The template filled in from ``payload``, always a text. Raises MappingError, which never quotes a value."""
    parsed = _parse(template)
    try:
        return parsed.render(**_plain(payload) if isinstance(payload, dict) else {})
    except LiquidError as error:
        raise _mapping_error(error, template, "cannot be rendered") from None


def variables(template: str) -> list[str]:
    """Paths of the payload that a template reads, in order of their names. Raises MappingError when it cannot be parsed."""
    return sorted(str(path) for path in _parse(template).global_variable_paths())


def _plain(value: Any) -> Any:
    """Whole floats as integers: JavaScript, and so the original, prints no ``.0``."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mapping_error(error: LiquidError, template: str, failure: str) -> MappingError:
    # Messages of the engine may quote values; only our own texts go out, with the place of the statement.
    cause = str(error.message) if isinstance(error, _DisabledError) else f"liquid template {failure} ({type(error).__name__})"
    index = error.token.start_index if error.token else 0
    start = max(template.rfind("{{", 0, index + 2), template.rfind("{%", 0, index + 2), 0)
    line = template.count("\n", 0, start) + 1
    column = start - (template.rfind("\n", 0, start) + 1) + 1
    return MappingError(f"{cause}, line:{line}, col:{column}")
