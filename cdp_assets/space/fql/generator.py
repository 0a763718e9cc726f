"""A tree as FQL text: what :func:`.parser.parse` reads back as the same tree."""

from __future__ import annotations

import re

from cdp_assets.space.fql.functions import finite, number_text
from cdp_assets.space.fql.tree import And, Call, Compare, FqlError, ListOf, Literal, Node, Not, Or, Path

_SPECIAL = re.compile(r"([^A-Za-z0-9_-])")


def generate(node: Node) -> str:
    """The text of a tree. Raises FqlError for a text with both kinds of quotes, and for an empty key: no FQL says them."""
    if isinstance(node, And | Or):
        return (" and " if isinstance(node, And) else " or ").join(map(_inner, node.of))
    if isinstance(node, Not):
        return f"!({generate(node.of)})" if isinstance(node.of, And | Or | Compare) else f"!{generate(node.of)}"
    if isinstance(node, Compare):
        return f"{generate(node.left)} {node.operator} {generate(node.right)}"
    if isinstance(node, Call):
        return f"{node.name}({', '.join(map(generate, node.arguments))})"
    if isinstance(node, ListOf):
        return f"[{', '.join(map(generate, node.items))}]"
    return _path(node) if isinstance(node, Path) else _literal(node)


def _inner(node: Node) -> str:
    return f"({generate(node)})" if isinstance(node, And | Or) else generate(node)


def _path(node: Path) -> str:
    if not all(node.keys):
        raise FqlError("a field with an empty name", "name it")
    return ".".join(_SPECIAL.sub(r"\\\1", key) for key in node.keys)


def _literal(node: Literal) -> str:
    value = node.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        quote = "'" if '"' in value else '"'
        if quote in value:
            raise FqlError("a text with both kinds of quotes cannot be written", "match(…) with ? for one of them may do")
        return quote + value + quote
    if not finite(value):
        raise FqlError("a number that is not finite", "write a finite one")
    return number_text(value)
