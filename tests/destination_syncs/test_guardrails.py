"""Guardrails and what a release lifts."""

from __future__ import annotations

from cdp_assets.destination_syncs.guardrails import (
    BACKFILL,
    DEFINITION,
    GUARDRAIL,
    Hold,
    exits_guardrail,
    standing,
    tables_guardrail,
)
from cdp_assets.space.models.activations import Guardrails


def test_exits_hold_above_both_the_share_and_the_number() -> None:
    rails = Guardrails()
    assert exits_guardrail(rails, present=1000, leaving=201)
    assert not exits_guardrail(rails, present=1000, leaving=200)
    assert not exits_guardrail(rails, present=100, leaving=50)
    assert exits_guardrail(rails, present=100, leaving=51)
    assert not exits_guardrail(Guardrails(max_exit_share=None), present=100, leaving=100)
    assert exits_guardrail(Guardrails(max_exits=None), present=4, leaving=1)


def test_a_table_holds_when_it_is_empty_or_lost_over_half() -> None:
    before = {"cards": 10, "accounts": 10, "always_empty": 0}
    codes = lambda now, **rails: [h.code for h in tables_guardrail(Guardrails(**rails), before=before, now=now)]  # noqa: E731
    assert codes({"cards": 0, "accounts": 4, "always_empty": 0}) == ["table:accounts", "table:cards"]
    assert codes({"cards": 5, "accounts": 10, "always_empty": 0}) == []
    assert codes({"cards": 0, "accounts": 4}, max_table_loss=None) == ["table:cards"]
    assert codes({"cards": 0, "accounts": 4}, empty_table=False) == ["table:accounts", "table:cards"]
    assert codes({"cards": 0, "accounts": 4}, empty_table=False, max_table_loss=None) == []
    assert codes({"accounts": 10}) == []  # no longer on the path


def test_a_release_lifts_what_was_held_and_nothing_else() -> None:
    definition, table = Hold(DEFINITION, "definition:r2", ""), Hold(GUARDRAIL, "table:cards", "")
    assert standing([table, definition], []) == [definition, table]
    assert standing([table, definition], ["definition:r2"]) == [table]
    assert standing([definition], ["definition:r1"]) == [definition]
    assert standing([Hold(BACKFILL, "backfill", "")], ["backfill"]) == [Hold(BACKFILL, "backfill", "")]
