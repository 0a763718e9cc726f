"""Random histories as Segment messages, and the profiles that a build makes of many of them at once, beside the oracle's.

A history is written with small pools of values, so that conflicts are frequent. Rendered under a tag, all its values and message
ids are its own: hundreds of histories share one warehouse without meeting.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.models.settings import BlockedValue, ConsentCategory, IdentifierRule, IdentitySettings, SpaceConfig
from cdp_assets.unified_profiles.build import build_profiles
from resources.warehouse import TableRef, Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.unified_profiles.naive_identity import NaiveIdentity, blocked, instant

START = dt.datetime(2026, 1, 1)
AS_OF = dt.datetime(2036, 1, 1, tzinfo=dt.UTC)
CATEGORIES = ("ad", "stats")
GRAPH = DataGraph("v1.0.0", "DB.PEOPLE", "segment:materialized", (), ())
MICROSECOND, SECOND, HOUR, DAY = (dt.timedelta(**{unit: 1}) for unit in ("microseconds", "seconds", "hours", "days"))

# Times between two messages: within a second, and on and beside the edges of the windows. Negative: received out of order.
GAPS = (
    dt.timedelta(0),
    MICROSECOND,
    SECOND,
    HOUR,
    DAY - MICROSECOND,
    DAY,
    7 * DAY - MICROSECOND,
    7 * DAY,
    30 * DAY,
    364 * DAY,
    -2 * DAY,
)
PLACES = (
    ("userId",),
    ("anonymousId",),
    ("traits", "email"),
    ("context", "traits", "email"),
    ("properties", "email"),
    ("context", "integrations", "Google Analytics", "clientId"),
    ("traits", "card_number"),
    ("properties", "cardNumber"),
    ("context", "traits", "cardNumber"),
    ("context", "device", "ios", "id"),
    ("context", "device", "ios", "advertisingId"),
    ("context", "device", "Android", "token"),
    ("context", "externalIds", "zoo"),
    ("context", "externalIds", "owl_card"),
    ("context", "externalIds", "Upper"),
)
COMMON = ("a", "b", "c", "d")
# What no identifier may come of, and what is text only when read as one.
RARE = ("", "-1", "null", "anonymous", "0000-00", "test-1", None, {"x": 1}, [1], 7)
KINDS = ("user_id", "email", "anonymous_id", "ga_client_id", "owl_card", "ios.id", "ios.idfa", "android.push_token", "zoo")


@dataclass(frozen=True)
class Manner:
    """How a message comes. ``copies``: it arrives again, so much later or earlier."""

    gap: dt.timedelta = HOUR
    type: str = "track"
    consent: Any = None
    copies: tuple[dt.timedelta, ...] = ()


Said = tuple[Manner, tuple[tuple[tuple[str, ...], Any], ...]]
History = tuple[Said, ...]


def _manners(count: int) -> list[Manner]:
    chance = random.Random(1)
    consents = (None, None, None, None, {}, {"ad": True}, {"ad": False, "stats": True, "other": True}, {"ad": "true"}, "yes")
    copies = ((),) * 8 + ((HOUR,), (-2 * HOUR, DAY))
    types = ("track", "identify", "identify", "group", "page")
    drawn = [
        Manner(chance.choice(GAPS + GAPS[1:4] * 3), chance.choice(types), chance.choice(consents), chance.choice(copies))
        for _ in range(count)
    ]
    return [Manner(), Manner(type="identify"), *drawn]


def _pairs() -> list[tuple[tuple[str, ...], Any]]:
    """Few places and values are frequent, so that people meet; every other pair occurs."""
    often = [(place, value) for value in COMMON for place in PLACES[:3]]
    seldom = [(place, value) for place in PLACES for value in COMMON]
    return often * 50 + seldom + [(place, value) for place in PLACES for value in RARE]


# One choice each where it can be: choices are what takes time.
_said = st.tuples(st.sampled_from(_manners(150)), st.lists(st.sampled_from(_pairs()), min_size=1, max_size=4).map(tuple))
_some = st.lists(_said, max_size=10)
histories = st.tuples(_some, _some, _some).map(lambda parts: tuple(said for part in parts for said in part))


def rendered(history: History, tag: str, identity: IdentitySettings) -> list[dict[str, Any]]:
    """The messages as they arrive. Message ids do not ascend with time, so that ties are decided by them."""
    at, messages = START, []
    for number, (manner, places) in enumerate(history):
        at += manner.gap
        name = f"{tag}-{number * 7 % 10}{number:02}"
        message = {"type": manner.type, "messageId": name, "receivedAt": f"{at.isoformat()}+00:00"}
        if manner.type == "track":
            message["event"] = "Seen"
        for path, value in places:
            _put(message, path, _own(value, tag, identity))
        if manner.consent is not None:
            message.setdefault("context", {})["consent"] = {"categoryPreferences": manner.consent}
        messages.append(message)
        messages += [{**message, "receivedAt": f"{(at + later).isoformat()}+00:00"} for later in manner.copies]
    return messages


def _own(value: Any, tag: str, identity: IdentitySettings) -> Any:
    """A value that no other history has; one that identifies nobody stays as it is."""
    if isinstance(value, int):
        return value * 100_000 + int(tag[1:])
    return f"{tag}:{value}" if isinstance(value, str) and not blocked(value, identity) else value


def _put(message: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    if path[:2] == ("context", "device"):
        device = message.setdefault("context", {}).setdefault("device", {})
        device.update({"type": path[2], path[3]: value, "adTrackingEnabled": not f"{value}".endswith("d")})
        return
    if path[:2] == ("context", "externalIds"):
        entry = {"id": value, "type": path[2], "collection": "users", "encoding": "none"}
        message.setdefault("context", {}).setdefault("externalIds", []).append(entry)
        return
    if len(path) == 1 and not isinstance(value, str | None):
        return  # a message like this is not accepted
    for key in path[:-1]:
        message = message.setdefault(key, {})
    message[path[-1]] = value


# -- settings ------------------------------------------------------------------------------------------------------------


def settings_of(number: int) -> IdentitySettings:
    """The documented defaults for 0; else limits of 1 to 3 with any window, priorities or none, drawn by the number."""
    if number == 0:
        return IdentitySettings(custom={"owl_card": "cardNumber"})
    chance = random.Random(number)
    windows = ("ever", "ever", "annually", "monthly", "weekly", "daily")
    priorities = chance.sample(range(1, 20), len(KINDS))
    rules = tuple(
        IdentifierRule(
            type=kind,
            limit=chance.randint(1, 3),
            window=chance.choice(windows),
            priority=priority if number % 2 else None,
        )
        for kind, priority in zip(KINDS, priorities, strict=True)
        if chance.random() < 0.8
    )
    extra = {"shared_devices": "separate"} if number % 3 == 2 and "shared_devices" in IdentitySettings.model_fields else {}
    blocked = (BlockedValue(regex="test-.*"), BlockedValue(exact="anonymous")) if number % 4 == 3 else IdentitySettings().blocked
    return IdentitySettings(identifiers=rules, custom={"owl_card": "cardNumber"}, blocked=blocked, **extra)


def config_of(identity: IdentitySettings) -> SpaceConfig:
    categories = tuple(ConsentCategory(id=name, name=name) for name in CATEGORIES)
    return SpaceConfig(name="test", start_date=START.date(), identity=identity, consent_categories=categories)


# -- the product ---------------------------------------------------------------------------------------------------------


@contextmanager
def warehouse() -> Iterator[Warehouse]:
    """An empty one with the messages table."""
    with tempfile.TemporaryDirectory() as folder, open_duckdb(Path(folder) / "histories.duckdb") as opened:
        opened.ensure(MESSAGES)
        yield opened


def accept(target: Warehouse, messages: Sequence[Mapping[str, Any]]) -> None:
    """Write messages as the raw_events room does: each id once, at its first arrival."""
    first: dict[str, Mapping[str, Any]] = {}
    for message in sorted(messages, key=lambda message: instant(message["receivedAt"])):
        first.setdefault(message["messageId"], message)
    rows = [_row(message) for message in first.values()]
    schema = MESSAGES.schema.to_pyarrow()
    columns = {name: pa.array([row[name] for row in rows], schema.field(name).type) for name in rows[0]}
    target.append(MESSAGES.ref, pa.table(columns))


def _row(message: Mapping[str, Any]) -> dict[str, Any]:
    at = instant(message["receivedAt"])
    texts = {name: json.dumps(message[name]) if message.get(name) else None for name in ("properties", "traits", "context")}
    return {
        "message_id": message["messageId"],
        "type": message["type"],
        "event": message.get("event"),
        "user_id": message.get("userId"),
        "anonymous_id": message.get("anonymousId"),
        "received_at": at,
        "timestamp": at,
        "partition_key": f"{at:%Y-%m-%d}",
        **texts,
    }


def build(target: Warehouse, identity: IdentitySettings, as_of: dt.datetime = AS_OF) -> None:
    build_profiles(target, config_of(identity), GRAPH, as_of, AS_OF, "run")


def rows(target: Warehouse, table: str, *columns: str) -> list[tuple]:
    """Rows of one of the room's tables."""
    schema = (
        "people"
        if table in ("id_graph_updates", "external_id_mapping_updates", "user_identifiers", "user_traits", "profile_merges")
        else "unified_profiles"
    )
    return [tuple(row.values()) for row in target.rows(target.table(TableRef(schema, table)).select(*columns), 1_000_000)]


