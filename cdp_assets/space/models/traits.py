"""``traits/*.yaml``: what is computed of a profile or an account, over which events and window."""

from __future__ import annotations

import builtins
import datetime as dt
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cdp_assets.space.base import Model
from cdp_assets.space.models.audiences import EventFilters
from cdp_assets.space.models.common import ScalarType, Slug, Span
from cdp_assets.space.trait_rules import (
    LONGEST_SESSION,
    SHORTEST_SESSION,
    TraitKind,
    ValueType,
    complaint,
    types_of,
)


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
