"""``tests/KEY.yaml``: cases of an activation, what goes in and the payloads that have to come out. ``cdp validate`` runs them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cdp_assets.space.base import Model

Rows = tuple[dict[str, Any], ...]


class Case(Model):
    """One case: a profile with its traits and entities, or a model's row; and the payloads, or why there is none."""

    name: str
    identifiers: dict[str, str] = Field(default_factory=dict, description="Of the profile: type -> value, e.g. user_id: u1.")
    traits: dict[str, Any] = Field(default_factory=dict, description="Of the profile, by key; those that the activation names.")
    entities: dict[str, Rows] = Field(
        default_factory=dict,
        description="The rows that made the profile match, by relationship; rows below a row stand in it, under their relationship.",
    )
    row: dict[str, Any] | None = Field(None, description="Of a model's activation: a row of its query.")
    message: dict[str, Any] | None = Field(
        None, description="Of an event stream: the message; 'identifiers' and 'traits' are what is known of its profile."
    )
    leaves: bool = Field(False, description="The payload for one who leaves, in place of the one for who is in.")
    expect: dict[str, Any] | Rows | None = Field(
        None, description="The payload; several, in order of the entities, where each entity gives one; [] for none."
    )
    withheld: Literal["no_identifier", "no_subject", "invalid", "too_large", "filter"] | None = Field(
        None, description="In place of 'expect': why nothing may be sent."
    )

    @model_validator(mode="after")
    def _one_expectation(self) -> Case:
        if (self.expect is None) == (self.withheld is None):
            raise ValueError("give exactly one of 'expect' and 'withheld'")
        if self.row is not None and (self.identifiers or self.traits or self.entities or self.message is not None):
            raise ValueError("'row' is of a model's activation; identifiers, traits and entities are of an audience's")
        if self.message is not None and self.entities:
            raise ValueError("an event has no matched entities; give its message, identifiers and traits")
        return self


class ActivationTests(Model):
    """``tests/KEY.yaml``: the cases of one activation."""

    activation: str = Field(description="The activation that the cases are of.")
    cases: tuple[Case, ...] = Field(min_length=1)
