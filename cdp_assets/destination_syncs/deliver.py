"""Deliver: send the journal's operations in batches. The warehouse is closed.

Every batch is journaled as ``sending`` before it goes out, and its answers before the next one: a crash at any point leaves nothing
sent that the journal does not know of. Whatever the destination says, each operation gets exactly one outcome.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from cdp_assets.destination_syncs.journal import Answer, Journal, JournaledOperation
from cdp_assets.destination_syncs.states import Outcome
from resources.destinations import Action, Destination, DestinationConfigError, Operation
from resources.destinations import Outcome as DestinationOutcome
from resources.warehouse import naive_utc

# A connector says so when an answer refused the batch as a whole and named no record.
BATCH_REASON = "batch:"
# So many batches in a row without a single answer: the destination is down, the rest waits.
PATIENCE = 3

ConsentNow = Callable[[Sequence[str]], Collection[str]]
"""Of these canonical ids, those that consent now. Asked right before each batch."""


@dataclass
class DeliveryReport:
    """What a delivery did: batches handed over, and answers by status."""

    batches: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    parked: str = ""

    def count(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1


@dataclass(frozen=True)
class Delivery:
    """One sync's delivery: where it goes, and what it asks before each batch."""

    journal: Journal
    token: str
    destination: Destination
    action: Action
    clock: Callable[[], dt.datetime]
    consent_now: ConsentNow | None = None
    progress: Callable[[int], None] | None = None


def deliver(delivery: Delivery) -> DeliveryReport:
    """Send everything that is planned. Never raises for what a destination answers or a connector throws."""
    report = DeliveryReport()
    silent = 0
    stuck: set[str] = set()
    for batch in _batches(delivery):
        sendable = _admitted(delivery, batch, stuck, report)
        if not sendable:
            continue
        answers = _send(delivery, sendable, report)
        by_position = {operation.position: operation for operation in sendable}
        stuck.update(by_position[a.position].destination_key for a in answers if a.status != Outcome.delivered)
        if delivery.progress:
            delivery.progress(len(batch))
        parked = {a.not_before: a.reason for a in answers if a.status == Outcome.waiting and a.not_before is not None}
        # One record that has to wait, for a lock say, is no reason for the others to.
        if parked and all(a.status == Outcome.waiting and a.not_before is not None for a in answers):
            not_before = max(parked)
            _park(delivery, report, parked[not_before] or "parked", not_before)
            break
        silent = silent + 1 if all(a.status in (Outcome.waiting, Outcome.unknown) for a in answers) else 0
        if silent >= PATIENCE:
            _park(delivery, report, "destination does not answer", None)
            break
    return report


def _park(delivery: Delivery, report: DeliveryReport, reason: str, not_before: dt.datetime | None) -> None:
    report.parked = reason
    parked = delivery.journal.park(delivery.token, reason, not_before)
    if parked:
        report.statuses["waiting"] = report.statuses.get("waiting", 0) + parked


def _batches(delivery: Delivery) -> Iterator[list[JournaledOperation]]:
    """Operations in order, cut by rows, bytes, and a key that is already in the batch."""
    known = delivery.destination.capabilities
    many = known.bulk is not None and delivery.journal.count_pending(delivery.token) >= known.bulk.from_rows
    limits = known.bulk if many and known.bulk else known
    batch: list[JournaledOperation] = []
    size = 0
    keys: set[str] = set()
    for operation in delivery.journal.pending(delivery.token):
        length = len(operation.payload.encode())
        full = len(batch) >= limits.batch_rows or size + length > limits.batch_bytes
        if batch and (full or operation.destination_key in keys):
            yield batch
            batch, size, keys = [], 0, set()
        batch.append(operation)
        keys.add(operation.destination_key)
        size += length
    if batch:
        yield batch


def _admitted(
    delivery: Delivery, batch: Sequence[JournaledOperation], stuck: Collection[str], report: DeliveryReport
) -> list[JournaledOperation]:
    """The operations that may go now. The others are journaled: consent was withdrawn, or an earlier one of the key is not through."""
    subjects = sorted({operation.subject_id for operation in batch if operation.subject_id is not None})
    agreed = set(delivery.consent_now(subjects)) if delivery.consent_now and subjects else set(subjects)
    sendable, kept = [], []
    for operation in batch:
        if operation.subject_id is not None and operation.subject_id not in agreed:
            kept.append(Answer(operation.position, Outcome.withheld, "consent"))
        elif operation.destination_key in stuck:
            kept.append(Answer(operation.position, Outcome.waiting, "behind an earlier operation of its key"))
        else:
            sendable.append(operation)
    delivery.journal.answered(delivery.token, kept)
    report.count(kept)
    return sendable


def _send(delivery: Delivery, operations: Sequence[JournaledOperation], report: DeliveryReport) -> list[Answer]:
    """Hand one batch over and journal its answers. A batch refused as a whole is split until the record at fault stands alone."""
    delivery.journal.sending(delivery.token, [operation.position for operation in operations], naive_utc(delivery.clock()))
    report.batches += 1
    try:
        outcomes = delivery.destination.deliver(delivery.action, [_operation(operation) for operation in operations])
        answers = _answers(operations, outcomes)
    except DestinationConfigError:
        answers = [Answer(o.position, Outcome.waiting, "the destination's configuration does not work") for o in operations]
    except Exception as error:  # noqa: BLE001 - a connector's bug must not lose the batch: it may have arrived
        answers = [Answer(o.position, Outcome.unknown, f"connector failed: {type(error).__name__}") for o in operations]
    refused = all(a.status == Outcome.rejected and a.reason.startswith(BATCH_REASON) for a in answers)
    if refused and len(operations) > 1 and delivery.destination.capabilities.attribution in ("none", "whole_batch"):
        middle = len(operations) // 2
        return [*_send(delivery, operations[:middle], report), *_send(delivery, operations[middle:], report)]
    delivery.journal.answered(delivery.token, answers)
    report.count(answers)
    return answers


def _operation(operation: JournaledOperation) -> Operation:
    payload: Mapping = orjson.loads(operation.payload)
    return Operation(
        id=str(operation.position),
        kind=operation.kind,  # type: ignore[arg-type]
        key=operation.destination_key,
        payload=payload,
        message_id=operation.message_id,
    )


def _answers(operations: Sequence[JournaledOperation], outcomes: Sequence[DestinationOutcome]) -> list[Answer]:
    """One answer per operation. One that the connector says nothing about, or twice different things, is unknown."""
    found: dict[str, DestinationOutcome] = {}
    doubted: set[str] = set()
    for outcome in outcomes:
        if outcome.id in found and found[outcome.id].status != outcome.status:
            doubted.add(outcome.id)
        found[outcome.id] = outcome
    answers = []
    for operation in operations:
        answer = found.get(str(operation.position))
        if answer is None or answer.id in doubted:
            answers.append(Answer(operation.position, Outcome.unknown, "no single outcome in the answer"))
            continue
        not_before = naive_utc(answer.not_before) if answer.not_before else None
        answers.append(
            Answer(operation.position, str(answer.status), answer.reason, answer.warning, answer.remote_id, not_before)
        )
    return answers
