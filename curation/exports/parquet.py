"""One shard as a Parquet file: here the image bytes come in.

A file is laid out for three readers at once. A trainer reads row groups: they are cut by rows and by bytes, counting
each picture once, so one fits in memory whatever the images. The Hub stores chunks that it finds by content: image
bytes stay uncompressed and text pages are cut by content, so a version that changed a few rows sends little. And disks
are finite: pictures are dictionary-encoded, so eight traces of a row share one copy.

The same rows give the same bytes on any machine with the same pyarrow: nothing depends on time, workers or on how the
table was chunked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.exports.linked import image_name, link_images
from schemas.errors import DamagedError, WinnowError

REVISION = 1
"""Bumped when the same rows give other bytes."""

ROW_GROUP_ROWS = 1 << 16
ROW_GROUP_BYTES = 64 << 20
READ_AHEAD = 16
"""Images that are in memory beside those of the current row group."""

# As `datasets` cuts its own files, so that a set that was first pushed by it finds its chunks again.
CHUNKING = {"min_chunk_size": 256 << 10, "max_chunk_size": 1 << 20, "norm_level": 0}

# Leaves whose values repeat. A dictionary of texts that do not repeat would only be thrown away.
_REPEATING = {"role", "type", "source", "data_source", "license", "language", "style", "ability", "split", "model",
              "teacher", "state", "method"}  # fmt: skip

ReadImages = Callable[[Sequence[str]], Mapping[str, bytes]]


@dataclass(frozen=True)
class Written:
    """A finished, durable file."""

    sha256: str
    bytes: int
    rows: int
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Files beside it that it links, by path relative to its folder: sha256 and bytes."""


def write_shard(
    path: Path,
    table: pa.Table,
    *,
    image_columns: Sequence[str] = (),
    linked: Sequence[str] = (),
    read_images: ReadImages = lambda hashes: {},
    features: Mapping[str, Any] | None = None,
    row_group_rows: int = ROW_GROUP_ROWS,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> Written:
    """Write `table` to `path`, durably.

    image_columns  columns of image hashes (list<string>) that become List(Image()): structs {bytes, path}
    linked         dotted paths of image hashes that become names of files under `images/` beside `path`
    read_images    hashes -> their bytes
    features       `datasets` features of the written file (see curation.exports.features)

    Memory: the narrow table, and about six times row_group_bytes while a group of pictures is encoded. Raises
    DamagedError where the image store does not have a picture.
    """
    files: dict[str, tuple[str, int]] = {}
    if linked:
        table, files = link_images(table, linked, path.parent, read_images)
    schema = _schema(table.schema, image_columns)
    try:
        with path.open("wb", buffering=0) as raw:
            sink = _HashedFile(raw)
            with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, **_options(schema, image_columns)) as writer:
                if features:
                    info = json.dumps({"info": {"features": features}}, ensure_ascii=False)
                    writer.add_key_value_metadata({"huggingface": info})
                for group in _row_groups(table, schema, image_columns, read_images, row_group_rows, row_group_bytes):
                    writer.write_table(group, row_group_size=max(len(group), 1))
            os.fsync(raw.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Written(sink.digest.hexdigest(), sink.position, len(table), files)


class _HashedFile:
    """A file opened for writing that knows the sha256 of what was written."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self.digest = hashlib.sha256()
        self.position = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        done = 0
        while done < len(view):  # an unbuffered file may take less than it is given
            done += self._raw.write(view[done:])
        self.position += done
        return done

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing is held back; the file is made durable when it is complete."""

    def close(self) -> None:
        self.closed = True


# --------------------------------------------------------------------------------------------------------------- layout


def _schema(schema: pa.Schema, image_columns: Sequence[str]) -> pa.Schema:
    picture = pa.struct(
        [("bytes", pa.dictionary(pa.int32(), pa.binary())), ("path", pa.dictionary(pa.int32(), pa.string()))]
    )
    return pa.schema(
        [(f.name, pa.list_(picture) if f.name in image_columns else f.type) for f in schema], metadata=None
    )


def _leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, str, pa.DataType]]:
    """(Parquet path, own name, type) of each leaf of a column."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        for path, own, leaf in _leaves("", kind.value_type):
            yield f"{name}.list.element{path}", own or name, leaf
    elif pa.types.is_struct(kind):
        for inner in kind:
            for path, own, leaf in _leaves(inner.name, inner.type):
                yield f"{name}.{path}", own, leaf
    else:
        yield name, name, kind


def _options(schema: pa.Schema, image_columns: Sequence[str]) -> dict[str, Any]:
    leaves = [leaf for f in schema for leaf in _leaves(f.name, f.type)]
    pictures = {f"{name}.list.element.{part}" for name in image_columns for part in ("bytes", "path")}
    raw = {f"{name}.list.element.bytes" for name in image_columns}
    return {
        "compression": {path: "none" if path in raw else "zstd" for path, _, _ in leaves},
        "use_dictionary": [path for path, own, _ in leaves if path in pictures or own in _REPEATING] or False,
        # The pictures of a row group are one dictionary page: a smaller limit would store each of them again per row.
        "dictionary_pagesize_limit": (1 << 31) - 1,
        # Statistics of long texts and pictures serve nobody and cost a comparison per value.
        "write_statistics": [
            path for path, own, kind in leaves if path == own and (own == "row_id" or not _is_text(kind))
        ]
        or False,
        "write_page_index": True,
        "use_content_defined_chunking": CHUNKING,
        # The Arrow schema would record the dictionaries that are only a means of writing.
        "store_schema": False,
    }


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_dictionary(kind)
    )


# ----------------------------------------------------------------------------------------------------------- row groups


def row_bytes(column: pa.Array) -> np.ndarray:
    """Bytes of each row's texts, lists and structs followed down to their leaves; 8 for a number. int64[rows]"""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        inner = np.concatenate([[0], np.cumsum(row_bytes(column.flatten()))])
        edges = np.concatenate([[0], np.cumsum(lengths)])
        return inner[edges[1:]] - inner[edges[:-1]]
    if pa.types.is_struct(kind):
        total = np.zeros(len(column), np.int64)
        for i in range(kind.num_fields):
            total += row_bytes(pc.struct_field(column, i))
        return total
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        return pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(len(column), 8, np.int64)


