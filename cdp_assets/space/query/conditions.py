"""A query's syntax tree as the conditions that an audience's file would say.

What belongs here: which calls there are, what may follow which, and how AND, OR and NOT become groups. An audience has two levels,
groups and their conditions; deeper queries are multiplied out to groups of all joined by any, which keeps members and context.
NOT goes down to the conditions, where each has an opposite.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cdp_assets.space.query.syntax import (
    MAX_COMPARISONS,
    Argument,
    At,
    Call,
    Chain,
    Duration,
    Expression,
    Group,
    Joined,
    ListOf,
    Literal,
    Not,
    OfParent,
    QueryError,
    parse,
)

Said = dict[str, Any]
Place = tuple[str | int, ...]

# A condition's own line, until the tree is complete.
_LINE = "\0line"

_VALUED = frozenset(
    {"equals", "differs", "less_than", "at_most", "greater_than", "at_least", "omits", "starts_with", "ends_with"}
)
_DATED = frozenset({"before_date", "after_date"})
_LISTED = frozenset({"one_of", "none_of", "contains"})
_SPANS = frozenset({"within_last", "within_next", "before_last", "after_next"})
_UNARY = frozenset({"exists", "absent"})
COMPARATORS = _VALUED | _DATED | _LISTED | _SPANS | _UNARY
_OTHER_REDUCERS = frozenset({"sum", "avg", "min", "max", "mode", "first", "last", "unique"})
_OPPOSITE = {"exists": "absent", "absent": "exists", "contains": "omits", "omits": "contains"}
# With what "or absent" completes it: differs is false on null, and so is its opposite.
_COMPLEMENT = {"equals": "differs", "differs": "equals", "one_of": "none_of", "none_of": "one_of"}
_ORDERED = {
    "less_than": "at_least",
    "at_least": "less_than",
    "greater_than": "at_most",
    "at_most": "greater_than",
}


@dataclass(frozen=True)
class Compiled:
    """``match`` and ``groups`` as in an audience's file. lines: of each condition and filter, by its place there, line of the text."""

    match: str
    groups: list[Said]
    lines: dict[Place, int]


@dataclass(frozen=True)
class _All:
    of: tuple[_Tree, ...]
    own: bool = False  # written in parentheses


@dataclass(frozen=True)
class _Any:
    of: tuple[_Tree, ...]
    own: bool = False


_Tree = _All | _Any | Said


def compile_query(text: str) -> Compiled:
    """The conditions that a query says. Raises QueryError with place, cause and remedy."""
    tree = _tree(parse(text), False, lambda chain, negated: _top(chain, negated))
    match, groups = _groups(tree)
    lines: dict[Place, int] = {}
    return Compiled(match, _without_lines(groups, ("groups",), lines), lines)


def _without_lines(value: Any, place: Place, lines: dict[Place, int]) -> Any:
    if isinstance(value, dict):
        if _LINE in value:
            lines[place] = value[_LINE]
        return {key: _without_lines(item, (*place, key), lines) for key, item in value.items() if key != _LINE}
    if isinstance(value, list):
        return [_without_lines(item, (*place, index), lines) for index, item in enumerate(value)]
    return value


# -- AND, OR and NOT -----------------------------------------------------------------------------------------------------


def _tree(expression: Expression, negated: bool, leaf: Any, own: bool = False) -> _Tree:
    """The expression with NOT gone down to the leaves: conditions, and all or any of them."""
    match expression:
        case Not(of):
            return _tree(of, not negated, leaf, own)
        case Group(of):
            return _tree(of, negated, leaf, own=True)
        case Joined(match, of):
            kind = _All if (match == "all") != negated else _Any
            return kind(tuple(_tree(part, negated, leaf) for part in of), own)
        case Chain():
            tree = leaf(expression, negated)
            return _All((tree,), own=True) if own and isinstance(tree, dict) else tree


def _groups(tree: _Tree) -> tuple[str, list[Said]]:
    """(match, groups) of an audience."""
    if isinstance(tree, dict):
        return "all", [_group("all", [tree])]
    kind, match = (_All, "all") if isinstance(tree, _All) else (_Any, "any")
    parts = list(_flat(tree, kind))
    if not all(isinstance(part, dict) or all(isinstance(one, dict) for one in part.of) for part in parts):
        return "any", [_group("all", conditions) for conditions in _multiplied(tree)]
    loose = [part for part in parts if isinstance(part, dict)]
    groups: list[Said] = []
    for part in parts:
        if isinstance(part, dict):
            if part is loose[0]:
                groups.append(_group(match, loose))
        else:
            groups.append(_group("all" if isinstance(part, _All) else "any", [one for one in part.of if isinstance(one, dict)]))
    return match if len(groups) > 1 else "all", groups


