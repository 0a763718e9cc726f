"""What a space folder says, as frozen models. One model per file kind; every field is described, for editors and docs.

Loading, located errors and references between files are in :mod:`cdp_assets.space.load`. Meaning is in the rooms.
"""

from __future__ import annotations

import builtins
import datetime as dt
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from cdp_assets.space import fql
from cdp_assets.space.alerts import Alerts
from cdp_assets.space.base import Model
from cdp_assets.space.confirmed import ConfirmedChange
from cdp_assets.space.enforcement import Enforcement, ProtocolsConfig
from cdp_assets.space.pulled import PulledSource
from cdp_assets.space.query import compile_query
from cdp_assets.space.trait_rules import (
    LONGEST_SESSION,
    SHORTEST_SESSION,
    TraitKind,
    ValueType,
    complaint,
    types_of,
)

ScalarType = Literal["number", "string", "boolean", "timestamp"]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
CategoryId = Annotated[str, Field(pattern=r"^[A-Za-z_][^\s]*$", max_length=34)]


def _is_condition(text: str) -> str:
    fql.parse(text)
    return text


FqlCondition = Annotated[str, AfterValidator(_is_condition)]


# -- time and schedules ----------------------------------------------------------------------------------------------


class Unit(StrEnum):
    hours = "hours"
    days = "days"


class Span(Model):
    """A length of time: ``{last: 7, unit: days}`` (sliding window up to as_of) or ``{next: …}`` in operators."""

    last: int = Field(ge=1, description="How many units before as_of, inclusive of as_of itself.")
    unit: Unit = Unit.days

    @property
    def delta(self) -> dt.timedelta:
        return dt.timedelta(**{self.unit.value: self.last})


class Between(Model):
    """A window between two distances before as_of: ``{from: 10, to: 7, unit: days}`` is 10 to 7 days ago."""

    from_: int = Field(alias="from", ge=1, description="The far edge, units before as_of.")
    to: int = Field(ge=0, description="The near edge, units before as_of.")
    unit: Unit = Unit.days

    @model_validator(mode="after")
    def _ordered(self) -> Between:
        if self.from_ <= self.to:
            raise ValueError("'from' is the far edge and must be larger than 'to'")
        return self


class Schedule(Model):
    """When something runs: an interval aligned to UTC, or a cron expression. Exactly one."""

    every: Literal["15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"] | None = Field(
        None, description="Interval, aligned to UTC boundaries."
    )
    cron: str | None = Field(None, description="Five-field cron expression, at least 15 minutes apart.")
    timezone: str = Field("UTC", description="IANA time zone of the cron expression.")

    @model_validator(mode="after")
    def _one(self) -> Schedule:
        if (self.every is None) == (self.cron is None):
            raise ValueError("give exactly one of 'every' and 'cron'")
        return self


class PartitionKind(StrEnum):
    hourly = "hourly"
    daily = "daily"
    weekly = "weekly"
    monthly = "monthly"


# -- space.yaml ------------------------------------------------------------------------------------------------------


class IdentifierRule(Model):
    """Limit and priority of one identifier type (Segment identity resolution settings)."""

    type: str = Field(description="Identifier type, e.g. user_id, email, anonymous_id.")
    limit: int = Field(5, ge=1, description="Most values that one profile may hold within the window.")
    window: Literal["ever", "annually", "monthly", "weekly", "daily"] = Field("ever", description="Window of the limit.")
    priority: int | None = Field(None, ge=1, description="1 is the highest; default: user_id 1, email 2, the rest alphabetical.")


class BlockedValue(Model):
    """A value that never becomes an identifier; exactly one of ``exact`` and ``regex``."""

    exact: str | None = None
    regex: str | None = Field(None, description="Python regular expression, matched against the whole value.")

    @model_validator(mode="after")
    def _one(self) -> BlockedValue:
        if (self.exact is None) == (self.regex is None):
            raise ValueError("give exactly one of 'exact' and 'regex'")
        return self


class IdentitySettings(Model):
    """Identity resolution. Defaults are Segment's."""

    identifiers: tuple[IdentifierRule, ...] = Field((), description="Rules that differ from the defaults.")
    custom: dict[str, str] = Field(
        default_factory=dict,
        description="Custom identifier type -> the trait or property key that carries it, e.g. {owl_card: cardNumber}.",
    )
    blocked: tuple[BlockedValue, ...] = Field(
        (BlockedValue(regex="[0-]*"), BlockedValue(exact="-1"), BlockedValue(exact="null"), BlockedValue(exact="anonymous")),
        description="Values that identify nobody.",
    )
    shared_devices: Literal["merge", "separate"] = Field(
        "merge",
        description="merge: a device is as good an identifier as any (Segment's rule). "
        "separate: a device that a known person owns never joins another person to them.",
    )
    device_types: tuple[str, ...] = Field(
        (
            "anonymous_id",
            "android.id",
            "android.idfa",
            "android.push_token",
            "ios.id",
            "ios.idfa",
            "ios.push_token",
            "ga_client_id",
        ),
        description="Identifier types that name a device; all others name a person.",
    )


