"""The stages that space.yaml's event filters and the transformations of stored messages are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdp_assets.raw_events.columns import event_slug
from cdp_assets.raw_events.documents import documents, met, without
from cdp_assets.raw_events.parse import CONSENT_EVENT
from cdp_assets.raw_events.stages import MESSAGE_BATCH, Stage, StageResult
from cdp_assets.space.fql import FqlError
from cdp_assets.space.models.settings import EventStreamFilter
from cdp_assets.space.space import Space
from cdp_assets.space.transforming import FQL_INVALID, Changes, Judge, Transformer, Withheld, transform, transformers

EVENT_FILTER: Final = "event_filter"
TOO_DEEP: Final = "too_deep"


def event_filter_stages(space: Space) -> list[Stage]:
    """The stage of the space's event filters, if it has any."""
    return [EventFilters(space.config.event_filters)] if space.config.event_filters else []


def transformation_stages(space: Space, environment: Mapping[str, str] | None = None) -> list[Stage]:
    """The stage of the transformations of stored messages, if there are any.

    Raises TransformationError when a hash key is not in the environment.
    """
    steps = transformers(space.transformations, None, environment)
    return [Transformations(steps)] if steps else []


class EventFilters:
    """Refuses messages that a filter drops, and those for which a filter has no answer."""

    def __init__(self, filters: Sequence[EventStreamFilter]) -> None:
        self._judges = [(item.name, Judge(item.drop_if)) for item in filters]

    def apply(self, messages: pa.Table) -> StageResult:
        may = _may_be_dropped(messages)
        masks = [pc.and_(met(messages, judge), may) for _, judge in self._judges]
        fields = {field for _, judge in self._judges for field in judge.fields}
        withheld = {
            number: reason for number, _, document in documents(messages, masks, fields) if (reason := self._judged(document))
        }
        kept, refused = without(messages, withheld) if withheld else (messages, None)
        return StageResult(kept) if refused is None else StageResult(kept, refused)

    def _judged(self, message: Mapping[str, Any]) -> Withheld | None:
        """The first filter that drops the message says why; one without an answer withholds it if no other drops it."""
        unanswered = None
        for name, judge in self._judges:
            try:
                if judge(message):
                    return Withheld(EVENT_FILTER, name)
            except FqlError as error:
                unanswered = unanswered or Withheld(FQL_INVALID, f"event filter {name}: {error.cause}")
        return unanswered


class Transformations:
    """Drops or rewrites messages before they are stored. Rows that no transformation can meet are not looked into."""

    def __init__(self, steps: Sequence[Transformer]) -> None:
        self._steps = steps
        self._changing = [step for step in steps if not step.drops]
        self._fields = {field for step in steps for field in step.fields}

    def apply(self, messages: pa.Table) -> StageResult:
        masks = [met(messages, step.judge, step.sources) for step in self._steps]
        spared = frozenset(pc.indices_nonzero(pc.invert(_may_be_dropped(messages))).to_pylist())
        withheld: dict[int, Withheld] = {}
        changed: dict[str, dict[int, str | None]] = {}
        for number, source, document in documents(messages, masks, self._fields):
            outcome = transform(self._changing if number in spared else self._steps, source, document)
            columns = outcome if isinstance(outcome, Withheld) else _columns(outcome)
            if isinstance(columns, Withheld):
                withheld[number] = columns
                continue
            for column, value in columns.items():
                changed.setdefault(column, {})[number] = value
        for column, values in changed.items():
            messages = _with_values(messages, column, values)
        kept, refused = without(messages, withheld) if withheld else (messages, None)
        return StageResult(kept) if refused is None else StageResult(kept, refused)


def _may_be_dropped(messages: pa.Table) -> pa.ChunkedArray:
    """All but the events that say what a person agreed to: a withdrawal must arrive."""
    return pc.fill_null(pc.not_equal(messages["event"], CONSENT_EVENT), True)


def _columns(changes: Changes) -> dict[str, str | None] | Withheld:
    """Changed top-level fields of a message as columns of its row."""
    columns: dict[str, str | None] = {}
    for field, value in changes.items():
        if field == "event":
            columns |= {"event": value, "event_slug": event_slug(value)}
            continue
        try:
            columns[field] = None if value is None else orjson.dumps(value).decode()
        except orjson.JSONEncodeError:
            # A field that moved deeper may pass the writer's limit.
            return Withheld(TOO_DEEP, f"{field} is nested too deeply")
    return columns


def _with_values(messages: pa.Table, column: str, values: Mapping[int, str | None]) -> pa.Table:
    cells = messages[column].to_pylist()
    for number, value in values.items():
        cells[number] = value
    place = messages.schema.get_field_index(column)
    return messages.set_column(place, MESSAGE_BATCH.field(column), pa.array(cells, pa.string()))
