"""Profiles of generated people beside who they are: precise where shared devices are kept apart, and what they do where they are not.

The report (``pytest -rP``) is the table of docs/identity.md.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cdp_assets.generate import generate
from cdp_assets.raw_events.build import build_window
from cdp_assets.raw_events.intake import take_in
from cdp_assets.raw_events.tables import MESSAGES
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.space.space import Space
from cdp_assets.space.time import windows
from cdp_assets.unified_profiles.build import build_profiles
from cdp_assets.unified_profiles.measure import Measure, Truth, measure, read_truth
from cdp_assets.unified_profiles.tables import identifiers_as_of
from resources.warehouse.duckdb import open_duckdb
from tests.unified_profiles.naive_identity import NaiveIdentity, places

SPACES = Path(__file__).parents[2] / "spaces"
END = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
PROFILES = int(os.environ.get("CDP_TRUTH_PROFILES", "250"))
SEEDS = [int(seed) for seed in os.environ.get("CDP_TRUTH_SEEDS", "7,11").split(",")]


class World:
    """A generated space: its messages, its truth, and the profiles under either rule."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.space: Space = load_space(SPACES / name)
        self.name, self.seed, self.home = name, seed, Home(folder)
        self.file = self.home.warehouse_file(name)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open_duckdb(self.file) as warehouse:
            made = generate(self.space, warehouse, self.home, profiles=PROFILES, days=10, seed=seed, end=END)
            take_in(warehouse, self.space.config, self.home.landing(name), loaded_at=made.end)
            build_window(warehouse, self.space.config, windows(self.space.config, made.end), made.end)
            self.messages = [_message(row) for row in warehouse.arrow(warehouse.table(MESSAGES.ref)).to_pylist()]
        truth = read_truth(self.home.truth_file(name))
        assert truth is not None
        self.truth: Truth = truth

    def settings(self, shared_devices: str) -> IdentitySettings:
        return self.space.config.identity.model_copy(update={"shared_devices": shared_devices})

    def naive(self, shared_devices: str) -> dict[tuple[str, str], str]:
        """Identifier -> profile, by the rules read event by event."""
        return NaiveIdentity(self.settings(shared_devices), self.space.config.category_ids).live(self.messages).identifiers()

    def built(self, shared_devices: str) -> dict[tuple[str, str], str]:
        """Identifier -> profile, in the tables."""
        config = self.space.config.model_copy(update={"identity": self.settings(shared_devices)})
        with open_duckdb(self.file) as warehouse:
            build_profiles(warehouse, config, self.space.graph, END, END, "run")
            rows = warehouse.arrow(identifiers_as_of(warehouse, self.space.graph, END)).to_pylist()
        return {(row["type"], row["value"]): row["canonical_segment_id"] for row in rows}

    def measured(self, profile_of: dict[tuple[str, str], str]) -> Measure:
        return measure([(*identifier, profile) for identifier, profile in profile_of.items()], self.truth)


def _message(row: dict[str, Any]) -> dict[str, Any]:
    given = {"userId": row["user_id"], "anonymousId": row["anonymous_id"]}
    documents = {name: json.loads(row[name]) for name in ("properties", "traits", "context") if row[name]}
    at = f"{row['received_at'].isoformat()}+00:00"
    return {
        "type": row["type"],
        "messageId": row["message_id"],
        "receivedAt": at,
        **documents,
        **{k: v for k, v in given.items() if v},
    }


@pytest.fixture(
    scope="module", params=[(name, seed) for name in ("owl_bank", "mural") for seed in SEEDS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), *request.param)


def test_with_shared_devices_apart_profiles_are_persons(world: World) -> None:
    found = world.built("separate")
    assert found == world.naive("separate")
    measured = world.measured(found)
    assert measured.precision >= 0.999
    assert measured.wrong_profiles == 0, "no profile holds identifiers of two persons"
    assert measured.found >= 0.99 * measured.reachable > 100, "what a person's messages connect is one profile"


def test_under_the_default_rules_shared_devices_merge_strangers(world: World) -> None:
    found = world.built("merge")
    assert found == world.naive("merge")
    apart, merged = world.measured(world.naive("separate")), world.measured(found)
    assert merged.wrong_profiles > 0 and merged.precision < apart.precision
    for rule, m in (("merge", merged), ("separate", apart)):
        numbers = f"{m.precision:.4f} | {m.recall:.4f} | {m.reachable_recall:.4f} | {m.joined - m.right} | {m.wrong_profiles}"
        print(f"| {world.name} | {world.seed} | {m.identifiers} | {rule} | {numbers} |")


def test_the_truth_of_who_used_what_is_that_of_the_messages(world: World) -> None:
    """Devices that more than one person signs in on, found from the messages alone, are shared in the truth."""
    person_of = {i: next(iter(users)) for i, users in world.truth.persons.items() if i[0] != "anonymous_id"}
    signed_in: dict[tuple[str, str], Counter[str]] = {}
    for message in world.messages:
        found = places(message, world.space.config.identity)
        persons = {person_of[i] for i in found if i in person_of}
        assert len(persons) <= 1
        for identifier in found:
            if identifier[0] == "anonymous_id" and persons:
                signed_in.setdefault(identifier, Counter()).update(persons)
                assert persons <= world.truth.persons[identifier]
    assert sum(len(persons) > 1 for persons in signed_in.values()) > 1, "more than one device is really shared"
    assert all(len(users) == 1 for identifier, users in world.truth.persons.items() if identifier[0] != "anonymous_id")
