"""The world of payload tests, and its destination."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from resources.destinations import registry


def _load_world() -> ModuleType:
    # Test modules are imported by path, so their neighbours are too.
    name = "activation_payloads_world"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("world.py"))
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


world = _load_world()


@pytest.fixture(autouse=True)
def crm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination type whose rules the tests know."""
    connector = ModuleType("crm_connector")
    connector.CAPABILITIES = world.CAPABILITIES  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "crm_connector", connector)
    monkeypatch.setattr(registry, "CONNECTORS", {**registry.CONNECTORS, "crm": "crm_connector"})
