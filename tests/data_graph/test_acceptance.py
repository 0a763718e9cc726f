"""The acceptance examples of the data graph, AE1.1 to AE1.6."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import ibis
import pytest
import sqlglot
from sqlglot import exp
from typer.testing import CliRunner

from cdp_assets.cli import app
from cdp_assets.dagster_support import TAG_AS_OF, asset_key
from cdp_assets.data_graph.diff import compare
from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import ColumnJoin, ExternalIdJoin, JunctionJoin
from cdp_assets.definitions import build_definitions
from cdp_assets.linked_audiences.sql import audience_sql
from cdp_assets.space.home import Home
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.revisions import audience_revision
from cdp_assets.space.space import Space, SpaceError
from resources.space import load
from resources.warehouse import MissingTableError, TableRef, Warehouse
from resources.warehouse.open import open_warehouse
from tests.data_graph.graphs import CREDIT_CARD, SEED, V1, chain, errors, parsed
from tests.linked_audiences.bank import bank, bank_space, build, context, members, one_group
from tests.people import World
from tests.sensors.conftest import MINI, Stage

NEXT_DAY = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


# -- AE1.1 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["duckdb", "snowflake"])
def test_AE1_1_a_v1_graph_has_four_nodes_and_compiles_to_inner_joins_only(dialect: str) -> None:
    graph = parsed(V1)
    nodes = list(graph.nodes())
    assert [node.path for node in nodes] == ["accounts", "accounts:carts", "accounts:carts:products"]
    assert 1 + max(node.path.count(":") + 1 for node in nodes) == 4
    assert [node.join for node in nodes] == [
        ExternalIdJoin("email", "EMAIL"),
        ColumnJoin("ID", "ACCOUNT_ID"),
        JunctionJoin("DB.CUST.CART_PRODUCT", "ID", "ID", "CART_ID", "SKU", "SKU"),
    ]
    assert graph.profile_type == "segment:materialized"
    assert [entity.enrichment_enabled for entity in graph.entities] == [False, True, False]
    assert [node.relationship.line for node in nodes] == [22, 29, 33]

    nested = {"with_entity": "carts", "nested": {"conditions": [{"with_entity": "products", "at_least": 2}]}}
    conditions = [{"with_entity": "accounts", "at_most": 3, "nested": {"conditions": [nested]}}]
    audience = Audience.model_validate({"key": "a", "name": "A", "groups": [{"conditions": conditions}]})
    space = dataclasses.replace(bank_space(), graph=graph, audiences={"a": audience})
    tree = sqlglot.parse_one(audience_sql(space, "a", dialect, _columns), read=dialect)
    joins = list(tree.find_all(exp.Join))
    beside_entities = [join for join in joins if any(t.db.lower() == "cust" for t in join.parent_select.find_all(exp.Table))]
    assert len(beside_entities) >= 2
    assert {(join.side, join.kind) for join in beside_entities} <= {("", "INNER"), ("", "")}


def _columns(ref: TableRef) -> ibis.Schema:
    names = {
        "account": ["id", "email"],
        "cart": ["id", "account_id"],
        "product": ["sku"],
        "cart_product": ["id", "cart_id", "sku"],
    }
    if ref.schema != "cust":
        raise MissingTableError(str(ref))
    return ibis.schema(dict.fromkeys(names[ref.name], "string"))


# -- AE1.2 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mini(tmp_path: Path) -> Iterator[Stage]:
    shutil.copytree(MINI, tmp_path / "mini")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Stage(tmp_path / "mini", Home(tmp_path / "home"), instance)


def test_AE1_2_seven_nodes_are_refused_six_accepted_and_the_loaded_version_stays(mini: Stage) -> None:
    assert len(list(parsed(chain(6)).nodes())) == 5
    (problem,) = errors(chain(7))
    assert "'r6' is node 7" in problem.message
    assert chain(7).split("\n")[problem.line - 1].strip().startswith('relationship "r6"')

    mini.build("linked_audiences/overdue", ["2026-01-01"])
    mini.tick("data_graph")
    before = dict(mini.cursors)
    (mini.directory / "data_graph.hcl").write_text(chain(7))
    tick = mini.tick("data_graph")
    assert tick.requests == []
    assert "data_graph.hcl" in str(tick.skip)
    assert mini.cursors == before
    with pytest.raises(SpaceError, match="'r6' is node 7"):
        build_definitions(mini.directory, mini.home.root)
    assert {key.path[-1] for key in mini.definitions.resolve_asset_graph().get_all_asset_keys()} >= {"overdue", "active"}


# -- AE1.3, AE1.4 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(mini: Stage) -> Stage:
    """The mini space in a git repository, with an audience that has nothing to do with cards."""
    (mini.directory / "audiences" / "shoppers.yaml").write_text(
        "key: shoppers\nname: Shoppers\ngroups: [{conditions: [{with_entity: home-shop}]}]\n"
    )
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(mini.directory), *command], check=True)
    return mini


def validate(stage: Stage, *more: str) -> tuple[int, list[str]]:
    """Exit code and lines. A space that does not load leaves by the exception that main() prints."""
    result = CliRunner().invoke(app, ["validate", "--space", str(stage.directory), "--home", str(stage.home.root), *more])
    if isinstance(result.exception, SpaceError):
        return 1, str(result.exception).splitlines()
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.splitlines()


def rename_card(stage: Stage) -> None:
    """The entity ``card`` gets another slug; its relationship, and so every path, stays."""
    path = stage.directory / "data_graph.hcl"
    text = path.read_text().replace('entity "card"', 'entity "credit_card"').replace('= "card"', '= "credit_card"')
    path.write_text(text.replace("card.ACCOUNT_ID", "credit_card.ACCOUNT_ID").replace('"card.ID', '"credit_card.ID'))


def confirm(stage: Stage, item: str) -> None:
    path = stage.directory / "space.yaml"
    path.write_text(path.read_text() + f"confirmed_breaking_changes:\n  {item}\n")


def audiences_built(stage: Stage) -> dict[str, str]:
    """Audience -> '' when a run built it now, else what its check says."""
    definitions = build_definitions(stage.directory, stage.home.root)
    keys = {asset_key("mini", "linked_audiences", key) for key in ("overdue", "shoppers")}
    result = (
        definitions.resolve_implicit_global_asset_job_def()
        .get_subset(asset_selection=keys)
        .execute_in_process(
            instance=stage.instance,
            partition_key="2026-01-01",
            tags={TAG_AS_OF: NEXT_DAY.isoformat()},
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    )
    built = {event.asset_key for event in result.get_asset_materialization_events()}
    said = {e.asset_key: e.description or "" for e in result.get_asset_check_evaluations() if e.check_name == "built"}
    return {key.path[-1]: "" if key in built else said[key] for key in keys}


def test_AE1_3_a_renamed_entity_is_refused_and_once_confirmed_fails_its_audience_alone(repository: Stage) -> None:
    with open_warehouse(load(repository.directory), repository.home) as warehouse:
        world = World()
        world.profile("P", email="p@x")
        world.trait("P", "home_shop", "S")
        world.table("accounts", {"id": "int64", "email": "string"}, [{"id": 1, "email": "p@x"}])
        world.table(
            "cards", {"id": "int64", "account_id": "int64", "overdue": "float64"}, [{"id": 1, "account_id": 1, "overdue": 2}]
        )
        world.table("shops", {"id": "int64", "code": "string"}, [{"id": 1, "code": "S"}])
        world.table("purchases", {"id": "int64", "card_id": "int64", "shop_id": "int64"}, [])
        world.write(warehouse)
    assert validate(repository, "--against", "HEAD")[0] == 0

    rename_card(repository)
    code, lines = validate(repository, "--against", "HEAD")
    (refusal,) = [line for line in lines if "breaking change" in line]
    assert code == 1
    assert "definite breaking change: entity 'card' was removed" in refusal
    assert "audience overdue" in refusal
    assert "shoppers" not in refusal

    item = refusal[refusal.index("- {") : refusal.rindex(")")]
    confirm(repository, item)
    code, lines = validate(repository, "--against", "HEAD")
    assert (code, [line for line in lines if "confirmed in space.yaml; they fail at their next run" in line]) == (0, lines[-2:-1])
    built = audiences_built(repository)
    assert built["shoppers"] == ""
    assert "entity card is missing" in built["overdue"]

    # Adapted and looked at: the confirmation goes, and the audience is built again.
    (repository.directory / "space.yaml").write_text((MINI / "space.yaml").read_text())
    assert audiences_built(repository) == {"overdue": "", "shoppers": ""}


def test_AE1_3_a_removed_relationship_fails_its_audience_alone_once_confirmed(repository: Stage) -> None:
    path = repository.directory / "data_graph.hcl"
    text = path.read_text()
    start, end = text.index('      relationship "cards"'), text.index('    relationship "home-shop"')
    path.write_text(text[:start].rstrip() + "\n    }\n\n" + text[end:])
    code, lines = validate(repository)
    assert code == 1
    assert any("audiences/overdue.yaml" in line and "there is no relationship 'cards'" in line for line in lines)
    code, lines = validate(repository, "--against", "HEAD")
    assert code == 1
    assert any("relationship 'accounts:cards' was removed; it hits" in line and "audience overdue" in line for line in lines)
    confirm(repository, '- {relationship: "accounts:cards", change: removed}')
    assert validate(repository)[0] == 0
    assert validate(repository, "--against", "HEAD")[0] == 0
    space = load(repository.directory)
    assert [p.level for p in space.warnings if p.file == "audiences/overdue.yaml"] == ["warning"]
    # Definitions load, with all assets of those that it hits.
    keys = build_definitions(repository.directory, repository.home.root).resolve_asset_graph().get_all_asset_keys()
    assert asset_key("mini", "linked_audiences", "overdue") in keys
    assert asset_key("mini", "destination_syncs", "overdue_crm") in keys


def test_AE1_4_labels_break_nothing_and_make_nothing_stale(repository: Stage) -> None:
    def revisions(space: Space) -> dict[str, str]:
        return {key: audience_revision(space, key) for key in space.audiences}

    before = load(repository.directory)
    for old, new in (('name        = "Card"', 'name = "Plastic"'), ('name           = "Cards"', 'name = "Plastics"')):
        repository.edit("data_graph.hcl", old, new)
    after = load(repository.directory)
    assert compare(before.graph, after.graph) == ()
    assert revisions(before) == revisions(after)
    code, lines = validate(repository, "--against", "HEAD")
    assert (code, lines) == (0, ["mini: the files are valid"])


# -- AE1.5 -------------------------------------------------------------------------------------------------------------


def test_AE1_5_the_seed_loads_with_warnings_and_nests_the_credit_card() -> None:
    graph, problems = parse_graph(SEED % CREDIT_CARD)
    assert graph is not None
    assert {problem.level for problem in problems} == {"warning"}
    assert [problem.line for problem in problems] == [2, 5, 6, 13, 13, 13]
    assert [node.path for node in graph.nodes()] == ["accounts", "accounts:credit-card"]
    node = graph.node("accounts:credit-card")
    assert (node.relationship.name, node.entity.name) == ("Credit Card", "credit_card")
    assert node.join == ColumnJoin("ID", "account_id")
    assert (graph.profile_folder, graph.profile_type) == ("segment", "segment:materialized")


def test_AE1_5_without_the_entity_the_seed_errs_naming_the_line() -> None:
    (problem,) = errors(SEED % "")
    assert (problem.line, problem.message) == (14, "entity 'credit_card' is not defined")


# -- AE1.6 -------------------------------------------------------------------------------------------------------------


def test_AE1_6_an_email_of_two_merged_profiles_attaches_the_account_once(warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x", "checking")])
    world.profile("P", email="p@x")
    world.profile("Q", email="p@x")
    world.merge("Q", "P")
    world.write(warehouse)
    made = bank_space(one_group("owners", {"with_entity": "accounts", "exactly": 1}))
    build(warehouse, made)
    assert members(warehouse, made, "owners") == ["P"]
    assert context(warehouse, made, "owners") == [("P", "accounts", "1", None)]
