"""Paths into a payload: ``$.a.b``, ``a[0].b``, ``a['b']``.

A falsy value met on the way is the answer (``$.a.b`` where a is null is null), as in the original. Names that JavaScript
objects inherit (``constructor``) are not there.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from cdp_assets.activation_payloads.mapping_kit.values import UNDEFINED, truthy

_INDEX = re.compile(r"\[(\d+)\]")
_QUOTED = re.compile(r"""\[(['"])(.*?)\1\]""")


def without_root(path: str) -> str:
    """The path without its first ``$.``, wherever that stands."""
    return path.replace("$.", "", 1)


@functools.lru_cache(maxsize=4096)
def segments(path: str) -> tuple[str, ...]:
    """The keys of a path (without ``$.``). Empty for the whole payload. A key that holds a dot cannot be reached."""
    if path in ("", "."):
        return ()
    path = _QUOTED.sub(lambda found: "." + found[2], path)
    path = _INDEX.sub(lambda found: "." + found[1], path)
    return tuple(part for part in path.split(".") if part)


def get(value: Any, path: str) -> Any:
    """The value at ``path``, UNDEFINED when nothing is there."""
    for key in segments(path):
        if not truthy(value):
            return value
        value = _member(value, key)
    return value


def _member(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, UNDEFINED)
    if isinstance(value, (list, str)):
        if key == "length":
            return len(value)
        if key.isascii() and key.isdigit() and str(int(key)) == key and int(key) < len(value):
            return value[int(key)]
    return UNDEFINED
