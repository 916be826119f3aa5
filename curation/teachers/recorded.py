"""The `recorded` teacher: answers that somebody else asked for, read from a file and joined to rows by an id."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from curation.ids import canonical_texts, hash_texts
from curation.teachers.base import Held
from schemas.errors import WinnowError
from schemas.recipe import Model, PathText
from schemas.rows import TRACE

if TYPE_CHECKING:
    import polars as pl

    from curation.stages.base import Context

PIECE_ROWS = 2048
"""Rows whose answers are in memory together."""
HELD_BYTES = 256 << 20
"""Texts that may wait in memory for their rows; more of them wait on disk."""

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

    def pieces(self, rows: pa.Table, n: int, context: Context) -> Iterator[tuple[pa.Table, pa.Table]]:
        import polars as pl

        path = context.recipe_dir / self.path
        keys = rows[self.join.rows].cast(pa.string())
        wanted = pl.DataFrame({"at": np.arange(len(rows), dtype=np.int64), "join": pl.from_arrow(keys)})
        try:
            found = self._answers(path, wanted["join"].drop_nulls().unique(), n)
        except pl.exceptions.PolarsError as error:
            raise WinnowError(
                f"The recorded teacher's file {path} cannot be used: {str(error).splitlines()[0]}"
            ) from error
        lines = wanted.join(found, on="join", how="inner").sort("at", "k")
        texts = _Texts(self, path, lines, context.scratch)
        edges = np.searchsorted(lines["at"].to_numpy(), np.arange(0, len(rows) + PIECE_ROWS, PIECE_ROWS)).tolist()
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            block = rows.slice(number * PIECE_ROWS, PIECE_ROWS)
            yield block, self._traces(rows, lines.slice(start, stop - start), texts.take(number))

    def _traces(self, rows: pa.Table, lines: pl.DataFrame, text: pa.Array) -> pa.Table:
        table = lines.to_arrow()
        finish = pc.if_else(pc.is_null(text), "failed", table["finish"].cast(pa.string()))
        columns = {
            "row_id": rows["row_id"].take(table["at"]),
            "k": table["k"],
            "attempt": pa.repeat(pa.scalar(0, pa.int32()), len(table)),
            "key": hash_texts(canonical_texts(table, ["model", "join", "k"])),
            "teacher": pa.repeat(pa.scalar("recorded"), len(table)),
            "model": table["model"],
            "text": pc.if_else(pc.equal(finish, "failed"), pa.scalar(None, pa.string()), text),
            "finish": finish,
            "finish_reason": table["finish_reason"],
            "output_tokens": table["output_tokens"],
        }
        return pa.table([columns.get(f.name, pa.nulls(len(table), f.type)) for f in TRACE], names=TRACE.names).cast(
            TRACE
        )

    def _answers(self, path: Path, ids: pl.Series, n: int) -> pl.DataFrame:
        """position (in the file), join, k, model, finish, finish_reason, output_tokens of the answers to `ids`, k below
        n: all but the texts."""
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
        raw = pl.col(self.finish).cast(pl.String) if self.finish else pl.lit(None, pl.String)
        own = pl.col(self.join.traces).cast(pl.String)
        # Numbered before the filter: an answer's k must not depend on which rows are still there.
        k = pl.int_range(pl.len(), dtype=pl.Int32).over(own)
        if self.k:
            lowest = lazy.select(pl.col(self.k).cast(pl.Int64).min()).collect().item() or 0
            k = (pl.col(self.k).cast(pl.Int64) - lowest).cast(pl.Int32)
        frame = (
            lazy.select(
                pl.int_range(pl.len(), dtype=pl.Int64).alias("position"),
                pl.col(self.join.traces).alias("own"),
                own.alias("join"),
                k.alias("k"),
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
        twice = frame.filter(pl.struct("join", "k").is_duplicated()).sort("join", "k")
        if len(twice):
            join, number = twice.select("join", "k").row(0)
            pairs = twice.select("join", "k").n_unique()
            raise WinnowError(
                f"{path} has {pairs:,} answers that share id and {self.k}, the first: {join!r}, {number}.\n"
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
        return spelled.replace_strict(_SPELLINGS, default="finished", return_dtype=pl.String)


class _Texts:
    """The texts of answers, brought from the order of the file into the order of rows.

    The file is read once, batch by batch. What belongs to a piece waits for it: in memory, or in the scratch folder
    where all of it together is large.
    """

    def __init__(self, config: Recorded, path: Path, lines: pl.DataFrame, scratch: Path | None):
        self._pieces: dict[int, list[tuple[np.ndarray, pa.Array]]] = {}
        self._files: dict[int, pa.RecordBatchStreamWriter] = {}
        self._scratch, self._held = scratch, 0
        position = lines["position"].to_numpy()
        order = np.argsort(position, kind="stable")
        position = position[order]
        piece = lines["at"].to_numpy()[order] // PIECE_ROWS
        start = 0
        for texts in _texts_in_order(path, config.response):
            low, high = np.searchsorted(position, (start, start + len(texts)))
            here = np.argsort(piece[low:high], kind="stable")
            of, where = piece[low:high][here], order[low:high][here]
            chosen = texts.take(pa.array(position[low:high][here] - start))
            edges = np.flatnonzero(np.concatenate([[True], of[1:] != of[:-1], [True]])) if len(of) else [0]
            for a, b in itertools.pairwise(edges):
                self._add(int(of[a]), where[a:b], chosen.slice(a, b - a))
            start += len(texts)
        for writer in self._files.values():
            writer.close()

    def _add(self, piece: int, where: np.ndarray, texts: pa.Array) -> None:
        """`where` they stand among all lines."""
        self._held += texts.nbytes
        if self._scratch is None or (self._held < HELD_BYTES and not self._files):
            self._pieces.setdefault(piece, []).append((where, texts))
            return
        if not self._files:
            held, self._pieces = self._pieces, {}
            for number, parts in held.items():
                for part in parts:
                    self._spill(number, *part)
        self._spill(piece, where, texts)

    def _spill(self, piece: int, where: np.ndarray, texts: pa.Array) -> None:
        batch = pa.record_batch([pa.array(where), texts], names=["where", "text"])
        if piece not in self._files:
            assert self._scratch is not None
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._files[piece] = pa.ipc.new_stream(str(self._scratch / f"texts-{piece}"), batch.schema, options=options)
        self._files[piece].write_batch(batch)

    def take(self, piece: int) -> pa.Array:
        """The texts of a piece, in the order of its lines; they are forgotten here."""
        if piece in self._files and self._scratch is not None:
            path = self._scratch / f"texts-{piece}"
            with pa.ipc.open_stream(str(path)) as reader:
                table = reader.read_all()
            path.unlink()
            where, texts = table["where"].to_numpy(), table["text"].combine_chunks()
        elif piece in self._pieces:
            parts = self._pieces.pop(piece)
            where = np.concatenate([part for part, _ in parts])
            texts = pa.concat_arrays([part for _, part in parts])
        else:
            return pa.array([], pa.string())
        return texts.take(pa.array(np.argsort(where, kind="stable")))


def _texts_in_order(path: Path, column: str) -> Iterator[pa.Array]:
    """The column's texts, in batches, in the order of the file."""
    import polars as pl

    if path.suffix == ".parquet":
        with pq.ParquetFile(path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=8192, columns=[column]):
                yield batch.column(0).cast(pa.string())
        return
    lazy = _opened(path)[0].select(pl.col(column).cast(pl.String))
    for frame in lazy.collect_batches(maintain_order=True, chunk_size=8192):
        texts = frame.to_arrow().column(0)
        yield (texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts).cast(pa.string())


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
