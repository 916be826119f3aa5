"""Rows on disk while a plan runs: partitions, and columns that stages lay over them.

A partition holds the rows of one source whose row_id begins with certain digits, sorted by row_id. It never changes:
a stage that writes a column adds a *layer* (a Parquet file with as many rows as the partition), and a stage that drops
rows clears bits of `alive`. So no stage copies what it does not touch, and reading a row is never a join.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.digests import PREFIXES, column_digest, json_digest, table_digest
from curation.ids import ids_array
from schemas.errors import DamagedError
from schemas.verdicts import VERDICT_SCHEMA

VERDICTS = pa.schema([("row_id", pa.string()), ("k", pa.int32()), *VERDICT_SCHEMA])


@dataclass(frozen=True)
class Layer:
    """Where a column of a partition is stored, and the digest of its values."""

    path: str
    type: pa.DataType
    digest: str


@dataclass(frozen=True)
class Partition:
    source: str
    first: int
    """First row-id prefix (two hex digits as a number) that it may hold."""
    last: int
    """One past the last prefix."""
    rows: int
    layers: Mapping[str, Layer]
    alive: bytes
    """np.packbits of the rows that are still kept."""
    nbytes: int = 0
    """Bytes of its rows in memory when it was made."""
    traces: str | None = None
    verdicts: str | None = None
    traces_digest: str = ""
    verdicts_digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.source}-{self.first:02x}"

    @property
    def mask(self) -> np.ndarray:
        """bool[rows]"""
        return np.unpackbits(np.frombuffer(self.alive, np.uint8), count=self.rows).astype(bool)

    @property
    def kept(self) -> int:
        return int(self.mask.sum())

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, layer.type) for name, layer in self.layers.items()])

    def read(self, columns: Sequence[str] | None = None, *, alive: bool = True) -> pa.Table:
        """The columns (all by default), of the kept rows or of all, in the partition's order."""
        names = list(self.layers) if columns is None else list(columns)
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self.layers[name].path, []).append(name)
        found: dict[str, pa.ChunkedArray] = {}
        for path, wanted in by_file.items():
            table = read_table(path, wanted)
            if len(table) != self.rows:
                raise DamagedError(
                    f"{path} has {len(table):,} rows instead of {self.rows:,}. Remove its folder and build again."
                )
            found.update({name: table[name] for name in wanted})
        result = pa.table([found[name] for name in names], names=names) if names else pa.table({})
        if alive and names:
            mask = self.mask
            if not mask.all():
                result = result.filter(pa.array(mask))
        return result

    def read_traces(
        self, columns: Sequence[str] | None = None, *, between: tuple[str, str] | None = None
    ) -> pa.Table | None:
        """Traces of the kept rows (of those `between` two row_ids, both included), sorted by (row_id, k); all columns by
        default."""
        return self._of_kept(self.traces, columns, between)

    @property
    def trace_bytes(self) -> int:
        """Bytes of its traces in memory, about."""
        if self.traces is None:
            return 0
        metadata = pq.read_metadata(self.traces)
        return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))

    def read_verdicts(
        self, columns: Sequence[str] | None = None, *, between: tuple[str, str] | None = None
    ) -> pa.Table | None:
        return self._of_kept(self.verdicts, columns, between)

    def _of_kept(
        self, path: str | None, columns: Sequence[str] | None, between: tuple[str, str] | None
    ) -> pa.Table | None:
        if path is None:
            return None
        bounds = None if between is None else [("row_id", ">=", between[0]), ("row_id", "<=", between[1])]
        names = None if columns is None else ["row_id", *(c for c in columns if c != "row_id")]
        table = read_table(path, names, filters=bounds)
        if self.mask.all():
            return table
        kept = ids_array(self.read(["row_id"])["row_id"])
        return table.filter(pa.array(np.isin(ids_array(table["row_id"]), kept)))

    def drop(self, row_ids: np.ndarray) -> tuple[Partition, np.ndarray]:
        """Clear rows (an S20 array, sorted). Returns the partition and a mask of the ids that were kept rows of it."""
        mask = self.mask
        own = ids_array(self.read(["row_id"], alive=False)["row_id"])
        position = np.minimum(np.searchsorted(own, row_ids), max(len(own) - 1, 0))
        here = (own[position] == row_ids) & mask[position] if len(own) else np.zeros(len(row_ids), bool)
        mask[position[here]] = False
        return replace(self, alive=np.packbits(mask).tobytes()), here

    def fingerprint(self, columns: Sequence[str], *, needs: str) -> str:
        """Digest of what a stage that reads `columns` (and traces or verdicts) sees of this partition."""
        values = {name: self.layers[name].digest for name in sorted({*columns, "row_id"})}
        seen = [values, self.alive.hex() if self.rows < 64 else json_digest(self.alive.hex())]
        if needs in ("traces", "verdicts"):
            seen.append(self.traces_digest)
        if needs == "verdicts":
            seen.append(self.verdicts_digest)
        return json_digest(seen)


