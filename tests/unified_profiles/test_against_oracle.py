"""The tables of many random histories are what the rules, read event by event, say: row by row.

Hundreds of histories share one build, each with values of its own. Where one differs, hypothesis looks for its smallest form
alone. ``CDP_ORACLE_CASES`` sets how many histories there are, ``CDP_ORACLE_WORLDS`` under how many settings, ``CDP_ORACLE_SEED`` which.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from cdp_assets.space.models.settings import IdentifierRule, IdentitySettings
from tests.unified_profiles.histories import (
    CATEGORIES,
    COMMON,
    DAY,
    HOUR,
    KINDS,
    MICROSECOND,
    PLACES,
    RARE,
    START,
    History,
    Manner,
    compared,
    compared_messages,
    histories,
    rendered,
    settings_of,
)
from tests.unified_profiles.naive_identity import NaiveIdentity

CASES = int(os.environ.get("CDP_ORACLE_CASES", "400"))
WORLDS = int(os.environ.get("CDP_ORACLE_WORLDS", "8"))
SEED = int(os.environ.get("CDP_ORACLE_SEED", "4"))
A_BUILD = 400  # histories in one warehouse


def each_case(body) -> None:
    """Call ``body`` with each of the histories: the same ones at every call, until it raises; then with ever smaller ones."""

    @seed(SEED)
    @settings(max_examples=CASES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories)
    def run(history: History) -> None:
        body(history)

    run()


@pytest.fixture(scope="module")
def cases() -> list[History]:
    found: list[History] = []
    each_case(found.append)
    return found


def assert_alone(identity: IdentitySettings, failing: set[History]) -> None:
    """Fail with the smallest history that differs, found from the failing ones."""
    shrinking = False

    def alone(history: History) -> None:
        nonlocal shrinking
        shrinking = shrinking or history in failing
        if shrinking:
            found = compared([history], identity).get(0, [])
            assert not found, "\n".join(["", *map(str, rendered(history, "h0", identity)), *found, f"under {identity!r}"])

    each_case(alone)
    pytest.fail("histories differ in company, and none of them does alone")


@pytest.mark.parametrize("world", range(WORLDS))
def test_the_tables_are_those_of_the_rules_read_event_by_event(cases: list[History], world: int) -> None:
    identity = settings_of(world)
    failing: set[History] = set()
    for start in range(0, len(cases), A_BUILD):
        part = cases[start : start + A_BUILD]
        failing |= {part[number] for number in compared(part, identity)}
    if failing:
        assert_alone(identity, failing)


def test_the_histories_hold_what_the_rules_are_about(cases: list[History]) -> None:
    """Without it the comparison could agree on nothing."""
    reasons: Counter[str] = Counter()
    merges, states = 0, Counter[str]()
    for world in range(4):
        for number, case in enumerate(cases[:200]):
            identity = settings_of(world)
            naive = NaiveIdentity(identity, CATEGORIES).live(rendered(case, f"h{number}", identity))
            reasons.update(reason for *_, reason in naive.violations)
            states.update(state for *_, state in naive.states)
            merges += sum(profile != canonical for _, profile, canonical in naive.graph)
            assert {kind for kind, _ in naive.owner} <= {*KINDS, "card", "android.id", "android.idfa", "ios.push_token"}
    expected = (
        "id_value_blocked",
        "no_matching_identifiers",
        "identifier_value_limit_exceeded",
        "identifier_value_time_limit_exceeded",
    )
    assert min(reasons[reason] for reason in expected) > 50
    assert merges > 200 and min(states.values()) > 20 and set(states) == {"true", "false", "conflict"}


@pytest.mark.parametrize("world", [0, 1, 3])
def test_every_place_holds_what_the_documents_say(world: int) -> None:
    """Each place with each value, and each pair of places with one value, where the limit of a type is one."""
    manner = Manner(type="identify")
    singles = [((manner, ((place, value),)),) for place in PLACES for value in COMMON + RARE]
    pairs = [((manner, ((one, "a"), (other, "a"))),) for one in PLACES for other in PLACES]
    rules = tuple(IdentifierRule(type=kind, limit=1) for kind in KINDS)
    identity = settings_of(world).model_copy(update={"identifiers": rules})
    assert compared([*singles, *pairs], identity) == {}


def crowded(number: int) -> list[dict[str, Any]]:
    """A history that reaches the caps: hundreds of anonymous ids that merge in a random order, and profiles with 1,000 of them."""
    chance = random.Random(f"{SEED}/{number}")
    messages: list[dict[str, Any]] = []

    def say(*identifiers: tuple[str, str]) -> None:
        entries = [{"id": f"h{number}:{v}", "type": kind, "collection": "users", "encoding": "none"} for kind, v in identifiers]
        at, name = START + len(messages) * HOUR, f"h{number}-{len(messages):05}"
        context = {"externalIds": entries}
        messages.append({"type": "page", "messageId": name, "receivedAt": f"{at.isoformat()}+00:00", "context": context})

    for device in range(230):
        say(("anonymous_id", f"a{device}"))
    for link in range(260):
        a, b = chance.randrange(230), chance.randrange(230 if chance.random() < 0.3 else 5)
        say(
            ("anonymous_id", f"a{a}"), ("anonymous_id", f"a{b}"), *([("email", f"e{link % 40}")] if chance.random() < 0.4 else [])
        )
    for batch in range(35):
        others = [("ga_client_id", f"g{batch}.{n}") for n in range(chance.randrange(40, 80))]
        others.append(("owl_card", f"c{batch}"))
        say(("user_id", f"u{batch % 2}"), *chance.sample(others, len(others)))
    say(("user_id", "u0"), ("user_id", "u1"))
    return messages


def test_caps_of_merges_and_mappings_are_kept() -> None:
    rules = [IdentifierRule(type=kind, limit=5000) for kind in ("user_id", "email", "anonymous_id", "ga_client_id", "owl_card")]
    identity = IdentitySettings(identifiers=tuple(rules))
    messages = {f"h{number}": crowded(number) for number in range(2)}
    reached = Counter(v[3] for of_case in messages.values() for v in NaiveIdentity(identity, CATEGORIES).live(of_case).violations)
    assert min(reached["profile_merge_limit_reached"], reached["profile_mapping_limit_reached"]) > 10
    assert compared_messages(messages, identity) == {}


@pytest.mark.parametrize(("window", "days"), [("daily", 1), ("weekly", 7), ("monthly", 30), ("annually", 365)])
def test_an_identifier_counts_until_the_very_end_of_its_window(window: str, days: int) -> None:
    identity = IdentitySettings(identifiers=(IdentifierRule(type="email", limit=1, window=window),))
    messages = {}
    for number, late in enumerate((-MICROSECOND, 0 * MICROSECOND, MICROSECOND)):
        times = (START, START + days * DAY + late)
        messages[f"h{number}"] = [
            {
                "type": "identify",
                "messageId": f"h{number}-{at.isoformat()}",
                "receivedAt": f"{at.isoformat()}+00:00",
                "userId": f"h{number}:u",
                "traits": {"email": f"h{number}:{at.isoformat()}"},
            }
            for at in times
        ]
    refused = [len(NaiveIdentity(identity).live(of_case).violations) for of_case in messages.values()]
    assert refused == [1, 0, 0]
    assert compared_messages(messages, identity) == {}
