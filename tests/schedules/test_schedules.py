"""What the clock starts: which assets, as of which instant, in which partition, and when it waits."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from croniter import croniter
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from cdp_assets.dagster_support import META_AS_OF, TAG_AS_OF, asset_key, format_instant, partitions_of
from cdp_assets.definitions import build_definitions
from cdp_assets.generate.generator import state_file
from cdp_assets.generate.people import millis
from cdp_assets.space.home import Home
from cdp_assets.space.models.common import Schedule
from cdp_assets.space.space import Space
from cdp_assets.space.time import windows
from resources.space import SpaceResource, load
from schedules import build_schedules
from schedules.activations import max_age, needs_build
from schedules.audiences import followers, required, unclaimed_traits, window_to_close
from schedules.demo import build_demo_schedules, reason_to_rest
from schedules.ticks import TAG_SCHEDULE, cron_of, interval_minutes, name_of

SPACES = Path(__file__).parent.parent / "fixtures" / "spaces"
TICK = dt.datetime(2026, 1, 5, 10, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DEFAULT = "mini__audiences_every_1h"


def edited(directory: Path, **files: tuple[str, str]) -> Path:
    """Replace a text in files named like ``audiences__active``; an empty old text appends."""
    for name, (old, new) in files.items():
        path = directory / f"{name.replace('__', '/')}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new) if old else text + new)
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SPACES / "mini", tmp_path / "mini"))


@pytest.fixture(scope="module")
def space() -> Space:
    return load(SPACES / "mini")


# -- decisions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "cron", "minutes", "name"),
    [
        ({"every": "15m"}, "*/15 * * * *", 15, "every_15m"),
        ({"every": "1h"}, "0 * * * *", 60, "every_1h"),
        ({"every": "12h"}, "0 */12 * * *", 720, "every_12h"),
        ({"every": "1d"}, "0 0 * * *", 1440, "every_1d"),
        ({"cron": "0 9 * * 1-5"}, "0 9 * * 1-5", 1440, "cron_0_9_x_x_1to5_UTC"),
        ({"cron": "*/10 8,20 * * *"}, "*/10 8,20 * * *", 10, "cron_xper10_8and20_x_x_x_UTC"),
    ],
)
def test_a_schedule_is_a_cron_expression_an_interval_and_a_name(
    schedule: dict[str, Any], cron: str, minutes: int, name: str
) -> None:
    parsed = Schedule(**schedule)
    assert (cron_of(parsed), interval_minutes(parsed), name_of(parsed)) == (cron, minutes, name)


def test_an_audience_needs_the_traits_and_audiences_that_it_reads_to_the_end(space: Space) -> None:
    # ``active`` reads ``logins`` and ``overdue``; what is sent of ``overdue`` shows ``balance``.
    assert required(space, "active") == ({"logins", "balance"}, {"active", "overdue"})
    assert required(space, "overdue") == ({"balance"}, {"overdue"})


def test_a_trait_that_joins_the_graph_is_needed_and_one_from_identify_calls_is_not_built(folder: Path) -> None:
    graph = folder / "data_graph.hcl"
    text = graph.read_text()
    graph.write_text(text.replace('name     = "home_shop"', 'name     = "logins"'))
    edited(folder, audiences__active=("      - {with_trait: logins, operator: at_least, value: 3}\n", ""))
    assert required(load(folder), "active")[0] == {"logins", "balance"}
    graph.write_text(text)
    assert required(load(folder), "active")[0] == {"balance"}


def test_a_trait_that_no_audience_needs_is_unclaimed(folder: Path, space: Space) -> None:
    assert unclaimed_traits(space) == set()
    spare = (folder / "traits" / "logins.yaml").read_text().replace("key: logins", "key: spare")
    (folder / "traits" / "spare.yaml").write_text(spare)
    assert unclaimed_traits(load(folder)) == {"spare"}


def names(keys: Sequence[dg.AssetKey]) -> list[str]:
    return ["/".join(key.path[1:]) for key in keys]


def test_activations_without_a_schedule_follow_their_audience(space: Space) -> None:
    both = ["activation_payloads/overdue_crm", "destination_syncs/overdue_crm"]
    assert names(followers(space, {"overdue", "active"}, models=False)) == both
    assert followers(space, {"active"}, models=True) == []
    activation = space.activations["overdue_crm"]
    for change in ({"enabled": False}, {"schedule": Schedule(every="1d")}):
        other = activation.model_copy(update=change)
        assert followers(dataclasses.replace(space, activations={"overdue_crm": other}), {"overdue"}, models=True) == []


def test_a_model_follows_the_default_schedule(space: Space) -> None:
    model = space.activations["overdue_crm"].model_copy(update={"audience": None, "model": "accounts"})
    changed = dataclasses.replace(space, activations={"accounts_crm": model})
    assert names(followers(changed, set(), models=True)) == ["activation_payloads/accounts_crm", "destination_syncs/accounts_crm"]
    assert followers(changed, {"overdue"}, models=False) == []


def test_a_window_built_while_open_is_closed_and_one_built_at_its_end_is_not(space: Space) -> None:
    yesterday = windows(space.config, TICK)[-2]
    early, end = yesterday.end - HOUR, yesterday.end

    def closes(*built: dt.datetime | None) -> bool:
        return window_to_close(space, TICK, {yesterday.key: built}) == yesterday

    assert closes(early)
    assert closes(end, early)
    assert not closes(end, end)
    assert not closes(None)
    assert not closes()
    assert window_to_close(space, TICK, {}) is None


def test_the_first_window_has_none_before_it_and_a_tick_at_midnight_is_the_close_itself(space: Space) -> None:
    first, second = windows(space.config, TICK)[:2]
    assert window_to_close(space, first.start + HOUR, {}) is None
    built = {first.key: [first.end - HOUR]}
    assert window_to_close(space, first.end, built) is None
    assert window_to_close(space, second.start + HOUR, built) == first


def test_an_audience_may_be_twice_its_interval_old_unless_the_activation_says_otherwise(space: Space) -> None:
    activation = space.activations["overdue_crm"]
    assert max_age(space, activation) == 2 * HOUR
    assert max_age(space, activation.model_copy(update={"max_age_minutes": 30})) == HOUR / 2
    assert needs_build(space, activation, TICK, None)
    assert needs_build(space, activation, TICK, TICK - 2 * HOUR - dt.timedelta(seconds=1))
    assert not needs_build(space, activation, TICK, TICK - 2 * HOUR)
    assert not needs_build(space, activation.model_copy(update={"audience": None, "model": "accounts"}), TICK, None)


# -- on an instance -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an instance: making their tables takes seconds, copying them does not."""
    folder = tmp_path_factory.mktemp("dagster")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        assert instance.get_runs() == []
    return folder


