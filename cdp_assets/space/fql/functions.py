"""The functions of FQL. Each has an answer for every JSON value: what it cannot take gives null, or false where it is a condition.

Names and null rules are Segment's (docs, Public API, FQL). Where its documentation only says "converts the value": texts become
booleans by the words true and false, numbers by being other than 0, lists by holding something; a text becomes a number when it
is one; what does not convert is null.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cdp_assets.space.fql.tree import FqlError

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[-+]?\d{1,400}\s*", re.ASCII)


class Function(NamedTuple):
    """How many arguments a function takes, whether it is a condition, and what it does."""

    arity: int
    condition: bool
    call: Callable[..., Any]


def type_of(value: Any) -> str:
    """Type word of a JSON value, as ``typeof`` gives it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list | tuple) else "object"


def same(left: Any, right: Any) -> bool:
    """``=``: same type and equal, at every depth."""
    kind = type_of(left)
    if kind != type_of(right):
        return False
    if kind == "list":
        return len(left) == len(right) and all(map(same, left, right))
    if kind == "object":
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def finite(value: int | float) -> bool:
    """Whether JSON can say a number."""
    return isinstance(value, int) or math.isfinite(value)


def number_text(value: int | float) -> str:
    """A number as JavaScript prints it in the common range: ``5.0`` as ``5``."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value)


def _length(value: Any) -> int | None:
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return len(value) if isinstance(value, list | tuple) else None


def _on_text(change: Callable[[str], str]) -> Callable[[Any], str | None]:
    return lambda value: change(value) if isinstance(value, str) else None


def _title(text: str) -> str:
    return re.sub(r"\S+", lambda word: word[0][:1].upper() + word[0][1:], text)


def _bool(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False, "": False}.get(value.lower())
    return None if isinstance(value, dict) else bool(value)


def text_of(value: Any) -> str | None:
    """``string``: a text as it is, null as null, anything else as its JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        if _WHOLE.fullmatch(value):
            return int(value)
        if _NUMBER.fullmatch(value):
            found = float(value)
            return found if math.isfinite(found) else None
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _contains(text: Any, part: Any) -> bool:
    return isinstance(text, str) and isinstance(part, str) and part in text


def _match(text: Any, pattern: Any) -> bool:
    return isinstance(text, str) and isinstance(pattern, str) and glob(pattern)(text)


@lru_cache(maxsize=1_000)
def glob(pattern: str) -> Callable[[str], bool]:
    """Whether a whole text matches a glob: ``*``, ``?``, ``[abc]``, ``[a-z]``, ``\\x``. Case counts. Linear per star.

    Raises FqlError for a pattern that breaks off or has a class that is empty or negated.
    """
    segments: list[str] = [""]
    position = 0
    while position < len(pattern):
        sign = pattern[position]
        position += 1
        if sign == "*":
            segments.append("")
        elif sign == "?":
            segments[-1] += "."
        elif sign == "[":
            atom, position = _class(pattern, position)
            segments[-1] += atom
        else:
            if sign == "\\":
                if position == len(pattern):
                    raise FqlError("the pattern ends with a backslash", "write \\\\ for a backslash")
                sign, position = pattern[position], position + 1
            segments[-1] += re.escape(sign)
    first, *middle = segments
    # A star need not be tried again once what follows it matched: atomic groups keep it from being, as in fnmatch.
    tail = "".join(f"(?>.*?{segment})" for segment in middle[:-1]) + (f".*{middle[-1]}" if middle else "")
    matcher = re.compile(first + tail, re.DOTALL).fullmatch
    return lambda text: matcher(text) is not None


def _class(pattern: str, start: int) -> tuple[str, int]:
    """A character class as a regular expression, and where the pattern goes on after it."""
    end = pattern.find("]", start)
    content = pattern[start:end]
    if end < 0 or not content or content[0] in "^!" or "\\" in content:
        raise FqlError("the pattern has a class that is open, empty, negated or escaped", "write e.g. [abc] or [a-z], \\[ for [")
    parts = re.findall(r".-.|.", content, re.DOTALL)
    if any(len(part) == 3 and part[0] > part[2] for part in parts):
        raise FqlError("the pattern has a class whose range runs backwards", "write it the other way round, e.g. [a-z]")
    atoms = ("-".join(map(re.escape, part[::2])) if len(part) == 3 else re.escape(part) for part in parts)
    return f"[{''.join(atoms)}]", end + 1


FUNCTIONS: Final = {
    "contains": Function(2, True, _contains),
    "match": Function(2, True, _match),
    "bool": Function(1, True, _bool),
    "length": Function(1, False, _length),
    "lowercase": Function(1, False, _on_text(str.lower)),
    "uppercase": Function(1, False, _on_text(str.upper)),
    "snakecase": Function(1, False, _on_text(lambda text: text.replace(" ", "_"))),
    "kebabcase": Function(1, False, _on_text(lambda text: text.replace(" ", "-"))),
    "titlecase": Function(1, False, _on_text(_title)),
    "typeof": Function(1, False, type_of),
    "string": Function(1, False, text_of),
    "number": Function(1, False, _number),
}