class ConsentCategory(Model):
    """A consent category, as it appears in ``context.consent.categoryPreferences``."""

    id: CategoryId
    name: str = Field(max_length=20)


class DestinationConfig(Model):
    """An account of a destination. It is a sandbox unless CDP_LIVE=1 and ``account`` is named."""

    type: str = Field(description="Registered destination type: salesforce, gainsight, marketo, …")
    account: str | None = Field(None, description="Organisation id, munchkin id or host that may be written to live.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Connector settings (login host, API version, …).")
    credentials: dict[str, str] = Field(default_factory=dict, description="Secrets, from the environment: ${NAME}.")


class WarehouseConfig(Model):
    """Where the tables live."""

    type: Literal["duckdb", "snowflake"] = "duckdb"
    schemas: tuple[str, ...] = Field((), description="Schemas of the company's own tables, readable by models and SQL traits.")
    files: dict[str, str] = Field(
        default_factory=dict,
        description="DuckDB: schema -> folder of Parquet files, read in place as views. Relative to the space folder.",
    )
    memory_limit: str | None = Field(None, description="DuckDB memory limit, e.g. 4GB.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Snowflake: account, user, password, database, warehouse, role, … (${NAME} for secrets).",
    )


class SourceConfig(Model):
    """Where messages come from: a website, an app, a server."""

    name: str = Field("", description="Display name; default: the key.")
    landing: str | None = Field(
        None,
        description="Folder below the landing folder whose files are this source's; default: the key. Also found below segment-logs/.",
    )
    enforcement: Enforcement = Field(Enforcement(), description="What the tracking plan does to this source's messages.")
    judged_upstream: bool | None = Field(
        None,
        description="true: another tracking plan judges this source's messages first; those in which it found something "
        "(context.protocols) are not blocked again. Leave it out where clients can write that field. Default: the space's.",
    )


class EventStreamFilter(Model):
    """Messages that are dropped before anything is made of them; they stay in quarantine."""

    name: str = Field(min_length=1, description="Says in the quarantine which filter it was.")
    drop_if: FqlCondition = Field(description="FQL: which messages, e.g. type = 'page' and context.page.path = '/health'.")


class EntityHistory(Model):
    """How the table of an entity is read as of an instant that has passed. One of the two kinds."""

    valid_from: str | None = Field(None, description="Column, date or timestamp: a row holds from then on.")
    valid_to: str | None = Field(
        None, description="Column, date or timestamp: a row holds no more from then on; null: it still does."
    )
    snapshots: bool = Field(False, description="Write down, at each build, the rows that changed since the last one.")

    @model_validator(mode="after")
    def _one(self) -> EntityHistory:
        declared = self.valid_from is not None or self.valid_to is not None
        if declared == self.snapshots:
            raise ValueError("give 'valid_from' and 'valid_to', or 'snapshots: true'")
        if declared and (self.valid_from is None or self.valid_to is None):
            raise ValueError("'valid_from' and 'valid_to' go together")
        return self


