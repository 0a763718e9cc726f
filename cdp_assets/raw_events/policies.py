"""Which stages the messages of a space pass, in which order."""

from __future__ import annotations

from cdp_assets.raw_events.filters import event_filter_stages, transformation_stages
from cdp_assets.raw_events.protocols import plan_stage
from cdp_assets.raw_events.stages import Stage
from cdp_assets.raw_events.suppression import suppression_stage
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse


def build_stages(space: Space, warehouse: Warehouse) -> list[Stage]:
    """The stages of a space, in the order in which a message passes them.

    Suppression comes first: no other stage sees what it refuses. Event filters spare the tracking plan what nobody wants. The plan
    judges messages as their sources sent them, so transformations come last.
    """
    suppression, plan = suppression_stage(warehouse, space.config.identity), plan_stage(space)
    return [
        *([suppression] if suppression else []),
        *event_filter_stages(space),
        *([plan] if plan else []),
        *transformation_stages(space),
    ]
