"""The desired state of model activations: rows by primary key, people in rows, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from activation_payloads_world import ACCOUNTS, AS_OF, World, activation

from cdp_assets.activation_payloads.payloads import PayloadError, PayloadsResult
from cdp_assets.activation_payloads.tables import PAYLOAD_BUILDS
from cdp_assets.raw_events.suppression import suppress
from cdp_assets.space.models.activations import Activation, SqlModel
from cdp_assets.space.models.settings import IdentitySettings
from resources.warehouse import Warehouse

QUERY = "SELECT id, kind, email, :as_of AS made_at FROM bank.accounts"
NOBODY = {"subject": "none", "reason": "accounts"}


@pytest.fixture
def world(duckdb_warehouse: Warehouse) -> World:
    return World(duckdb_warehouse)


def model_activation(**changes: Any) -> Activation:
    return activation(
        **(
            {
                "audience": None,
                "model": "accounts",
                "settings": {"object": "account", "key_field": "Id"},
                "trigger": {"unit": "row", "when": "mirror"},
                "mapping": {"Id": {"@path": "$.properties.ID"}, "Kind": {"@path": "$.properties.KIND"}},
                "consent": NOBODY,
            }
            | changes
        )
    )


def build(world: World, query: str = QUERY, key: str = "ID", **changes: Any) -> PayloadsResult:
    model = SqlModel(key="accounts", name="Accounts", primary_key=key, query=query)
    return world.build(model_activation(**changes), models={"accounts": model})


def fill(world: World, *rows: tuple[int | None, str, str | None]) -> None:
    world.rows[ACCOUNTS.ref] = [{"id": key, "kind": kind, "email": email} for key, kind, email in rows]


def test_a_row_is_a_unit_and_columns_keep_the_case_of_the_mapping(world: World) -> None:
    fill(world, (2, "savings", None), (1, "checking", None))
    result = build(world)
    assert (result.units, result.ok) == (2, 2)
    first, second = world.stored()
    assert (first["unit"], first["row_key"], first["destination_key"]) == ("1", "1", "1")
    assert first["payload"] == first["exit_payload"] == {"Id": 1, "Kind": "checking"}
    assert first["retract_payload"] == {"Id": 1}
    assert second["payload"] == {"Id": 2, "Kind": "savings"}
    (built,) = world.warehouse.rows(world.warehouse.table(PAYLOAD_BUILDS.ref), 5)
    assert (built["source"], built["source_partition"], json.loads(built["tables"])) == ("accounts", None, {"bank.accounts": 2})


def test_ae7_2_a_row_that_is_gone_is_no_longer_desired(world: World) -> None:
    fill(world, (1, "a", None), (2, "b", None))
    build(world)
    fill(world, (2, "b", None))
    assert build(world).units == 1
    assert list(world.verdicts()) == ["2"]


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([(1, "a", None), (1, "b", None), (2, "c", None)], "1 duplicate and 0 null"),
        ([(1, "a", None), (None, "b", None)], "0 duplicate and 1 null"),
    ],
)
def test_ae7_3_two_rows_of_one_key_fail_the_build_and_change_nothing(world: World, rows: list[Any], counts: str) -> None:
    fill(world, (7, "old", None))
    build(world)
    before = world.stored()
    fill(world, *rows)
    with pytest.raises(PayloadError, match=f"model accounts: primary key ID has {counts} values"):
        build(world)
    assert world.stored() == before


def test_an_instant_in_the_model_is_the_build_s(world: World) -> None:
    fill(world, (1, "a", None))
    build(world, mapping={"Id": {"@path": "$.properties.ID"}, "At": {"@path": "$.properties.made_at"}})
    assert world.stored()[0]["payload"]["At"] == AS_OF.isoformat().replace("+00:00", "Z")


def test_rows_about_people_need_the_consent_of_the_person_that_the_column_names(world: World) -> None:
    world.profile("p1", email="ann@example.com")
    world.profile("p2", email="bo@example.com", consent={})
    fill(world, (1, "a", "ann@example.com"), (2, "b", "bo@example.com"), (3, "c", "nobody@example.com"), (4, "d", None))
    consent = {"subject": {"column": "email", "identifier_type": "email"}, "categories": ["ads"]}
    result = build(world, consent=consent)
    assert world.verdicts() == {"1": "ok", "2": "consent", "3": "no_subject", "4": "no_subject"}
    assert result.withheld == {"consent": 1, "no_subject": 2}
    first = world.stored()[0]
    assert (first["canonical_segment_id"], first["identifiers"]) == ("p1", {"email": "ann@example.com"})
    assert [row["payload"] for row in world.stored()[1:]] == [None, None, None]


def test_a_row_about_a_suppressed_person_is_withheld_by_whatever_identifier_it_names_them(world: World) -> None:
    world.profile("p1", email="ann@example.com", user_id="u1")
    world.profile("p2", email="bo@example.com")
    fill(world, (1, "a", "ann@example.com"), (2, "b", "bo@example.com"))
    suppress(world.warehouse, IdentitySettings(), "user_id", "u1", AS_OF)
    consent = {"subject": {"column": "email", "identifier_type": "email"}, "categories": ["ads"]}
    assert build(world, consent=consent).withheld == {"suppressed": 1}
    assert world.verdicts() == {"1": "suppressed", "2": "ok"}
    assert [row["payload"] is None for row in world.stored()] == [True, False]


def test_only_the_columns_that_are_needed_are_read(world: World) -> None:
    fill(world, (1, "a", "ann@example.com"))
    build(world, mapping={"Id": {"@path": "$.properties.ID"}, "all": {"@literal": {"@path": "$.properties"}}})
    assert set(world.stored()[0]["payload"]["all"]) == {"ID", "id", "kind", "email", "made_at"}
    with pytest.raises(PayloadError, match="model accounts has no column nothing"):
        build(world, mapping={"Id": {"@path": "$.properties.nothing"}})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT id FROM bank.accounts;;SELECT 1", "expected one SELECT"),
        ("SELECT id FROM secret.t", "schema secret is not declared"),
    ],
)
def test_a_query_that_is_not_allowed_is_refused(world: World, query: str, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        build(world, query=query)


def test_a_floating_point_key_is_refused(world: World) -> None:
    fill(world, (1, "a", None))
    with pytest.raises(PayloadError, match="floating-point"):
        build(world, query="SELECT CAST(id AS DOUBLE) AS id, kind FROM bank.accounts")


def test_every_engine_builds_the_same_rows(warehouse: Warehouse) -> None:
    world = World(warehouse)
    world.profile("p1", email="ann@example.com")
    fill(world, (1, "a", "ann@example.com"), (2, "b", None))
    consent = {"subject": {"column": "email", "identifier_type": "email"}, "categories": ["ads"]}
    query = "SELECT id, kind, email FROM bank.accounts"
    assert build(world, query=query, consent=consent).withheld == {"no_subject": 1}
    assert [(row["unit"], row["payload"]) for row in world.stored()] == [("1", {"Id": 1, "Kind": "a"}), ("2", None)]
