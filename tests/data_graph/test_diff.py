"""What changed between two graphs: by example, and against a look at both as flat tables."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_assets.data_graph.diff import GraphChange, compare
from cdp_assets.data_graph.model import DataGraph, Entity, Join, Relationship
from tests.data_graph.graphs import CREDIT_CARD, SEED, V1, graphs, parsed


def changes(old: str, new: str) -> list[tuple[str, str, bool]]:
    return [(found.kind, found.subject, found.definite) for found in compare(parsed(old), parsed(new))]


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([('"Cart"', '"Basket"'), ('"Carts"', '"Baskets"')], []),
        ([('"DB.CUST.CART"', '"db.cust.cart"'), ("cart.ACCOUNT_ID", "cart.account_id")], []),
        ([("enrichment_enabled = true", "enrichment_enabled = false")], []),
        ([('"DB.CUST.CART"', '"DB.CUST.CARTS"')], [("table_ref", "entity 'cart'", False)]),
        ([('primary_key = "SKU"', 'primary_key = "ID"')], [("primary_key", "entity 'product'", False)]),
        ([("cart.ACCOUNT_ID", "cart.OWNER")], [("join", "relationship 'accounts:carts'", False)]),
        ([('"EMAIL"', '"MAIL"')], [("join", "relationship 'accounts'", False)]),
        ([('type     = "email"', 'type     = "EMAIL"')], [("join", "relationship 'accounts'", False)]),
        ([('"DB.CUST.CART_PRODUCT"', '"DB.CUST.LINES"')], [("join", "relationship 'accounts:carts:products'", False)]),
        ([('"DB.PROFILES"', '"DB.PEOPLE"')], [("profile_folder", "the profile", False)]),
        ([("segment: materialized", "segment:unmaterialized")], [("profile_type", "the profile", False)]),
        ([('relationship "carts"', 'relationship "baskets"')], [("removed", "relationship 'accounts:carts'", True)]),
        (
            [('entity "cart"', 'entity "basket"'), ('= "cart"', '= "basket"'), ("= cart.", "= basket."), ('"cart.', '"basket.')],
            [("removed", "entity 'cart'", True)],
        ),
    ],
)
def test_a_change_is_named_and_labels_and_letter_case_are_none(
    edits: list[tuple[str, str]], expected: list[tuple[str, str, bool]]
) -> None:
    text = V1
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    assert changes(V1, text) == expected


def test_a_renamed_relationship_says_what_it_is_now_and_touches_what_is_below() -> None:
    (found,) = compare(parsed(V1), parsed(V1.replace('relationship "carts"', 'relationship "baskets"')))
    assert found.nodes == ("accounts:carts", "accounts:carts:products")
    assert "'accounts:baskets' joins the same table" in str(found)


def test_another_entity_at_the_same_node_is_a_potential_break() -> None:
    text = V1.replace('related_entity = "product"', 'related_entity = "account"').replace("product.SKU", "account.SKU")
    assert changes(V1, text) == [("related_entity", "relationship 'accounts:carts:products'", False)]


def test_moving_to_the_current_version_of_the_language_changes_nothing() -> None:
    current = SEED.replace("v0.0.4", "v0.0.6") % CREDIT_CARD
    assert changes(SEED % CREDIT_CARD, current) == []


# -- against flat tables -----------------------------------------------------------------------------------------------


def edited(graph: DataGraph, chance: random.Random) -> DataGraph:
    """The graph with a few things renamed, taken away, or pointed elsewhere; it need not make sense."""
    slugs = {entity.slug: entity.slug + "x" * (chance.random() < 0.2) for entity in graph.entities}

    def entity(one: Entity) -> Entity:
        table = one.table_ref + "x" * (chance.random() < 0.2)
        key = (one.primary_key + "x" if chance.random() < 0.2 else one.primary_key).swapcase()
        return dataclasses.replace(one, slug=slugs[one.slug], table_ref=table, primary_key=key, name=one.name + "!")

    def join(one: Join) -> Join:
        if chance.random() < 0.8:
            return one
        name = chance.choice([field.name for field in dataclasses.fields(one)])
        return dataclasses.replace(one, **{name: getattr(one, name) + "x"})

    def relationships(found: tuple[Relationship, ...]) -> tuple[Relationship, ...]:
        kept = [one for one in found if chance.random() < 0.85]
        chance.shuffle(kept)
        return tuple(
            dataclasses.replace(
                one,
                slug=one.slug + "x" * (chance.random() < 0.15),
                entity=chance.choice(list(slugs.values())) if chance.random() < 0.15 else slugs[one.entity],
                join=join(one.join),
                children=relationships(one.children),
            )
            for one in kept
        )

    return dataclasses.replace(
        graph,
        entities=tuple(entity(one) for one in graph.entities),
        relationships=relationships(graph.relationships),
        profile_folder=graph.profile_folder + "x" * (chance.random() < 0.1),
    )


def flat(graph: DataGraph) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """(slug -> table, key), (path -> entity slug, join), names of columns and tables in lower case."""
    rows: dict[str, tuple[str, str]] = {}
    waiting = [("", one) for one in graph.relationships]
    while waiting:
        above, one = waiting.pop()
        said = {name: value if name in ("type", "name") else value.lower() for name, value in vars(one.join).items()}
        rows[above + one.slug] = (one.entity, f"{type(one.join).__name__} {said}")
        waiting += [(f"{above}{one.slug}:", child) for child in one.children]
    return {e.slug: (e.table_ref.lower(), e.primary_key.lower()) for e in graph.entities}, rows


def expected(old: DataGraph, new: DataGraph) -> set[tuple[str, str, tuple[str, ...]]]:
    """(kind, subject, node paths) of every change, from the flat tables alone."""
    (entities, nodes), (now, nodes_now) = flat(old), flat(new)
    found = set()
    if old.profile_folder.lower() != new.profile_folder.lower():
        found.add(("profile_folder", "the profile", tuple(sorted(nodes))))
    for slug, (table, key) in entities.items():
        at = tuple(sorted(path for path, (entity, _) in nodes.items() if entity == slug))
        if slug not in now:
            if set(at) & set(nodes_now):
                found.add(("removed", f"entity '{slug}'", at))
            continue
        if table != now[slug][0]:
            found.add(("table_ref", f"entity '{slug}'", at))
        if key != now[slug][1]:
            found.add(("primary_key", f"entity '{slug}'", at))
    for path, (entity, join) in nodes.items():
        parent = path.rpartition(":")[0]
        if path not in nodes_now:
            if not parent or parent in nodes_now:
                below = tuple(sorted(other for other in nodes if other == path or other.startswith(path + ":")))
                found.add(("removed", f"relationship '{path}'", below))
            continue
        if entity != nodes_now[path][0] and entity in now:
            found.add(("related_entity", f"relationship '{path}'", (path,)))
        if join != nodes_now[path][1]:
            found.add(("join", f"relationship '{path}'", (path,)))
    return found


def told(found: GraphChange) -> tuple[str, str, tuple[str, ...]]:
    return found.kind, found.subject, tuple(sorted(found.nodes))


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(0, 2**32))
def test_compare_is_what_flat_tables_say(old: DataGraph, seed: int) -> None:
    assert compare(old, old) == ()
    chance = random.Random(seed)
    for _ in range(10):
        new = edited(old, chance)
        found = compare(old, new)
        assert {told(one) for one in found} == expected(old, new)
        assert len(found) == len(set(found))