class SpaceConfig(Model):
    """``space.yaml``: one customer data platform instance with its own identity universe."""

    name: Slug
    description: str = ""
    owner: str = Field("team:data-platform", description="Default owner of every asset: an e-mail address or team:NAME.")
    start_date: dt.date = Field(description="Start of the first partition, UTC.")
    partitions: PartitionKind = PartitionKind.daily
    landing: str | None = Field(
        None, description="Folder of the landing files; default: landing/ in the space's home. Relative to the space folder."
    )
    sources: dict[Slug, SourceConfig] = Field(
        default_factory=dict,
        description="Sources by key. Files in no source's folder are of none: their messages' source is null.",
    )
    protocols: ProtocolsConfig = Field(ProtocolsConfig(), description="The tracking plan's settings for the whole space.")
    event_filters: tuple[EventStreamFilter, ...] = Field((), description="Messages that any of them meets are dropped.")
    warehouse: WarehouseConfig = WarehouseConfig()
    identity: IdentitySettings = IdentitySettings()
    profiles: Literal["built", "external"] = Field(
        "built",
        description="external: profile_folder of the data graph holds the company's own Profiles Sync tables; no identities are resolved.",
    )
    consent_categories: tuple[ConsentCategory, ...] = ()
    destinations: dict[Slug, DestinationConfig] = Field(default_factory=dict)
    pulled_sources: dict[Slug, PulledSource] = Field(
        default_factory=dict, description="Systems that are asked for their records; each becomes the table pulled_sources.KEY."
    )
    alerts: Alerts = Field(Alerts(), description="Whom to tell when a run fails or a sync does badly.")
    schedule: Schedule = Field(Schedule(every="1h"), description="Default schedule of audiences.")
    automation: Literal["on", "off"] = Field("on", description="Whether the space's sensors and schedules start switched on.")
    confirmed_breaking_changes: tuple[ConfirmedChange, ...] = Field(
        (), description="Breaking changes of the data graph that may go in; cdp validate --against says how to name each."
    )
    entities: dict[str, EntityHistory] = Field(
        default_factory=dict,
        description="History of entities of the data graph, by slug; the tables of others are read as they are now.",
    )
    retention_days: int | None = Field(None, ge=1, description="Days that closed partitions keep members and context.")

    def source_of(self, file: str) -> str | None:
        """Key of the source whose folder holds a landing file, by its path below the landing folder; None for no source's."""
        path = file.removeprefix("segment-logs/")
        folders = {(source.landing or key).strip("/") + "/": key for key, source in self.sources.items()}
        matching = [folder for folder in folders if path.startswith(folder)]
        return folders[max(matching, key=len)] if matching else None

    def enforcement_of(self, source: str | None) -> Enforcement:
        """What the tracking plan does to messages of a source; of none, by the space's own options."""
        default = self.protocols.enforcement
        return self.sources[source].enforcement.over(default) if source in self.sources else default

    def judged_upstream(self, source: str | None) -> bool:
        """Whether ``context.protocols`` of a source's messages is believed."""
        own = self.sources[source].judged_upstream if source in self.sources else None
        return self.protocols.judged_upstream if own is None else own

    @property
    def category_ids(self) -> tuple[str, ...]:
        return tuple(category.id for category in self.consent_categories)


# -- conditions ------------------------------------------------------------------------------------------------------


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


# -- traits ----------------------------------------------------------------------------------------------------------


class Session(Model):
    """A session window: events follow each other within the gap. ``{gap: 30, unit: minutes}``."""

    gap: int = Field(
        ge=1, description="The longest pause within a session, 30 minutes to 90 days; after it the value starts anew."
    )
    unit: Literal["minutes", "hours", "days"] = "minutes"

    @model_validator(mode="after")
    def _allowed(self) -> Session:
        if not SHORTEST_SESSION <= self.delta <= LONGEST_SESSION:
            raise ValueError("a session's gap is at least 30 minutes and at most 90 days; change 'gap' or 'unit'")
        return self

    @property
    def delta(self) -> dt.timedelta:
        return dt.timedelta(**{self.unit: self.gap})


class Trait(Model):
    """``traits/KEY.yaml``: a value computed per profile (or account) from events, or values by one SELECT."""

    key: Slug
    name: str
    description: str = ""
    owner: str | None = None
    kind: TraitKind
    level: Literal["profile", "account"] = Field("profile", description="account: over all events of all members of each group.")
    members: bool = Field(
        False,
        description="For accounts: each member has the value, too; of several accounts the one that was last joined speaks.",
    )
    event: str | None = Field(None, description="Event name; pages and screens are 'Page Viewed' and 'Screen Viewed'.")
    property: str | None = Field(None, description="Property (dotted path); for first and last also 'timestamp'.")
    user_trait: str | None = Field(
        None,
        description="For kind most_frequent of accounts: the members' trait (from identify calls), in place of event and property.",
    )
    function: Literal["sum", "avg", "min", "max"] | None = Field(None, description="For kind aggregation.")
    min_frequency: int = Field(2, ge=2, description="For kind most_frequent.")
    where: EventFilters | None = None
    within: Span | None = Field(None, description="Sliding window up to as_of; default: all history.")
    session: Session | None = Field(None, description="Session window: only the running session counts.")
    type: ValueType | None = Field(
        None,
        description="Type of the value; default: number for counters, aggregations and counts, list for unique_list, else string. "
        "Values that are none of the type are passed over. string lets min and max compare as text.",
    )
    identifier: Literal["user_id", "email", "anonymous_id", "group_id"] | None = Field(
        None, description="For kind sql: the column that names the profile, or (group_id) the account."
    )
    query: str | None = Field(
        None,
        description="For kind sql: one SELECT with the identifier and the column KEY. ':as_of' is the computation's instant.",
    )
    columns: dict[Slug, ScalarType] | None = Field(
        None,
        description="For kind sql: each column that is a trait, with its type: several traits from one query. Default: the column KEY.",
    )

    @model_validator(mode="after")
    def _shape(self) -> Trait:
        found = complaint(self)
        if found:
            raise PydanticCustomError("misplaced", "{cause}; {remedy}", found._asdict())
        return self

    @builtins.property
    def value_type(self) -> ValueType:
        return self.type or types_of(self)[0]

    @builtins.property
    def of_accounts(self) -> bool:
        return self.level == "account" or self.identifier == "group_id"

    @builtins.property
    def of_profiles(self) -> bool:
        """Whether profiles have a value."""
        return not self.of_accounts or self.members


