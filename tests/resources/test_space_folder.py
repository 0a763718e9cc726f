"""Reading a space folder: not again while no byte has changed, and never with an activation that could not take people back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cdp_assets.space.space import SpaceError
from resources.space_folder import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "spaces" / "mural", tmp_path / "mural"))


def test_a_folder_without_changes_is_not_read_again(folder: Path) -> None:
    first = load(folder)
    os.utime(folder / "space.yaml", (1, 1))
    assert load(folder) is first
    # A new name is looked at, and this one says nothing.
    (folder / "activations" / ".churn_report.yaml.swp").write_text("an editor's")
    again = load(folder)
    assert again is not first
    assert again == first
    assert load(folder) is again


def test_an_edit_a_new_file_and_a_file_less_are_seen_at_once(folder: Path) -> None:
    before = load(folder)
    audience = folder / "audiences" / "board_makers.yaml"
    text = audience.read_text()
    audience.write_text(text.replace("name: Board makers", "name: Makers"))
    assert load(folder).audiences["board_makers"].name != before.audiences["board_makers"].name
    audience.write_text(text)
    assert load(folder) == before
    shutil.copy(folder / "models" / "user_activity.sql", folder / "models" / "again.sql")
    assert set(load(folder).models) == {*before.models, "again"}
    (folder / "models" / "again.sql").unlink()
    assert load(folder) == before
    (folder / "audience").mkdir()
    with pytest.raises(SpaceError, match="did you mean"):
        load(folder)


@pytest.mark.parametrize(
    ("activation", "flag"), [("user_activity", "is_tracked__gc"), ("detractor_contacts", "Nps_Detractor__c")]
)
def test_people_need_a_way_back(folder: Path, activation: str, flag: str) -> None:
    file = folder / "activations" / f"{activation}.yaml"
    lines = file.read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if text.startswith("settings:")]
    file.write_text("\n".join(text.replace(f", flag_field: {flag}", "") for text in lines))
    with pytest.raises(SpaceError) as error:
        load(folder)
    (problem,) = error.value.problems
    assert (problem.file, problem.line) == (f"activations/{activation}.yaml", line)
    assert "settings name no flag_field: who withdraws consent would stay as they are" in problem.message


def test_companies_and_events_need_none(folder: Path) -> None:
    space = load(folder)
    without = {key for key, activation in space.activations.items() if not activation.settings.get("flag_field")}
    assert {"company_statistics", "qualified_leads"} <= without
