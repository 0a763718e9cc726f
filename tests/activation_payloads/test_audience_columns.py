"""Members mapped by column are what they are when each is mapped by itself."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import activation_payloads_world
import pytest
from activation_payloads_world import World, activation
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.activation_payloads import audience_columns, payloads
from cdp_assets.activation_payloads.payloads import PayloadsResult
from cdp_assets.activation_payloads.tables import PAYLOADS
from cdp_assets.data_graph.model import ColumnJoin, Entity, Relationship
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT
from cdp_assets.space.models.audiences import Audience
from resources.warehouse import TableRef, TableSpec, Warehouse
from resources.warehouse.duckdb import open_duckdb

KINDS = {"enters_or_exits": "traits", "enters": "properties", "exits": "properties"}
texts = st.sampled_from(["", "Ada", "é", 'q"\\', "\x00\n", "7", "a,b", "{}"])
EVERYWHERE: tuple[Any, ...] = (
    "warehouse",
    7,
    ["a", {"z": 1}],
    {"@path": "$.userId"},
    {"@path": "$.anonymousId"},
    {"@path": "$.event"},
    {"@path": "$.messageId"},
    {"@path": "$.context.personas.computation_key"},
    {"@path": "$.context.traits.email"},
    {"@path": "$.context.traits.phone"},
)
IN_BODY = ("overdue", "audience_key", "first_name", "logins", "channels", "email", "phone", "plan", "nothing")
FIRST_ROWS = (
    "Accounts[0].ID",
    "Accounts[0].kind",
    "Accounts[0].cards[0].CARD_ID",
    "Accounts[0].cards[0].balance",
    "Accounts[0].cards[0].due",
    "Accounts[0].cards[0].note",
)
OF_CARD = ("cards__CARD_ID", "cards__balance", "cards__due", "cards__note")


def values_of(unit: str, when: str, shape: str) -> list[Any]:
    body = KINDS[when]
    found = [*EVERYWHERE, *({"@path": f"$.{body}.{name}"} for name in IN_BODY)]
    found.append({"params": {"audience": {"@path": f"$.{body}.audience_key"}, "is": {"@path": f"$.{body}.overdue"}}})
    found += [
        {
            "@template": f"{{{{userId}}}} {{{{{body}.first_name}}}} {{{{{body}.logins}}}} {{{{{body}.audience_key}}}} {{{{{body}.nothing}}}}"
        },
        {"@case": {"operator": "upper", "value": {"@path": f"$.{body}.plan"}}},
        {"@if": {"exists": {"@path": f"$.{body}.email"}, "then": {"@path": "$.userId"}, "else": {"@path": f"$.{body}.channels"}}},
        {"known": {"as": {"@path": "$.userId"}, "by": [{"@path": "$.context.traits.email"}]}, "type": {"@path": "$.type"}},
    ]
    if unit == "profile":
        before = "" if shape == "flattened" else "overdue_context."
        found += [
            {"@path": f"$.{body}.{before}{path if shape == 'flattened' else path.replace('A', 'a', 1)}"} for path in FIRST_ROWS
        ]
    elif shape == "flattened":
        found += [{"@path": f"$.{body}.{name}"} for name in OF_CARD]
    return found


@st.composite
def activations(draw: st.DrawFn) -> dict[str, Any]:
    unit = draw(st.sampled_from(["profile", "entity"]))
    when = draw(st.sampled_from(sorted(KINDS)))
    shape = draw(st.sampled_from(["flattened", "context"]))
    names = ["email", "overdue", "é", "limit", "code", *(f"f{n}" for n in range(7))]
    fields = draw(st.lists(st.sampled_from(values_of(unit, when, shape)), min_size=len(names), max_size=len(names)))
    mapping = dict(zip(names, fields, strict=True))
    mapping["email"] = draw(st.sampled_from([mapping["email"], {"@path": "$.userId"}]))
    return {
        "trigger": {"unit": unit, "when": when, **({"path": "Accounts:cards"} if unit == "entity" else {})},
        "shape": shape,
        "event_name": draw(st.none() | st.just("Told")),
        "identifier": draw(st.sampled_from(["email", "user_id", "phone"])),
        "personalization": {
            "traits": draw(st.permutations(["first_name", "logins", "channels", "plan", "email"])),
            "entities": [
                {"path": "Accounts", "columns": ["kind"]},
                {"path": "Accounts:cards", "columns": ["balance", "due", "note"]},
            ],
        },
        "mapping": mapping,
    }


@st.composite
def worlds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to five people, what is known of each, and the cards by which they match: of accounts and cards that may be gone, or there twice."""
    cards = st.tuples(st.integers(1, 3), st.sampled_from(["a", "b", "gone"]))
    person = st.fixed_dictionaries(
        {
            "identifiers": st.dictionaries(
                st.sampled_from(["user_id", "anonymous_id", "email", "phone"]), st.sampled_from("xyz"), max_size=4
            ),
            "traits": st.dictionaries(st.sampled_from(["first_name", "logins", "plan", "email"]), texts, max_size=4),
            "logins": st.none() | st.sampled_from([0.0, 3.0, 2.5, 1e20]),
            "channels": st.none() | st.sampled_from(["[]", '["b","é"]']),
            "ads": st.sampled_from(["true", "true", "false"]),
            "cards": st.lists(cards, max_size=3, unique=True),
            "note": st.sampled_from(["", "n", "long " * 1_200]),
        }
    )
    return draw(st.lists(person, min_size=1, max_size=5))


