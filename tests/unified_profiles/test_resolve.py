"""Identity resolution against the rules read naively, and Segment's documented examples."""

from __future__ import annotations

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.models import IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.identifiers import Identifier, Rules
from cdp_assets.unified_profiles.resolve import (
    MAPPING_CAP,
    MERGE_CAP,
    NO_IDENTIFIERS,
    TIME_LIMIT,
    VALUE_LIMIT,
    History,
    Step,
    resolve,
)
from tests.unified_profiles.naive_identity import NaiveIdentity

START = dt.datetime(2026, 1, 1)
Event = tuple[float, list[tuple[str, str]]]


def history_of(events: list[Event]) -> History:
    """Events as (days after the start, identifiers)."""
    history = History()
    for days, identifiers in events:
        history.add(tuple(Identifier(*i) for i in identifiers), START + dt.timedelta(days=days))
    return history


def steps_of(events: list[Event], rules: Rules | None = None, **caps: int) -> tuple[History, list[Step]]:
    history = history_of(events)
    return history, list(resolve(history, rules or Rules.of(IdentitySettings()), **caps))


def partition_of(history: History, steps: list[Step]) -> dict[tuple[str, str], int]:
    """Identifier -> the event that created the profile it belongs to at the end."""
    created = [event for event, step in enumerate(steps) if step.created]
    part_of = list(range(len(created)))
    owner: dict[int, int] = {}
    for step in steps:
        for loser in step.merged:
            part_of = [step.profile if part == loser else part for part in part_of]
        owner.update(dict.fromkeys(step.attached, step.profile))
    return {tuple(history.identifiers[i]): created[part_of[profile]] for i, profile in owner.items()}


KINDS = ["user_id", "email", "anonymous_id", "phone"]
events = st.lists(
    st.tuples(
        st.sampled_from([0, 0.1, 0.6, 1, 3, 7, 20, 40]),
        st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("abcdefg")), max_size=4, unique=True),
    ),
    max_size=40,
)
limits = st.fixed_dictionaries(
    {kind: st.tuples(st.integers(1, 4), st.sampled_from(["ever", "annually", "monthly", "weekly", "daily"])) for kind in KINDS}
)


@settings(max_examples=500, deadline=None)
@given(
    gaps=events,
    limits=limits,
    order=st.permutations(KINDS),
    caps=st.sampled_from([(100, 1000), (1, 1000), (2, 4), (100, 3)]),
)
def test_the_outcome_is_that_of_the_rules_read_event_by_event(gaps, limits, order, caps) -> None:
    days, history_events = 0.0, []
    for gap, identifiers in gaps:
        days += gap
        history_events.append((days, identifiers))
    identity = IdentitySettings(
        identifiers=tuple(
            IdentifierRule(type=kind, limit=limits[kind][0], window=limits[kind][1], priority=order.index(kind) + 1)
            for kind in KINDS
        )
    )
    naive = NaiveIdentity(identity, max_merges=caps[0], max_mappings=caps[1]).live(messages_of(history_events))
    history, steps = steps_of(history_events, Rules.of(identity), max_merges=caps[0], max_mappings=caps[1])

    created = [event for event, step in enumerate(steps) if step.created]
    born = {profile: int(name) for name, profile, canonical in naive.graph if profile == canonical}
    assert partition_of(history, steps) == {identifier: born[profile] for identifier, profile in naive.identifiers().items()}
    expected = [None if profile is None else born[profile] for _, profile in sorted(naive.events.items())]
    assert [None if step.profile < 0 else created[step.profile] for step in steps] == expected
    violations = [
        (f"{event:04}", *history.identifiers[i], reason) for event, step in enumerate(steps) for i, reason in step.refused
    ]
    assert violations == [violation for violation in naive.violations if violation[3] != NO_IDENTIFIERS]


