"""Traces that a stage gives from one row to another: the partitions of both are written anew, block by block.

A merge must not cost what a teacher said, nor invent any: as many traces come as go, and no k stands twice in a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.engines.partition import VERDICTS, Partition, read_table, write_pieces
from curation.ids import ids_array
from curation.stages.base import Moved
from schemas.errors import WinnowError
from schemas.rows import TRACE

BLOCK_ROWS = 2048
"""Rows whose traces are held at a time."""


def write_moved(name: str, moved: Moved, partitions: Sequence[Partition], target: Path) -> dict[str, dict[str, str]]:
    """Write `traces-N.parquet` and `verdicts-N.parquet` into `target` for each partition N that gives or takes traces.
    Returns their digests by N. `name` is the stage's, for errors."""
    written: dict[str, dict[str, str]] = {}
    gone = taken = 0
    givers = pc.unique(moved.givers)
    for number, partition in enumerate(partitions):
        ids = partition.read(["row_id"], alive=False)["row_id"].combine_chunks()
        if not pc.any(pc.is_in(ids, pa.concat_arrays([givers, _ids(moved.traces)]))).as_py():
            continue
        written[str(number)] = {}
        for what, added, schema in (("traces", moved.traces, TRACE), ("verdicts", moved.verdicts, VERDICTS)):
            path = getattr(partition, what)
            pieces = _pieces(name, path, ids, givers, added, schema)
            digest, count = write_pieces(target / f"{what}-{number:05d}.parquet", pieces, schema)
            written[str(number)][what] = digest
            if what == "traces":
                before = 0 if path is None else len(read_table(path, ["row_id"]))
                came = int(np.isin(ids_array(added["row_id"]), ids_array(ids)).sum())
                gone, taken = gone + before + came - count, taken + came
    if gone != taken or taken != len(moved.traces):
        raise WinnowError(
            f"Stage {name} moved {len(moved.traces):,} traces to other rows, but {gone:,} left theirs and {taken:,} found "
            "a row: nothing was changed. This is a bug of the stage."
        )
    return written


def _ids(table: pa.Table) -> pa.Array:
    return table["row_id"].combine_chunks().cast(pa.string())


def _pieces(
    name: str, path: str | None, ids: pa.Array, givers: pa.Array, added: pa.Table, schema: pa.Schema
) -> Iterator[pa.Table]:
    """Traces, or verdicts, of a partition after the move. `ids` are its rows, sorted."""
    for start in range(0, len(ids), BLOCK_ROWS):
        block = ids.slice(start, BLOCK_ROWS)
        new = added.filter(pc.is_in(added["row_id"], block)).select(schema.names).cast(schema)
        own = schema.empty_table()
        if path is not None:
            bounds = [("row_id", ">=", block[0].as_py()), ("row_id", "<=", block[-1].as_py())]
            own = read_table(path, schema.names, filters=bounds).cast(schema)
            own = own.filter(pc.invert(pc.is_in(own["row_id"], givers)))
        piece = pa.concat_tables([own, new])
        if len(new) and (twice := _twice(piece)) is not None:
            raise WinnowError(
                f"Stage {name} gave row {twice[0]} a second trace k={twice[1]}; a row numbers its traces."
            )
        yield piece


def _twice(piece: pa.Table) -> tuple[str, int] | None:
    """A row_id and k that stand there more than once."""
    counts = piece.group_by(["row_id", "k"]).aggregate([([], "count_all")])
    again = counts.filter(pc.greater(counts["count_all"], 1))
    return (again["row_id"][0].as_py(), again["k"][0].as_py()) if len(again) else None
