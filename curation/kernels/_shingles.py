"""Shingles: the set of n-grams that stands for a text, as 32-bit hashes or as 64-bit identities.

A shingle is a run of n units: bytes, code points, or words joined by one space. What is hashed is always its UTF-8
bytes, so `xxhash.xxh32` or SHA-1 over `text[i:i + n].encode()` gives the same numbers. A text with fewer than n
units is one shingle, the whole of it; an empty or null text has none.

Byte n-grams, and code-point n-grams of ASCII text, are hashed position-parallel: each step is a loop over all
positions, which the compiler turns into vector code. Other shingles are hashed sixteen at a time.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import helper, inlined, melted
from ._text import BYTE, CHAR, WORD, is_ascii, spread_words, units, view
from ._vector import LANES, word64, xxh32_5grams, xxh32_lanes

__all__ = ["shingle_hashes", "shingle_identities", "view"]

_P1, _P2, _P3, _P4, _P5 = (np.uint32(p) for p in (2654435761, 2246822519, 3266489917, 668265263, 374761393))
_Q1, _Q2, _Q3 = (np.uint64(p) for p in (11400714785074694791, 14029467366897019727, 1609587929392839161))
_Q4, _Q5 = np.uint64(9650029242287828579), np.uint64(2870177450012600261)
_ONE, _LOW_BYTE = np.uint64(1), np.uint32(255)


@helper
def _rotl(x, r):
    return np.uint32((x << np.uint32(r)) | (x >> np.uint32(32 - r)))


@helper
def fmix32(h):
    """The finalizer of MurmurHash3 (Austin Appleby), the pre-mix of datasketch's affine schemes."""
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@helper
def _avalanche(h):
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(15))) * _P2)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * _P3)
    return np.uint32(h ^ (h >> np.uint32(16)))


@helper
def _xxh32_word(h, word):
    return np.uint32(_rotl(np.uint32(h + np.uint32(word * _P3)), 17) * _P4)


@helper
def _xxh32_byte(h, word):
    """A step for the lowest byte of a word."""
    return np.uint32(_rotl(np.uint32(h + np.uint32((word & _LOW_BYTE) * _P5)), 11) * _P1)


@helper
def _hash_ngrams(words, count, n, out):
    """fmix32 of xxh32 of every run of n < 16 bytes; all positions take each step together."""
    h = out[:count]
    for j in range(count):
        h[j] = np.uint32(_P5 + np.uint32(n))
    k = 0
    while k < n:
        v = words[k : k + count]
        if k + 4 <= n:
            for j in range(count):
                h[j] = _xxh32_word(h[j], v[j])
            k += 4
        else:
            for j in range(count):
                h[j] = _xxh32_byte(h[j], v[j])
            k += 1
    for j in range(count):
        h[j] = fmix32(_avalanche(h[j]))


@melted
def shingle_hashes(text, n, unit, room, out):
    """fmix32 of the xxh32 of a text's shingles into `out`, repeats included. Returns how many.

    `room` is a `workspace`; `out` has room for len(text) + 16.
    """
    if n < 16 and len(text) >= n and (unit == BYTE or (unit == CHAR and is_ascii(text))):
        spread_words(text, room)
        count = len(text) - n + 1
        if n == 5:
            for first in range(0, count, LANES):
                xxh32_5grams(room[3], first, out)
        else:
            _hash_ngrams(room[3], count, n, out)
        return count
    data, total = units(text, unit, room)
    if total == 0:
        return 0
    spread_words(data, room)
    width = min(n, total)
    for first in range(0, total - width + 1, LANES):
        xxh32_lanes(room[3], room[1], first, width, 1 if unit == WORD else 0, out)
    return total - width + 1


@inlined
def _rotl64(x, r):
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@inlined
def _word64(words, i):
    return np.uint64(words[i]) | (np.uint64(words[i + np.uint64(4)]) << np.uint64(32))


@inlined
def _round64(h, word):
    """xxHash64's step for the words of short texts."""
    return _rotl64(h ^ (_rotl64(word * _Q2, 31) * _Q1), 27) * _Q1 + _Q4


