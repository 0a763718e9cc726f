"""Query text as a syntax tree.

    definition := conjunction ('OR' conjunction)*
    conjunction := negation ('AND' negation)*
    negation   := 'NOT' negation | '(' definition ')' | comparison
    comparison := chain [sign operand]                   sign: = == != > >= < <=
    chain      := call ('.' call)*
    call       := name '(' [argument (',' argument)*] ')'
    argument   := ['parent' ':'] (duration | list | literal | definition)
    duration   := whole number, 'hour' 'hours' 'day' 'days'
    list       := '[' [literal (',' literal)*] ']'
    literal    := text | number | 'true' | 'false'

Texts stand in single or double quotes; a backslash takes the quote or a backslash. Which calls there are, and what may follow
which, is said in :mod:`.conditions`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

MAX_LENGTH = 20_000
MAX_DEPTH = 30
MAX_COMPARISONS = 50  # "primary expressions": every comparison, those within where() too

SIGNS = {
    "=": "equals",
    "==": "equals",
    "!=": "differs",
    ">": "greater_than",
    ">=": "at_least",
    "<": "less_than",
    "<=": "at_most",
}

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>==|!=|<=|>=|[=<>(),.:\[\]])""",
    re.VERBOSE | re.DOTALL,
)


class QueryError(ValueError):
    """Text that is no query, or conditions that one of the two forms cannot say. It quotes names of the language, never values.

    ``line`` and ``column`` count from 1; None where no text is concerned.
    """

    def __init__(self, cause: str, remedy: str, at: At | None = None) -> None:
        where = "" if at is None else f" (line {at.line}, column {at.column} of the query)"
        super().__init__(f"{cause}{where}; {remedy}")
        self.cause, self.remedy = cause, remedy
        self.line = at.line if at else None
        self.column = at.column if at else None


class At(NamedTuple):
    """A place in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | bool | int | float
    at: At


@dataclass(frozen=True, slots=True)
class ListOf:
    items: tuple[Literal, ...]
    at: At


@dataclass(frozen=True, slots=True)
class Duration:
    """``7 days``; parent: counted from the outer event."""

    amount: int
    unit: str
    at: At
    parent: bool = False


@dataclass(frozen=True, slots=True)
class OfParent:
    """``parent: 'name'``"""

    value: Literal
    at: At


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Argument, ...]
    at: At


@dataclass(frozen=True, slots=True)
class Chain:
    """``call.call…``, and what a sign compares it with: (operator, operand)."""

    calls: tuple[Call, ...]
    at: At
    compared: tuple[str, Chain | Literal] | None = None


@dataclass(frozen=True, slots=True)
class Not:
    of: Expression


@dataclass(frozen=True, slots=True)
class Joined:
    """At least two conditions, all or any of them."""

    match: str
    of: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A condition in parentheses."""

    of: Expression


Expression = Chain | Not | Joined | Group
Argument = Literal | ListOf | Duration | OfParent | Expression


def parse(text: str) -> Expression:
    """The syntax tree of a definition. Raises QueryError with place, cause and remedy."""
    parser = _Parser(text)
    tree = parser.definition()
    parser.end()
    return tree


