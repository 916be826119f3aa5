"""SQL that people write into recipes, judged before it runs.

A version must come out the same on any machine, so a query may use nothing but the rows it is given: no clock, no dice,
no engine's own hash, no file, no setting, and nothing that depends on the order in which rows happen to lie. What is
refused is found in the statement as DuckDB itself parses it (`json_serialize_sql`), never by looking for words in the
text, so a column called `now`, or the word `random` inside a string, is nobody's business.

Three steps: `predicate` and `query` parse and refuse (ValueError, so that config models can call them), and say which
columns are named; `bind` runs the statement over empty tables and gives the types that come out; `problems` puts a
binding error into words.
"""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.errors import Problem

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


@dataclass(frozen=True)
class Predicate:
    """A condition over the columns of one row."""

    text: str
    columns: tuple[str, ...]
    """The columns that it names, sorted."""


@dataclass(frozen=True)
class Query:
    """One SELECT over `rows`, `traces` and `verdicts`."""

    text: str
    tables: frozenset[str]
    names: frozenset[str]
    """Every name that stands where a column may stand."""
    aliases: frozenset[str]
    """Names that the query itself gives."""
    star: bool
    """Whether it says `*` or COLUMNS(...) anywhere but in count(*)."""
    spelled: frozenset[str] | None
    """Names of returned columns that it spells out, where it also returns `*`; else None: all of them."""

    def columns(self, known: Sequence[str], elsewhere: Sequence[str] = ()) -> tuple[str, ...]:
        """Columns of `rows` that it reads, or ("*",) where the text alone cannot tell.

        `known` are columns that rows always have; `elsewhere` are those of the other tables that it names.
        """
        if "rows" not in self.tables:
            return ("row_id",)
        doubtful = {n for n in self.names if n in self.aliases and n not in known and n not in elsewhere}
        if self.star or doubtful:
            return ("*",)
        return tuple(sorted({"row_id", *(n for n in self.names if n not in elsewhere or n in known)} - self.tables))


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


def _statement(sql: str) -> dict[str, Any]:
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
class _Seen:
    names: set[str]
    tables: set[str]
    aliases: set[str]
    aggregates: set[str]
    star: bool = False
    subquery: bool = False
    window: bool = False


