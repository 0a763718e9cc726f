"""``pulled_sources`` of space.yaml: systems that are asked for their records, which become a table each, and may become events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cdp_assets.space.base import Model

ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
# Columns that every table of the room has.
OWN_COLUMNS = ("shard", "position")


def value_at(content: Mapping[str, Any], path: str) -> Any:
    """What a record holds at a dotted path, None for nothing."""
    value: Any = content
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class PulledEvent(Model):
    """An event for each new record, as a track call in the landing folder."""

    name: str = Field(min_length=1, description="Its event name, e.g. NPS Response Submitted.")
    user_id: ColumnName | None = Field(None, description="The column that holds the user id.")
    anonymous_id: ColumnName | None = Field(None, description="The column that holds the anonymous id.")
    timestamp: ColumnName = Field(description="The column that says when it happened; it is the event's received_at, too.")
    properties: tuple[ColumnName, ...] = Field((), description="Columns that become properties.")

    @model_validator(mode="after")
    def _somebody(self) -> PulledEvent:
        if self.user_id is None and self.anonymous_id is None:
            raise ValueError("name the column that says who did it: 'user_id' or 'anonymous_id'")
        return self


class PulledSource(Model):
    """A system that is asked for its records. It is a sandbox unless CDP_LIVE=1 and ``account`` is named."""

    type: Literal["kinesis", "satismeter"] = Field(description="Type of the system.")
    description: str = ""
    account: str | None = Field(None, description="The account that may be read live.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Of the reader: stream, project, region, …")
    credentials: dict[str, str] = Field(default_factory=dict, description="Secrets, from the environment: ${NAME}.")
    key: ColumnName = Field(
        description="The column that tells records apart; a record with a known key takes the place of the older one."
    )
    columns: dict[ColumnName, Literal["string", "number", "boolean", "timestamp"]] = Field(
        min_length=1, description="Columns of the table, with their types."
    )
    fields: dict[ColumnName, str] = Field(
        default_factory=dict, description="Column -> dotted path in the record; default: the column's name."
    )
    personal: tuple[ColumnName, ...] = Field((), description="Columns that say something of a person.")
    event: PulledEvent | None = None
    poll: Literal["continuously", "hourly"] = Field(
        "hourly", description="continuously: looked at every few seconds, and taken in when there is something new."
    )

    @model_validator(mode="after")
    def _known_columns(self) -> PulledSource:
        event = self.event
        told = [event.user_id, event.anonymous_id, event.timestamp, *event.properties] if event else []
        for name in (self.key, *self.fields, *self.personal, *told):
            if name is not None and name not in self.columns:
                raise ValueError(f"'{name}' is not among 'columns'")
        if taken := sorted(set(OWN_COLUMNS) & set(self.columns)):
            raise ValueError(f"every table has a column {taken[0]} already; call it otherwise")
        if self.poll == "continuously" and self.type != "kinesis":
            raise ValueError(
                "only a stream can be looked at continuously: a listing always has its newest records; write poll: hourly"
            )
        if event is not None and self.columns[event.timestamp] != "timestamp":
            raise ValueError(f"'{event.timestamp}' is no timestamp")
        return self
