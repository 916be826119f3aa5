"""What the tests of stages share: a context, rows held in memory, and rows made from a few words."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.digests import text_id
from curation.stages.base import Context, Outcome, Stage
from schemas.rows import ROW


class MemoryRows:
    """`Rows` over one Arrow table, cut into batches; DuckDB is the real one, locked as in a build."""

    def __init__(self, table: pa.Table, reads: Sequence[str] = ("*",), *, batch: int = 1000, **others: pa.Table):
        names = table.column_names if list(reads) == ["*"] else ["row_id", *(c for c in reads if c != "row_id")]
        self._table = table.select(names)
        self._batch = batch
        self._others = others
        self.schema = self._table.schema
        self.count = len(table)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        return (
            self._table if columns is None else self._table.select(["row_id", *(c for c in columns if c != "row_id")])
        )

    def batches(self, columns: Sequence[str] | None = None) -> Iterable[pa.Table]:
        table = self.table(columns)
        for start in range(0, len(table), self._batch):
            yield table.slice(start, self._batch)

    def traces(self, columns: Sequence[str]) -> Iterable[pa.Table]:
        return self._of_batches("traces", columns)

    def verdicts(self, columns: Sequence[str]) -> Iterable[pa.Table]:
        return self._of_batches("verdicts", columns)

    def _of_batches(self, name: str, columns: Sequence[str]) -> Iterable[pa.Table]:
        table = self._others[name].select(["row_id", *(c for c in columns if c != "row_id")])
        for batch in self.batches(["row_id"]):
            yield table.filter(pc.is_in(table["row_id"], value_set=batch["row_id"].combine_chunks()))

    def connect(self, *, threads: int = 1) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        connection.execute(f"set threads = {threads}")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        for name, table in {"rows": self._table, **self._others}.items():
            connection.register(name, table)
        return connection


def make_rows(records: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows in the canonical schema; a record gives what matters to a test."""
    filled = []
    for number, record in enumerate(records):
        question = record.get("question", f"question {number}")
        content = text_id(question, record.get("answer"), *(record.get("images") or ()))
        row = dict.fromkeys(ROW.names)
        row |= {
            "source": "made",
            "question": question,
            "content_id": content,
            "images": [],
            "row_id": text_id("made", content, str(number)),
        }
        filled.append(row | record)
    extra = sorted({name for record in filled for name in record} - set(ROW.names))
    base = pa.Table.from_pylist([{n: r[n] for n in ROW.names} for r in filled], schema=ROW)
    for name in extra:
        base = base.append_column(name, pa.array([r.get(name) for r in filled]))
    return base


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    positions = list(range(len(table)))
    random.Random(seed).shuffle(positions)
    return table.take(positions)


def run_row(stage: Stage, config: Any, table: pa.Table, context: Context, *, cuts: Sequence[int] = ()) -> Outcome:
    """A row stage over batches that end at `cuts`, its outcomes put together again."""
    names = ["row_id", *(c for c in stage.reads(config) if c != "row_id")]
    edges = [0, *sorted(cuts), len(table)]
    outcomes = [
        stage.run(config, table.select(names).slice(a, b - a), context) for a, b in itertools.pairwise(edges) if b > a
    ]
    columns = [o.columns for o in outcomes if o.columns is not None]
    fates = [o.fates for o in outcomes if o.fates is not None]
    return Outcome(
        columns=pa.concat_tables(columns) if columns else None,
        fates=pa.concat_tables(fates).sort_by("row_id") if fates else None,
    )


def run_global(
    stage: Stage, config: Any, table: pa.Table, context: Context, *, batch: int = 7, **others: pa.Table
) -> Outcome:
    return stage.run(
        config, MemoryRows(table, stage.reads_of(config, table.column_names), batch=batch, **others), context
    )


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(seed=7, name="here", workspace=tmp_path, recipe_dir=tmp_path, scratch=tmp_path)


@pytest.fixture
def named(context: Context) -> Callable[[str], Context]:
    from dataclasses import replace

    return lambda name: replace(context, name=name)


@pytest.fixture(scope="session")
def lab() -> Any:
    """The helpers above, for test modules, which cannot import this file."""
    return SimpleNamespace(rows=make_rows, shuffled=shuffled, row=run_row, all=run_global, Rows=MemoryRows)