# -- side by side --------------------------------------------------------------------------------------------------------

Facts = dict[str, Counter]


def facts_of_oracle(oracle: NaiveIdentity) -> Facts:
    """What the oracle says, as bags of rows by table."""
    return {
        "events": Counter(oracle.events.items()),
        "graph": Counter(oracle.graph),
        "merges": Counter(oracle.canonical.items()),
        "identifiers": Counter((*identifier, profile) for identifier, profile in oracle.identifiers().items()),
        "mappings": Counter((name, profile, *identifier, operation) for name, profile, identifier, operation in oracle.rows),
        "violations": Counter((n, kind, _hash(kind, value), reason) for n, kind, value, reason in oracle.violations),
        "consent updates": Counter(oracle.consents),
        "consent states": Counter(oracle.states),
        "traits": Counter((profile, name, _text(value)) for (profile, name), value in oracle.traits_now().items()),
    }


def _hash(kind: str | None, value: str | None) -> str | None:
    return None if kind is None else hashlib.sha256(f"{kind}:{value}".encode()).hexdigest()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def facts_of_build(target: Warehouse) -> dict[str, Facts]:
    """What the tables say, by the tag of the history."""
    found: dict[str, Facts] = defaultdict(lambda: defaultdict(Counter))
    graph = rows(target, "id_graph_updates", "triggering_event_id", "segment_id", "canonical_segment_id")
    tag_of = {segment: name.partition("-")[0] for name, segment, canonical in graph if segment == canonical}

    def put(what: str, of_table: list[tuple], tag) -> None:
        for row in of_table:
            found[tag(row)][what][row] += 1

    def by_entry(row: tuple) -> str:
        return row[0].partition("-")[0]

    put("graph", graph, by_entry)
    put("events", rows(target, "event_profiles", "message_id", "segment_id"), by_entry)
    put("merges", rows(target, "profile_merges", "segment_id", "canonical_segment_id"), lambda row: tag_of[row[0]])
    identifiers = rows(target, "user_identifiers", "type", "value", "canonical_segment_id")
    put("identifiers", identifiers, lambda row: tag_of[row[2]])
    mapping = ("triggering_event_id", "segment_id", "external_id_type", "external_id_value", "__operation")
    put("mappings", rows(target, "external_id_mapping_updates", *mapping), by_entry)
    put("violations", rows(target, "identity_violations", "message_id", "identifier_type", "value_hash", "reason"), by_entry)
    put("consent updates", rows(target, "consent_updates", "message_id", "segment_id", "category", "value"), by_entry)
    put("consent states", state_rows(target), by_entry)
    put("traits", rows(target, "user_traits", "canonical_segment_id", "name", "value"), lambda row: tag_of[row[0]])
    return found


