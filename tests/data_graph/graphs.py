"""Texts of data graphs that several tests read, and short ways to read them."""

from __future__ import annotations

from pathlib import Path

from cdp_assets.data_graph.hcl import parse_graph
from cdp_assets.data_graph.model import DataGraph
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
