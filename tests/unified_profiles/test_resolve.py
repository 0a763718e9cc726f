"""Identity resolution in bulk gives what it gives entry by entry; and Segment's documented examples."""

from __future__ import annotations

import datetime as dt

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.models.settings import IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.free import resolve
from cdp_assets.unified_profiles.identifiers import Rules
from cdp_assets.unified_profiles.merges import Merges
from cdp_assets.unified_profiles.numbers import (
    MAPPING_CAP,
    MERGE_CAP,
    NO_IDENTIFIERS,
    NO_PROFILE,
    REASONS,
    REMOVAL_REFUSED,
    SEPARATED,
    SHARED_DEVICE,
    TIME_LIMIT,
    VALUE_LIMIT,
    Entries,
    Outcome,
    Policy,
    State,
)
from cdp_assets.unified_profiles.resolve import replay

DAY = 86_400_000_000
REMOVAL = "removal"
Event = tuple[float, list[tuple[str, str]]]


class History:
    """Events as (days after the start, identifiers); an identifier list that begins with REMOVAL removes the one after it."""

    def __init__(self, events: list[Event], identity: IdentitySettings | None = None, **policy) -> None:
        self.identifiers = sorted({i for _, members in events for i in members if i != (REMOVAL, "")})
        number = {identifier: place for place, identifier in enumerate(self.identifiers)}
        self.types = tuple(sorted({kind for kind, _ in self.identifiers}))
        members = [[number[i] for i in found if i != (REMOVAL, "")] for _, found in events]
        self.entries = Entries(
            seq=np.arange(1, len(events) + 1, dtype=np.int64) * 10,
            at=np.array([round(days * DAY) for days, _ in events], dtype=np.int64),
            removes=np.array([found[:1] == [(REMOVAL, "")] for _, found in events], dtype=np.bool_),
            starts=np.cumsum([0, *map(len, members)]).astype(np.int64),
            members=np.array([i for found in members for i in found], dtype=np.int64),
        )
        separations = tuple(
            (frozenset(number[i] for i in one if i in number), frozenset(number[i] for i in other if i in number))
            for one, other in policy.pop("separations", ())
        )
        identity = identity or IdentitySettings()
        self.policy = Policy.of(
            Rules.of(identity),
            self.types,
            devices=identity.device_types,
            separate_devices=identity.shared_devices == "separate",
            separations=separations,
            **policy,
        )
        self.kinds = np.array([self.types.index(kind) for kind, _ in self.identifiers], dtype=np.int64)

    @property
    def start(self) -> State:
        return State.empty(self.kinds)

    def part(self, first: int, last: int) -> Entries:
        e = self.entries
        starts = e.starts[first : last + 1]
        return Entries(
            e.seq[first:last], e.at[first:last], e.removes[first:last], starts - starts[0], e.members[starts[0] : starts[-1]]
        )

    def partition(self, outcome: Outcome) -> dict[tuple[str, str], int]:
        """Identifier -> number of the event that created the profile that holds it at the end."""
        state = after(self.entries, self.start, outcome)
        return {i: int(p) // 10 - 1 for i, p in zip(self.identifiers, state.owner, strict=True) if p != NO_PROFILE}

    def refused(self, outcome: Outcome) -> list[tuple[int, tuple[str, str] | None, str]]:
        return [
            (e, self.identifiers[i] if i >= 0 else None, REASONS[reason])
            for e, i, reason in zip(*(column.tolist() for column in outcome.refused), strict=True)
        ]


def after(entries: Entries, state: State, outcome: Outcome) -> State:
    """The state that the outcome leaves."""
    merges = Merges.of((state.profiles, state.profiles), entries.seq[outcome.created], outcome.merged)
    canonical = merges.canonical()
    owner, attached = state.owner.copy(), state.attached.copy()
    steps = [(e, 1, i, p) for e, i, p in zip(*(c.tolist() for c in outcome.attached), strict=True)]
    steps += [(e, 0, i, NO_PROFILE) for e, i, _ in zip(*(c.tolist() for c in outcome.removed), strict=True)]
    for e, _, i, p in sorted(steps):
        owner[i], attached[i] = p, entries.at[e]
    held = owner != NO_PROFILE
    owner[held] = canonical[merges.places(owner[held])]
    taken = dict(zip(state.profiles.tolist(), state.merges.tolist(), strict=True))
    for _, loser, winner in zip(*(c.tolist() for c in outcome.merged), strict=True):
        taken[winner] = taken.get(winner, 0) + taken.pop(loser, 0) + 1
    alive = np.unique(owner[held])
    return State(state.kinds, owner, attached, alive, np.array([taken.get(p, 0) for p in alive.tolist()], dtype=np.int64))


def plain(outcome: Outcome, offset: int = 0) -> dict:
    """An outcome for comparison; steps within an entry in one order."""

    def steps(columns) -> list[tuple]:
        return sorted((e + offset, *rest) for e, *rest in zip(*(c.tolist() for c in columns), strict=True))

    return {
        "profile": outcome.profile.tolist(),
        "kept": outcome.kept.tolist(),
        "created": [e + offset for e in outcome.created.tolist()],
        **{name: steps(getattr(outcome, name)) for name in ("merged", "attached", "removed", "refused")},
    }


KINDS = ["user_id", "email", "anonymous_id", "ios.id"]
pairs = st.tuples(st.sampled_from(KINDS), st.sampled_from("abcdefg"))
removal = pairs.map(lambda identifier: [(REMOVAL, ""), identifier])
gap = st.sampled_from([0, 0.1, 0.6, 1, 3, 7, 20, 40])
ordinary = st.tuples(gap, st.lists(pairs, max_size=4, unique=True))
with_removals = st.tuples(gap, st.one_of(*[st.lists(pairs, max_size=4, unique=True)] * 9, removal))
limits = st.fixed_dictionaries(
    {kind: st.tuples(st.integers(1, 8), st.sampled_from(["ever", "ever", "annually", "weekly", "daily"])) for kind in KINDS}
)


@st.composite
def histories(draw) -> History:
    """Many small worlds of identifiers in one history, so that free components and others stand side by side."""
    limit, order = draw(limits), draw(st.permutations(KINDS))
    worlds = draw(st.integers(1, 4))
    kind = draw(st.sampled_from([ordinary, with_removals]))
    days, events = 0.0, []
    for number, (wait, members) in enumerate(draw(st.lists(kind, max_size=40))):
        days += wait
        world = str(number % worlds)
        events.append((days, [m if m[0] == REMOVAL else (m[0], m[1] + world) for m in members]))
    identity = IdentitySettings(
        identifiers=tuple(
            IdentifierRule(type=k, limit=limit[k][0], window=limit[k][1], priority=order.index(k) + 1) for k in KINDS
        ),
        shared_devices=draw(st.sampled_from(["merge", "separate"])),
    )
    sides = draw(st.sampled_from([(), (([("user_id", "a0")], [("email", "b0"), ("anonymous_id", "c0")]),)]))
    caps = draw(st.sampled_from([(100, 1000), (100, 1000), (1, 1000), (2, 4), (100, 3)]))
    return History(events, identity, separations=sides, max_merges=caps[0], max_mappings=caps[1])


@settings(max_examples=700, deadline=None)
@given(histories())
def test_in_bulk_is_as_one_by_one(history: History) -> None:
    assert plain(resolve(history.entries, history.start, history.policy)) == plain(
        replay(history.entries, history.start, history.policy)
    )


@settings(max_examples=400, deadline=None)
@given(histories(), st.data())
def test_in_parts_is_as_in_one_go(history: History, data) -> None:
    size = len(history.entries)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
    state, parts = history.start, []
    for first, last in zip([0, *cuts], [*cuts, size], strict=True):
        entries = history.part(first, last)
        outcome = resolve(entries, state, history.policy)
        parts.append(plain(outcome, first))
        state = after(entries, state, outcome)
    whole = plain(replay(history.entries, history.start, history.policy))
    assert {name: [row for part in parts for row in part[name]] for name in whole} == whole


def one_by_one_and_in_bulk(history: History) -> Outcome:
    outcome = resolve(history.entries, history.start, history.policy)
    assert plain(outcome) == plain(replay(history.entries, history.start, history.policy))
    return outcome


def test_AE4_1_a_second_user_with_a_shared_email_is_a_new_profile_without_it() -> None:
    history = History([(0, [("user_id", "a"), ("email", "e")]), (1, [("user_id", "b"), ("email", "e")])])
    outcome = one_by_one_and_in_bulk(history)
    assert history.partition(outcome) == {("user_id", "a"): 0, ("email", "e"): 0, ("user_id", "b"): 1}
    assert history.refused(outcome) == [(1, ("email", "e"), VALUE_LIMIT)]


def test_AE4_2_a_sixth_anonymous_id_resolves_but_is_not_attached() -> None:
    history = History([(n, [("user_id", "u"), ("anonymous_id", f"a{n}")]) for n in range(6)])
    outcome = one_by_one_and_in_bulk(history)
    assert outcome.profile[5] == outcome.profile[0]
    assert ("anonymous_id", "a5") not in history.partition(outcome)
    assert [reason for _, _, reason in history.refused(outcome)] == [VALUE_LIMIT]


WEEKLY = IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=5, window="weekly"),))


