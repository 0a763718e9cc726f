"""Scalar functions that every warehouse has under another name.

A room writes ``fn.sha256(t.email)``; Ibis carries the neutral name (``cdp_sha256``) through to SQL, and
:func:`localise` replaces it with the dialect's own expression just before execution. So expressions stay free of any
dialect, and the SQL that ``cdp sql`` prints runs as it stands.

A ``path`` is a JSON array of object keys, written with :func:`path`, never a dotted string: keys may hold dots.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Final

import ibis
import ibis.expr.types as ir
import sqlglot
from ibis.backends.sql import compilers
from ibis.backends.sql.compilers.base import SQLGlotCompiler
from ibis.common.patterns import AnyOf, InstanceOf, NoMatch, Object, Pattern
from sqlglot import exp


@ibis.udf.scalar.builtin(name="cdp_sha256")
def _sha256(value: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_json_text")
def _json_text(document: str, path: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_try_double")
def _try_double(value: str) -> float: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_try_bigint")
def _try_bigint(value: str) -> int: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_try_boolean")
def _try_boolean(value: str) -> bool: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_try_timestamp", signature=((ibis.dtype("string"),), ibis.dtype("timestamp(6)")))
def _try_timestamp(value): ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_iso_text", signature=((ibis.dtype("timestamp(6)"),), ibis.dtype("string")))
def _iso_text(value): ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(
    name="cdp_fingerprint",
    signature=(
        (ibis.dtype("string"), ibis.dtype("timestamp(6)"), ibis.dtype("string"), ibis.dtype("int64")),
        ibis.dtype("int64"),
    ),
)
def _fingerprint(text, instant, file, line): ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_byte_length")
def _byte_length(value: str) -> int: ...  # type: ignore[empty-body]


@ibis.udf.scalar.builtin(name="cdp_json_inside")
def _json_inside(value: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.agg.builtin(name="cdp_sorted_join")
def _sorted_join(value: str, separator: str) -> str: ...  # type: ignore[empty-body]


@ibis.udf.agg.builtin(name="max_by")
def _max_by(value: str, key: int) -> str: ...  # type: ignore[empty-body]


def newest(value: ir.StringValue, by: ir.IntegerValue) -> ir.StringScalar:
    """The text with the greatest ``by`` of a group. Neither may be NULL: what engines make of that differs.

    All engines have it by this name; Ibis' own ``argmax`` becomes a sorted aggregate, which takes DuckDB several times as long.
    """
    return _max_by(value, by)


def sha256(value: ir.StringValue) -> ir.StringValue:
    """Lower-case hex SHA-256 of a text."""
    return _sha256(value)


def path(*keys: str) -> str:
    """Path of object keys into a JSON document, as :func:`json_text` wants it."""
    return json.dumps(list(keys), separators=(",", ":"), ensure_ascii=False)


def json_text(document: ir.StringValue, *keys: str) -> ir.StringValue:
    """Value at ``keys`` of a JSON text as text; NULL when absent or JSON null. Objects and arrays come as JSON text."""
    return _json_text(document, path(*keys))


def try_double(value: ir.StringValue) -> ir.FloatingValue:
    """Text as float64, NULL when it is not a number."""
    return _try_double(value)


def try_bigint(value: ir.StringValue) -> ir.IntegerValue:
    """Text as int64, NULL when it is not a whole number (``3.7`` is rounded by the engine: check the text first)."""
    return _try_bigint(value)


def try_boolean(value: ir.StringValue) -> ir.BooleanValue:
    """Text ``true``/``false`` as boolean, else NULL."""
    return _try_boolean(value)


def try_timestamp(value: ir.StringValue) -> ir.TimestampValue:
    """ISO-8601 text as naive UTC timestamp, NULL when it is none. A zone offset is applied; a text without one is read as UTC."""
    return _try_timestamp(value)


def iso_text(value: ir.TimestampValue) -> ir.StringValue:
    """Naive UTC timestamp as ISO-8601 text with microseconds and ``Z``."""
    return _iso_text(value)


def fingerprint(text: ir.StringValue, instant: ir.TimestampValue, file: ir.StringValue, line: ir.IntegerValue) -> ir.IntegerValue:
    """A whole number below 2**62 that tells rows apart. It is the engine's own: never compare those of two engines."""
    return _fingerprint(text, instant, file, line)


