"""Why somebody is in an audience or not, in words: by example."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from random import Random
from typing import Any

import pytest

from cdp_assets.computed_traits.tables import stored_values
from cdp_assets.linked_audiences.build import build_audiences
from cdp_assets.linked_audiences.evidence import counting_query, gather
from cdp_assets.linked_audiences.explanation import Node, Why
from cdp_assets.linked_audiences.tables import SCHEMA
from cdp_assets.linked_audiences.verdicts import Judge
from cdp_assets.linked_audiences.why import why
from cdp_assets.raw_events.suppression import suppress
from cdp_assets.space.builds import record_revision
from cdp_assets.space.models.audiences import EntityCondition, EventCondition
from cdp_assets.space.models.settings import IdentitySettings
from cdp_assets.space.operators import ConditionError
from cdp_assets.space.revisions import audience_revision, audience_slice
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from tests.linked_audiences.bank import bank, bank_space, one_group, where
from tests.linked_audiences.test_oracle import store_logins
from tests.linked_audiences.test_verdicts import oracle_of
from tests.linked_audiences.worlds import town
from tests.people import AS_OF, World, ago, window

OVERDUE = {"with_entity": "cards", "where": where(("overdue", "equals", True))}
CHECKING = {"with_entity": "accounts", "where": where(("kind", "equals", "checking")), "nested": {"conditions": [OVERDUE]}}
DAY = dt.timedelta(days=1)


def people() -> World:
    """P has two accounts, one with an overdue card, through an address of O, who merged into P. Q has an account without cards."""
    world = bank(
        accounts=[(1, "o@x", "checking"), (2, "p@x", "savings"), (3, "q@x", "checking")],
        cards=[(10, 1, True), (11, 1, False), (20, 2, True)],
    )
    world.profile("P", email="p@x", user_id="p")
    world.profile("O", email="o@x")
    world.profile("Q", email="q@x")
    world.merge("O", "P")
    return world


def nodes(root: Node) -> list[Node]:
    return [root, *(node for below in root.below for node in nodes(below))]


def said(found: Why) -> list[tuple[str, bool, int | None, int | None]]:
    return [(node.text, node.holds, node.passing, node.rows) for node in nodes(found.tree)][1:]


def test_a_member_is_explained_by_the_rows_that_decide_and_the_merge_behind_them(warehouse: Warehouse) -> None:
    people().write(warehouse)
    made = bank_space(one_group("overdue", CHECKING))
    found = why(warehouse, made, "overdue", "email:p@x", AS_OF)
    assert (found.profile, found.member, found.lacking) == ("P", True, ())
    assert said(found) == [
        ("with at least 1 Accounts (accounts) where", True, 1, 2),
        ('kind is "checking"', True, 1, 2),
        ("with at least 1 Cards (cards) where", True, 2, 3),
        ("overdue is true", True, 2, 3),
    ]
    assert [str(one) for one in found.cited] == [
        "identifier email x@x (through O, which merged)",
        "row 1 of bank.accounts",
        "row 10 of bank.cards",
    ]


def test_of_somebody_else_it_says_what_would_have_to_hold(warehouse: Warehouse) -> None:
    people().write(warehouse)
    made = bank_space(
        one_group("overdue", CHECKING),
        one_group("two", {"with_entity": "accounts", "at_least": 2}, CHECKING),
        one_group("savings", {"with_entity": "accounts", "where": where(("kind", "equals", "savings"), ("balance", "exists"))}),
    )
    top = "with at least 1 Accounts (accounts)"
    found = why(warehouse, made, "overdue", "Q", AS_OF)
    assert (found.member, found.cited) == (False, ())
    assert found.lacking == (f"{top} › with at least 1 Cards (cards): there are too few at all",)
    found = why(warehouse, made, "two", "Q", AS_OF)
    assert found.lacking == (
        "with at least 2 Accounts (accounts): there are too few at all",
        f"{top} › with at least 1 Cards (cards): there are too few at all",
    )
    assert why(warehouse, made, "savings", "P", AS_OF).lacking == (f"{top} › balance is set",)


def test_a_condition_that_more_rows_would_break_rests_on_a_count_with_its_query(duckdb_warehouse: Warehouse) -> None:
    world = people()
    world.event("P", "Pay", ago(days=1))
    world.write(duckdb_warehouse)
    made = bank_space(
        one_group(
            "few",
            {"with_entity": "accounts", "at_most": 2},
            {
                "with_entity": "accounts",
                "nested": {"conditions": [{"without_entity": "cards", "where": where(("amount", "exists"))}]},
            },
            {"without_event": "Pay", "where": {"all": [{"property": "v", "operator": "exists"}]}},
        )
    )
    found = why(duckdb_warehouse, made, "few", "P", AS_OF)
    counting = [node for node in nodes(found.tree) if node.query]
    assert [(node.text, node.passing) for node in counting] == [
        ("with at most 2 Accounts (accounts)", 2),
        ("without Cards (cards) where", 0),
        ("did not perform Pay", 0),
    ]
    for node in counting:
        assert node.query is not None
        assert len(duckdb_warehouse._arrow(node.query)) == node.passing
    assert [one.kind for one in found.cited] == ["identifier", "row"]
    assert counting[0].query in found.to_text(queries=True)


def test_what_is_personal_is_masked_unless_asked(duckdb_warehouse: Warehouse) -> None:
    world = bank(tickets=[(1, 42, "secret words")], accounts=[(1, "p@x", "checking")])
    world.profile("P", email="p@x", user_id="42")
    world.trait("P", "plan", "a private plan")
    world.write(duckdb_warehouse)
    made = bank_space(
        one_group(
            "all",
            {"with_entity": "tickets", "where": where(("status", "exists"))},
            {"with_trait": "plan", "operator": "differs", "value": "gold"},
            {"with_entity": "accounts", "where": where(("kind", "equals", "checking"))},
        )
    )
    masked = why(duckdb_warehouse, made, "all", "P", AS_OF)
    text = masked.to_text() + json.dumps(masked.to_json())
    assert not [word for word in ("secret", "private", "p@x") if word in text]
    assert "checking" in text, "what the conditions themselves say is no secret"
    shown = why(duckdb_warehouse, made, "all", "P", AS_OF, show_personal=True).to_text()
    assert all(word in shown for word in ("secret words", "private", "p@x"))


def test_an_audience_that_it_refers_to_is_explained_below_it(duckdb_warehouse: Warehouse) -> None:
    people().write(duckdb_warehouse)
    made = bank_space(
        one_group("overdue", CHECKING),
        one_group("calm", {"not_part_of": "overdue"}, {"with_trait": "plan", "operator": "absent"}),
    )
    found = why(duckdb_warehouse, made, "calm", "P", AS_OF)
    assert found.lacking == ("is not in audience overdue",)
    assert ("overdue is true", True, 2, 3) in said(found)
    assert why(duckdb_warehouse, made, "calm", "Q", AS_OF).member


def test_nobody_known_by_that_is_an_error_that_does_not_repeat_it(duckdb_warehouse: Warehouse) -> None:
    people().write(duckdb_warehouse)
    with pytest.raises(ConditionError, match="nobody was known by that as of 2026-01-01T00:00:00Z") as error:
        why(duckdb_warehouse, bank_space(one_group("overdue", CHECKING)), "overdue", "email:secret@x", AS_OF)
    assert "secret" not in str(error.value)


def test_who_is_suppressed_is_in_no_audience_and_it_says_so(duckdb_warehouse: Warehouse) -> None:
    people().write(duckdb_warehouse)
    suppress(duckdb_warehouse, IdentitySettings(), "user_id", "p", AS_OF - DAY)
    found = why(duckdb_warehouse, bank_space(one_group("overdue", CHECKING)), "overdue", "P", AS_OF)
    assert (found.member, found.suppressed, found.cited, found.lacking) == (False, True, (), ())
    assert "suppressed: it is in no audience" in found.to_text()


# -- since an earlier instant ----------------------------------------------------------------------------------------------


def flips(found: Why) -> list[tuple[str, bool, bool, tuple[str, ...]]]:
    assert found.since is not None
    return [(flip.text, flip.was, flip.holds, flip.because) for flip in found.since.flips]


def test_since_names_the_event_that_came(duckdb_warehouse: Warehouse) -> None:
    world = people()
    world.event("Q", "Pay", ago(days=2), received_at=ago(days=1))
    world.write(duckdb_warehouse)
    made = bank_space(one_group("paying", {"with_event": "Pay"}))
    found = why(duckdb_warehouse, made, "paying", "Q", AS_OF, since=AS_OF - 2 * DAY)
    assert found.member and found.since is not None and not found.since.member
    because = ("new: event m00000 at 2025-12-30T00:00:00Z",)
    assert flips(found) == [
        ("all of these conditions", False, True, because),
        ("performed Pay at least 1 time", False, True, because),
    ]


def test_since_names_what_only_time_moved(duckdb_warehouse: Warehouse) -> None:
    world = people()
    world.event("Q", "Pay", ago(days=8))
    world.write(duckdb_warehouse)
    made = bank_space(one_group("paying", {"with_event": "Pay", "within": {"last": 7}}))
    found = why(duckdb_warehouse, made, "paying", "Q", AS_OF, since=AS_OF - 2 * DAY)
    assert not found.member
    assert flips(found)[1][3] == ("now judged otherwise: event m00000 at 2025-12-24T00:00:00Z",)
    assert found.lacking == ("performed Pay at least 1 time within the last 7 days: within that time",)


def test_since_names_the_merge_that_brought_an_identifier(duckdb_warehouse: Warehouse) -> None:
    world = people()
    world.merge("P", "Q", received_at=ago(days=1))
    world.write(duckdb_warehouse)
    made = bank_space(one_group("overdue", CHECKING))
    found = why(duckdb_warehouse, made, "overdue", "Q", AS_OF, since=AS_OF - 2 * DAY)
    assert found.member
    assert ("new: identifier email x@x") in flips(found)[0][3]
    assert str(found.cited[0]) == "identifier email x@x (through O, which merged)"
    assert flips(why(duckdb_warehouse, made, "overdue", "P", AS_OF, since=AS_OF - 2 * DAY))[0][:1] == ("the profile was P",)


def test_since_names_what_changed_of_the_definition(duckdb_warehouse: Warehouse) -> None:
    people().write(duckdb_warehouse)
    old = bank_space(one_group("some", {"with_entity": "accounts", "at_least": 2}))
    keep_revision(duckdb_warehouse, old)
    new = bank_space(one_group("some", {"with_entity": "accounts", "at_least": 1}))
    found = why(duckdb_warehouse, new, "some", "Q", AS_OF + DAY, since=AS_OF)
    assert found.member and found.since is not None and found.since.member
    assert found.since.definition and "quantifier" in found.since.definition[0]
    assert found.built is not None and (found.built["member"], found.built["current_definition"]) == (False, False)
    assert "by another definition" in found.to_text()
    assert why(duckdb_warehouse, old, "some", "P", AS_OF + DAY, since=AS_OF).since == dataclasses.replace(
        found.since, flips=(), definition=()
    )


def keep_revision(warehouse: Warehouse, made: Space) -> None:
    revision = audience_revision(made, "some")
    build_audiences(warehouse, made, ["some"], window(made, AS_OF), AS_OF, AS_OF, "run", {"some": revision})
    record_revision(warehouse, SCHEMA, "some", revision, audience_slice(made, "some"))


# -- the queries behind counts ---------------------------------------------------------------------------------------------


def counted(judge: Judge, key: str) -> list[tuple[tuple[Any, ...], set[str]]]:
    """Place and passing keys of every condition of entities and events, nested ones included."""
    found = []

    def walk(place: tuple[Any, ...], condition: Any, rows: list[Any]) -> None:
        found.append((place, set(judge.passing(key, place, condition, rows))))
        for index, child in enumerate(
            condition.nested.conditions if isinstance(condition, EntityCondition) and condition.nested else ()
        ):
            walk((*place, "nested", "conditions", index), child, [row for parent in rows for row in parent.below[index]])

    for index, group in enumerate(judge.audiences[key].groups):
        for number, condition in enumerate(group.conditions):
            place = ("groups", index, "conditions", number)
            if isinstance(condition, EntityCondition | EventCondition):
                walk(place, condition, judge.evidence[key].rows[place])
    return found


def test_the_query_of_a_condition_finds_the_rows_that_were_counted(duckdb_warehouse: Warehouse) -> None:
    drawn, asked = town(Random(5), households=6, audiences=10), 0
    drawn.world.write(duckdb_warehouse)
    store_logins(
        duckdb_warehouse, {p: n for world in drawn.households for p, n in oracle_of(world, drawn).computed["logins"].items()}
    )
    values = lambda trait: stored_values(duckdb_warehouse, trait, "now")  # noqa: E731
    for key in [one for one in drawn.made.audiences if one != "other"]:
        found = gather(duckdb_warehouse, drawn.made, key, AS_OF, None, trait_values=values, suppressions=False)
        for place, _ in counted(Judge(drawn.made.audiences, found[min(found)]), key)[:4]:
            telling = max(found, key=lambda one: len(dict(counted(Judge(drawn.made.audiences, found[one]), key))[place]))
            wanted = dict(counted(Judge(drawn.made.audiences, found[telling]), key))[place]
            rows = counting_query(duckdb_warehouse, drawn.made, key, place, AS_OF, telling, trait_values=values)
            assert {row["key"] for row in duckdb_warehouse.rows(rows, 1000)} == wanted, (key, place, telling)
            asked += bool(wanted)
    assert asked > 5
