"""Ids of rows, made and handled a column at a time.

An id is the beginning of a SHA-256 over a canonical text. In numpy it is an S20 (20 hex digits as bytes), which sorts
and searches without a Python object per row.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rows import ID_DIGITS


def _joined(column: pa.ChunkedArray, n: int) -> pa.ChunkedArray | pa.Array:
    """One text per list, from which the list can be told: lengths, then values. Null lists stay null."""
    if column.null_count == n:
        return pa.nulls(n, pa.large_string())
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values = pc.fill_null(column.flatten(), "\x00")
    lengths = pc.cast(pc.binary_length(values), pa.string())
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int64())

    def glue(parts: pa.Array) -> pa.Array:
        return pc.binary_join(
            pa.LargeListArray.from_arrays(offsets, parts.cast(pa.large_string())), pa.scalar("\x1f", pa.large_string())
        )

    joined = pc.binary_join_element_wise(glue(lengths), glue(values), pa.scalar("\x1e", pa.large_string()))
    return pc.if_else(column.is_valid(), joined, pa.scalar(None, pa.large_string()))


def canonical_texts(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """One text per row from which the columns' values can be told: each is preceded by its length, null by '-'."""
    parts: list[Any] = []
    n = len(table)
    for name in columns:
        column = table[name]
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = _joined(column, n)
        column = column.cast(pa.large_string())
        parts += [pc.fill_null(pc.cast(pc.binary_length(column), pa.large_string()), "-"), pc.fill_null(column, "")]
    joined = pc.binary_join_element_wise(*parts, pa.scalar(":", pa.large_string()))
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def content_texts(table: pa.Table) -> pa.Array:
    return canonical_texts(table, ["question", "choices", "answer", "images"])


def hash_texts(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The first ID_DIGITS hex digits of sha256 of each text's UTF-8 bytes."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    texts = texts.cast(pa.large_string())
    n = len(texts)
    if n == 0:
        return pa.array([], pa.string())
    _, offset_buffer, data = texts.buffers()
    edges = np.frombuffer(offset_buffer, "<i8")[texts.offset : texts.offset + n + 1].tolist()
    view = memoryview(data) if data is not None else memoryview(b"")
    sha256 = hashlib.sha256
    digests = b"".join([sha256(view[a:b]).digest()[: ID_DIGITS // 2] for a, b in itertools.pairwise(edges)])
    return ids_column(np.frombuffer(digests.hex().encode(), f"S{ID_DIGITS}"))


def ids_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Row ids as a numpy array of fixed-length bytes (S20), without a Python object per row."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    n = len(column)
    if n == 0:
        return np.empty(0, f"S{ID_DIGITS}")
    column = column.cast(pa.large_string())
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, "<i8")[column.offset : column.offset + n + 1]
    if column.null_count or int(edges[-1] - edges[0]) != n * ID_DIGITS:
        raise ValueError("row ids must be texts of 20 hex digits")
    return np.frombuffer(memoryview(data)[int(edges[0]) : int(edges[-1])], f"S{ID_DIGITS}")


def rows_of(table: pa.Table, rows: pa.Table) -> np.ndarray:
    """int64[len(table)]: the position in `rows` of the row that each line of `table` belongs to. All of them are there."""
    own = ids_array(rows["row_id"])
    order = np.argsort(own, kind="stable")
    return order[np.searchsorted(own[order], ids_array(table["row_id"]))]


def ids_column(ids: np.ndarray) -> pa.Array:
    """The way back: S20 to Arrow text, without a Python object per row."""
    n = len(ids)
    offsets = np.arange(0, (n + 1) * ID_DIGITS, ID_DIGITS, dtype="<i4")
    data = np.ascontiguousarray(ids.astype(f"S{ID_DIGITS}"))
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes()))


def pair_keys(table: pa.Table) -> np.ndarray:
    """(row_id, k) as one sortable value each: S24 with k in big-endian order; k is -1 where it is null or not there."""
    keys = np.empty(len(table), [("id", f"S{ID_DIGITS}"), ("k", ">u4")])
    keys["id"] = ids_array(table["row_id"])
    k = pc.fill_null(table["k"], -1).to_numpy() if "k" in table.column_names else np.full(len(table), -1)
    keys["k"] = k.astype(np.int64) + 2**31
    # Compared as text: numpy strips trailing NULs there, which keeps the order because all keys are equally long.
    return keys.view(f"S{ID_DIGITS + 4}").reshape(-1)
