"""The mapping language of action destinations (mapping-kit): JSON in which objects with an @-key are directives.

``transform(mapping, payload)`` is the whole of it; deviations from the original are in ``docs/deviations.md``. What belongs
here: the language. What does not: which payloads there are, and what a destination accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from cdp_assets.activation_payloads.mapping_kit.directives import resolve
from cdp_assets.activation_payloads.mapping_kit.validate import is_directive, validate_mapping
from cdp_assets.activation_payloads.mapping_kit.value_keys import reads, value_keys
from cdp_assets.activation_payloads.mapping_kit.values import (
    UNDEFINED,
    MappingError,
    json_text,
    spread,
    type_name,
    without_undefined,
)

__all__ = (
    "UNDEFINED",
    "MappingError",
    "json_text",
    "map_line",
    "prepare",
    "reads",
    "transform",
    "validate_mapping",
    "value_keys",
)

ROOT_DIRECTIVE = "__segment_internal_directive"


def prepare(mapping: Any) -> Callable[[Any], Any]:
    """A checked mapping as a function of the payload, for many payloads. Raises MappingError with every message."""
    rooted = _with_root_directive(spread(mapping))
    errors = validate_mapping(rooted)
    if errors:
        raise MappingError(*errors)

    def apply(payload: Any) -> Any:
        return without_undefined(resolve(rooted, payload))

    return apply


def transform(mapping: Any, payload: Any = UNDEFINED) -> Any:
    """``payload`` (an object; default empty) through ``mapping``. UNDEFINED when a root directive finds nothing.

    Raises MappingError for an invalid mapping, a payload that is no object, or a directive that cannot be applied.
    """
    data = {} if payload is UNDEFINED else payload
    if not isinstance(data, dict):
        raise MappingError(f"data must be an object, got {type_name(data)}")
    return prepare(mapping)(data)


def _with_root_directive(mapping: dict[str, Any]) -> dict[str, Any]:
    """A directive under the reserved root key takes all other keys as its own ``mapping`` and becomes the whole."""
    if ROOT_DIRECTIVE not in mapping:
        return mapping
    root = mapping[ROOT_DIRECTIVE]
    if not isinstance(root, dict) or len(root) != 1 or not is_directive(root):
        raise MappingError(f"/{ROOT_DIRECTIVE} should be an object with exactly one directive.")
    ((name, argument),) = root.items()
    rest = {key: value for key, value in mapping.items() if key != ROOT_DIRECTIVE}
    return {name: {**argument, "mapping": rest} if isinstance(argument, dict) else argument}


def map_line(line: str) -> str:
    """One line of ``cdp map``: ``{"mapping": …, "payload": …}`` to ``{"output": …}`` or ``{"error": …}``.

    A value that resolves to nothing is null. ``{"$undefined": true}`` in the input stands for JavaScript's undefined.
    """
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return json_text({"error": "the line is not JSON"})
    if not isinstance(document, dict) or "mapping" not in document:
        return json_text({"error": 'the line is not an object with a "mapping"'})
    call = _decoded(document)
    try:
        output = transform(call["mapping"], call.get("payload", UNDEFINED))
    except MappingError as error:
        return json_text({"error": str(error)})
    return json_text({"output": None if output is UNDEFINED else output})


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if value == {"$undefined": True}:
            return UNDEFINED
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
