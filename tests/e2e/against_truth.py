"""What a sync reported and what the twins hold, beside what a script computes from the truth file and the entity tables."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import urlopen

from tests.truth import expected_operations as truth

SYSTEMS = {
    "overdue_contacts": ("salesforce", "Contact"),
    "overdue_card_alerts": ("marketo", "leads"),
    "user_profile_segmentation": ("marketo", "leads"),
}
COUNTED = ("considered", "unchanged", "delivered", "withheld", "operations")


def reported(summary: dict[str, Any], accounts: dict[str, truth.Expected]) -> dict[str, dict[str, Any]]:
    """What a sync says that it did, of the activations that the truth knows about."""
    return {key: {name: summary["activations"][key][name] for name in COUNTED} for key in accounts}


def wanted(accounts: dict[str, truth.Expected]) -> dict[str, dict[str, Any]]:
    """What it had to do, in the same form."""
    return {
        key: {
            "considered": expected.considered,
            "unchanged": expected.unchanged,
            "delivered": expected.delivered,
            "withheld": dict(expected.withheld),
            "operations": {kind: expected.operations.get(kind, 0) for kind in ("enter", "change", "exit", "retract")},
        }
        for key, expected in accounts.items()
    }


def held_by_twin(url: str, activation: str) -> list[dict]:
    system, thing = SYSTEMS[activation]
    with urlopen(f"{url}/__twin/{system}/records?object={thing}") as response:
        return [record["fields"] for record in json.load(response)["records"]]
