"""The rows of identifiers are few, and still tell which value of a type a profile showed last."""

from __future__ import annotations

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.models import IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.identifiers import Identifier, Rules
from cdp_assets.unified_profiles.last_seen import LastSeen
from cdp_assets.unified_profiles.resolve import History, Step, resolve

AT = dt.datetime(2026, 1, 1)
RULES = Rules.of(
    IdentitySettings(identifiers=tuple(IdentifierRule(type=t, limit=50) for t in ("user_id", "email", "anonymous_id")))
)


def run(events: list[list[tuple[str, str]]]) -> tuple[History, list[Step], list[list[int]]]:
    history = History()
    for identifiers in events:
        history.add(tuple(Identifier(*i) for i in identifiers), AT)
    last_seen = LastSeen([i.type for i in history.identifiers])
    steps = list(resolve(history, RULES))
    return history, steps, [last_seen.rows(event, step) if step.profile >= 0 else [] for event, step in enumerate(steps)]


identifiers = st.lists(
    st.tuples(st.sampled_from(["user_id", "email", "anonymous_id"]), st.sampled_from("abcde")), max_size=3, unique=True
)


@settings(max_examples=600, deadline=None)
@given(st.lists(identifiers, max_size=25))
def test_the_newest_rows_of_a_type_are_those_of_the_values_shown_last(events) -> None:
    history, steps, written = run(events)
    shown: dict[tuple[int, str], tuple[int, set[int]]] = {}  # (profile, type) -> (event, values shown then)
    row: dict[int, int] = {}
    owner: dict[int, int] = {}
    for event, step in enumerate(steps):
        for loser in step.merged:
            owner = {i: step.profile if p == loser else p for i, p in owner.items()}
            for kind in ("user_id", "email", "anonymous_id"):
                theirs = shown.pop((loser, kind), (-1, set()))
                shown[step.profile, kind] = max(shown.get((step.profile, kind), (-1, set())), theirs, key=lambda s: s[0])
        owner.update(dict.fromkeys(step.attached, step.profile))
        for kind in {history.identifiers[i].type for i in step.kept}:
            shown[step.profile, kind] = (event, {i for i in step.kept if history.identifiers[i].type == kind})
        assert len(written[event]) == len(set(written[event])), "one row per identifier and event"
        row.update(dict.fromkeys(written[event], event))
        assert all(i in row for i in owner)
        for (profile, kind), (_, values) in shown.items():
            of_kind = [i for i, p in owner.items() if p == profile and history.identifiers[i].type == kind]
            if of_kind:
                newest = max(row[i] for i in of_kind)
                assert {i for i in of_kind if row[i] == newest} == values


def test_an_identifier_shown_again_and_again_has_one_row() -> None:
    _, _, written = run([[("user_id", "u"), ("email", "a")]] * 5)
    assert [len(rows) for rows in written] == [2, 0, 0, 0, 0]


def test_going_back_to_an_old_email_gives_it_a_row() -> None:
    history, _, written = run([[("user_id", "u"), ("email", e)] for e in "abba"])
    assert [[history.identifiers[i].value for i in rows] for rows in written] == [["u", "a"], ["b"], [], ["a"]]
