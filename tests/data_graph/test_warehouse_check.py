"""The data graph against a warehouse: what is missing, what cannot be joined, what is not unique."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import DataGraph
from cdp_assets.data_graph.warehouse_check import check_graph, family
from resources.warehouse import TableRef, TableSpec, Warehouse, dtype_of

TEXT = (Path(__file__).parents[1] / "fixtures/spaces/mini/data_graph.hcl").read_text().replace("mini.bank", "bank")
TABLES = {
    "accounts": {"id": "int64", "email": "string"},
    "cards": {"id": "int64", "account_id": "int64", "overdue": "float64"},
    "shops": {"id": "int64", "code": "string"},
    "purchases": {"id": "int64", "card_id": "int64", "shop_id": "int64"},
}


def graph() -> DataGraph:
    found, problems = parse_graph(TEXT)
    assert found is not None, problems
    return found


def fill(warehouse: Warehouse, tables: dict[str, dict[str, str]]) -> None:
    for name, columns in tables.items():
        warehouse.ensure(TableSpec(TableRef("bank", name), columns, name, subject=None))


def changed(table: str, **columns: str) -> dict[str, dict[str, str]]:
    return {**TABLES, table: {**TABLES[table], **columns}}


def line(text: str) -> int:
    return next(number for number, content in enumerate(TEXT.split("\n"), 1) if text in content)


def test_a_graph_that_fits_has_no_problems(warehouse: Warehouse) -> None:
    fill(warehouse, TABLES)
    assert check_graph(graph(), warehouse) == ()


def test_missing_tables_and_columns_are_located_at_what_names_them(warehouse: Warehouse) -> None:
    tables = dict(TABLES)
    del tables["purchases"]
    tables["cards"] = {"card": "int64", "overdue": "float64"}
    fill(warehouse, tables)
    found = [(problem.line, problem.message) for problem in check_graph(graph(), warehouse)]
    assert found == [
        (line('entity "card"'), "primary key of entity 'card': table bank.cards has no column ID"),
        (line('relationship "cards"'), "relationship 'cards': table bank.cards has no column ACCOUNT_ID"),
        (line('relationship "shops"'), "relationship 'shops': table bank.cards has no column ID"),
        (
            line('relationship "shops"'),
            f"table bank.purchases of relationship 'shops' (junction) does not exist in the {warehouse.dialect} warehouse",
        ),
    ]


def test_a_missing_entity_table_is_one_error_not_one_for_each_column(duckdb_warehouse: Warehouse) -> None:
    fill(duckdb_warehouse, {name: columns for name, columns in TABLES.items() if name != "cards"})
    (problem,) = check_graph(graph(), duckdb_warehouse)
    assert (problem.line, problem.level) == (line('entity "card"'), "error")
    assert "table bank.cards of entity 'card' does not exist" in problem.message


def test_primary_keys_are_counted_and_never_quoted(warehouse: Warehouse) -> None:
    fill(warehouse, TABLES)
    warehouse.append(TableRef("bank", "cards"), pa.table({"id": [7171, 7171, 7171, 8, None, None], "account_id": [1] * 6}))
    problems = check_graph(graph(), warehouse)
    assert {(problem.line, problem.level) for problem in problems} == {(line('entity "card"'), "warning")}
    assert [problem.message for problem in problems] == [
        "primary key ID of entity 'card' is not unique: 4 rows have 2 values",
        "primary key ID of entity 'card' is null in 2 rows",
    ]
    assert "7171" not in " ".join(str(problem) for problem in problems)


@pytest.mark.parametrize(("table", "column", "relationship"), [("accounts", "email", "accounts"), ("shops", "code", "home-shop")])
def test_a_numeric_key_on_an_identifier_or_trait_is_cast_with_a_warning(
    duckdb_warehouse: Warehouse, table: str, column: str, relationship: str
) -> None:
    fill(duckdb_warehouse, changed(table, **{column: "int64"}))
    (problem,) = check_graph(graph(), duckdb_warehouse)
    assert (problem.line, problem.level) == (line(f'relationship "{relationship}"'), "warning")
    assert "cast to text explicitly" in problem.message


@pytest.mark.parametrize(
    ("table", "column", "kind", "phrase"),
    [
        ("accounts", "email", "timestamp", "identifier email, which is text, with bank.accounts.EMAIL, which is date"),
        ("cards", "account_id", "date", "bank.accounts.ID, which is number, with bank.cards.ACCOUNT_ID, which is date"),
        ("purchases", "card_id", "boolean", "bank.cards.ID, which is number, with bank.purchases.CARD_ID, which is boolean"),
    ],
)
def test_join_keys_that_cannot_be_compared_are_errors(
    duckdb_warehouse: Warehouse, table: str, column: str, kind: str, phrase: str
) -> None:
    fill(duckdb_warehouse, changed(table, **{column: kind}))
    (problem,) = check_graph(graph(), duckdb_warehouse)
    assert problem.level == "error"
    assert phrase in problem.message


@pytest.mark.parametrize(
    ("table", "column", "phrase"),
    [
        ("cards", "account_id", "bank.accounts.ID, which is number, with bank.cards.ACCOUNT_ID, which is text"),
        ("purchases", "shop_id", "bank.purchases.SHOP_ID, which is text, with bank.shops.ID, which is number"),
    ],
)
def test_a_number_that_is_joined_with_a_text_is_a_warning(
    duckdb_warehouse: Warehouse, table: str, column: str, phrase: str
) -> None:
    fill(duckdb_warehouse, changed(table, **{column: "string"}))
    (problem,) = check_graph(graph(), duckdb_warehouse)
    assert problem.level == "warning"
    assert phrase in problem.message


def test_numbers_of_different_width_join(duckdb_warehouse: Warehouse) -> None:
    fill(duckdb_warehouse, changed("cards", account_id="float64"))
    assert check_graph(graph(), duckdb_warehouse) == ()


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("decimal(18, 2)", "number"),
        ("int8", "number"),
        ("string", "text"),
        ("boolean", "boolean"),
        ("date", "date"),
        ("json", "json"),
    ],
)
def test_a_type_has_a_family(kind: str, word: str) -> None:
    assert family(dtype_of(kind)) == word


def test_the_files_name_is_the_callers(duckdb_warehouse: Warehouse) -> None:
    alone = dataclasses.replace(graph(), relationships=())
    assert {problem.file for problem in check_graph(alone, duckdb_warehouse, "other.hcl")} == {"other.hcl"}
    assert len(check_graph(alone, duckdb_warehouse)) == 3
