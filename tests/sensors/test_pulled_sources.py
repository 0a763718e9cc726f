"""A source that is looked at continuously starts one reading for what is new, together with what is sent of it."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cdp_assets.dagster_support import asset_key
from cdp_assets.definitions import build_definitions
from cdp_assets.pulled_sources.assets import fed_by
from cdp_assets.space.home import Home
from cdp_assets.space.pulled import PulledEvent
from resources.destinations import Action, Connection, Operation
from resources.destinations.registry import connect
from resources.sandbox.server import sandbox
from resources.space import load
from schedules.audiences import pulled_hourly
from sensors import landing, pulled_sources
from sensors.landing import build_landing_sensor, event_streams
from sensors.pulled_sources import build_pulled_source_sensors, followers

MURAL = Path(__file__).parents[2] / "spaces" / "mural"
SOURCE = asset_key("mural", "pulled_sources", "qualified_leads")


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks do not wait for what nobody sends."""
    monkeypatch.setattr(pulled_sources, "LOOK", dt.timedelta(0))


@pytest.fixture
def twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with sandbox(tmp_path / "twins") as url:
        monkeypatch.setenv("CDP_SANDBOX_URL", url)
        yield url


def put(url: str, number: int) -> str:
    """One lead into the stream; where it stands."""
    connection = Connection("sandbox", "sandbox", {}, {}, f"{url}/kinesis")
    with closing(connect("kinesis", connection)) as destination:
        lead = Operation(str(number), "enter", f"u{number}", {"messageId": f"m{number}"}, f"x{number}")
        (outcome,) = destination.deliver(Action("put", {"stream": "qualified-leads", "key_field": "user_id"}), [lead])
    return str(outcome.remote_id)


def tick(instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    (sensor,) = build_pulled_source_sensors(load(MURAL), MURAL)
    found = sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(found, dg.RunRequest | dg.SkipReason)
    return found


def asked_by(schedule: str, hour: int) -> Sequence[dg.AssetKey]:
    """The assets of the one run that a tick of the schedule asks for."""
    definitions = build_definitions(MURAL)
    at = dt.datetime(2026, 11, 2, hour, tzinfo=dt.UTC)
    known = definitions.get_repository_def()
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(instance, scheduled_execution_time=at, repository_def=known) as context,
    ):
        (asked,) = definitions.resolve_schedule_def(schedule).evaluate_tick(context).run_requests or ()
    return asked.asset_selection or ()


def read_up_to(instance: dg.DagsterInstance, place: str) -> None:
    """As a reading that came so far says."""
    shard, _, position = place.partition(":")
    instance.report_runless_asset_event(dg.AssetMaterialization(SOURCE, metadata={"positions": json.dumps({shard: position})}))


