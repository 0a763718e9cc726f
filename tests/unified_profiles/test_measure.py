"""Precision and recall of profiles: counted in groups, they are those of all pairs one by one."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.unified_profiles.measure import Measure, Truth, markdown, measure, read_truth

_identifier = st.tuples(st.sampled_from(["email", "user_id"]), st.sampled_from("abcdef"))
_parts = st.lists(st.sets(_identifier, min_size=1, max_size=4), max_size=3)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from("PQR"), _parts), st.dictionaries(_identifier, st.sampled_from("xyz")))
def test_counts_are_those_of_all_pairs(parts, held) -> None:
    apart = {person: _joined(of_person) for person, of_person in parts.items()}
    users = {i: {p for p, of in apart.items() for part in of if i in part} for i in held}
    pairs = list(itertools.combinations([i for i in held if users[i]], 2))
    joined = [(a, b) for a, b in pairs if held[a] == held[b]]
    right = [(a, b) for a, b in joined if users[a] & users[b]]
    own = [(a, b) for a, b in pairs if users[a] == users[b] and len(users[a]) == 1]
    reachable = [(a, b) for a, b in own if any({a, b} <= part for of in apart.values() for part in of)]
    found = measure([(*i, profile) for i, profile in held.items()], Truth.of(apart))
    assert found == Measure(
        identifiers=len([i for i in held if users[i]]),
        joined=len(joined),
        right=len(right),
        true=len(own),
        found=len([pair for pair in own if pair in joined]),
        reachable=len(reachable),
        wrong_profiles=len({held[a] for a, b in joined if (a, b) not in right}),
    )


def _joined(parts: list[set]) -> list[set]:
    """Parts of one person are disjoint."""
    found: list[set] = []
    for part in parts:
        meeting = [other for other in found if other & part]
        found = [other for other in found if other not in meeting] + [part.union(*meeting)]
    return found


def test_nothing_joined_is_precise_and_nothing_to_find_is_found() -> None:
    empty = measure([], Truth.of({}))
    assert (empty.precision, empty.recall, empty.reachable_recall) == (1.0, 1.0, 1.0)


def test_the_truth_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert read_truth(tmp_path / "truth.json") is None
    (tmp_path / "truth.json").write_text('{"persons": {"p1": {"parts": [[["email", "e"], ["anonymous_id", "a"]]]}}}')
    truth = read_truth(tmp_path / "truth.json")
    assert truth == Truth.of({"p1": [{("email", "e"), ("anonymous_id", "a")}]})


def test_the_report_shows_the_numbers_and_no_identifier() -> None:
    truth = Truth.of({"p1": [{("email", "e@x"), ("user_id", "secret")}], "p2": [{("email", "f@x")}]})
    report = markdown(measure([("email", "e@x", "s"), ("user_id", "secret", "s"), ("email", "f@x", "s")], truth))
    assert "| precision | 0.3333 | 1 of 3 pairs in one profile |" in report
    image = base64.b64decode(report.partition("base64,")[2].partition(")")[0]).decode()
    assert image.startswith("<svg") and image.count("<rect") == 6 and "0.3333" in image
    assert not any(word in report + image for word in ("e@x", "f@x", "secret", "use_"))