def state_rows(target: Warehouse) -> list[tuple]:
    """consent_states with the entry that its seq names."""
    named = {seq: name for name, seq in rows(target, "event_profiles", "message_id", "seq")}
    return [(named[seq], *rest) for seq, *rest in rows(target, "consent_states", "seq", "segment_id", "category", "value")]


def differences(product: Facts, oracle: Facts) -> list[str]:
    """One line for each row that only one of the two has."""
    found = []
    for what, expected in oracle.items():
        actual = product.get(what, Counter())
        found += [f"{what}: only the oracle has {row}" for row in expected - actual]
        found += [f"{what}: only the tables have {row}" for row in actual - expected]
    return found


def compared(cases: Sequence[History], identity: IdentitySettings) -> dict[int, list[str]]:
    """Build all cases in one warehouse; the differences from the oracle by the number of the case."""
    messages = {f"h{number}": rendered(case, f"h{number}", identity) for number, case in enumerate(cases)}
    return compared_messages(messages, identity)


def compared_messages(messages: Mapping[str, list[dict[str, Any]]], identity: IdentitySettings) -> dict[int, list[str]]:
    with warehouse() as target:
        accept(target, [message for of_case in messages.values() for message in of_case])
        build(target, identity)
        product = facts_of_build(target)
    found = {}
    for tag, of_case in messages.items():
        oracle = NaiveIdentity(identity, CATEGORIES).live(of_case)
        if different := differences(product.get(tag, {}), facts_of_oracle(oracle)):
            found[int(tag[1:])] = different
    return found