# -- models and activations ------------------------------------------------------------------------------------------


class ReportPlot(Model):
    """What is drawn of a report: how many rows there are of each value, or numbers by a label."""

    count_by: str | None = Field(None, description="Column whose values are counted.")
    label: str | None = Field(None, description="Column below the axis, e.g. a day; the last 30 in its order.")
    values: tuple[str, ...] = Field((), max_length=4, description="Columns of numbers.")

    @model_validator(mode="after")
    def _one_kind(self) -> ReportPlot:
        if (self.count_by is None) == (self.label is None):
            raise ValueError("give either 'count_by', or 'label' and 'values'")
        if (self.label is None) != (not self.values):
            raise ValueError("'label' goes with 'values'")
        return self


class ReportSettings(Model):
    """Keeps the model as a table, reports.KEY, that is built once a day."""

    plot: ReportPlot | None = None
    personal: tuple[str, ...] = Field((), description="Columns that say something of a person: never shown on the asset.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the plot names."""
        plot = self.plot
        return () if plot is None else tuple(name for name in (plot.count_by, plot.label, *plot.values) if name is not None)

    @model_validator(mode="after")
    def _nobody_is_drawn(self) -> ReportSettings:
        if shown := sorted(set(self.columns) & set(self.personal)):
            raise ValueError(f"'{shown[0]}' is personal and cannot be drawn; draw a column that speaks of many")
        return self


class SqlModel(Model):
    """``models/KEY.sql``: one SELECT, its settings in a YAML front matter between ``/*---`` and ``---*/``."""

    key: Slug
    name: str
    description: str = ""
    owner: str | None = None
    primary_key: str = Field(description="Column that is unique and never null.")
    query: str
    depends_on: tuple[str, ...] = Field(
        (), description="Traits (KEY), audiences (KEY) and pulled sources (KEY) whose tables the query reads, for ordering."
    )
    report: ReportSettings | None = Field(None, description="Also keep it as a table of its own, built daily.")


class Trigger(Model):
    """What makes a message: see docs/design.md, Activation state."""

    unit: Literal["profile", "entity", "row", "event"] = Field(
        description="A profile, a (profile, entity) pair, a model's row, or a raw event."
    )
    path: str | None = Field(None, description="For unit entity: relationship path from the profile, e.g. accounts:credit-cards.")
    when: Literal["enters", "exits", "enters_or_exits", "upsert", "mirror", "occurs"] = Field(
        description="For profiles and entities: enters, exits, enters_or_exits. For rows: upsert (never deletes) or mirror. "
        "For events: occurs."
    )

    @model_validator(mode="after")
    def _shape(self) -> Trigger:
        if (self.unit == "entity") != (self.path is not None):
            raise ValueError("'path' goes with unit entity, and is needed there")
        if (self.unit == "row") != (self.when in ("upsert", "mirror")):
            raise ValueError("unit row takes when: upsert or mirror; profiles and entities take enters, exits or enters_or_exits")
        if (self.unit == "event") != (self.when == "occurs"):
            raise ValueError("unit event takes when: occurs, and nothing else does")
        return self


class EventStream(Model):
    """Raw events as they come in: which ones, and from when on."""

    where: FqlCondition = Field(
        description='FQL over the whole message, e.g. type = "track" and event = "Demo Requested". Without an answer it withholds.'
    )
    since: dt.datetime = Field(description="Only events received from this instant on, ISO 8601 with a time zone.")

    @model_validator(mode="after")
    def _instant(self) -> EventStream:
        if self.since.tzinfo is None:
            raise ValueError("'since' needs a time zone; end it with Z for UTC")
        return self


class EntityColumns(Model):
    """Columns of one node to put in the payload; the primary key always is."""

    path: str
    columns: tuple[str, ...] = ()


class Personalization(Model):
    """What the payload carries besides the membership itself."""

    traits: tuple[str, ...] = Field((), description="Profile traits, from identify calls, computed, or SQL.")
    entities: tuple[EntityColumns, ...] = ()


class ColumnSubject(Model):
    """Model rows that speak about a person: the column that names them."""

    column: str
    identifier_type: str


class Consent(Model):
    """Whose consent a message needs. Without one an activation does not load."""

    subject: Annotated[
        Annotated[Literal["profile", "none"], Tag("subject word")] | Annotated[ColumnSubject, Tag("subject column")],
        Discriminator(lambda value: "subject column" if isinstance(value, dict | ColumnSubject) else "subject word"),
    ]
    categories: tuple[CategoryId, ...] = Field((), description="All must be true.")
    reason: str | None = Field(None, description="For subject none: why no person is concerned.")

    @model_validator(mode="after")
    def _shape(self) -> Consent:
        if self.subject == "none":
            if self.categories or not self.reason:
                raise ValueError("subject none takes a 'reason' and no 'categories'")
        elif not self.categories:
            raise ValueError("name at least one consent category")
        elif self.reason:
            raise ValueError("'reason' goes with subject none")
        return self


class Guardrails(Model):
    """When a sync holds instead of sending. ``null`` switches one off, explicitly."""

    max_exit_share: float | None = Field(0.2, gt=0, le=1, description="Exits as a share of present keys.")
    max_exits: int | None = Field(50, ge=1, description="Exits at most this many never hold by share.")
    max_table_loss: float | None = Field(
        0.5, gt=0, le=1, description="Rows lost by a table on the path since the last reconciled build."
    )
    empty_table: bool = Field(True, description="Hold when a table on the path is empty and was not.")


class Activation(Model):
    """``activations/KEY.yaml``: audience, model or event stream -> one destination action."""

    key: Slug
    name: str
    description: str = ""
    owner: str | None = None
    audience: str | None = None
    model: str | None = None
    events: EventStream | None = None
    destination: Slug = Field(description="A destination of space.yaml.")
    action: str = Field("upsert", description="The connector's action; each connector names its own.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Of the action: object, key_field (the payload field that is the destination key), flag_field, …",
    )
    trigger: Trigger
    identifier: str = Field("email", description="Identifier type sent; the last seen value of the profile.")
    personalization: Personalization = Personalization()
    shape: Literal["context", "flattened"] = Field("flattened", description="Payload shape (docs/design.md).")
    event_name: str | None = Field(None, description="Name of the message; default: the trigger's.")
    sync_property_changes: bool = Field(False, description="With enters_or_exits: send again when the payload changes.")
    mapping: dict[str, Any] = Field(description="mapping-kit: the destination's fields from the payload.")
    consent: Consent
    first_run: Literal["baseline", "send"] = Field(
        description="Whether those present at the first sync are sent or recorded silently."
    )
    on_definition_change: Literal["hold", "send", "rebaseline"] = "hold"
    on_unknown: Literal["hold", "resend"] = Field(
        "hold",
        description="Where nothing tells two sendings apart: what becomes of a message without an answer. resend only where the receiver "
        "knows a repetition by its messageId.",
    )
    schedule: Schedule | None = Field(None, description="Default: after each successful build of the audience.")
    max_age_minutes: int | None = Field(None, ge=1, description="Default: twice the audience's interval.")
    retry_for_days: int = Field(14, ge=1)
    guardrails: Guardrails = Guardrails()
    enabled: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        """Node paths that it names itself, without repetition: its trigger's, and those that it personalises from."""
        trigger = (self.trigger.path,) if self.trigger.path else ()
        return tuple(dict.fromkeys((*trigger, *(item.path for item in self.personalization.entities))))

    @model_validator(mode="after")
    def _shape(self) -> Activation:
        if [self.audience, self.model, self.events].count(None) != 2:
            raise ValueError("give exactly one of 'audience', 'model' and 'events'")
        if (self.trigger.unit == "row") != (self.model is not None) or (self.trigger.unit == "event") != (
            self.events is not None
        ):
            raise ValueError("unit row goes with a model, profile and entity with an audience, event with events")
        if self.consent.subject == "profile" and self.model is not None:
            raise ValueError("a model's rows take consent subject {column, identifier_type} or none")
        if isinstance(self.consent.subject, ColumnSubject) and self.audience is not None:
            raise ValueError("an audience's members take consent subject profile")
        if self.events is not None and self.consent.subject != "profile":
            raise ValueError("events are of people: they take consent subject profile")
        if self.events is not None and self.personalization.entities:
            raise ValueError("an event has no matched entities; personalise with traits")
        return self


EntityCondition.model_rebuild()
