"""Dagster side of the reports room: one asset per model that is kept as a report, with its checks and its plot."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from cdp_assets.dagster_support import (
    META_AS_OF,
    META_REVISION,
    asset_key,
    format_instant,
    model_deps,
    room_spec,
    run_instant,
)
from cdp_assets.plots import bars, image
from cdp_assets.reports.build import build_report
from cdp_assets.reports.tables import report_ref
from cdp_assets.space.models.activations import SqlModel
from cdp_assets.space.revisions import model_revision
from cdp_assets.space.space import Space
from resources.instance import pool_of
from resources.space import SpaceResource

ROOM = "reports"
NOT_EMPTY, STEADY = "not_empty", "not_halved"


def reports_of(space: Space) -> list[str]:
    return [key for key, model in space.models.items() if model.report is not None]


def build_report_assets(space: Space) -> list[dg.AssetsDefinition]:
    return [_asset(space, key, space.models[key]) for key in reports_of(space)]


def _asset(space: Space, key: str, model: SqlModel) -> dg.AssetsDefinition:
    asset = asset_key(space.name, ROOM, key)
    spec = room_spec(
        space.config,
        ROOM,
        key,
        description=f"{model.description or model.name}\n\n```sql\n{model.query.strip()}\n```",
        table=None,
        deps=model_deps(space, model),
        owner=model.owner,
        code_version=model_revision(space, key),
        metadata={"dagster/table_name": str(report_ref(key))},
    )
    checks = [
        dg.AssetCheckSpec(NOT_EMPTY, asset=asset, description="The report has rows."),
        dg.AssetCheckSpec(
            STEADY, asset=asset, description="The report did not lose more than half of its rows since the build before."
        ),
    ]

    @dg.multi_asset(name=f"{space.name}__report__{key}", specs=[spec], check_specs=checks, pool=pool_of(space.name))
    def _assets(context: dg.AssetExecutionContext, space: SpaceResource) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        loaded = space.load()
        as_of = run_instant(context)
        with space.open(loaded, on_wait=context.log.info) as warehouse:
            built = build_report(
                warehouse,
                loaded,
                key,
                as_of=as_of,
                revision=model_revision(loaded, key),
                run_id=context.run.run_id,
                loaded_at=dt.datetime.now(dt.UTC),
            )
        plot = {"plot": dg.MetadataValue.md(image(key, bars(built.labels, built.series)))} if built.labels else {}
        yield dg.MaterializeResult(
            asset,
            metadata={
                "dagster/row_count": built.rows,
                **plot,
                "masked sample": dg.MetadataValue.json(built.sample),
                META_AS_OF: format_instant(as_of),
                META_REVISION: model_revision(loaded, key),
            },
        )
        before = built.rows_before
        verdicts = {NOT_EMPTY: built.rows > 0, STEADY: before is None or built.rows * 2 >= before}
        for name, passed in verdicts.items():
            yield dg.AssetCheckResult(
                passed=passed,
                check_name=name,
                asset_key=asset,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{built.rows:,} rows{'' if before is None else f', {before:,} in the build before'}",
            )

    return _assets