def byte_length(value: ir.StringValue) -> ir.IntegerValue:
    """Bytes of a text in UTF-8."""
    return _byte_length(value)


def json_inside(value: ir.StringValue) -> ir.StringValue:
    """The inside of a JSON string of the text. Control characters other than newlines, returns and tabs are left out."""
    return _json_inside(value)


def sorted_join(value: ir.StringColumn, separator: str = ",") -> ir.StringScalar:
    """Aggregate: all non-null texts of the group in code point order, duplicates included, joined by a separator."""
    return _sorted_join(value, separator)


def _args(node: exp.Anonymous) -> list[exp.Expr]:
    return list(node.expressions)


def _keys(argument: exp.Expr) -> list[str]:
    return json.loads(argument.this)


def _bracketed_path(keys: list[str]) -> exp.Expr:
    """``$['a']['b']``: Spark finds nothing by a name in double quotes."""
    return exp.Literal.string("$" + "".join(f"['{key}']" for key in keys))


def _quoted_path(keys: list[str], root: str) -> exp.Expr:
    quoted = [key.replace("\\", "\\\\").replace('"', '\\"') for key in keys]
    return exp.Literal.string(root + ".".join(f'"{key}"' for key in quoted))


def _call(name: str, *args: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(args))


def _try(kind: str) -> Callable[[exp.Anonymous], exp.Expr]:
    def build(node: exp.Anonymous) -> exp.Expr:
        return exp.TryCast(this=exp.cast(_args(node)[0], "varchar"), to=exp.DataType.build(kind))

    return build


def _duckdb_timestamp(node: exp.Anonymous) -> exp.Expr:
    # Casting straight to TIMESTAMP drops the offset; through TIMESTAMPTZ it is applied. The session runs in UTC.
    zoned = exp.TryCast(this=_args(node)[0], to=exp.DataType.build("timestamptz"))
    return exp.cast(exp.AtTimeZone(this=zoned, zone=exp.Literal.string("UTC")), "timestamp")


def _snowflake_timestamp(node: exp.Anonymous) -> exp.Expr:
    zoned = exp.TryCast(this=exp.cast(_args(node)[0], "varchar"), to=exp.DataType.build("TIMESTAMP_TZ", dialect="snowflake"))
    utc = _call("CONVERT_TIMEZONE", exp.Literal.string("UTC"), zoned)
    return exp.cast(utc, exp.DataType.build("TIMESTAMP_NTZ", dialect="snowflake"))


def _hashed(function: str) -> Callable[[exp.Anonymous], exp.Expr]:
    # Some engines hash to unsigned 64 bits: what is left of 62 fits everywhere.
    return lambda node: exp.cast(exp.Mod(this=_call(function, *_args(node)), expression=exp.Literal.number(2**62)), "bigint")


def _text_of(function: str, pattern: str) -> Callable[[exp.Anonymous], exp.Expr]:
    return lambda node: _call(function, _args(node)[0], exp.Literal.string(pattern))


def _snowflake_iso_text(node: exp.Anonymous) -> exp.Expr:
    # From its parts, not TO_CHAR with a format: local servers that speak Snowflake's protocol ignore the format.
    parts = sqlglot.parse_one(
        "LPAD(CAST(YEAR(x) AS VARCHAR), 4, '0') || '-' || LPAD(CAST(MONTH(x) AS VARCHAR), 2, '0') || '-' || "
        "LPAD(CAST(DAY(x) AS VARCHAR), 2, '0') || 'T' || LPAD(CAST(HOUR(x) AS VARCHAR), 2, '0') || ':' || "
        "LPAD(CAST(MINUTE(x) AS VARCHAR), 2, '0') || ':' || LPAD(CAST(SECOND(x) AS VARCHAR), 2, '0') || '.' || "
        "LPAD(CAST(DATEDIFF(MICROSECOND, DATE_TRUNC('SECOND', x), x) AS VARCHAR), 6, '0') || 'Z'",
        read="snowflake",
    )
    value = _args(node)[0]
    return exp.paren(parts.transform(lambda n: value.copy() if isinstance(n, exp.Column) and n.name.lower() == "x" else n))


