"""The whole pipeline on owl_bank, from landing files to the twins' records: what is sent, and what must not be."""

from __future__ import annotations

import base64
import datetime as dt
import re
from typing import Any

from cdp_assets.computed_traits.inline import inline_values
from cdp_assets.dagster_support import asset_key
from cdp_assets.linked_audiences.compile import compile_inline
from resources.instance import open_instance
from resources.space import load
from resources.warehouse import TableRef
from tests.e2e.conftest import HOUR, ROOT, Stage


def delivered(summary: dict[str, Any]) -> dict[str, int]:
    return {key: activation["delivered"] for key, activation in summary["activations"].items()}


def total(summary: dict[str, Any], outcome: str) -> int:
    counts = [activation[outcome] for activation in summary["activations"].values()]
    return sum(sum(count.values()) if isinstance(count, dict) else count for count in counts)


def test_the_first_run_accounts_for_every_line_and_every_key(first_summary: dict[str, Any]) -> None:
    assert first_summary["raw_events"]["accepted"] > 1000
    assert first_summary["raw_events"]["duplicates"] > 0
    assert first_summary["raw_events"]["quarantined"] > 0
    assert first_summary["audiences"]["overdue_checking"]["members"] > 0
    for activation in first_summary["activations"].values():
        outcomes = ("unchanged", "delivered", "rejected", "waiting", "unknown")
        counted = sum(activation[o] for o in outcomes) + sum(activation["withheld"].values()) + sum(activation["held"].values())
        assert activation["considered"] == counted > 0
    assert all(count > 0 for count in delivered(first_summary).values())


def test_a_second_run_sends_nothing(owl_bank: Stage) -> None:
    report = owl_bank.run()
    assert report.failures == {}
    assert total(report.summary, "delivered") == 0
    assert owl_bank.new_calls() == 0


def test_a_changed_warehouse_row_without_any_event_arrives_at_the_next_build(owl_bank: Stage) -> None:
    with owl_bank.warehouse() as warehouse:
        accounts = warehouse.table(TableRef("bank", "accounts"))
        cards = TableRef("bank", "credit_cards")
        table = warehouse.table(cards)
        members = warehouse.table(TableRef("linked_audiences", "audience_context"))
        known = members.filter(members.path == "accounts").select("entity_id")
        checking = accounts.filter(
            (accounts.account_type == "checking") & accounts.account_id.cast("string").notin(known.entity_id)
        )
        candidates = table.semi_join(checking, "account_id").filter(table.overdue_amount == 0).order_by("card_id").limit(1)
        warehouse.upsert(cards, candidates.mutate(overdue_amount=candidates.overdue_amount + 250.0), ["card_id"])
    report = owl_bank.run(owl_bank.now + HOUR)
    summary = report.summary["activations"]
    outcomes = {key: (a["operations"]["enter"], sum(a["withheld"].values())) for key, a in summary.items()}
    before = {key: sum(a["withheld"].values()) for key, a in summary.items()}
    assert any(enter == 1 for enter, _ in outcomes.values()) or any(before.values())
    assert total(report.summary, "delivered") >= 1


def test_a_truncated_table_holds_the_sync_until_it_is_back(owl_bank: Stage) -> None:
    with owl_bank.warehouse() as warehouse:
        tables = warehouse.list_tables("bank")
        assert [table.name for table in tables] == ["accounts", "credit_cards", "transactions"]
        rows = {ref: warehouse.arrow(warehouse.table(ref)) for ref in tables}
    for hour, (back, truncated) in enumerate(zip([None, *tables], [*tables, None], strict=True), 1):
        with owl_bank.warehouse() as warehouse:
            if back:
                warehouse.append(back, rows[back])
            if truncated:
                warehouse.delete(truncated, [])
        report = owl_bank.run(owl_bank.now + hour * HOUR)
        assert owl_bank.new_calls() == 0
        assert total(report.summary, "delivered") == 0
    assert total(report.summary, "held") == 0


def test_an_as_of_older_than_the_last_sync_is_held(owl_bank: Stage) -> None:
    report = owl_bank.run(owl_bank.now - dt.timedelta(days=1))
    assert owl_bank.new_calls() == 0
    assert total(report.summary, "delivered") == 0


def test_both_language_versions_of_the_data_graph_give_the_same_members_and_context(owl_bank: Stage) -> None:
    def result() -> dict[str, list[tuple[Any, ...]]]:
        space = load(owl_bank.directory)
        with owl_bank.warehouse() as warehouse:
            found = compile_inline(
                warehouse, space, "overdue_checking", owl_bank.now, trait_values=inline_values(warehouse, space, owl_bank.now)
            )
            return {
                "members": sorted(tuple(row.values()) for row in warehouse.arrow(found.members).to_pylist()),
                "context": sorted(tuple(map(str, row.values())) for row in warehouse.arrow(found.context).to_pylist()),
            }

    current = result()
    legacy = ROOT / "tests" / "fixtures" / "owl_bank_v0" / "data_graph_v0.hcl"
    (owl_bank.directory / "data_graph.hcl").write_text(legacy.read_text())
    assert load(owl_bank.directory).graph.version.startswith("v0.0.")
    assert result() == current
    assert current["members"]
    assert current["context"]


def test_a_sync_says_how_much_of_the_quota_is_used_and_draws_its_calls(owl_bank: Stage) -> None:
    owl_bank.run(owl_bank.now + HOUR)
    with open_instance(owl_bank.home) as instance:
        for key, said in (
            ("overdue_contacts", r"\d+ of 100,000 calls of the account's day"),
            ("overdue_card_alerts", r"of 50,000 a day"),
        ):
            found = instance.fetch_materializations(asset_key("owl_bank", "destination_syncs", key), limit=2).records
            newest, first = (record.asset_materialization for record in found)
            assert newest is not None and first is not None
            assert (int(str(first.metadata["calls"].value)) > 0, newest.metadata["calls"].value) == (True, 0)
            assert re.search(said, str(first.metadata["quota use"].value))
            picture = str(newest.metadata["calls of the last syncs"].value)
            svg = base64.b64decode(picture.partition("base64,")[2].removesuffix(")")).decode()
            assert f"{first.metadata['calls'].value} calls" in svg