def test_AE4_3_identifiers_attached_before_the_window_do_not_count() -> None:
    five = [(0.0, [("user_id", "u"), ("anonymous_id", f"a{n}")]) for n in range(5)]
    history = History([*five, (8, [("user_id", "u"), ("anonymous_id", "new")])], WEEKLY)
    assert ("anonymous_id", "new") in history.partition(one_by_one_and_in_bulk(history))
    history = History([*five, (6, [("user_id", "u"), ("anonymous_id", "new")])], WEEKLY)
    outcome = one_by_one_and_in_bulk(history)
    assert ("anonymous_id", "new") not in history.partition(outcome)
    assert [reason for _, _, reason in history.refused(outcome)] == [TIME_LIMIT]


def test_AE4_7_a_profile_that_took_in_a_hundred_takes_in_no_more() -> None:
    many = IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=500),))
    separate = [(n * 0.001, [("anonymous_id", f"a{n}")]) for n in range(102)]
    linked = [(1 + n * 0.001, [("anonymous_id", "a0"), ("anonymous_id", f"a{n}")]) for n in range(1, 102)]
    history = History([*separate, *linked], many)
    outcome = one_by_one_and_in_bulk(history)
    assert len(outcome.merged[0]) == 100
    assert outcome.profile[-1] == outcome.profile[0]
    assert [reason for _, _, reason in history.refused(outcome)] == [MERGE_CAP]
    assert history.partition(outcome)["anonymous_id", "a101"] == 101


