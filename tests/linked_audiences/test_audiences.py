"""What an audience's conditions mean: members and context, by example. The names AE2.x and AE6.5 are the acceptance examples."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import ValidationError

from cdp_assets.computed_traits.build import build_traits
from cdp_assets.data_graph.model import ColumnJoin, ExternalIdJoin, Relationship
from cdp_assets.linked_audiences import build as building
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS, PATH_ROWS
from cdp_assets.space.models.audiences import Audience
from cdp_assets.space.operators import ConditionError
from resources.warehouse import TableRef, Warehouse
from tests.linked_audiences.bank import ENTITIES, bank, bank_space, build, context, members, one_group, where
from tests.people import AS_OF, ago, revisions, space, window

OVERDUE_CARD = {"with_entity": "cards", "where": where(("overdue", "equals", True))}
CHECKING_WITH_OVERDUE_CARD = {
    "with_entity": "accounts",
    "where": where(("Kind", "equals", "checking")),
    "nested": {"conditions": [OVERDUE_CARD]},
}


def test_AE2_1_a_checking_account_with_an_overdue_card_matches_with_just_those_rows(duckdb_warehouse: Warehouse) -> None:
    world = bank(
        accounts=[(1, "p@x", "checking"), (2, "p@x", "savings"), (3, "q@x", "checking")],
        cards=[(10, 1, True), (11, 1, False), (20, 2, True), (30, 3, False)],
    )
    world.profile("P", email="p@x")
    world.profile("Q", email="q@x")
    world.write(duckdb_warehouse)
    made = bank_space(one_group("overdue", CHECKING_WITH_OVERDUE_CARD))
    assert build(duckdb_warehouse, made) == {"overdue": AudienceResult(members=1, entities=2, entered=1)}
    assert members(duckdb_warehouse, made, "overdue") == ["P"]
    assert context(duckdb_warehouse, made, "overdue") == [("P", "accounts", "1", None), ("P", "accounts:cards", "10", "1")]
    rows = duckdb_warehouse.rows(duckdb_warehouse.table(PATH_ROWS.ref).order_by("table_name"), 9)
    assert [(row["table_name"], row["rows"]) for row in rows] == [("bank.accounts", 3), ("bank.cards", 4)]


def test_AE2_2_exactly_zero_is_true_of_a_profile_without_rows_and_takes_no_filter(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x")])
    world.profile("P", email="p@x")
    world.profile("Q", email="q@x")
    world.profile("R")
    world.write(duckdb_warehouse)
    made = bank_space(
        one_group("none", {"with_entity": "accounts", "exactly": 0}),
        one_group("at_most_none", {"with_entity": "accounts", "at_most": 0}),
        one_group("at_most_one", {"with_entity": "accounts", "at_most": 1}),
        one_group("without", {"without_entity": "accounts"}),
    )
    build(duckdb_warehouse, made)
    assert {key: members(duckdb_warehouse, made, key) for key in made.audiences} == {
        "none": ["Q", "R"],
        "at_most_none": ["Q", "R"],
        "at_most_one": ["P", "Q", "R"],
        "without": ["Q", "R"],
    }
    assert context(duckdb_warehouse, made, "at_most_one") == [("P", "accounts", "1", None)]
    with pytest.raises(ValidationError, match="quantifier of 0 takes no filters"):
        Audience(name="x", **one_group("x", {"with_entity": "accounts", "exactly": 0, "where": where(("kind", "exists"))}))


def test_AE2_3_a_renewal_within_the_next_90_days_is_inclusive(duckdb_warehouse: Warehouse) -> None:
    days = {"last": dt.date(2026, 4, 1), "late": dt.date(2026, 4, 2), "past": dt.date(2025, 12, 31), "null": None}
    world = bank(accounts=[(i, f"{name}@x", "a", 1.0, day) for i, (name, day) in enumerate(days.items())])
    for name in days:
        world.profile(name, email=f"{name}@x")
    world.write(duckdb_warehouse)
    soon = {"all": [{"column": "renews", "operator": "within_next", "amount": 90}]}
    made = bank_space(one_group("soon", {"with_entity": "accounts", "where": soon}))
    build(duckdb_warehouse, made)
    assert members(duckdb_warehouse, made, "soon") == ["last"]


def test_AE2_4_differs_is_false_on_null_and_without_equals_is_true(duckdb_warehouse: Warehouse) -> None:
    world = bank()
    for profile, plan in {"free": "free", "paid": "paid", "none": None}.items():
        world.profile(profile)
        if plan:
            world.trait(profile, "plan", plan)
    world.write(duckdb_warehouse)
    made = bank_space(
        one_group("differs", {"with_trait": "plan", "operator": "differs", "value": "free"}),
        one_group("not_equals", {"without_trait": "plan", "operator": "equals", "value": "free"}),
        one_group("omits", {"with_trait": "plan", "operator": "omits", "value": "f"}),
        one_group("absent", {"with_trait": "plan", "operator": "absent"}),
        one_group("not_absent", {"without_trait": "plan", "operator": "absent"}),
        one_group("none_of", {"with_trait": "plan", "operator": "none_of", "value": ["free"]}),
    )
    build(duckdb_warehouse, made)
    assert {key: members(duckdb_warehouse, made, key) for key in made.audiences} == {
        "differs": ["paid"],
        "not_equals": ["none", "paid"],
        "omits": ["none", "paid"],
        "absent": ["none"],
        "not_absent": ["free", "paid"],
        "none_of": ["paid"],
    }


def test_AE2_5_a_member_by_trait_has_no_context_and_one_by_both_keeps_the_card(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "both@x"), (2, "card@x")], cards=[(10, 1, True), (20, 2, True), (21, 2, False)])
    for profile in ("trait", "both", "card", "neither"):
        world.profile(profile, email=f"{profile}@x")
    world.trait("trait", "vip", "true")
    world.trait("both", "vip", "true")
    world.trait("neither", "vip", "false")
    world.write(duckdb_warehouse)
    made = bank_space(
        {
            "key": "either",
            "match": "any",
            "groups": [
                {"conditions": [{"with_entity": "accounts", "nested": {"conditions": [OVERDUE_CARD]}}]},
                {"conditions": [{"with_trait": "vip", "operator": "equals", "value": True}]},
            ],
        }
    )
    build(duckdb_warehouse, made)
    assert members(duckdb_warehouse, made, "either") == ["both", "card", "trait"]
    assert context(duckdb_warehouse, made, "either") == [
        ("both", "accounts", "1", None),
        ("both", "accounts:cards", "10", "1"),
        ("card", "accounts", "2", None),
        ("card", "accounts:cards", "20", "2"),
    ]


def test_AE2_6_groups_are_independent_and_filters_of_one_condition_are_not(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x", "checking", 5.0), (2, "p@x", "savings", 500.0)])
    world.profile("P", email="p@x")
    world.write(duckdb_warehouse)
    checking, rich = ("kind", "equals", "checking"), ("balance", "greater_than", 100)
    made = bank_space(
        {
            "key": "groups",
            "groups": [{"conditions": [{"with_entity": "accounts", "where": where(one)}]} for one in (checking, rich)],
        },
        one_group("together", {"with_entity": "accounts", "where": where(checking, rich)}),
    )
    build(duckdb_warehouse, made)
    assert members(duckdb_warehouse, made, "groups") == ["P"]
    assert context(duckdb_warehouse, made, "groups") == [("P", "accounts", "1", None), ("P", "accounts", "2", None)]
    assert members(duckdb_warehouse, made, "together") == []


def test_AE2_7_events_of_a_merged_profile_count_for_the_canonical_one(duckdb_warehouse: Warehouse) -> None:
    world = bank()
    for profile in ("device", "P", "Q"):
        world.profile(profile)
    world.merge("device", "P")
    for days, profile in ((7, "device"), (1, "device"), (0, "P"), (8, "Q"), (1, "Q"), (1, "Q")):
        world.event(profile, "Login", ago(days=days), {"via": {"web": days}})
    world.write(duckdb_warehouse)
    week = {"within": {"last": 7, "unit": "days"}}
    recent = {"all": [{"property": "via.web", "operator": "at_most", "value": 1}]}
    made = bank_space(
        one_group("thrice", {"with_event": "Login", "at_least": 3, **week}),
        one_group("recent", {"with_event": "Login", "exactly": 2, "where": recent}),
        one_group("before", {"with_event": "Login", "between": {"from": 10, "to": 7}}),
        one_group("not_before", {"without_event": "Login", "between": {"from": 10, "to": 8}}),
    )
    build(duckdb_warehouse, made)
    assert {key: members(duckdb_warehouse, made, key) for key in made.audiences} == {
        "thrice": ["P"],
        "recent": ["P", "Q"],
        "before": ["P", "Q"],
        "not_before": ["P"],
    }


def test_AE6_5_audiences_in_a_circle_are_refused(duckdb_warehouse: Warehouse) -> None:
    bank().write(duckdb_warehouse)
    made = bank_space(one_group("a", {"part_of": "b"}), one_group("b", {"not_part_of": "a"}))
    with pytest.raises(ConditionError, match="circle: a -> b -> a"):
        build(duckdb_warehouse, made)


def test_children_are_counted_per_parent_row_and_siblings_speak_of_the_same_row(duckdb_warehouse: Warehouse) -> None:
    world = bank(
        accounts=[(1, "p@x", "a"), (2, "p@x", "b"), (3, "q@x", "a")],
        cards=[(10, 1), (20, 2), (30, 3), (31, 3)],
        products=[(7, "loan")],
        holdings=[(1, 1, 7), (2, 1, 7), (3, 2, 7), (4, 3, 7)],
    )
    world.profile("P", email="p@x")
    world.profile("Q", email="q@x")
    world.write(duckdb_warehouse)
    two_cards = {"with_entity": "cards", "at_least": 2}
    loan = {"with_entity": "products", "where": where(("kind", "equals", "loan"))}
    made = bank_space(
        one_group("two_cards", {"with_entity": "accounts", "nested": {"conditions": [two_cards, loan]}}),
        one_group(
            "one_card_each",
            {"with_entity": "accounts", "at_least": 2, "nested": {"conditions": [{"with_entity": "cards", "exactly": 1}]}},
        ),
    )
    build(duckdb_warehouse, made)
    assert members(duckdb_warehouse, made, "two_cards") == ["Q"]
    assert ("Q", "accounts:products", "7", "3") in context(duckdb_warehouse, made, "two_cards")
    assert members(duckdb_warehouse, made, "one_card_each") == ["P"]


def test_numeric_keys_join_text_identifiers_and_traits_join_too(duckdb_warehouse: Warehouse) -> None:
    world = bank(tickets=[(1, 42, "open")], offers=[(5, "gold")])
    world.profile("P", user_id=["42", "43"])
    world.trait("P", "plan", "silver")
    world.trait("P", "plan", "gold")
    world.write(duckdb_warehouse)
    made = bank_space(one_group("both", {"with_entity": "tickets"}, {"with_entity": "offers"}))
    build(duckdb_warehouse, made)
    assert context(duckdb_warehouse, made, "both") == [("P", "offers", "5", None), ("P", "tickets", "1", None)]


def test_context_has_rows_that_whole_numbers_and_texts_join_below_the_profile(duckdb_warehouse: Warehouse) -> None:
    world = bank(tickets=[(7, 8)], payments=[("p1", "7"), ("p2", "07")])
    world.profile("P", user_id="8")
    world.write(duckdb_warehouse)
    below = Relationship("payments", "Payments", "payment", ColumnJoin("id", "card"))
    tickets = Relationship("tickets", "Tickets", "ticket", ExternalIdJoin("user_id", "client"), (below,))
    paid = {"with_entity": "tickets", "nested": {"conditions": [{"with_entity": "payments"}]}}
    made = space(tickets, entities=ENTITIES, audiences=[one_group("paid", paid)])
    assert build(duckdb_warehouse, made)["paid"].members == 1
    assert context(duckdb_warehouse, made, "paid") == [("P", "tickets", "7", None), ("P", "tickets:payments", "p1", "7")]


def test_a_list_trait_contains_its_elements_and_computed_traits_hide_identify_traits(duckdb_warehouse: Warehouse) -> None:
    world = bank()
    for profile, seen in {"p": ["a", "b"], "q": ["ab"], "r": ['say "a"']}.items():
        world.profile(profile)
        world.trait(profile, "logins", "7")
        for what in seen:
            world.event(profile, "See", ago(days=1), {"what": what})
    world.write(duckdb_warehouse)
    made = bank_space(
        one_group("a", {"with_trait": "seen", "operator": "contains", "value": ["a", "zz"]}),
        one_group("no_a", {"with_trait": "seen", "operator": "omits", "value": "a"}),
        one_group("twice", {"with_trait": "logins", "operator": "at_least", "value": 2}),
        traits=[
            {"key": "seen", "kind": "unique_list", "event": "See", "property": "what"},
            {"key": "logins", "kind": "event_counter", "event": "See"},
        ],
    )
    assert {r.skipped_because for r in build(duckdb_warehouse, made).values()} == {
        "trait seen is not built for this partition",
        "trait logins is not built for this partition",
    }
    build_traits(duckdb_warehouse, made, list(made.traits), window(made), AS_OF, AS_OF, "run", revisions(made))
    build(duckdb_warehouse, made)
    assert {key: members(duckdb_warehouse, made, key) for key in made.audiences} == {
        "a": ["p"],
        "no_a": ["q", "r"],
        "twice": ["p"],
    }


def test_one_failing_audience_fails_alone_and_its_dependants_keep_what_they_had(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(1, "p@x", "checking")])
    world.profile("P", email="p@x")
    world.write(duckdb_warehouse)
    good = one_group("good", {"with_entity": "accounts"})
    base = one_group("base", {"with_entity": "accounts", "where": where(("kind", "equals", "checking"))})
    dependant = one_group("dependant", {"part_of": "base"})
    others = one_group("others", {"not_part_of": "dependant"})
    before = bank_space(others, dependant, base, good)
    assert all(result.built for result in build(duckdb_warehouse, before).values())
    broken = one_group("base", {"with_entity": "accounts", "where": where(("kinds", "equals", "checking"))})
    after = bank_space(others, dependant, broken, good)
    results = build(duckdb_warehouse, after)
    assert results["base"].error == "entity account (accounts): no column kinds"
    assert results["dependant"].skipped_because == "audience base failed"
    assert results["others"].skipped_because == "audience dependant was skipped"
    assert results["good"] == AudienceResult(members=1, entities=1)
    assert {key: members(duckdb_warehouse, after, key) for key in after.audiences} == {
        "others": [],
        "dependant": ["P"],
        "base": ["P"],
        "good": ["P"],
    }
    missing = build(duckdb_warehouse, after, AS_OF + dt.timedelta(days=40), keys=["dependant"])
    assert missing["dependant"].skipped_because == "audience base is not built for this partition"


def test_large_audiences_are_written_fewer_at_a_time_and_are_the_same(
    duckdb_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = bank(accounts=[(1, "p@x", "checking"), (2, "q@x", "savings")], cards=[(10, 1, True)])
    world.profile("P", email="p@x")
    world.profile("Q", email="q@x")
    world.write(duckdb_warehouse)
    made = bank_space(
        one_group("owners", {"with_entity": "accounts"}),
        one_group("carded", {"with_entity": "accounts", "nested": {"conditions": [{"with_entity": "cards"}]}}),
        one_group("nobody", {"with_entity": "tickets"}),
    )
    together = build(duckdb_warehouse, made)
    written: list[list[str]] = []
    real = building.write

    def recorded(gathered: Any, some: Any) -> Any:
        written.append([one.key for one in some])
        return real(gathered, some)

    monkeypatch.setattr(building, "write", recorded)
    monkeypatch.setattr(building, "ROWS_TOGETHER", 4)  # owners are two members and two accounts
    again = build(duckdb_warehouse, made)
    assert written == [["owners"], ["carded", "nobody"]]
    counts = {key: (result.members, result.entities) for key, result in together.items()}
    assert counts == {key: (result.members, result.entities) for key, result in again.items()}
    assert counts == {"owners": (2, 2), "carded": (1, 2), "nobody": (0, 0)}
    assert {key: members(duckdb_warehouse, made, key) for key in made.audiences} == {
        "owners": ["P", "Q"],
        "carded": ["P"],
        "nobody": [],
    }


def test_an_audience_whose_trait_failed_is_skipped_and_a_missing_table_is_named(duckdb_warehouse: Warehouse) -> None:
    world = bank()
    world.write(duckdb_warehouse)
    duckdb_warehouse.drop(TableRef("bank", "offers"))
    made = bank_space(
        one_group("busy", {"with_trait": "logins", "operator": "exists"}),
        one_group("offered", {"with_entity": "offers"}),
        one_group("lost", {"with_entity": "cards"}),
        traits=[{"key": "logins", "kind": "event_counter", "event": "Login"}],
    )
    results = build(duckdb_warehouse, made, failed_traits=frozenset({"logins"}))
    assert results["busy"].skipped_because == "trait logins failed"
    assert results["offered"].error == "table bank.offers does not exist in the duckdb warehouse"
    assert results["lost"].error == "the data graph has no relationship cards below the profile"


def test_entered_and_left_compare_with_the_newest_earlier_build_and_follow_merges(duckdb_warehouse: Warehouse) -> None:
    def world_of(*owners: str, merged: bool = False):
        world = bank(accounts=[(i, f"{owner}@x") for i, owner in enumerate(owners)])
        for profile in "abcd":
            world.profile(profile, email=f"{profile}@x")
        if merged:
            world.merge("b", "c")
        return world

    made = bank_space(one_group("owners", {"with_entity": "accounts"}))
    world_of("a", "b").write(duckdb_warehouse)
    assert build(duckdb_warehouse, made)["owners"] == AudienceResult(2, 2, entered=2)
    assert build(duckdb_warehouse, made)["owners"] == AudienceResult(2, 2)
    later = AS_OF + dt.timedelta(days=20)
    world_of("b", "c", "d", merged=True).write(duckdb_warehouse)
    assert build(duckdb_warehouse, made, later)["owners"] == AudienceResult(2, 3, entered=1, left=1), (
        "b is c now: d entered, a left"
    )
    assert build(duckdb_warehouse, made)["owners"] == AudienceResult(2, 3, entered=1, left=1), "a rebuild compares with itself"
    assert duckdb_warehouse.count(duckdb_warehouse.table(AUDIENCE_MEMBERS.ref)) == 4


@pytest.mark.snowflake
def test_who_came_and_went_is_shown_by_the_first_of_them(duckdb_warehouse: Warehouse) -> None:
    world = bank(accounts=[(number, f"p{number}@x") for number in range(9)])
    for number in reversed(range(9)):
        world.profile(f"p{number}", email=f"p{number}@x")
    world.write(duckdb_warehouse)
    kept, made = one_group("kept", {"with_entity": "accounts"}), one_group("made", {"with_entity": "accounts"})
    assert build(duckdb_warehouse, bank_space(kept))["kept"].came == ("p0", "p1", "p2", "p3", "p4")
    # Of those that are built together some have been before, and some have not.
    nobody = one_group("kept", {"without_entity": "accounts"})
    found = build(duckdb_warehouse, bank_space(nobody, made))
    assert (found["kept"].went, found["kept"].left, found["kept"].came) == (("p0", "p1", "p2", "p3", "p4"), 9, ())
    assert (found["made"].came, found["made"].entered, found["made"].went) == (("p0", "p1", "p2", "p3", "p4"), 9, ())


def test_both_engines_give_the_same_members_and_context(duckdb_warehouse: Warehouse, snowflake_warehouse: Warehouse) -> None:
    world = bank(
        accounts=[(1, "p@x", "checking", 1.5, dt.date(2026, 4, 1)), (2, "p@x", "savings"), (3, "q@x", "checking", None, None)],
        cards=[(10, 1, True, 5, 10), (11, 1, False), (20, 2, True), (30, 3, None, 5, 30)],
        payments=[("x", "10"), ("y", "30")],
        products=[(7, "loan")],
        holdings=[(1, 1, 7), (2, 3, 7)],
        tickets=[(1, 42, "open")],
        offers=[(5, "gold")],
    )
    world.profile("P", email="p@x", user_id="42")
    world.profile("Q", email="q@x")
    world.profile("device")
    world.merge("device", "P")
    world.trait("P", "plan", "silver")
    world.trait("P", "plan", "gold")
    world.trait("Q", "seen_at", "2025-12-31T23:00:00-02:00")
    for days, profile in ((7, "device"), (1, "device"), (0, "P"), (8, "Q")):
        world.event(profile, "Login", ago(days=days), {"via": {"web": days}, "how": "app"})
    soon = {"all": [{"column": "renews", "operator": "within_next", "amount": 90}]}
    made = bank_space(
        one_group("overdue", CHECKING_WITH_OVERDUE_CARD),
        one_group(
            "paid",
            {
                "with_entity": "accounts",
                "nested": {"conditions": [{"with_entity": "cards", "nested": {"conditions": [{"with_entity": "payments"}]}}]},
            },
        ),
        one_group(
            "few_cards",
            {
                "with_entity": "accounts",
                "exactly": 1,
                "nested": {
                    "match": "any",
                    "conditions": [{"with_entity": "cards", "at_most": 1}, {"without_entity": "products"}],
                },
            },
        ),
        one_group("soon", {"with_entity": "accounts", "where": soon}, {"with_entity": "tickets"}, {"with_entity": "offers"}),
        one_group("active", {"with_event": "Login", "at_least": 3, "within": {"last": 7}}),
        one_group("calm", {"not_part_of": "active"}, {"without_trait": "channels", "operator": "contains", "value": "web"}),
        one_group("seen", {"with_trait": "seen_at", "operator": "within_next", "amount": 1, "unit": "hours"}),
        traits=[{"key": "channels", "kind": "unique_list", "event": "Login", "property": "how"}],
    )
    found = []
    for engine in (duckdb_warehouse, snowflake_warehouse):
        world.write(engine)
        build_traits(engine, made, list(made.traits), window(made), AS_OF, AS_OF, "run", revisions(made))
        results = build(engine, made)
        assert {key: result.error or result.skipped_because for key, result in results.items()} == dict.fromkeys(results)
        stored = engine.rows(engine.table(AUDIENCE_CONTEXT.ref).order_by("audience", "path", "entity_id", "parent_entity_id"), 99)
        who = {key: members(engine, made, key) for key in made.audiences}
        found.append((who, stored, results))
    assert found[0] == found[1]
    assert found[0][0] == {
        "overdue": ["P"],
        "paid": ["P", "Q"],
        "few_cards": ["P", "Q"],
        "soon": ["P"],
        "active": ["P"],
        "calm": ["Q"],
        "seen": ["Q"],
    }
