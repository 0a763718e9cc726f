"""A space folder is read whole: everything that is wrong with it at once, each with its place, and never a traceback."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cdp_assets.activation_payloads.mapping_kit import validate_mapping
from cdp_assets.raw_events.tables import EVENTS_SCHEMA
from cdp_assets.space.load import load_space
from cdp_assets.space.models.audiences import EntityCondition, TraitCondition
from cdp_assets.space.space import OWN_SCHEMAS, Problem, Space, SpaceError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MINI = FIXTURES / "spaces" / "mini"
BROKEN = sorted((FIXTURES / "broken_spaces").iterdir())


def problems_of(directory: Path) -> tuple[Problem, ...]:
    with pytest.raises(SpaceError) as caught:
        load_space(directory, validate_mapping)
    return caught.value.problems


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the smallest space, to be edited."""
    return Path(shutil.copytree(MINI, tmp_path / "mini"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_smallest_space_loads() -> None:
    space = load_space(MINI, validate_mapping)
    assert space.name == "mini"
    assert [node.path for node in space.graph.nodes()] == ["accounts", "accounts:cards", "accounts:cards:shops", "home-shop"]
    assert list(space.traits) == ["balance", "logins"]
    assert list(space.audiences) == ["active", "overdue"]
    assert space.models["accounts"].query.startswith("SELECT id")
    assert space.models["accounts"].depends_on == ("overdue",)
    kinds = [type(condition) for condition in space.audiences["active"].groups[0].conditions]
    assert kinds[0] is TraitCondition
    assert kinds[2] is EntityCondition
    assert space.warnings == ()


@pytest.mark.parametrize("directory", BROKEN, ids=lambda path: path.name)
def test_a_broken_space_names_every_problem_and_nothing_else(directory: Path) -> None:
    problems = problems_of(directory)
    found = [f"{problem.file}:{problem.line} {problem.message}" for problem in problems]
    assert found == (directory / "expected.txt").read_text().splitlines()
    assert all(problem.remedy and problem.level == "error" for problem in problems)


def test_there_are_broken_spaces_of_every_kind() -> None:
    assert len(BROKEN) == 24


def test_a_problem_prints_as_place_message_and_remedy() -> None:
    problem = Problem("space.yaml", 3, "'x' is wrong", "correct it")
    assert str(problem) == "space.yaml:3: 'x' is wrong (correct it)"


def test_a_missing_folder_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    assert "no such folder" in problems_of(tmp_path / "nothing")[0].message


def test_a_file_with_an_error_does_not_make_its_references_dangle(copied: Path) -> None:
    edit(copied / "audiences" / "overdue.yaml", "greater_than", "greater")
    assert [problem.file for problem in problems_of(copied)] == ["audiences/overdue.yaml"]


def test_a_broken_graph_does_not_hide_errors_elsewhere(copied: Path) -> None:
    edit(copied / "data_graph.hcl", 'version = "v1.0.0"', 'version = "v9"')
    edit(copied / "traits" / "logins.yaml", "event: Login", "evnt: Login")
    assert [problem.file for problem in problems_of(copied)] == ["data_graph.hcl", "traits/logins.yaml"]


def test_a_secret_in_the_file_is_a_warning_that_does_not_quote_it(copied: Path) -> None:
    edit(copied / "space.yaml", "${CRM_SECRET:-sandbox}", "hunter2")
    (warning,) = load_space(copied).warnings
    assert (warning.line, warning.level) == (19, "warning")
    assert "client_secret" in warning.message
    assert "hunter2" not in str(warning)


@pytest.mark.parametrize("value", ["/data/${WHERE}", "${WHERE}", "${WHERE:-landing}"])
def test_paths_may_come_from_the_environment(copied: Path, value: str) -> None:
    edit(copied / "space.yaml", "start_date:", f"landing: {value}\nstart_date:")
    assert load_space(copied).config.landing == value


def test_a_trigger_on_entities_that_must_be_absent_is_a_warning(copied: Path) -> None:
    edit(copied / "activations" / "overdue_crm.yaml", "audience: overdue", "audience: active")
    edit(copied / "activations" / "overdue_crm.yaml", "accounts:cards", "home-shop")
    warnings = load_space(copied).warnings
    assert [warning.line for warning in warnings] == [6, 10]
    assert "matches no entities" in warnings[0].message


def test_an_audience_nested_deeper_than_six_nodes_is_refused(copied: Path) -> None:
    nested = "{with_entity: f}"
    for slug in ("e", "d", "c", "b", "accounts"):
        nested = f"{{with_entity: {slug}, nested: {{conditions: [{nested}]}}}}"
    (copied / "audiences" / "deep.yaml").write_text(f"key: deep\nname: Deep\ngroups:\n  - conditions:\n      - {nested}\n")
    messages = [problem.message for problem in problems_of(copied)]
    assert any("nested 7 deep" in message for message in messages)
    assert sum("no relationship" in message for message in messages) == 1


def test_a_block_scalar_query_is_located_by_its_own_lines(copied: Path) -> None:
    edit(copied / "traits" / "balance.yaml", "FROM bank.accounts", "FROM hidden.accounts")
    assert [(problem.file, problem.line) for problem in problems_of(copied)] == [("traits/balance.yaml", 8)]


def test_windows_line_ends_and_a_byte_order_mark_are_read(copied: Path) -> None:
    for name in ("space.yaml", "data_graph.hcl", "models/accounts.sql"):
        file = copied / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_space(copied).name == "mini"


def test_problems_come_in_the_same_order_every_time() -> None:
    directory = BROKEN[6]
    first = problems_of(directory)
    assert first == problems_of(directory) == tuple(sorted(first))


def test_an_instant_without_a_zone_is_utc(copied: Path) -> None:
    edit(
        copied / "audiences" / "overdue.yaml",
        "operator: greater_than, value: 0",
        "operator: after_date, value: 2026-01-01 10:00:00",
    )
    group = load_space(copied).audiences["overdue"].groups[0]
    nested = group.conditions[0].nested.conditions[0]  # type: ignore[union-attr]
    assert nested.where.all[0].value.isoformat() == "2026-01-01T10:00:00+00:00"  # type: ignore[union-attr, index]


def test_the_schemas_that_queries_may_read_are_those_of_the_rooms() -> None:
    space: Space = load_space(MINI)
    assert space.readable_schemas == ("bank", "profiles", *OWN_SCHEMAS)
    rooms = {path.parent.name for path in (FIXTURES.parents[1] / "cdp_assets").glob("*/tables.py")}
    assert set(OWN_SCHEMAS) <= rooms | {EVENTS_SCHEMA}


def test_reference_spaces_load_without_warnings() -> None:
    spaces = [path.parent for path in (FIXTURES.parents[1] / "spaces").glob("*/space.yaml")]
    for directory in sorted(spaces):
        assert load_space(directory, validate_mapping).warnings == (), directory.name


def test_messages_of_the_models_are_split_into_cause_and_remedy(copied: Path) -> None:
    edit(copied / "traits" / "logins.yaml", "event: Login", "event: Login\nfunction: sum")
    (problem,) = problems_of(copied)
    assert re.search("'function' goes with kind aggregation", problem.message)
