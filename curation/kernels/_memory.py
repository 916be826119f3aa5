"""Text by address: how kernels read Arrow buffers without a copy, whatever the chunks.

A text is an absolute address and a length in bytes. So a table of many chunks, or one mapped from a file that is
larger than memory, is read in place; only 12 bytes a row are allocated. Whoever holds a `Texts` keeps the Arrow
array alive through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

NULL = -1


@dataclass(frozen=True)
class Texts:
    """Where each text lies: `address` uint64 (n,), `length` int32 (n,) in bytes, -1 for null."""

    address: np.ndarray
    length: np.ndarray
    owner: object

    def __len__(self) -> int:
        return len(self.address)

    @property
    def longest(self) -> int:
        """Length in bytes of the longest text (0 when there is none)."""
        return max(int(self.length.max(initial=0)), 0)

    def part(self, rows: slice) -> Texts:
        """A run of the texts."""
        return Texts(self.address[rows], self.length[rows], self.owner)

    def take(self, rows: np.ndarray) -> Texts:
        """The texts of these rows, in this order; no bytes are copied."""
        return Texts(self.address[rows], self.length[rows], self.owner)


def texts(array: pa.Array | pa.ChunkedArray) -> Texts:
    """Locate every text of a (large) string or binary array, chunked or not.

    String views and dictionary arrays have no contiguous offsets; they are cast to large_string, which copies.
    Raises TypeError for an array that is not text, ValueError for a text of 2 GiB or more.
    """
    if not isinstance(array, pa.Array | pa.ChunkedArray):
        raise TypeError(f"expected a pyarrow string array, got {type(array).__name__}; wrap lists as pa.array(texts)")
    kind = array.type
    if pa.types.is_dictionary(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        array = array.cast(pa.large_string())
    elif kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        raise TypeError(f"expected an array of strings, got {kind}; cast it, or pass the text column")
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    address = np.empty(len(array), np.uint64)
    length = np.empty(len(array), np.int32)
    at = 0
    for chunk in chunks:
        end = at + len(chunk)
        _locate(chunk, address[at:end], length[at:end])
        at = end
    return Texts(address, length, array)


def _locate(chunk: pa.Array, address: np.ndarray, length: np.ndarray) -> None:
    if len(chunk) == 0:
        return
    validity, offsets_buffer, data = chunk.buffers()
    large = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
    offsets = np.frombuffer(offsets_buffer, np.int64 if large else np.int32)
    offsets = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
    sizes = np.diff(offsets)
    if sizes.max() >= 2**31:
        raise ValueError(f"a text of {int(sizes.max())} bytes is too long (row {int(sizes.argmax())} of its chunk)")
    address[:] = (0 if data is None else data.address) + offsets[:-1].astype(np.uint64)
    length[:] = sizes
    if validity is not None and chunk.null_count:
        length[chunk.is_null().to_numpy(zero_copy_only=False)] = NULL
