"""The `recorded` teacher: answers that somebody else asked for, read from a file and joined to rows by an id."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.ids import canonical_texts, hash_texts
from curation.teachers.base import Held
from schemas.errors import WinnowError
from schemas.recipe import Model, PathText
from schemas.rows import TRACE

if TYPE_CHECKING:
    import polars as pl

# How recorded sets spell what became of an answer. What is not here is an error, never a guess.
_FINISH = {
    "finished": ("finished", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "true"),
    "truncated": ("truncated", "length", "max_tokens", "max_length", "model_length", "false"),
    "failed": ("failed", "error", "content_filter", "abort", "timeout"),
}
_SPELLINGS = {spelling: finish for finish, spellings in _FINISH.items() for spelling in spellings}


class Join(Model):
    """Which column of rows meets which column of the file."""

    rows: str = Field(
        "id", description="Column of rows: id (upstream's own), row_id, content_id, origin_key, or another."
    )
    traces: str = Field("id", description="Column of the file.")


class Recorded(Held):
    """Answers from a Parquet or JSON Lines file, joined to rows."""

    kind: Literal["recorded"] = "recorded"
    path: PathText = Field(description="Parquet or JSON Lines file of answers.")
    join: Join = Join()
    response: str = Field("response", description="Column with the text of the answer.")
    k: str | None = Field(
        None,
        description="Column that numbers the answers of a row; by default they are numbered as they stand in the file.",
    )
    model: str | None = Field(None, description="Column with the model's name; by default `model` where there is one.")
    finish: str | None = Field(
        None, description="Column that says how an answer ended (stop, length, error …); without one all are finished."
    )
    output_tokens: str | None = Field(None, description="Column with the number of tokens of the answer.")

    def needs_columns(self) -> Sequence[str]:
        return (self.join.rows,)

    def files(self, recipe_dir: Path) -> Sequence[Path]:
        return (recipe_dir / self.path,)

    def traces(self, rows: pa.Table, n: int, recipe_dir: Path) -> pa.Table:
        import polars as pl

        keys = rows.select(["row_id", self.join.rows]).rename_columns(["row_id", "join"])
        wanted = pl.from_arrow(keys.set_column(1, "join", keys["join"].cast(pa.string())))
        assert isinstance(wanted, pl.DataFrame)
        found = self._answers(recipe_dir / self.path, wanted["join"].drop_nulls().unique(), n)
        joined = wanted.join(found, on="join", how="inner").sort("row_id", "k")
        table = joined.to_arrow()
        finish = table["finish"].cast(pa.string())
        columns = {
            "row_id": table["row_id"],
            "k": table["k"],
            "attempt": pa.repeat(pa.scalar(0, pa.int32()), len(table)),
            "key": hash_texts(canonical_texts(table, ["model", "join", "k"])),
            "teacher": pa.repeat(pa.scalar("recorded"), len(table)),
            "model": table["model"],
            "text": pc.if_else(
                pc.equal(finish, "failed"), pa.scalar(None, pa.string()), table["response"].cast(pa.string())
            ),
            "finish": finish,
            "finish_reason": table["finish_reason"],
            "prompt_tokens": pa.nulls(len(table), pa.int32()),
            "output_tokens": table["output_tokens"],
        }
        return pa.table(columns).cast(TRACE)

    def _answers(self, path: Path, ids: pl.Series, n: int) -> pl.DataFrame:
        """join, k, response, model, finish, finish_reason, output_tokens of the answers to `ids`, k below n."""
        import polars as pl

        lazy, names = _scan(str(path))
        model = self.model or ("model" if "model" in names else None)
        asked = {"join.traces": self.join.traces, "response": self.response, "k": self.k, "model": model,
                 "finish": self.finish, "output_tokens": self.output_tokens}  # fmt: skip
        for option, name in asked.items():
            if name is not None and name not in names:
                raise WinnowError(
                    f"The recorded teacher's file {path} has no column {name!r} (option {option}).\n"
                    f"It has: {', '.join(names)}."
                )
        response = pl.col(self.response).cast(pl.String)
        raw = pl.col(self.finish).cast(pl.String) if self.finish else pl.lit(None, pl.String)
        own = pl.col(self.join.traces).cast(pl.String)
        # Numbered before the filter: an answer's k must not depend on which rows are still there.
        k = pl.col(self.k).cast(pl.Int32) if self.k else pl.int_range(pl.len(), dtype=pl.Int32).over(own)
        frame = (
            lazy.select(
                own.alias("join"),
                k.alias("k"),
                response.alias("response"),
                (pl.col(model).cast(pl.String) if model else pl.lit("recorded")).alias("model"),
                raw.alias("finish_reason"),
                (pl.col(self.output_tokens) if self.output_tokens else pl.lit(None))
                .cast(pl.Int32)
                .alias("output_tokens"),
            )
            .filter(pl.col("join").is_in(ids.implode()))
            .collect()
        )
        if self.k and frame["k"].null_count():
            raise WinnowError(
                f"{path}: the column {self.k!r} (option k) is empty in {frame['k'].null_count():,} answers."
            )
        if len(frame) and (first := int(frame["k"].min() or 0)) and self.k:  # type: ignore[arg-type]
            # Sets that count from 1, or number by seed, are brought to 0, 1, 2 … in their own order.
            frame = (
                frame.with_columns(k=pl.col("k").rank("ordinal").over("join").cast(pl.Int32) - 1) if first else frame
            )
        twice = frame.group_by("join", "k").len().filter(pl.col("len") > 1).sort("join", "k")
        if len(twice):
            join, number = twice.row(0)[:2]
            raise WinnowError(
                f"{path} has {len(twice):,} answers that share id and {self.k}, the first: {join!r}, {number}.\n"
                "Leave `k` out of the teacher: answers are then numbered as they stand in the file."
            )
        return frame.filter(pl.col("k") < n).with_columns(finish=self._finish(frame.filter(pl.col("k") < n), path))

    def _finish(self, frame: pl.DataFrame, path: Path) -> pl.Series:
        import polars as pl

        spelled = frame["finish_reason"].str.strip_chars().str.to_lowercase()
        unknown = sorted(set(spelled.drop_nulls().unique().to_list()) - _SPELLINGS.keys())
        if unknown:
            raise WinnowError(
                f"{path}: the column {self.finish!r} (option finish) says {unknown[0]!r}, which is none of "
                f"{', '.join(sorted(_SPELLINGS))}."
            )
        told = pl.DataFrame(
            {
                "f": spelled.replace_strict(_SPELLINGS, default="finished", return_dtype=pl.String),
                "r": frame["response"],
            }
        )
        return told.select(
            pl.when(pl.col("r").is_null()).then(pl.lit("failed")).otherwise(pl.col("f")).alias("finish")
        )["finish"]


@lru_cache(maxsize=4)
def _scan(path: str) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    import polars as pl

    if not Path(path).is_file():
        raise WinnowError(f"The recorded teacher's file is not there: {path}")
    try:
        lazy = pl.scan_parquet(path) if path.endswith(".parquet") else pl.scan_ndjson(path, infer_schema_length=10_000)
        return lazy, tuple(lazy.collect_schema().names())
    except pl.exceptions.PolarsError as error:
        raise WinnowError(f"The recorded teacher's file {path} cannot be read: {str(error).splitlines()[0]}") from error
