"""Who uses the data graph, and how breaking changes are refused, confirmed, and forgotten."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from cdp_assets.activation_payloads.audience_rows import condition_nodes
from cdp_assets.activation_payloads.rules import PayloadError
from cdp_assets.cli_graph import graph_at
from cdp_assets.cli_support import CommandError
from cdp_assets.data_graph.model import MissingNodeError
from cdp_assets.space.breaking import breaking_changes, judge
from cdp_assets.space.confirmed import ConfirmedChange, confirmation
from cdp_assets.space.consumers import consumers_by_entity, consumers_by_node, users_of
from cdp_assets.space.documents import Document, read_yaml
from cdp_assets.space.load import load_space
from cdp_assets.space.space import Space, SpaceError

MINI = Path(__file__).parents[1] / "fixtures" / "spaces" / "mini"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(MINI, tmp_path / "mini")
    return tmp_path / "mini"


def edit(folder: Path, old: str, new: str, file: str = "data_graph.hcl") -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def document(text: str = "") -> Document:
    found, _ = read_yaml(text or "name: mini\n", "space.yaml")
    assert found is not None
    return found


# -- consumers ---------------------------------------------------------------------------------------------------------


def test_consumers_are_named_at_the_nodes_that_they_use() -> None:
    found = {path: [str(one) for one in consumers] for path, consumers in consumers_by_node(load_space(MINI)).items()}
    assert found == {
        "accounts": ["audience overdue", "trait balance"],
        "accounts:cards": ["activation overdue_crm", "audience overdue", "model accounts"],
        "accounts:cards:shops": [],
        "home-shop": ["audience active"],
    }


def test_an_entity_at_several_nodes_has_the_consumers_of_all() -> None:
    found = consumers_by_entity(load_space(MINI))
    assert [str(one) for one in found["shop"]] == ["audience active"]


def test_who_follows_a_consumer_is_hit_through_it(folder: Path) -> None:
    found = users_of(load_space(folder), ["accounts:cards"])
    assert [str(one) for one in found] == [
        "activation overdue_crm",
        "audience overdue",
        "audience active (through audience overdue)",
        "model accounts (through audience overdue)",
    ]
    assert users_of(load_space(folder), ["accounts:cards:shops"]) == ()


def test_queries_are_consumers_of_the_tables_that_they_read(folder: Path) -> None:
    space = load_space(folder)
    assert [str(one) for one in users_of(space, [], ["MINI.BANK.ACCOUNTS"])][-1] == "trait balance"
    assert users_of(space, [], ["other.bank.accounts", "mini.bank.shops"]) == users_of(space, [], ["other.bank.accounts"])


# -- confirmations -----------------------------------------------------------------------------------------------------


def changed(folder: Path, old: str, new: str) -> tuple[Space, Space]:
    before = load_space(folder)
    edit(folder, old, new)
    return before, load_space(folder)


def test_a_change_is_refused_until_its_exact_words_stand_in_the_space(folder: Path) -> None:
    before, after = changed(folder, '"mini.bank.accounts"', '"mini.bank.accounts2"')
    (found,) = breaking_changes(before.graph, after)
    (refused,) = judge([found], [], document())
    assert (refused.level, refused.file, refused.line) == ("error", "data_graph.hcl", 4)
    item = "- {entity: account, change: table_ref, from: mini.bank.accounts, to: mini.bank.accounts2}"
    assert refused.remedy.endswith(item)
    near = ConfirmedChange(entity="account", change="table_ref", from_="mini.bank.accounts", to="mini.bank.accounts3")
    assert [problem.level for problem in judge([found], [near], document())] == ["error", "warning"]
    (known,) = judge([found], [confirmation(found.change)], document())
    assert known.level == "warning"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mini.bank.cards"', '"mini.bank.cards:2"'),
        ("card.ACCOUNT_ID", "card.OWNER"),
        ('primary_key = "ID"', 'primary_key = "KEY"'),
        ('"mini.profiles"', '"mini.people"'),
        ('type           = "segment:materialized"', 'type = "segment:unmaterialized"'),
        ('related_entity = "shop"\n      trait', 'related_entity = "card"\n      trait'),
    ],
)
def test_what_the_refusal_prints_is_read_back_as_the_confirmation(folder: Path, old: str, new: str) -> None:
    before, after = changed(folder, old, new)
    found = breaking_changes(before.graph, after)
    assert found
    items = [confirmation(one.change).text() for one in found]
    edit(folder, "schedule:", "confirmed_breaking_changes:\n  " + "\n  ".join(items) + "\nschedule:", "space.yaml")
    confirmed = load_space(folder).config.confirmed_breaking_changes
    assert [problem.level for problem in judge(found, confirmed, document())] == ["warning"] * len(found)


def test_changes_that_hit_nobody_need_no_confirmation(folder: Path) -> None:
    before, after = changed(folder, '"mini.bank.purchases"', '"mini.bank.sales"')
    assert breaking_changes(before.graph, after) == ()


def test_an_adapted_consumer_is_not_hit(folder: Path) -> None:
    before = load_space(folder)
    edit(folder, 'relationship "home-shop"', 'relationship "shop-at-home"')
    with pytest.raises(SpaceError, match="there is no relationship 'home-shop'"):
        load_space(folder)
    edit(folder, "home-shop", "shop-at-home", "audiences/active.yaml")
    assert breaking_changes(before.graph, load_space(folder)) == ()


def test_confirmations_of_nothing_are_warnings(folder: Path) -> None:
    lines = (
        "confirmed_breaking_changes:\n"
        "  - {entity: card, change: removed, nodes: ['accounts:cards']}\n"
        "  - {relationship: home-shop, change: removed}\n"
        "  - {entity: shop, change: primary_key, from: A, to: B}\n"
        "  - {change: profile_folder, from: old.profiles, to: mini.profiles}\n"
    )
    (folder / "space.yaml").write_text((folder / "space.yaml").read_text() + lines)
    space = load_space(folder)
    first = (folder / "space.yaml").read_text().split("\n").index("confirmed_breaking_changes:") + 2
    said = [(p.line - first, p.message.rpartition(": ")[2]) for p in space.warnings if p.file == "space.yaml"]
    assert said == [(0, "the data graph has it"), (1, "the data graph has it"), (2, "the data graph says ID")]
    # None of them takes anything away.
    assert space.graph.missing == ()
    text = (folder / "space.yaml").read_text()
    found = judge([], space.config.confirmed_breaking_changes, document(text))
    assert [(p.level, p.line - first) for p in found] == [("warning", n) for n in range(4)]


@pytest.mark.parametrize(
    ("item", "cause"),
    [
        ("{change: removed}", "entity"),
        ("{entity: a, relationship: b, change: removed}", "entity"),
        ("{entity: a, change: removed, from: x, to: y}", "from"),
        ("{entity: a, change: table_ref, from: x}", "to"),
        ("{relationship: a, change: removed, nodes: [b]}", "nodes"),
        ("{entity: a, change: profile_type, from: x, to: y}", "entity"),
        ("{entity: a, change: renamed}", "change"),
    ],
)
def test_a_confirmation_that_names_nothing_is_refused_with_its_line(folder: Path, item: str, cause: str) -> None:
    text = (folder / "space.yaml").read_text()
    (folder / "space.yaml").write_text(f"{text}confirmed_breaking_changes:\n  - {item}\n")
    with pytest.raises(SpaceError) as error:
        load_space(folder)
    (problem,) = error.value.problems
    assert problem.line in (text.count("\n") + 2, text.count("\n") + 1)
    assert cause in f"{problem.message} {problem.remedy}"


def test_a_confirmed_removal_takes_the_node_and_what_is_below_away() -> None:
    space = load_space(MINI, judged=[ConfirmedChange(entity="gone", change="removed", nodes=("accounts:cards",))])
    for path in ("accounts:cards", "accounts:cards:shops"):
        with pytest.raises(MissingNodeError, match=r"^entity gone is missing"):
            space.graph.node(path)
    assert space.graph.has("accounts")
    assert not space.graph.has("accounts:nothing")
    assert {(p.file, p.level) for p in space.warnings} >= {("audiences/overdue.yaml", "warning")}


def test_an_activation_fails_that_personalises_from_what_is_gone(folder: Path) -> None:
    edit(folder, '"accounts:cards", columns: [OVERDUE]', '"home-shop", columns: [CODE]', "activations/overdue_crm.yaml")
    before = load_space(folder)
    assert set(condition_nodes(before, before.activations["overdue_crm"])) == {"accounts", "accounts:cards"}
    space = load_space(folder, judged=[ConfirmedChange(entity="gone", change="removed", nodes=("home-shop",))])
    with pytest.raises(PayloadError, match="entity gone is missing"):
        condition_nodes(space, space.activations["overdue_crm"])


# -- git ---------------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t.invalid", *arguments], check=True)


def test_the_graph_of_a_commit_is_read_from_below_the_repositorys_root(folder: Path) -> None:
    git(folder.parent, "init", "-q")
    (folder.parent / "README").write_text("x")
    git(folder.parent, "add", "README")
    git(folder.parent, "commit", "-qm", "without the space")
    assert graph_at(folder, "HEAD") is None
    git(folder.parent, "add", "-A")
    git(folder.parent, "commit", "-qm", "with it")
    git(folder.parent, "tag", "v1")
    expected = load_space(folder).graph
    edit(folder, '"mini.bank.accounts"', '"mini.bank.accounts2"')
    assert graph_at(folder, "v1") == expected
    assert graph_at(folder, "HEAD~1") is None
    (folder / "data_graph.hcl").write_text("data_graph {")
    git(folder.parent, "commit", "-qam", "broken")
    with pytest.raises(CommandError, match=r"the data graph at HEAD does not validate.*HEAD:data_graph.hcl:1:"):
        graph_at(folder, "HEAD")
    for ref in ("no-such", "--help", "HEAD:mini"):
        with pytest.raises(CommandError, match="git knows no commit"):
            graph_at(folder, ref)


def test_without_a_repository_there_is_nothing_to_compare_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    with pytest.raises(CommandError, match="is in no git repository"):
        graph_at(folder, "HEAD")


@pytest.mark.parametrize(("kind", "warned"), [("emial", True), ("email", False), ("ios.idfa", False), ("owl_card", True)])
def test_an_identifier_type_that_nobody_names_is_a_warning_at_its_relationship(folder: Path, kind: str, warned: bool) -> None:
    edit(folder, 'type     = "email"', f'type     = "{kind}"')
    found = [problem for problem in load_space(folder).warnings if "identifier type" in problem.message]
    assert [(problem.file, problem.line, problem.level) for problem in found] == [("data_graph.hcl", 26, "warning")] * warned
    edit(folder, "identity:", "identity:\n  custom: {owl_card: cardNumber}", "space.yaml")
    if kind == "owl_card":
        assert load_space(folder).warnings == ()


def test_spaces_without_confirmations_have_nothing_missing() -> None:
    space = load_space(MINI)
    assert space.graph == dataclasses.replace(space.graph, missing=())
