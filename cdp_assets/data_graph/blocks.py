"""HCL text as blocks and attributes, each with its line. The grammar is python-hcl2's; the meaning is in :mod:`.hcl`.

Values keep how they were written (quoted text, bareword, true or false, anything else), because the rules of the data
graph depend on it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import hcl2
from lark import Token, Tree
from lark.exceptions import LarkError, UnexpectedToken

MAX_NESTING = 40  # far beyond what a data graph allows; keeps hostile input from exhausting the stack

_COLON = re.compile(r"(?:^|(?<=[{}]))([ \t]*relationship[ \t]*):(?=[ \t]*\")", re.MULTILINE)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


@dataclass(frozen=True)
class Word:
    """A value without quotes, such as ``segment``."""

    text: str


@dataclass(frozen=True)
class Unsupported:
    """A value that a data graph cannot hold. ``what`` names it: a number, a list, an expression, …"""

    what: str


Value = str | bool | Word | Unsupported


@dataclass(frozen=True)
class Attribute:
    """``name = value``."""

    name: str
    value: Value
    line: int


@dataclass(frozen=True)
class Block:
    """``kind "label" { … }``."""

    kind: str
    labels: tuple[Value, ...]
    line: int
    attributes: tuple[Attribute, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Document:
    """The top level of a file. ``colons`` are lines that say ``relationship:``, which only early versions of the language did."""

    root: Block
    colons: tuple[int, ...] = ()


class HclSyntaxError(Exception):
    """The text is not HCL: where, what, and what to do."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line, self.message, self.remedy = line, message, remedy


def read_blocks(text: str) -> Document:
    """Blocks of an HCL text. Raises :class:`HclSyntaxError`."""
    try:
        return Document(_block_of_body("", (), 1, _tree(text).children[0], 0))
    except HclSyntaxError:
        rewritten, count = _COLON.subn(r"\1 ", text)
        if not count:
            raise
    colons = tuple(text.count("\n", 0, match.start(1)) + 1 for match in _COLON.finditer(text))
    return Document(_block_of_body("", (), 1, _tree(rewritten).children[0], 0), colons)


@functools.lru_cache(maxsize=64)
def _tree(text: str) -> Tree:
    try:
        return hcl2.parses_to_tree(text)
    except UnexpectedToken as error:
        raise _explained(text, error) from None
    except LarkError as error:
        line = getattr(error, "line", 1)
        raise HclSyntaxError(max(line, 1), "this is not HCL", "write blocks and 'key = \"value\"' lines") from None


# -- syntax errors in words ------------------------------------------------------------------------------------------


@dataclass
class _Scan:
    """What a look at quotes and braces alone says: a string left open, and braces whose partner is missing."""

    open_strings: list[int] = field(default_factory=list)
    unclosed: list[int] = field(default_factory=list)
    misaligned: list[int] = field(default_factory=list)


def _explained(text: str, error: UnexpectedToken) -> HclSyntaxError:
    line = min(max(error.line if isinstance(error.line, int) else 1, 1), text.count("\n") + 1)
    scan = _scan(text)
    before = [number for number in scan.open_strings if number <= line]
    if before:
        return HclSyntaxError(before[0], "this string is not closed", 'end it with " on the same line')
    if error.token.type == "$END":
        opened = scan.misaligned[:1] or scan.unclosed[-1:] or [line]
        return HclSyntaxError(opened[0], "this block is not closed", "add its closing }")
    header = _header_before(text, line)
    if header:
        return HclSyntaxError(header, "a '=' is missing, or a '{'", "write 'key = \"value\"', or 'block \"label\" {'")
    found = str(error.token).strip().split("\n")[0][:30]
    if not found:
        return HclSyntaxError(line, "unexpected end of the line", "write 'key = \"value\"'")
    if found.startswith("}"):
        return HclSyntaxError(line, "this } closes nothing", "remove it, or add the { that it closes")
    return HclSyntaxError(line, f"unexpected {found!r}", "write 'key = \"value\"' lines and 'block \"label\" { … }'")