@pytest.fixture
def instance(empty_instance: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """On files: a schedule's context opens its instance by itself."""
    folder = shutil.copytree(empty_instance, tmp_path / "dagster")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        yield instance


class Clock:
    """Evaluates schedules of a space's definitions and records builds and runs as the daemon would."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, home: Path) -> None:
        self.instance = instance
        self.config = load(folder).config
        self.definitions = build_definitions(folder, home)

    def tick(self, name: str, at: dt.datetime = TICK) -> tuple[list[dg.RunRequest], str | None]:
        with dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=at,
            repository_def=self.definitions.get_repository_def(),
        ) as context:
            data = self.definitions.resolve_schedule_def(name).evaluate_tick(context)
        return list(data.run_requests or []), data.skip_message

    def build(self, audience: str, partition: str, as_of: dt.datetime) -> None:
        key = asset_key("mini", "linked_audiences", audience)

        @dg.asset(key=key, partitions_def=partitions_of(self.config))
        def room() -> dg.MaterializeResult:
            return dg.MaterializeResult(metadata={META_AS_OF: format_instant(as_of)})

        assert dg.materialize([room], partition_key=partition, instance=self.instance).success

    def record_run(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> str:
        location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("mini"), "__repository__")
        origin = RemoteJobOrigin(location, "__ASSET_JOB")  # a queued run must have one
        run = dg.DagsterRun(job_name="__ASSET_JOB", status=status, tags=dict(request.tags), remote_job_origin=origin)
        return self.instance.add_run(run).run_id

    def end(self, run_id: str) -> None:
        self.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", job_name="__ASSET_JOB"), run_id)


@pytest.fixture
def clock(folder: Path, instance: dg.DagsterInstance, tmp_path: Path) -> Clock:
    return Clock(folder, instance, tmp_path / "home")


def test_a_tick_builds_the_open_partition_as_of_itself_and_then_syncs(clock: Clock) -> None:
    (request,), _ = clock.tick(DEFAULT)
    assert request.run_key == f"{DEFAULT}:{format_instant(TICK)}"
    assert request.partition_key == "2026-01-05"
    assert request.tags[TAG_AS_OF] == format_instant(TICK)
    assert set(names(request.asset_selection or ())) == {
        "computed_traits/balance",
        "computed_traits/logins",
        "linked_audiences/active",
        "linked_audiences/overdue",
        "activation_payloads/overdue_crm",
        "destination_syncs/overdue_crm",
    }
    (later,), _ = clock.tick(DEFAULT, TICK + HOUR)
    assert later.run_key != request.run_key


def test_a_tick_at_midnight_belongs_to_the_day_that_ends(clock: Clock) -> None:
    (request,), _ = clock.tick(DEFAULT, dt.datetime(2026, 1, 5, tzinfo=dt.UTC))
    assert request.partition_key == "2026-01-04"


def test_a_tick_before_the_space_starts_is_a_skip(clock: Clock) -> None:
    requests, skip = clock.tick(DEFAULT, dt.datetime(2025, 12, 31, tzinfo=dt.UTC))
    assert requests == []
    assert skip is not None and "not after the start of space mini" in skip


@pytest.mark.parametrize("status", ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
def test_a_tick_is_skipped_while_a_run_of_the_same_schedule_is_unfinished(clock: Clock, status: str) -> None:
    (request,), _ = clock.tick(DEFAULT)
    run_id = clock.record_run(request, dg.DagsterRunStatus[status])
    requests, skip = clock.tick(DEFAULT, TICK + HOUR)
    assert requests == []
    assert skip == f"run {run_id} of this schedule has not ended; the next tick takes its place"


def test_AE2_8_a_run_of_40_minutes_on_a_15_minute_schedule_is_followed_at_the_next_aligned_tick(
    folder: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    clock = Clock(edited(folder, audiences__active=("", "schedule: {every: 15m}\n")), instance, tmp_path / "home")
    name = "mini__audiences_every_15m"
    # Enabled at 09:52: ticks are aligned to the clock, not to that.
    cron = croniter(str(clock.definitions.resolve_schedule_def(name).cron_schedule), TICK - dt.timedelta(minutes=8))
    ticks = [cron.get_next(dt.datetime) for _ in range(4)]
    assert [tick.strftime("%H:%M") for tick in ticks] == ["10:00", "10:15", "10:30", "10:45"]
    (first,), _ = clock.tick(name, ticks[0])
    run = clock.record_run(first, dg.DagsterRunStatus.STARTED)
    for tick in ticks[1:3]:
        requests, skip = clock.tick(name, tick)
        assert requests == [] and skip is not None and run in skip
    clock.end(run)  # at 10:40
    (following,), _ = clock.tick(name, ticks[3])
    assert following.tags[TAG_AS_OF] == "2026-01-05T10:45:00Z"


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "CANCELED"])
def test_a_run_that_ended_or_one_of_another_schedule_holds_nothing_up(clock: Clock, status: str) -> None:
    (request,), _ = clock.tick(DEFAULT)
    clock.record_run(request, dg.DagsterRunStatus[status])
    clock.record_run(dg.RunRequest(tags={TAG_SCHEDULE: "another"}), dg.DagsterRunStatus.STARTED)
    assert len(clock.tick(DEFAULT, TICK + HOUR)[0]) == 1


def test_a_window_that_ended_is_closed_before_the_tick_and_sends_nothing_for_it(clock: Clock) -> None:
    clock.build("active", "2026-01-04", dt.datetime(2026, 1, 4, 23, tzinfo=dt.UTC))
    clock.build("overdue", "2026-01-04", dt.datetime(2026, 1, 5, tzinfo=dt.UTC))
    (close, ordinary), _ = clock.tick(DEFAULT)
    assert close.run_key == f"{DEFAULT}:{format_instant(TICK)}:close"
    assert (close.partition_key, close.tags[TAG_AS_OF]) == ("2026-01-04", "2026-01-05T00:00:00Z")
    assert {key.path[1] for key in close.asset_selection or ()} == {"computed_traits", "linked_audiences"}
    assert ordinary.partition_key == "2026-01-05"
    clock.build("active", "2026-01-04", dt.datetime(2026, 1, 5, tzinfo=dt.UTC))
    assert len(clock.tick(DEFAULT)[0]) == 1


def test_a_window_whose_closing_run_succeeded_is_not_closed_again_for_an_audience_that_failed_in_it(clock: Clock) -> None:
    clock.build("active", "2026-01-04", dt.datetime(2026, 1, 4, 23, tzinfo=dt.UTC))
    (close, _), _ = clock.tick(DEFAULT)
    clock.record_run(close, dg.DagsterRunStatus.FAILURE)
    assert len(clock.tick(DEFAULT, TICK + HOUR)[0]) == 2
    clock.record_run(close, dg.DagsterRunStatus.SUCCESS)
    assert len(clock.tick(DEFAULT, TICK + 2 * HOUR)[0]) == 1


def test_each_interval_has_one_schedule_and_a_trait_that_none_needs_goes_with_the_default(
    folder: Path, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    edited(folder, audiences__active=("name: Active", "name: Active\nschedule: {every: 1d}"))
    spare = (folder / "traits" / "logins.yaml").read_text().replace("key: logins", "key: spare")
    (folder / "traits" / "spare.yaml").write_text(spare)
    clock = Clock(folder, instance, tmp_path / "home")
    (hourly,), _ = clock.tick(DEFAULT)
    (daily,), _ = clock.tick("mini__audiences_every_1d")
    # The daily audience reads the hourly one, whose window the hourly schedule has closed; its own is still to be closed.
    clock.build("overdue", "2026-01-04", dt.datetime(2026, 1, 5, tzinfo=dt.UTC))
    clock.build("active", "2026-01-04", dt.datetime(2026, 1, 4, 9, tzinfo=dt.UTC))
    assert len(clock.tick(DEFAULT)[0]) == 1
    assert len(clock.tick("mini__audiences_every_1d")[0]) == 2
    assert "computed_traits/spare" in names(hourly.asset_selection or ())
    assert "linked_audiences/active" not in names(hourly.asset_selection or ())
    assert "computed_traits/spare" not in names(daily.asset_selection or ())
    assert {"linked_audiences/active", "linked_audiences/overdue"} <= set(names(daily.asset_selection or ()))
    # What follows ``overdue`` follows its own schedule only.
    assert "destination_syncs/overdue_crm" not in names(daily.asset_selection or ())


OWN = "mini__sync_overdue_crm"
SCAN = "mini__data_graph_scan"


@pytest.fixture
def own(folder: Path, instance: dg.DagsterInstance, tmp_path: Path) -> Clock:
    """The activation has a schedule of its own."""
    edited(folder, activations__overdue_crm=("", "schedule: {every: 4h}\n"))
    return Clock(folder, instance, tmp_path / "home")


def test_an_activation_with_its_own_schedule_follows_no_audience(own: Clock) -> None:
    (request,), _ = own.tick(DEFAULT)
    assert not {"activation_payloads", "destination_syncs"} & {key.path[1] for key in request.asset_selection or ()}


def test_an_own_schedule_builds_a_too_old_audience_first_in_the_same_run(own: Clock) -> None:
    deliver = ["activation_payloads/overdue_crm", "destination_syncs/overdue_crm"]
    build = ["computed_traits/balance", "linked_audiences/overdue"]
    (never,), _ = own.tick(OWN)
    assert (names(never.asset_selection or ()), never.partition_key) == ([*build, *deliver], "2026-01-05")
    own.build("overdue", "2026-01-05", TICK - HOUR)
    (young,), _ = own.tick(OWN)
    assert (names(young.asset_selection or ()), young.partition_key) == (deliver, None)
    (old,), _ = own.tick(OWN, TICK + 4 * HOUR)
    assert (names(old.asset_selection or ()), old.partition_key) == ([*build, *deliver], "2026-01-05")
    assert [r.run_key for r in (never, old)] == [f"{OWN}:{format_instant(t)}" for t in (TICK, TICK + 4 * HOUR)]


def test_an_own_schedule_waits_for_its_unfinished_run_and_for_the_space_to_start(own: Clock) -> None:
    (request,), _ = own.tick(OWN)
    assert "not after the start" in (own.tick(OWN, dt.datetime(2025, 12, 31, tzinfo=dt.UTC))[1] or "")
    own.record_run(request, dg.DagsterRunStatus.STARTED)
    requests, skip = own.tick(OWN, TICK + 4 * HOUR)
    assert requests == []
    assert skip is not None and "has not ended" in skip


@pytest.mark.parametrize("automation", ["on", "off"])
def test_schedules_start_switched_on_unless_the_space_says_off(folder: Path, automation: str) -> None:
    edited(
        folder,
        space=("", f"automation: '{automation}'\n"),
        activations__overdue_crm=("", "schedule: {every: 4h}\n"),
    )
    expected = dg.DefaultScheduleStatus.RUNNING if automation == "on" else dg.DefaultScheduleStatus.STOPPED
    assert {s.name: s.default_status for s in build_schedules(load(folder))} == {DEFAULT: expected, OWN: expected, SCAN: expected}


def test_the_data_graph_is_scanned_once_a_day_by_itself(clock: Clock) -> None:
    (request,), _ = clock.tick(SCAN)
    assert names(request.asset_selection or ()) == ["data_graph/graph"]
    assert (request.partition_key, request.tags[TAG_AS_OF]) == (None, format_instant(TICK))
    assert clock.definitions.resolve_schedule_def(SCAN).cron_schedule == "0 4 * * *"
    clock.record_run(request, dg.DagsterRunStatus.STARTED)
    requests, skip = clock.tick(SCAN, TICK + 24 * HOUR)
    assert requests == []
    assert "has not ended" in str(skip)


# -- the demo's pulse -----------------------------------------------------------------------------------------------------------


def test_the_demo_rests_when_another_hour_would_pass_the_present() -> None:
    assert reason_to_rest(TICK - HOUR, TICK) is None
    assert "would pass the present" in (reason_to_rest(TICK - HOUR + dt.timedelta(seconds=1), TICK) or "")
    assert "nothing was generated" in (reason_to_rest(None, TICK) or "")


def test_only_a_demo_of_a_space_that_can_be_generated_has_a_pulse(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = load(SPACES.parent.parent.parent / "spaces" / "owl_bank")
    monkeypatch.delenv("CDP_DEMO", raising=False)
    assert build_demo_schedules(bank) == []
    monkeypatch.setenv("CDP_DEMO", "1")
    assert [schedule.name for schedule in build_demo_schedules(bank)] == ["owl_bank__demo_pulse"]
    assert build_demo_schedules(space) == []


def test_a_pulse_reads_the_stored_end_of_its_home(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDP_DEMO", "1")
    directory = SPACES.parent.parent.parent / "spaces" / "owl_bank"
    home = Home(tmp_path)
    (schedule,) = build_demo_schedules(load(directory))

    def pulse() -> tuple[int, str | None]:
        resources = {"space": SpaceResource(directory=str(directory), home=str(home.root))}
        with dg.build_schedule_context(instance=instance, resources=resources, scheduled_execution_time=TICK) as context:
            data = schedule.evaluate_tick(context)
        return len(data.run_requests or []), data.skip_message

    assert "nothing was generated" in (pulse()[1] or "")
    path = state_file(home, "owl_bank")
    path.parent.mkdir(parents=True)
    now = dt.datetime.now(dt.UTC)
    for end, runs in ((now - 2 * HOUR, 1), (now, 0)):
        path.write_text(f'{{"end": {millis(end)}}}')
        assert pulse()[0] == runs