def _group(match: str, conditions: list[Said]) -> Said:
    return {"match": match if len(conditions) > 1 else "all", "conditions": conditions}


def _flat(tree: _All | _Any, kind: type) -> Iterator[_Tree]:
    """Parts of a junction; a junction of the same kind within is taken apart, unless it is a group that somebody wrote as one."""
    for part in tree.of:
        if isinstance(part, kind) and isinstance(part, _All | _Any):
            if part.own and all(isinstance(one, dict) for one in part.of):
                yield part
            else:
                yield from _flat(part, kind)
        elif isinstance(part, _All | _Any):
            yield type(part)(tuple(_flat(part, type(part))), part.own)
        else:
            yield part


def _multiplied(tree: _Tree) -> list[list[Said]]:
    """Groups of all, joined by any, that say the same."""
    if isinstance(tree, dict):
        return [[tree]]
    below = [_multiplied(part) for part in tree.of]
    if isinstance(tree, _Any):
        found = [conditions for part in below for conditions in part]
    else:
        found = [list(itertools.chain(*chosen)) for chosen in itertools.product(*below)] if _size(below) else []
    if not found or sum(map(len, found)) > MAX_COMPARISONS:
        raise QueryError(
            f"AND and OR are nested so deep that an audience would need more than {MAX_COMPARISONS} conditions to say it",
            "make inner parts audiences of their own and name these",
        )
    return found


def _size(below: list[list[list[Said]]]) -> bool:
    """Whether the product is small enough to be made at all."""
    size = 1
    for part in below:
        size *= len(part)
    return size <= MAX_COMPARISONS


# -- conditions of a profile ---------------------------------------------------------------------------------------------


def _top(chain: Chain, negated: bool) -> _Tree:
    first = chain.calls[0]
    match first.name:
        case "trait":
            said = _comparison(chain, 1)
            if "reference" in said:
                raise QueryError("a trait is compared with a trait", "compare a property with it, or write a value", chain.at)
            name = _name(first)
            return {"without_trait" if negated else "with_trait": name, **said, _LINE: chain.at.line}
        case "event":
            return _event(chain, negated)
        case "entity":
            return _entity(chain, negated, None)
        case "property" | "context":
            raise QueryError(f"{first.name}() outside of where()", "put it in where(…) of an event or an entity", first.at)
        case "ANY" | "ALL":
            raise QueryError(f"{first.name}(…) is about accounts", "an audience here is of profiles; leave it out", first.at)
    raise _unknown(first, ("event", "trait", "entity"))


def _event(chain: Chain, negated: bool) -> _Tree:
    said: Said = {}
    for call in _filters(chain, ("where", "within", "between")):
        _once(call, said, "within" if call.name == "between" else call.name, said)
        match call.name:
            case "where":
                said["where"] = _event_filters(_expression(call))
            case "within":
                last = _duration(call, 0, 1)
                said["within"] = {"last": last.amount, "unit": last.unit}
            case "between":
                said["between"] = _between(call)
    return _counted("event", chain, said, negated)


def _between(call: Call) -> Said:
    one, other = _duration(call, 0, 2), _duration(call, 1, 2)
    unit = "days" if one.unit == other.unit == "days" else "hours"
    near, far = sorted(d.amount * (24 if unit == "hours" and d.unit == "days" else 1) for d in (one, other))
    if near == far:
        raise QueryError("between() with two equal edges", "write two different lengths of time", call.at)
    return {"from": far, "to": near, "unit": unit}


def _entity(chain: Chain, negated: bool, parent: str | None) -> _Tree:
    slug = _name(chain.calls[0])
    said: Said = {}
    for call in _filters(chain, ("where",)):
        _once(call, said, "where", said)
        said |= _entity_filters(_expression(call), slug, parent)
        said.setdefault("where", None)
    if said.get("where", 0) is None:
        del said["where"]
    return _counted("entity", chain, said, negated)


