"""The generator's promises: the same arguments give the same bytes, more continues, and nothing is overwritten."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import duckdb
import pytest

from cdp_assets.generate import GenerateError, generate, stored_end
from cdp_assets.generate.people import MAX_DEVICES
from cdp_assets.space.home import Home
from cdp_assets.space.load import load_space
from resources.warehouse import TableRef, Warehouse
from tests.generate.conftest import END, SPACES, Generate, lines_of

TABLES = {
    "owl_bank": ("bank.accounts", "bank.credit_cards", "bank.transactions"),
    "mural": ("product.users", "product.workspaces", "product.workspace_roles", "billing.accounts"),
}
both = pytest.mark.parametrize("space", sorted(TABLES))


def content(home: Path, space: str) -> dict[str, object]:
    """Everything that a home holds of a space: bytes of files, rows of tables."""
    found: dict[str, object] = {
        str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.suffix in (".gz", ".json")
    }
    with duckdb.connect(str(home / space / f"{space}.duckdb"), read_only=True) as connection:
        for table in TABLES[space]:
            found[table] = connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    return found


@both
def test_the_same_arguments_give_the_same_bytes(make: Generate, tmp_path: Path, space: str) -> None:
    for home in ("one", "two"):
        make(space, home=home)
        make(space, home=home, more="1d")
        make(space, home=home, more="2h")
    assert content(tmp_path / "one", space) == content(tmp_path / "two", space)


def test_another_seed_gives_other_people(make: Generate, tmp_path: Path) -> None:
    emails = []
    for seed in (1, 2):
        make("owl_bank", home=str(seed), seed=seed)
        truth = json.loads((tmp_path / str(seed) / "owl_bank" / "truth.json").read_text())
        emails.append({i["value"] for i in truth["identifiers"] if i["type"] == "email"})
    assert emails[0] and not emails[0] & emails[1]


def test_the_same_call_again_changes_nothing_whatever_the_day(make: Generate, tmp_path: Path) -> None:
    make("owl_bank")
    before = content(tmp_path / "home", "owl_bank")
    again = make("owl_bank", end=END + dt.timedelta(days=3))
    assert not again.created and again.lines == 0 and again.end == END
    assert content(tmp_path / "home", "owl_bank") == before


def test_the_same_call_after_more_does_not_go_back(make: Generate, tmp_path: Path) -> None:
    make("owl_bank")
    make("owl_bank", more="1d")
    before = content(tmp_path / "home", "owl_bank")
    assert make("owl_bank").end == END + dt.timedelta(days=1)
    assert content(tmp_path / "home", "owl_bank") == before


@both
def test_more_adds_files_after_the_stored_end_and_leaves_the_others(make: Generate, tmp_path: Path, space: str) -> None:
    make(space)
    landing = tmp_path / "home" / space / "landing"
    before = lines_of(landing)
    day = make(space, more="1d")
    hours = make(space, more="3h")
    after = lines_of(landing)
    assert {name: after[name] for name in before} == before
    assert day.files == ("2026-11-22.jsonl.gz",)
    assert hours.files == ("2026-11-23T00.jsonl.gz", "2026-11-23T01.jsonl.gz", "2026-11-23T02.jsonl.gz")
    assert set(after) == {*before, *day.files, *hours.files}
    assert stored_end(Home(tmp_path / "home"), space) == END + dt.timedelta(days=1, hours=3)
    assert stored_end(Home(tmp_path / "elsewhere"), space) is None


def test_a_day_that_starts_within_a_day_has_a_file_name_of_its_own(make: Generate) -> None:
    make("mural")
    make("mural", more="6h")
    assert make("mural", more="1d").files == ("2026-11-22T06-1d.jsonl.gz",)


def test_a_day_more_changes_cards_and_consent_and_brings_people(make: Generate, tmp_path: Path) -> None:
    first = make("owl_bank", profiles=200)
    file = tmp_path / "home" / "owl_bank" / "owl_bank.duckdb"
    query = "SELECT card_id, coalesce(overdue_amount, 0) > 0 FROM bank.credit_cards"
    with duckdb.connect(str(file), read_only=True) as connection:
        before = dict(connection.execute(query).fetchall())
    more = make("owl_bank", profiles=200, more="1d")
    with duckdb.connect(str(file), read_only=True) as connection:
        after = dict(connection.execute(query).fetchall())
    assert set(before) <= set(after)
    assert any(not before[card] and after[card] for card in before), "no card became overdue"
    assert any(before[card] and not after[card] for card in before), "no card was paid"
    assert more.people > first.people
    truth = json.loads((tmp_path / "home" / "owl_bank" / "truth.json").read_text())
    withdrawn = [
        person
        for person in truth["persons"].values()
        for earlier, later in zip(person["consent"], person["consent"][1:], strict=False)
        if later["at"] >= "2026-11-22" and earlier["state"]["Advertising"] == "true" and later["state"]["Advertising"] == "false"
    ]
    assert withdrawn


@both
def test_dates_ahead_reach_120_days_past_the_end_and_no_further(make: Generate, tmp_path: Path, space: str) -> None:
    make(space, profiles=900, days=1)
    query = {"owl_bank": "SELECT max(due_date) FROM bank.credit_cards", "mural": "SELECT max(term_end) FROM billing.accounts"}[
        space
    ]
    with duckdb.connect(str(tmp_path / "home" / space / f"{space}.duckdb"), read_only=True) as connection:
        ((last,),) = connection.execute(query).fetchall()
    assert 110 < (last - END.date()).days <= 120


def test_terms_end_on_both_edges_of_the_next_90_days(make: Generate, tmp_path: Path) -> None:
    make("mural")
    with duckdb.connect(str(tmp_path / "home" / "mural" / "mural.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT term_end FROM billing.accounts WHERE arr > 50000 AND engagement <= 40").fetchall()
    assert {0, 90, 91} <= {(row[0] - END.date()).days for row in rows}


def test_amounts_sum_to_the_same_in_any_order(make: Generate, tmp_path: Path) -> None:
    make("owl_bank", profiles=200)
    with duckdb.connect(str(tmp_path / "home" / "owl_bank" / "owl_bank.duckdb"), read_only=True) as connection:
        amounts = [row[0] for row in connection.execute("SELECT overdue_amount FROM bank.credit_cards").fetchall()]
    present = [amount for amount in amounts if amount is not None]
    assert None in amounts and 0.0 in amounts
    assert all(amount * 4 == int(amount * 4) for amount in present)
    assert sum(present) == sum(sorted(present)) == sum(sorted(present, reverse=True))


def test_addresses_and_numbers_are_reserved_ones(make: Generate, tmp_path: Path) -> None:
    for space in TABLES:
        make(space)
        truth = json.loads((tmp_path / "home" / space / "truth.json").read_text())
        for person in truth["persons"].values():
            assert person["phone"].startswith("+44 7700 900") or " 555 01" in person["phone"]
            for email in person["emails"]:
                domain = email.partition("@")[2]
                assert domain.split(".", domain.count(".") - 1)[-1] in ("example.com", "example.org", "example.net")


def test_some_devices_are_shared_and_some_people_have_more_than_a_profile_holds(make: Generate, tmp_path: Path) -> None:
    make("owl_bank", profiles=300, days=14)
    state = json.loads((tmp_path / "home" / "owl_bank" / "generator_state.json").read_text())
    owners: dict[str, set[str]] = {}
    for person in state["people"]:
        for device in person["devices"]:
            owners.setdefault(device["anonymous_id"], set()).add(person["id"])
    assert sum(len(people) > 1 for people in owners.values()) >= 3
    assert any(len(person["devices"]) > MAX_DEVICES for person in state["people"])
    truth = json.loads((tmp_path / "home" / "owl_bank" / "truth.json").read_text())
    assert truth["refused"] > 0 and truth["unresolved"] > 0 and truth["merges"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"more": "1 day"}, "1d or 6h"),
        ({"profiles": 61}, "--profiles 60"),
        ({"seed": 4, "days": 6}, "--days 5, --seed 3"),
    ],
)
def test_what_cannot_be_continued_is_refused_with_a_remedy(make: Generate, given: dict[str, object], message: str) -> None:
    make("owl_bank")
    with pytest.raises(GenerateError, match=message):
        make("owl_bank", **given)


def test_more_without_data_and_days_before_the_start_are_refused(make: Generate) -> None:
    with pytest.raises(GenerateError, match="without --more first"):
        make("owl_bank", more="1d")
    with pytest.raises(GenerateError, match="start_date"):
        make("owl_bank", days=400)
    with pytest.raises(GenerateError, match="at least 1"):
        make("owl_bank", days=0)


def test_a_space_without_a_data_model_names_those_that_have_one(make: Generate) -> None:
    with pytest.raises(GenerateError, match="mural, owl_bank"):
        make("czech_bank")


def test_tables_without_their_state_are_not_overwritten(make: Generate, tmp_path: Path) -> None:
    make("owl_bank")
    (tmp_path / "home" / "owl_bank" / "generator_state.json").unlink()
    with pytest.raises(GenerateError, match="empty home"):
        make("owl_bank")


def test_state_without_its_tables_is_noticed(make: Generate, tmp_path: Path) -> None:
    make("owl_bank")
    (tmp_path / "home" / "owl_bank" / "owl_bank.duckdb").unlink()
    with pytest.raises(GenerateError, match=r"lacks bank\.accounts"):
        make("owl_bank")


def test_entity_tables_can_be_written_and_changed_on_every_engine(warehouse: Warehouse, tmp_path: Path) -> None:
    space, home = load_space(SPACES / "owl_bank"), Home(tmp_path / "home")
    arguments = {"profiles": 12, "days": 1, "seed": 3, "end": END}
    generate(space, warehouse, home, **arguments)
    generate(space, warehouse, home, **arguments, more="1d")
    state = json.loads((home.space("owl_bank") / "generator_state.json").read_text())
    cards = warehouse.arrow(warehouse.table(TableRef("bank", "credit_cards"))).to_pylist()
    assert {card["card_id"]: {**card, "due_date": str(card["due_date"])} for card in cards} == state["model"]["rows"][
        "credit_cards"
    ]
