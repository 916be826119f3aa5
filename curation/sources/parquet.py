"""Parquet files, by row groups; only the columns that the recipe reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.sources.base import BATCH_BYTES, Part, Raw, shown
from curation.sources.files import chosen
from schemas.errors import SourceError

PIECES = 16
"""Into how many parts a row group is cut at most: each part decodes what stands before it once more."""


class ParquetReader:
    """Rows of Parquet files. A column that some of the files lack is null there.

    needed   says of all columns which ones to read.
    label    stands for the folder in file names that people see (for files in a cache).
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        recipe_dir: Path,
        limit: int | None = None,
        where: str | None = None,
        *,
        image_folder: str | None = None,
        needed: Callable[[Sequence[str]], Sequence[str]] = list,
        label: str | None = None,
    ):
        self._name = name
        self._files = list(files)
        self._recipe_dir = recipe_dir
        self._limit = limit
        self._where = where
        self._needed = needed
        self._label = label
        self._own_folder = image_folder is None
        self.image_root = recipe_dir / (image_folder or "")

    def inputs(self) -> list[Path]:
        return self._files

    def _open(self, path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(
                f"Source {self._name}: {path} cannot be read as Parquet ({str(error).splitlines()[0]}).\nIt may be cut "
                "short or of another format: copy or download it again, or take it out of the recipe."
            ) from error

    def schema(self) -> pa.Schema:
        schemas = [self._open(path).schema_arrow.remove_metadata() for path in self._files]
        try:
            return pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            # The same name with types that do not go together: each file is mapped by its own.
            first: dict[str, pa.Field] = {}
            for schema in schemas:
                for field in schema:
                    first.setdefault(field.name, field)
            return pa.schema(list(first.values()))

    def parts(self) -> list[Part]:
        parts: list[Part] = []
        left = self._limit
        for path in self._files:
            file = self._open(path)
            wide = _has_bytes(file.schema_arrow)
            most = (4 if wide else 1) * BATCH_BYTES
            start, first, nbytes, rows = 0, 0, 0, 0
            for group in range(file.metadata.num_row_groups):
                of = file.metadata.row_group(group)
                if rows and nbytes + of.total_byte_size > most:
                    parts += self._cut(path, start, group, first, rows, 1)
                    start, first, nbytes, rows = group, first + rows, 0, 0
                rows += of.num_rows
                nbytes += of.total_byte_size
            # Pictures are not decoded twice: a row group that has them stays whole.
            pieces = 1 if wide else min(PIECES, -(-nbytes // most))
            parts += self._cut(path, start, file.metadata.num_row_groups, first, rows, pieces)
        limited: list[Part] = []
        for part in parts:
            take = part.take or 0
            if left is not None:
                take, left = min(take, left), left - min(take, left)
            if take:
                limited.append(Part(part.file, part.start, part.stop, part.first, take, part.skip))
        return limited

    @staticmethod
    def _cut(path: Path, start: int, stop: int, first: int, rows: int, pieces: int) -> list[Part]:
        edges = [rows * i // max(pieces, 1) for i in range(max(pieces, 1) + 1)]
        return [Part(str(path), start, stop, first + low, high - low, low) for low, high in pairwise(edges)]

    def read(self, part: Part) -> Iterator[Raw]:
        path = Path(part.file)
        file = self._open(path)
        groups = range(part.start, part.stop)
        names = list(self._needed(file.schema_arrow.names))
        size = sum(_bytes_of(file.metadata.row_group(g), set(names)) for g in groups)
        rows = max(1, sum(file.metadata.row_group(g).num_rows for g in groups))
        batch = int(np.clip(BATCH_BYTES * rows // max(size, 1), 16, 65_536))
        label = f"{self._label}/{path.name}" if self._label else shown(path, self._recipe_dir)
        missing = [f for f in self.schema() if f.name not in file.schema_arrow.names] if len(self._files) > 1 else []
        at, stop = 0, part.skip + (part.take if part.take is not None else rows)
        try:
            for record_batch in file.iter_batches(batch_size=batch, row_groups=list(groups), columns=names):
                begin, end = max(part.skip - at, 0), min(stop - at, len(record_batch))
                if begin < end:
                    table = pa.table(record_batch).slice(begin, end - begin)
                    for field in missing:
                        table = table.append_column(field, pa.nulls(len(table), field.type))
                    index = np.arange(len(table), dtype=np.int64) + (part.first - part.skip + at + begin)
                    raw = Raw(table, label, index, folder=path.parent if self._own_folder else None)
                    yield chosen(raw, self._where)
                at += len(record_batch)
                if at >= stop:
                    return
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(
                f"Source {self._name}: {path} is damaged after record {part.first - part.skip + at:,} "
                f"({str(error).splitlines()[0]}).\nCopy or download it again, or take it out of the recipe."
            ) from error


def _bytes_of(group: pq.RowGroupMetaData, names: set[str]) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] in names)


def _has_bytes(schema: pa.Schema) -> bool:
    return any("binary" in str(field.type) for field in schema)
