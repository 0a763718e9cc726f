"""A run that failed tells people, where the space says whom."""

from pathlib import Path

import dagster as dg

from cdp_assets.space.space import Space
from resources.alerts import send_alert
from resources.space import load


def failure_text(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """What failed, by step, with the class of its error: texts of errors may come from anywhere, so they stay in the run's log."""
    lines = []
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        error = event.step_failure_data.error if event else None
        cause = error.cause if error and error.cause else error
        name = cause.cls_name if cause and cause.cls_name else "error"
        lines.append(f"{event.step_key if event else 'a step'}: {name}")
    return [*(lines or ["no step failed; the run itself did"]), f"look at run {run.run_id} in the Dagster UI"]


def build_failure_sensors(space: Space, directory: Path) -> list[dg.SensorDefinition]:
    """The sensor, where the space has somebody to tell."""
    if not space.config.alerts.any:
        return []

    @dg.run_failure_sensor(
        name=f"{space.name}__failures",
        default_status=dg.DefaultSensorStatus.RUNNING if space.config.automation == "on" else dg.DefaultSensorStatus.STOPPED,
        description="Tells people of failed runs, by the channels of space.yaml.",
    )
    def _tick(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        run = context.dagster_run
        failed = send_alert(load(directory).config.alerts, f"{space.name}: a run failed", failure_text(context.instance, run))
        for problem in failed:
            context.log.warning(f"the alert did not get through: {problem}")
        return None

    return [_tick]