def _bigquery_timestamp(node: exp.Anonymous) -> exp.Expr:
    # A naive timestamp is a DATETIME there.
    return _call("DATETIME", exp.TryCast(this=_args(node)[0], to=exp.DataType.build("TIMESTAMP", dialect="bigquery")))


def _escaped(node: exp.Anonymous, controls: str = "[[:cntrl:]]", **options: exp.Expr) -> exp.Expr:
    (inside,) = _args(node)
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        inside = _call("REPLACE", inside, exp.Literal.string(character), exp.Literal.string(escaped))
    pattern, nothing = exp.Literal.string(controls), exp.Literal.string("")
    return exp.RegexpReplace(this=inside, expression=pattern, replacement=nothing, **options)


def _escaped_where_needed(node: exp.Anonymous) -> exp.Expr:
    """Few texts hold anything to escape, and to look once costs less than to look for each."""
    found = exp.RegexpLike(this=_args(node)[0].copy(), expression=exp.Literal.string(r'[\\"[:cntrl:]]'))
    return exp.Case(
        ifs=[exp.If(this=found, true=_escaped(node, modifiers=exp.Literal.string("g")))], default=_args(node)[0].copy()
    )


def _string_agg(node: exp.Anonymous) -> exp.Expr:
    value, separator = _args(node)
    ordered = exp.Order(this=value, expressions=[exp.Ordered(this=value.copy())])
    return exp.GroupConcat(this=ordered, separator=separator)


def _list_join(node: exp.Anonymous) -> exp.Expr:
    """A list that is sorted once it is whole: an aggregate with an order of its own takes DuckDB twice as long."""
    value, separator = _args(node)
    there = exp.Where(this=exp.Is(this=value.copy(), expression=exp.null()).not_())
    return _call("ARRAY_TO_STRING", _call("LIST_SORT", exp.Filter(this=_call("LIST", value), expression=there)), separator)


def _listagg(node: exp.Anonymous) -> exp.Expr:
    value, separator = _args(node)
    ordered = exp.Order(expressions=[exp.Ordered(this=value.copy())])
    return exp.WithinGroup(this=_call("LISTAGG", value, separator), expression=ordered)


def _array_join(node: exp.Anonymous) -> exp.Expr:
    value, separator = _args(node)
    return _call("ARRAY_JOIN", _call("ARRAY_SORT", _call("COLLECT_LIST", value)), separator)


