"""The walk over a parsed SQL statement that finds what it names and refuses what cannot be repeated.

DuckDB parses; the tree comes as JSON. One function per kind of node that matters says what is wrong with it, in words
for the person who wrote the query, and where the right way lies. `curation.sqlguard` asks and answers for the rest.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

TABLES = ("rows", "traces", "verdicts")

_TABLE_FUNCTIONS = {"range", "generate_series", "unnest", "json_each", "json_tree"}
"""What may stand after FROM beside tables: functions of their arguments alone."""

_ENGINE_HASHES = {"hash", "md5_number", "md5_number_lower", "md5_number_upper"}
"""Numbers whose bits belong to an engine or to a machine's byte order."""

_ESTIMATES = {"approx_count_distinct", "approx_quantile", "approx_top_k", "reservoir_quantile"}

_CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
"""Names that SQL reads as a call although they are written like a column."""

_ORDERED_AGGREGATES = {
    "first", "last", "any_value", "arbitrary", "list", "array_agg", "string_agg", "group_concat", "listagg",
    "first_value", "last_value", "json_group_array", "json_group_object", "json_group_structure",
}  # fmt: skip
_ORDERED_WINDOWS = {"row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value", "first", "last"}


# ---------------------------------------------------------------------------------------------------------- connections

_local = threading.local()


def connection() -> duckdb.DuckDBPyConnection:
    """This thread's DuckDB: one thread, no files, no network, settings locked. It holds no data between calls."""
    found: duckdb.DuckDBPyConnection | None = getattr(_local, "connection", None)
    if found is None:
        import duckdb

        found = duckdb.connect()
        # One thread keeps rows in order and sums of floats alike; UTC keeps times alike.
        for setting in (
            "threads = 1",
            "TimeZone = 'UTC'",
            "enable_progress_bar = false",
            "enable_external_access = false",
        ):
            found.execute(f"set {setting}")
        found.execute("set lock_configuration = true")
        _local.connection = found
    return found


# -------------------------------------------------------------------------------------------------------------- parsing


@cache
def _functions() -> tuple[frozenset[str], frozenset[str], Mapping[str, tuple[str, ...]]]:
    """Names of functions whose result is not a function of their arguments; of aggregates; and the bodies of macros."""
    unstable, aggregates = set(), set()
    macros: dict[str, tuple[str, ...]] = {}
    for name, kind, stability, body in (
        connection()
        .execute("select function_name, function_type, stability, macro_definition from duckdb_functions()")
        .fetchall()
    ):
        if kind == "macro":
            macros[name] = (*macros.get(name, ()), body)
        elif kind == "scalar" and stability != "CONSISTENT":
            unstable.add(name)
        elif kind == "aggregate":
            aggregates.add(name)
    return frozenset(unstable), frozenset(aggregates), macros


def statement(sql: str) -> dict[str, Any]:
    """The parse tree of one SELECT. Raises ValueError with DuckDB's own words for anything else."""
    if "\0" in sql:
        raise ValueError("the SQL has a NUL character in it")
    found = connection().execute("select json_serialize_sql(?)", [sql]).fetchone()
    assert found is not None
    tree = json.loads(found[0])
    if tree["error"]:
        message = tree["error_message"]
        if tree["error_type"] == "not implemented":
            message = "only one SELECT statement can stand here"
        raise ValueError(message)
    if len(tree["statements"]) != 1:
        raise ValueError(f"only one SELECT statement can stand here; this has {len(tree['statements'])}")
    node: dict[str, Any] = tree["statements"][0]["node"]
    return node


@dataclass
class Seen:
    names: set[str]
    tables: set[str]
    aliases: set[str]
    aggregates: set[str]
    star: bool = False
    subquery: bool = False
    window: bool = False


def _refuse_function(name: str, node: Mapping[str, Any], seen: Seen) -> None:
    unstable, aggregates, _ = _functions()
    if name in _ENGINE_HASHES:
        raise ValueError(
            f"{name}() gives numbers that belong to one engine and may change with it. Use md5() or sha256(), which "
            "are the same everywhere."
        )
    if name in unstable or _macro_is_unstable(name):
        raise ValueError(
            f"{name}() does not give the same result every time, so the version could not be built again. For a "
            "random choice use "
            "row_id, md5(row_id), or the stages mix and split."
        )
    if name in _ESTIMATES:
        raise ValueError(
            f"{name}() is an estimate that may differ between machines. Use the exact form (count(distinct …), "
            "quantile_disc)."
        )
    if name in aggregates:
        seen.aggregates.add(name)
        if name in _ORDERED_AGGREGATES and not node["order_bys"]["orders"]:
            raise ValueError(f"{name}() depends on the order of rows. Give it one: {name}(… ORDER BY row_id).")


