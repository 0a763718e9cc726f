"""Blocks of the data graph's language read attribute by attribute: what may stand in a block, and in which form.

What belongs here: the rules that hold in any block. What does not: what the blocks mean together (:mod:`.hcl`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cdp_assets.data_graph.blocks import Attribute, Block, Unsupported, Value, Word
from cdp_assets.space.located import did_you_mean
from cdp_assets.space.space import Problem

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]*")
TABLE_PART = re.compile(r'[^\s.=",();]+')
_COLUMN = re.compile(r'[^\s.=",()]+')


def slugify(label: str) -> str:
    """The stable id of a free-text label of the v0.0.x language: lower case, runs of other characters become ``-``."""
    return re.sub(r"[^a-z0-9_-]+", "-", label.strip().lower()).strip("-")


class BlockReader:
    """Collects problems while it reads; every method returns what it can, so that one error hides no other.

    ``legacy``: the file is of an early version, whose forms are read with a warning instead of being refused.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.legacy = False

    def error(self, line: int, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, message, remedy))

    def warn(self, line: int, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, message, remedy, "warning"))

    def attributes(self, block: Block) -> dict[str, Attribute]:
        return {attribute.name: attribute for attribute in reversed(block.attributes)}

    def unknown(self, block: Block, attributes: Iterable[str], blocks: Iterable[str]) -> None:
        """Report what a block must not contain, and what it says twice."""
        known, kinds, first = sorted(attributes), sorted(blocks), dict[str, int]()
        place = block.kind
        for attribute in block.attributes:
            if attribute.name in kinds:
                self.error(attribute.line, f"'{attribute.name}' is a block", f"write '{attribute.name} {{ … }}' without =")
            elif attribute.name not in known:
                self.error(
                    attribute.line, f"unknown attribute '{attribute.name}' in {place}", did_you_mean(attribute.name, known)
                )
            elif attribute.name in first:
                self.error(
                    attribute.line, f"'{attribute.name}' is set twice, first on line {first[attribute.name]}", "keep one of them"
                )
            first.setdefault(attribute.name, attribute.line)
        for inner in block.blocks:
            if inner.kind in known:
                self.error(inner.line, f"'{inner.kind}' is not a block", f"write '{inner.kind} = …'")
            elif inner.kind not in kinds and not (place == "data_graph" and inner.kind == "relationship"):
                self.error(inner.line, f"unknown block '{inner.kind}' in {place}", did_you_mean(inner.kind, kinds))

    def string(self, attribute: Attribute) -> str | None:
        value: Value = attribute.value
        if isinstance(value, str):
            if value.strip():
                return value
            self.error(attribute.line, f"'{attribute.name}' is empty", "give it a value or remove the line")
        elif isinstance(value, Word):
            self.error(attribute.line, f"'{attribute.name}' is not quoted", f'write {attribute.name} = "{value.text}"')
        else:
            what = value.what if isinstance(value, Unsupported) else "true or false"
            self.error(attribute.line, f"'{attribute.name}' is {what}", "write plain text in double quotes, on one line")
        return None

    def text(self, block: Block, name: str, *, required: bool = True) -> str | None:
        """A text attribute, or None when it is missing or wrong (which is reported)."""
        attribute = self.attributes(block).get(name)
        if attribute is not None:
            return self.string(attribute)
        if required:
            self.error(block.line, f"{self.called(block)} has no '{name}'", f'add {name} = "…"')
        return None

    def called(self, block: Block) -> str:
        return f"{block.kind} {block.labels[0]!r}" if block.labels and isinstance(block.labels[0], str) else block.kind

    def column(self, block: Block, name: str) -> str:
        """A column name, or '' when it is missing or wrong (which is reported)."""
        column = self.text(block, name)
        if column is None:
            return ""
        if not _COLUMN.fullmatch(column.strip()):
            self.error(
                self.attributes(block)[name].line,
                f"'{name}' of {self.called(block)} must be one column, without table and commas",
                "for a key of several columns, build a view with one",
            )
        return column.strip()

    def table_ref(self, block: Block) -> str:
        text = self.text(block, "table_ref")
        if text is None:
            return ""
        parts = text.split(".")
        if not (2 <= len(parts) <= 3 and all(TABLE_PART.fullmatch(part) for part in parts)):
            self.error(
                self.attributes(block)["table_ref"].line,
                f"table_ref {text!r} is not a qualified table",
                "write DB.SCHEMA.TABLE, or SCHEMA.TABLE in the connection's own database",
            )
        return text

    def label(self, block: Block) -> tuple[str, str]:
        """Slug and display label of a block; the slug is '' when there is none."""
        if len(block.labels) != 1:
            self.error(block.line, f"{block.kind} needs one label", f"write '{block.kind} \"slug\" {{'")
            return "", ""
        label = block.labels[0]
        if not isinstance(label, str):
            text = label.text if isinstance(label, Word) else "slug"
            self.error(block.line, f"the label of this {block.kind} is not quoted text", f"write '{block.kind} \"{text}\" {{'")
            return slugify(text), text
        if SLUG.fullmatch(label):
            return label, label
        slug = slugify(label)
        if self.legacy and SLUG.fullmatch(slug):
            self.deprecated(
                block.line, f"label {label!r} is free text", f"it is known as '{slug}'; write that, and keep the label as name"
            )
            return slug, label
        self.error(
            block.line,
            f"{block.kind} slug {label!r} must be lower-case letters, digits, - and _",
            f"write {slug!r}" if SLUG.fullmatch(slug) else "start with a letter or digit",
        )
        return slug, label

    def name(self, block: Block, label: str) -> str:
        return self.text(block, "name", required=not self.legacy) or label

    def deprecated(self, line: int, message: str, remedy: str) -> None:
        if self.legacy:
            self.warn(line, message, remedy)
        else:
            self.error(line, message, remedy)

    def flag(self, block: Block, name: str) -> bool:
        attribute = self.attributes(block).get(name)
        if attribute is None:
            return False
        if not isinstance(attribute.value, bool):
            self.error(attribute.line, f"'{name}' must be true or false", f"write {name} = true, without quotes")
            return False
        return attribute.value
