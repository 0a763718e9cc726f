"""The tracking plan as a stage of intake: judges messages in bulk, annotates, omits, blocks.

Messages of one event are judged together, each field that the rule reads by its distinct values, so that a text that comes often
is parsed and validated once; what a rule does not read is never parsed. Annotations are written into the context's text.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.parse import CONSENT_EVENT
from cdp_assets.raw_events.plan_findings import Finding, missing
from cdp_assets.raw_events.plan_rules import (
    DOCUMENTS,
    CompiledPlan,
    CompiledRule,
    Part,
    compile_plan,
    finding_order,
    remove,
    select,
)
from cdp_assets.raw_events.plan_verdicts import (
    CLEAN,
    Controls,
    Verdict,
    annotated,
    annotation,
    by_common_schema,
    by_rule,
    controls_of,
    judged_before,
    together,
    unplanned_event,
)
from cdp_assets.raw_events.stages import REFUSED, VIOLATION_BATCH, StageResult
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.space import Space
from cdp_assets.space.tracking_plan import TrackingPlan

ROWS_AT_ONCE = 100_000
_COLUMN_OF = {
    "messageId": "message_id",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
    "originalTimestamp": "original_timestamp",
    "sentAt": "sent_at",
    "receivedAt": "received_at",
}
_NO_VERSION = -1
_SAMPLE = 1_000
T = TypeVar("T", bound=Hashable)
Rows = np.ndarray  # positions of rows, ascending
Decide = Callable[[tuple[Finding, ...]], Verdict]


def plan_stage(space: Space) -> PlanStage | None:
    """The stage of a space; None without a tracking plan."""
    return None if space.tracking_plan is None else PlanStage(space.tracking_plan, space.config)


class PlanStage:
    """Validates messages against the space's tracking plan. Compiled once, used for any number of batches."""

    def __init__(self, plan: TrackingPlan, config: SpaceConfig) -> None:
        # Consent is asked for in one event, which is planned as soon as there are categories to ask about.
        self._plan = compile_plan(plan, (CONSENT_EVENT,) if config.consent_categories else ())
        self._config = config

    def apply(self, messages: pa.Table) -> StageResult:
        """See :class:`cdp_assets.raw_events.stages.Stage`."""
        parts = [
            _Batch(self._plan, self._config, messages.slice(start, ROWS_AT_ONCE).combine_chunks()).result()
            for start in range(0, messages.num_rows, ROWS_AT_ONCE)
        ]
        if not parts:
            return StageResult(messages)
        return StageResult(
            pa.concat_tables([part.messages for part in parts]),
            pa.concat_tables([part.refused for part in parts]),
            pa.concat_tables([part.violations for part in parts]),
        )


