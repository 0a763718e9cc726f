"""Values that conditions compare with instead of constants, audiences of entities, and the limits of a build, by example."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp_assets.linked_audiences import partition
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.linked_audiences.warehouse_check import check_audiences
from cdp_assets.space import references
from cdp_assets.space.load import load_space
from cdp_assets.space.space import SpaceError
from resources.warehouse import TableRef, TableSpec, Warehouse
from resources.warehouse.duckdb import open_duckdb
from tests.linked_audiences.bank import bank, bank_space, build, context, members, one_group, where
from tests.people import ago

MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"


def refers(name: str, operator: str, **reference: str) -> dict[str, object]:
    return {"column": name, "operator": operator, "reference": reference}


def test_columns_compare_with_their_own_row_with_rows_above_and_with_traits(duckdb_warehouse: Warehouse) -> None:
    world = bank(
        accounts=[(1, "p@x", "gold", 5.0), (2, "p@x", "silver", 50.0), (3, "q@x", "gold", 9.0)],
        cards=[(10, 1, True, 7, 1), (11, 2, True, 60, 2), (30, 3, True, 9, 3), (31, 3, True, None, 4)],
        payments=[("x", "1", 6), ("y", "2", 6), ("z", "3", 100)],
    )
    for person, limit in (("P", "55.5"), ("Q", "none")):
        world.profile(person, email=f"{person.lower()}@x")
        world.trait(person, "limit", limit)
        world.trait(person, "plan", "gold")
    world.write(duckdb_warehouse)

    def cards(*filters: dict[str, object], **more: object) -> dict[str, object]:
        return {
            "with_entity": "accounts",
            "nested": {"conditions": [{"with_entity": "cards", "where": {"all": filters}, **more}]},
        }

    paid = {"with_entity": "payments", "where": {"all": [refers("amount", "greater_than", column="BALANCE", of="accounts")]}}
    none_above = {
        "without_entity": "cards",
        "where": {"all": [refers("amount", "greater_than", column="balance", of="accounts")]},
    }
    made = bank_space(
        one_group("own_row", cards(refers("serial", "less_than", column="Amount"))),
        one_group("parent", cards(refers("amount", "greater_than", column="balance", of="accounts"))),
        one_group("trait", cards(refers("amount", "less_than", trait="limit"))),
        one_group("text_trait", {"with_entity": "accounts", "where": {"all": [refers("kind", "equals", trait="plan")]}}),
        one_group("grandparent", cards(refers("amount", "differs", trait="limit"), nested={"conditions": [paid]})),
        one_group("all_without", {"with_entity": "accounts", "exactly": 1, "nested": {"conditions": [none_above]}}),
    )
    assert {key: result.error for key, result in build(duckdb_warehouse, made).items()} == dict.fromkeys(made.audiences)
    assert context(duckdb_warehouse, made, "own_row") == [
        ("P", "accounts", "1", None),
        ("P", "accounts", "2", None),
        ("P", "accounts:cards", "10", "1"),
        ("P", "accounts:cards", "11", "2"),
        ("Q", "accounts", "3", None),
        ("Q", "accounts:cards", "30", "3"),
    ]
    assert context(duckdb_warehouse, made, "parent") == [
        ("P", "accounts", "1", None),
        ("P", "accounts", "2", None),
        ("P", "accounts:cards", "10", "1"),
        ("P", "accounts:cards", "11", "2"),
    ]
    assert context(duckdb_warehouse, made, "trait") == [("P", "accounts", "1", None), ("P", "accounts:cards", "10", "1")]
    assert context(duckdb_warehouse, made, "text_trait") == [("P", "accounts", "1", None), ("Q", "accounts", "3", None)]
    assert context(duckdb_warehouse, made, "grandparent") == [
        ("P", "accounts", "1", None),
        ("P", "accounts:cards", "10", "1"),
        ("P", "accounts:cards:payments", "x", "10"),
    ], "a trait that is no number differs from no number"
    assert members(duckdb_warehouse, made, "all_without") == ["Q"]


def test_properties_compare_with_traits_of_their_person(duckdb_warehouse: Warehouse) -> None:
    world = bank()
    for person, usual in (("P", "20"), ("Q", "5"), ("R", None)):
        world.profile(person)
        if usual:
            world.trait(person, "usual", usual)
        world.event(person, "Pay", ago(days=1), {"amount": 10, "plan": "gold"})
        world.trait(person, "plan", "gold" if person == "P" else "silver")
    world.write(duckdb_warehouse)

    def pay(name: str, operator: str, trait: str) -> dict[str, object]:
        return {"with_event": "Pay", "where": {"all": [{"property": name, "operator": operator, "reference": {"trait": trait}}]}}

    made = bank_space(
        one_group("more", pay("amount", "greater_than", "usual")),
        one_group("same_plan", pay("plan", "equals", "plan")),
        one_group("other_plan", pay("plan", "differs", "plan")),
        one_group("not_more", {"without_event": "Pay", "where": pay("amount", "greater_than", "usual")["where"]}),
    )
    build(duckdb_warehouse, made)
    assert {key: members(duckdb_warehouse, made, key) for key in made.audiences} == {
        "more": ["Q"],
        "same_plan": ["P"],
        "other_plan": ["Q", "R"],
        "not_more": ["P", "R"],
    }


def test_an_audience_of_entities_has_their_profiles_and_counts_entities(duckdb_warehouse: Warehouse) -> None:
    world = bank(
        accounts=[(1, "p@x", "checking"), (1, "q@x", "checking"), (2, "p@x", "savings")],
        cards=[(10, 1, True), (11, 1, True), (20, 2, False)],
    )
    for person in ("P", "Q", "R"):
        world.profile(person, email=f"{person.lower()}@x")
    world.trait("R", "vip", "true")
    world.write(duckdb_warehouse)
    overdue = {"with_entity": "cards", "where": where(("overdue", "equals", True))}
    groups = [
        {"conditions": [{"with_entity": "accounts", "nested": {"conditions": [overdue]}}]},
        {"conditions": [{"with_trait": "vip", "operator": "equals", "value": True}]},
    ]
    made = bank_space(
        {"key": "cards", "match": "any", "groups": groups, "target_entity": "accounts:cards"},
        one_group("owners", {"part_of": "cards"}),
    )
    results = build(duckdb_warehouse, made)
    assert results["cards"] == AudienceResult(2, 6, entered=2, target_entities=2, target_pairs=4)
    assert members(duckdb_warehouse, made, "cards") == members(duckdb_warehouse, made, "owners") == ["P", "Q"], (
        "R matches without a card"
    )
    assert results["owners"].target_entities is None


def test_an_audience_that_grows_beyond_the_limit_fails_and_keeps_what_it_had(
    duckdb_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = bank(accounts=[(1, "p@x")])
    world.profile("P", email="p@x")
    world.write(duckdb_warehouse)
    first = {"where": {"all": [{"column": "id", "operator": "equals", "value": 1}]}}
    made = bank_space(one_group("owners", {"with_entity": "accounts"}), one_group("few", {"with_entity": "accounts", **first}))
    monkeypatch.setattr(partition, "MAX_ROWS", 2)
    assert build(duckdb_warehouse, made)["owners"] == AudienceResult(1, 1, entered=1)
    world.tables["accounts"][1].append({**world.tables["accounts"][1][0], "id": 2})
    world.write(duckdb_warehouse)
    results = build(duckdb_warehouse, made)
    failed = results["owners"]
    assert failed.error is not None and failed.error.startswith("members and matched entities are 3 rows together")
    # What was to be written with it is written without it.
    assert results["few"] == AudienceResult(1, 1)
    assert context(duckdb_warehouse, made, "owners") == [("P", "accounts", "1", None)]


# -- what is refused ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "mini"))


def problems(folder: Path) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        load_space(folder)
    return [str(problem) for problem in caught.value.problems]


def test_more_columns_than_a_message_may_carry_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_COLUMNS", 1)
    (problem,) = problems(folder)
    assert problem.startswith("activations/overdue_crm.yaml:")
    assert "audience 'overdue' and this activation read 2 columns and traits; at most 1 are allowed" in problem


def test_an_activation_of_an_audience_of_entities_triggers_on_them(folder: Path) -> None:
    file = folder / "audiences" / "overdue.yaml"
    file.write_text(file.read_text() + 'target_entity: "accounts"\n')
    (problem,) = problems(folder)
    assert (
        "audience 'overdue' is one of entities, and the trigger is not on them (write unit: entity and path: accounts)" in problem
    )


@pytest.fixture
def mini_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    """The database that the smallest space's graph names."""
    with open_duckdb(tmp_path / "mini.duckdb") as warehouse:
        yield warehouse