def _filters(chain: Chain, known: Sequence[str]) -> Iterator[Call]:
    """The calls between an extractor and its count(). Raises QueryError for calls that do not belong there."""
    source = chain.calls[0].name
    for index, call in enumerate(chain.calls[1:], 1):
        if call.name == "count":
            _arity(call, 0)
            if (chain.calls[index + 1 :] and chain.compared is not None) or len(chain.calls) > index + 2:
                raise QueryError("what follows the comparison belongs to nothing", "join conditions by AND, OR", call.at)
            return
        if call.name in known:
            yield call
        elif call.name in _OTHER_REDUCERS:
            raise QueryError(
                f"{call.name}() is no condition of an audience here",
                "make it a computed trait (traits/KEY.yaml) and compare trait('KEY')",
                call.at,
            )
        elif call.name in ("sources", "expires_after"):
            raise QueryError(f"{call.name}() is not supported in audiences", "filter on a property or on the context", call.at)
        else:
            raise _unknown(call, (*known, "count"))
    raise QueryError(f"{source}() is not counted", "end it with .count() >= 1", chain.at)


def _once(call: Call, said: Said, key: str, found: Said) -> None:
    if key in found or (key == "within" and "between" in said):
        raise QueryError(f"{call.name}() is given twice", "join its conditions by AND, or keep one", call.at)


def _counted(kind: str, chain: Chain, said: Said, negated: bool) -> _Tree:
    """The condition that there are so many; its opposite if negated."""
    at = next(index for index, call in enumerate(chain.calls) if call.name == "count")
    operator, number = _quantity(chain, at)
    if negated:
        operator = {**_ORDERED, "equals": "differs", "differs": "equals"}[operator]
    name = _name(chain.calls[0])

    def made(**quantifier: int) -> Said:
        return {f"with_{kind}": name, **quantifier, **said, _LINE: chain.at.line}

    def at_least(count: int) -> Said:
        return made() if count == 1 else made(at_least=count)

    def at_most(count: int, word: str = "at_most") -> Said:
        if count == 0 and (negated or operator == "less_than" or set(said) & {"where", "nested"}):
            return {f"without_{kind}": name, **said, _LINE: chain.at.line}
        return made(**{word: count})

    match operator, number:
        case ("at_least", 0) | ("less_than", 0):
            raise QueryError(
                f"a count is {'always' if operator == 'at_least' else 'never'} so",
                "compare it with 1 or more",
                chain.calls[at].at,
            )
        case "at_least", _:
            return at_least(number)
        case "greater_than", _:
            return at_least(number + 1)
        case "at_most", _:
            return at_most(number)
        case "less_than", _:
            return at_most(number - 1)
        case "equals", _:
            return at_most(0, "exactly") if number == 0 else made(exactly=number)
    if number == 0:
        return at_least(1)
    return _Any((at_most(number - 1), at_least(number + 1)))


def _quantity(chain: Chain, at: int) -> tuple[str, int]:
    if chain.compared is not None:
        operator, operand = chain.compared
        value = operand.value if isinstance(operand, Literal) else _literal_of(operand)
    elif len(chain.calls) == at + 2:
        call = chain.calls[at + 1]
        operator, value = call.name, _value(call)
    else:
        raise QueryError("a count without a comparison", "write .count() >= 1", chain.calls[at].at)
    if operator not in {*_ORDERED, "equals", "differs"} or isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise QueryError("a count is compared with whole numbers from 0 on", "write e.g. .count() >= 1", chain.calls[at].at)
    return operator, value


def _literal_of(operand: Chain) -> Any:
    if len(operand.calls) == 1 and operand.calls[0].name == "literal":
        return _value(operand.calls[0])
    return None


# -- what where() says ---------------------------------------------------------------------------------------------------


def _event_filters(expression: Expression) -> Said:
    def leaf(chain: Chain, negated: bool) -> _Tree:
        if chain.calls[0].name == "event":
            raise QueryError("an event within an event (a funnel)", "funnels cannot be said here; use two conditions", chain.at)
        return _filter(chain, negated, ("property", "context"), None, typed=False)

    tree = _tree(expression, False, leaf)
    match, filters = _one_level(tree, expression)
    return {match: filters}