def _header_before(text: str, line: int) -> int:
    """The line above that names something and gives it neither a value nor a body, or 0."""
    lines = text.split("\n")
    for number in range(line - 1, 0, -1):
        if lines[number - 1].strip():
            return number if re.fullmatch(r'\s*\w+(\s+"[^"]*")?\s*', lines[number - 1]) else 0
    return 0


def _scan(text: str) -> _Scan:
    scan = _Scan()
    stack: list[tuple[int, int]] = []
    for number, line in enumerate(text.split("\n"), 1):
        indent = len(line) - len(line.lstrip())
        code, closed = _outside_strings(line)
        if not closed:
            scan.open_strings.append(number)
        for character in code:
            if character == "{":
                stack.append((number, indent))
            elif character == "}" and stack:
                opened, opened_indent = stack.pop()
                if opened != number and opened_indent != indent:
                    scan.misaligned.append(opened)
    scan.unclosed = [number for number, _ in stack]
    return scan


def _outside_strings(line: str) -> tuple[str, bool]:
    """The characters of a line that are neither in strings nor in a comment, and whether its last string is closed."""
    code, quoted, position = [], False, 0
    while position < len(line):
        character = line[position]
        if quoted and character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif not quoted and (character == "#" or line.startswith("//", position)):
            break
        elif not quoted:
            code.append(character)
        position += 1
    return "".join(code), not quoted


# -- from the parse tree ---------------------------------------------------------------------------------------------


def _block_of_body(kind: str, labels: tuple[Value, ...], line: int, body: Tree, depth: int) -> Block:
    if depth > MAX_NESTING:
        raise HclSyntaxError(
            line, f"blocks are nested more than {MAX_NESTING} deep", "a data graph has at most six nodes on a path"
        )
    attributes, blocks = [], []
    for child in _trees(body):
        if child.data == "attribute":
            name, value = _trees(child)
            attributes.append(Attribute(_word(name), _value(value), child.meta.line))
        elif child.data == "block":
            head, *rest = _trees(child)
            names = tuple(_value(part) for part in rest if part.data not in ("body", "new_line_or_comment"))
            inner = next(part for part in rest if part.data == "body")
            blocks.append(_block_of_body(_word(head), names, child.meta.line, inner, depth + 1))
    return Block(kind, labels, line, tuple(attributes), tuple(blocks))


def _trees(tree: Tree) -> Iterator[Tree]:
    return (child for child in tree.children if isinstance(child, Tree))


def _word(tree: Tree) -> str:
    return "".join(str(token) for token in tree.scan_values(lambda value: isinstance(value, Token)))


def _value(tree: Any) -> Value:
    while tree.data == "expr_term" and len(tree.children) == 1 and isinstance(tree.children[0], Tree):
        tree = tree.children[0]
    if tree.data == "string":
        return _text(tree)
    if tree.data in ("identifier", "keyword"):
        return Word(_word(tree))
    if tree.data == "literal_value":
        word = _word(tree)
        return word == "true" if word in ("true", "false") else Unsupported("null")
    names = {"int_lit": "a number", "float_lit": "a number", "tuple": "a list", "object": "an object"}
    return Unsupported(names.get(str(tree.data), "an expression"))


def _text(tree: Tree) -> Value:
    parts = [str(token) for token in tree.scan_values(lambda value: isinstance(value, Token))][1:-1]
    raw = "".join(parts)
    if any(part.data not in ("string_part",) or any(isinstance(c, Tree) for c in part.children) for part in _trees(tree)):
        return Unsupported("a string with ${…} or %{…}")
    if "\n" in raw:
        return Unsupported("a string over several lines")
    try:
        return _ESCAPE.sub(_unescaped, raw)
    except (KeyError, ValueError, OverflowError):
        return Unsupported("a string with an unknown \\ escape")


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        character = chr(int(code[1:], 16))
        character.encode()  # a lone surrogate is no text
        return character
    return _ESCAPES[code]


def quoted(text: str) -> str:
    """``text`` as an HCL string on one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    # A template marker would start an interpolation.
    escaped = escaped.replace("${", "\\u0024{").replace("%{", "\\u0025{")
    return f'"{escaped}"'
