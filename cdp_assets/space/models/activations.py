"""``models/*.sql`` and ``activations/*.yaml``: queries as a source, and what is sent of audiences, rows and events."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from cdp_assets.space.base import Model
from cdp_assets.space.models.audiences import EntityCondition
from cdp_assets.space.models.common import CategoryId, FqlCondition, Schedule, Slug


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