def test_a_profile_with_a_thousand_identifiers_takes_no_more() -> None:
    many = IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=5000),))
    history = History([(n, [("user_id", "u"), ("anonymous_id", f"a{n}")]) for n in range(1001)], many)
    outcome = one_by_one_and_in_bulk(history)
    assert len(history.partition(outcome)) == 1000
    assert [reason for _, _, reason in history.refused(outcome)] == [MAPPING_CAP] * 2
    assert outcome.profile[-1] == outcome.profile[0]


def test_a_long_chain_of_merges_is_resolved_in_bulk() -> None:
    many = IdentitySettings(identifiers=(IdentifierRule(type="anonymous_id", limit=500),))
    chain = [(n, [("anonymous_id", f"a{n}")]) for n in range(90)]
    chain += [(100 + n, [("anonymous_id", f"a{n}"), ("anonymous_id", f"a{n + 1}")]) for n in reversed(range(89))]
    history = History(chain, many)
    outcome = one_by_one_and_in_bulk(history)
    assert len(outcome.merged[0]) == 89 and history.refused(outcome) == []


SEPARATE = IdentitySettings(shared_devices="separate")
TABLET = [
    (0.0, [("user_id", "ann"), ("anonymous_id", "tablet")]),
    (1.0, [("email", "bob@x"), ("anonymous_id", "tablet")]),
    (2.0, [("anonymous_id", "tablet")]),
]