def messages_of(events: list[Event]) -> list[dict]:
    """Messages that carry any types of identifiers, as external ids."""
    messages = []
    for number, (days, identifiers) in enumerate(events):
        entries = [{"id": value, "type": kind, "collection": "users", "encoding": "none"} for kind, value in identifiers]
        at = f"{(START + dt.timedelta(days=days)).isoformat()}+00:00"
        context = {"externalIds": entries}
        messages.append({"type": "track", "messageId": f"{number:04}", "receivedAt": at, "context": context})
    return messages


def test_AE4_1_a_second_user_with_a_shared_email_is_a_new_profile_without_it() -> None:
    history, steps = steps_of([(0, [("user_id", "a"), ("email", "e")]), (1, [("user_id", "b"), ("email", "e")])])
    assert partition_of(history, steps) == {("user_id", "a"): 0, ("email", "e"): 0, ("user_id", "b"): 1}
    assert [(history.identifiers[i].type, reason) for i, reason in steps[1].refused] == [("email", VALUE_LIMIT)]


def test_AE4_2_a_sixth_anonymous_id_resolves_but_is_not_attached() -> None:
    history, steps = steps_of([(n, [("user_id", "u"), ("anonymous_id", f"a{n}")]) for n in range(6)])
    assert steps[5].profile == steps[0].profile
    assert ("anonymous_id", "a5") not in partition_of(history, steps)
    assert [reason for _, reason in steps[5].refused] == [VALUE_LIMIT]


def weekly() -> Rules:
    return Rules.of(IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=5, window="weekly"),)))


def test_AE4_3_identifiers_attached_before_the_window_do_not_count() -> None:
    five = [(0.0, [("user_id", "u"), ("anonymous_id", f"a{n}")]) for n in range(5)]
    history, steps = steps_of([*five, (8, [("user_id", "u"), ("anonymous_id", "new")])], weekly())
    assert ("anonymous_id", "new") in partition_of(history, steps)
    history, steps = steps_of([*five, (6, [("user_id", "u"), ("anonymous_id", "new")])], weekly())
    assert ("anonymous_id", "new") not in partition_of(history, steps)
    assert [reason for _, reason in steps[5].refused] == [TIME_LIMIT]


def test_AE4_7_a_profile_that_took_in_a_hundred_takes_in_no_more() -> None:
    rules = Rules.of(IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=500),)))
    separate = [(n * 0.001, [("anonymous_id", f"a{n}")]) for n in range(102)]
    linked = [(1 + n * 0.001, [("anonymous_id", "a0"), ("anonymous_id", f"a{n}")]) for n in range(1, 102)]
    history, steps = steps_of([*separate, *linked], rules)
    assert sum(len(step.merged) for step in steps) == 100
    assert steps[-1].profile == steps[0].profile and steps[-1].merged == ()
    assert [reason for _, reason in steps[-1].refused] == [MERGE_CAP]
    assert partition_of(history, steps)["anonymous_id", "a101"] == 101


def test_a_profile_with_a_thousand_identifiers_takes_no_more() -> None:
    rules = Rules.of(IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=5000),)))
    history, steps = steps_of([(n, [("user_id", "u"), ("anonymous_id", f"a{n}")]) for n in range(1001)], rules)
    assert len(partition_of(history, steps)) == 1000
    assert [reason for _, reason in steps[-1].refused] == [MAPPING_CAP]
    assert steps[-1].profile == steps[0].profile


def test_types_rank_as_documented_unless_the_space_says_otherwise() -> None:
    def order(settings: IdentitySettings, *kinds: str) -> list[str]:
        rules = Rules.of(settings)
        return sorted(kinds, key=lambda kind: rules.rule(kind).rank)

    kinds = ("zeta", "ga_client_id", "email", "owl_card", "anonymous_id", "user_id")
    assert order(IdentitySettings(), *kinds) == ["user_id", "email", "anonymous_id", "ga_client_id", "owl_card", "zeta"]
    given = IdentitySettings(identifiers=(IdentifierRule(type="owl_card", priority=1), IdentifierRule(type="email", priority=9)))
    assert order(given, "email", "owl_card", "user_id")[0] == "user_id"
    assert order(given, "email", "owl_card", "anonymous_id") == ["owl_card", "anonymous_id", "email"]
