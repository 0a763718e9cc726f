"""Segment's data graph language: both forms, every rule, and back to text."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings

from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import (
    DataGraph,
)
from cdp_assets.data_graph.printing import print_graph
from tests.data_graph.graphs import CREDIT_CARD, SEED, V1, chain, errors, graphs, parsed

# -- both forms --------------------------------------------------------------------------------------------------------


def test_an_early_graph_has_at_most_four_nodes() -> None:
    assert parse_graph(chain(4).replace("v1.0.0", "v0.0.6"))[0] is not None
    assert "at most 4" in errors(chain(5).replace("v1.0.0", "v0.0.6"))[0].message


def test_siblings_of_siblings_are_nested_in_a_chain() -> None:
    text = SEED % (CREDIT_CARD + CREDIT_CARD.replace("credit_card", "transaction"))
    text = text.replace(
        '  }\n  entity "account"',
        '    relationship "Transactions" {\n      related_entity = "transaction"\n'
        '      join_on = "Credit_Card.id = transaction.card_id"\n    }\n  }\n  entity "account"',
    )
    assert [node.path for node in parsed(text).nodes()] == [
        "accounts",
        "accounts:credit-card",
        "accounts:credit-card:transactions",
    ]


def test_a_sibling_that_could_belong_to_two_is_refused() -> None:
    second = (
        '    relationship "Other accounts" {\n      related_entity = "account"\n      trait {\n'
        '        name = "x"\n        join_key = "x"\n      }\n    }\n'
    )
    text = (SEED % CREDIT_CARD).replace("    relationship: ", second + "    relationship: ")
    assert any("directly below the profile and has join_on" in problem.message for problem in errors(text))


def test_siblings_that_join_in_a_circle_are_refused() -> None:
    text = (SEED % CREDIT_CARD).replace(
        'external_id {\n        type = "email"\n        join_key = "email_id"\n      }',
        'join_on = "credit_card.id = account.card_id"',
    )
    assert [("circle" in problem.message, problem.line) for problem in errors(text)] == [(True, 6), (True, 10)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('materialization = "none"', "segment:unmaterialized"),
        ('materialization = "dbt"', "segment:dbt"),
        ('type = "segment:unmaterialized"', "segment:unmaterialized"),
        ("", "segment:materialized"),
    ],
)
def test_early_ways_to_say_how_profiles_are_stored(written: str, meant: str) -> None:
    assert parsed((SEED % CREDIT_CARD).replace("type = segment", written)).profile_type == meant


def test_a_graph_of_entities_alone_needs_no_profile() -> None:
    text = V1[: V1.index("  profile {")] + "}\n"
    assert list(parsed(text).nodes()) == []


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "phrase"),
    [
        ('"v1.0.0"', '"v1.2.3"', 2, "unknown version"),
        ('  version = "v1.0.0"\n', "\n", 1, "has no version"),
        ('entity "cart"', 'entity "account"', 8, "defined twice, first on line 3"),
        ('relationship "products"', 'relationship "accounts"', 33, "used twice, first on line 22"),
        ("    }\n  }\n}", '    }\n  }\n  profile {\n    profile_folder = "x"\n  }\n}', 46, "a second profile"),
        ('entity "product"', 'entity "The Product"', 14, "must be lower-case"),
        ('related_entity = "cart"', 'related_entity = "crat"', 31, "entity 'crat' is not defined"),
        ('"account.ID = cart.ACCOUNT_ID"', '"nobody.ID = cart.ACCOUNT_ID"', 32, "'nobody', which is not defined"),
        ('"account.ID = cart.ACCOUNT_ID"', '"product.ID = cart.ACCOUNT_ID"', 32, "'product' instead of the parent's"),
        ('"account.ID = cart.ACCOUNT_ID"', '"account.ID = product.ACCOUNT_ID"', 32, "'product' instead of this"),
        ('"account.ID = cart.ACCOUNT_ID"', '"cart.ACCOUNT_ID = account.ID"', 32, "sides swapped"),
        ('"account.ID = cart.ACCOUNT_ID"', '"ACCOUNT_ID"', 32, "not of the form"),
        ('        join_on        = "account.ID = cart.ACCOUNT_ID"\n', "", 29, "no join_on or junction_table"),
        (
            "          junction_table {",
            '          join_on = "cart.ID = product.ID"\n          junction_table {',
            37,
            "join_on and junction_table",
        ),
        ('"cart.ID = CART_ID"', '"CART_ID = cart.ID"', 39, "left_join_on"),
        ('"SKU = product.SKU"', '"SKU = cart.SKU"', 40, "instead of this relationship's"),
        (
            "      external_id {",
            '      trait {\n        name = "x"\n        join_key = "x"\n      }\n      external_id {',
            29,
            "more than one",
        ),
        ("      external_id {", '      join_on = "a.b = c.d"\n      external_id {', 25, "has join_on"),
        (
            "          junction_table {",
            '          trait {\n            name = "x"\n            join_key = "x"\n          }\n          junction_table {',
            36,
            "nested and has trait",
        ),
        ("enrichment_enabled = true", 'enrichment_enabled = "true"', 12, "true or false"),
        ('primary_key = "SKU"', 'primary_key = "SKU, SHOP"', 17, "must be one column"),
        ('"DB.CUST.PRODUCT"', '"PRODUCT"', 16, "not a qualified table"),
        ('name        = "Product"', "name        = 5", 15, "is a number"),
        ('name        = "Product"', 'name        = "${x}"', 15, "${…}"),
        ('name        = "Product"', 'naem        = "Product"', 15, "unknown attribute 'naem'"),
        ('name        = "Product"', 'name        = "Product"\n    name        = "P"', 16, "set twice, first on line 15"),
        ('type           = "segment: materialized"', "type           = segment", 21, "not quoted"),
        ('type           = "segment: materialized"', 'type           = "segment:nothing"', 21, "unknown profile type"),
        ('relationship "carts"', 'relationship: "carts"', 29, "has a colon"),
        ("      external_id {", "      externalid {", 25, "unknown block 'externalid'"),
        ('    table_ref   = "DB.CUST.PRODUCT"\n', "", 14, "no 'table_ref'"),
    ],
)
def test_a_broken_rule_is_located(old: str, new: str, line: int, phrase: str) -> None:
    assert V1.count(old) >= 1
    found = errors(V1.replace(old, new, 1))
    assert any(problem.line == line and phrase in problem.message for problem in found), found


def test_a_profile_relationship_without_a_join_is_refused() -> None:
    text = V1.replace('      external_id {\n        type     = "email"\n        join_key = "EMAIL"\n      }\n', "")
    assert [(problem.line, "no external_id or trait" in problem.message) for problem in errors(text)] == [(22, True)]


def test_a_relationship_outside_of_the_profile_is_refused() -> None:
    text = V1.replace("  profile {", '  relationship "x" {\n  }\n  profile {', 1)
    assert [problem.message for problem in errors(text)] == ["a relationship outside of the profile"]


def test_all_errors_come_at_once_by_line() -> None:
    text = V1.replace('"v1.0.0"', '"v3"').replace('primary_key = "SKU"', 'primary_key = ""').replace('"cart.ID = CART_ID"', '"x"')
    assert [problem.line for problem in errors(text)] == [2, 17, 39]


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("", 1, "no data_graph block"),
        (V1.replace('"DB.CUST.CART"', '"DB.CUST.CART'), 10, "string is not closed"),
        (V1.replace('    primary_key = "SKU"\n  }\n', '    primary_key = "SKU"\n'), 14, "block is not closed"),
        (V1 + "}\n", 47, "closes nothing"),
        (V1.replace("version =", "version"), 2, "a '=' is missing"),
        ("{" * 500, 1, ""),
        ("data_graph {\n" + "a {\n" * 100 + "}\n" * 101, 41, "nested more than"),
    ],
)
def test_a_syntax_error_names_its_line(text: str, line: int, phrase: str) -> None:
    (problem,) = errors(text)
    assert problem.line == line
    assert phrase in problem.message


def test_comments_hide_nothing() -> None:
    text = V1.replace('  entity "cart" {', '  # a "quote and a {\n  // another {\n  /* two\n lines } */\n  entity "cart" {')
    assert parsed(text) == parsed(V1)


# -- back to text ------------------------------------------------------------------------------------------------------


def test_an_early_graph_prints_as_a_current_one() -> None:
    graph = parsed(SEED % CREDIT_CARD)
    text = print_graph(graph)
    current, problems = parse_graph(text)
    assert problems == ()
    assert current == dataclasses.replace(graph, version="v1.0.0")


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_what_is_printed_reads_as_the_same_graph(graph: DataGraph) -> None:
    read, problems = parse_graph(print_graph(graph))
    assert [problem for problem in problems if problem.level == "error"] == []
    assert read == graph
