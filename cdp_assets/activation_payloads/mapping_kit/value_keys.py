"""Which input paths a mapping reads: for pruning columns, and to say which activations read a column."""

from __future__ import annotations

import re
from typing import Any

from cdp_assets.activation_payloads.mapping_kit import liquid
from cdp_assets.activation_payloads.mapping_kit.paths import segments, without_root
from cdp_assets.activation_payloads.mapping_kit.validate import is_directive
from cdp_assets.activation_payloads.mapping_kit.values import MappingError

_BRACES = re.compile(r"\{\{\{?(.*?)\}?\}\}")
# The original's list: literals and null guards count as reading nothing.
_IGNORED = ("@literal", "@excludeWhenNull")


def value_keys(mapping: Any) -> list[str]:
    """The paths as written (``$.properties.a``; templates without braces), in order, as the original's function lists them.

    ``@literal`` and ``@excludeWhenNull`` contribute nothing, whatever they hold: to prune columns use :func:`reads`.
    """
    return _keys(mapping, _IGNORED)


def reads(mapping: Any) -> frozenset[tuple[str, ...]] | None:
    """The payload paths (tuples of keys, prefixes of what is read) that the mapping can read; None when it may read anything.

    Sound where :func:`value_keys` is not: no directive is skipped, and a computed path or template counts as anything.
    """
    if _computes_paths(mapping):
        return None
    found = frozenset(segments(without_root(key.strip())) for key in _keys(mapping, ()))
    return None if () in found else found


def _keys(mapping: Any, ignored: tuple[str, ...]) -> list[str]:
    if isinstance(mapping, list):
        return [key for item in mapping for key in _keys(item, ignored)]
    if not isinstance(mapping, dict):
        return []
    if not is_directive(mapping):
        return [key for item in mapping.values() for key in _keys(item, ignored)]
    name = next(key for key in mapping if key.startswith("@"))
    argument = mapping[name]
    if name in ignored:
        return []
    if name == "@path" and isinstance(argument, str):
        return [argument]
    if name == "@template" and isinstance(argument, str):
        return [found[1] for found in _BRACES.finditer(argument)]
    if name == "@liquid" and isinstance(argument, str):
        try:
            return liquid.variables(argument)
        except MappingError:
            return []
    if name == "@arrayPath" and isinstance(argument, list) and argument and isinstance(argument[0], str):
        return [argument[0], *_keys(argument[1:], ignored)]
    return _keys(argument, ignored)


def _computes_paths(mapping: Any) -> bool:
    if isinstance(mapping, list):
        return any(_computes_paths(item) for item in mapping)
    if not isinstance(mapping, dict):
        return False
    for name in ("@path", "@template"):
        if name in mapping and not isinstance(mapping[name], str):
            return True
    return any(_computes_paths(value) for value in mapping.values())
