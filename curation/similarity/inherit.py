"""Traces of merged rows, taken over by the row that is kept.

A trace answers one question with one list of options: where `B` stands for something else, or where the words are only
close, it would teach a falsehood, and stays with its row. A verdict goes along where both rows have the very same answer;
where the answer is written in another form, the trace is judged anew, as `verify` judged it before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from curation.ids import ids_column
from curation.similarity import texts
from curation.similarity.questions import Questions
from curation.stages.base import Context, Moved, Rows
from schemas.rows import TRACE
from schemas.verdicts import VERDICT_SCHEMA

if TYPE_CHECKING:
    from curation.stages.verify import Verify

VERDICT = pa.schema([TRACE.field("row_id"), TRACE.field("k"), *VERDICT_SCHEMA])
_ASKED = ["question", "choices", "answer"]


@dataclass(frozen=True)
class Judge:
    """How the stage `verify` judged before."""

    config: Verify
    context: Context


def take_traces(
    questions: Questions, rows: Rows, givers: np.ndarray, into: np.ndarray, judge: Judge
) -> tuple[Moved | None, pa.Table, dict[str, int]]:
    """Give the traces of merged rows to the rows that they went into, behind those that these have.

    givers, into   int64 (n,): rows that ask the same, and the kept one of each
    Returns what moves, row_id and the columns of `verify` for all rows, and counts for the notes. Traces of the givers
    are in memory, those of other rows are not.
    """
    from curation.stages import verify

    table = rows.table(["answer", "choices", *verify.COLUMNS])
    measured = table.select(["row_id", *verify.COLUMNS])
    alike = _same_options(questions, table["choices"].combine_chunks(), givers, into)
    counts = {"rows": 0, "traces": 0, "judged_anew": 0, "rows_with_other_options": int((~alike).sum())}
    givers, into = givers[alike], into[alike]
    pairs = pl.DataFrame(
        {
            "row_id": pl.Series(ids_column(questions.row_ids[givers])),
            "into": pl.Series(ids_column(questions.row_ids[into])),
            "rank": questions.rank[givers],
            "same": pl.Series(table["answer"].take(pa.array(givers))).eq_missing(
                pl.Series(table["answer"].take(pa.array(into)))
            ),
        }
    )
    given = _joined(rows.traces(TRACE.names), pairs, TRACE)
    if given.is_empty():
        return None, measured, counts
    pairs = pairs.filter(pl.col("into").is_in(given["into"].unique().implode()))
    takers = pairs.select(row_id="into").unique()
    had = pl.concat([_frame(t).join(takers, on="row_id", how="semi") for t in rows.traces(["k"])])
    had = had.group_by("row_id").agg(next=pl.col("k").max() + 1, n=pl.len())
    given = given.sort("into", "rank", "k").join(
        had.select(into="row_id", next="next"), on="into", how="left", maintain_order="left"
    )
    given = given.with_columns(new=(pl.col("next").fill_null(0) + pl.int_range(pl.len()).over("into")).cast(pl.Int32))
    placed = given.drop("row_id", "k").rename({"into": "row_id", "new": "k"})
    placed = placed.with_columns(origin_row=pl.coalesce("origin_row", given["row_id"]))

    # Whole rows of those who take: their own verdicts, those that came along, and those that are given now.
    asked = pl.concat([_frame(batch).join(takers, on="row_id", how="semi") for batch in rows.batches(_ASKED)])
    order = pl.DataFrame({"row_id": asked["row_id"], "at": np.arange(len(asked))})
    anew = placed.filter(~pl.col("same")).sort("row_id", "k")
    at = anew.join(order, on="row_id", how="left", maintain_order="left")["at"].to_numpy()
    few = asked.to_arrow().cast(pa.schema([rows.schema.field(name) for name in asked.columns]))
    judged, _ = verify.judge(judge.config, few, _table(anew, TRACE), at, judge.context)
    came = _joined(rows.verdicts(VERDICT.names), given.filter("same").select("row_id", "k", "into", "new"), VERDICT)
    came = came.drop("row_id", "k").rename({"into": "row_id", "new": "k"})
    new = pl.concat([came.select(VERDICT.names), _frame(judged).select(VERDICT.names)])
    own = [_frame(t).join(takers, on="row_id", how="semi") for t in rows.verdicts(VERDICT.names)]
    verdicts = _table(pl.concat([*own, new]), VERDICT)
    n_traces = pl.concat([had.select("row_id", "n"), placed.group_by("row_id").agg(n=pl.len())])
    total = order.join(
        n_traces.group_by("row_id").agg(pl.col("n").sum()), on="row_id", how="left", maintain_order="left"
    )
    judged_at = _frame(verdicts).join(order, on="row_id", how="left", maintain_order="left")["at"].to_numpy()
    told, _ = verify.tally(judge.config, few, total["n"].to_numpy(), verdicts, judged_at)
    names = list(verify.COLUMNS)
    both = _frame(measured).join(
        _frame(told).with_columns(taker=True), on="row_id", how="left", suffix="_new", maintain_order="left"
    )
    newer = [pl.when("taker").then(f"{name}_new").otherwise(name).alias(name) for name in names]
    counts |= {"rows": given["row_id"].n_unique(), "traces": len(given), "judged_anew": len(anew)}
    moved = Moved(pairs["row_id"].to_arrow().cast(pa.string()), _table(placed, TRACE), _table(new, VERDICT))
    return moved, both.select("row_id", *newer).to_arrow(), counts


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return frame.select(schema.names).to_arrow().cast(schema)


def _joined(tables: Iterable[pa.Table], pairs: pl.DataFrame, schema: pa.Schema) -> pl.DataFrame:
    """Lines of the tables whose key (the columns that both have) stands in `pairs`, with its other columns."""
    on = [name for name in pairs.columns if name in schema.names]
    found = [_frame(table).join(pairs, on=on, how="inner") for table in tables]
    return pl.concat([_frame(schema.empty_table()).join(pairs, on=on, how="inner"), *found])


def _same_options(questions: Questions, choices: pa.Array, givers: np.ndarray, into: np.ndarray) -> np.ndarray:
    """bool (n,): whether two rows have the same options under the same letters, or both have none."""

    def shown(which: np.ndarray) -> list[tuple[Any, ...]]:
        lists = choices.take(pa.array(which)).to_pylist()
        return [
            tuple(own or ()) or questions.options.get(row, ()) for row, own in zip(which.tolist(), lists, strict=True)
        ]

    lists = [*shown(givers), *shown(into)]
    said = texts.compared(pa.array([o or "" for options in lists for o in options], pa.string())).to_pylist()
    ends = np.cumsum([len(options) for options in lists]).tolist()
    plain = [tuple(said[end - len(options) : end]) for options, end in zip(lists, ends, strict=True)]
    n = len(givers)
    return np.array([a == b for a, b in zip(plain[:n], plain[n:], strict=True)], bool)
