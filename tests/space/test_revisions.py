"""What makes something stale, and what does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_assets.space.load import load_space
from cdp_assets.space.revisions import (
    audience_revision,
    audience_slice,
    definition_revision,
    definition_slice,
    explain_revision_change,
    model_revision,
    trait_revision,
    trait_slice,
)
from cdp_assets.space.space import Space

MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"

Edit = Callable[[str, str, str], Space]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """The smallest space after replacing a text in one of its files."""
    directory = Path(shutil.copytree(MINI, tmp_path / "mini"))

    def edit(file: str, old: str, new: str) -> Space:
        text = (directory / file).read_text()
        assert old in text
        (directory / file).write_text(text.replace(old, new))
        return load_space(directory)

    return edit


def revisions(space: Space) -> dict[str, str]:
    return {
        **{f"trait {key}": trait_revision(space, key) for key in space.traits},
        **{f"audience {key}": audience_revision(space, key) for key in space.audiences},
        **{f"model {key}": model_revision(space, key) for key in space.models},
        **{f"activation {key}": definition_revision(space, key) for key in space.activations},
    }


def changed_by(edited: Edit, file: str, old: str, new: str) -> set[str]:
    before, after = revisions(load_space(MINI)), revisions(edited(file, old, new))
    return {key for key in before if before[key] != after[key]}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("data_graph.hcl", 'name           = "Accounts"', 'name           = "All accounts"'),
        ("data_graph.hcl", 'name        = "Card"', 'name        = "Credit card"\n    description = "plastic"'),
        ("data_graph.hcl", 'entity "account" {', '# a comment moves the lines\n\n  entity "account" {'),
        ("data_graph.hcl", "mini.bank.cards", "MINI.BANK.CARDS"),
        ("audiences/overdue.yaml", "key: overdue\nname: Overdue", "name: Overdue!\nkey: overdue\ndescription: new"),
        ("audiences/overdue.yaml", "key: overdue", "key: overdue\nschedule: {every: 15m}\nowner: team:x"),
        ("audiences/overdue.yaml", "- with_entity: accounts", "- at_least: 1\n        with_entity: accounts"),
        (
            "audiences/overdue.yaml",
            "{column: OVERDUE, operator: greater_than, value: 0}",
            "{value: 0, operator: greater_than, column: overdue}",
        ),
        ("traits/balance.yaml", "FROM bank.accounts", "FROM   bank.accounts -- all of them"),
        ("traits/logins.yaml", "name: Logins", "name: Sign-ins\ndescription: how often"),
        ("activations/overdue_crm.yaml", "first_run: baseline", "first_run: send\nschedule: {every: 1h}\nretry_for_days: 3"),
        ("space.yaml", "schedule: {every: 1h}", "schedule: {every: 4h}"),
    ],
)
def test_labels_order_layout_and_schedules_make_nothing_stale(edited: Edit, file: str, old: str, new: str) -> None:
    """AE1.4: a label edit is never breaking, and no consumer runs again."""
    assert changed_by(edited, file, old, new) == set()


def test_a_join_key_makes_exactly_its_dependants_stale(edited: Edit) -> None:
    changed = changed_by(edited, "data_graph.hcl", "account.ID = card.ACCOUNT_ID", "account.ID = card.OWNER_ID")
    # 'active' asks for membership in 'overdue'; the model reads its table; the activation sends it.
    assert changed == {"audience overdue", "audience active", "model accounts", "activation overdue_crm"}


def test_a_join_on_another_branch_spares_the_rest(edited: Edit) -> None:
    assert changed_by(edited, "data_graph.hcl", 'join_key = "CODE"', 'join_key = "NUMBER"') == {"audience active"}


def test_a_node_below_the_conditions_is_nobodys_business(edited: Edit) -> None:
    assert changed_by(edited, "data_graph.hcl", "SHOP_ID = shop.ID", "SHOP = shop.ID") == set()


def test_a_computed_trait_makes_the_audiences_and_activations_that_read_it_stale(edited: Edit) -> None:
    assert changed_by(edited, "traits/logins.yaml", "last: 30", "last: 31") == {"trait logins", "audience active"}


def test_a_personalised_trait_makes_the_activation_stale(edited: Edit) -> None:
    changed = changed_by(edited, "traits/balance.yaml", "SUM(balance)", "MAX(balance)")
    assert changed == {"trait balance", "activation overdue_crm"}


def test_a_mapping_is_the_activations_alone(edited: Edit) -> None:
    changed = changed_by(edited, "activations/overdue_crm.yaml", "$.context.traits.email", "$.properties.email")
    assert changed == {"activation overdue_crm"}


def test_consent_is_no_part_of_the_definition(edited: Edit) -> None:
    edited(
        "space.yaml",
        "  - {id: Advertising, name: Advertising}",
        "  - {id: Advertising, name: Advertising}\n  - {id: Other, name: Other}",
    )
    space = edited("activations/overdue_crm.yaml", "[Advertising]", "[Advertising, Other]")
    assert definition_revision(space, "overdue_crm") == definition_revision(load_space(MINI), "overdue_crm")


def test_a_profile_folder_makes_all_that_reads_people_stale(edited: Edit) -> None:
    changed = changed_by(edited, "data_graph.hcl", "mini.profiles", "mini.people")
    assert changed == set(revisions(load_space(MINI)))


def test_a_change_is_named(edited: Edit) -> None:
    before = load_space(MINI)
    after = edited("data_graph.hcl", "account.ID = card.ACCOUNT_ID", "account.ID = card.OWNER_ID")
    old, new = audience_slice(before, "overdue"), audience_slice(after, "overdue")
    assert explain_revision_change(old, new) == ["node accounts:cards: join.right changed from account_id to owner_id"]
    assert explain_revision_change(audience_slice(before, "active"), audience_slice(after, "active")) == [
        "audience overdue changed"
    ]
    assert explain_revision_change(old, old) == []


def test_a_changed_condition_is_named_by_its_place_without_its_operand(edited: Edit) -> None:
    before = load_space(MINI)
    after = edited("audiences/overdue.yaml", "value: 0}", "value: 77123}")
    (change,) = explain_revision_change(audience_slice(before, "overdue"), audience_slice(after, "overdue"))
    assert change == "groups[1].conditions[1].nested.conditions[1].where.all[1].value changed"
    assert "77123" not in change


def test_slices_survive_json(edited: Edit) -> None:
    space = edited("audiences/overdue.yaml", "value: 0}", "value: 2026-01-01}")
    for content in (audience_slice(space, "overdue"), trait_slice(space, "balance"), definition_slice(space, "overdue_crm")):
        assert explain_revision_change(json.loads(json.dumps(content)), content) == []