def _weights(table: pa.Table, image_columns: Sequence[str]) -> np.ndarray:
    total = np.zeros(len(table), np.int64)
    for name in table.column_names:
        if name not in image_columns and table[name].num_chunks:
            total += np.concatenate([row_bytes(chunk) for chunk in table[name].chunks])
    return total


def _row_groups(
    table: pa.Table, schema: pa.Schema, image_columns: Sequence[str], read_images: ReadImages, rows: int, limit: int
) -> Iterator[pa.Table]:
    """The table in pieces of at most `rows` rows and about `limit` bytes, with pictures filled in."""
    weights = _weights(table, image_columns)
    if not image_columns:
        ends = np.concatenate([[0], np.cumsum(weights)])
        start = 0
        while start < len(table):
            stop = int(np.searchsorted(ends, ends[start] + limit, side="right")) - 1
            stop = min(max(stop, start + 1), start + rows, len(table))
            yield table.slice(start, stop - start)
            start = stop
        return
    pictures = _Pictures(table, image_columns, read_images)
    start, size = 0, 0
    for row, weight in enumerate(weights.tolist()):
        new = pictures.new_bytes(row)
        if row > start and (size + weight + new > limit or row - start >= rows):
            yield pictures.fill(schema, start, row)
            pictures.forget(row)
            start, size = row, 0
            new = pictures.new_bytes(row)
        pictures.hold(row)
        size += weight + new
    if len(table):
        yield pictures.fill(schema, start, len(table))