def _entity_filters(expression: Expression, slug: str, parent: str | None) -> Said:
    """``where`` and ``nested`` of an entity condition."""

    def leaf(chain: Chain, negated: bool) -> _Tree:
        if chain.calls[0].name == "entity":
            return _entity(chain, negated, slug)
        return _filter(chain, negated, ("property",), parent, typed=True)

    tree = _tree(expression, False, leaf)
    parts = [tree] if isinstance(tree, dict | _Any) else list(_flat(tree, _All))
    found: dict[str, list[tuple[str, list[Said]]]] = {"where": [], "nested": []}
    for part in parts:
        match, leaves = _one_level(part, expression)
        for kind in found:
            mine = [one for one in leaves if ("column" not in one) == (kind == "nested")]
            if mine and match == "any" and len(mine) < len(leaves):
                raise _too_deep(expression, "properties and entities are joined by OR")
            if mine:
                found[kind].append((match if len(mine) > 1 else "all", mine))
    said: Said = {}
    for kind, pieces in found.items():
        if len(pieces) > 1 and any(match == "any" for match, _ in pieces):
            raise _too_deep(expression, "AND and OR are mixed")
        if pieces:
            match, leaves = pieces[0][0], [one for _, piece in pieces for one in piece]
            match = match if len(pieces) == 1 else "all"
            said[kind] = {match: leaves} if kind == "where" else {"match": match, "conditions": leaves}
    return said


def _one_level(tree: _Tree, expression: Expression) -> tuple[str, list[Said]]:
    """(match, leaves) of a tree that is a leaf, or all or any of leaves."""
    if isinstance(tree, dict):
        return "all", [tree]
    parts = list(_flat(tree, type(tree)))
    leaves: list[Said] = []
    for part in parts:
        inner = (
            [part] if isinstance(part, dict) else list(part.of) if isinstance(part, type(tree)) or len(part.of) == 1 else [part]
        )
        if not all(isinstance(one, dict) for one in inner):
            raise _too_deep(expression, "AND and OR are mixed")
        leaves += [one for one in inner if isinstance(one, dict)]
    return ("all" if isinstance(tree, _All) or len(leaves) == 1 else "any"), leaves


def _too_deep(expression: Expression, what: str) -> QueryError:
    return QueryError(
        f"{what} in where(), which has one list of all or of any",
        "rewrite it as one list, or filter in a view of the table",
        _first(expression).at,
    )


def _first(expression: Expression) -> Chain:
    while not isinstance(expression, Chain):
        expression = expression.of[0] if isinstance(expression, Joined) else expression.of
    return expression


def _filter(chain: Chain, negated: bool, known: Sequence[str], parent: str | None, *, typed: bool) -> _Tree:
    """A filter on a property or column; of a negated one its opposite, with nulls where NOT has them.

    typed: a column has a type, so that "not less" is "at least, or absent"; a property may be what cannot be compared at all.
    """
    first = chain.calls[0]
    if first.name not in known:
        if first.name == "trait":
            raise QueryError("a trait on the left side", "write the property first: property('…') = trait('…')", first.at)
        raise _unknown(first, known)
    if isinstance(first.arguments[0] if first.arguments else None, OfParent):
        raise QueryError("parent: on the left side", "write the property itself first", first.at)
    subject = {"column" if typed else first.name: _name(first)}
    said = {**subject, **_comparison(chain, 1, parent, typed=typed), _LINE: chain.at.line}
    if not negated:
        return said
    operator = said["operator"]
    if operator in _OPPOSITE and not isinstance(said.get("value"), list):
        return {**said, "operator": _OPPOSITE[operator]}
    value = said.get("value")
    text = all(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))
    opposite = {**_COMPLEMENT, **(_ORDERED if typed else {})}.get(operator)
    if opposite is None or "reference" in said or not (typed or text):
        raise QueryError(f"NOT before {operator} in where()", "say what should hold instead", chain.at)
    absent = {**subject, "operator": "absent", _LINE: chain.at.line}
    return _Any(({**said, "operator": opposite}, absent))


# -- comparisons ---------------------------------------------------------------------------------------------------------


def _comparison(chain: Chain, at: int, parent: str | None = None, *, typed: bool = False) -> Said:
    """Operator and operand of a chain whose extractor is before ``at``."""
    rest = chain.calls[at:]
    if chain.compared is not None:
        if rest:
            raise QueryError(f"{rest[0].name}() is no value to compare", "compare the trait or property itself", rest[0].at)
        operator, operand = chain.compared
        return {"operator": operator, **_operand(operand, operator, parent, typed)}
    if not rest:
        raise QueryError("a condition without a comparison", "write a sign and a value, or e.g. .exists()", chain.at)
    if len(rest) > 1:
        raise QueryError(f"{rest[1].name}() after a comparison", "join conditions by AND, OR", rest[1].at)
    call = rest[0]
    if call.name in _UNARY:
        _arity(call, 0)
        return {"operator": call.name}
    if call.name in _SPANS:
        span = _duration(call, 0, 1)
        return {"operator": call.name, "amount": span.amount, "unit": span.unit}
    if call.name in _LISTED:
        values = _values(call)
        single = call.name == "contains" and len(values) == 1
        if single and isinstance(call.arguments[0], Chain):
            return {"operator": call.name, **_operand(call.arguments[0], call.name, parent, typed)}
        return {"operator": call.name, "value": values[0] if single else values}
    if call.name in _VALUED | _DATED:
        _arity(call, 1)
        argument = call.arguments[0]
        if not isinstance(argument, Literal | Chain):
            raise QueryError(f"{call.name}() takes one value", "write a text, a number, true or false", call.at)
        return {"operator": call.name, **_operand(argument, call.name, parent, typed)}
    raise _unknown(call, COMPARATORS)


