"""The mural space, whole: a run delivers to every system what the ledger says and the truth asks for, and a second one sends nothing."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pytest

from cdp_assets.dagster_support import asset_key
from cdp_assets.definitions import build_definitions
from cdp_assets.generate import generate
from cdp_assets.pipeline import run_space
from cdp_assets.pulled_sources.tables import CHECKPOINTS, UNREADABLE, table_of
from cdp_assets.raw_events.suppression import suppress
from cdp_assets.space.home import Home
from resources.instance import open_instance
from resources.sandbox.facebook import AUDIENCE_ID
from resources.sandbox.linkedin import SEGMENT_ID
from resources.sandbox.marketo import LIST_ID
from resources.sandbox.server import sandbox
from resources.space import load
from tests.e2e.against_truth import held_by_twin, reported, wanted
from tests.e2e.conftest import END, HOUR, ROOT, Stage, make
from tests.truth import expected_operations as truth


@dataclass
class Mural(Stage):
    """``expected``: what the newest run had to do, and what destinations hold then."""

    expected: tuple[dict[str, truth.Expected], Any] = field(kw_only=True)


@pytest.fixture(scope="module")
def mural(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mural, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("mural")
    shutil.copytree(ROOT / "spaces" / "mural", folder / "space")
    home = Home(folder / "home")
    make(folder / "space", home, profiles=200, days=6)
    with sandbox(home.sandbox) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDP_SANDBOX_URL", url)
        expected = truth.sync("mural", {}, truth.snapshot(home.root, "mural", END))
        report = run_space(folder / "space", home, as_of=END)
        assert report.failures == {}
        yield Mural(folder / "space", home, url, expected=expected), report.summary


def held(stage: Stage, place: str) -> list[dict[str, Any]]:
    return [record["fields"] for record in stage.twin(place)["records"]]


def test_every_integration_delivers(mural: tuple[Mural, dict[str, Any]]) -> None:
    _, summary = mural
    assert {key for key, counts in summary["activations"].items() if not counts["delivered"]} == set()
    assert all(not counts["rejected"] and not counts["unknown"] for counts in summary["activations"].values())
    assert summary["pulled_sources"]["nps_responses"] > 5
    assert summary["pulled_sources"]["qualified_leads"] == summary["activations"]["qualified_leads"]["delivered"]


def test_what_was_sent_equals_the_truth(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, summary = mural
    accounts, _ = stage.expected
    assert reported(summary, accounts) == wanted(accounts)


def test_each_system_holds_what_was_delivered_to_it(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, summary = mural
    delivered = {key: counts["delivered"] for key, counts in summary["activations"].items()}
    assert len(held(stage, f"facebook/records?object=audience/{AUDIENCE_ID}")) == delivered["lookalike_facebook"]
    assert len(held(stage, f"linkedin/records?object=segment/{SEGMENT_ID}")) == delivered["lookalike_linkedin"]
    assert len(held(stage, "optimizely/records?object=profiles")) == delivered["experiments"]
    assert len(held(stage, "google_analytics/records?object=Event")) == delivered["champions_analytics"]
    assert len(held(stage, f"marketo/records?object=lists/{LIST_ID}")) == delivered["renewal_list"]
    assert len(held(stage, "salesforce/records?object=Churn_Report__c")) == delivered["churn_report"]
    assert len(held(stage, "gainsight/records?object=user_activity__gc")) == delivered["user_activity"]
    assert len(held(stage, "braze/records?object=User")) == delivered["renewal_outreach"]
    lake = stage.home.sandbox / "delta" / "product" / "user_activity"
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{lake}/**/*.parquet')").fetchall() == [
        (delivered["user_activity_lake"],)
    ]


def test_a_message_about_a_renewal_names_account_and_manager(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, _ = mural
    with stage.warehouse() as warehouse:
        from resources.warehouse import TableRef

        accounts = {row["company_name"]: row for row in warehouse.rows(warehouse.table(TableRef("billing", "accounts")), 1_000)}
    users = held(stage, "braze/records?object=User")
    assert users
    for user in users:
        account = accounts[user["company_name"]]
        assert user["renewal_date"] == account["term_end"].isoformat()
        assert (user["arr"], user["csm_name"]) == (account["arr"], account["csm_name"])


def test_the_stream_of_leads_ends_in_marketo(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, _ = mural
    records = [json.loads(base64.b64decode(one["Data"])) for one in held(stage, "kinesis/records?object=qualified-leads")]
    leads = {lead["email"]: lead for lead in held(stage, "marketo/records?object=leads")}
    assert records
    newest: dict[str, str] = {}
    for record in sorted(records, key=lambda one: one["occurred_at"]):
        newest[record["email"]] = record["page"]
    assert {email: leads[email]["Mql_Page__c"] for email in newest} == newest


def test_nps_responses_are_events_and_entities(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, summary = mural
    file = stage.home.warehouse_file("mural")
    with duckdb.connect(str(file), read_only=True) as connection:
        (events,) = connection.sql("SELECT count(*) FROM events.nps_response_submitted").fetchall()[0]
        (low,) = connection.sql("SELECT count(*) FROM pulled_sources.nps_responses WHERE rating <= 6").fetchall()[0]
    assert events == summary["pulled_sources"]["nps_responses"]
    assert low > 0


def test_a_second_run_sends_nothing(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, _ = mural
    report = stage.run()
    assert report.failures == {}
    assert {key: counts["delivered"] for key, counts in report.summary["activations"].items() if counts["delivered"]} == {}


def test_another_day_equals_the_truth(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, _ = mural
    with stage.warehouse() as warehouse:
        generate(load(stage.directory), warehouse, stage.home, profiles=0, days=0, seed=0, end=END, more="1d")
    stage.now = END + 24 * HOUR
    accounts, ledger = truth.sync("mural", stage.expected[1], truth.snapshot(stage.home.root, "mural", stage.now))
    report = stage.run()
    assert report.failures == {}
    assert reported(report.summary, accounts) == wanted(accounts)
    assert sum(expected.delivered for expected in accounts.values()) > 0
    for activation in accounts:
        assert truth.differences("mural", activation, ledger, held_by_twin(stage.url, activation)) == []


# Nothing can be taken back from these: events stay where they were sent.
APPENDING = {"qualified_leads", "champions_analytics"}


def test_when_everybody_withdraws_no_system_that_can_forget_holds_anybody(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, _ = mural
    present = people_in(stage)
    assert sum(present.values()) > 300
    assert set(present) > APPENDING
    stage.withdraw("mural", stage.people("mural"))
    report = stage.run(stage.now + HOUR)
    assert report.failures == {}
    assert set(people_in(stage)) <= APPENDING
    assert held(stage, f"facebook/records?object=audience/{AUDIENCE_ID}") == []
    assert held(stage, f"linkedin/records?object=segment/{SEGMENT_ID}") == []
    assert held(stage, f"marketo/records?object=lists/{LIST_ID}") == []
    flags = (
        ("salesforce", "Contact", "Nps_Detractor__c"),
        ("marketo", "leads", "Renewal_At_Risk__c"),
        ("marketo", "leads", "Qualified_Lead__c"),
        ("gainsight", "user_activity__gc", "is_tracked__gc"),
        ("braze", "User", "renewal_at_risk"),
        ("optimizely", "profiles", "champion_at_risk"),
    )
    for system, kind, flag in flags:
        records = held(stage, f"{system}/records?object={kind}")
        assert records
        assert [record for record in records if record.get(flag) not in (None, False)] == [], (system, flag)


def test_a_reading_leaves_out_who_is_suppressed(mural: tuple[Mural, dict[str, Any]]) -> None:
    stage, _ = mural
    space = load(stage.directory)
    responses = table_of("nps_responses", space.config.pulled_sources["nps_responses"]).ref
    with stage.warehouse() as warehouse:
        before = {row["response_id"]: row["user_id"] for row in warehouse.rows(warehouse.table(responses), 10_000)}
        gone = sorted(filter(None, before.values()))[0]
        suppress(warehouse, space.config.identity, "user_id", gone, stage.now)
        # As if nothing had been read yet.
        warehouse.delete(responses, [])
        warehouse.delete(CHECKPOINTS.ref, [("source", "=", "nps_responses")])
    job = build_definitions(stage.directory, stage.home.root).resolve_implicit_global_asset_job_def()
    with open_instance(stage.home) as instance:
        read = job.get_subset(asset_selection={asset_key("mural", "pulled_sources", "nps_responses")})
        assert read.execute_in_process(instance=instance, raise_on_error=False).success
    with stage.warehouse() as warehouse:
        after = {row["response_id"] for row in warehouse.rows(warehouse.table(responses), 10_000)}
        refused = warehouse.rows(warehouse.table(UNREADABLE.ref), 10_000)
    theirs = {response for response, user in before.items() if user == gone}
    assert after == before.keys() - theirs
    assert [(row["reason"], row["record"]) for row in refused] == [("suppressed", None)] * len(theirs)


def people_in(stage: Stage) -> dict[str, int]:
    """Activation -> people that its destination holds now, as the ledger says."""
    file = stage.home.warehouse_file("mural")
    with duckdb.connect(str(file), read_only=True) as connection:
        found = connection.sql(
            "SELECT activation, count(*) FROM destination_syncs.ledger WHERE present AND segment_id <> '' GROUP BY 1"
        ).fetchall()
    return dict(found)
