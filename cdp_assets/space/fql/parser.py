"""FQL text as a tree.

    condition := term (('and' term)* | ('or' term)*)          the two do not mix without parentheses
    term      := '!' term | '(' condition ')' | value [comparison value]
    value     := text | number | 'true' | 'false' | 'null' | list | path | name '(' value (',' value)* ')'
    list      := '[' [literal (',' literal)*] ']'
    path      := key ('.' key)*      a key holds letters, digits, _ and -; a backslash takes any other character

Texts stand in double or single quotes and have no escapes. Words are lower case.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from cdp_assets.space.fql.functions import FUNCTIONS, glob, type_of
from cdp_assets.space.fql.tree import (
    COMPARISONS,
    DOCUMENTS,
    FIELDS,
    And,
    Call,
    Compare,
    Condition,
    FqlError,
    ListOf,
    Literal,
    Not,
    Or,
    Path,
    Value,
)

MAX_LENGTH = 10_000
MAX_DEPTH = 50
CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
WORDS = frozenset({"and", "or", "in", *CONSTANTS})

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
      | (?P<word>(?:[A-Za-z_]|\\.)(?:[A-Za-z0-9_-]|\\.)*(?:\.(?:[A-Za-z0-9_-]|\\.)+)*)
      | (?P<sign><=|>=|!=|[=<>!(),\[\]])""",
    re.VERBOSE | re.DOTALL,
)
_KEY = re.compile(r"(?:[^.\\]|\\.)+", re.DOTALL)


def parse(text: str) -> Condition:
    """The condition that a text says. Raises FqlError with position, cause and remedy."""
    parser = _Parser(text)
    condition = parser.condition()
    parser.end()
    return condition


def parse_value(text: str) -> Value | Condition:
    """The value that a text says, or the condition, whose value is true or false. Raises FqlError."""
    parser = _Parser(text)
    try:
        value = parser.value()
        parser.end()
        return value
    except FqlError:
        return parse(text)


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise FqlError(f"the text has more than {MAX_LENGTH} characters", "split the condition", MAX_LENGTH)
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _unreadable(text[position], position + 1)
        if match.lastgroup != "space":
            found.append(_Token(str(match.lastgroup), match[0], position + 1))
        position = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


