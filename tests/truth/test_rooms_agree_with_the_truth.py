"""Generated data through raw_events and unified_profiles: what the rooms find is what the truth file says, at two instants."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from cdp_assets.generate import generate
from cdp_assets.raw_events.build import build_window
from cdp_assets.raw_events.intake import take_in
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from cdp_assets.space.time import windows
from cdp_assets.unified_profiles.build import build_profiles
from cdp_assets.unified_profiles.tables import consent_as_of, identifiers_as_of, traits_as_of
from resources.warehouse.duckdb import open_duckdb
from tests.truth import expected_operations as expected

SPACES = Path(__file__).parents[2] / "spaces"
END = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


@pytest.mark.parametrize("name", ["mural", "owl_bank"])
def test_the_rooms_find_the_people_of_the_truth(tmp_path: Path, name: str) -> None:
    space, home = load_space(SPACES / name), Home(tmp_path)
    with open_duckdb(home.warehouse_file(name)) as warehouse:
        accepted = duplicates = quarantined = 0
        for more in (None, "1d"):
            made = generate(space, warehouse, home, profiles=250, days=7, seed=11, end=END, more=more)
            fresh = [window for window in windows(space.config, made.end) if window.end > made.start]
            take_in(warehouse, home.landing(name), loaded_at=made.end)
            counts = build_window(warehouse, space.config, fresh, made.end).values()
            accepted += sum(count.accepted for count in counts)
            duplicates += sum(count.duplicates for count in counts)
            quarantined += sum(count.quarantined for count in counts)
            truth = expected.read_truth(tmp_path, name)
            totals = truth["totals"]
            assert (accepted, duplicates, quarantined) == (
                totals["accepted"],
                totals["duplicates"],
                sum(totals["malformed"].values()),
            )

            built = build_profiles(warehouse, space.config, space.graph, made.end, made.end, "run")
            assert built.profiles == expected.profiles_at(truth, made.end)
            assert built.merges == expected.merges_at(truth, made.end)
            assert built.violations == truth["refused"] + truth["unresolved"]

            people = expected.People(truth, made.end)
            rows = warehouse.arrow(identifiers_as_of(warehouse, space.graph, made.end)).to_pylist()
            profile_of = {(row["type"], row["value"]): row["canonical_segment_id"] for row in rows}
            profiles: dict[str, set[str]] = {}
            for identifier, person in people.person_of.items():
                profiles.setdefault(person, set()).add(profile_of[identifier])
            assert all(len(found) == 1 for found in profiles.values()), "a person is split"
            assert len(set.union(*profiles.values())) == len(profiles), "two persons are one profile"

            person_of = {found.pop(): person for person, found in profiles.items()}
            consent: dict[str, dict[str, str]] = {}
            for row in warehouse.arrow(consent_as_of(warehouse, space.graph, made.end)).to_pylist():
                if person := person_of.get(row["canonical_segment_id"]):
                    consent.setdefault(person, {})[row["category"]] = row["value"]
            states = {person: people.latest(truth["persons"][person]["consent"]).get("state") for person in person_of.values()}
            assert consent == {person: state for person, state in states.items() if state}
            assert any("conflict" in state.values() for state in consent.values())

            traits: dict[str, dict[str, str]] = {}
            for row in warehouse.arrow(traits_as_of(warehouse, space.graph, made.end)).to_pylist():
                if person := person_of.get(row["canonical_segment_id"]):
                    traits.setdefault(person, {})[row["name"]] = row["value"]
            for person in person_of.values():
                told = {name: value for name, value in people.traits(person).items() if name != "at"}
                assert {name: traits.get(person, {}).get(name) for name in told} == told
