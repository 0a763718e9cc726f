"""Generated data through the rooms, from landing lines to payloads: what they find is what the truth file says, at two instants."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from cdp_assets.activation_payloads.payloads import build_payloads
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.computed_traits.build import build_traits
from cdp_assets.generate import GenerateResult, generate
from cdp_assets.linked_audiences.build import build_audiences
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.pulled_sources.take_in import take_in as take_in_source
from cdp_assets.raw_events.build import build_window
from cdp_assets.raw_events.event_tables import build_event_tables
from cdp_assets.raw_events.intake import take_in
from cdp_assets.raw_events.suppression import suppressed_among
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from cdp_assets.space.space import Space
from cdp_assets.space.time import window_of, windows
from cdp_assets.unified_profiles.build import build_profiles
from cdp_assets.unified_profiles.tables import consent_as_of, identifiers_as_of, traits_as_of
from resources.destinations import Connection
from resources.sandbox.server import sandbox
from resources.sources.registry import open_reader
from resources.warehouse import Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.truth import expected_operations as expected

SPACES = Path(__file__).parents[2] / "spaces"
END = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


@pytest.mark.parametrize("name", ["mural", "owl_bank"])
def test_the_rooms_find_what_the_truth_says(tmp_path: Path, name: str) -> None:
    space, home = load_space(SPACES / name), Home(tmp_path)
    accepted = duplicates = quarantined = 0
    for more in (None, "1d"):
        with open_duckdb(home.warehouse_file(name)) as warehouse:
            made = generate(space, warehouse, home, profiles=250, days=7, seed=11, end=END, more=more)
            fresh = [window for window in windows(space.config, made.end) if window.end > made.start]
            take_in(warehouse, space.config, home.landing(name), loaded_at=made.end)
            counts = build_window(warehouse, space.config, fresh, made.end).values()
            build_event_tables(warehouse, space.config, fresh, made.end)
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
            person_of = _persons(warehouse, space, people)
            _compare_consent_and_traits(warehouse, space, people, person_of)
            _pull(warehouse, space, home)
            audiences = _build_to_payloads(warehouse, space, made)
            payloads = warehouse.arrow(warehouse.table(PAYLOADS.ref)).to_pylist()
        desired = expected.snapshot(tmp_path, name, made.end)
        for audience, members in desired.members.items():
            assert (audiences[audience].members, audiences[audience].entities) == (len(members), desired.entities[audience])
        for activation, units in desired.units.items():
            found = {_unit(row, person_of): row for row in payloads if row["activation"] == activation}
            assert {unit: row["verdict"] for unit, row in found.items()} == {unit: row.verdict for unit, row in units.items()}
            for unit, row in units.items():
                if row.verdict == expected.OK:
                    payload = json.loads(found[unit]["payload"])
                    assert found[unit]["destination_key"] == row.key
                    assert {field: payload.get(field) for field in row.fields} == row.fields


def _persons(warehouse: Warehouse, space: Space, people: expected.People) -> dict[str, str]:
    """Canonical id -> true person, having checked that persons and profiles are one to one."""
    rows = warehouse.arrow(identifiers_as_of(warehouse, space.graph, people.as_of)).to_pylist()
    profile_of = {(row["type"], row["value"]): row["canonical_segment_id"] for row in rows}
    profiles: dict[str, set[str]] = {}
    for identifier, person in people.person_of.items():
        profiles.setdefault(person, set()).add(profile_of[identifier])
    assert all(len(found) == 1 for found in profiles.values()), "a person is split"
    person_of = {next(iter(found)): person for person, found in profiles.items()}
    assert len(person_of) == len(profiles), "two persons are one profile"
    return person_of


def _compare_consent_and_traits(warehouse: Warehouse, space: Space, people: expected.People, person_of: dict[str, str]) -> None:
    consent: dict[str, dict[str, str]] = {}
    for row in warehouse.arrow(consent_as_of(warehouse, space.graph, people.as_of)).to_pylist():
        if person := person_of.get(row["canonical_segment_id"]):
            consent.setdefault(person, {})[row["category"]] = row["value"]
    states = {person: people.latest(people.persons[person]["consent"]).get("state") for person in person_of.values()}
    assert consent == {person: state for person, state in states.items() if state}
    traits: dict[str, dict[str, str]] = {}
    for row in warehouse.arrow(traits_as_of(warehouse, space.graph, people.as_of)).to_pylist():
        if person := person_of.get(row["canonical_segment_id"]):
            traits.setdefault(person, {})[row["name"]] = row["value"]
    for person in person_of.values():
        told = {name: value for name, value in people.traits(person).items() if name != "at"}
        assert {name: traits.get(person, {}).get(name) for name in told} == told


def _pull(warehouse: Warehouse, space: Space, home: Home) -> None:
    """The tables of pulled sources. Their events land elsewhere: the truth is about the generated ones."""
    for key, source in space.config.pulled_sources.items():
        with sandbox(home.sandbox) as url:
            reader = open_reader(source.type, Connection("sandbox", "sandbox", source.settings, {}, f"{url}/{source.type}"))
            take_in_source(warehouse, key, source, reader, home.root / "elsewhere", suppressed_among)
            reader.close()


def _build_to_payloads(warehouse: Warehouse, space: Space, made: GenerateResult) -> dict[str, AudienceResult]:
    """Every trait, audience and activation of the space; none may fail."""
    window, at = window_of(space.config, made.end), made.end
    traits = build_traits(warehouse, space, list(space.traits), window, at, at, "run", dict.fromkeys(space.traits, "1"))
    assert all(result.error is None and result.rows > 0 for result in traits.values())
    audiences = build_audiences(
        warehouse, space, list(space.audiences), window, at, at, "run", dict.fromkeys(space.audiences, "1")
    )
    assert all(result.built and result.members > 0 for result in audiences.values())
    for key, activation in space.activations.items():
        result = build_payloads(warehouse, space, key, at, window.key if activation.audience else None, "1", "run", at)
        assert not result.problems, (key, result.problems)
        reads = space.models[activation.model].depends_on if activation.model else ()
        if "qualified_leads" not in reads:  # a stream that is filled by a sync, of which there was none
            assert result.sample, f"{key} has nothing to send"
    return audiences


def _unit(row: dict[str, str | None], person_of: dict[str, str]) -> str:
    person = person_of[str(row["canonical_segment_id"])]
    return f"{person}|{row['entity_id']}" if row["entity_id"] else person
