"""The subscription form of FQL: the conditions of action destinations as JSON, and what they mean.

A group is ``{"type": "group", "operator": "and" | "or", "children": […]}``, a leaf ``{"type", "operator", "name"?, "value"?}``;
types, operators and their meaning are those of segmentio/action-destinations. What that form cannot say is refused.

The same text means a little more here than as a filter: a negated condition on a text (``!contains(…)``) also needs a text to
be there, and ``!=`` with a number needs a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cdp_assets.space.fql import generator, parser
from cdp_assets.space.fql.evaluator import Predicate, predicate
from cdp_assets.space.fql.functions import finite, number_text, type_of
from cdp_assets.space.fql.tree import And, Call, Compare, Condition, FqlError, Literal, Not, Or, Path, Value

Json = dict[str, Any]

_TOP: Final = {"event-type": "type", "event": "event", "name": "name", "userId": "userId"}
_BELOW: Final = {"event-property": "properties", "event-trait": "traits", "event-context": "context"}
_TYPE_OF_FIELD: Final = {field: kind for kind, field in (_TOP | _BELOW).items()}
_TEXT_OPERATORS: Final = ("contains", "starts_with", "ends_with")
_GLOB_SIGNS: Final = re.compile(r"([*?\[\]\\])")
_LITERAL_GLOB: Final = re.compile(r"(?:[^*?\[\\]|\\.)*", re.DOTALL)
_OUTSIDE: Final = "the subscription form cannot say this"


def parse_subscription(text: str) -> Json:
    """A text as a group of conditions. Raises FqlError for what is no FQL, and for what the form cannot say."""
    found = _as_json(parser.parse(text))
    return found if found["type"] == "group" else {"type": "group", "operator": "and", "children": [found]}


def generate_subscription(tree: Mapping[str, Any]) -> str:
    """The text of a group. Raises FqlError for what is no such tree, and for what no text says."""
    return generator.generate(_as_tree(tree, _written))


def compile_subscription(tree: Mapping[str, Any]) -> Predicate:
    """Whether a message meets a group of conditions. Raises FqlError for what is no such tree."""
    return predicate(_as_tree(tree, _meant))


def matches(tree: Mapping[str, Any], message: Any) -> bool:
    """Whether ``message`` meets the conditions; false for anything that is no message, and for a tree that is none."""
    try:
        return isinstance(message, Mapping) and compile_subscription(tree)(message)
    except FqlError:
        return False


# -- tree to JSON --------------------------------------------------------------------------------------------------------


def _as_json(node: Condition) -> Json:
    if isinstance(node, And | Or):
        operator = "and" if isinstance(node, And) else "or"
        return {"type": "group", "operator": operator, "children": [_as_json(child) for child in node.of]}
    if isinstance(node, Compare):
        return _comparison(node)
    negated, inner = (True, node.of) if isinstance(node, Not) else (False, node)
    if not isinstance(inner, Call) or inner.name == "bool":
        raise FqlError(_OUTSIDE, "write comparisons, contains and match, joined by and, or")
    subject, argument = inner.arguments
    if not isinstance(argument, Literal) or not isinstance(argument.value, str):
        raise FqlError(_OUTSIDE, f"give '{inner.name}' a text in quotes")
    operator, value = ("contains", argument.value) if inner.name == "contains" else _affix(argument.value)
    return {**_field(subject), "operator": f"not_{operator}" if negated else operator, "value": value}


def _affix(pattern: str) -> tuple[str, str]:
    for operator, affix, star in (("starts_with", pattern[:-1], pattern[-1:]), ("ends_with", pattern[1:], pattern[:1])):
        if star == "*" and _LITERAL_GLOB.fullmatch(affix):
            return operator, re.sub(r"\\(.)", r"\1", affix, flags=re.DOTALL)
    raise FqlError(_OUTSIDE, "write 'start*' or '*end'")


def _field(value: Value) -> Json:
    if (
        not isinstance(value, Path)
        or value.keys[0] not in _TYPE_OF_FIELD
        or (value.keys[0] in _BELOW.values()) != (len(value.keys) > 1)
    ):
        raise FqlError(_OUTSIDE, "put a field on the left: type, event, name, userId, or one below properties, traits or context")
    top, *below = value.keys
    if any("." in key for key in below):
        raise FqlError(_OUTSIDE, "name a field without a dot in its name")
    return {"type": _TYPE_OF_FIELD[top], **({"name": ".".join(below)} if below else {})}


def _comparison(node: Compare) -> Json:
    field, right = _field(node.left), node.right
    if not isinstance(right, Literal) or node.operator == "in":
        raise FqlError(_OUTSIDE, "compare with one value")
    value, kind, equality = right.value, type_of(right.value), node.operator in ("=", "!=")
    if not equality:
        return {**field, "operator": node.operator, "value": value}
    if kind == "null":
        return {**field, "operator": "not_exists" if node.operator == "=" else "exists"}
    if kind == "bool":
        if node.operator == "!=":
            raise FqlError(_OUTSIDE, "write = with the other word; a field that is missing is neither")
        return {**field, "operator": "is_true" if value else "is_false"}
    if kind == "number":
        if "name" not in field:
            raise FqlError(_OUTSIDE, "put the number in quotes; the field holds texts")
        return {**field, "operator": "number_equals" if node.operator == "=" else "number_not_equals", "value": value}
    return {**field, "operator": node.operator, "value": value}


# -- JSON to tree --------------------------------------------------------------------------------------------------------


def _as_tree(group: Any, leaf: Callable[[str, Path, Any], Condition], depth: int = 0) -> Condition:
    if not isinstance(group, Mapping) or depth > parser.MAX_DEPTH:
        raise FqlError("this is no condition", "write a group of conditions")
    if "error" in group:
        raise FqlError(str(group["error"]), "correct the text that this came from")
    if group.get("type") != "group":
        return leaf(str(group.get("operator")), _path(group), group.get("value"))
    children = group.get("children")
    if not isinstance(children, list) or not children or group.get("operator") not in ("and", "or"):
        raise FqlError("a group without 'and' or 'or', or without conditions", "give it an operator and children")
    parts = tuple(_as_tree(child, leaf, depth + 1) for child in children)
    if len(parts) == 1:
        return parts[0]
    return And(parts) if group["operator"] == "and" else Or(parts)


def _path(leaf: Mapping[str, Any]) -> Path:
    kind, name = leaf.get("type"), leaf.get("name")
    if kind in _TOP:
        return Path((_TOP[kind],))
    if kind not in _BELOW or not isinstance(name, str) or not all(name.split(".")):
        raise FqlError("a condition of an unknown type, or without a name", f"its type is one of {', '.join(_TOP | _BELOW)}")
    return Path((_BELOW[kind], *name.split(".")))


def _written(operator: str, path: Path, value: Any) -> Condition:
    """A leaf as the text says it."""
    positive = operator.removeprefix("not_")
    if positive in _TEXT_OPERATORS:
        call = _text_call(positive, path, value)
        return Not(call) if operator != positive else call
    simple: dict[str, Compare] = {
        "exists": Compare("!=", path, Literal(None)),
        "not_exists": Compare("=", path, Literal(None)),
        "is_true": Compare("=", path, Literal(True)),
        "is_false": Compare("=", path, Literal(False)),
    }
    if operator in simple:
        return simple[operator]
    if operator in ("=", "!="):
        return Compare(operator, path, Literal(_text(value)))
    sign = {"number_equals": "=", "number_not_equals": "!="}.get(operator, operator)
    if sign not in ("=", "!=", "<", "<=", ">", ">="):
        raise FqlError("a condition with an unknown operator", "correct it")
    return Compare(sign, path, Literal(_number(value)))


def _meant(operator: str, path: Path, value: Any) -> Condition:
    """A leaf as a filter that is true for the same messages."""
    written = _written(operator, path, value)
    needs = "string" if isinstance(written, Not) else "number" if operator == "number_not_equals" else None
    return And((Compare("=", Call("typeof", (path,)), Literal(needs)), written)) if needs else written


def _text_call(operator: str, path: Path, value: Any) -> Call:
    text = _text(value)
    if operator == "contains":
        return Call("contains", (path, Literal(text)))
    escaped = _GLOB_SIGNS.sub(r"\\\1", text)
    return Call("match", (path, Literal(f"{escaped}*" if operator == "starts_with" else f"*{escaped}")))


def _text(value: Any) -> str:
    """The form in which ``=`` compares: a number in a tree stands for its digits."""
    kind = type_of(value)
    if kind == "string":
        return str(value)
    if kind == "number" and finite(value):
        return number_text(value)
    if kind == "bool":
        return "true" if value else "false"
    raise FqlError("a condition without a text", "give it one")


def _number(value: Any) -> int | float:
    if isinstance(value, str) and len(value) <= 400:
        try:
            value = int(value) if value.strip().lstrip("-").isdigit() else float(value)
        except ValueError:
            value = None
    if type_of(value) != "number" or not finite(value):
        raise FqlError("a condition without a number", "give it one")
    return value
