"""Random condition trees that the query language can say, and the plain form in which two that mean the same are equal."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import strategies as st

from cdp_assets.space.models.audiences import Audience

NAMES = st.sampled_from(["a", "b c", "it's", 'q"', "back\\slash", "x.y", "NOT"])
WORDS = st.one_of(NAMES, st.text(max_size=6))
NUMBERS = st.one_of(st.integers(-10, 10), st.floats(-1e6, 1e6, allow_nan=False))
DATES = st.sampled_from([dt.date(2026, 1, 1), dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC), "2026-01-01"])


@st.composite
def comparisons(draw: Any, *, reference: st.SearchStrategy[dict[str, Any]] | None = None) -> dict[str, Any]:
    kinds = [
        "equal",
        "order",
        "list",
        "text",
        "pieces",
        "unary",
        "span",
        "date",
        *(["reference"] if reference is not None else []),
    ]
    kind = draw(st.sampled_from(kinds))
    equal, order = ["equals", "differs"], ["less_than", "at_most", "greater_than", "at_least"]
    match kind:
        case "equal":
            return {"operator": draw(st.sampled_from(equal)), "value": draw(st.one_of(WORDS, NUMBERS, st.booleans()))}
        case "order":
            return {"operator": draw(st.sampled_from(order)), "value": draw(NUMBERS)}
        case "list":
            values = draw(st.one_of(st.lists(WORDS, min_size=1, max_size=3), st.lists(NUMBERS, min_size=1, max_size=3)))
            return {"operator": draw(st.sampled_from(["one_of", "none_of"])), "value": values}
        case "text":
            return {"operator": draw(st.sampled_from(["contains", "omits", "starts_with", "ends_with"])), "value": draw(WORDS)}
        case "pieces":
            return {"operator": "contains", "value": draw(st.lists(WORDS, min_size=1, max_size=3))}
        case "unary":
            return {"operator": draw(st.sampled_from(["exists", "absent"]))}
        case "span":
            spans = ["within_last", "within_next", "before_last", "after_next"]
            unit = draw(st.sampled_from(["hours", "days"]))
            return {"operator": draw(st.sampled_from(spans)), "amount": draw(st.integers(0, 99)), "unit": unit}
        case "date":
            return {"operator": draw(st.sampled_from(["before_date", "after_date", *order])), "value": draw(DATES)}
    assert reference is not None
    operators = [*equal, *order, "contains", "omits", "starts_with", "ends_with"]
    return {"operator": draw(st.sampled_from(operators)), "reference": draw(reference)}


def filters(one: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.sampled_from(["all", "any"]), st.lists(one, min_size=1, max_size=3)).map(lambda pair: dict([pair]))


QUANTIFIERS = st.sampled_from([{}, {"at_least": 1}, {"at_least": 3}, {"exactly": 2}, {"at_most": 2}])


@st.composite
def quantified(draw: Any, kind: str, name: str, said: dict[str, Any]) -> dict[str, Any]:
    side = draw(st.integers(0, 4))
    if side == 0:
        return {f"without_{kind}": name, **said}
    if side == 1 and not set(said) & {"where", "nested"}:
        return {f"with_{kind}": name, **draw(st.sampled_from([{"exactly": 0}, {"at_most": 0}])), **said}
    return {f"with_{kind}": name, **draw(QUANTIFIERS), **said}


@st.composite
def entities(draw: Any, parent: str | None = None, depth: int = 2) -> dict[str, Any]:
    slug = ["payments", "cards", "accounts"][depth]
    references = [st.fixed_dictionaries({"trait": NAMES}), st.fixed_dictionaries({"column": NAMES})]
    if parent is not None:
        references.append(st.fixed_dictionaries({"column": NAMES, "of": st.just(parent)}))
    column = st.tuples(NAMES, comparisons(reference=st.one_of(references))).map(lambda p: {"column": p[0], **p[1]})
    said: dict[str, Any] = {}
    if draw(st.booleans()):
        said["where"] = draw(filters(column))
    if depth and draw(st.booleans()):
        nested = st.lists(entities(slug, depth - 1), min_size=1, max_size=2)
        said["nested"] = {"match": draw(st.sampled_from(["all", "any"])), "conditions": draw(nested)}
    return draw(quantified("entity", slug, said))


@st.composite
def events(draw: Any) -> dict[str, Any]:
    subject = st.one_of(st.tuples(st.just("property"), NAMES), st.tuples(st.just("context"), NAMES))
    reference = st.fixed_dictionaries({"trait": NAMES})
    one = st.tuples(subject, comparisons(reference=reference)).map(lambda p: {p[0][0]: p[0][1], **p[1]})
    said: dict[str, Any] = {}
    if draw(st.booleans()):
        said["where"] = draw(filters(one))
    unit = draw(st.sampled_from(["hours", "days"]))
    said |= draw(st.sampled_from([{}, {"within": {"last": 7, "unit": unit}}, {"between": {"from": 9, "to": 0, "unit": unit}}]))
    return draw(quantified("event", draw(NAMES), said))


@st.composite
def traits(draw: Any) -> dict[str, Any]:
    return {draw(st.sampled_from(["with_trait", "without_trait"])): draw(NAMES), **draw(comparisons())}


MEMBERSHIPS = st.sampled_from([{"part_of": "other"}, {"not_part_of": "other"}])


def audiences() -> st.SearchStrategy[dict[str, Any]]:
    """``match`` and ``groups`` of an audience."""
    junction = st.sampled_from(["all", "any"])
    condition = st.one_of(entities(), events(), traits(), MEMBERSHIPS)
    group = st.fixed_dictionaries({"match": junction, "conditions": st.lists(condition, min_size=1, max_size=3)})
    return st.fixed_dictionaries({"match": junction, "groups": st.lists(group, min_size=1, max_size=3)})


def plain(audience: Audience) -> Any:
    """The conditions without what makes no difference: how one thing is joined, dates as such or as texts, defaults."""
    return _plain(audience.model_dump(include={"match", "groups"}, exclude_none=True, by_alias=True))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        found = {key: _plain(item) for key, item in value.items()}
        for several in ("groups", "conditions"):
            if several in found and len(found[several]) == 1:
                found["match"] = "all"
        if set(found) == {"any"} and len(found["any"]) == 1:
            found = {"all": found["any"]}
        if found.get("at_least") == 1:
            del found["at_least"]
        if found.get("operator") == "contains" and isinstance(found.get("value"), list) and len(found["value"]) == 1:
            found["value"] = found["value"][0]
        return found
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dt.date):
        return value.isoformat()
    return value
