"""What people see of an audience: its preview, its SQL in four dialects, its conditions in words."""

from __future__ import annotations

import json

import pytest
import sqlglot

from cdp_assets.computed_traits.build import build_traits
from cdp_assets.computed_traits.inline import inline_values
from cdp_assets.linked_audiences.describe import condition_tree
from cdp_assets.linked_audiences.preview import preview
from cdp_assets.linked_audiences.sql import audience_sql
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.space import Space
from resources.warehouse import MissingTableError, TableRef, Warehouse, WarehouseError
from tests.linked_audiences.bank import bank, bank_space, build, members, one_group, where
from tests.people import AS_OF, World, ago, revisions, window

OVERDUE = {
    "key": "overdue",
    "match": "any",
    "groups": [
        {
            "conditions": [
                {
                    "with_entity": "accounts",
                    "at_least": 2,
                    "where": where(("kind", "one_of", ["checking", "savings"]), ("balance", "absent"), match="any"),
                    "nested": {
                        "match": "any",
                        "conditions": [
                            {"with_entity": "cards", "where": where(("overdue", "equals", True))},
                            {"without_entity": "products"},
                        ],
                    },
                },
                {"not_part_of": "idle"},
            ]
        },
        {
            "match": "any",
            "conditions": [
                {"with_trait": "logins", "operator": "at_least", "value": 3},
                {
                    "with_event": "Login",
                    "where": {"all": [{"context": "page.url", "operator": "contains", "value": "it's"}]},
                    "within": {"last": 7},
                },
                {"with_trait": "renewal", "operator": "within_next", "amount": 90},
            ],
        },
    ],
}
IDLE = one_group("idle", {"without_event": "Login", "between": {"from": 10, "to": 1}})
LOGINS = {"key": "logins", "kind": "event_counter", "event": "Login"}


def people() -> tuple[World, Space]:
    world = bank(
        accounts=[(1, "pat@example.com", "checking"), (2, "pat@example.com", "savings")],
        cards=[(10, 1, True), (11, 2, True), (12, 2, False)],
    )
    world.profile("P", email="pat@example.com")
    world.profile("Q", email="quinn@example.com")
    world.event("P", "Login", ago(days=5))
    return world, bank_space(OVERDUE, IDLE, traits=[LOGINS])


def test_a_preview_counts_samples_and_writes_nothing(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    with pytest.raises(ConditionError, match="trait logins has no build"):
        preview(duckdb_warehouse, made, "overdue", AS_OF)
    build_traits(duckdb_warehouse, made, ["logins"], window(made), AS_OF, AS_OF, "run", revisions(made))
    before = duckdb_warehouse.list_tables("linked_audiences"), duckdb_warehouse.list_tables("cdp_scratch")
    found = preview(duckdb_warehouse, made, "overdue", AS_OF)
    assert found.count == 1
    assert found.members == [
        {
            "id": "P",
            "identifiers": {"email": ["xxx@xxxxxxx.xxx"]},
            "entities": {
                "accounts": [
                    {
                        "id": "1",
                        "properties": {"kind": "checking", "balance": None},
                        "entities": {"cards": [{"id": "10", "properties": {"overdue": True}, "entities": {}}]},
                    },
                    {
                        "id": "2",
                        "properties": {"kind": "savings", "balance": None},
                        "entities": {"cards": [{"id": "11", "properties": {"overdue": True}, "entities": {}}]},
                    },
                ]
            },
        }
    ]
    assert "pat@" not in json.dumps(found.to_json()) + found.to_text()
    assert "overdue: 1 member(s)" in found.to_text() and "    cards 10 (overdue True)" in found.to_text()
    assert preview(duckdb_warehouse, made, "overdue", AS_OF, show_personal=True).members[0]["identifiers"] == {
        "email": ["pat@example.com"]
    }
    assert (duckdb_warehouse.list_tables("linked_audiences"), duckdb_warehouse.list_tables("cdp_scratch")) == before
    assert members(duckdb_warehouse, made, "overdue") == []
    assert preview(duckdb_warehouse, made, "idle", AS_OF, sample=0).members == []


def test_a_preview_masks_what_looks_personal_in_columns_counts_target_entities_and_has_a_limit(
    duckdb_warehouse: Warehouse,
) -> None:
    world = bank(accounts=[(1, "pat@example.com"), (2, "pat@example.com"), (2, "quinn@example.com")])
    world.profile("P", email="pat@example.com")
    world.profile("Q", email="quinn@example.com")
    world.write(duckdb_warehouse)
    owned = one_group("owned", {"with_entity": "accounts", "where": where(("owner", "exists"))})
    made = bank_space({**owned, "target_entity": "accounts"})
    found = preview(duckdb_warehouse, made, "owned", AS_OF, sample=1)
    assert (found.count, found.target_entities, found.to_json()["target_entities"]) == (2, 2, 2)
    assert found.members[0]["entities"]["accounts"][0]["properties"] == {"owner": "xxx@xxxxxxx.xxx"}
    assert "owned: 2 member(s) of 2 entities" in found.to_text()
    with pytest.raises(ConditionError, match="at most 3,000 members"):
        preview(duckdb_warehouse, made, "owned", AS_OF, sample=3001)


def test_a_preview_takes_traits_computed_in_place(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "pat@example.com", None, 7.0)])
    world.profile("P", email="pat@example.com")
    world.profile("Q", email="quinn@example.com")
    for days in (1, 2):
        world.event("Q", "Login", ago(days=days))
    world.write(duckdb_warehouse)
    rich = {"key": "rich", "kind": "sql", "identifier": "email", "type": "number"}
    rich["query"] = "SELECT owner AS email, SUM(balance) AS rich FROM bank.accounts GROUP BY owner"
    either = one_group(
        "either",
        {"with_trait": "logins", "operator": "at_least", "value": 2},
        {"with_trait": "rich", "operator": "equals", "value": 7},
        match="any",
    )
    made = bank_space(either, traits=[LOGINS, rich])
    found = preview(duckdb_warehouse, made, "either", AS_OF, inline_traits=inline_values(duckdb_warehouse, made, AS_OF))
    assert (found.count, [member["id"] for member in found.members]) == (2, ["P", "Q"])


