"""JSON Schemas of the space folder's files, for editors. ``cdp schema`` writes them to ``docs/schemas``."""

from __future__ import annotations

from typing import Any

from cdp_assets.space.activation_tests import ActivationTests
from cdp_assets.space.base import Model
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.models.traits import Trait
from cdp_assets.space.tracking_plan import TrackingPlan
from cdp_assets.space.transformations import Transformation

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_KINDS: dict[str, type[Model]] = {
    "space": SpaceConfig,
    "trait": Trait,
    "audience": Audience,
    "model": SqlModel,
    "activation": Activation,
    "tracking_plan": TrackingPlan,
    "transformation": Transformation,
    "tests": ActivationTests,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """File kind -> JSON Schema. ``model`` is the front matter of a ``.sql`` file, without what the file itself says."""
    return {kind: _schema(kind, model) for kind, model in _KINDS.items()}


def _schema(kind: str, model: type[Model]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    if kind == "model":
        for name in ("key", "query"):
            del schema["properties"][name]
            schema["required"].remove(name)
    return {"$schema": DIALECT, **schema}
