"""What happens to a message that breaks the tracking plan: options per source, named as Segment's, in snake case.

An option that is not given is the space's (``protocols.enforcement``); one that the space does not give either allows.
Whatever is allowed is still annotated and counted.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field

from cdp_assets.space.base import Model


class TrackEnforcement(Model):
    """Track calls."""

    allow_unplanned_events: bool | None = Field(None, description="false: events that the plan does not name are quarantined.")
    allow_unplanned_event_properties: bool | None = Field(
        None, description="false: properties that the event's rule does not name are removed."
    )
    allow_event_on_violations: bool | None = Field(None, description="false: events that violate their rule are quarantined.")
    allow_properties_on_violations: bool | None = Field(
        None, description="false: properties that violate their event's rule are removed."
    )
    common_event_on_violations: Literal["allow", "block", "omit_properties"] | None = Field(
        None, description="What a violation of the common schema does: nothing, quarantine the event, or remove the property."
    )


class TraitEnforcement(Model):
    """Identify calls, or group calls."""

    allow_unplanned_traits: bool | None = Field(None, description="false: traits that the rule does not name are removed.")
    allow_traits_on_violations: bool | None = Field(None, description="false: traits that violate the rule are removed.")
    common_event_on_violations: Literal["allow", "block", "omit_traits"] | None = Field(
        None, description="What a violation of the common schema does: nothing, quarantine the call, or remove the trait."
    )


class Enforcement(Model):
    """Options by call type. Pages, screens and aliases are judged and annotated, and always go on."""

    track: TrackEnforcement = TrackEnforcement()
    identify: TraitEnforcement = TraitEnforcement()
    group: TraitEnforcement = TraitEnforcement()

    def over(self, default: Enforcement) -> Enforcement:
        """These options; where one is not given, the default's."""
        return Enforcement(
            track=_over(self.track, default.track),
            identify=_over(self.identify, default.identify),
            group=_over(self.group, default.group),
        )


class ProtocolsConfig(Model):
    """The tracking plan's settings for the whole space."""

    enforcement: Enforcement = Field(
        Enforcement(), description="Options of sources that do not give their own, and of messages of no source."
    )
    judged_upstream: bool = Field(False, description="judged_upstream of such sources and messages.")


M = TypeVar("M", bound=Model)


def _over(own: M, default: M) -> M:
    return default.model_copy(update=own.model_dump(exclude_none=True))