@lru_cache(maxsize=512)
def _macro_is_unstable(name: str) -> bool:
    unstable, _, macros = _functions()
    for body in macros.get(name, ()):
        called = {
            str(n["function_name"]).lower() for n in _nodes(statement(f"select {body}")) if n.get("class") == "FUNCTION"
        }
        read = {
            str(n["column_names"][0]).lower()
            for n in _nodes(statement(f"select {body}"))
            if n.get("class") == "COLUMN_REF"
        }
        if (
            called & (unstable | _ENGINE_HASHES)
            or read & _CLOCKS
            or any(_macro_is_unstable(c) for c in called - {name})
        ):
            return True
    return False


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a parse tree."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _walk(tree: Any, seen: Seen, bound: frozenset[str] = frozenset()) -> None:
    """Look at a tree from the outside in. `bound` are the parameters of the lambdas around it."""
    if isinstance(tree, list):
        for item in tree:
            _walk(item, seen, bound)
        return
    if not isinstance(tree, dict):
        return
    kind = tree.get("class") or tree.get("type")
    if tree.get("sample"):
        raise ValueError("TABLESAMPLE draws other rows every time. Use the stage mix, or a condition on md5(row_id).")
    if tree.get("alias") and tree.get("class"):
        seen.aliases.add(tree["alias"])
    if kind == "COLUMN_REF":
        _column(tree["column_names"], seen, bound)
    elif kind == "LAMBDA":
        parameters = frozenset(n["column_names"][0] for n in _nodes(tree["lhs"]) if n.get("class") == "COLUMN_REF")
        _walk(tree["expr"], seen, bound | parameters)
        return
    elif kind == "FUNCTION":
        _refuse_function(str(tree["function_name"]).lower(), tree, seen)
    elif kind == "WINDOW":
        seen.window = True
        name = str(tree["function_name"]).lower()
        if name in _ORDERED_WINDOWS and not tree["orders"]:
            raise ValueError(f"{name}() depends on the order of rows. Give it one: {name}() OVER (… ORDER BY row_id).")
        if name not in _ORDERED_WINDOWS and name in _ORDERED_AGGREGATES and not (tree["orders"] or tree["arg_orders"]):
            raise ValueError(f"{name}() depends on the order of rows. Give it one: {name}(…) OVER (… ORDER BY row_id).")
    elif kind == "STAR":
        seen.star = True
    elif kind == "SUBQUERY":
        seen.subquery = True
    elif kind == "PARAMETER":
        raise ValueError("parameters ($1, ?) cannot stand in a recipe; write the value")
    elif kind == "SHOW_REF":
        raise ValueError("only SELECT can stand here, not DESCRIBE, SHOW or SUMMARIZE")
    elif kind == "BASE_TABLE":
        _table(tree, seen)
    elif kind == "TABLE_FUNCTION":
        name = str(tree["function"]["function_name"]).lower()
        if name not in _TABLE_FUNCTIONS:
            raise ValueError(
                f"{name}() reads something outside the dataset, so the version could not be built again. Make it a "
                "source of the recipe instead."
            )
        seen.aliases.update({name, "key", "value"})
    elif kind in ("PIVOT", "UNPIVOT"):
        seen.star = True
    elif kind == "JOIN":
        if tree["ref_type"] == "POSITIONAL":
            raise ValueError("POSITIONAL JOIN pairs rows as they happen to lie. Join them by row_id.")
        seen.star |= tree["ref_type"] == "NATURAL"
        seen.names.update(tree["using_columns"])
    if kind in ("SUBQUERY", "TABLE_FUNCTION") and "class" not in tree:
        seen.aliases.update(tree["column_name_alias"] or ())
        if tree["alias"]:
            seen.aliases.add(f"table:{tree['alias']}=")
    if "modifiers" in tree:
        _modifiers(tree["modifiers"])
    for key, value in tree.items():
        if key == "cte_map":
            _ctes(value, seen, bound)
        elif key != "lhs" or kind != "LAMBDA":
            _walk(value, seen, bound)


def _column(path: Sequence[str], seen: Seen, bound: frozenset[str]) -> None:
    if path[0] in bound:
        return
    if len(path) == 1 and path[0].lower() in _CLOCKS:
        raise ValueError(
            f"{path[0]} is another value every time, so the version could not be built again; write the date"
        )
    # `a.b` is a column of a table or a field of a column: the tables have to be known first, so both are kept.
    seen.names.add(".".join(path[:2]))


def _table(tree: Mapping[str, Any], seen: Seen) -> None:
    name = str(tree["table_name"])
    if tree["schema_name"] or tree["catalog_name"]:
        raise ValueError(
            f"{tree['schema_name'] or tree['catalog_name']}.{name} is outside the dataset. There are the tables "
            f"{', '.join(TABLES)}."
        )
    seen.tables.add(name)
    if tree["alias"]:
        seen.aliases.add(f"table:{tree['alias']}={name}")
    seen.aliases.update(tree["column_name_alias"] or ())


def _modifiers(modifiers: Sequence[Mapping[str, Any]]) -> None:
    kinds = {m["type"] for m in modifiers}
    if kinds & {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"} and "ORDER_MODIFIER" not in kinds:
        raise ValueError(
            "LIMIT without ORDER BY takes whichever rows come first. Add ORDER BY, and row_id as its last column."
        )
    for modifier in modifiers:
        if (
            modifier["type"] == "DISTINCT_MODIFIER"
            and modifier.get("distinct_on_targets")
            and "ORDER_MODIFIER" not in kinds
        ):
            raise ValueError(
                "DISTINCT ON without ORDER BY keeps whichever row comes first. Add ORDER BY, and row_id as its last "
                "column."
            )


def _ctes(value: Mapping[str, Any], seen: Seen, bound: frozenset[str]) -> None:
    for entry in value["map"]:
        seen.aliases.add(f"cte:{entry['key']}")
        seen.aliases.update(entry["value"].get("aliases") or ())
        _walk(entry["value"], seen, bound)


def looked_at(tree: Any) -> Seen:
    seen = Seen(set(), set(), set(), set())
    _walk(tree, seen)
    return seen