def _operand(operand: Chain | Literal, operator: str, parent: str | None, typed: bool) -> Said:
    if isinstance(operand, Literal):
        return {"value": operand.value}
    first = operand.calls[0]
    if len(operand.calls) > 1 or operand.compared is not None:
        raise QueryError("an operand that is computed", "compare with a value, a trait or a property", operand.at)
    if first.name == "literal":
        return {"value": _value(first)}
    if first.name == "trait":
        return {"reference": {"trait": _name(first)}}
    if first.name == "property" and typed:
        _arity(first, 1)
        argument = first.arguments[0]
        if isinstance(argument, OfParent):
            if parent is None:
                raise QueryError("parent: where there is no entity above", "leave it out", first.at)
            return {"reference": {"column": _text(argument.value), "of": parent}}
        return {"reference": {"column": _name(first)}}
    raise QueryError(
        f"{first.name}() on the right side of {operator}",
        "compare with a value, a trait" + (" or a property" if typed else ""),
        first.at,
    )


def _arity(call: Call, count: int) -> None:
    if len(call.arguments) != count:
        takes = {0: "nothing", 1: "one value"}.get(count, f"{count} values")
        raise QueryError(f"{call.name}() takes {takes}", "correct what stands in its parentheses", call.at)


def _expression(call: Call) -> Expression:
    _arity(call, 1)
    argument = call.arguments[0]
    if not isinstance(argument, Chain | Not | Joined | Group):
        raise QueryError(f"{call.name}() takes a condition", "write e.g. property('…') = '…'", call.at)
    return argument


def _name(call: Call) -> str:
    _arity(call, 1)
    argument = call.arguments[0]
    if isinstance(argument, OfParent):
        raise QueryError("parent: cannot stand here", "leave it out", call.at)
    return _text(argument, call.at)


def _text(argument: Argument, at: At | None = None) -> str:
    if not isinstance(argument, Literal) or not isinstance(argument.value, str) or not argument.value:
        raise QueryError("a name is missing", "write it as a text in single quotes", at or getattr(argument, "at", None))
    return argument.value


def _value(call: Call) -> Any:
    _arity(call, 1)
    argument = call.arguments[0]
    if not isinstance(argument, Literal):
        raise QueryError(f"{call.name}() takes one value", "write a text, a number, true or false", call.at)
    return argument.value


def _values(call: Call) -> list[Any]:
    arguments: Iterable[Argument] = call.arguments
    if len(call.arguments) == 1 and isinstance(call.arguments[0], ListOf):
        arguments = call.arguments[0].items
    if call.name == "contains" and len(call.arguments) == 1 and isinstance(call.arguments[0], Chain):
        return [None]
    values = [argument.value for argument in arguments if isinstance(argument, Literal)]
    if not values or len(values) < len(list(arguments)):
        raise QueryError(f"{call.name}() takes values", "write them separated by commas", call.at)
    return values


def _duration(call: Call, index: int, count: int) -> Duration:
    _arity(call, count)
    argument = call.arguments[index]
    if not isinstance(argument, Duration):
        raise QueryError(f"{call.name}() takes a length of time", "write e.g. 7 days", call.at)
    if argument.parent:
        raise QueryError(
            "a window counted from another event (a funnel)", "funnels cannot be said here; leave parent: out", call.at
        )
    return argument


def _unknown(call: Call, known: Iterable[str]) -> QueryError:
    names = sorted(known)
    close = difflib.get_close_matches(call.name, names, 1, 0.6)
    remedy = f"did you mean {close[0]}()?" if close else f"known here: {', '.join(names)}"
    return QueryError(f"{call.name}() cannot stand here", remedy, call.at)