class _Pictures:
    """The pictures of the current row group, and a few that were read ahead.

    A picture is named by its code, its place in the list of distinct hashes of the shard.
    """

    def __init__(self, table: pa.Table, columns: Sequence[str], read_images: ReadImages):
        self._table = table
        self._read_images = read_images
        self._lists = {name: table[name].combine_chunks() for name in columns}
        if isinstance(next(iter(self._lists.values())), pa.ChunkedArray):
            raise WinnowError("a shard has more than 2 GiB of image hashes; use more shards")
        encoded = (
            pa.chunked_array([array.flatten() for array in self._lists.values()]).combine_chunks().dictionary_encode()
        )
        self._hashes: list[str] = encoded.dictionary.to_pylist()
        codes = encoded.indices.to_numpy()
        self._codes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        begin = 0
        for name, array in self._lists.items():
            lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
            edges = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            self._codes[name] = (codes[begin : begin + edges[-1]], edges)
            begin += int(edges[-1])
        self._last: tuple[int, list[int]] = (-1, [])
        self._held: dict[int, bytes] = {}
        self._ahead: dict[int, bytes] = {}

    def _own(self, row: int) -> list[int]:
        if row != self._last[0]:
            own: dict[int, None] = {}
            for codes, edges in self._codes.values():
                own.update(dict.fromkeys(codes[edges[row] : edges[row + 1]].tolist()))
            self._last = row, list(own)
        return self._last[1]

    def new_bytes(self, row: int) -> int:
        """Bytes of the row's pictures that the row group does not hold yet; reads them, and some that follow."""
        new = [code for code in self._own(row) if code not in self._held]
        missing = [code for code in new if code not in self._ahead]
        if missing:
            self._read(dict.fromkeys([*missing, *self._following(row)]))
        return sum(len(self._ahead[code]) for code in new)

    def _following(self, row: int) -> list[int]:
        found: dict[int, None] = {}
        for codes, edges in self._codes.values():
            found.update(dict.fromkeys(codes[edges[row] : edges[row] + 16 * READ_AHEAD].tolist()))
        return [code for code in found if code not in self._held and code not in self._ahead][:READ_AHEAD]

    def _read(self, codes: Mapping[int, None]) -> None:
        wanted = {self._hashes[code]: code for code in codes}
        found = self._read_images(list(wanted))
        for name, code in wanted.items():
            if name not in found:
                raise DamagedError(f"The image store has lost image {name}.\nBuild again: the source is read again.")
            self._ahead[code] = found[name]

    def hold(self, row: int) -> None:
        for code in self._own(row):
            if code not in self._held:
                self._held[code] = self._ahead.pop(code)

    def forget(self, row: int) -> None:
        """Empty the row group; what `row` shares with it is kept in hand."""
        self._ahead.update({code: self._held[code] for code in self._own(row) if code in self._held})
        self._held = {}

    def fill(self, schema: pa.Schema, start: int, stop: int) -> pa.Table:
        """Rows [start, stop) with each picture once, however many rows show it."""
        piece = self._table.slice(start, stop - start)
        columns = [self._filled(f.name, start, stop) if f.name in self._codes else piece[f.name] for f in schema]
        return pa.table(columns, schema=schema)

    def _filled(self, name: str, start: int, stop: int) -> pa.Array:
        codes, edges = self._codes[name]
        here = codes[edges[start] : edges[stop]]
        distinct, first, inverse = np.unique(here, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        used = distinct[order].tolist()
        index = pa.array(rank[inverse])
        try:
            data = pa.array([self._held[code] for code in used], pa.binary())
        except pa.ArrowCapacityError:
            data = None
        if data is None or isinstance(data, pa.ChunkedArray):
            raise WinnowError(
                f"one row has more than 2 GiB of images, which no Parquet reader takes: row {start} of the shard"
            )
        names = pa.array([image_name(self._hashes[code], self._held[code]) for code in used], pa.string())
        picture = pa.StructArray.from_arrays(
            [pa.DictionaryArray.from_arrays(index, data), pa.DictionaryArray.from_arrays(index, names)],
            ["bytes", "path"],
        )
        offsets = (edges[start : stop + 1] - edges[start]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), picture)
