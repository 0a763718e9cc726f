"""However the same messages and corrections arrive, the tables are those of one rebuild, and those of the rules read event by event."""

from __future__ import annotations

import datetime as dt
import os
import random
from functools import cache
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, seed, settings

from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.unified_profiles.tables import IDENTITY_CORRECTIONS, INTERNAL_TABLES, profile_tables
from resources.warehouse import Warehouse
from tests.unified_profiles.histories import (
    AS_OF,
    CATEGORIES,
    accept,
    build,
    differences,
    facts_of_build,
    facts_of_oracle,
    histories,
    rendered,
    rows,
    settings_of,
    warehouse,
)
from tests.unified_profiles.naive_identity import Correction, NaiveIdentity, instant, places, received_order, seqs

CASES = int(os.environ.get("CDP_ORACLE_CASES", "400")) // 8
# The second keeps shared devices apart.
WORLDS = range(1, 1 + int(os.environ.get("CDP_ORACLE_WORLDS", "8")) // 4)
SEED = int(os.environ.get("CDP_ORACLE_SEED", "4"))
BATCHES = 4
# Written with the clock, or a record of how the tables came to be.
PROCESS = ("id_aliases", "corrected_builds", "builds")

Messages = dict[str, list[dict[str, Any]]]


def messages_of(world: int) -> Messages:
    """The histories by tag."""
    found: Messages = {}

    @seed(SEED + world)
    @settings(max_examples=CASES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories)
    def draw(history) -> None:
        tag = f"h{len(found)}"
        found[tag] = rendered(history, tag, settings_of(world))

    draw()
    return found


def accepted(messages: Messages) -> list[dict[str, Any]]:
    """All messages in received order, each once."""
    everything = [message for of_case in messages.values() for message in of_case]
    return [
        {**entry, "receivedAt": f"{at.isoformat()}+00:00"}
        for at, _, entry in received_order(everything)
        if isinstance(entry, dict)
    ]


def tables(target: Warehouse) -> dict[str, list[tuple]]:
    """The content of every table but those of the process."""
    specs = [spec for spec in (*profile_tables("people"), *INTERNAL_TABLES) if spec.ref.name not in PROCESS]
    found = {}
    for spec in specs:
        columns = [column for column in spec.columns if column != "loaded_at"]
        read = target.rows(target.table(spec.ref).select(*columns), 1_000_000)
        found[spec.ref.name] = sorted((tuple(row.values()) for row in read), key=str)
    return found


@cache
def one_go(world: int) -> dict[str, list[tuple]]:
    """The tables of a world's histories built at once."""
    messages = accepted(messages_of(world))
    with warehouse() as target:
        accept(target, messages)
        build(target, settings_of(world))
        return tables(target)


def assert_equal(found: dict[str, list[tuple]], expected: dict[str, list[tuple]]) -> None:
    assert found.keys() == expected.keys()
    for name, of_table in expected.items():
        assert found[name] == of_table, name


@pytest.mark.parametrize("world", WORLDS)
def test_a_history_taken_in_parts_gives_the_tables_of_one_go(world: int) -> None:
    messages = accepted(messages_of(world))
    chance = random.Random(world)
    cuts = sorted(chance.sample(range(1, len(messages)), BATCHES - 1))
    with warehouse() as target:
        for start, end in zip([0, *cuts], [*cuts, len(messages)], strict=True):
            accept(target, messages[start:end])
            until = instant(messages[end]["receivedAt"]) if end < len(messages) else AS_OF
            build(target, settings_of(world), as_of=until.replace(tzinfo=dt.UTC))
        assert_equal(tables(target), one_go(world))


@pytest.mark.parametrize("world", WORLDS)
def test_messages_that_arrive_late_give_the_tables_of_one_go(world: int) -> None:
    messages = accepted(messages_of(world))
    arrived = random.Random(world).sample(messages, len(messages))
    size = len(messages) // BATCHES + 1
    with warehouse() as target:
        for start in range(0, len(messages), size):
            accept(target, arrived[start : start + size])
            build(target, settings_of(world))
        assert_equal(tables(target), one_go(world))


def test_a_message_that_turns_out_to_be_older_moves_to_its_place() -> None:
    """A second copy of a message, received earlier and landed later, takes its place."""
    messages = messages_of(1)
    copies: dict[str, list[dict[str, Any]]] = {}
    for message in (message for of_case in messages.values() for message in of_case):
        copies.setdefault(message["messageId"], []).append(message)
    with warehouse() as target:
        accept(target, [found[0] for found in copies.values()])
        build(target, settings_of(1))
        target.delete(MESSAGES.ref, [])
        accept(target, [message for found in copies.values() for message in found])
        build(target, settings_of(1))
        assert_equal(tables(target), one_go(1))


def test_seq_is_the_second_and_the_place_within_it() -> None:
    messages = accepted(messages_of(0))
    with warehouse() as target:
        accept(target, messages)
        build(target, settings_of(0))
        assert dict(rows(target, "event_profiles", "message_id", "seq")) == seqs(messages)


def corrections_of(tag: str, messages: list[dict[str, Any]], world: int) -> list[Correction]:
    """A separation of what the history has, and removals during it, drawn by its tag."""
    chance = random.Random(f"{world}/{tag}")
    identity = settings_of(world)
    known = sorted({i for message in messages for i in places(message, identity) if i[1].startswith(f"{tag}:")})
    if len(known) < 3:
        return []
    a, b, *_ = chance.sample(known, 3)
    found = [Correction(f"{tag}-s", "separate", frozenset([a]), frozenset([b]))] if chance.random() < 0.7 else []
    for number in range(chance.randrange(3)):
        at = instant(chance.choice(messages)["receivedAt"]) + chance.choice((dt.timedelta(0), dt.timedelta(minutes=1)))
        found.append(Correction(f"{tag}-{chance.choice('0z')}r{number}", "remove", frozenset([chance.choice(known)]), at=at))
    return found


def correct(target: Warehouse, corrections: list[Correction]) -> None:
    """Write corrections as the commands do."""
    target.ensure(IDENTITY_CORRECTIONS)
    found = [
        {
            "correction_id": c.id,
            "kind": c.kind,
            "side": side if c.kind == "separate" else None,
            "identifier_type": kind,
            "identifier_value": value,
            "effective_at": c.at,
            "reason": "test",
            "loaded_at": AS_OF.replace(tzinfo=None),
        }
        for c in corrections
        for side, identifiers in (("a", c.a), ("b", c.b))
        for kind, value in sorted(identifiers)
    ]
    target.append(IDENTITY_CORRECTIONS.ref, pa.Table.from_pylist(found, IDENTITY_CORRECTIONS.schema.to_pyarrow()))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("afterwards", [False, True], ids=["before the first build", "after it"])
def test_separations_and_removals_are_honoured_by_the_whole_history(world: int, afterwards: bool) -> None:
    messages = messages_of(world)
    corrections = {tag: corrections_of(tag, of_case, world) for tag, of_case in messages.items()}
    with warehouse() as target:
        accept(target, [message for of_case in messages.values() for message in of_case])
        if afterwards:
            build(target, settings_of(world))
        correct(target, [c for of_case in corrections.values() for c in of_case])
        build(target, settings_of(world))
        product = facts_of_build(target)
    honoured = 0
    for tag, of_case in messages.items():
        oracle = NaiveIdentity(settings_of(world), CATEGORIES, corrections[tag]).live(of_case)
        honoured += any(operation == "REMOVED" for *_, operation in oracle.rows)
        honoured += any(reason in ("separated", "removal_refused") for *_, reason in oracle.violations)
        found = differences(product[tag], facts_of_oracle(oracle))
        assert not found, "\n".join(
            ["", *map(str, of_case), *map(str, corrections[tag]), *found, f"under {settings_of(world)!r}"]
        )
    assert honoured > len(messages) / 4
