"""filter: drops rows for which a SQL condition is not true.

DuckDB evaluates the condition over one batch at a time, with one thread and nothing else in reach, so the stage may run
anywhere. The ledger gets the condition and what stood in the columns that it names, so that a dropped row can be judged
without the data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation import sqlguard
from curation.stages.base import Context, Outcome, StageConfig, fates, row_stage
from schemas.errors import Problem, WinnowError

VALUE_CHARS = 200
"""How much of a column's value is kept as evidence."""


class Filter(StageConfig):
    """Keeps the rows for which a SQL condition is true. Where it is false, or NULL because a value is missing, the row
    is dropped."""

    stage: Literal["filter"] = "filter"
    where: str = Field(
        description="SQL condition over the columns of one row, in DuckDB's SQL: length(question) < 4000."
    )
    reason: str = Field("", description="Why rows go, in a few words, for the ledger and reports: too long.")

    @field_validator("where")
    @classmethod
    def _repeatable(cls, where: str) -> str:
        sqlguard.predicate(where)
        return where


def check(config: Filter, schema: pa.Schema) -> Iterable[Problem]:
    """Unknown columns and functions, types that do not fit."""
    sql = f"select (\n{config.where}\n)::boolean as kept from rows"
    return sqlguard.problems(
        config.where, sql, {"rows": schema}, where="where", columns=sqlguard.predicate(config.where).columns
    )


@row_stage(Filter, revision=1, reads=lambda c: sqlguard.predicate(c.where).columns, check=check, libraries=("duckdb",))
def run(config: Filter, rows: pa.Table, context: Context) -> Outcome:
    import duckdb

    try:
        kept = sqlguard.holds(config.where, rows)
    except duckdb.Error as error:
        raise WinnowError(
            f"Stage {context.name}: the condition fails on a row: {str(error).splitlines()[0]}\n    {config.where}\n"
            "Where a value may not be of the type that the condition wants, use try_cast(… as …): it gives NULL, and "
            "the row is dropped."
        ) from error
    if len(kept) == len(rows) and kept.null_count == 0 and kept.true_count == len(rows):
        return Outcome()
    gone = pc.invert(pc.fill_null(kept, False))
    names = [n for n in sqlguard.predicate(config.where).columns if n != "row_id"]
    dropped = rows.filter(gone)
    values = dropped.select(names).to_pylist() if names else [{}] * len(dropped)
    unknown = kept.filter(gone).is_null().to_pylist()
    label = config.reason or f"filtered by {context.name}"
    said = {
        False: f"{label}: the condition {_line(config.where)} does not hold.",
        True: f"{label}: whether {_line(config.where)} holds is unknown (NULL), because a value is missing.",
    }
    evidence = [
        {"where": config.where, "is": None if u else False, "values": {k: _short(x) for k, x in v.items()}}
        for v, u in zip(values, unknown, strict=True)
    ]
    return Outcome(
        fates=fates(
            dropped["row_id"],
            reason=reason_code(config.reason or context.name),
            sentence=[said[u] for u in unknown],
            evidence=evidence,
        )
    )


def reason_code(text: str) -> str:
    """A reason as one word of lower-case letters, digits and underscores: "too long" -> "too_long"."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "filtered"


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= VALUE_CHARS else flat[: VALUE_CHARS - 1] + "…"


def _short(value: Any) -> Any:
    """A value as evidence: JSON, at most VALUE_CHARS characters of text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"
