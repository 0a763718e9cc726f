"""How old an asset may grow before the UI says so: as its most frequent schedule lets it."""

import datetime as dt
import shutil
from pathlib import Path

import dagster as dg

from cdp_assets.dagster_support import asset_key
from cdp_assets.definitions import build_definitions

MURAL = Path(__file__).parents[2] / "spaces" / "mural"
MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"
HOURLY = (dt.timedelta(hours=2), dt.timedelta(hours=3))
DAILY = (dt.timedelta(hours=25), dt.timedelta(hours=49))


def _windows(definitions: dg.Definitions, *path: str) -> tuple[dt.timedelta | None, dt.timedelta] | None:
    policy = definitions.resolve_asset_graph().get(asset_key(*path)).freshness_policy_or_from_metadata
    if policy is None:
        return None
    assert isinstance(policy, dg.FreshnessPolicy)
    warn, fail = policy.warn_window, policy.fail_window  # type: ignore[attr-defined]
    return warn and warn.to_timedelta(), fail.to_timedelta()


def test_an_asset_warns_after_its_interval_with_a_grace_and_fails_an_interval_later() -> None:
    definitions = build_definitions(MURAL)
    assert {
        path: _windows(definitions, "mural", *path)
        for path in (
            ("linked_audiences", "board_makers"),
            ("destination_syncs", "lookalike_facebook"),
            ("pulled_sources", "nps_responses"),
            ("destination_syncs", "churn_report"),
            ("reports", "audit_report"),
            ("data_graph", "graph"),
            ("raw_events", "messages"),
            ("unified_profiles", "user_traits"),
            ("activation_payloads", "churn_report"),
            ("pulled_sources", "qualified_leads"),
        )
    } == {
        ("linked_audiences", "board_makers"): HOURLY,
        ("destination_syncs", "lookalike_facebook"): HOURLY,
        ("pulled_sources", "nps_responses"): HOURLY,
        ("destination_syncs", "churn_report"): DAILY,
        ("reports", "audit_report"): DAILY,
        ("data_graph", "graph"): DAILY,
        ("raw_events", "messages"): DAILY,
        ("unified_profiles", "user_traits"): DAILY,
        ("activation_payloads", "churn_report"): DAILY,
        # A stream is read when something is in it.
        ("pulled_sources", "qualified_leads"): None,
    }


def test_nothing_is_late_where_nothing_starts_by_itself(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MINI, tmp_path / "mini"))
    settings = folder / "space.yaml"
    settings.write_text(settings.read_text() + "automation: off\n")
    definitions = build_definitions(folder)
    assert _windows(definitions, "mini", "raw_events", "messages") is None
    assert _windows(build_definitions(MINI), "mini", "raw_events", "messages") == DAILY
