"""sql: a DuckDB query over all rows, for what no other stage does.

The query returns row_id: ids that it leaves out are dropped. Other columns that it returns become columns of the rows;
`repeat` says how often a row stands in the data. What the query may do is judged before the build (sqlguard.py);
their types are found by running it over empty tables, or declared where it uses columns that other stages add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation import sqlguard
from curation.stages.base import Context, Outcome, Rows, StageConfig, fates, global_stage
from schemas.errors import Problem, WinnowError
from schemas.rows import ROW, TRACE
from schemas.verdicts import VERDICT_SCHEMA

VERDICT = pa.schema([("row_id", pa.string()), ("k", pa.int32()), *VERDICT_SCHEMA])
_PLAIN = {str(t): t for t in (pa.string(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64())}
_PLAIN |= {"float32": pa.float32(), "float64": pa.float64()}
_TYPES = {**_PLAIN, **{f"list<{name}>": pa.list_(kind) for name, kind in _PLAIN.items()}}
_OWN = {"content_id", "origin_key", "source"}
"""Columns that say which row a row is: no query may write them."""


class Sql(StageConfig):
    """Keeps the rows whose row_id a DuckDB query returns, and adds the other columns that it returns to them."""

    stage: Literal["sql"] = "sql"
    query: str = Field(
        description="One SELECT over rows (and traces, verdicts where they are made) that returns row_id, each at "
        "most once."
    )
    reason: str = Field("", description="Why rows go that the query leaves out, in a few words, for the ledger.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Types of returned columns, where they rest on columns that other stages add: {pass_count: int64}.",
    )

    @field_validator("query")
    @classmethod
    def _repeatable(cls, query: str) -> str:
        query = query.strip().rstrip(";")
        sqlguard.query(query)
        return query

    @field_validator("columns")
    @classmethod
    def _types(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, kind in columns.items():
            if kind not in _TYPES:
                raise ValueError(f"{name}: there is no type {kind!r}; there are {', '.join(_TYPES)}")
        return columns


def reads(config: Sql) -> Sequence[str]:
    """The columns of rows that the query names; all of them where it says * or gives a name of its own twice."""
    elsewhere = [
        n
        for t, s in (("traces", TRACE), ("verdicts", VERDICT))
        if t in sqlguard.query(config.query).tables
        for n in s.names
    ]
    return sqlguard.query(config.query).columns(ROW.names, elsewhere)


def _schemas(rows: pa.Schema) -> dict[str, pa.Schema]:
    return {"rows": rows, "traces": TRACE, "verdicts": VERDICT}


@lru_cache(maxsize=64)
def _bound(query: str) -> pa.Schema | None:
    """What the query gives on rows as they are first made, or None where it uses columns that are not there yet."""
    import duckdb

    try:
        return sqlguard.bind(query, _schemas(ROW))
    except duckdb.Error:
        return None


def storable(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a column is kept: as DuckDB gives it, but int64 for its 128-bit sums. None where rows cannot
    hold it."""
    if pa.types.is_decimal(kind):
        return pa.int64() if kind.scale == 0 else None
    if pa.types.is_list(kind):
        inner = storable(kind.value_type)
        return None if inner is None else pa.list_(inner)
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return kind if any(test(kind) for test in plain) else pa.string() if pa.types.is_large_string(kind) else None


def writes(config: Sql) -> Mapping[str, pa.DataType]:
    """Columns that the query adds: the declared ones, and those whose type follows from the columns of every row."""
    found = {}
    bound = _bound(config.query)
    if bound is not None:
        found = {f.name: kind for f in bound if (kind := storable(f.type)) is not None}
    found |= {name: _TYPES[kind] for name, kind in config.columns.items()}
    return {name: kind for name, kind in found.items() if _is_new(config, name)}


def _is_new(config: Sql, name: str) -> bool:
    """Whether a returned column is meant to be written: not the key, and not what `SELECT *` merely carries along."""
    spelled = sqlguard.query(config.query).spelled
    return name not in ("row_id", "repeat") and (spelled is None or name in spelled)


def check(config: Sql, schema: pa.Schema) -> Iterable[Problem]:
    """What the query gives on the rows of this point of the recipe: no row_id, unknown columns, types not declared."""
    found = sqlguard.problems(config.query, config.query, _schemas(schema), where="query")
    if found:
        return found
    given = sqlguard.bind(config.query, _schemas(schema))
    if "row_id" not in given.names:
        return [
            Problem(
                "query: it must return row_id, so that it is known which rows stay",
                text=config.query,
                hint="Begin with SELECT row_id.",
            )
        ]
    problems = []
    written = writes(config)
    for field in given:
        if not _is_new(config, field.name):
            continue
        kind = storable(field.type)
        if field.name in _OWN:
            message = f"query: it returns {field.name!r}, which says which row a row is and cannot be written"
            problems.append(Problem(message, text=config.query, hint=f"Leave {field.name} out, or name it otherwise."))
        elif kind is None:
            message = f"query: rows cannot hold {field.name!r}, which is {field.type}"
            problems.append(
                Problem(
                    message,
                    text=config.query,
                    hint="Cast it: ::double for numbers, ::varchar for times and anything else.",
                )
            )
        elif field.name not in written:
            hint = f"Add to the stage: columns: {{{field.name}: {_type_name(kind)}}}"
            problems.append(
                Problem(
                    f"query: the type of {field.name!r} rests on columns that other stages add",
                    text=config.query,
                    hint=hint,
                )
            )
    for name in sorted(set(config.columns) - set(given.names)):
        problems.append(
            Problem(f"columns: the query returns no {name!r}", text=name, hint=sqlguard.nearest(name, given.names))
        )
    return problems


