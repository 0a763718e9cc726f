"""Trees as functions of a message. Everything that the text fixes is settled once; a call only reads and compares.

The language has an answer for every message, save one: a value that is neither true, false nor null where a condition is
needed raises FqlError, so that whoever asked can withhold the message.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from cdp_assets.space.fql.functions import FUNCTIONS, glob, same, type_of
from cdp_assets.space.fql.tree import And, Call, Compare, Condition, FqlError, ListOf, Literal, Node, Not, Or, Path, Value

Message = Mapping[str, Any]
Predicate = Callable[[Message], bool]
Reader = Callable[[Message], Any]

_ORDER: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def predicate(condition: Condition) -> Predicate:
    """Whether a message meets a condition."""
    if isinstance(condition, And | Or):
        return _joined(isinstance(condition, And), tuple(map(predicate, condition.of)))
    if isinstance(condition, Not):
        inner = predicate(condition.of)
        return lambda message: not inner(message)
    if isinstance(condition, Compare):
        return _comparison(condition)
    value = _reader(condition)
    return lambda message: _truth(value(message))


def reader(node: Node) -> Reader:
    """The value of a node in a message: of a condition, true or false."""
    return predicate(node) if isinstance(node, Compare | Not | And | Or) else _reader(node)


def _truth(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return value is True
    raise FqlError("a field that is used as a condition is neither true nor false", "compare it with a value")


def _joined(every: bool, parts: tuple[Predicate, ...]) -> Predicate:
    if len(parts) == 2:
        first, second = parts
        if every:
            return lambda message: first(message) and second(message)
        return lambda message: first(message) or second(message)
    if every:
        return lambda message: all(part(message) for part in parts)
    return lambda message: any(part(message) for part in parts)


def _comparison(node: Compare) -> Predicate:
    left, right = _reader(node.left), _reader(node.right)
    if node.operator == "=" and isinstance(node.right, Literal) and isinstance(node.right.value, str):
        text = node.right.value
        return lambda message: left(message) == text
    if node.operator == "=":
        return lambda message: same(left(message), right(message))
    if node.operator == "!=":
        return lambda message: not same(left(message), right(message))
    if node.operator == "in":
        return lambda message: _within(left(message), right(message))
    compare = _ORDER[node.operator]
    return lambda message: _ordered(compare, left(message), right(message))


def _within(value: Any, values: Any) -> bool:
    return isinstance(values, list | tuple) and any(same(value, item) for item in values)


def _ordered(compare: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    return type_of(left) == type_of(right) == "number" and compare(left, right)


def _reader(node: Value) -> Reader:
    if isinstance(node, Literal):
        value = node.value
        return lambda _: value
    if isinstance(node, ListOf):
        values = [item.value for item in node.items]
        return lambda _: values
    return _field(node.keys) if isinstance(node, Path) else _call(node)


def _call(node: Call) -> Reader:
    readers = tuple(map(_reader, node.arguments))
    if node.name == "match" and isinstance(node.arguments[1], Literal):
        matches, text = glob(str(node.arguments[1].value)), readers[0]
        return lambda message: isinstance(value := text(message), str) and matches(value)
    call = FUNCTIONS[node.name].call
    if len(readers) == 1:
        (only,) = readers
        return lambda message: call(only(message))
    return lambda message: call(*(read(message) for read in readers))


def _field(keys: tuple[str, ...]) -> Reader:
    top, *below = keys
    if not below:
        return lambda message: message.get(top)

    def read(message: Message) -> Any:
        value = message.get(top)
        for key in below:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value

    return read