def _refuse_function(name: str, node: Mapping[str, Any], seen: _Seen) -> None:
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
            str(n["function_name"]).lower()
            for n in _nodes(_statement(f"select {body}"))
            if n.get("class") == "FUNCTION"
        }
        read = {
            str(n["column_names"][0]).lower()
            for n in _nodes(_statement(f"select {body}"))
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


def _walk(tree: Any, seen: _Seen, bound: frozenset[str] = frozenset()) -> None:
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


def _column(path: Sequence[str], seen: _Seen, bound: frozenset[str]) -> None:
    if path[0] in bound:
        return
    if len(path) == 1 and path[0].lower() in _CLOCKS:
        raise ValueError(
            f"{path[0]} is another value every time, so the version could not be built again; write the date"
        )
    # `a.b` is a column of a table or a field of a column: the tables have to be known first, so both are kept.
    seen.names.add(".".join(path[:2]))


def _table(tree: Mapping[str, Any], seen: _Seen) -> None:
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


def _ctes(value: Mapping[str, Any], seen: _Seen, bound: frozenset[str]) -> None:
    for entry in value["map"]:
        seen.aliases.add(f"cte:{entry['key']}")
        seen.aliases.update(entry["value"].get("aliases") or ())
        _walk(entry["value"], seen, bound)


def _looked_at(tree: Any) -> _Seen:
    seen = _Seen(set(), set(), set(), set())
    _walk(tree, seen)
    return seen


@lru_cache(maxsize=256)
def predicate(text: str) -> Predicate:
    """A condition on one row. Raises ValueError for anything but a plain, repeatable expression over columns."""
    if not text.strip():
        raise ValueError("the condition is empty; write for example: length(question) < 4000")
    node = _statement(f"select 1 from rows where\n{text}\n")
    grouped = node["group_expressions"] or node["having"] or node["aggregate_handling"] != "STANDARD_HANDLING"
    extra = node["modifiers"] or grouped or node["qualify"] or node["cte_map"]["map"]
    if (
        node["type"] != "SELECT_NODE"
        or extra
        or node["sample"]
        or node["where_clause"] is None
        or node["from_table"].get("table_name") != "rows"
    ):
        raise ValueError("only a condition can stand here, as after WHERE; for a whole query use the stage sql")
    seen = _looked_at(node["where_clause"])
    if seen.subquery:
        raise ValueError("a condition looks at one row at a time, so it has no subquery; use the stage sql")
    if seen.aggregates or seen.window:
        what = min(seen.aggregates) + "()" if seen.aggregates else "a window function"
        raise ValueError(f"a condition looks at one row at a time, and {what} looks at many; use the stage sql")
    if seen.star:
        raise ValueError(
            "name the columns: a condition with * or COLUMNS(…) would mean something else as soon as a column is added"
        )
    names = {name.split(".")[1] if name.startswith("rows.") else name.split(".")[0] for name in seen.names}
    return Predicate(text, tuple(sorted(names)))


@lru_cache(maxsize=256)
def query(text: str) -> Query:
    """One SELECT over the tables of the dataset. Raises ValueError for what is not one, or not repeatable."""
    node = _statement(text)
    seen = _looked_at(node)
    ctes = {a.removeprefix("cte:") for a in seen.aliases if a.startswith("cte:")}
    tables = seen.tables - ctes
    for name in sorted(tables - set(TABLES)):
        hint = (
            "a file is a source, name it there"
            if "." in name or "/" in name
            else f"there are the tables {', '.join(TABLES)}"
        )
        raise ValueError(f"the query reads {name!r}, which is not part of the dataset; {hint}")
    renamed = dict(a.removeprefix("table:").split("=", 1) for a in seen.aliases if a.startswith("table:"))
    aliases = {a for a in seen.aliases if ":" not in a}
    names = set()
    for name in seen.names:
        head, _, tail = name.partition(".")
        origin = renamed.get(head, head)
        if not tail or (origin and origin not in tables and origin not in ctes):
            names.add(head)
        elif origin == "rows":
            names.add(tail)
        elif not origin or origin in ctes:
            # A column of a query within the query: it may be one of rows that is passed on, or one of its own making.
            names.add(tail)
            aliases.add(tail)
    return Query(text, frozenset(tables), frozenset(names), frozenset(aliases), seen.star, _spelled(node))


def _spelled(node: Mapping[str, Any]) -> frozenset[str] | None:
    """SELECT *, a, f(b) AS c: {a, c}. None where the outermost SELECT has no star."""
    listed = node.get("select_list") or []
    if not any(item.get("class") == "STAR" for item in listed):
        return None
    return frozenset(
        item["alias"] or (item.get("column_names") or [""])[-1] for item in listed if item.get("class") != "STAR"
    )


# -------------------------------------------------------------------------------------------------------------- binding


def bind(sql: str, schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """Names and types of what a query gives, found by running it over empty tables. Raises duckdb.Error."""
    cursor = connection().cursor()
    try:
        for name, schema in schemas.items():
            cursor.register(name, schema.empty_table())
        table: pa.Table = cursor.sql(sql).to_arrow_table()
        return table.schema
    finally:
        cursor.close()


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint: the known name that is meant, or all names where there are few."""
    same = [k for k in known if k.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"There are: {', '.join(sorted(known))}." if known else ""


def problems(
    text: str, sql: str, schemas: Mapping[str, pa.Schema], *, where: str, columns: Sequence[str] = ()
) -> list[Problem]:
    """What is wrong with `text`, which stands in `sql`, given the columns that there are; runs over no data.

    `columns` are the columns of `rows` that it names, where they are known for certain.
    """
    known = schemas["rows"].names
    unknown = [c for c in columns if c not in known]
    if unknown:
        return [
            Problem(f"{where}: there is no column {c!r} at this point of the recipe", text=text, hint=nearest(c, known))
            for c in unknown
        ]
    import duckdb

    try:
        bind(sql, schemas)
    except duckdb.Error as error:
        return [Problem(f"{where}: {_first_line(error)}", text=text, hint=_hint(error))]
    return []


def _first_line(error: Exception) -> str:
    """DuckDB's message without its picture of the statement, which is ours and not the user's."""
    return (
        str(error)
        .split("\n", 1)[0]
        .removeprefix("Binder Error: ")
        .removeprefix("Catalog Error: ")
        .removeprefix("Parser Error: ")
    )


def _hint(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    return next((line for line in lines if line.startswith(("Did you mean", "Candidate"))), "")
