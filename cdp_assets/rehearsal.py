"""One profile, or one row of a model, sent by itself: what the request is, and what is answered. Nothing is recorded in the ledger.

Without sending, the request goes to twins that live as long as the call: what is shown is what the connector puts on the wire.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import tempfile
from collections.abc import Mapping, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import orjson

from cdp_assets.activation_payloads.rules import target_of
from cdp_assets.activation_payloads.tables import MESSAGE_ID_TOKEN, PAYLOADS, TIMESTAMP_TOKEN
from cdp_assets.activation_payloads.unit_payload import OK, personal_fields
from cdp_assets.destination_syncs.people import sendable
from cdp_assets.destination_syncs.states import TRIGGERS, Op, Reaction
from cdp_assets.space.masking import mask_record, mask_value
from cdp_assets.space.models.activations import Activation
from cdp_assets.space.space import Space
from cdp_assets.unified_profiles.tables import find_profile
from resources.destinations import Action, Connection, Operation, Outcome
from resources.destinations.exchanges import Exchange, watching
from resources.destinations.open import connection_of
from resources.destinations.registry import FILES, connect
from resources.sandbox.server import sandbox
from resources.warehouse import Warehouse

LATEST = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
# A profile has a message for each of its entities; nobody reads more than these.
MOST_UNITS = 20
_SHOWN_HEADERS = frozenset({"content-type", "accept", "idempotency-key", "x-amz-target", "linkedin-version", "x-restli-method"})
_PLUMBING = frozenset({"host", "user-agent", "accept-encoding", "connection", "content-length"})
_CREDENTIAL = re.compile(r"(?i)token|secret|password|assertion|api_?key|client_?id|signature|authorization")


class RehearsalError(Exception):
    """There is nothing that could be sent. The message says why and what to do, and holds no personal data."""


@dataclass(frozen=True)
class Withheld:
    """A unit that may not be sent, and why."""

    unit: str
    verdict: str
    detail: str


@dataclass(frozen=True)
class Rehearsal:
    """What was, or would be, sent. ``outcomes``: by unit, of a rehearsal that sent. ``more``: there are
    further units, which were left out. ``personal``: payload fields to mask.
    ``words``: of the action's settings, which are shown."""

    operations: tuple[Operation, ...]
    exchanges: tuple[Exchange, ...]
    outcomes: tuple[Outcome, ...]
    withheld: tuple[Withheld, ...]
    more: bool
    personal: frozenset[str]
    words: frozenset[str]

    def shown(self, *, unmask: bool) -> list[dict[str, Any]]:
        """The exchanges as JSON: method, path, query, headers, body, status, answer. Credentials are never in it."""
        return [_shown(exchange, self, unmask) for exchange in self.exchanges]


def rehearse(warehouse: Warehouse, space: Space, key: str, profile: str, now: dt.datetime, *, leaves: bool = False) -> Rehearsal:
    """What the activation sends of one profile (segment id or TYPE:VALUE) or one row (its key), from the payloads as they are built.

    ``leaves``: the message of leaving. Call :func:`send_it` or :func:`show_it` with the result. Raises RehearsalError.
    """
    activation = space.activations[key]
    operation = _operation_of(activation, leaves)
    rows = _units(warehouse, space, activation, profile)
    subjects = sorted({row["canonical_segment_id"] for row in rows if row["canonical_segment_id"] is not None})
    agreed: set[str] = set()
    if activation.consent.subject != "none" and subjects:
        agreed = sendable(warehouse, space.graph, activation.consent.categories, LATEST, subjects)
    operations, withheld = [], []
    for row in rows[:MOST_UNITS]:
        if row["verdict"] != OK:
            withheld.append(Withheld(row["unit"], row["verdict"], row["detail"]))
        elif activation.consent.subject != "none" and row["canonical_segment_id"] not in agreed:
            withheld.append(Withheld(row["unit"], "consent", "withdrawn since the payloads were built"))
        else:
            operations.append(_operation(activation, row, operation, now))
    personal = personal_fields(activation, target_of(space, activation).key_field)
    words = frozenset(value for value in activation.settings.values() if isinstance(value, str))
    return Rehearsal(tuple(operations), (), (), tuple(withheld), len(rows) > MOST_UNITS, personal, words)


def show_it(space: Space, key: str, found: Rehearsal) -> Rehearsal:
    """The same with the exchanges of its requests, made with twins that nobody else sees."""
    config = space.config.destinations[space.activations[key].destination]
    with tempfile.TemporaryDirectory(prefix="cdp-test-") as folder, sandbox(folder) as url:
        base = f"{folder}/{config.type}" if config.type in FILES else f"{url}/{config.type}"
        twin = replace(connection_of(config), mode="sandbox", account="sandbox", credentials={}, base_url=base)
        seen, _ = _exchanged(space, key, found, twin)
    return replace(found, exchanges=seen)


def send_it(space: Space, key: str, found: Rehearsal) -> Rehearsal:
    """The same, sent to the configured destination, with exchanges and outcomes. Raises DestinationConfigError."""
    config = space.config.destinations[space.activations[key].destination]
    seen, outcomes = _exchanged(space, key, found, connection_of(config))
    return replace(found, exchanges=seen, outcomes=outcomes)


