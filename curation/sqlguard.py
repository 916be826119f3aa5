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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from curation.sqltree import TABLES, connection, looked_at, statement
from schemas.errors import Problem

__all__ = ["TABLES", "Predicate", "Query", "bind", "connection", "holds", "nearest", "predicate", "problems", "query"]


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


# -------------------------------------------------------------------------------------------------------------- parsing


@lru_cache(maxsize=256)
def predicate(text: str) -> Predicate:
    """A condition on one row. Raises ValueError for anything but a plain, repeatable expression over columns."""
    if not text.strip():
        raise ValueError("the condition is empty; write for example: length(question) < 4000")
    node = statement(f"select 1 from rows where\n{text}\n")
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
    seen = looked_at(node["where_clause"])
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
    node = statement(text)
    seen = looked_at(node)
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


def holds(condition: str, table: pa.Table) -> pa.Array:
    """Whether a condition (see `predicate`) holds for each row: bool[rows], null where it is NULL. Raises duckdb.Error."""
    named = [name for name in predicate(condition).columns if name in table.column_names]
    cursor = connection().cursor()
    try:
        cursor.register("rows", table.select(named or table.column_names[:1]))
        found = cursor.sql(f"select (\n{condition}\n)::boolean as holds from rows").to_arrow_table()["holds"]
    finally:
        cursor.close()
    whole: pa.Array = found.combine_chunks()
    return whole


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
