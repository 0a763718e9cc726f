"""A small bank for audience tests: its graph with every kind of join, and its tables."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cdp_assets.data_graph.model import ColumnJoin, Entity, ExternalIdJoin, JunctionJoin, Relationship, TraitJoin
from cdp_assets.linked_audiences.build import build_audiences
from cdp_assets.linked_audiences.partition import AudienceResult
from cdp_assets.linked_audiences.tables import AUDIENCE_CONTEXT, AUDIENCE_MEMBERS
from cdp_assets.space.space import Space
from resources.warehouse import Warehouse
from tests.people import AS_OF, World, revisions, space, window

ENTITIES = (
    Entity("account", "Account", "bank.accounts", "ID"),
    Entity("card", "Card", "BANK.CARDS", "card_no"),
    Entity("payment", "Payment", "bank.payments", "id"),
    Entity("product", "Product", "bank.products", "id"),
    Entity("ticket", "Ticket", "bank.tickets", "id"),
    Entity("offer", "Offer", "bank.offers", "id"),
)
RELATIONSHIPS = (
    Relationship(
        "accounts",
        "Accounts",
        "account",
        ExternalIdJoin("email", "OWNER"),
        (
            Relationship(
                "cards",
                "Cards",
                "card",
                ColumnJoin("id", "account_id"),
                # serials are whole numbers, payments name them as text; not the primary key, so it may be null
                (Relationship("payments", "Payments", "payment", ColumnJoin("serial", "card")),),
            ),
            Relationship(
                "products", "Products", "product", JunctionJoin("bank.holdings", "id", "id", "account_id", "product_id", "id")
            ),
        ),
    ),
    Relationship("tickets", "Tickets", "ticket", ExternalIdJoin("user_id", "client")),
    Relationship("offers", "Offers", "offer", TraitJoin("plan", "plan")),
)
COLUMNS = {
    "accounts": {"id": "int64", "owner": "string", "kind": "string", "balance": "float64", "renews": "date"},
    "cards": {"card_no": "int64", "account_id": "int64", "overdue": "boolean", "amount": "int64", "serial": "int64"},
    "payments": {"id": "string", "card": "string", "amount": "int64", "at": "timestamp"},
    "products": {"id": "int64", "kind": "string"},
    "holdings": {"id": "int64", "account_id": "int64", "product_id": "int64"},
    "tickets": {"id": "int64", "client": "int64", "status": "string"},
    "offers": {"id": "int64", "plan": "string"},
}


def bank_space(*audiences: dict[str, Any], traits: list[dict[str, Any]] | None = None) -> Space:
    return space(*RELATIONSHIPS, entities=ENTITIES, traits=traits, audiences=list(audiences))


def one_group(key: str, *conditions: dict[str, Any], match: str = "all") -> dict[str, Any]:
    return {"key": key, "groups": [{"match": match, "conditions": list(conditions)}]}


def where(*filters: tuple[Any, ...], match: str = "all") -> dict[str, Any]:
    return {match: [{"column": f[0], "operator": f[1], **({"value": f[2]} if len(f) > 2 else {})} for f in filters]}


def bank(**tables: list[tuple[Any, ...]]) -> World:
    """A world with the bank's tables; rows as tuples in the order of COLUMNS, shorter ones filled with None."""
    world = World()
    for name, columns in COLUMNS.items():
        rows = [dict(zip(columns, (*row, *[None] * len(columns)), strict=False)) for row in tables.get(name, [])]
        world.table(name, columns, rows)
    return world


def build(warehouse: Warehouse, made: Space, as_of: dt.datetime = AS_OF, **more: Any) -> dict[str, AudienceResult]:
    keys = more.pop("keys", list(made.audiences))
    more.setdefault("funnels", False)
    return build_audiences(
        warehouse,
        made,
        keys,
        window(made, as_of),
        as_of,
        loaded_at=as_of,
        run_id="run",
        revisions=revisions(made),
        **more,
    )


def members(warehouse: Warehouse, made: Space, key: str, as_of: dt.datetime = AS_OF) -> list[str]:
    table = warehouse.table(AUDIENCE_MEMBERS.ref)
    mine = table.filter((table.audience == key) & (table.partition_key == window(made, as_of).key))
    return sorted(row["canonical_segment_id"] for row in warehouse.rows(mine, 10_000))


def context(warehouse: Warehouse, made: Space, key: str, as_of: dt.datetime = AS_OF) -> list[tuple[str, str, str, str | None]]:
    table = warehouse.table(AUDIENCE_CONTEXT.ref)
    mine = table.filter((table.audience == key) & (table.partition_key == window(made, as_of).key))
    names = ("canonical_segment_id", "path", "entity_id", "parent_entity_id")
    return sorted((tuple(row[n] for n in names) for row in warehouse.rows(mine, 10_000)), key=str)
