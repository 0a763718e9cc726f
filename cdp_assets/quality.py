"""From a Pandera schema to counted, sampled verdicts on a warehouse table.

Pandera says what a table must look like; this module turns every rule of a schema into expressions that run in the
warehouse: all counts in one query, and for each rule that fails one query for at most ten masked rows. Pandera's own Ibis
backend is not run: it ignores ``Column(unique=True)``, fails value checks on an empty table, lets a sub-query with a NULL
pass everything, and fetches every failing row. What is not enforced here is refused when the rules are read
(:class:`UnsupportedRuleError`), never skipped.

What belongs here: reading schemas, counting, sampling, null-safe helpers for rules across tables. What does not: which rules
a table has (``schemas.py`` of its room), and Dagster (``dagster_checks.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import ibis
import ibis.expr.datatypes as ibis_types
import ibis.expr.types as ir
import pandera.ibis as pa
from pandera.api.checks import Check
from pandera.api.function_dispatch import Dispatcher

from cdp_assets.space.masking import looks_personal, mask_record
from resources.warehouse import TableSpec, Warehouse

SAMPLE_ROWS: Final = 10
SCHEMA_CHECK: Final = "schema"


class UnsupportedRuleError(Exception):
    """A schema uses a feature that is not enforced. The message names schema, column and feature."""

    def __init__(self, schema: str, column: str | None, feature: str) -> None:
        where = f"column {column} of schema {schema}" if column else f"schema {schema}"
        super().__init__(f"{where}: {feature} is not enforced; {_REMEDY}")


_REMEDY = "use a built-in column check, DataFrameSchema(unique=[...]) or a RowRule"


@dataclass(frozen=True)
class RowRule:
    """A rule that needs more than one column or another table.

    ``failing(warehouse, table)`` gives the rows of ``table`` that break it, with at least ``table``'s partition column when
    the rule is evaluated by partition. Build anti-joins with :func:`not_in`. ``name`` is a word (letters, digits,
    underscores): it is also the name of the rule's own check.
    """

    name: str
    description: str
    failing: Callable[[Warehouse, ir.Table], ir.Table]


@dataclass(frozen=True)
class RuleResult:
    """What became of one rule.

    ``failing``: rows that break it (for a missing column or a wrong type: 1). ``rows``: rows looked at. ``sample``: at most
    ten failing rows, masked, in a total order. ``detail``: the rule in words, without values of the table. ``check``: the
    check that reports it, ``schema`` or the name of a :class:`RowRule`.
    """

    rule: str
    passed: bool
    failing: int
    rows: int
    sample: Sequence[Mapping[str, Any]] = ()
    detail: str = ""
    check: str = SCHEMA_CHECK


# -- schemas from table specs ----------------------------------------------------------------------------------------


def schema_of(
    spec: TableSpec,
    *,
    not_null: Sequence[str] = (),
    nullable_keys: Sequence[str] = (),
    unique: Sequence[str] | None = None,
    checks: Mapping[str, Check | list[Check]] | None = None,
) -> pa.DataFrameSchema:
    """The schema of a table that a room owns: its columns and types, its keys unique and never null, and ``checks`` by column.

    ``nullable_keys``: key columns that may be NULL. ``unique``: other columns than the keys; empty for none. Raises ValueError
    when a rule names a column that the table does not have.
    """
    rules = dict(checks or {})
    unique_columns = list(spec.keys if unique is None else unique)
    unknown = {*not_null, *nullable_keys, *unique_columns, *rules} - set(spec.columns)
    if unknown:
        raise ValueError(f"table {spec.ref} has no column {', '.join(sorted(unknown))}")
    never_null = {*spec.keys, *not_null} - set(nullable_keys)
    return pa.DataFrameSchema(
        {name: pa.Column(dtype, rules.get(name), nullable=name not in never_null) for name, dtype in spec.schema.items()},
        name=str(spec.ref),
        description=spec.description,
        unique=unique_columns or None,
        metadata={"subject": spec.subject, "personal": spec.personal},
    )


def column_schema(spec: TableSpec) -> list[tuple[str, str, str]]:
    """(name, type, description) of each column, for a column schema in the UI. The description says whose data it is."""
    found = []
    for name, kind in spec.columns.items():
        notes = []
        if name in spec.keys:
            notes.append("key")
        if name == spec.subject:
            notes.append("whose data the row is")
        if name in spec.personal:
            notes.append("may hold personal values")
        found.append((name, kind, "; ".join(notes)))
    return found


# -- null-safe helpers for rules ---------------------------------------------------------------------------------------


def not_in(table: ir.Table, column: str | Sequence[str], other: ir.Table, other_column: str | Sequence[str]) -> ir.Table:
    """Rows of ``table`` whose ``column`` is no value of ``other_column``; a NULL on the left is in nothing, on the right it hides nothing."""
    left, right = _names(column), _names(other_column)
    known = other.select(**{f"_known_{i}": other[name] for i, name in enumerate(right)}).distinct()
    return table.anti_join(known, [table[name] == known[f"_known_{i}"] for i, name in enumerate(left)])


def _names(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


# -- reading a schema --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """A rule ready to run. Exactly one of ``broken`` (per row), ``unique`` (columns), ``row_rule`` and ``fixed`` is set."""

    name: str
    detail: str
    shown: tuple[str, ...] = ()
    broken: Callable[[ir.Table], ir.BooleanValue] | None = None
    unique: tuple[str, ...] = ()
    row_rule: RowRule | None = None
    fixed: bool | None = None
    check: str = SCHEMA_CHECK


_Value = Any
_CHECKS: dict[str, Callable[[_Value, Mapping[str, Any]], ir.BooleanValue]] = {
    "equal_to": lambda v, s: v == s["value"],
    "not_equal_to": lambda v, s: v != s["value"],
    "greater_than": lambda v, s: v > s["min_value"],
    "greater_than_or_equal_to": lambda v, s: v >= s["min_value"],
    "less_than": lambda v, s: v < s["max_value"],
    "less_than_or_equal_to": lambda v, s: v <= s["max_value"],
    "in_range": lambda v, s: _between(v, s),
    "isin": lambda v, s: v.isin(_listed(s["allowed_values"])),
    "notin": lambda v, s: v.notin(_listed(s["forbidden_values"])),
    # A bare ^ before an alternation would bind to its first branch only.
    "str_matches": lambda v, s: v.re_search(f"^({_pattern(s)})"),
    "str_contains": lambda v, s: v.re_search(_pattern(s)),
    "str_startswith": lambda v, s: v.startswith(s["string"]),
    "str_endswith": lambda v, s: v.endswith(s["string"]),
    "str_length": lambda v, s: _length(v, s),
}


def _listed(values: Any) -> list[Any]:
    return sorted(values, key=lambda value: (type(value).__name__, value))


def _pattern(statistics: Mapping[str, Any]) -> str:
    pattern = statistics["pattern"]
    return str(getattr(pattern, "pattern", pattern))


def _between(value: Any, statistics: Mapping[str, Any]) -> ir.BooleanValue:
    low, high = statistics["min_value"], statistics["max_value"]
    above = value >= low if statistics["include_min"] else value > low
    below = value <= high if statistics["include_max"] else value < high
    return above & below


def _length(value: Any, statistics: Mapping[str, Any]) -> ir.BooleanValue:
    length = value.length()
    exact = statistics.get("exact_value")
    if exact is not None:
        return length == exact
    bounds = []
    if statistics.get("min_value") is not None:
        bounds.append(length >= statistics["min_value"])
    if statistics.get("max_value") is not None:
        bounds.append(length <= statistics["max_value"])
    return reduce(lambda a, b: a & b, bounds)


_FRAME_FEATURES: Final = {
    "dtype": None,
    "coerce": False,
    "index": None,
    "ordered": False,
    "report_duplicates": "all",
    "unique_column_names": False,
    "add_missing_columns": False,
    "drop_invalid_rows": False,
}
_COLUMN_FEATURES: Final = {
    "unique": False,
    "coerce": False,
    "regex": False,
    "default": None,
    "report_duplicates": "all",
    "drop_invalid_rows": False,
}


def _refuse_features(schema: pa.DataFrameSchema, name: str) -> None:
    for feature, neutral in _FRAME_FEATURES.items():
        if getattr(schema, feature, neutral) != neutral:
            raise UnsupportedRuleError(name, None, f"{feature}={getattr(schema, feature)!r}")
    if schema.strict not in (True, False):
        raise UnsupportedRuleError(name, None, f"strict={schema.strict!r}")
    if schema.parsers:
        raise UnsupportedRuleError(name, None, "a parser")
    if schema.checks:
        raise UnsupportedRuleError(name, None, f"the frame-wide check {schema.checks[0].name}")
    for column, settings in schema.columns.items():
        for feature, neutral in _COLUMN_FEATURES.items():
            if getattr(settings, feature, neutral) != neutral:
                raise UnsupportedRuleError(name, column, f"{feature}={getattr(settings, feature)!r}")
        if settings.parsers:
            raise UnsupportedRuleError(name, column, "a parser")
        for check in settings.checks:
            _refuse_check(name, column, check)


def _refuse_check(schema: str, column: str, check: Check) -> None:
    # A schema copies its checks, so the function is known by kind and name, not by identity.
    built_in = isinstance(check._check_fn, Dispatcher) and check._check_fn.__name__ == check.name
    if not built_in or check.name not in _CHECKS:
        raise UnsupportedRuleError(schema, column, f"the check {check.name}")
    for feature in ("groupby", "groups", "element_wise", "raise_warning"):
        if getattr(check, feature):
            raise UnsupportedRuleError(schema, column, f"{feature} of the check {check.name}")


def _same_type(found: ibis_types.DataType, wanted: ibis_types.DataType) -> bool:
    if wanted.is_timestamp() and found.is_timestamp():
        return found.timezone == wanted.timezone  # engines keep different precisions; values are microseconds everywhere
    return found.copy(nullable=True) == wanted.copy(nullable=True)


def _broken(column: str, check: Check) -> Callable[[ir.Table], ir.BooleanValue]:
    holds, statistics = _CHECKS[str(check.name)], check.statistics or {}
    # A NULL is neither right nor wrong to SQL; the check says which it is.
    return lambda table: ~holds(table[column], statistics).fill_null(bool(check.ignore_na))


def _is_null(column: str) -> Callable[[ir.Table], ir.BooleanValue]:
    return lambda table: table[column].isnull()


def _rules(schema: pa.DataFrameSchema, table: ir.Table, name: str, extra_rules: Sequence[RowRule]) -> list[_Rule]:
    _refuse_features(schema, name)
    present = table.schema()
    keys = tuple(schema.unique or ())
    subject = (schema.metadata or {}).get("subject")
    identity = tuple(column for column in dict.fromkeys((*keys, *((subject,) if subject else ()))) if column in present)
    rules: list[_Rule] = []
    for column, settings in schema.columns.items():
        if column not in present:
            rules.append(_Rule(f"{column}.present", "the column exists", fixed=not settings.required))
            continue
        rules.append(_Rule(f"{column}.present", "the column exists", fixed=True))
        if settings.dtype is not None:
            wanted = settings.dtype.type
            right = _same_type(present[column], wanted)
            rules.append(_Rule(f"{column}.type", f"the type is {wanted}; the table has {present[column]}", fixed=right))
            if not right:
                continue  # its values cannot be compared with what the schema says of another type
        shown = tuple(dict.fromkeys((*identity, column)))
        if not settings.nullable:
            rules.append(_Rule(f"{column}.not_null", "no value is NULL", shown, broken=_is_null(column)))
        for number, check in enumerate(settings.checks):
            repeated = any(earlier.name == check.name for earlier in settings.checks[:number])
            label = f"{column}.{check.name}_{number + 1}" if repeated else f"{column}.{check.name}"
            rules.append(_Rule(label, str(check.error or check.name), shown, broken=_broken(column, check)))
    if schema.strict:
        others = [column for column in present if column not in schema.columns]
        rules.append(_Rule("no_other_columns", "the table has no other columns", fixed=not others))
    if keys:
        label = f"unique({', '.join(keys)})"
        missing = any(column not in present for column in keys)
        rules.append(
            _Rule(label, "a column is missing", fixed=False)
            if missing
            else _Rule(label, "no two rows agree in all of these columns", identity, unique=keys)
        )
    as_declared = all(rule.fixed is not False for rule in rules)
    for rule in extra_rules:
        if as_declared:
            rules.append(_Rule(rule.name, rule.description, row_rule=rule, check=rule.name))
        else:
            rules.append(_Rule(rule.name, "not looked at: the columns are not as declared", fixed=False, check=rule.name))
    return rules


# -- running -----------------------------------------------------------------------------------------------------------


def evaluate(
    warehouse: Warehouse,
    schema: pa.DataFrameSchema,
    table: ir.Table,
    *,
    name: str | None = None,
    personal: Collection[str] | None = None,
    extra_rules: Sequence[RowRule] = (),
) -> list[RuleResult]:
    """Every rule of ``schema`` and ``extra_rules`` on ``table``: one query, and one more for each rule that fails.

    ``name``: of the schema, in messages (default its own). ``personal``: columns whose sampled values are always masked (default from :func:`schema_of`;
    where neither says it, every text is). An empty table passes every rule but those on columns and types. Raises
    :class:`UnsupportedRuleError` before any query.
    """
    run = _Run(warehouse, schema, table, name, personal, extra_rules, by=None, partitions=("",))
    return run.results()[""]


def evaluate_partitions(
    warehouse: Warehouse,
    schema: pa.DataFrameSchema,
    table: ir.Table,
    *,
    by: str,
    partitions: Sequence[str],
    name: str | None = None,
    personal: Collection[str] | None = None,
    extra_rules: Sequence[RowRule] = (),
) -> dict[str, list[RuleResult]]:
    """:func:`evaluate` for each of ``partitions`` (values of the column ``by``) in the same number of queries.

    Uniqueness is within a partition. A partition without rows passes as an empty table does.
    """
    chosen = table.filter(table[by].isin(list(partitions))) if partitions else table.limit(0)
    return _Run(warehouse, schema, chosen, name, personal, extra_rules, by=by, partitions=tuple(partitions)).results()


_PART, _ROWS, _RANK = "cdp_part", "cdp_rows", "cdp_rank"


@dataclass
class _Run:
    warehouse: Warehouse
    schema: pa.DataFrameSchema
    table: ir.Table
    name: str | None
    personal: Collection[str] | None
    extra_rules: Sequence[RowRule]
    by: str | None
    partitions: tuple[str, ...]
    rules: list[_Rule] = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.name or self.schema.name or "unnamed"
        if self.personal is None:
            self.personal = (self.schema.metadata or {}).get("personal")
        self.rules = _rules(self.schema, self.table, self.name, self.extra_rules)

    def results(self) -> dict[str, list[RuleResult]]:
        rows, failing = self._counts()
        samples = {number: self._sample(number) for number in {number for number, _ in failing}}
        found: dict[str, list[RuleResult]] = {}
        for part in self.partitions:
            found[part] = [
                self._result(rule, rows.get(part, 0), failing.get((number, part), 0), samples.get(number, {}).get(part, ()))
                for number, rule in enumerate(self.rules)
            ]
        return found

    def _result(self, rule: _Rule, rows: int, failing: int, sample: tuple[dict[str, Any], ...]) -> RuleResult:
        if rule.fixed is not None:
            return RuleResult(rule.name, rule.fixed, 0 if rule.fixed else 1, rows, (), rule.detail, rule.check)
        return RuleResult(rule.name, failing == 0, failing, rows, sample, rule.detail, rule.check)

    def _part(self, table: ir.Table) -> ir.StringValue:
        return table[self.by].cast("string") if self.by else ibis.literal("")

    def _counts(self) -> tuple[dict[str, int], dict[tuple[int, str], int]]:
        """Rows by partition, and failing rows by rule and partition, from one query."""
        counted = [self._value_counts()]
        counted += [
            self._group_count(number) for number, rule in enumerate(self.rules) if rule.broken is None and rule.fixed is None
        ]
        answer = self.warehouse.arrow(reduce(lambda a, b: a.union(b), counted)).to_pylist()
        rows: dict[str, int] = {}
        failing: dict[tuple[int, str], int] = {}
        for line in answer:
            part = line.pop(_PART)
            rows[part] = rows.get(part, 0) + int(line.pop(_ROWS) or 0)
            for column, count in line.items():
                if count:
                    failing[(int(column[1:]), part)] = int(count)
        return rows, failing

    def _counters(self, counted: ir.Table) -> ir.Table:
        """The counts as columns that are the same for every rule, so that they fit into one query; 0 where not counted."""
        names = [_ROWS, *(f"c{number}" for number, rule in enumerate(self.rules) if rule.fixed is None)]
        zero = ibis.literal(0, type="int64")
        return counted.select(_PART, **{name: counted[name].cast("int64") if name in counted.columns else zero for name in names})

    def _value_counts(self) -> ir.Table:
        table = self.table.mutate(**{_PART: self._part(self.table)})
        counts: dict[str, ir.Value] = {_ROWS: table.count()}
        for number, rule in enumerate(self.rules):
            if rule.broken is not None:
                counts[f"c{number}"] = table.count(where=rule.broken(table))
        return self._counters(table.group_by(_PART).aggregate(**counts))

    def _group_count(self, wanted: int) -> ir.Table:
        """The count of one uniqueness or row rule, in the columns of :meth:`_value_counts`."""
        failing = self._failing(wanted)
        return self._counters(failing.group_by(_PART).aggregate(**{f"c{wanted}": failing.count()}))

    def _failing(self, number: int) -> ir.Table:
        """Rows that break a rule, with their partition in ``cdp_part``."""
        rule = self.rules[number]
        if rule.row_rule is not None:
            failing = rule.row_rule.failing(self.warehouse, self.table)
        elif rule.broken is not None:
            failing = self.table.filter(rule.broken(self.table))
        else:
            keys = [*rule.unique, *([self.by] if self.by and self.by not in rule.unique else [])]
            counted = self.table.mutate(cdp_same=self.table.count().over(ibis.window(group_by=keys)))
            failing = counted.filter(counted.cdp_same > 1).drop("cdp_same")
        return failing.mutate(**{_PART: self._part(failing)})

    def _sample(self, number: int) -> dict[str, tuple[dict[str, Any], ...]]:
        """At most ten masked rows of each partition that break a rule. Ordered by all columns shown, so the choice is one of equals."""
        failing = self._failing(number)
        shown = list(self.rules[number].shown or (column for column in failing.columns if column != _PART))
        rank = ibis.row_number().over(ibis.window(group_by=_PART, order_by=[failing[column] for column in shown]))
        ranked = failing.mutate(**{_RANK: rank})
        first = ranked.filter(ranked[_RANK] < SAMPLE_ROWS).select(_PART, _RANK, *shown).order_by(_PART, _RANK)
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.warehouse.arrow(first).to_pylist():
            part = row.pop(_PART)
            row.pop(_RANK)
            found.setdefault(part, []).append(self._masked(row))
        return {part: tuple(rows) for part, rows in found.items()}

    def _masked(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as it may be shown: where the table says which columns are personal, the others stay readable (ids, codes)."""
        if self.personal is None:
            return mask_record(row)
        hidden = {column for column, value in row.items() if column in self.personal or looks_personal(value)}
        return row | mask_record({column: row[column] for column in row if column in hidden}, hidden)
