"""A space's activation tests: cases that hold pass, a mapping that changes makes them fail at their line, with the difference."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdp_assets.activation_payloads.unit_tests import failing_cases
from cdp_assets.cli import app
from cdp_assets.space.space import SpaceError
from resources.space_folder import load

SPACES = Path(__file__).parents[2] / "spaces"


@pytest.fixture
def owl_bank(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SPACES / "owl_bank", tmp_path / "owl_bank"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def line_of(file: Path, text: str) -> int:
    return next(n for n, line in enumerate(file.read_text().splitlines(), start=1) if text in line)


def said(directory: Path) -> list[str]:
    return [f"{problem.file}:{problem.line} {problem.message}" for problem in failing_cases(load(directory))]


@pytest.mark.parametrize("name", sorted(path.name for path in SPACES.iterdir() if (path / "tests").is_dir()))
def test_the_cases_of_every_space_pass(name: str) -> None:
    space = load(SPACES / name)
    assert sum(len(tests.cases) for tests in space.tests.values()) > 0
    assert failing_cases(space) == []


def test_a_changed_mapping_fails_the_cases_that_it_changes_and_names_the_difference(owl_bank: Path) -> None:
    edit(owl_bank / "activations/overdue_contacts.yaml", "accounts[0].account_id", "accounts[1].account_id")
    cases = owl_bank / "tests/overdue_contacts.yaml"
    assert said(owl_bank) == [
        f"tests/overdue_contacts.yaml:{line_of(cases, 'the first overdue account is named')} case 'the first overdue account is "
        "named': the payload differs, - expected, + made: "
        '-     "Overdue_Account__c": "A1"; +     "Overdue_Account__c": "A2"',
        f"tests/overdue_contacts.yaml:{line_of(cases, 'who has paid')} case 'who has paid is no longer flagged': the payload "
        'differs, - expected, + made: -     "Overdue_Account__c": "A1"',
    ]


def test_a_case_that_is_withheld_for_another_reason_or_not_at_all_fails(owl_bank: Path) -> None:
    cases = owl_bank / "tests/overdue_contacts.yaml"
    edit(cases, "email: not an address", "email: ada@example.com")
    edit(owl_bank / "tests/overdue_card_alerts.yaml", "withheld: no_identifier", "withheld: invalid")
    alerts = line_of(owl_bank / "tests/overdue_card_alerts.yaml", "without an e-mail")
    assert said(owl_bank) == [
        f"tests/overdue_card_alerts.yaml:{alerts} case 'without an e-mail address there is nobody to write to': "
        "expected to be withheld (invalid), and it is no_identifier",
        f"tests/overdue_contacts.yaml:{line_of(cases, 'an address that is none')} case 'an address that is none is not sent': "
        "expected to be withheld (invalid), and it is sent",
    ]


def test_one_payload_too_few_fails_and_a_refusal_says_why(owl_bank: Path) -> None:
    alerts = owl_bank / "tests/overdue_card_alerts.yaml"
    edit(alerts, "            - {card_id: C2, product: basic, overdue_amount: 80, due_date: 2026-10-03}\n", "")
    edit(owl_bank / "tests/overdue_contacts.yaml", "    withheld: invalid", "    expect: {Cdp_Id__c: u1}")
    found = said(owl_bank)
    assert [line.split(" ")[0] for line in found] == [
        f"tests/overdue_card_alerts.yaml:{line_of(alerts, 'two overdue cards')}",
        f"tests/overdue_contacts.yaml:{line_of(owl_bank / 'tests/overdue_contacts.yaml', 'an address that is none')}",
    ]
    assert '-     "Overdue_Card_Id__c": "C2"' in found[0]
    assert found[1].endswith("withheld: invalid (Email is not an email)")


def test_validate_runs_them(owl_bank: Path, tmp_path: Path) -> None:
    arguments = ["validate", "--space", str(owl_bank), "--home", str(tmp_path / "home")]
    passed = CliRunner().invoke(app, arguments)
    assert (passed.exit_code, "activation tests pass: 5" in passed.stdout) == (0, True)
    edit(owl_bank / "activations/overdue_contacts.yaml", "$.traits.first_name", "$.traits.last_name")
    failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 1
    assert "case 'the first overdue account is named'" in failed.stdout.replace("\n", " ")


def test_cases_of_an_event_stream_go_through_its_condition_and_mapping(tmp_path: Path) -> None:
    mural = Path(shutil.copytree(SPACES / "mural", tmp_path / "mural"))
    edit(mural / "activations/qualified_leads.yaml", 'name = "Enterprise"', 'name = "Home"')
    cases = mural / "tests/qualified_leads.yaml"
    found = said(mural)
    assert [line.split(" ")[0] for line in found] == [
        f"tests/qualified_leads.yaml:{line_of(cases, 'another page')}",
        f"tests/qualified_leads.yaml:{line_of(cases, 'nobody knows')}",
    ]
    assert '+     "page": "Home"' in found[0]
    assert found[1].endswith("expected to be withheld (no_identifier), and it is sent")


def test_events_are_not_personalised_with_computed_traits(tmp_path: Path) -> None:
    mural = Path(shutil.copytree(SPACES / "mural", tmp_path / "mural"))
    edit(mural / "activations/qualified_leads.yaml", "traits: [first_name,", "traits: [boards_created_30d, first_name,")
    with pytest.raises(
        SpaceError, match="'boards_created_30d' is a computed trait, and events are personalised with traits of identify"
    ):
        load(mural)
