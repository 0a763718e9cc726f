"""``audiences/*.yaml``: comparisons, filters, conditions over the data graph, and audiences made of them."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from cdp_assets.space.base import Model
from cdp_assets.space.models.common import Between, Schedule, Slug, Span, Unit
from cdp_assets.space.query import compile_query


class Operator(StrEnum):
    """Filter operators with Segment's null and date semantics (docs/design.md, Formats)."""

    equals = "equals"
    differs = "differs"
    less_than = "less_than"
    at_most = "at_most"
    greater_than = "greater_than"
    at_least = "at_least"
    one_of = "one_of"
    none_of = "none_of"
    contains = "contains"
    omits = "omits"
    starts_with = "starts_with"
    ends_with = "ends_with"
    exists = "exists"
    absent = "absent"
    before_date = "before_date"
    after_date = "after_date"
    within_last = "within_last"
    within_next = "within_next"
    before_last = "before_last"
    after_next = "after_next"


UNARY = frozenset({Operator.exists, Operator.absent})
LISTS = frozenset({Operator.one_of, Operator.none_of})
SPANS = frozenset({Operator.within_last, Operator.within_next, Operator.before_last, Operator.after_next})
DATES = frozenset({Operator.before_date, Operator.after_date})
TEXTS = frozenset({Operator.contains, Operator.omits, Operator.starts_with, Operator.ends_with})
ORDERS = frozenset({Operator.less_than, Operator.at_most, Operator.greater_than, Operator.at_least})
REFERENCES = frozenset({Operator.equals, Operator.differs}) | ORDERS | TEXTS

Scalar = str | bool | int | float | dt.datetime | dt.date


class Comparison(Model):
    """Operator and its operand: ``value`` (a list for one_of, none_of and contains), or ``amount`` and ``unit`` for relative dates."""

    operator: Operator
    value: Scalar | tuple[Scalar, ...] | None = None
    amount: int | None = Field(None, ge=0, description="For within_last, within_next, before_last, after_next.")
    unit: Unit = Unit.days

    @model_validator(mode="after")
    def _operand(self) -> Comparison:
        reference: TraitReference | ColumnReference | None = getattr(self, "reference", None)
        if reference is not None:
            if self.value is not None or self.amount is not None:
                raise ValueError("give one of 'value' and 'reference'")
            if self.operator not in REFERENCES:
                raise ValueError(f"{self.operator} takes no reference; use {', '.join(sorted(REFERENCES))}, or write a 'value'")
            return self
        if self.operator in UNARY and (self.value is not None or self.amount is not None):
            raise ValueError(f"{self.operator} takes no value")
        if self.operator in SPANS and (self.amount is None or self.value is not None):
            raise ValueError(f"{self.operator} takes 'amount' and 'unit', no 'value'")
        if self.operator not in UNARY | SPANS and self.value is None:
            raise ValueError(f"{self.operator} needs a 'value'")
        if self.operator in LISTS and not isinstance(self.value, tuple):
            raise ValueError(f"{self.operator} needs a list of values")
        if isinstance(self.value, tuple) and self.operator not in LISTS | {Operator.contains}:
            raise ValueError(f"{self.operator} takes one value, not a list")
        self._fits()
        return self

    def _fits(self) -> None:
        """Refuses constants that the operator takes of no column, whatever its type."""
        values = self.value if isinstance(self.value, tuple) else () if self.value is None else (self.value,)
        kinds = {kind_of(value) for value in values}
        if len(kinds) > 1:
            raise ValueError(f"the values of {self.operator} have different types ({', '.join(sorted(kinds))}); write one type")
        if self.operator in TEXTS and kinds - {"text"}:
            raise ValueError(f"{self.operator} takes text, not a {kinds.pop()}; put the value in quotes, or compare with equals")
        if self.operator in DATES and not all(_is_instant(value) for value in values):
            raise ValueError(f"the value of {self.operator} is not a date; write YYYY-MM-DD or an ISO-8601 instant")
        if self.operator in ORDERS and not all(kind_of(v) == "number" or _is_instant(v) or _is_time(v) for v in values):
            raise ValueError(
                f"{self.operator} compares numbers, dates and times, not {'text' if 'text' in kinds else 'a boolean'}; "
                "write a number, YYYY-MM-DD, an ISO-8601 instant or HH:MM:SS"
            )


