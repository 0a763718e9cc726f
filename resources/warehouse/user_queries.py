"""The guard of SQL that users write: one SELECT, over schemas that they declared."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import sqlglot
from sqlglot import exp

from resources.warehouse.errors import UserQueryError
from resources.warehouse.values import naive_utc


def parse_user_query(
    sql: str, *, schemas: Sequence[str], parameters: Mapping[str, Any] | None = None, dialect: str = "duckdb"
) -> exp.Expr:
    """The guard of user SQL, without a database: one SELECT over ``schemas``. Returns the tree with parameters filled in."""
    try:
        statements = [s for s in sqlglot.parse(sql, read=dialect) if s is not None]
    except sqlglot.errors.SqlglotError as error:
        detail: dict[str, Any] = next(iter(getattr(error, "errors", [])), {})
        raise UserQueryError(
            f"not valid SQL at line {detail.get('line', '?')}, column {detail.get('col', '?')}: {detail.get('description', 'parse error')}"
        ) from None
    if len(statements) != 1:
        raise UserQueryError(f"expected one SELECT, found {len(statements)} statements")
    tree = statements[0]
    if not isinstance(tree, exp.Query):
        raise UserQueryError(f"expected one SELECT, found {tree.key.upper()}")
    for forbidden in (exp.Into, exp.DML, exp.DDL, exp.Command):
        found = tree.find(forbidden)
        if found is not None and not isinstance(found, exp.Query):
            raise UserQueryError(f"expected one SELECT, found {found.key.upper()} inside it")
    allowed = {schema.lower() for schema in schemas}
    ctes = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            raise UserQueryError(
                f"table function {table.this.sql(dialect)[:40]} is not allowed; read tables of {', '.join(sorted(allowed))}"
            )
        if not table.db:
            if table.name.lower() in ctes:
                continue
            raise UserQueryError(f"table {table.name} needs its schema; one of {', '.join(sorted(allowed))}")
        if table.db.lower() not in allowed:
            raise UserQueryError(f"schema {table.db} is not declared; allowed: {', '.join(sorted(allowed))}")
    values = dict(parameters or {})

    def fill(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Placeholder) and node.name:
            if node.name not in values:
                raise UserQueryError(f"unknown parameter :{node.name}; known: {', '.join(sorted(values)) or 'none'}")
            value = values[node.name]
            if isinstance(value, dt.datetime):
                text = naive_utc(value).isoformat(sep=" ", timespec="microseconds")
                return exp.cast(exp.Literal.string(text), "timestamp")
            return exp.convert(value)
        return node

    return tree.transform(fill)
