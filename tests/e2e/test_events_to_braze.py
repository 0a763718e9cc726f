"""An audience's entities announced as events to a destination that tells no two of them apart: each once, and never again."""

from __future__ import annotations

import json

from tests.e2e.conftest import HOUR, Stage

BRAZE = """  braze:
    type: braze
    settings: {endpoint: rest.fra-01.braze.eu}
    credentials: {api_key: "${OWL_BANK_BRAZE_API_KEY:-sandbox-secret}"}
"""
ANNOUNCED = """
key: overdue_card_events
name: Overdue card events
audience: overdue_checking
destination: braze
action: events
settings: {object: Event}
trigger: {unit: entity, path: "accounts:credit-cards", when: enters}
event_name: Card Overdue
identifier: user_id
personalization:
  traits: [first_name]
  entities:
    - path: accounts:credit-cards
      columns: [product, overdue_amount]
mapping:
  external_id: {"@path": "$.userId"}
  name: {"@path": "$.event"}
  time: {"@path": "$.timestamp"}
  properties:
    card: {"@path": "$.properties.credit-cards__card_id"}
    amount: {"@path": "$.properties.credit-cards__overdue_amount"}
consent:
  subject: profile
  categories: [Advertising]
first_run: send
"""


def test_each_card_is_announced_once(owl_bank: Stage) -> None:
    config = owl_bank.directory / "space.yaml"
    config.write_text(config.read_text().replace("destinations:\n", f"destinations:\n{BRAZE}", 1))
    (owl_bank.directory / "activations" / "overdue_card_events.yaml").write_text(ANNOUNCED)
    report = owl_bank.run(owl_bank.now + HOUR)
    assert report.failures == {}
    counts = report.summary["activations"]["overdue_card_events"]
    events = [record["fields"] for record in owl_bank.twin("braze/records?object=Event")["records"]]
    assert counts["delivered"] == counts["operations"]["enter"] == len(events) > 10
    assert sum(counts["withheld"].values()) > 0, "some did not consent"
    cards = [(event["external_id"], event["properties"]["card"]) for event in events]
    assert len(set(cards)) == len(cards)
    assert {event["name"] for event in events} == {"Card Overdue"}
    assert all(isinstance(event["properties"]["amount"], int | float) for event in events)
    again = owl_bank.run(owl_bank.now + 2 * HOUR)
    assert again.summary["activations"]["overdue_card_events"]["delivered"] == 0
    assert len(owl_bank.twin("braze/records?object=Event")["records"]) == len(events)
    assert "@" not in json.dumps(report.summary)
