"""The rows of identifiers are few, and still tell which value of a type a profile showed last."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.space.models.settings import IdentifierRule, IdentitySettings
from cdp_assets.unified_profiles.free import resolve
from cdp_assets.unified_profiles.last_seen import ShownRows, mapping_rows
from cdp_assets.unified_profiles.numbers import Outcome
from tests.unified_profiles.test_resolve import History

KINDS = ("user_id", "email", "anonymous_id")
PLENTY = IdentitySettings(identifiers=tuple(IdentifierRule(type=t, limit=50) for t in KINDS))


def run(events: list[list[tuple[str, str]]]) -> tuple[History, Outcome, list[list[int]], ShownRows]:
    """The rows of each event, identifiers by number, and what profiles show at the end."""
    history = History([(0.0, members) for members in events], PLENTY)
    outcome = resolve(history.entries, history.start, history.policy)
    rows, shown = mapping_rows(history.entries, outcome, history.start, history.policy, ShownRows.empty())
    written: list[list[int]] = [[] for _ in events]
    for entry, profile, identifier in zip(*(column.tolist() for column in rows), strict=True):
        assert profile == outcome.profile[entry]
        written[entry].append(identifier)
    return history, outcome, written, shown


identifiers = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("abcde")), max_size=3, unique=True)


@settings(max_examples=400, deadline=None)
@given(st.lists(identifiers, max_size=25))
def test_the_newest_rows_of_a_type_are_those_of_the_values_shown_last(events) -> None:
    history, outcome, written, ends = run(events)
    merged = list(zip(*(column.tolist() for column in outcome.merged), strict=True))
    attached = list(zip(*(column.tolist() for column in outcome.attached), strict=True))
    shown: dict[tuple[int, str], tuple[int, set[int]]] = {}  # (profile, type) -> (event, values shown then)
    row: dict[int, int] = {}
    owner: dict[int, int] = {}
    entries = history.entries
    for event in range(len(events)):
        for loser, winner in [(loser, winner) for at, loser, winner in merged if at == event]:
            owner = {i: winner if p == loser else p for i, p in owner.items()}
            for kind in KINDS:
                theirs = shown.pop((loser, kind), (-1, set()))
                shown[winner, kind] = max(shown.get((winner, kind), (-1, set())), theirs, key=lambda s: s[0])
        owner.update({i: profile for at, i, profile in attached if at == event})
        kept = entries.members[entries.starts[event] : entries.starts[event + 1]].tolist()
        for kind in {history.identifiers[i][0] for i in kept}:
            values = {i for i in kept if history.identifiers[i][0] == kind}
            shown[int(outcome.profile[event]), kind] = (event, values)
        assert len(written[event]) == len(set(written[event])), "one row per identifier and event"
        row.update(dict.fromkeys(written[event], event))
        assert all(i in row for i in owner)
        for (profile, kind), (_, values) in shown.items():
            of_kind = [i for i, p in owner.items() if p == profile and history.identifiers[i][0] == kind]
            if of_kind:
                newest = max(row[i] for i in of_kind)
                assert {i for i in of_kind if row[i] == newest} == values
    told = {(p, history.types[k], i, seen) for p, k, i, seen in zip(*(ends[c].tolist() for c in (0, 1, 3, 4)), strict=True)}
    assert told == {(p, k, i, int(entries.seq[event])) for (p, k), (event, values) in shown.items() for i in values}


def test_an_identifier_shown_again_and_again_has_one_row() -> None:
    _, _, written, _ = run([[("user_id", "u"), ("email", "a")]] * 5)
    assert [len(rows) for rows in written] == [2, 0, 0, 0, 0]


def test_going_back_to_an_old_email_gives_it_a_row() -> None:
    history, _, written, _ = run([[("user_id", "u"), ("email", e)] for e in "abba"])
    assert [sorted(history.identifiers[i][1] for i in rows) for rows in written] == [["a", "u"], ["b"], [], ["a"]]