@dataclass
class _Interned(Generic[T]):
    """Values by small numbers. ``first`` has the number 0."""

    first: T
    values: list[T] = field(default_factory=list)
    numbers: dict[T, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.number(self.first)

    def number(self, value: T) -> int:
        known = self.numbers.get(value)
        if known is None:
            known = self.numbers[value] = len(self.values)
            self.values.append(value)
        return known


class _Batch:
    """One batch on its way through the plan. Verdicts are numbers per row; 0 is the verdict that nothing is wrong."""

    def __init__(self, plan: CompiledPlan, config: SpaceConfig, messages: pa.Table) -> None:
        self._plan, self._config, self._messages = plan, config, messages
        self._rows = messages.num_rows
        self._findings: _Interned[tuple[Finding, ...]] = _Interned(())
        self._verdicts: _Interned[Verdict] = _Interned(CLEAN)
        self._judged, self._version = self._said_before()

    def result(self) -> StageResult:
        first = self._by_rules()
        verdicts = first
        if self._plan.common:
            self._omit(first)
            verdicts = self._with_common(first, self._by_common(first))
        self._omit(verdicts)
        self._annotate(verdicts)
        refused = np.array([verdict.reason is not None for verdict in self._verdicts.values])[verdicts]
        return StageResult(
            self._messages if not refused.any() else self._messages.filter(pa.array(~refused)),
            self._refused(verdicts, np.flatnonzero(refused)),
            self._violations(verdicts),
        )

    # -- what messages say of themselves ---------------------------------------------------------------------------

    def _said_before(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether a plan judged the message before it came, and which version of its rule it names."""
        judged, version = np.zeros(self._rows, bool), np.full(self._rows, _NO_VERSION, np.int64)
        context, believed = self._column("context"), self._believed()
        for row in _holding(context, '"protocols"'):
            protocols = orjson.loads(context[int(row)].as_py()).get("protocols")
            judged[row] = believed[row] and judged_before(protocols)
            named = protocols.get("event_version") if isinstance(protocols, dict) else None
            if type(named) is int and 0 <= named < 2**31:
                version[row] = named
        return judged, version

    def _believed(self) -> np.ndarray:
        """Messages of sources that another plan judges before they come. Elsewhere whoever sends a message could say so."""
        encoded = pc.dictionary_encode(self._column("source"), null_encoding="encode")
        believed = np.array([self._config.judged_upstream(source) for source in encoded.dictionary.to_pylist()], bool)
        return believed[encoded.indices.to_numpy(zero_copy_only=False)]

    def _column(self, name: str) -> pa.Array:
        column = self._messages.column(name)
        return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)

    def _groups(self, *names: str) -> list[tuple[dict[str, str | None], bool, int, Rows]]:
        """Rows that are judged alike: the same values of the columns, judged before or not, one version of the rule."""
        code = self._judged.astype(np.int64)
        if self._plan.versioned:
            code = code * (int(self._version.max(initial=0)) + 2) + self._version + 1
        for name in names:
            encoded = pc.dictionary_encode(self._column(name), null_encoding="encode")
            code = code * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
            code = np.unique(code, return_inverse=True)[1]
        _, starts, counts = np.unique(np.sort(code), return_index=True, return_counts=True)
        order = np.argsort(code, kind="stable")
        found = []
        for start, count in zip(starts, counts, strict=True):
            rows = order[start : start + count]
            sample = int(rows[0])
            values = {name: self._column(name)[sample].as_py() for name in names}
            found.append((values, bool(self._judged[sample]), int(self._version[sample]), rows))
        return found

    def _controls(self, source: str | None, kind: str, judged: bool) -> Controls:
        controls = controls_of(self._config.enforcement_of(source), kind)
        return controls.lenient() if judged else controls

    # -- judging ---------------------------------------------------------------------------------------------------

    def _by_rules(self) -> np.ndarray:
        verdicts = np.zeros(self._rows, np.int64)
        for values, judged, version, rows in self._groups("source", "type", "event"):
            kind = str(values["type"])
            controls = self._controls(values["source"], kind, judged)
            versions = self._plan.versions(kind, values["event"])
            if versions is None:
                if kind == "track":
                    verdicts[rows] = self._verdicts.number(unplanned_event(controls))
                continue
            rule = select(versions, version)
            decide = partial(by_rule, controls, rule.version)
            verdicts[rows] = self._judge(rule, rows, decide, omit_unplanned=controls.omit_unplanned)
        return verdicts

    def _by_common(self, first: np.ndarray) -> np.ndarray:
        verdicts = np.zeros(self._rows, np.int64)
        goes_on = np.array([verdict.reason is None for verdict in self._verdicts.values])[first]
        for values, judged, version, rows in self._groups("source", "type"):
            rows = rows[goes_on[rows]]
            controls = self._controls(values["source"], str(values["type"]), judged)
            rule = select(self._plan.common, version)
            verdicts[rows] = self._judge(rule, rows, partial(by_common_schema, controls))
        return verdicts

    def _with_common(self, first: np.ndarray, common: np.ndarray) -> np.ndarray:
        if not common.any():
            return first
        pairs, inverse = np.unique(first * len(self._verdicts.values) + common, return_inverse=True)
        size = len(self._verdicts.values)
        values = self._verdicts.values
        both = [self._verdicts.number(together(values[pair // size], values[pair % size])) for pair in pairs.tolist()]
        return np.array(both, np.int64)[inverse]

    def _judge(self, rule: CompiledRule, rows: Rows, decide: Decide, *, omit_unplanned: bool = False) -> np.ndarray:
        """The verdicts on rows by one rule."""
        found = [self._part(part, rows, omit_unplanned) for part in rule.parts]
        for name in rule.required:
            absent = self._field(name, rows).is_null().to_numpy(zero_copy_only=False)
            if absent.any():
                found.append(absent * self._findings.number((missing((name,)),)))
        verdicts = np.zeros(len(rows), np.int64)
        found = [numbers for numbers in found if numbers.any()]
        if not found:
            return verdicts
        wrong = np.flatnonzero(np.logical_or.reduce([numbers != 0 for numbers in found]))
        combinations, inverse = np.unique(np.stack([numbers[wrong] for numbers in found], 1), axis=0, return_inverse=True)
        decided = [self._verdicts.number(decide(self._union(combination))) for combination in combinations.tolist()]
        verdicts[wrong] = np.array(decided, np.int64)[inverse.reshape(-1)]
        return verdicts

    def _union(self, numbers: Sequence[int]) -> tuple[Finding, ...]:
        found = {finding for number in numbers for finding in self._findings.values[number]}
        return tuple(sorted(found, key=finding_order))

    def _field(self, name: str, rows: Rows) -> pa.Array:
        """A field of the message at some rows; times as ISO-8601 text."""
        column = self._column(_COLUMN_OF.get(name, name))
        if name == "event":
            # Pages and screens have a name; their event is only how the plan calls them.
            column = pc.if_else(pc.equal(self._column("type"), "track"), column, pa.scalar(None, pa.string()))
        chosen = column if len(rows) == self._rows else column.take(pa.array(rows))
        return pc.strftime(chosen, "%Y-%m-%dT%H:%M:%SZ") if pa.types.is_timestamp(chosen.type) else chosen

    def _part(self, part: Part, rows: Rows, omit_unplanned: bool) -> np.ndarray:
        """Number of the findings of a part at each of the rows."""
        if part.whole:
            return self._whole(part, rows, omit_unplanned)
        name = part.fields[0]
        texts, places = _distinct(self._field(name, rows))
        values = texts.to_pylist()
        accepts, load = part.accepts, orjson.loads if name in DOCUMENTS else str
        # An absent field is not for its schema to judge.
        bad = [index for index, value in enumerate(values) if value is not None and not accepts(load(value))]
        if not bad:
            return np.zeros(len(rows), np.int64)
        numbers = np.zeros(len(values) + 1, np.int64)
        for index in bad:
            numbers[index] = self._findings.number(part.findings(load(values[index]), omit_unplanned=omit_unplanned))
        return numbers[:-1] if places is None else numbers[places]

    def _whole(self, part: Part, rows: Rows, omit_unplanned: bool) -> np.ndarray:
        columns = {name: self._field(name, rows).to_pylist() for name in part.fields}
        numbers = np.zeros(len(rows), np.int64)
        for index in range(len(rows)):
            there = {name: values[index] for name, values in columns.items() if values[index] is not None}
            message = {name: orjson.loads(value) if name in DOCUMENTS else value for name, value in there.items()}
            if not part.accepts(message):
                numbers[index] = self._findings.number(part.findings(message, omit_unplanned=omit_unplanned))
        return numbers

    # -- changing messages -----------------------------------------------------------------------------------------

    def _omit(self, verdicts: np.ndarray) -> None:
        """Take out of properties and traits what the verdicts omit. Doing it twice changes nothing."""
        for name in ("properties", "traits"):
            paths = [tuple(path for path in one.removed if path[0] == name) for one in self._verdicts.values]
            rows = np.flatnonzero(np.array([bool(one) for one in paths])[verdicts])
            if not len(rows):
                continue
            texts = self._column(name).take(pa.array(rows)).to_pylist()
            self._replace(name, rows, [_without(text, name, paths[verdicts[row]]) for text, row in zip(texts, rows, strict=True)])

    def _replace(self, name: str, rows: Rows, texts: Sequence[str | None] | pa.Array) -> None:
        mask = np.zeros(self._rows, bool)
        mask[rows] = True
        values = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        column = pc.replace_with_mask(self._column(name), pa.array(mask), values)
        index = self._messages.column_names.index(name)
        self._messages = self._messages.set_column(index, self._messages.schema.field(index), column)

    def _annotate(self, verdicts: np.ndarray) -> None:
        """Write ``context.protocols`` of the messages that go on and have violations."""
        noted = np.array([bool(one.violations) and one.reason is None for one in self._verdicts.values])
        rows = np.flatnonzero(noted[verdicts])
        if not len(rows):
            return
        encoded = pc.dictionary_encode(self._column("source").take(pa.array(rows)), null_encoding="encode")
        sources = encoded.dictionary.to_pylist()
        codes = verdicts[rows] * len(sources) + encoded.indices.to_numpy(zero_copy_only=False)
        kinds, inverse = np.unique(codes, return_inverse=True)
        values = self._verdicts.values
        said = [annotation(values[code // len(sources)], sources[code % len(sources)]) for code in kinds.tolist()]
        context = self._column("context").take(pa.array(rows))
        texts = pa.array([orjson.dumps(one).decode() for one in said], pa.string()).take(pa.array(inverse))
        added = _spliced(context, texts)
        there = _holding(context, '"protocols"')
        if len(there):
            merged = [annotated(context[int(row)].as_py(), said[inverse[row]]) for row in there]
            mask = np.zeros(len(rows), bool)
            mask[there] = True
            added = pc.replace_with_mask(added, pa.array(mask), pa.array(merged, pa.string()))
        self._replace("context", rows, added)

    # -- results ---------------------------------------------------------------------------------------------------

    def _refused(self, verdicts: np.ndarray, rows: Rows) -> pa.Table:
        chosen = [self._verdicts.values[number] for number in verdicts[rows]]
        place = self._messages.select(["file_hash", "line"]).take(pa.array(rows))
        reasons = pa.array([one.reason for one in chosen], pa.string())
        details = pa.array([one.detail for one in chosen], pa.string())
        return pa.table([*place.columns, reasons, details], schema=REFUSED)

    def _violations(self, verdicts: np.ndarray) -> pa.Table:
        """One row per violation, in the order of the messages."""
        counts = np.array([len(verdict.violations) for verdict in self._verdicts.values])[verdicts]
        rows = np.repeat(np.arange(self._rows), counts)
        if not len(rows):
            return VIOLATION_BATCH.empty_table()
        offsets = np.cumsum([0, *(len(verdict.violations) for verdict in self._verdicts.values)])
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        index = pa.array(offsets[verdicts[rows]] + within)
        every = [(one, verdict) for verdict in self._verdicts.values for one in verdict.violations]
        said = {
            "event_version": pa.array([verdict.event_version for _, verdict in every], pa.int64()),
            "violation_type": pa.array([one.finding.kind for one, _ in every], pa.string()),
            "field": pa.array([one.finding.field for one, _ in every], pa.string()),
            "description": pa.array([one.finding.description for one, _ in every], pa.string()),
            "action": pa.array([one.action for one, _ in every], pa.string()),
        }
        chosen = pa.array(rows)
        columns = [
            said[f.name].take(index) if f.name in said else self._column(f.name).take(chosen).cast(f.type)
            for f in VIOLATION_BATCH
        ]
        return pa.table(columns, schema=VIOLATION_BATCH)


def _distinct(texts: pa.Array) -> tuple[pa.Array, np.ndarray | None]:
    """The different texts, and which of them each place has; the texts themselves and None where they hardly repeat."""
    head = texts.slice(0, _SAMPLE)
    if len(texts) > _SAMPLE and len(head.unique()) > _SAMPLE * 0.9:
        return texts, None
    encoded = pc.dictionary_encode(texts)
    places = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    return encoded.dictionary, places


def _holding(texts: pa.Array, word: str) -> np.ndarray:
    """Positions of the texts that hold a word."""
    return np.flatnonzero(pc.match_substring(texts, word).fill_null(False).to_numpy(zero_copy_only=False))


def _without(text: str | None, name: str, paths: Sequence[tuple]) -> str | None:
    if text is None:
        return None
    message = {name: orjson.loads(text)}
    remove(message, paths)
    return orjson.dumps(message[name]).decode()


def _spliced(contexts: pa.Array, annotations: pa.Array) -> pa.Array:
    """Contexts, as compact JSON without ``protocols``, with the annotations as their last key."""
    empty = pc.or_kleene(contexts.is_null(), pc.equal(contexts, "{}"))
    opened = pc.utf8_slice_codeunits(contexts, 0, -1)
    head = pc.if_else(empty.fill_null(True), "{", pc.binary_join_element_wise(opened, pa.scalar(","), ""))
    return pc.binary_join_element_wise(head, pa.scalar('"protocols":'), annotations, pa.scalar("}"), "")