def test_the_sql_that_is_shown_runs_and_gives_the_members(duckdb_warehouse: Warehouse) -> None:
    world, made = people()
    world.write(duckdb_warehouse)
    build_traits(duckdb_warehouse, made, ["logins"], window(made), AS_OF, AS_OF, "run", revisions(made))
    build(duckdb_warehouse, made)
    text = audience_sql(made, "overdue", "duckdb", duckdb_warehouse)
    assert duckdb_warehouse._arrow(text).to_pylist() == [{"canonical_segment_id": "P"}]
    assert members(duckdb_warehouse, made, "overdue") == ["P"]


@pytest.mark.parametrize("dialect", ["duckdb", "snowflake", "databricks", "bigquery"])
def test_every_dialect_gets_a_query_of_its_own_with_the_same_column(duckdb_warehouse: Warehouse, dialect: str) -> None:
    world, made = people()
    for name, (columns, _) in world.tables.items():
        world.tables[name] = (columns, [])
    world.write(duckdb_warehouse)
    text = audience_sql(made, "overdue", dialect, duckdb_warehouse, as_of=AS_OF)
    tree = sqlglot.parse_one(text, read=dialect)
    called = {str(node.this).lower() for node in tree.find_all(sqlglot.exp.Anonymous)}
    assert not {name for name in called if name.startswith("cdp_")}, "functions of no dialect"
    quoted = (
        '"BANK"."ACCOUNTS"' if dialect == "snowflake" else '"bank"."accounts"' if dialect == "duckdb" else "`bank`.`accounts`"
    )
    assert quoted in text
    tables = {table.name.lower() for table in tree.find_all(sqlglot.exp.Table)}
    assert {"accounts", "cards", "products", "holdings", "messages", "trait_values"} <= tables


def test_a_query_asks_people_for_what_they_did_before_it_looks_for_their_rows(duckdb_warehouse: Warehouse) -> None:
    cards, login = {"with_entity": "tickets", "at_most": 1}, {"with_event": "Login", "within": {"last": 7}}
    bank().write(duckdb_warehouse)
    made = bank_space(one_group("rows_first", cards, login), one_group("events_first", login, cards))
    texts = [audience_sql(made, key, "duckdb", duckdb_warehouse, as_of=AS_OF) for key in made.audiences]
    assert texts[0] == texts[1]
    assert 0 < texts[0].index("'Login'") < texts[0].index('"tickets"')


def test_sql_needs_no_run_but_names_a_missing_company_table_and_an_unknown_dialect() -> None:
    made = bank_space(one_group("a", {"with_event": "Login"}), one_group("b", {"with_entity": "tickets"}))

    def nothing(ref: TableRef) -> None:
        raise MissingTableError(f"table {ref} is not there")

    assert "'Login'" in audience_sql(made, "a", "snowflake", nothing)
    with pytest.raises(MissingTableError, match=r"bank\.tickets"):
        audience_sql(made, "b", "snowflake", nothing)
    with pytest.raises(WarehouseError, match="dialect oracle is unknown"):
        audience_sql(made, "a", "oracle", nothing)


def test_conditions_read_in_plain_words() -> None:
    made = bank_space(OVERDUE, IDLE, traits=[LOGINS])
    assert condition_tree(made, made.audiences["overdue"]).splitlines() == [
        "any of these groups",
        "├─ group 1: all of these conditions",
        "│  ├─ with at least 2 Accounts (accounts) where",
        "│  │  ├─ any of these conditions",
        '│  │  │  ├─ kind is one of "checking" or "savings"',
        "│  │  │  └─ balance is not set",
        "│  │  └─ any of these conditions",
        "│  │     ├─ with at least 1 Cards (cards) where",
        "│  │     │  └─ overdue is true",
        "│  │     └─ without Products (products)",
        "│  └─ is not in audience idle",
        "└─ group 2: any of these conditions",
        "   ├─ trait logins is at least 3",
        "   ├─ performed Login at least 1 time within the last 7 days",
        '   │  └─ context page.url contains "it\'s"',
        "   └─ trait renewal is within the next 90 days",
    ]
    assert condition_tree(made, made.audiences["idle"]).splitlines() == [
        "all of these conditions",
        "└─ did not perform Login between 10 and 1 days before",
    ]