_REWRITES: dict[str, dict[str, Callable[[exp.Anonymous], exp.Expr]]] = {
    "duckdb": {
        "CDP_SHA256": lambda n: _call("SHA256", *_args(n)),
        "CDP_JSON_TEXT": lambda n: _call("JSON_EXTRACT_STRING", _args(n)[0], _quoted_path(_keys(_args(n)[1]), "$.")),
        "CDP_TRY_DOUBLE": _try("double"),
        "CDP_TRY_BIGINT": _try("bigint"),
        "CDP_TRY_BOOLEAN": _try("boolean"),
        "CDP_TRY_TIMESTAMP": _duckdb_timestamp,
        "CDP_FINGERPRINT": _hashed("HASH"),
        "CDP_ISO_TEXT": _text_of("STRFTIME", "%Y-%m-%dT%H:%M:%S.%fZ"),
        "CDP_BYTE_LENGTH": lambda n: _call("STRLEN", *_args(n)),
        "CDP_JSON_INSIDE": _escaped_where_needed,
        "CDP_SORTED_JOIN": _list_join,
    },
    "snowflake": {
        "CDP_SHA256": lambda n: _call("SHA2", _args(n)[0], exp.Literal.number(256)),
        "CDP_JSON_TEXT": lambda n: exp.cast(
            _call("GET_PATH", _call("TRY_PARSE_JSON", _args(n)[0]), _quoted_path(_keys(_args(n)[1]), "")), "varchar"
        ),
        "CDP_TRY_DOUBLE": _try("double"),
        "CDP_TRY_BIGINT": _try("bigint"),
        "CDP_TRY_BOOLEAN": _try("boolean"),
        "CDP_TRY_TIMESTAMP": _snowflake_timestamp,
        "CDP_FINGERPRINT": _hashed("HASH"),
        "CDP_ISO_TEXT": _snowflake_iso_text,
        # Local servers tell a text from a binary value by the cast.
        "CDP_BYTE_LENGTH": lambda n: _call("OCTET_LENGTH", exp.cast(_args(n)[0], exp.DataType.Type.VARCHAR)),
        "CDP_JSON_INSIDE": _escaped,
        "CDP_SORTED_JOIN": _listagg,
    },
    "bigquery": {
        "CDP_SHA256": lambda n: _call("TO_HEX", _call("SHA256", *_args(n))),
        "CDP_JSON_TEXT": lambda n: _call("JSON_VALUE", _args(n)[0], _quoted_path(_keys(_args(n)[1]), "$.")),
        "CDP_TRY_DOUBLE": _try("double"),
        "CDP_TRY_BIGINT": _try("bigint"),
        "CDP_TRY_BOOLEAN": _try("boolean"),
        "CDP_TRY_TIMESTAMP": _bigquery_timestamp,
        "CDP_FINGERPRINT": lambda n: _call(
            "FARM_FINGERPRINT", _call("FORMAT", exp.Literal.string("%T"), _call("STRUCT", *_args(n)))
        ),
        "CDP_ISO_TEXT": lambda n: _call("FORMAT_DATETIME", exp.Literal.string("%Y-%m-%dT%H:%M:%E6SZ"), *_args(n)),
        "CDP_BYTE_LENGTH": lambda n: _call("BYTE_LENGTH", *_args(n)),
        "CDP_JSON_INSIDE": _escaped,
        "CDP_SORTED_JOIN": _string_agg,
    },
    "databricks": {
        "CDP_SHA256": lambda n: _call("SHA2", _args(n)[0], exp.Literal.number(256)),
        "CDP_JSON_TEXT": lambda n: _call("GET_JSON_OBJECT", _args(n)[0], _bracketed_path(_keys(_args(n)[1]))),
        "CDP_TRY_DOUBLE": _try("double"),
        "CDP_TRY_BIGINT": _try("bigint"),
        "CDP_TRY_BOOLEAN": _try("boolean"),
        "CDP_TRY_TIMESTAMP": _try("timestamp"),
        "CDP_FINGERPRINT": _hashed("XXHASH64"),
        "CDP_ISO_TEXT": _text_of("DATE_FORMAT", "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'"),
        "CDP_BYTE_LENGTH": lambda n: _call("OCTET_LENGTH", *_args(n)),
        "CDP_JSON_INSIDE": lambda n: _escaped(n, r"\p{Cntrl}"),
        "CDP_SORTED_JOIN": _array_join,
    },
}


_MORE_THAN_NARROWING: Final = ("joins", "group", "distinct", "having", "qualify", "limit", "with_")
_PASSES_ON: Final = (exp.Alias, exp.Cast, exp.TryCast, exp.Anonymous)


def _is_json_text(node: exp.Expr) -> bool:
    return isinstance(node, exp.Anonymous) and str(node.this).upper() == "CDP_JSON_TEXT"


def _open_once(tree: exp.Expr) -> None:
    """Read all texts that a SELECT takes out of one document with one call, so that DuckDB parses the document once.

    Each place becomes an element of the same list of texts, which DuckDB computes once. Within CASE, AND and OR it would be computed
    again, so those stay as they are.
    """
    for select in tree.find_all(exp.Select):
        documents: dict[str, list[exp.Anonymous]] = {}
        waiting = list(select.expressions)
        while waiting:
            node = waiting.pop()
            if _is_json_text(node):
                documents.setdefault(_args(node)[0].sql(), []).append(node)
            elif isinstance(node, _PASSES_ON):
                waiting += node.iter_expressions()
        for texts in documents.values():
            paths = sorted({_args(text)[1].this for text in texts})
            if len(paths) < 2:
                continue
            for text in texts:
                document, path = _args(text)
                places = exp.Array(expressions=[_quoted_path(json.loads(one), "$.") for one in paths])
                listed = _call("JSON_EXTRACT_STRING", document, places)
                text.replace(exp.Bracket(this=listed, expressions=[exp.Literal.number(paths.index(path.this) + 1)], offset=1))


