"""The tree of an FQL text: values, and conditions on them. Immutable, without positions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

# Top-level fields of a message that a path may start with.
DOCUMENTS: Final = frozenset({"properties", "traits", "context", "integrations"})
FIELDS: Final = DOCUMENTS | {
    "type",
    "event",
    "name",
    "category",
    "userId",
    "anonymousId",
    "groupId",
    "previousId",
    "messageId",
    "timestamp",
    "originalTimestamp",
    "sentAt",
    "receivedAt",
    "version",
}
COMPARISONS: Final = frozenset({"=", "!=", "<", "<=", ">", ">=", "in"})


class FqlError(ValueError):
    """Text that is no FQL, or a condition that has no answer. It quotes words and signs of the language, never values."""

    def __init__(self, cause: str, remedy: str, position: int | None = None) -> None:
        where = "" if position is None else f" (character {position})"
        super().__init__(f"{cause}{where}; {remedy}")
        self.cause, self.remedy, self.position = cause, remedy, position


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written in the text."""

    value: str | bool | int | float | None


@dataclass(frozen=True, slots=True)
class ListOf:
    """``[…]``: literals only."""

    items: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """A field of the message: its keys from the top."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function of :data:`.functions.FUNCTIONS` and its arguments."""

    name: str
    arguments: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """Two values and one of COMPARISONS."""

    operator: str
    left: Value
    right: Value


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition."""

    of: Condition


@dataclass(frozen=True, slots=True)
class And:
    """All of at least two conditions."""

    of: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of at least two conditions."""

    of: tuple[Condition, ...]


Value = Literal | ListOf | Path | Call
# A literal is a condition when it is true or false, a path when the message holds a boolean there, a call when it says so.
Condition = Compare | Not | And | Or | Literal | Path | Call
Node = Value | Condition


def paths(node: Node) -> frozenset[tuple[str, ...]]:
    """The fields that a tree reads, each by its keys."""
    return frozenset(part.keys for part in _parts(node) if isinstance(part, Path))


def _parts(node: Node) -> Iterator[Node]:
    yield node
    children: tuple[Node, ...] = ()
    if isinstance(node, And | Or):
        children = node.of
    elif isinstance(node, Not):
        children = (node.of,)
    elif isinstance(node, Compare):
        children = (node.left, node.right)
    elif isinstance(node, Call):
        children = node.arguments
    for child in children:
        yield from _parts(child)


def fixed(node: Condition) -> Mapping[str, frozenset[str]]:
    """Top-level fields that must have one of some texts for the condition to be true, as far as the tree says it outright."""
    if isinstance(node, Compare):
        return _fixed_by(node)
    if not isinstance(node, And | Or):
        return {}
    parts = [fixed(child) for child in node.of]
    if isinstance(node, Or):
        shared = functools.reduce(operator.and_, (set(part) for part in parts))
        return {field: frozenset().union(*(part[field] for part in parts)) for field in sorted(shared)}
    found: dict[str, frozenset[str]] = {}
    for part in parts:
        for field, texts in part.items():
            found[field] = found[field] & texts if field in found else texts
    return found


def _fixed_by(node: Compare) -> Mapping[str, frozenset[str]]:
    left, right = node.left, node.right
    if node.operator == "=" and isinstance(left, Literal):
        left, right = right, left
    if not isinstance(left, Path) or len(left.keys) != 1:
        return {}
    if node.operator == "=" and isinstance(right, Literal) and isinstance(right.value, str):
        return {left.keys[0]: frozenset({right.value})}
    if node.operator == "in" and isinstance(right, ListOf):
        texts = [item.value for item in right.items if isinstance(item.value, str)]
        return {left.keys[0]: frozenset(texts)} if len(texts) == len(right.items) else {}
    return {}