def kind_of(value: Any) -> Literal["boolean", "number", "instant", "text"]:
    """What a constant of the configuration is."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "instant" if isinstance(value, dt.date) else "text"


def _is_instant(value: Any) -> bool:
    if isinstance(value, str):
        try:
            dt.datetime.fromisoformat(value)
        except ValueError:
            return False
        return True
    return isinstance(value, dt.date)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and dt.time.fromisoformat(value).tzinfo is None
    except ValueError:
        return False


class TraitReference(Model):
    """A trait of the profile, instead of a constant."""

    trait: str = Field(description="Trait from identify calls, computed, or SQL.")


class ColumnReference(Model):
    """What a column is compared with, instead of a constant: a column of the same branch, or a trait of the profile."""

    column: str | None = Field(None, description="A column of this entity, or of the one that 'of' names.")
    of: str | None = Field(None, description="Relationship slug of an entity further up this branch; default: this entity.")
    trait: str | None = Field(None, description="A trait of the profile; from identify calls, computed, or SQL.")

    @model_validator(mode="after")
    def _one(self) -> ColumnReference:
        if (self.column is None) == (self.trait is None):
            raise ValueError("give exactly one of 'column' and 'trait'")
        if self.of is not None and self.column is None:
            raise ValueError("'of' goes with 'column'")
        return self


class ColumnFilter(Comparison):
    """A filter on a column of an entity."""

    column: str
    reference: ColumnReference | None = Field(None, description="Instead of 'value': what the column is compared with.")

    @property
    def refers_to_column(self) -> bool:
        return self.reference is not None and self.reference.column is not None


class EventFilter(Comparison):
    """A filter on a property of an event, or on a value of its context (dotted path). Exactly one of the two."""

    property: str | None = None
    context: str | None = None

    @model_validator(mode="after")
    def _one(self) -> EventFilter:
        if (self.property is None) == (self.context is None):
            raise ValueError("give exactly one of 'property' and 'context'")
        return self


class ReferringEventFilter(EventFilter):
    """A filter of an audience's event condition, which may compare with a trait of the profile."""

    reference: TraitReference | None = Field(None, description="Instead of 'value': the trait that it is compared with.")


