"""Hashes that are stored: of rows, of columns, of files and of configs.

All are SHA-256 over a canonical byte form, so they are the same on any machine. A column's digest is over its logical
values: how Arrow chunked, sliced, dictionary-encoded or padded it makes no difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.ids import ids_array
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


Feed = Callable[[Any, int, int], None]
"""feed(digest, start, stop) hashes the logical values of that range of a column."""


def _feed(array: pa.Array) -> Feed:
    """How the values of an array are hashed, range by range: length and nulls, validity, values of the valid slots.

    What the ranges have in common is prepared once, so that a thousand small ranges cost little more than one large.
    """
    array = _plain(array)
    some = array.drop_null() if array.null_count else array
    dense = _feed_valid(some) if len(some) else None
    if not array.null_count:

        def whole(digest: Any, start: int, stop: int) -> None:
            digest.update(b"%d,0;" % (stop - start))
            if stop > start and dense is not None:
                dense(digest, start, stop)

        return whole

    valid = array.is_valid().to_numpy(zero_copy_only=False)
    position = np.concatenate([[0], np.cumsum(valid)]).tolist()

    def with_nulls(digest: Any, start: int, stop: int) -> None:
        first, last = position[start], position[stop]
        nulls = stop - start - (last - first)
        digest.update(b"%d,%d;" % (stop - start, nulls))
        if nulls:
            digest.update(np.packbits(valid[start:stop]).tobytes())
        if last > first and dense is not None:
            dense(digest, first, last)

    return with_nulls


def _feed_valid(array: pa.Array) -> Feed:
    """`_feed` for an array without nulls."""
    kind = array.type
    if pa.types.is_struct(kind):
        fields = [(f.name.encode() + b";", _feed(pc.struct_field(array, f.name))) for f in kind]

        def struct(digest: Any, start: int, stop: int) -> None:
            for name, feed in fields:
                digest.update(name)
                feed(digest, start, stop)

        return struct
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = np.asarray(pc.list_value_length(array), dtype="<i8")
        edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        items = _feed(array.flatten())

        def lists(digest: Any, start: int, stop: int) -> None:
            digest.update(lengths[start:stop])
            items(digest, edges[start], edges[stop])

        return lists
    large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    if large or pa.types.is_string(kind) or pa.types.is_binary(kind):
        _, offset_buffer, data = array.buffers()
        offsets = np.frombuffer(offset_buffer, "<i8" if large else "<i4")[array.offset : array.offset + len(array) + 1]
        lengths = np.diff(offsets).astype("<i8", copy=False)
        view = memoryview(data) if data is not None else memoryview(b"")

        def texts(digest: Any, start: int, stop: int) -> None:
            digest.update(lengths[start:stop])
            digest.update(view[int(offsets[start]) : int(offsets[stop])])

        return texts
    if pa.types.is_boolean(kind):
        bits = array.to_numpy(zero_copy_only=False)
        return lambda digest, start, stop: digest.update(np.packbits(bits[start:stop]))
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False).astype("<f8")
        # -0.0 and NaN payloads differ between libraries that mean the same number.
        values = np.where(values == 0, 0.0, values)
        values[np.isnan(values)] = np.nan
    elif pa.types.is_integer(kind):
        values = np.ascontiguousarray(array.to_numpy(zero_copy_only=False), dtype="<i8")
    else:
        raise TypeError(f"a column of type {kind} has no canonical form; use text, numbers, booleans, lists or structs")
    return lambda digest, start, stop: digest.update(values[start:stop])


def column_digest(column: pa.Array | pa.ChunkedArray) -> str:
    """sha256 hex over the logical values of one column."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # more than 2 GiB of text does not fit one array
            return json_digest([column_digest(chunk) for chunk in column.chunks])
    return _range_digests(column, [(0, len(column))])[0]


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
    ids = ids_array(row_ids)
    return np.append(np.searchsorted(ids, [b"%02x" % prefix for prefix in range(PREFIXES)]), len(ids))


def prefix_digests(table: pa.Table, first: int, last: int) -> dict[int, str]:
    """Digest of each prefix group in [first, last) of a table sorted by row_id, as `table_digest` of the group alone;
    groups without rows are left out."""
    bounds = prefix_bounds(table["row_id"]).tolist()
    groups = [(prefix, bounds[prefix], bounds[prefix + 1]) for prefix in range(first, last)]
    groups = [(prefix, start, stop) for prefix, start, stop in groups if stop > start]
    columns = []
    for name in sorted(table.column_names):
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # more than 2 GiB of text: chunk edges must not enter the digest
            digests = [column_digest(column.slice(start, stop - start)) for _, start, stop in groups]
        else:
            digests = _range_digests(column, [(start, stop) for _, start, stop in groups])
        columns.append((name, digests))
    return {
        prefix: json_digest([stop - start, *((name, digests[i]) for name, digests in columns)])
        for i, (prefix, start, stop) in enumerate(groups)
    }


def _range_digests(array: pa.Array, ranges: Sequence[tuple[int, int]]) -> list[str]:
    feed, head = _feed(array), hashlib.sha256(_type_name(array.type).encode())
    found = []
    for start, stop in ranges:
        digest = head.copy()
        feed(digest, start, stop)
        found.append(digest.hexdigest())
    return found
