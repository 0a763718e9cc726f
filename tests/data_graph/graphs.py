"""Texts of data graphs that several tests read, and short ways to read them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import ColumnJoin, DataGraph, Entity, ExternalIdJoin, JunctionJoin, Relationship, TraitJoin
from cdp_assets.space.space import Problem

MINI = (Path(__file__).parents[1] / "fixtures/spaces/mini/data_graph.hcl").read_text()

V1 = """data_graph {
  version = "v1.0.0"
  entity "account" {
    name        = "Account"
    table_ref   = "DB.CUST.ACCOUNT"
    primary_key = "ID"
  }
  entity "cart" {
    name               = "Cart"
    table_ref          = "DB.CUST.CART"
    primary_key        = "ID"
    enrichment_enabled = true
  }
  entity "product" {
    name        = "Product"
    table_ref   = "DB.CUST.PRODUCT"
    primary_key = "SKU"
  }
  profile {
    profile_folder = "DB.PROFILES"
    type           = "segment: materialized"
    relationship "accounts" {
      name           = "Accounts"
      related_entity = "account"
      external_id {
        type     = "email"
        join_key = "EMAIL"
      }
      relationship "carts" {
        name           = "Carts"
        related_entity = "cart"
        join_on        = "account.ID = cart.ACCOUNT_ID"
        relationship "products" {
          name           = "Products"
          related_entity = "product"
          junction_table {
            table_ref     = "DB.CUST.CART_PRODUCT"
            primary_key   = "ID"
            left_join_on  = "cart.ID = CART_ID"
            right_join_on = "SKU = product.SKU"
          }
        }
      }
    }
  }
}
"""

# As on the slides of 2024: barewords, labels with spaces, aliases in any case, a relationship beside the one it joins to.
SEED = """data_graph {
  version = "v0.0.4"
  profile {
    profile_folder = "segment"
    type = segment
    relationship "Accounts" {
      related_entity = "account"
      external_id {
        type = "email"
        join_key = "email_id"
      }
    }
    relationship: "Credit Card" {
      related_entity = "credit_card"
      join_on = "ACCOUNT.ID = credit_card.account_id"
    }
  }
  entity "account" {
    table_ref = "cust.account"
    primary_key = "id"
  }
%s}
"""
CREDIT_CARD = """  entity "credit_card" {
    table_ref = "cust.credit_card"
    primary_key = "id"
  }
"""


def parsed(text: str) -> DataGraph:
    graph, problems = parse_graph(text)
    assert graph is not None, problems
    return graph


def errors(text: str) -> list[Problem]:
    graph, problems = parse_graph(text)
    assert graph is None
    return [problem for problem in problems if problem.level == "error"]


def chain(nodes: int) -> str:
    """A v1 graph with a path of so many nodes, counting the profile."""
    lines, indent = [], "    "
    for number in range(1, nodes):
        join = 'trait {\nname = "t"\njoin_key = "id"\n}' if number == 1 else 'join_on = "a.parent = a.id"'
        lines.append(f'{indent}relationship "r{number}" {{\nname = "R"\nrelated_entity = "a"\n{join}')
    lines += ["}"] * (nodes - 1)
    entity = 'entity "a" {\nname = "A"\ntable_ref = "d.s.a"\nprimary_key = "id"\n}'
    profile = 'profile {\nprofile_folder = "d.p"\ntype = "segment:materialized"\n'
    return f'data_graph {{\nversion = "v1.0.0"\n{entity}\n{profile}' + "\n".join(lines) + "\n}\n}\n"


# -- any graph ---------------------------------------------------------------------------------------------------------

slugs = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)
columns = st.from_regex(r"[A-Za-z_][A-Za-z0-9_$]{0,8}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)
odd_texts = texts | st.sampled_from(
    ['"', "\\", "${a}", "%{ if", "$${", "a # b", "{", "}", "\n", "\r\nx", "\x00", "// x", "\u2028x"]
).map(lambda text: text + "." if not text.strip() else text)
tables = st.tuples(columns, columns, columns).map(".".join) | st.tuples(columns, columns).map(".".join)


@st.composite
def graphs(draw: st.DrawFn) -> DataGraph:
    names = draw(st.lists(slugs, min_size=1, max_size=4, unique=True))
    entities = tuple(
        Entity(slug, draw(odd_texts), draw(tables), draw(columns), draw(st.just("") | odd_texts), draw(st.booleans()))
        for slug in names
    )
    unused = draw(st.lists(slugs, min_size=6, max_size=6, unique=True))

    def joined(below_profile: bool) -> ExternalIdJoin | TraitJoin | ColumnJoin | JunctionJoin:
        if below_profile:
            return draw(st.builds(ExternalIdJoin, odd_texts, columns) | st.builds(TraitJoin, odd_texts, columns))
        junction = st.builds(JunctionJoin, tables, columns, columns, columns, columns, columns)
        return draw(st.builds(ColumnJoin, columns, columns) | junction)

    def branches(depth: int) -> tuple[Relationship, ...]:
        found = []
        for _ in range(draw(st.integers(0, 2 if depth < 5 else 0))):
            if unused:
                found.append(
                    Relationship(
                        unused.pop(),
                        draw(odd_texts),
                        draw(st.sampled_from(names)),
                        joined(depth == 0),
                        branches(depth + 1),
                        draw(st.just("") | odd_texts),
                    )
                )
        return tuple(found)

    kind = draw(st.sampled_from(["segment:materialized", "segment:unmaterialized", "segment:dbt"]))
    return DataGraph("v1.0.0", draw(columns), kind, entities, branches(0))
