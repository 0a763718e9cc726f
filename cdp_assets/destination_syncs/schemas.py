"""What the tables of the destination_syncs room must look like. Enforced by :mod:`cdp_assets.quality`."""

from __future__ import annotations

from typing import Final

import ibis.expr.types as ir
import pandera.ibis as pa

from cdp_assets.destination_syncs.states import Op, Outcome
from cdp_assets.destination_syncs.tables import INTENTS, LEDGER, OUTCOMES, SYNCS
from cdp_assets.quality import RowRule, schema_of
from resources.warehouse import Warehouse

ACCOUNTED: Final = "accounted_for"
COUNTED: Final = "counted_from_rows"

_OPERATIONS = [str(op) for op in Op]
_ANSWERS = [str(outcome) for outcome in (Outcome.delivered, Outcome.rejected, Outcome.waiting, Outcome.unknown)]
_COUNTS = ("considered", "unchanged", *_ANSWERS)

LEDGER_SCHEMA = schema_of(
    LEDGER,
    not_null=("present", "held", "episode", "status"),
    checks={
        "operation": pa.Check.isin(_OPERATIONS),
        "uncertain": pa.Check.isin(_OPERATIONS),
        "status": pa.Check.isin(["recorded", *_ANSWERS]),
        "episode": pa.Check.ge(0),
    },
)
INTENTS_SCHEMA = schema_of(
    INTENTS,
    not_null=("outcome",),
    nullable_keys=("destination_key",),
    checks={
        "operation": pa.Check.isin(_OPERATIONS),
        "outcome": pa.Check.isin([str(outcome) for outcome in Outcome if outcome is not Outcome.unchanged]),
    },
)
OUTCOMES_SCHEMA = schema_of(
    OUTCOMES,
    not_null=("status",),
    checks={
        "operation": pa.Check.isin([op for op in _OPERATIONS if op]),
        "status": pa.Check.isin([*_ANSWERS, "withheld", "held"]),
    },
)
SYNCS_SCHEMA = schema_of(
    SYNCS,
    not_null=("state", *_COUNTS),
    checks={
        "state": pa.Check.isin(["planned", "settled"]),
        **{name: pa.Check.ge(0) for name in (*_COUNTS, "warnings", "present")},
    },
)


def sync_rules() -> list[RowRule]:
    """The accounting of settled syncs.

    ``accounted_for``: the outcomes add up to what was considered; where reasons withhold or hold keys, to less.
    ``counted_from_rows``: of the newest sync of each activation and account, every count is that of its own rows, and with
    the withheld and held rows they add up exactly.
    """
    return [
        RowRule(ACCOUNTED, "considered = unchanged + delivered + rejected + waiting + unknown + withheld + held", _not_accounted),
        RowRule(COUNTED, "the counts of the newest sync are those of its rows, and add up to what was considered", _not_counted),
    ]


def _known(table: ir.Table) -> ir.IntegerValue:
    return table.unchanged + table.delivered + table.rejected + table.waiting + table.unknown


def _not_accounted(warehouse: Warehouse, table: ir.Table) -> ir.Table:
    complete = (table.withheld.fill_null("{}") == "{}") & (table.held.fill_null("{}") == "{}")
    right = complete.ifelse(table.considered == _known(table), table.considered > _known(table))
    return table.filter((table.state == "settled") & ~right.fill_null(False))


def _not_counted(warehouse: Warehouse, table: ir.Table) -> ir.Table:
    sync = ["activation", "account", "seq"]
    intents = warehouse.table(INTENTS.ref)
    newest = table.group_by("activation", "account").aggregate(seq=table.seq.max())
    settled = table.filter(table.state == "settled").semi_join(newest, sync)
    counted = {name: intents.count(where=intents.outcome == name) for name in (*_ANSWERS, "withheld", "held")}
    by_sync = intents.group_by(sync).aggregate(**{f"n_{name}": count for name, count in counted.items()})
    joined = settled.left_join(by_sync, sync)
    rows = {name: joined[f"n_{name}"].fill_null(0) for name in counted}
    right = joined.considered == joined.unchanged + sum(rows.values())
    for name in _ANSWERS:
        right = right & (joined[name] == rows[name])
    return joined.filter(~right.fill_null(False)).select(settled.columns)
