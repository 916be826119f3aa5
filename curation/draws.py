"""Random numbers that belong to rows, not to positions.

A draw is a function of (recipe seed, stage name, row id, index) and of nothing else: so adding, removing or reordering
rows changes no other row's number, and any number of workers gives the same. Seed, stage name and index are hashed once
into a 64-bit key (SHA-256); the 80 bits of each row id then go through two rounds of the SplitMix64 finaliser
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, variant 13 of Stafford's mixers),
which is a bijection on 64-bit words:

    draw = mix(mix(key ^ high) + low * GAMMA),  high = the id's first 64 bits, low = its last 16
"""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pyarrow as pa

from schemas.rows import ID_DIGITS

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)

_NIBBLE = np.full(256, 255, np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _NIBBLE[_digit] = _value


def key(seed: int, name: str, index: int = 0) -> int:
    """The 64-bit key of one stage's index-th number: the head of SHA-256 over seed, index and name."""
    return int.from_bytes(hashlib.sha256(f"winnow.draw/{seed}/{index}/{name}".encode()).digest()[:8], "big")


def mix(words: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser on uint64 words."""
    words = (words ^ (words >> np.uint64(30))) * _M1
    words = (words ^ (words >> np.uint64(27))) * _M2
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


def words(ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of 20 lower-case hex digits as their first 64 and last 16 bits, two uint64 (n,); ValueError for others."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if isinstance(array, pa.ChunkedArray):  # combine_chunks leaves chunks where one array cannot hold the text
        parts = [words(chunk) for chunk in array.chunks]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    n = len(array)
    if n == 0:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    edges = np.frombuffer(offsets, "<i8")[array.offset : array.offset + n + 1]
    if array.null_count or data is None or np.any(np.diff(edges) != ID_DIGITS):
        raise ValueError(f"an id has {ID_DIGITS} hex digits; there are others among these")
    nibbles = _NIBBLE[np.frombuffer(data, np.uint8)[edges[0] : edges[-1]]].reshape(n, ID_DIGITS)
    if nibbles.max() > 15:
        raise ValueError("an id has lower-case hex digits only; there are others among these")
    octets = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
    high = np.ascontiguousarray(octets[:, :8]).view(">u8").astype(np.uint64).ravel()
    low = np.ascontiguousarray(octets[:, 8:]).view(">u2").astype(np.uint64).ravel()
    return high, low


def draws(ids: pa.Array | pa.ChunkedArray, seed: int, name: str, index: int = 0) -> np.ndarray:
    """One number for each id: uint64 (n,), uniform on [0, 2**64). `name` is the stage's; another `index` gives numbers
    that have nothing to do with these."""
    high, low = words(ids)
    return mix(mix(np.uint64(key(seed, name, index)) ^ high) + low * _GAMMA)


def order(ids: pa.Array | pa.ChunkedArray, numbers: np.ndarray) -> np.ndarray:
    """Positions by draw, smallest first, equal draws by id: the order in which rows are taken. int64 (n,)."""
    high, low = words(ids)
    return np.lexsort((low, high, numbers))


def below(numbers: np.ndarray, share: Fraction) -> np.ndarray:
    """Which draws lie in the lower `share` of [0, 2**64); exact, no float is involved. bool (n,)."""
    edge = int(share * 2**64)
    if edge <= 0:
        return np.zeros(len(numbers), bool)
    inside: np.ndarray = numbers <= np.uint64(edge - 1)
    return inside
