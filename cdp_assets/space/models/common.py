"""What several kinds of files share: names, FQL conditions, spans of time, schedules and partitions."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cdp_assets.space import fql
from cdp_assets.space.base import Model

ScalarType = Literal["number", "string", "boolean", "timestamp"]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
CategoryId = Annotated[str, Field(pattern=r"^[A-Za-z_][^\s]*$", max_length=34)]


def _is_condition(text: str) -> str:
    fql.parse(text)
    return text


FqlCondition = Annotated[str, AfterValidator(_is_condition)]


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
