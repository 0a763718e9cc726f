"""Which stages the messages of a space pass, in which order."""

from __future__ import annotations

from cdp_assets.raw_events.protocols import plan_stage
from cdp_assets.raw_events.stages import Stage
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse


def build_stages(space: Space, warehouse: Warehouse) -> list[Stage]:
    """The stages of a space, in the order in which a message passes them."""
    plan = plan_stage(space)
    return [plan] if plan is not None else []
