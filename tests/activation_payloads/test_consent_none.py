"""``subject: none`` is held to its word: by the lineage of what is mapped, and by the values that would be sent."""

from __future__ import annotations

from typing import Any

import pytest
from activation_payloads_world import ACCOUNTS, AS_OF, World, activation, space

from cdp_assets.activation_payloads.consent import identifier_leaks, lineage_problems
from cdp_assets.space.models.activations import Activation, SqlModel
from resources.warehouse import Warehouse


def nobody(*columns: str, **changes: Any) -> Activation:
    return activation(
        **(
            {
                "audience": None,
                "model": "facts",
                "settings": {"object": "thing", "key_field": "k"},
                "trigger": {"unit": "row", "when": "upsert"},
                "mapping": {column: {"@path": f"$.properties.{column}"} for column in columns},
                "consent": {"subject": "none", "reason": "things"},
            }
            | changes
        )
    )


def problems(query: str, *columns: str, key: str = "k", **changes: Any) -> list[str]:
    one = nobody(*columns, **changes)
    return lineage_problems(space(one, models={"facts": SqlModel(key="facts", name="F", primary_key=key, query=query)}), one)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.id AS k, i.value AS v FROM bank.accounts a JOIN profiles.user_identifiers i ON i.value = a.email",
        "SELECT a.id AS k, lower(x.v) || '!' AS v FROM bank.accounts a JOIN (SELECT t.value AS v FROM profiles.user_traits t) x ON true",
        "SELECT a.id AS k, max(t.value_text) AS v FROM bank.accounts a JOIN computed_traits.trait_values t ON true GROUP BY 1",
        "SELECT e.workspace_id AS k, e.user_id AS v FROM events.board_created e",
        "SELECT e.workspace_id AS k, e.context_ip AS v FROM events.board_created e",
        "SELECT a.id AS k, (SELECT max(i.email) FROM events.identifies i) AS v FROM bank.accounts a",
        "SELECT a.id AS k, a.kind AS v FROM bank.accounts a UNION ALL SELECT 1 AS k, i.value AS v FROM profiles.user_identifiers i",
        "WITH x AS (SELECT * FROM events.identifies) SELECT x.workspace_id AS k, x.user_id AS v FROM x",
        "SELECT * FROM profiles.user_identifiers",
    ],
)
def test_a_column_that_comes_from_people_is_refused(query: str) -> None:
    found = problems(query, "k", "v")
    assert found
    assert any("column v of model facts" in text for text in found)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.id AS k, a.kind AS v FROM bank.accounts a",
        "SELECT * FROM bank.accounts",
        "SELECT e.workspace_id AS k, count(DISTINCT e.user_id) AS v FROM events.board_created e GROUP BY 1",
        "SELECT e.workspace_id AS k, CAST(sum(e.n) AS BIGINT) AS v FROM (SELECT b.workspace_id, 1 AS n FROM events.board_created b) e "
        "GROUP BY 1",
        "SELECT a.id AS k, a.kind AS v FROM bank.accounts a JOIN profiles.user_identifiers i ON i.value = a.email",
    ],
)
def test_company_columns_and_counts_of_people_are_allowed(query: str) -> None:
    assert problems(query, "k", "v") == []


def test_a_column_that_is_not_mapped_may_come_from_anywhere_but_the_key_may_not() -> None:
    query = "SELECT a.id AS k, i.value AS v FROM bank.accounts a JOIN profiles.user_identifiers i ON i.value = a.email"
    assert problems(query, "k") == []
    assert problems(query, "k", key="v")


def test_a_mapping_that_takes_the_whole_row_takes_every_column() -> None:
    query = "SELECT a.id AS k, i.value AS v FROM bank.accounts a JOIN profiles.user_identifiers i ON i.value = a.email"
    found = problems(query, mapping={"all": {"@path": "$.properties"}})
    assert found == [
        "column v of model facts comes from profiles.user_identifiers.value, which speaks about people; "
        "use consent subject {column, identifier_type}, or leave it out"
    ]


def test_members_of_an_audience_are_people() -> None:
    one = activation(consent={"subject": "none", "reason": "no"})
    assert lineage_problems(space(one), one) == ["an audience's members are people; use consent subject profile"]
    assert lineage_problems(space(activation()), activation()) == []


def test_a_text_that_equals_an_identifier_is_found_whatever_its_case_and_field(warehouse: Warehouse) -> None:
    world = World(warehouse)
    world.profile("p1", email="ann@example.com", user_id="7")
    world.rows[ACCOUNTS.ref] = [{"id": 7, "kind": "ANN@example.com"}, {"id": 8, "kind": "savings"}, {"id": 9, "kind": "7"}]
    mapping = {"k": {"@path": "$.properties.id"}, "deep": {"kind": {"@path": "$.properties.kind"}}}
    one = nobody(mapping=mapping)
    model = SqlModel(key="facts", name="F", primary_key="id", query="SELECT a.id, a.kind FROM bank.accounts a")
    assert world.build(one, models={"facts": model}).ok == 3
    leaks = identifier_leaks(warehouse, space(one, models={"facts": model}), one, AS_OF)
    assert warehouse.rows(leaks.order_by("unit"), 10) == [
        {"unit": "7", "field": "deep.kind", "identifier_type": "email"},
        {"unit": "9", "field": "deep.kind", "identifier_type": "user_id"},
    ]


def test_a_mapping_without_fields_leaks_nothing(duckdb_warehouse: Warehouse) -> None:
    world = World(duckdb_warehouse)
    one = nobody("k", mapping={})
    world.save()
    from cdp_assets.activation_payloads.tables import PAYLOADS

    duckdb_warehouse.ensure(PAYLOADS)
    assert duckdb_warehouse.count(identifier_leaks(duckdb_warehouse, space(one), one, AS_OF)) == 0