def test_a_record_that_no_reading_has_taken_in_asks_for_one(twins: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert str(tick(instance)) == str(dg.SkipReason("nothing new"))
        first = put(twins, 1)
        asked = tick(instance)
        assert isinstance(asked, dg.RunRequest)
        assert asked.run_key is not None and first in asked.run_key
        assert set(asked.asset_selection or ()) == {
            SOURCE,
            asset_key("mural", "activation_payloads", "leads_to_marketo"),
            asset_key("mural", "destination_syncs", "leads_to_marketo"),
        }
        read_up_to(instance, first)
        assert isinstance(tick(instance), dg.SkipReason)
        second = put(twins, 1)
        again = tick(instance)
        assert isinstance(again, dg.RunRequest)
        assert again.run_key is not None and second in again.run_key


def test_a_record_that_comes_during_a_tick_is_seen_by_it(twins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulled_sources, "LOOK", dt.timedelta(seconds=60))
    late = threading.Timer(1.5, put, (twins, 1))
    late.start()
    with dg.DagsterInstance.ephemeral() as instance:
        assert isinstance(tick(instance), dg.RunRequest)
    late.join()


def test_the_daily_reverse_etl_reads_the_source_of_its_model_in_the_same_run() -> None:
    assert asked_by("mural__sync_churn_report", hour=5) == followers(load(MURAL), "nps_responses")


def test_a_source_that_cannot_be_read_is_a_skip_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDP_SANDBOX_URL", "http://127.0.0.1:1")
    with dg.DagsterInstance.ephemeral() as instance:
        found = tick(instance)
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message == "kinesis does not answer: EndpointConnectionError"


def test_other_sources_are_read_by_the_default_schedule() -> None:
    space = load(MURAL)
    assert pulled_hourly(space) == [asset_key("mural", "pulled_sources", "nps_responses")]
    asked = asked_by("mural__audiences_every_1h", hour=10)
    assert set(pulled_hourly(space)) <= set(asked)
    assert SOURCE not in asked
    assert followers(space, "nps_responses") == [
        asset_key("mural", "pulled_sources", "nps_responses"),
        asset_key("mural", "activation_payloads", "churn_report"),
        asset_key("mural", "destination_syncs", "churn_report"),
    ]


def test_event_streams_go_with_the_landing_files_that_hold_them(tmp_path: Path) -> None:
    space = load(MURAL)
    assert event_streams(space) == [
        asset_key("mural", "activation_payloads", "qualified_leads"),
        asset_key("mural", "destination_syncs", "qualified_leads"),
        # The stream that they go into is read in the same run.
        *followers(space, "qualified_leads"),
    ]
    assert build_landing_sensor(space, MURAL, Home(tmp_path)).minimum_interval_seconds == 1


def test_the_reading_comes_after_the_sync_that_it_reads_from() -> None:
    graph = build_definitions(MURAL).resolve_asset_graph()
    assert graph.get(SOURCE).parent_keys == {asset_key("mural", "destination_syncs", "qualified_leads")}
    # A source whose records become events comes before what is sent of events, whatever it reads.
    assert not graph.get(asset_key("mural", "pulled_sources", "nps_responses")).parent_keys


@pytest.mark.parametrize(
    ("changed", "fed"),
    [
        ({}, ["qualified_leads"]),
        ({"settings": {"stream": "other"}}, []),
        ({"settings": {"stream": "qualified-leads", "region": "eu-west-1"}}, []),
        ({"account": "another"}, []),
        ({"event": PulledEvent(name="Lead", user_id="user_id", timestamp="occurred_at")}, []),
    ],
)
def test_a_source_is_fed_by_what_goes_into_its_very_stream(changed: dict[str, Any], fed: list[str]) -> None:
    space = load(MURAL)
    source = space.config.pulled_sources["qualified_leads"].model_copy(update=changed)
    config = space.config.model_copy(update={"pulled_sources": {"qualified_leads": source}})
    assert fed_by(replace(space, config=config), "qualified_leads") == fed


def test_no_second_reading_starts_while_one_is_to_come(twins: str) -> None:
    job = build_definitions(MURAL).resolve_implicit_global_asset_job_def()
    with dg.instance_for_test() as instance:
        put(twins, 1)
        by_hand, landed = (
            instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({SOURCE}), tags=tags)
            for tags in ({}, {"cdp/sensor": "mural__landing"})
        )
        found = tick(instance)
        assert isinstance(found, dg.SkipReason)
        assert found.skip_message == "a reading is under way"
        instance.report_run_canceled(landed)
        # One that was started by hand, and killed, would stay under way for ever.
        assert not instance.get_run_by_id(by_hand.run_id).is_finished  # type: ignore[union-attr]
        assert isinstance(tick(instance), dg.RunRequest)


def test_a_landing_file_that_comes_during_a_tick_is_seen_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "LOOK", dt.timedelta(seconds=60))
    home = Home(tmp_path)
    home.landing("mural").mkdir(parents=True)
    late = threading.Timer(1.0, (home.landing("mural") / "a.jsonl").write_text, ("{}\n",))
    late.start()
    with dg.DagsterInstance.ephemeral() as instance:
        found = build_landing_sensor(load(MURAL), MURAL, home)(dg.build_sensor_context(instance=instance))
    late.join()
    assert isinstance(found, dg.SensorResult)
    (asked,) = found.run_requests or ()
    assert set(event_streams(load(MURAL))) <= set(asked.asset_selection or ())
    # Before what else waits for the warehouse.
    assert asked.tags["dagster/priority"] == "1"