def _type_name(kind: pa.DataType) -> str:
    return next((name for name, known in _TYPES.items() if known == kind), str(kind))


def needs(config: Sql) -> Literal["rows", "traces", "verdicts"]:
    """Which tables the query reads beside rows."""
    tables = sqlguard.query(config.query).tables
    return "verdicts" if "verdicts" in tables else "traces" if "traces" in tables else "rows"


@global_stage(Sql, revision=1, reads=reads, writes=writes, check=check, needs=needs, libraries=("duckdb",))
def run(config: Sql, rows: Rows, context: Context) -> Outcome:
    result = answer(config.query, rows, context)
    ids = rows.table(["row_id"])["row_id"].combine_chunks()
    gone = ids.filter(pc.invert(pc.is_in(ids, value_set=result["row_id"])))
    label = config.reason or f"left out by the query {context.name}"
    dropped = fates(
        gone,
        reason=f"sql:{context.name}",
        sentence=f"{label}: the query of stage {context.name} does not return this row.",
        evidence={"query": config.query},
    )
    columns = None
    if types := writes(config):
        columns = pa.table(
            [result["row_id"], *(_cast(result[n], t, n, context) for n, t in types.items())], names=["row_id", *types]
        )
    repeat = repeats(result, context)
    return Outcome(columns=columns, fates=dropped, repeat=repeat, notes={"returned": len(result), "dropped": len(gone)})


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, context: Context) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise WinnowError(
            f"Stage {context.name}: a value of {name!r} does not fit {kind}: {error}\nCast it in the query, or "
            "declare another type."
        ) from error


def answer(query: str, rows: Rows, context: Context) -> pa.Table:
    """What a query returns, with row_id as text, each one a row that there is, and none twice.

    Raises WinnowError for row ids that are null, unknown or repeated, and where the query fails.
    """
    import duckdb

    with rows.connect() as connection:
        try:
            result: pa.Table = connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise WinnowError(
                f"Stage {context.name}: the query fails: {str(error).splitlines()[0]}\n    {query}"
            ) from error
    if "row_id" not in result.column_names:
        raise WinnowError(
            f"Stage {context.name}: the query must return row_id; it returns {', '.join(result.column_names)}."
        )
    ids = result["row_id"].cast(pa.string()).combine_chunks()
    result = result.set_column(result.schema.get_field_index("row_id"), "row_id", ids)
    if ids.null_count:
        raise WinnowError(
            f"Stage {context.name}: the query returns {ids.null_count:,} rows whose row_id is NULL; use an inner "
            "join, or filter them."
        )
    known = rows.table(["row_id"])["row_id"].combine_chunks()
    strangers = ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
    if len(strangers):
        raise WinnowError(
            f"Stage {context.name}: the query returns {len(strangers):,} row ids that the stage was not given, the "
            f"first {strangers[0]}. "
            "A query may leave rows out, never make new ones."
        )
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        worst = min(twice.to_pylist(), key=lambda c: (-c["counts"], c["values"]))
        raise WinnowError(
            f"Stage {context.name}: the query returns {len(twice):,} row ids more than once; {worst['values']} "
            f"stands there {worst['counts']} times. "
            "Use SELECT DISTINCT or GROUP BY row_id; to have a row more than once in the data, return a column "
            "`repeat`."
        )
    return result


def repeats(result: pa.Table, context: Context) -> pa.Table | None:
    """The `repeat` column of a query's answer, for rows that stand in the data more than once."""
    if "repeat" not in result.column_names:
        return None
    numbers = pc.fill_null(result["repeat"].cast(pa.int64()), 1).combine_chunks()
    bad = (
        result["row_id"]
        .combine_chunks()
        .filter(pc.or_(pc.less(numbers, 1), pc.greater(numbers, np.iinfo(np.int32).max)))
    )
    if len(bad):
        raise WinnowError(
            f"Stage {context.name}: repeat must be 1 or more; for row {bad[0]} it is not. To drop a row, leave it out."
        )
    more = pc.greater(numbers, 1)
    return pa.table(
        {"row_id": result["row_id"].combine_chunks().filter(more), "repeat": numbers.filter(more).cast(pa.int32())}
    )