def fill(world: World, people: list[dict[str, Any]]) -> None:
    for number, person in enumerate(people):
        name = f"p{number}"
        world.profile(name, consent={"ads": person["ads"]}, **person["identifiers"])
        world.member(name, person["cards"])
        for trait, value in person["traits"].items():
            world.trait(name, trait, value)
        if person["logins"] is not None:
            world.computed(name, "logins", number=person["logins"])
        if person["channels"] is not None:
            world.computed(name, "channels", text=person["channels"])
    for key in (1, 2, 2):
        world.account(key, "checking" if key == 1 else f"kind {len(world.rows)}")
    for key, account in (("a", 1), ("b", 2), ("b", 3)):
        world.card(key, account, note=people[0]["note"])


@contextlib.contextmanager
def no_columns(*_args: Any, **_more: Any) -> Iterator[None]:
    yield None


@contextlib.contextmanager
def surely_columns(*args: Any, **more: Any) -> Iterator[audience_columns.AudienceColumns]:
    with audience_columns.audience_columns(*args, **more) as found:
        assert found is not None
        yield found


def built(world: World, wanted: dict[str, Any], each: bool) -> tuple[list[dict[str, Any]], PayloadsResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads, "audience_columns", no_columns if each else surely_columns)
        patch.setattr(audience_columns, "BATCH_ROWS", 2)
        result = world.build(activation(**wanted))
    table = world.warehouse.table(PAYLOADS.ref)
    return world.warehouse.rows(table.order_by("unit"), 1000), result


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with open_duckdb(tmp_path_factory.mktemp("columns") / "w.duckdb") as opened:
        yield opened


def emptied(warehouse: Warehouse) -> World:
    for spec in World(warehouse).specs:
        warehouse.delete(spec.ref, [])
    return World(warehouse)


@settings(max_examples=30, deadline=None)
@given(wanted=activations(), people=worlds())
def test_members_by_column_are_what_each_of_them_is(
    warehouse: Warehouse, wanted: dict[str, Any], people: list[dict[str, Any]]
) -> None:
    world = emptied(warehouse)
    fill(world, people)
    one_by_one, expected = built(world, wanted, each=True)
    by_column, result = built(world, wanted, each=False)
    assert by_column == one_by_one
    assert (result.units, result.ok, result.withheld, result.problems) == (
        expected.units,
        expected.ok,
        expected.withheld,
        expected.problems,
    )