def _read_again(tree: exp.Expr) -> None:
    """What only narrows a table is read again by each that asks for it: else DuckDB copies it first, and not only what they ask for."""
    for shared in tree.find_all(exp.CTE):
        if _narrows(shared.this):
            shared.set("materialized", False)


def _narrows(query: exp.Expr) -> bool:
    """Whether a query takes rows and columns of one table, and computes nothing over several rows."""
    if not isinstance(query, exp.Select) or any(query.args.get(part) for part in _MORE_THAN_NARROWING):
        return False
    if any(column.find(exp.Window, exp.Unnest, exp.AggFunc) for column in query.expressions):
        return False
    source = query.args["from_"].this
    return isinstance(source, exp.Table) or (isinstance(source, exp.Subquery) and _narrows(source.this))


def localise(tree: exp.Expr, dialect: str) -> exp.Expr:
    """Replace every neutral ``cdp_*`` call in ``tree``, in place, by the dialect's own expression."""
    rewrites = _REWRITES[dialect]

    def replace(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Anonymous):
            build = rewrites.get(str(node.this).upper())
            if build is not None:
                return build(node)
        return node

    return tree.transform(replace, copy=False)


@functools.cache
def _compilers(dialect: str) -> tuple[SQLGlotCompiler, SQLGlotCompiler, dict[type, list[Pattern]]]:
    """A dialect's compiler, the same without the rewrites that it begins with, and what these look for, by type of operation."""
    whole = getattr(compilers, dialect).compiler
    lean = type("Lean", (type(whole),), {"__slots__": (), "rewrites": (), "LOWERED_OPS": {}, "lowered_ops": {}})()
    wanted: dict[type, list[Pattern]] = {}
    for rewrite in (*whole.rewrites, *whole.lowered_ops.values()):
        for operation in _operations(rewrite.matcher):
            wanted.setdefault(operation, []).append(rewrite.matcher)
    return whole, lean, wanted


def _operations(pattern: Pattern) -> set[type]:
    """Types of operations, or what they derive from, of which the pattern may match one."""
    match pattern:
        case Object():
            return _operations(pattern.type)
        case AnyOf():
            return {operation for one in pattern.patterns for operation in _operations(one)}
        case InstanceOf():
            return {pattern.type}
    return {object}


def _compiler_of(expression: ir.Expr, dialect: str) -> SQLGlotCompiler:
    """Each rewrite that a compiler begins with walks the whole expression, and few expressions hold anything that one is for."""
    whole, lean, wanted = _compilers(dialect)
    for node in expression.op().find(tuple(wanted)):
        patterns = (one for operation, some in wanted.items() if isinstance(node, operation) for one in some)
        if any(one.match(node, {}) is not NoMatch for one in patterns):
            return whole
    return lean


def compile_expression(
    expression: ir.Expr, dialect: str, user_queries: dict[str, exp.Expr] | None = None, *, merged: bool = False
) -> exp.Expr:
    """Ibis expression as a sqlglot tree of ``dialect``, neutral functions localised, user queries put in place.

    ``user_queries`` maps the stand-in table names made by ``Warehouse.user_query`` to their parsed SELECT. ``merged``: selects are merged
    where they can be, which people read better. Engines merge them anyway, and it is half of what compiling takes.
    """
    ibis.options.sql.fuse_selects = merged
    # The compiler's own tree: ibis.to_sql would print it, and we would parse it again, at half the cost of a small query.
    # It shares nodes between places; a copy gives each place its own, so that replacing one replaces it everywhere.
    tree = _compiler_of(expression, dialect).to_sqlglot(expression).copy()
    if dialect == "duckdb":
        _open_once(tree)
        _read_again(tree)
    # Bottom-up within one pass would skip calls nested in a replaced call's arguments; repeat until none is left.
    for _ in range(8):
        if not any(str(n.this).upper().startswith("CDP_") for n in tree.find_all(exp.Anonymous)):
            break
        tree = localise(tree, dialect)
    if user_queries:

        def inline(node: exp.Expr) -> exp.Expr:
            if isinstance(node, exp.Table) and node.name in user_queries:
                alias = node.args.get("alias")
                return exp.Query.subquery(user_queries[node.name].copy(), alias.copy() if alias else None)  # type: ignore[arg-type]
            return node

        tree = tree.transform(inline, copy=False)
    return tree