def _exchanged(
    space: Space, key: str, found: Rehearsal, connection: Connection
) -> tuple[tuple[Exchange, ...], tuple[Outcome, ...]]:
    activation = space.activations[key]
    kind = space.config.destinations[activation.destination].type
    with closing(connect(kind, connection)) as destination, watching() as seen:
        outcomes = destination.deliver(Action(activation.action, dict(activation.settings)), found.operations)
    # Twins stand below a path of their own, which the system's requests do not have.
    twin = f"/{kind}" if connection.mode == "sandbox" else ""
    return tuple(replace(one, path=one.path.removeprefix(twin)) for one in seen), tuple(outcomes)


def _operation_of(activation: Activation, leaves: bool) -> Op:
    reactions = TRIGGERS[activation.trigger.when]
    if leaves or reactions.enter != Reaction.send:
        if reactions.exit != Reaction.send:
            raise RehearsalError(f"{activation.key} sends nothing for who leaves: its trigger is {activation.trigger.when}")
        return Op.exit
    return Op.enter


def _units(warehouse: Warehouse, space: Space, activation: Activation, profile: str) -> list[dict[str, Any]]:
    """The built units of a profile, or of a row's key. Raises RehearsalError."""
    if not warehouse.has(PAYLOADS.ref):
        raise RehearsalError("no payloads are built yet; materialise them first: cdp run")
    payloads = warehouse.table(PAYLOADS.ref)
    own = payloads.filter(payloads.activation == activation.key)
    canonical = find_profile(warehouse, space.graph, profile, LATEST)
    mine = own.filter((own.canonical_segment_id == canonical) if canonical else (own.row_key == profile))
    rows = warehouse.rows(mine.order_by("unit"), MOST_UNITS + 1)
    if not rows and activation.events and canonical is not None:
        raise RehearsalError(f"no event of the profile waits to be sent by {activation.key}, as the payloads were built")
    if not rows and activation.model:
        raise RehearsalError(f"the newest payloads of {activation.key} have no such row; give the value of its primary key")
    if not rows and canonical is None:
        raise RehearsalError("nobody is known by that; give a segment_id, or an identifier as TYPE:VALUE, e.g. email:a@b.c")
    if not rows:
        remedy = f"cdp why PROFILE {activation.audience} says why"
        raise RehearsalError(f"the profile is not in audience {activation.audience}, as the payloads were built; {remedy}")
    return rows


def _operation(activation: Activation, row: Mapping[str, Any], operation: Op, now: dt.datetime) -> Operation:
    text = row["exit_payload"] if operation == Op.exit else row["payload"]
    # Never the id of a delivery: the destination must not take the delivery that follows for a repetition.
    said = "\x1f".join(("rehearsal", activation.key, row["unit"], operation, now.isoformat()))
    message_id = hashlib.sha256(said.encode()).hexdigest()
    text = text.replace(MESSAGE_ID_TOKEN, message_id).replace(TIMESTAMP_TOKEN, now.isoformat())
    return Operation(row["unit"], str(operation), row["destination_key"], orjson.loads(text), message_id)  # type: ignore[arg-type]


# -- what may be seen --------------------------------------------------------------------------------------------------


def _shown(exchange: Exchange, found: Rehearsal, unmask: bool) -> dict[str, Any]:
    headers = {n: v if n.lower() in _SHOWN_HEADERS else "***" for n, v in exchange.headers.items() if n.lower() not in _PLUMBING}
    path = exchange.path
    words = set(found.words)
    values = {operation.key for operation in found.operations}
    for operation in found.operations:
        words |= operation.payload.keys()
        values |= {text for name in found.personal for text in _texts(operation.payload.get(name))}
        path = path if unmask else path.replace(quote(operation.key, safe=""), mask_value(operation.key))

    def masked(value: Any) -> Any:
        value = _without_credentials(value)
        return value if unmask else _masked(value, mask_record({"": value}, found.personal)[""], values, words - values)

    return {
        "request": f"{exchange.method} {path}",
        "query": masked(dict(exchange.query)),
        "headers": headers,
        "body": masked(exchange.body),
        "status": exchange.status,
        "answer": masked(exchange.answer),
    }


def _texts(value: Any) -> set[str]:
    """The texts in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {value} if isinstance(value, str) else set().union(*(_texts(item) for item in inner))


def _masked(value: Any, masked: Any, values: Set[str], words: Set[str]) -> Any:
    """``masked`` with what the rules for texts cannot know: a personal value in another place, and words that are none."""
    if isinstance(value, dict):
        return {name: _masked(inner, masked[name], values, words) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(*both, values, words) for both in zip(value, masked, strict=True)]
    if value in values and isinstance(value, str):
        return mask_value(value)
    return value if isinstance(value, str) and value in words else masked


def _without_credentials(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: "***" if isinstance(inner, str) and _CREDENTIAL.search(name) else _without_credentials(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    return value