def test_a_shared_device_joins_persons_unless_devices_are_separate() -> None:
    merged = History(TABLET)
    assert set(merged.partition(one_by_one_and_in_bulk(merged)).values()) == {0}
    separate = History(TABLET, SEPARATE)
    outcome = one_by_one_and_in_bulk(separate)
    assert separate.partition(outcome) == {("user_id", "ann"): 0, ("anonymous_id", "tablet"): 0, ("email", "bob@x"): 1}
    assert separate.refused(outcome) == [(1, ("anonymous_id", "tablet"), SHARED_DEVICE)]
    assert outcome.profile[2] == outcome.profile[0]


def test_two_devices_of_different_persons_follow_the_first_by_rank() -> None:
    events = [
        (0.0, [("user_id", "ann"), ("anonymous_id", "a")]),
        (1.0, [("user_id", "bob"), ("ios.id", "b")]),
        (2.0, [("ios.id", "b"), ("anonymous_id", "a")]),
    ]
    history = History(events, SEPARATE)
    outcome = one_by_one_and_in_bulk(history)
    assert outcome.profile[2] == outcome.profile[0]
    assert history.refused(outcome) == [(2, ("ios.id", "b"), SHARED_DEVICE)]


def test_a_device_of_nobody_known_joins_its_first_person() -> None:
    history = History([(0, [("anonymous_id", "a")]), (1, [("user_id", "u"), ("anonymous_id", "a")])], SEPARATE)
    assert history.partition(one_by_one_and_in_bulk(history)) == {("anonymous_id", "a"): 0, ("user_id", "u"): 0}


def test_separated_identifiers_never_share_a_profile() -> None:
    events = [(0, [("user_id", "u"), ("email", "a@x")]), (1, [("email", "b@x"), ("user_id", "u")]), (2, [("email", "b@x")])]
    history = History(events, separations=(([("email", "a@x")], [("email", "b@x")]),))
    outcome = one_by_one_and_in_bulk(history)
    assert history.refused(outcome) == [(1, ("email", "b@x"), SEPARATED)]
    assert history.partition(outcome) == {("user_id", "u"): 0, ("email", "a@x"): 0, ("email", "b@x"): 2}


def test_an_event_without_an_identifier_left_resolves_to_nobody() -> None:
    one, other = [("email", "a@x")], [("email", "b@x")]
    history = History([(0, [*one, *other])], separations=((one, other),))
    outcome = one_by_one_and_in_bulk(history)
    assert history.refused(outcome) == [(0, ("email", "b@x"), SEPARATED)]
    history = History([(0, [])])
    assert history.refused(one_by_one_and_in_bulk(history)) == [(0, None, NO_IDENTIFIERS)]


def test_a_removed_identifier_is_free_again_and_the_last_user_id_stays() -> None:
    events = [
        (0, [("user_id", "u"), ("email", "e")]),
        (1, [(REMOVAL, ""), ("email", "e")]),
        (2, [(REMOVAL, ""), ("user_id", "u")]),
        (3, [("user_id", "v"), ("email", "e")]),
    ]
    history = History(events)
    outcome = one_by_one_and_in_bulk(history)
    assert history.partition(outcome) == {("user_id", "u"): 0, ("user_id", "v"): 3, ("email", "e"): 3}
    assert history.refused(outcome) == [(2, ("user_id", "u"), REMOVAL_REFUSED)]


def test_types_rank_as_documented_unless_the_space_says_otherwise() -> None:
    def order(settings: IdentitySettings, *kinds: str) -> list[str]:
        rules = Rules.of(settings)
        return sorted(kinds, key=lambda kind: rules.rule(kind).rank)

    kinds = ("zeta", "ga_client_id", "email", "owl_card", "anonymous_id", "user_id")
    assert order(IdentitySettings(), *kinds) == ["user_id", "email", "anonymous_id", "ga_client_id", "owl_card", "zeta"]
    given = IdentitySettings(identifiers=(IdentifierRule(type="owl_card", priority=1), IdentifierRule(type="email", priority=9)))
    assert order(given, "email", "owl_card", "user_id")[0] == "user_id"
    assert order(given, "email", "owl_card", "anonymous_id") == ["owl_card", "anonymous_id", "email"]
    assert Policy.of(Rules.of(WEEKLY), ("anonymous_id",)).window == (dt.timedelta(days=7) // dt.timedelta(microseconds=1),)
