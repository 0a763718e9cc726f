"""Checks a mapping before it runs. Messages are the original's: ``/path/of/keys should be …``.

Contents of arrays and of raw values inside directives are not looked at, as in the original.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cdp_assets.activation_payloads.mapping_kit.values import MappingError, type_name

MAX_PATTERN_LENGTH = 10
MAX_REPLACEMENT_LENGTH = 10
MAX_LIQUID_LENGTH = 1000

Stack = tuple[str, ...]
Check = Callable[[Any, Stack], None]


def validate_mapping(mapping: Any) -> list[str]:
    """Every message about what is wrong with ``mapping``, in order; empty when it is valid."""
    try:
        _any(mapping, ())
    except MappingError as error:
        return error.errors
    return []


def is_directive(value: Any) -> bool:
    """Whether a value is an object with an @-key and no other key but ``_metadata``."""
    if not isinstance(value, dict):
        return False
    return any(key.startswith("@") for key in value) and all(key.startswith("@") or key == "_metadata" for key in value)


def _kind(value: Any) -> str:
    name = type_name(value)
    return "directive" if name == "object" and any(key.startswith("@") for key in value) else name


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _error(stack: Stack, message: str) -> MappingError:
    return MappingError(f"/{'/'.join(stack)} {message}.")


def _collect(checks: Sequence[Callable[[], None]]) -> None:
    errors: list[str] = []
    for check in checks:
        try:
            check()
        except MappingError as error:
            errors += error.errors
    if errors:
        raise MappingError(*errors)


# -- kinds of values -------------------------------------------------------------------------------------------------


def _any(value: Any, stack: Stack) -> None:
    kind = _kind(value)
    if kind == "directive":
        _directive(value, stack)
    elif kind == "object":
        _object(value, stack)


def _directive(value: dict[str, Any], stack: Stack) -> None:
    names = [key for key in value if key.startswith("@")]
    if len(names) > 1:
        raise _error(stack, f"should only have one @-prefixed key but it has {len(names)} keys")
    if not is_directive(value):
        raise _error(stack, f"should only have one @-prefixed key but it has {len(value)} keys")
    check = _DIRECTIVES.get(names[0])
    if check is None:
        raise _error(stack, f"has an invalid directive: {names[0]}")
    check(value[names[0]], (*stack, names[0]))


def _object(value: Any, stack: Stack) -> None:
    kind = _kind(value)
    if kind != "object":
        raise _error(stack, f"should be an object but it is {_article(kind)}")
    _collect([functools.partial(_any, value[key], (*stack, key)) for key in value])


def _directive_or_raw(value: Any, stack: Stack) -> None:
    if _kind(value) == "directive":
        _directive(value, stack)


def _directive_or(kind: str) -> Check:
    def check(value: Any, stack: Stack) -> None:
        found = _kind(value)
        if found == "directive":
            _directive(value, stack)
        elif found != kind:
            raise _error(stack, f"should be a {kind} or a mapping directive but it is {_article(found)}")

    return check


def _is(kind: str) -> Check:
    def check(value: Any, stack: Stack) -> None:
        found = _kind(value)
        if found != kind:
            raise _error(stack, f"should be {_article(kind)} but it is {_article(found)}")

    return check


def _short_text(least: int, most: int) -> Check:
    def check(value: Any, stack: Stack) -> None:
        _is("string")(value, stack)
        if len(value) < least:
            raise _error(stack, f"should be a string of length {least} or greater")
        if len(value) > most:
            raise _error(stack, f"should be a string of length {most} or less")

    return check


def _one_of(*words: str) -> Check:
    def check(value: Any, stack: Stack) -> None:
        _is("string")(value, stack)
        if value.lower() not in words:
            raise _error(stack, f"should be one of {', '.join(words)} but it is {json.dumps(value, ensure_ascii=False)}")

    return check


def _fields(required: Mapping[str, Check] | None = None, optional: Mapping[str, Check] | None = None) -> Check:
    """An object whose fields pass their checks, after the general check of all that it holds."""

    def check(value: Any, stack: Stack) -> None:
        _object(value, stack)

        def field(name: str, test: Check, needed: bool) -> None:
            if name in value:
                test(value[name], (*stack, name))
            elif needed:
                raise _error(stack, f"should have field {json.dumps(name)} but it doesn't")

        _collect(
            [functools.partial(field, name, test, True) for name, test in (required or {}).items()]
            + [functools.partial(field, name, test, False) for name, test in (optional or {}).items()]
        )

    return check


# -- directives ------------------------------------------------------------------------------------------------------


def _array_path(value: Any, stack: Stack) -> None:
    _is("array")(value, stack)
    if not value:
        raise _error(stack, "should be a string or a mapping directive but it is an undefined")
    _directive_or("string")(value[0], stack)
    if len(value) > 1:
        _any(value[1], stack)


def _liquid(value: Any, stack: Stack) -> None:
    _collect([lambda: _is("string")(value, stack)])


_string = _directive_or("string")

_DIRECTIVES: dict[str, Check] = {
    "@if": _fields(optional={"exists": _directive_or_raw, "then": _directive_or_raw, "else": _directive_or_raw}),
    "@case": _fields(optional={"operator": _is("string"), "value": _string}),
    "@replace": _fields(
        required={"pattern": _short_text(1, MAX_PATTERN_LENGTH), "value": _string},
        optional={
            "replacement": _short_text(0, MAX_REPLACEMENT_LENGTH),
            "ignorecase": _is("boolean"),
            "global": _is("boolean"),
        },
    ),
    "@arrayPath": _array_path,
    "@path": _string,
    "@template": _string,
    "@literal": _directive_or_raw,
    "@flatten": _fields(required={"value": _directive_or_raw}, optional={"separator": _is("string")}),
    "@json": _fields(required={"value": _directive_or_raw, "mode": _one_of("encode", "decode")}),
    "@merge": _fields(required={"objects": _is("array")}, optional={"direction": _one_of("left", "right")}),
    "@transform": _fields(required={"apply": _directive_or("object"), "mapping": _directive_or_raw}),
    "@excludeWhenNull": _directive_or_raw,
    "@liquid": _liquid,
}
