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
        default="id", description="Column of rows: id (upstream's own), row_id, content_id, origin_key, or another."
    )
    traces: str = Field(default="id", description="Column of the file.")


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
        path = recipe_dir / self.path
        try:
            found = self._answers(path, wanted["join"].drop_nulls().unique(), n)
        except pl.exceptions.PolarsError as error:
            raise WinnowError(
                f"The recorded teacher's file {path} cannot be used: {str(error).splitlines()[0]}"
            ) from error
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

        lazy, names = _opened(path)
        model = self.model or ("model" if "model" in names else None)
        asked = {"join.traces": self.join.traces, "response": self.response, "k": self.k, "model": model,
                 "finish": self.finish, "output_tokens": self.output_tokens}  # fmt: skip
        for option, name in asked.items():
            if name is not None and name not in names:
                raise WinnowError(
                    f"The recorded teacher's file {path} has no column {name!r} (option {option}).\n"
                    f"It has: {', '.join(names)}."
                )
        kind = lazy.collect_schema()[self.join.traces]
        wanted = ids if kind == pl.String else ids.cast(kind, strict=False).drop_nulls()
        response = pl.col(self.response).cast(pl.String)
        raw = pl.col(self.finish).cast(pl.String) if self.finish else pl.lit(None, pl.String)
        own = pl.col(self.join.traces).cast(pl.String)
        # Numbered before the filter: an answer's k must not depend on which rows are still there.
        k = pl.int_range(pl.len(), dtype=pl.Int32).over(own)
        if self.k:
            lowest = lazy.select(pl.col(self.k).cast(pl.Int64).min()).collect().item() or 0
            k = (pl.col(self.k).cast(pl.Int64) - lowest).cast(pl.Int32)
        frame = (
            lazy.select(
                pl.col(self.join.traces).alias("own"),
                own.alias("join"),
                k.alias("k"),
                response.alias("response"),
                (pl.col(model).cast(pl.String) if model else pl.lit("recorded")).alias("model"),
                raw.alias("finish_reason"),
                (pl.col(self.output_tokens) if self.output_tokens else pl.lit(None))
                .cast(pl.Int32)
                .alias("output_tokens"),
            )
            .filter(pl.col("own").is_in(wanted.implode()))
            .drop("own")
            .collect()
        )
        if self.k and frame["k"].null_count():
            raise WinnowError(
                f"{path}: the column {self.k!r} (option k) is empty in {frame['k'].null_count():,} answers."
            )
        twice = frame.group_by("join", "k").len().filter(pl.col("len") > 1).sort("join", "k")
        if len(twice):
            join, number = twice.row(0)[:2]
            raise WinnowError(
                f"{path} has {len(twice):,} answers that share id and {self.k}, the first: {join!r}, {number}.\n"
                "Leave `k` out of the teacher: answers are then numbered as they stand in the file."
            )
        few = frame.filter(pl.col("k") < n)
        return few.with_columns(finish=self._finish(few, path))

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


def _opened(path: Path) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """The file, unread, and the names of its columns."""
    if not path.is_file():
        raise WinnowError(f"The recorded teacher's file is not there: {path}")
    state = path.stat()
    return _scan(str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _scan(path: str, size: int, changed: int) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    import polars as pl

    try:
        lazy = pl.scan_parquet(path) if path.endswith(".parquet") else pl.scan_ndjson(path, infer_schema_length=10_000)
        return lazy, tuple(lazy.collect_schema().names())
    except pl.exceptions.PolarsError as error:
        raise WinnowError(f"The recorded teacher's file {path} cannot be read: {str(error).splitlines()[0]}") from error
