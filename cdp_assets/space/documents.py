"""Files of a space folder as plain data in which every value still knows its line.

YAML is 1.2 (``yes`` and ``on`` are text). All problems of a file that does not parse, or says a key twice, are reported
here; what the keys mean is in :mod:`.models`.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cdp_assets.space.space import Problem

Place = tuple[str | int, ...]

MAX_LEVELS = 100
MAX_VALUES = 100_000  # an alias can repeat itself; a space file never comes near this

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}

_EXPLAINED = (
    ("found character '\\t'", "a tab is used where YAML wants spaces", "indent with spaces"),
    ("mapping values are not allowed", "a ':' where no key can be", "check the indentation, or put the text in quotes"),
    ("could not find expected ':'", "a line without ':'", "write 'key: value'"),
    ("found unexpected end of stream", "a quote is not closed", "close it"),
    ("found another document", "more than one YAML document", "keep one document in a file"),
    ("maximum depth", "values are nested too deeply", f"write at most {MAX_LEVELS} levels"),
    ("found undefined alias", "an alias (*name) without its anchor (&name)", "define it, or put the text in quotes"),
    ("expected <block end>", "the indentation does not fit the lines above", "align it with its neighbours"),
)


@dataclass(frozen=True)
class Document:
    """One file: its data, the line of every key and list item by path, and the first line of block texts."""

    file: str
    data: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)
    blocks: dict[Place, int] = field(default_factory=dict)

    def text_line(self, *path: str | int) -> int:
        """Line on which the text at ``path`` starts; that of a block (``|``, ``>``) is the one below its key."""
        return self.blocks.get(path, self.line(*path))

    def line(self, *path: str | int) -> int:
        """Line of the value at ``path``, or of the nearest thing around it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def scalars(self) -> Iterator[tuple[Place, Any]]:
        """Every value that is not a mapping or a list, with its path."""
        waiting: list[tuple[Place, Any]] = [((), self.data)]
        while waiting:
            path, value = waiting.pop()
            if isinstance(value, dict):
                waiting.extend(((*path, key), item) for key, item in value.items())
            elif isinstance(value, list):
                waiting.extend(((*path, index), item) for index, item in enumerate(value))
            else:
                yield path, value


def read_text(path: Path, file: str) -> tuple[str | None, list[Problem]]:
    """The text of a file, or the problem that keeps it from being read."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"), []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return None, [Problem(file, line, "the file is not UTF-8 text", "save it as UTF-8")]
    except FileNotFoundError:
        return None, [Problem(file, 1, "the file is missing", "create it")]
    except OSError:
        return None, [Problem(file, 1, "the file cannot be read", "check its kind and permissions")]


@lru_cache(maxsize=1_000)
def read_yaml(text: str, file: str, *, first_line: int = 1) -> tuple[Document | None, list[Problem]]:
    """A YAML mapping. ``first_line`` is the line of the file at which ``text`` starts.

    The same text gives the same objects again, since every step and every tick reads the space anew: change neither of them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yaml = YAML(typ="safe", pure=True)
            yaml.max_depth = MAX_LEVELS  # a deep one takes seconds to read
            root = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line, text.rstrip("\n").count("\n")) if mark else 0
        said = str(error.problem or "this is not YAML")
        for start, message, remedy in _EXPLAINED:
            if start in said:
                return None, [Problem(file, first_line + line, message, remedy)]
        return None, [
            Problem(file, first_line + line, f"this is not YAML: {said}", "check indentation, quotes and brackets here")
        ]
    except YAMLError:
        return None, [
            Problem(file, first_line, "the file holds characters that YAML does not allow", "save it as plain UTF-8 text")
        ]
    if root is None:
        return None, [Problem(file, first_line, "the file is empty", "write its keys; docs/schemas says which")]
    if not isinstance(root, MappingNode):
        return None, [Problem(file, first_line + root.start_mark.line, "the file is not a mapping", "write 'key: value' lines")]
    reader = _Reader(file, first_line)
    data = reader.value(root, ())
    if reader.problems:
        return None, reader.problems
    return Document(file, data, reader.lines, reader.blocks), []


