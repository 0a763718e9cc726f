"""The user's SQL in models and SQL traits: one SELECT over declared schemas, with the columns that its settings name."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from cdp_assets.data_graph.model import DataGraph
from cdp_assets.space.models.settings import SpaceConfig
from cdp_assets.space.space import Problem, readable_schemas
from resources.warehouse import UserQueryError
from resources.warehouse.user_queries import parse_user_query

MAX_COLUMNS = 25
"""Columns of the query of a SQL trait, its identifier included."""
PEOPLE_COLUMNS = ("user_id", "anonymous_id")
"""Identifiers of which the query of a SQL trait returns one at most."""

_AT = re.compile(r" at line (\d+), column [^:\s]+")
# Any instant: the text is only parsed.
_PARAMETERS = {"as_of": dt.datetime(2000, 1, 1, tzinfo=dt.UTC)}


@dataclass(frozen=True)
class QueryText:
    """A query and its place. ``columns``: column, the setting that names it, and that setting's line."""

    folder: str
    key: str
    file: str
    text: str
    line: int
    columns: tuple[tuple[str, str, int], ...]


def check_queries(
    queries: Sequence[QueryText], config: SpaceConfig, graph: DataGraph | None
) -> tuple[Mapping[tuple[str, str], frozenset[str]], list[Problem]]:
    """Selected columns (lower case) by folder and key, where the query names them all, and all problems."""
    selected: dict[tuple[str, str], frozenset[str]] = {}
    problems: list[Problem] = []
    # Which schema holds the profiles is the graph's to say; without one any schema might be it.
    schemas = readable_schemas(config, graph) if graph is not None else None
    for query in queries:
        try:
            tree = parse_user_query(
                query.text,
                schemas=schemas if schemas is not None else _mentioned(query.text),
                parameters=_PARAMETERS,
                dialect=config.warehouse.type,
            )
        except UserQueryError as error:
            problems.append(_problem(query, str(error)))
            continue
        except RecursionError:
            problems.append(Problem(query.file, query.line, "the query is nested too deeply", "write it in fewer levels"))
            continue
        assert isinstance(tree, exp.Query)
        if tree.is_star:
            continue
        if query.folder == "traits":
            problems += _trait_columns(query, [name.lower() for name in tree.named_selects])
        names = frozenset(name.lower() for name in tree.named_selects)
        selected[query.folder, query.key] = names
        for column, setting, line in query.columns:
            if column.lower() not in names:
                problems.append(
                    Problem(
                        query.file,
                        line,
                        f"the query has no column {column}, which is {setting}",
                        f"select it; the columns are {', '.join(sorted(names))}",
                    )
                )
    return selected, problems


def _trait_columns(query: QueryText, names: Sequence[str]) -> Iterator[Problem]:
    """What the columns of a SQL trait's query must not be."""
    if len(names) > MAX_COLUMNS:
        message = f"the query returns {len(names)} columns; a SQL trait has at most {MAX_COLUMNS}"
        yield Problem(query.file, query.line, message, "select fewer, or write two traits")
    if set(PEOPLE_COLUMNS) <= set(names):
        message = f"the query returns both {' and '.join(PEOPLE_COLUMNS)}"
        yield Problem(query.file, query.line, message, "return one of them")
    for name, times in Counter(names).items():
        if name and times > 1:
            message = f"the query returns column {name} {times} times"
            yield Problem(query.file, query.line, message, "name each column once, with AS")


def _mentioned(text: str) -> list[str]:
    return sorted({match.lower() for match in re.findall(r'"?(\w+)"?\s*\.', text)})


def _problem(query: QueryText, message: str) -> Problem:
    at = _AT.search(message)
    line = query.line + (int(at[1]) - 1 if at else 0)
    remedy = "correct the query; it is one SELECT over the space's schemas"
    name = re.search(r"^(?:schema|table) (\S+)", message)
    if name:
        line += _line_of(name[1], query.text)
        remedy = "add the schema to warehouse.schemas in space.yaml, or read another table"
    return Problem(query.file, line, _AT.sub("", message), remedy)


def _line_of(word: str, text: str) -> int:
    found = re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
    return text.count("\n", 0, found.start()) if found else 0
