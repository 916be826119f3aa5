"""Hashes that are stored: of rows, of columns, of files and of configs.

All are SHA-256 over a canonical byte form, so they are the same on any machine. A column's digest is over its logical
values: how Arrow chunked, sliced, dictionary-encoded or padded it makes no difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rows import ID_DIGITS

_ID_BYTES = ID_DIGITS // 2


def text_id(*parts: str | bytes | None) -> str:
    """An id over some texts. Each is preceded by its length, so that no two lists of parts give the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = b"" if part is None else part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % (-1 if part is None else len(data)))
        digest.update(data)
    return digest.hexdigest()[:ID_DIGITS]


def json_digest(value: Any) -> str:
    """sha256 hex of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 hex of a file's bytes, read through a memory map so that a later reader finds them in the page cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(array: pa.Array) -> pa.Array:
    """The array without dictionary, view or large variants of its type."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string()) if array.nbytes < 2**31 - 1 else array.cast(pa.large_string())
    return array


def _update(digest: Any, array: pa.Array) -> None:
    """Feed the logical values of one array: validity, lengths, values of the valid slots."""
    array = _plain(array)
    kind = array.type
    n = len(array)
    nulls = array.null_count
    digest.update(b"%d,%d;" % (n, nulls))
    if nulls:
        digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        array = array.drop_null()
    if not len(array):
        return
    if pa.types.is_struct(kind):
        for field in kind:
            digest.update(field.name.encode() + b";")
            _update(digest, pc.struct_field(array, field.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(np.asarray(pc.list_value_length(array), dtype="<i8").tobytes())
        _update(digest, array.flatten())
    elif (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    ):
        large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
        _, offset_buffer, data = array.buffers()
        offsets = np.frombuffer(offset_buffer, "<i8" if large else "<i4")[array.offset : array.offset + len(array) + 1]
        digest.update(np.diff(offsets).astype("<i8").tobytes())
        if data is not None:
            digest.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
    elif pa.types.is_boolean(kind):
        digest.update(np.packbits(array.to_numpy(zero_copy_only=False)).tobytes())
    elif pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False).astype("<f8")
        # -0.0 and NaN payloads differ between libraries that mean the same number.
        values = np.where(values == 0, 0.0, values)
        values[np.isnan(values)] = np.nan
        digest.update(values.tobytes())
    elif pa.types.is_integer(kind):
        digest.update(array.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
    elif not pa.types.is_null(kind):
        raise TypeError(f"a column of type {kind} has no canonical form; use text, numbers, booleans, lists or structs")


def column_digest(column: pa.Array | pa.ChunkedArray) -> str:
    """sha256 hex over the logical values of one column."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # more than 2 GiB of text does not fit one array
            return json_digest([column_digest(chunk) for chunk in column.chunks])
    digest = hashlib.sha256(_type_name(column.type).encode())
    _update(digest, column)
    return digest.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """The type's name, whatever Arrow or Parquet calls the items of its lists and however it stores them."""
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {_type_name(field.type)}' for field in kind)}>"
    return str(kind).replace("large_", "").replace("_view", "")


def table_digest(table: pa.Table, columns: Sequence[str] | None = None) -> str:
    """sha256 hex over the logical values of a table, column by column in the order of their names."""
    names = sorted(columns if columns is not None else table.column_names)
    return json_digest([len(table), *((name, column_digest(table[name])) for name in names)])


PREFIXES = 256
"""Tables of a version are digested in 256 groups by the first two hex digits of row_id, and sharded along them."""


def prefix_bounds(row_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Where each row-id prefix begins in a sorted column: PREFIXES + 1 positions."""
    if isinstance(row_ids, pa.ChunkedArray):
        row_ids = row_ids.combine_chunks()
    heads = np.asarray(pc.utf8_slice_codeunits(row_ids, 0, 2).to_pylist() if len(row_ids) else [], dtype="<U2")
    marks = np.asarray([f"{i:02x}" for i in range(PREFIXES)], dtype="<U2")
    return np.append(np.searchsorted(heads, marks), len(heads))


def prefix_digests(table: pa.Table, first: int, last: int) -> dict[int, str]:
    """Digest of each prefix group in [first, last) of a table sorted by row_id; groups without rows are left out."""
    table = table.combine_chunks()
    bounds = prefix_bounds(table["row_id"])
    digests = {}
    for prefix in range(first, last):
        start, stop = int(bounds[prefix]), int(bounds[prefix + 1])
        if stop > start:
            digests[prefix] = table_digest(table.slice(start, stop - start))
    return digests
