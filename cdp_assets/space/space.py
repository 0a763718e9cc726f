"""A loaded space: all its files, validated and cross-referenced, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.activation_tests import ActivationTests
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.transformations import Transformation

if TYPE_CHECKING:
    from cdp_assets.space.tracking_plan import TrackingPlan


@dataclass(frozen=True, order=True)
class Problem:
    """Something wrong in a space: where, what, and what to do. Printed as ``file:line: message (remedy)``."""

    file: str
    line: int
    message: str
    remedy: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        prefix = "warning: " if self.level == "warning" else ""
        return f"{self.file}:{self.line}: {prefix}{self.message} ({self.remedy})"


class SpaceError(Exception):
    """The space does not validate. ``problems`` holds every error, sorted by file and line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


# What the pipeline itself writes for users to read: event tables, people, traits, audiences.
OWN_SCHEMAS = ("pulled_sources", "events", "unified_profiles", "computed_traits", "linked_audiences")


def readable_schemas(config: SpaceConfig, graph: DataGraph) -> tuple[str, ...]:
    """Schemas that the user's SQL may read: the company's own, the profiles', and the pipeline's results. Lower case."""
    profiles = graph.profile_folder.split(".")[-1].strip()
    named = (*config.warehouse.schemas, *config.warehouse.files, profiles, *OWN_SCHEMAS)
    return tuple(dict.fromkeys(schema.lower() for schema in named))


@dataclass(frozen=True)
class Space:
    """All files of a space folder. Mappings are by key, in key order."""

    directory: Path
    config: SpaceConfig
    graph: DataGraph
    traits: Mapping[str, Trait] = field(default_factory=dict)
    audiences: Mapping[str, Audience] = field(default_factory=dict)
    models: Mapping[str, SqlModel] = field(default_factory=dict)
    activations: Mapping[str, Activation] = field(default_factory=dict)
    transformations: Mapping[str, Transformation] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    tracking_plan: TrackingPlan | None = None
    tests: Mapping[str, ActivationTests] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def readable_schemas(self) -> tuple[str, ...]:
        """Schemas that models and SQL traits may read."""
        return readable_schemas(self.config, self.graph)

    def path(self, text: str) -> Path:
        """A path of the configuration, relative to the space folder unless absolute."""
        return (self.directory / text).resolve()