class _Token(NamedTuple):
    kind: str
    text: str
    at: At


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise QueryError(f"the query has more than {MAX_LENGTH} characters", "split the audience")
    found, position, line, start = [], 0, 1, 0
    while position < len(text):
        at = At(line, position - start + 1)
        match = _TOKEN.match(text, position)
        if match is None:
            if text[position] in "\"'":
                raise QueryError("a text is not closed", "close it with the same quote", at)
            raise QueryError("a character that cannot stand here", "put names and texts in single quotes", at)
        if match.lastgroup != "space":
            found.append(_Token(str(match.lastgroup), match[0], at))
        line += match[0].count("\n")
        if "\n" in match[0]:
            start = position + match[0].rindex("\n") + 1
        position = match.end()
    return [*found, _Token("end", "", At(line, position - start + 1))]


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._position = 0
        self._depth = 0
        self._comparisons = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _is_word(self, *words: str) -> bool:
        return self._next.kind == "word" and self._next.text.upper() in words

    def _take_word(self, word: str) -> _Token | None:
        return self._advance() if self._is_word(word) else None

    def _take_sign(self, *signs: str) -> _Token | None:
        return self._advance() if self._next.kind == "sign" and self._next.text in signs else None

    def _advance(self) -> _Token:
        token = self._next
        self._position += 1
        return token

    def _expect(self, sign: str, remedy: str) -> None:
        if not self._take_sign(sign):
            raise QueryError(f"'{sign}' is missing", remedy, self._next.at)

    def end(self) -> None:
        if self._next.kind != "end":
            raise QueryError("what follows belongs to nothing", "join conditions by AND, OR", self._next.at)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise QueryError(f"nested more than {MAX_DEPTH} deep", "write fewer levels", self._next.at)

    # -- conditions --------------------------------------------------------------------------------------------------------

    def definition(self) -> Expression:
        self._deeper()
        tree = self._joined("OR", "any", lambda: self._joined("AND", "all", self._negation))
        self._depth -= 1
        return tree

    def _joined(self, word: str, match: str, part: Callable[[], Expression]) -> Expression:
        parts = [part()]
        while self._take_word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(match, tuple(parts))

    def _negation(self) -> Expression:
        if self._take_word("NOT"):
            self._deeper()
            negated = Not(self._negation())
            self._depth -= 1
            return negated
        if self._take_sign("("):
            tree = self.definition()
            self._expect(")", "close the parenthesis")
            return Group(tree)
        return self._comparison()

    def _comparison(self) -> Chain:
        start = self._next
        chain = self._chain()
        sign = self._take_sign(*SIGNS)
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise QueryError(f"more than {MAX_COMPARISONS} primary expressions", "split the audience in several", start.at)
        if sign is None:
            return chain
        operand = self._literal() if self._next.kind in ("text", "number") or self._is_word("TRUE", "FALSE") else self._chain()
        return Chain(chain.calls, chain.at, (SIGNS[sign.text], operand))

    def _chain(self) -> Chain:
        start = self._next
        calls = [self._call()]
        while self._take_sign("."):
            calls.append(self._call())
        return Chain(tuple(calls), start.at)

    def _call(self) -> Call:
        token = self._next
        if token.kind != "word" or self._is_word("AND", "OR", "NOT", "TRUE", "FALSE"):
            what = "the query ends where a condition should be" if token.kind == "end" else "no condition"
            raise QueryError(what, "write event('…'), trait('…'), entity('…') and what follows them", token.at)
        self._advance()
        self._expect("(", f"write {token.text}(…)")
        arguments = [] if self._next.text == ")" and self._next.kind == "sign" else [self._argument()]
        while self._take_sign(","):
            arguments.append(self._argument())
        self._expect(")", "close the parenthesis")
        return Call(token.text, tuple(arguments), token.at)

    # -- arguments ---------------------------------------------------------------------------------------------------------

    def _argument(self) -> Argument:
        token = self._next
        following = self._tokens[self._position + 1] if token.kind != "end" else token
        if token.kind == "word" and (following.kind, following.text) == ("sign", ":"):
            return self._named()
        if token.kind == "number" and following.kind == "word":
            return self._duration()
        if self._take_sign("["):
            return self._list(token.at)
        if token.kind in ("text", "number") or self._is_word("TRUE", "FALSE"):
            return self._literal()
        return self.definition()

    def _named(self) -> Duration | OfParent:
        name = self._advance()
        self._advance()
        if name.text != "parent":
            raise QueryError(f"'{name.text}:' is not known here", "only parent: may stand before a value", name.at)
        if self._next.kind == "number":
            duration = self._duration()
            return Duration(duration.amount, duration.unit, name.at, parent=True)
        return OfParent(self._literal(), name.at)

    def _duration(self) -> Duration:
        token = self._advance()
        unit = self._next
        if unit.kind != "word" or unit.text.lower().rstrip("s") not in ("hour", "day"):
            raise QueryError("a length of time without its unit", "write hours or days after the number", unit.at)
        self._advance()
        if not token.text.isdigit():
            raise QueryError("a length of time that is no whole number", "write one, e.g. 7 days", token.at)
        return Duration(int(token.text), unit.text.lower().rstrip("s") + "s", token.at)

    def _list(self, at: At) -> ListOf:
        items = [] if self._next.text == "]" and self._next.kind == "sign" else [self._literal()]
        while self._take_sign(","):
            items.append(self._literal())
        self._expect("]", "close the list")
        return ListOf(tuple(items), at)

    def _literal(self) -> Literal:
        token = self._next
        if token.kind == "text":
            self._advance()
            return Literal(re.sub(r"\\([\\'\"])", r"\1", token.text[1:-1]), token.at)
        if token.kind == "number":
            self._advance()
            return Literal(_number(token), token.at)
        if self._is_word("TRUE", "FALSE"):
            return Literal(self._advance().text.upper() == "TRUE", token.at)
        raise QueryError("no value", "write a text in single quotes, a number, true or false", token.at)


def _number(token: _Token) -> int | float:
    if len(token.text) <= 300:
        value = int(token.text) if token.text.lstrip("-").isdigit() else float(token.text)
        if math.isfinite(value):
            return value
    raise QueryError("a number that is too large", "write a smaller one", token.at)
