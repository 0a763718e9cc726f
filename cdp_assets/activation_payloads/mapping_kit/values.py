"""JavaScript's values in Python: ``undefined``, truthiness, type names and text forms, where the mapping language leans on them.

JSON values are themselves; ``null`` is None, and UNDEFINED is the one value that JSON has not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final


class MappingError(Exception):
    """A mapping is not valid, or cannot be applied. ``errors`` holds every message; none quotes a value of the payload."""

    def __init__(self, *errors: str) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


class _Undefined:
    """Type of the one value UNDEFINED: nothing is there, as opposed to null."""

    _instance: _Undefined | None = None

    def __new__(cls) -> _Undefined:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = _Undefined()


def type_name(value: Any) -> str:
    """JavaScript's name of a value's kind, arrays and null apart: what error messages say."""
    if value is UNDEFINED:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def truthy(value: Any) -> bool:
    """JavaScript truthiness: empty lists and objects are true, NaN is false."""
    if isinstance(value, (list, dict)):
        return True
    if isinstance(value, float) and math.isnan(value):
        return False
    return bool(value)


def number_text(value: int | float) -> str:
    """A number as JavaScript prints it: ``1.0`` is ``1``, ``1e21`` is ``1e+21``. Whole numbers keep all their digits."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    figures = "".join(str(digit) for digit in digits)
    point = len(figures) + int(exponent)
    prefix = "-" if sign else ""
    if len(figures) <= point <= 21:
        return prefix + figures + "0" * (point - len(figures))
    if 0 < point <= 21:
        return f"{prefix}{figures[:point]}.{figures[point:]}"
    if -6 < point <= 0:
        return f"{prefix}0.{'0' * -point}{figures}"
    mantissa = figures[0] + (f".{figures[1:]}" if len(figures) > 1 else "")
    return f"{prefix}{mantissa}e{point - 1:+d}"


def text(value: Any) -> str:
    """A value as JavaScript's ``String(value)``."""
    if value is UNDEFINED:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if is_number(value):
        return number_text(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join("" if item is None or item is UNDEFINED else text(item) for item in value)
    return "[object Object]"


def loosely_empty(value: Any) -> bool:
    """JavaScript's ``value == ''`` for a value that is neither null nor undefined."""
    if isinstance(value, list):
        return text(value) == ""
    return value == "" or value is False or (is_number(value) and value == 0)


def spread(value: Any) -> dict[str, Any]:
    """JavaScript's ``{...value}``: strings and lists by index, anything else without keys is empty."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, str)):
        return {str(index): item for index, item in enumerate(value)}
    return {}


def without_undefined(value: Any) -> Any:
    """The value with every object key that holds UNDEFINED left out, at every depth. List elements stay."""
    if isinstance(value, dict):
        return {key: without_undefined(item) for key, item in value.items() if item is not UNDEFINED}
    if isinstance(value, list):
        return [without_undefined(item) for item in value]
    return value


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """A value as JSON text the way JavaScript writes it: no spaces, whole floats without a point, UNDEFINED in lists as null."""
    return json.dumps(_jsonable(value, sorted if sort_keys else list), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _jsonable(value: Any, order: Callable[[Any], list[str]]) -> Any:
    if value is UNDEFINED:
        return None
    if isinstance(value, dict):
        return {key: _jsonable(value[key], order) for key in order(value) if value[key] is not UNDEFINED}
    if isinstance(value, list):
        return [_jsonable(item, order) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value.is_integer() and abs(value) < 1e21:
            return int(value)
    return value