def read_table(path: str, columns: Sequence[str] | None = None, *, filters: Any = None) -> pa.Table:
    """A Parquet file of the workspace; a missing or damaged one is said so."""
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns), memory_map=True, filters=filters)
    except FileNotFoundError:
        raise DamagedError(
            f"A file of the stage cache is gone: {path}\nNothing else is lost: run the same command again, and that stage is done again."
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(
            f"A file of the stage cache cannot be read: {path} ({error})\nRemove its folder {Path(path).parent} and run "
            "the same command again."
        ) from error


def write_table(path: Path, table: pa.Table) -> None:
    """A file of the stage cache: quick to write, cheap to read a few columns of, or a range of row ids."""
    pq.write_table(
        table,
        path,
        compression="lz4",
        write_statistics=["row_id"] if "row_id" in table.column_names else False,
        use_dictionary=dictionary_columns(table.schema),
        row_group_size=1 << 17,
    )


def table_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """The same for a table that comes in pieces."""
    return pq.ParquetWriter(
        path, schema, compression="lz4", write_statistics=["row_id"], use_dictionary=dictionary_columns(schema)
    )


def write_pieces(path: Path, pieces: Iterable[pa.Table], schema: pa.Schema) -> tuple[str, int]:
    """Write tables one after the other, each sorted by row and k in row groups of its own; their digest and rows."""
    digests, count = [], 0
    with table_writer(path, schema) as writer:
        for piece in pieces:
            keys = [(name, "ascending") for name in ("row_id", "k", "attempt") if name in piece.column_names]
            piece = piece.select(schema.names).sort_by(keys).cast(schema)
            if len(piece):
                writer.write_table(piece)
                digests.append(table_digest(piece, [c for c in piece.column_names if c != "seconds"]))
                count += len(piece)
    return digests[0] if len(digests) == 1 else json_digest(digests), count


def read_prefixes(path: str, first: int, last: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a stored table whose row_id begins with a prefix in [first, last)."""
    bounds = [("row_id", ">=", f"{first:02x}")] if first else []
    bounds += [("row_id", "<", f"{last:02x}")] if last < PREFIXES else []
    return read_table(path, columns, filters=bounds or None)


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """Columns whose values repeat: the others are stored plainly, which is quicker and no larger."""
    repeating = {"source", "license", "language", "split", "fate", "stage", "reason", "sentence", "evidence", "file",
                 "teacher", "model", "finish", "finish_reason", "malformed", "repair", "fate_reason", "state", "method", "rule"}  # fmt: skip
    return [field.name for field in schema if field.name in repeating]


def layers_of(path: Path, table: pa.Table) -> dict[str, Layer]:
    """The layers that a written table gives, but for row_id where it is only the key."""
    return {
        name: Layer(str(path), table.schema.field(name).type, column_digest(table[name])) for name in table.column_names
    }