@inlined
def _finish64(h):
    h = (h ^ (h >> np.uint64(33))) * _Q2
    h = (h ^ (h >> np.uint64(29))) * _Q3
    return h ^ (h >> np.uint64(32))


@inlined
def _identity64(words, begin, size):
    """A 64-bit name for a span of bytes: up to 7 bytes the bytes and their number, so exact; else a hash of both.

    The hash takes xxHash64's steps over words of 8 bytes, the last one filled with zeros. It collides with probability
    2**-64 a pair: about one false common shingle in 10**13 comparisons of texts with a thousand shingles each.
    """
    at, left = np.uint64(begin), np.uint64(size)
    word = _word64(words, at)
    if left < np.uint64(8):
        return (word & _low_bytes(left)) | (left << np.uint64(56))
    h = _round64(_Q5 + left, word)
    while left > np.uint64(16):
        at += np.uint64(8)
        left -= np.uint64(8)
        h = _round64(h, _word64(words, at))
    return _finish64(_round64(h, _word64(words, at + np.uint64(8)) & _low_bytes(left - np.uint64(8))))


@inlined
def _word_identity64(words, begin, size):
    """The hash of `_identity64` without its tests of length, which cost more than they save: few words are long."""
    at, left = np.uint64(begin), np.uint64(size)
    h = _round64(_Q5 + left, _word64(words, at) & _low_bytes(min(left, np.uint64(8))))
    while left > np.uint64(16):
        at += np.uint64(8)
        left -= np.uint64(8)
        h = _round64(h, _word64(words, at))
    return _round64(h, _word64(words, at + np.uint64(8)) & _low_bytes(max(left, np.uint64(8)) - np.uint64(8)))


@inlined
def _low_bytes(count):
    """A mask of the lowest `count` bytes, 0 to 8 of them."""
    return (_ONE << (np.uint64(8) * count)) - _ONE if count < np.uint64(8) else ~np.uint64(0)


@helper
def text64(v):
    """A 64-bit hash of a whole text: xxHash64's steps, four words of 8 bytes at a time, the last word filled with zeros."""
    n, i = len(v), 0
    a, b, c, d = _Q1 + _Q2, _Q2, _Q3, np.uint64(0) - _Q1
    while i + 32 <= n:
        a, b = _round64(a, word64(v, i)), _round64(b, word64(v, i + 8))
        c, d = _round64(c, word64(v, i + 16)), _round64(d, word64(v, i + 24))
        i += 32
    h = _round64(_round64(_round64(_round64(_Q5 + np.uint64(n), a), b), c), d)
    while i + 8 <= n:
        h = _round64(h, word64(v, i))
        i += 8
    last = np.uint64(0)
    for k in range(n - i):
        last |= np.uint64(v[i + k]) << np.uint64(8 * k)
    return _finish64(_round64(h, last))


@melted
def shingle_identities(text, n, unit, room, out):
    """64-bit identities of the shingles of a text into `out`, repeats included. Returns how many.

    A word n-gram is named by a hash of the identities of its words; with them a word is read once, not n times.
    """
    if n < 8 and len(text) >= n and (unit == BYTE or (unit == CHAR and is_ascii(text))):
        spread_words(text, room)
        count = len(text) - n + 1
        ids, low, high = out[:count], room[3][:count], room[3][4 : 4 + count]
        mask = (_ONE << np.uint64(8 * n)) - _ONE
        size = np.uint64(n) << np.uint64(56)
        for j in range(count):
            ids[j] = ((np.uint64(low[j]) | (np.uint64(high[j]) << np.uint64(32))) & mask) | size
        return count
    data, total = units(text, unit, room)
    if total == 0:
        return 0
    spread_words(data, room)
    words, starts = room[3], room[1]
    width = min(n, total)
    count = total - width + 1
    if unit != WORD:
        for i in range(count):
            out[i] = _identity64(words, starts[i], starts[i + width] - starts[i])
        return count
    for i in range(total):
        out[i] = _word_identity64(words, starts[i], starts[i + 1] - 1 - starts[i])
    for i in range(count):
        h = out[i]
        for k in range(1, width):
            h = _round64(h, out[i + k])
        out[i] = _finish64(h)
    return count