class _Reader:
    """Nodes of a YAML file as plain data, keeping lines."""

    def __init__(self, file: str, first_line: int) -> None:
        self.file = file
        self.first_line = first_line
        self.lines: dict[Place, int] = {}
        self.blocks: dict[Place, int] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._constructor = YAML(typ="safe", pure=True).constructor

    def value(self, node: Node, path: Place) -> Any:
        self.lines.setdefault(path, self._line(node))
        if len(self.lines) > MAX_VALUES:
            if len(self.lines) == MAX_VALUES + 1:
                self._problem(node, "the file has too many values", "do not repeat aliases inside of aliases")
            return None
        if isinstance(node, ScalarNode):
            if node.style in ("|", ">"):
                self.blocks[path] = self._line(node) + 1
            return self._scalar(node)
        if id(node) in self._open:
            self._problem(node, "an alias that contains itself", "write the value out")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: Node, path: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                self._problem(key_node, "a key that is not text", "put it in quotes; a merge key (<<) must be written out")
                continue
            key = str(key_node.value)
            if key in found:
                first = self.lines[(*path, key)]
                self._problem(key_node, f"'{key}' is given twice, first on line {first}", "keep one of them")
                continue
            self.lines[(*path, key)] = self._line(key_node)
            found[key] = self.value(value_node, (*path, key))
        return found

    def _scalar(self, node: Node) -> Any:
        if node.tag not in _TAGS:
            self._problem(node, f"a value with the tag {node.tag}", "remove the tag")
            return None
        try:
            value = self._constructor.construct_object(node)
        except (YAMLError, ValueError, OverflowError):
            self._problem(node, "a value that looks like a date or a number and is none", "correct it, or put it in quotes")
            return None
        if isinstance(value, dt.datetime):
            # An instant without a zone is UTC.
            return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return value

    def _line(self, node: Node) -> int:
        return self.first_line + int(node.start_mark.line)

    def _problem(self, node: Node, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, self._line(node), message, remedy))


def read_json(text: str, file: str) -> tuple[Document | None, list[Problem]]:
    """A JSON object."""
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return found

    try:
        data = json.loads(text, object_pairs_hook=members)
    except json.JSONDecodeError as error:
        return None, [
            Problem(file, error.lineno, f"this is not JSON: {error.msg.lower()}", "check commas, quotes and brackets here")
        ]
    except RecursionError:
        return None, [Problem(file, 1, "values are nested too deeply", "write fewer levels")]
    if not isinstance(data, dict):
        return None, [Problem(file, 1, "the file does not hold a JSON object", "write { … }")]
    lines, repeated = _json_lines(text)
    if twice:
        return None, [
            Problem(file, line, f"'{key}' is given twice, first on line {first}", "keep one of them")
            for key, first, line in repeated
        ]
    return Document(file, data, lines), []


_JSON_TOKEN = re.compile(r'\n|"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _json_lines(text: str) -> tuple[dict[Place, int], list[tuple[str, int, int]]]:
    """Line of every key and list item of a JSON text, by path; and keys given twice in one object, with both their lines."""
    lines: dict[Place, int] = {(): 1}
    repeated: list[tuple[str, int, int]] = []
    path: list[str | int] = []
    line, key_next = 1, False
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
            continue
        if path and isinstance(path[-1], int) and token not in ",]":
            lines.setdefault(tuple(path), line)  # an item's line is that of its first token
        if token in "{[":
            path.append("" if token == "{" else 0)
            key_next = token == "{"
        elif token in "}]":
            path.pop()
            key_next = False
        elif token == ",":
            last = path[-1]
            key_next = isinstance(last, str)
            if isinstance(last, int):
                path[-1] = last + 1
        elif key_next and token != ":":
            key, key_next = str(json.loads(token)), False
            path[-1] = key
            if tuple(path) in lines:
                repeated.append((key, lines[tuple(path)], line))
            lines[tuple(path)] = line
    return lines, repeated
