"""What each directive does: a function of its argument and the payload. :func:`resolve` walks a mapping and runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from cdp_assets.activation_payloads.mapping_kit import liquid
from cdp_assets.activation_payloads.mapping_kit.paths import get, without_root
from cdp_assets.activation_payloads.mapping_kit.validate import MAX_PATTERN_LENGTH, MAX_REPLACEMENT_LENGTH, is_directive
from cdp_assets.activation_payloads.mapping_kit.values import (
    UNDEFINED,
    MappingError,
    is_number,
    json_text,
    loosely_empty,
    spread,
    text,
    truthy,
    type_name,
    without_undefined,
)


def resolve(mapping: Any, payload: Any) -> Any:
    """The mapping with every directive replaced by its result. May hold UNDEFINED."""
    if isinstance(mapping, dict):
        if is_directive(mapping):
            name = next(key for key in mapping if key.startswith("@"))
            run = _DIRECTIVES.get(name)
            if run is None:
                raise MappingError(f"{name} is not a valid directive, got undefined")
            return run(mapping[name], payload)
        return {key: resolve(value, payload) for key, value in mapping.items()}
    if isinstance(mapping, list):
        return [resolve(value, payload) for value in mapping]
    return mapping


def _string(name: str, argument: Any, payload: Any) -> str:
    value = resolve(argument, payload)
    if not isinstance(value, str):
        raise MappingError(f"{name}: expected string, got {type_name(value)}")
    return value


def _options(name: str, argument: Any, hint: str) -> dict[str, Any]:
    if not isinstance(argument, dict):
        raise MappingError(f"{name} requires an object with {hint}")
    return argument


def _path(argument: Any, payload: Any) -> Any:
    return get(payload, without_root(_string("@path", argument, payload)))


# Braces are looked for once, in the template only: what the payload says is never read as a template.
_TRIPLE = re.compile(r"\{\{\{([^}]+)\}\}\}")
_DOUBLE = re.compile(r"\{\{([^}]+)\}\}")


def _template(argument: Any, payload: Any) -> str:
    template = _string("@template", argument, payload)

    def fill(key: str) -> str:
        value = get(payload, key.strip())
        return "" if value is None or value is UNDEFINED else text(value)

    parts = _TRIPLE.split(template)  # literal, key, literal, key, …
    return "".join(
        fill(part) if index % 2 else _DOUBLE.sub(lambda found: fill(found[1]), part) for index, part in enumerate(parts)
    )


def _if(argument: Any, payload: Any) -> Any:
    options = _options("@if", argument, 'an "exists" key or a "blank" key')
    if not truthy(options.get("exists", UNDEFINED)) and not truthy(options.get("blank", UNDEFINED)):
        raise MappingError('@if requires an "exists" key or a "blank" key')
    if "exists" in options:
        value = resolve(options["exists"], payload)
        holds = value is not UNDEFINED and value is not None
    else:
        value = resolve(options["blank"], payload)
        holds = value is not UNDEFINED and value is not None and not loosely_empty(value)
    if holds:
        return resolve(options.get("then", UNDEFINED), payload)
    otherwise = options.get("else", UNDEFINED)
    return resolve(otherwise, payload) if truthy(otherwise) else UNDEFINED


def _case(argument: Any, payload: Any) -> Any:
    options = _options("@case", argument, 'an "operator" key')
    if not truthy(options.get("operator", UNDEFINED)):
        raise MappingError('@case requires a "operator" key')
    value = resolve(options.get("value", UNDEFINED), payload)
    if not isinstance(value, str):
        return value
    if options["operator"] == "lower":
        return value.lower()
    if options["operator"] == "upper":
        return value.upper()
    raise MappingError('operator key should have a value of "lower" or "upper"')


# `$$`, `$&`, "$`" and `$'` in a replacement; the pattern is literal text, so `$1` names no group and stays.
_EXPANSION = re.compile(r"\$([$&`'])")


def _replace(argument: Any, payload: Any) -> str:
    options = _options("@replace", argument, 'a "pattern" key')
    value = resolve(options.get("value", UNDEFINED), payload)
    if isinstance(value, bool) or is_number(value):
        value = text(value)
    if not isinstance(value, str):
        return ""
    flags = re.IGNORECASE if truthy(options.get("ignorecase", False)) else 0
    count = 0 if truthy(options.get("global", True)) else 1
    for pattern_name, replacement_name in (("pattern", "replacement"), ("pattern2", "replacement2")):
        if pattern_name == "pattern2" and not truthy(options.get(pattern_name, UNDEFINED)):
            continue
        pattern = _limited(options.get(pattern_name), pattern_name, 1, MAX_PATTERN_LENGTH)
        replacement = _limited(options.get(replacement_name, ""), replacement_name, 0, MAX_REPLACEMENT_LENGTH)
        value = re.sub(re.escape(pattern), _expander(replacement), value, count=count, flags=flags)
    return value


def _limited(value: Any, name: str, least: int, most: int) -> str:
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise MappingError(f"@replace requires a {json.dumps(name)} of {least} to {most} characters")
    return value


def _expander(replacement: str) -> Callable[[re.Match[str]], str]:
    def expand(match: re.Match[str]) -> str:
        pieces = {"$": "$", "&": match[0], "`": match.string[: match.start()], "'": match.string[match.end() :]}
        return _EXPANSION.sub(lambda found: pieces[found[1]], replacement)

    return expand


def _array_path(argument: Any, payload: Any) -> Any:
    if not isinstance(argument, list):
        raise MappingError(f"@arrayPath expected array, got {type_name(argument)}")
    path = argument[0] if argument else UNDEFINED
    shape = argument[1] if len(argument) > 1 else UNDEFINED
    root = get(payload, without_root(path)) if isinstance(path, str) else resolve(path, payload)
    if isinstance(root, (dict, list)) and isinstance(shape, dict) and shape:
        return [resolve(shape, item) for item in (root if isinstance(root, list) else [root])]
    return root


def _flatten(argument: Any, payload: Any) -> dict[str, Any]:
    options = _options("@flatten", argument, 'a "separator" key')
    separator = resolve(options.get("separator", UNDEFINED), payload)
    if not isinstance(separator, str):
        raise MappingError("@flatten requires a string separator")
    value = resolve(options.get("value", UNDEFINED), payload)
    flat: dict[str, Any] = {}
    keep_lists = truthy(options.get("omitArrays", False))

    def walk(item: Any, prefix: str) -> None:
        if isinstance(item, dict):
            children = list(item.items())
        elif isinstance(item, list) and not keep_lists:
            children = [(str(index), child) for index, child in enumerate(item)]
        else:
            flat[prefix] = item
            return
        for key, child in children:
            walk(child, f"{prefix}{separator}{key}" if prefix else key)

    walk(value, "")
    return flat


def _json(argument: Any, payload: Any) -> Any:
    options = _options("@json", argument, 'a "value" key')
    if not truthy(options.get("value", UNDEFINED)):
        raise MappingError('@json requires a "value" key')
    value = resolve(options["value"], payload)
    if options.get("mode") == "encode":
        return UNDEFINED if value is UNDEFINED else json_text(value)
    if options.get("mode") == "decode":
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value, parse_constant=_no_constant)
        except ValueError:
            return value
    return UNDEFINED


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _merge(argument: Any, payload: Any) -> dict[str, Any]:
    options = _options("@merge", argument, 'an "objects" key and a "direction" key')
    objects = options.get("objects", UNDEFINED)
    if not isinstance(objects, list):
        raise MappingError(f"@merge: expected array, got {type_name(objects)}")
    if not truthy(options.get("direction", UNDEFINED)):
        raise MappingError('@merge requires a "direction" key')
    for item in objects:
        if not isinstance(item, dict):
            kind = type_name(item)
            article = "an" if kind[0] in "aeiou" else "a"
            raise MappingError(f"/ should be a object or a mapping directive but it is {article} {kind}.")
    resolved = [resolve(item, payload) for item in objects]
    merged: dict[str, Any] = {}
    # An undefined value of a later object overwrites too, and so takes the key away.
    for item in reversed(resolved) if options["direction"] == "left" else resolved:
        merged.update(spread(item))
    return merged


def _transform(argument: Any, payload: Any) -> Any:
    options = _options("@transform", argument, 'an "apply" key and a "mapping" key')
    if not isinstance(options.get("apply"), dict):
        raise MappingError('@transform requires an "apply" key')
    if not truthy(options.get("mapping", UNDEFINED)):
        raise MappingError('@transform requires a "mapping" key')
    return resolve(options["mapping"], without_undefined(resolve(options["apply"], payload)))


def _exclude_when_null(argument: Any, payload: Any) -> Any:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return value

    value = resolve(argument, payload)
    return UNDEFINED if value is None else clean(value)


def _liquid(argument: Any, payload: Any) -> str:
    if not isinstance(argument, str):
        raise MappingError("liquid template value must be a string")
    return liquid.render(argument, payload)


_DIRECTIVES: dict[str, Callable[[Any, Any], Any]] = {
    "@if": _if,
    "@case": _case,
    "@replace": _replace,
    "@arrayPath": _array_path,
    "@path": _path,
    "@template": _template,
    # It resolves nested directives too: it does not quote them.
    "@literal": resolve,
    "@flatten": _flatten,
    "@json": _json,
    "@merge": _merge,
    "@transform": _transform,
    "@excludeWhenNull": _exclude_when_null,
    "@liquid": _liquid,
}