def _unreadable(character: str, position: int) -> FqlError:
    if character in "\"'":
        return FqlError("a text is not closed", "close it with the same quote", position)
    if character in "&|":
        return FqlError("a sign that FQL does not have", "write and, or", position)
    return FqlError("a character that cannot stand here", "put texts in quotes; in a field's name write \\ before it", position)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *words: str) -> _Token | None:
        """The next token if it is one of these words or signs; a text in quotes never is."""
        token = self._next
        if token.kind in ("word", "sign") and token.text in words:
            self._at += 1
            return token
        return None

    def _expect(self, sign: str, remedy: str) -> None:
        if not self._take(sign):
            raise FqlError(f"'{sign}' is missing", remedy, self._next.position)

    def end(self) -> None:
        if self._next.kind != "end":
            raise self._unexpected()

    def _unexpected(self) -> FqlError:
        token = self._next
        if token.text.lower() in WORDS and token.kind == "word":
            return FqlError(
                f"'{token.text}' cannot stand here", "words are lower case: and, or, in, true, false, null", token.position
            )
        return FqlError("what follows belongs to nothing", "join conditions by and, or", token.position)

    # -- conditions --------------------------------------------------------------------------------------------------------

    def condition(self) -> Condition:
        terms, joined = [self._term()], ""
        while token := self._take("and", "or"):
            if joined and joined != token.text:
                raise FqlError("'and' and 'or' are mixed", "put parentheses around what belongs together", token.position)
            joined = token.text
            terms.append(self._term())
        if not joined:
            return terms[0]
        return And(tuple(terms)) if joined == "and" else Or(tuple(terms))

    def _term(self) -> Condition:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FqlError(f"nested more than {MAX_DEPTH} deep", "write fewer levels", self._next.position)
        term = self._negation() or self._group() or self._comparison()
        self._depth -= 1
        return term

    def _negation(self) -> Condition | None:
        if not self._take("!"):
            return None
        start = self._next
        term = self._term()
        if isinstance(term, Compare) and start.text != "(":
            raise FqlError("'!' before a comparison", "put the comparison in parentheses: !(…)", start.position)
        return Not(term)

    def _group(self) -> Condition | None:
        if not self._take("("):
            return None
        condition = self.condition()
        self._expect(")", "close the parenthesis")
        return condition

    def _comparison(self) -> Condition:
        start = self._next
        left = self.value()
        sign = self._take(*COMPARISONS)
        if sign is None:
            return self._alone(left, start)
        position = self._next.position
        right = self.value()
        if sign.text == "in":
            if not isinstance(right, ListOf | Path):
                raise FqlError("'in' without a list", "write [a, b], or a field that holds a list", position)
        elif sign.text not in ("=", "!="):
            self._check_numbers(sign, left, right)
        return Compare(sign.text, left, right)

    def _check_numbers(self, sign: _Token, *sides: Value) -> None:
        for side in sides:
            if isinstance(side, ListOf) or (isinstance(side, Literal) and type_of(side.value) != "number"):
                raise FqlError(f"'{sign.text}' compares numbers only", "write a number, or number(…)", sign.position)

    def _alone(self, value: Value, start: _Token) -> Condition:
        """A value without a comparison, where it is a condition."""
        if isinstance(value, Call) and FUNCTIONS[value.name].condition:
            return value
        if isinstance(value, Literal) and isinstance(value.value, bool):
            return value
        if isinstance(value, Path) and value.keys[0] in DOCUMENTS and len(value.keys) > 1:
            return value
        if self._next.kind not in ("end", "sign") and self._next.text not in WORDS:
            raise self._unexpected()
        raise FqlError("Value token is missing", 'write an operator and a value, e.g. type = "track"', start.position)

    # -- values ------------------------------------------------------------------------------------------------------------

    def value(self) -> Value:
        token = self._next
        if self._take("["):
            return self._list()
        if token.kind != "word" or token.text in CONSTANTS:
            return self._literal()
        if token.text in WORDS:
            raise self._unexpected()
        self._at += 1
        if self._take("("):
            return self._call(token)
        return _path(token)

    def _literal(self) -> Literal:
        token = self._next
        self._at += 1
        if token.kind == "text":
            return Literal(token.text[1:-1])
        if token.kind == "number":
            return Literal(_number(token))
        if token.kind == "word" and token.text in CONSTANTS:
            return Literal(CONSTANTS[token.text])
        self._at -= 1
        if token.kind == "end":
            raise FqlError(
                "the text ends where a value should be",
                "write a field, a text in quotes, a number, true, false or null",
                token.position,
            )
        raise FqlError(
            f"no value at '{token.text}'", "write a field, a text in quotes, a number, true, false or null", token.position
        )

    def _list(self) -> ListOf:
        if self._take("]"):
            return ListOf(())
        items = [self._literal()]
        while self._take(","):
            items.append(self._literal())
        self._expect("]", "close the list")
        return ListOf(tuple(items))

    def _call(self, name: _Token) -> Call:
        function = FUNCTIONS.get(name.text)
        if function is None:
            raise FqlError(f"unknown function '{name.text}'", _closest(name.text, FUNCTIONS), name.position)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FqlError(f"nested more than {MAX_DEPTH} deep", "write fewer levels", name.position)
        arguments = [] if self._next.text == ")" and self._next.kind == "sign" else [self.value()]
        while self._take(","):
            arguments.append(self.value())
        self._expect(")", "close the parenthesis")
        self._depth -= 1
        if len(arguments) != function.arity:
            raise FqlError(
                f"'{name.text}' takes {function.arity} values, not {len(arguments)}", "correct its values", name.position
            )
        if name.text == "match" and isinstance(arguments[1], Literal):
            _check_glob(arguments[1], name.position)
        return Call(name.text, tuple(arguments))


def _path(token: _Token) -> Path:
    keys = tuple(re.sub(r"\\(.)", r"\1", key, flags=re.DOTALL) for key in _KEY.findall(token.text))
    if keys[0] not in FIELDS:
        raise FqlError(f"unknown field '{keys[0]}'", _closest(keys[0], FIELDS), token.position)
    if len(keys) > 1 and keys[0] not in DOCUMENTS:
        raise FqlError(
            f"'{keys[0]}' has no fields of its own", f"fields are below {', '.join(sorted(DOCUMENTS))}", token.position
        )
    return Path(keys)


def _check_glob(pattern: Literal, position: int) -> None:
    if not isinstance(pattern.value, str):
        raise FqlError("the pattern of 'match' is not a text", "put it in quotes", position)
    try:
        glob(pattern.value)
    except FqlError as error:
        raise FqlError(error.cause, error.remedy, position) from None


def _number(token: _Token) -> int | float:
    if len(token.text) <= 400:
        value = int(token.text) if token.text.lstrip("-").isdigit() else float(token.text)
        if isinstance(value, int) or math.isfinite(value):
            return value
    raise FqlError("a number that is too large", "write a smaller one", token.position)


def _closest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1, 0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
