"""What starts work because something changed. One module per reason; decisions are plain functions, Dagster is a thin shell."""

from pathlib import Path

import dagster as dg

from cdp_assets.space.home import Home
from cdp_assets.space.space import Space
from sensors.data_graph import build_data_graph_sensor
from sensors.failures import build_failure_sensors
from sensors.landing import build_landing_sensor
from sensors.pulled_sources import build_pulled_source_sensors


def build_sensors(space: Space, directory: Path, home: Home) -> list[dg.SensorDefinition]:
    """All sensors of a space. They read the space folder, the landing folder's listing and sources, never the warehouse."""
    data_graph = build_data_graph_sensor(space, directory)
    return [
        build_landing_sensor(space, directory, home),
        *build_pulled_source_sensors(space, directory),
        *build_failure_sensors(space, directory),
        *([data_graph] if data_graph else []),
    ]
