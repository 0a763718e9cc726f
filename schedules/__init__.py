"""What starts work by the clock. One module per reason; decisions are plain functions, Dagster is a thin shell around them."""

import dagster as dg

from cdp_assets.space.space import Space
from schedules.activations import build_activation_schedules
from schedules.audiences import build_audience_schedules
from schedules.data_graph import build_data_graph_schedule
from schedules.demo import build_demo_schedules
from schedules.reports import build_report_schedules


def build_schedules(space: Space) -> list[dg.ScheduleDefinition]:
    """All schedules of a space."""
    return [
        *build_audience_schedules(space),
        *build_activation_schedules(space),
        build_data_graph_schedule(space),
        *build_report_schedules(space),
        *build_demo_schedules(space),
    ]