def test_validation_holds_conditions_against_the_columns_of_the_warehouse(folder: Path, mini_warehouse: Warehouse) -> None:
    columns = {"id": "int64", "email": "string", "opened": "date", "score": "int64", "balance": "float64"}
    mini_warehouse.ensure(TableSpec(TableRef("bank", "accounts"), columns, "accounts", subject=None))
    cards = {"id": "int64", "account_id": "int64", "overdue": "string", "limit": "string", "due": "timestamp"}
    mini_warehouse.ensure(TableSpec(TableRef("bank", "cards"), cards, "cards", subject=None))
    (folder / "audiences" / "typed.yaml").write_text(
        """key: typed
name: Typed
groups:
  - conditions:
      - with_entity: accounts
        where:
          all:
            - {column: OPENED, operator: within_last, amount: 3}
            - {column: SCORE, operator: contains, value: "1"}
            - {column: SCORES, operator: exists}
            - {column: SCORE, operator: equals, value: "1"}
            - {column: BALANCE, operator: at_least, reference: {column: SCORE}}
            - {column: BALANCE, operator: at_least, reference: {column: EMAIL}}
            - {column: BALANCE, operator: at_least, reference: {trait: logins}}
            - {column: EMAIL, operator: equals, reference: {trait: logins}}
        nested:
          conditions:
            - with_entity: cards
              where:
                any:
                  - {column: DUE, operator: greater_than, reference: {column: OPENED, of: accounts}}
                  - {column: DUE, operator: greater_than, reference: {column: CLOSED, of: accounts}}
                  - {column: LIMIT, operator: less_than, reference: {column: SCORE, of: accounts}}
"""
    )
    space = load_space(folder)
    assert [str(problem) for problem in check_audiences(space, mini_warehouse) if problem.file.endswith("typed.yaml")] == [
        "audiences/typed.yaml:9: column SCORE: operator contains does not fit a number column "
        "(use one of equals, differs, less_than, at_most, greater_than, at_least, one_of, none_of, exists, absent, "
        "or give the column another type in a view)",
        "audiences/typed.yaml:10: entity account (accounts): no column SCORES (columns: id, email, opened, score, balance)",
        "audiences/typed.yaml:11: column SCORE: operator equals does not fit a number column and a text value "
        "(write a value of the column's type, or give the column another type in a view)",
        "audiences/typed.yaml:13: column BALANCE: operator at_least does not compare a number value with a text value "
        "(compare values of one type: numbers, dates, times or texts)",
        "audiences/typed.yaml:15: column EMAIL: operator equals does not compare a text value with a number value "
        "(compare values of one type: numbers, dates, times or texts)",
        "audiences/typed.yaml:22: entity account (accounts): no column CLOSED (columns: id, email, opened, score, balance)",
        "audiences/typed.yaml:23: column LIMIT: operator less_than does not fit a text column compared with a reference "
        "(use one of equals, differs, contains, omits, starts_with, ends_with, or give the column another type in a view)",
    ]
    others = [str(problem) for problem in check_audiences(space, mini_warehouse) if problem.file.endswith("overdue.yaml")]
    assert len(others) == 1 and "column OVERDUE: operator greater_than does not fit a text column" in others[0]


def test_a_reference_to_another_branch_is_refused_at_the_build_too(duckdb_warehouse: Warehouse) -> None:
    bank().write(duckdb_warehouse)
    made = bank_space(
        one_group("lost", {"with_entity": "accounts", "where": {"all": [refers("kind", "equals", column="plan", of="offers")]}})
    )
    assert build(duckdb_warehouse, made)["lost"].error == "column kind (accounts): there is no offers on this branch"