class ColumnFilters(Model):
    """Filters joined by all (and) or any (or). Exactly one of the two lists."""

    all: tuple[ColumnFilter, ...] | None = None
    any: tuple[ColumnFilter, ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> ColumnFilters:
        if (self.all is None) == (self.any is None):
            raise ValueError("give exactly one of 'all' and 'any'")
        return self


class EventFilters(Model):
    """Filters joined by all (and) or any (or). Exactly one of the two lists."""

    all: tuple[EventFilter, ...] | None = None
    any: tuple[EventFilter, ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> EventFilters:
        if (self.all is None) == (self.any is None):
            raise ValueError("give exactly one of 'all' and 'any'")
        return self


class ReferringEventFilters(Model):
    """Filters joined by all (and) or any (or). Exactly one of the two lists."""

    all: tuple[ReferringEventFilter, ...] | None = None
    any: tuple[ReferringEventFilter, ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> ReferringEventFilters:
        if (self.all is None) == (self.any is None):
            raise ValueError("give exactly one of 'all' and 'any'")
        return self


class Quantified(Model):
    """How many: at most one of the three; default at least 1."""

    at_least: int | None = Field(None, ge=1)
    exactly: int | None = Field(None, ge=0)
    at_most: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _quantifier(self) -> Quantified:
        given = [q for q in ("at_least", "exactly", "at_most") if getattr(self, q) is not None]
        if len(given) > 1:
            raise ValueError(f"give one quantifier, not {' and '.join(given)}")
        return self

    @property
    def quantifier(self) -> tuple[Literal["at_least", "exactly", "at_most"], int]:
        if self.exactly is not None:
            return "exactly", self.exactly
        if self.at_most is not None:
            return "at_most", self.at_most
        return "at_least", self.at_least or 1

    @property
    def zero(self) -> bool:
        """True for ``exactly 0`` and ``at most 0``, which take no filters and no nested conditions."""
        return self.quantifier in (("exactly", 0), ("at_most", 0))


class EntityCondition(Quantified):
    """The profile (or parent entity) has, or has not, so many related entities that pass the filters and nested conditions."""

    with_entity: str | None = Field(None, description="Relationship slug, as in the data graph.")
    without_entity: str | None = Field(None, description="Relationship slug; true when no related entity passes.")
    where: ColumnFilters | None = None
    nested: EntityConditionGroup | None = Field(None, description="Conditions on children; each filters these entities.")

    @model_validator(mode="after")
    def _shape(self) -> EntityCondition:
        if (self.with_entity is None) == (self.without_entity is None):
            raise ValueError("give exactly one of 'with_entity' and 'without_entity'")
        if self.without_entity and (self.at_least or self.exactly is not None or self.at_most is not None):
            raise ValueError("'without_entity' takes no quantifier")
        if self.zero and (self.where or self.nested):
            raise ValueError("a quantifier of 0 takes no filters and no nested conditions; use 'without_entity'")
        return self

    @property
    def relationship(self) -> str:
        return self.with_entity or self.without_entity or ""


class EntityConditionGroup(Model):
    """Entity conditions joined by all or any."""

    match: Literal["all", "any"] = "all"
    conditions: tuple[EntityCondition, ...] = Field(min_length=1)


class TraitCondition(Comparison):
    """The profile's trait (from identify calls, computed, or SQL) compares, or not."""

    with_trait: str | None = None
    without_trait: str | None = Field(None, description="True when the comparison does not hold, also for an absent trait.")

    @model_validator(mode="after")
    def _shape(self) -> TraitCondition:
        if (self.with_trait is None) == (self.without_trait is None):
            raise ValueError("give exactly one of 'with_trait' and 'without_trait'")
        return self

    @property
    def trait(self) -> str:
        return self.with_trait or self.without_trait or ""


class EventCondition(Quantified):
    """The profile performed an event so often within a window, or did not."""

    with_event: str | None = Field(None, description="Event name; pages and screens are 'Page Viewed' and 'Screen Viewed'.")
    without_event: str | None = None
    where: ReferringEventFilters | None = None
    within: Span | None = None
    between: Between | None = None

    @model_validator(mode="after")
    def _shape(self) -> EventCondition:
        if (self.with_event is None) == (self.without_event is None):
            raise ValueError("give exactly one of 'with_event' and 'without_event'")
        if self.without_event and (self.at_least or self.exactly is not None or self.at_most is not None):
            raise ValueError("'without_event' takes no quantifier")
        if self.within and self.between:
            raise ValueError("give one of 'within' and 'between'")
        if self.zero and self.where:
            raise ValueError("a quantifier of 0 takes no filters; use 'without_event'")
        return self

    @property
    def event(self) -> str:
        return self.with_event or self.without_event or ""


class AudienceCondition(Model):
    """The profile is a member of another audience at the same as_of, or is not."""

    part_of: str | None = None
    not_part_of: str | None = None

    @model_validator(mode="after")
    def _shape(self) -> AudienceCondition:
        if (self.part_of is None) == (self.not_part_of is None):
            raise ValueError("give exactly one of 'part_of' and 'not_part_of'")
        return self

    @property
    def audience(self) -> str:
        return self.part_of or self.not_part_of or ""


Condition = EntityCondition | TraitCondition | EventCondition | AudienceCondition

# The keys that say which condition it is. Deciding by them, before validation, gives a mistake one message instead of one
# for each kind of condition that it is not.
CONDITION_KEYS: dict[str, type[Model]] = {
    "with_entity": EntityCondition,
    "without_entity": EntityCondition,
    "with_trait": TraitCondition,
    "without_trait": TraitCondition,
    "with_event": EventCondition,
    "without_event": EventCondition,
    "part_of": AudienceCondition,
    "not_part_of": AudienceCondition,
}

UNION_TAGS: dict[str, type[Model]] = {
    "entity condition": EntityCondition,
    "trait condition": TraitCondition,
    "event condition": EventCondition,
    "audience condition": AudienceCondition,
}


def _condition_tag(value: Any) -> str | None:
    kinds = {model: tag for tag, model in UNION_TAGS.items()}
    if isinstance(value, Model):
        return kinds.get(type(value))
    keys = value if isinstance(value, dict) else ()
    return next((kinds[model] for key, model in CONDITION_KEYS.items() if key in keys), None)


class ConditionGroup(Model):
    """Conditions joined by all or any; evaluated by itself, with the entities that made each profile match."""

    match: Literal["all", "any"] = "all"
    conditions: tuple[
        Annotated[
            Annotated[EntityCondition, Tag("entity condition")]
            | Annotated[TraitCondition, Tag("trait condition")]
            | Annotated[EventCondition, Tag("event condition")]
            | Annotated[AudienceCondition, Tag("audience condition")],
            Discriminator(_condition_tag),
        ],
        ...,
    ] = Field(min_length=1)


class Audience(Model):
    """``audiences/KEY.yaml``: a condition tree over the data graph."""

    key: Slug
    name: str
    description: str = ""
    owner: str | None = None
    schedule: Schedule | None = Field(None, description="Default: the space's.")
    match: Literal["all", "any"] = Field("all", description="How groups are joined.")
    groups: tuple[ConditionGroup, ...] = Field((), min_length=1, description="The conditions. Needed, unless 'query' says them.")
    query: str | None = Field(
        None,
        description="The conditions in Segment's query language, instead of 'match' and 'groups': "
        "entity('accounts').where(property('kind') = 'checking').count() >= 1 AND trait('vip') = true",
    )
    target_entity: str | None = Field(
        None,
        description="Relationship path of a with_entity condition, e.g. accounts:cards: an audience of these entities, whose "
        "members are the profiles that they belong to. Default: an audience of profiles.",
    )

    @model_validator(mode="before")
    @classmethod
    def _compiled(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("query"), str):
            return data
        if "groups" in data or "match" in data:
            raise ValueError("give the conditions as 'match' and 'groups' or as 'query', not both")
        compiled = compile_query(data["query"])
        return {**data, "match": compiled.match, "groups": compiled.groups}

    @model_validator(mode="after")
    def _conditions(self) -> Audience:
        if not self.groups:
            raise ValueError("give the conditions, as 'groups' or as 'query'")
        return self