@pytest.mark.parametrize(
    "value",
    [
        {"@path": "$.properties"},
        {"@path": "$.properties.Accounts"},
        {"@path": "$.properties.Accounts[1].ID"},
        {"@path": "$.properties.Accounts.length"},
        {"@path": "$.properties.Accounts[0].cards"},
        {"@path": "$.properties.Accounts[0].nothing"},
        {"@path": "$.properties.first_name.length"},
        {"@path": "$.context.traits"},
        {"@template": "{{properties.Accounts}}"},
        {"@template": "{{userId}} {{properties.overdue}}"},
        {"@liquid": "{{ 'now' | date: '%Y' }}"},
        {"@case": {"operator": "lower", "value": {"@path": "$.properties"}}},
        {"first": {"@path": "$.properties.Accounts[1].ID"}},
    ],
)
def test_what_only_a_message_tells_has_each_looked_at(warehouse: Warehouse, value: Any) -> None:
    world = World(warehouse)
    seen = []

    @contextlib.contextmanager
    def recorded(*args: Any, **more: Any) -> Iterator[Any]:
        with audience_columns.audience_columns(*args, **more) as found:
            seen.append(found)
            yield found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads, "audience_columns", recorded)
        world.build(activation(mapping={"email": {"@path": "$.context.traits.email"}, "f": value}))
    assert seen == [None]


def test_only_members_whose_message_may_be_too_large_are_looked_at(warehouse: Warehouse) -> None:
    world = emptied(warehouse)
    for name, note in (("p1", "short"), ("p2", "x" * 6_000), ("p3", "x" * 40_000)):
        world.profile(name, email=f"{name}@example.com")
        world.account(int(name[1]))
        world.card(name, int(name[1]), note=note)
        world.member(name, [(int(name[1]), name)])
    looked: list[str] = []
    real = payloads._Writer._row

    def recorded(self: Any, unit: Any) -> Any:
        looked.append(unit.row["unit"])
        return real(self, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads._Writer, "_row", recorded)
        result = world.build(activation(personalization={"entities": [{"path": "Accounts:cards", "columns": ["note"]}]}))
    assert looked == ["p2", "p3"]
    assert (result.ok, result.withheld) == (2, {"too_large": 1})
    assert world.verdicts() == {"p1": "ok", "p2": "ok", "p3": "too_large"}


def test_what_a_message_says_below_each_of_many_rows_counts_each_time(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    payments = TableSpec(TableRef("bank", "payments"), {"id": "string", "card_id": "string", "note": "string"}, "payments", None)
    accounts = activation_payloads_world.GRAPH.relationships[0]
    below = Relationship("payments", "Payments", "payment", ColumnJoin("CARD_ID", "card_id"))
    cards = dataclasses.replace(accounts.children[0], children=(below,))
    graph = dataclasses.replace(
        activation_payloads_world.GRAPH,
        entities=(*activation_payloads_world.GRAPH.entities, Entity("payment", "Payment", "bank.payments", "id")),
        relationships=(dataclasses.replace(accounts, children=(cards,)),),
    )
    path = {
        "with_entity": "Accounts",
        "nested": {"conditions": [{"with_entity": "cards", "nested": {"conditions": [{"with_entity": "payments"}]}}]},
    }
    audience = Audience.model_validate({"key": "overdue", "name": "Overdue", "groups": [{"conditions": [path]}]})
    monkeypatch.setattr(activation_payloads_world, "GRAPH", graph)
    monkeypatch.setattr(activation_payloads_world, "AUDIENCE", audience)
    warehouse.ensure(payments)
    world = emptied(warehouse)
    world.specs.append(payments)
    for name, held in (("p1", 30), ("p2", 1)):
        world.profile(name, email=f"{name}@example.com")
        world.member(name, [(account, "c") for account in range(held)])
        for number in range(4):
            own = {"audience": "overdue", "partition_key": "2026-03-01", "canonical_segment_id": name}
            world._add(AUDIENCE_CONTEXT, **own, path="Accounts:cards:payments", entity_id=str(number), parent_entity_id="c")
    world.card("c", 0)
    for number in range(4):
        world._add(payments, id=str(number), card_id="c", note="x" * 300)
    wanted = activation(personalization={"entities": [{"path": "Accounts:cards:payments", "columns": ["note"]}]})
    result = world.build(wanted)
    assert world.verdicts() == {"p1": "too_large", "p2": "ok"}, result
