"""Shingles: the set of n-grams that stands for a text, as 32-bit hashes or as 64-bit identities.

A shingle is a run of n units: bytes, code points, or words joined by one space. What is hashed is always its UTF-8
bytes, so `xxhash.xxh32` or SHA-1 over `text[i:i + n].encode()` gives the same numbers. A text with fewer than n
units is one shingle, the whole of it; an empty or null text has none. Words are split where `str.split()` splits.

Byte n-grams, and code-point n-grams of ASCII text, are hashed position-parallel: each step is a loop over all
positions, which the compiler turns into vector code. Other shingles are hashed one by one.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._jit import helper
from ._sha1 import rotl, sha1_spans

BYTE, CHAR, WORD = 0, 1, 2
XXH32, SHA1 = 0, 1

_P1, _P2, _P3, _P4, _P5 = (np.uint32(p) for p in (2654435761, 2246822519, 3266489917, 668265263, 374761393))
_Q1, _Q2, _Q3 = (np.uint64(p) for p in (11400714785074694791, 14029467366897019727, 1609587929392839161))
_Q4, _Q5 = np.uint64(9650029242287828579), np.uint64(2870177450012600261)
_SPACE = np.uint8(32)


@intrinsic
def _pointer(typingctx, address):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), codegen


@helper
def view(address, length):
    """The text at an address, as a byte array that copies nothing."""
    return carray(_pointer(address), (length,), np.uint8)


@helper
def word32(v, i):
    """Four bytes, little endian; written so that the compiler makes one load of it."""
    return np.uint32(
        np.uint32(v[i])
        | (np.uint32(v[i + 1]) << np.uint32(8))
        | (np.uint32(v[i + 2]) << np.uint32(16))
        | (np.uint32(v[i + 3]) << np.uint32(24))
    )


@helper
def avalanche(h):
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(15))) * _P2)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * _P3)
    return np.uint32(h ^ (h >> np.uint32(16)))


@helper
def fmix32(h):
    """The finalizer of MurmurHash3 (Austin Appleby), the pre-mix of datasketch's affine schemes."""
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@helper
def _xxh32_word(h, word):
    return np.uint32(rotl(np.uint32(h + np.uint32(word * _P3)), 17) * _P4)


@helper
def _xxh32_byte(h, byte):
    return np.uint32(rotl(np.uint32(h + np.uint32(np.uint32(byte) * _P5)), 11) * _P1)


@helper
def _word32_at(v, i):
    """word32 at an unsigned index, which needs no test for negative ones: this makes it one load in scalar code too."""
    low = np.uint32(v[i]) | (np.uint32(v[i + np.uint64(1)]) << np.uint32(8))
    high = (np.uint32(v[i + np.uint64(2)]) << np.uint32(16)) | (np.uint32(v[i + np.uint64(3)]) << np.uint32(24))
    return np.uint32(low | high)


@helper
def _xxh32_lane(x, word):
    return np.uint32(rotl(np.uint32(x + np.uint32(word * _P2)), 13) * _P1)


@helper
def xxh32(v):
    """xxHash32 of a byte array, seed 0 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""
    n = np.uint64(len(v))
    i = np.uint64(0)
    h = _P5
    if n >= np.uint64(16):
        a, b = np.uint32(_P1 + _P2), _P2
        c, d = np.uint32(0), np.uint32(np.uint32(0) - _P1)
        while i + np.uint64(16) <= n:
            a, b = _xxh32_lane(a, _word32_at(v, i)), _xxh32_lane(b, _word32_at(v, i + np.uint64(4)))
            c, d = (
                _xxh32_lane(c, _word32_at(v, i + np.uint64(8))),
                _xxh32_lane(d, _word32_at(v, i + np.uint64(12))),
            )
            i += np.uint64(16)
        h = np.uint32(rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18))
    h = np.uint32(h + np.uint32(n))
    while i + np.uint64(4) <= n:
        h = _xxh32_word(h, _word32_at(v, i))
        i += np.uint64(4)
    while i < n:
        h = _xxh32_byte(h, v[i])
        i += np.uint64(1)
    return avalanche(h)


@helper
def _hash_5grams(text, out):
    """fmix32 of xxh32 of every run of 5 bytes, the usual shingle: the loop below, with every step in registers."""
    count = len(text) - 4
    h, v, last = out[:count], text[: count + 3], text[4:]
    for j in range(count):
        h[j] = fmix32(avalanche(_xxh32_byte(_xxh32_word(np.uint32(_P5 + np.uint32(5)), word32(v, j)), last[j])))
    return count


@helper
def _hash_ngrams(text, n, out):
    """fmix32 of xxh32 of every run of n < 16 bytes into out; all positions take each step together."""
    count = len(text) - n + 1
    h = out[:count]
    for j in range(count):
        h[j] = np.uint32(_P5 + np.uint32(n))
    k = 0
    while k + 4 <= n:
        v = text[k : k + count + 3]
        for j in range(count):
            h[j] = _xxh32_word(h[j], word32(v, j))
        k += 4
    while k < n:
        w = text[k : k + count]
        for j in range(count):
            h[j] = _xxh32_byte(h[j], w[j])
        k += 1
    for j in range(count):
        h[j] = fmix32(avalanche(h[j]))
    return count


@helper
def _rotl64(x, r):
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@helper
def _word64(v, i):
    return np.uint64(_word32_at(v, i)) | (np.uint64(_word32_at(v, i + np.uint64(4))) << np.uint64(32))


@helper
def _round64(x, word):
    return _rotl64(x + word * _Q2, 31) * _Q1


@helper
def xxh64(v):
    """xxHash64 of a byte array, seed 0 (same specification)."""
    n = np.uint64(len(v))
    i = np.uint64(0)
    h = _Q5
    if n >= np.uint64(32):
        a, b, c, d = _Q1 + _Q2, _Q2, np.uint64(0), np.uint64(0) - _Q1
        while i + np.uint64(32) <= n:
            a, b = _round64(a, _word64(v, i)), _round64(b, _word64(v, i + np.uint64(8)))
            c, d = _round64(c, _word64(v, i + np.uint64(16))), _round64(d, _word64(v, i + np.uint64(24)))
            i += np.uint64(32)
        h = _rotl64(a, 1) + _rotl64(b, 7) + _rotl64(c, 12) + _rotl64(d, 18)
        for x in (a, b, c, d):
            h = (h ^ _round64(np.uint64(0), x)) * _Q1 + _Q4
    h += n
    while i + np.uint64(8) <= n:
        h = _rotl64(h ^ _round64(np.uint64(0), _word64(v, i)), 27) * _Q1 + _Q4
        i += np.uint64(8)
    if i + np.uint64(4) <= n:
        h = _rotl64(h ^ (np.uint64(_word32_at(v, i)) * _Q1), 23) * _Q2 + _Q3
        i += np.uint64(4)
    while i < n:
        h = _rotl64(h ^ (np.uint64(v[i]) * _Q5), 11) * _Q1
        i += np.uint64(1)
    h = (h ^ (h >> np.uint64(33))) * _Q2
    h = (h ^ (h >> np.uint64(29))) * _Q3
    return h ^ (h >> np.uint64(32))


@helper
def identity64(v):
    """A 64-bit name for a shingle: up to 7 bytes the bytes and their number, so exact; else their xxh64.

    Hashed ones collide with probability 2**-64 a pair: about one false common shingle in 10**13 comparisons of
    texts with a thousand shingles each.
    """
    n = len(v)
    if n > 7:
        return xxh64(v)
    x = np.uint64(n) << np.uint64(56)
    for i in range(n):
        x |= np.uint64(v[i]) << np.uint64(8 * i)
    return x


@helper
def identity64_ngrams(text, n, out):
    """The identities of every run of n <= 7 bytes into out. Returns how many."""
    count = len(text) - n + 1
    h = out[:count]
    h[:] = np.uint64(n) << np.uint64(56)
    for k in range(n):
        w = text[k : k + count]
        shift = np.uint64(8 * k)
        for j in range(count):
            h[j] |= np.uint64(w[j]) << shift
    return count


@helper
def is_ascii(text):
    high = np.uint8(0)
    for i in range(len(text)):
        high |= text[i]
    return high < 128


@helper
def _space_length(v, i):
    """How many bytes of white space start at i: 0 to 3, by the definition of `str.isspace`."""
    c = v[i]
    if c < 128:
        return 1 if c == 32 or 9 <= c <= 13 or 28 <= c <= 31 else 0
    if c == 0xC2 and i + 1 < len(v):
        return 2 if v[i + 1] == 0x85 or v[i + 1] == 0xA0 else 0
    if i + 2 < len(v):
        d, e = v[i + 1], v[i + 2]
        if c == 0xE1:
            return 3 if d == 0x9A and e == 0x80 else 0
        if c == 0xE2 and d == 0x80:
            return 3 if e <= 0x8A or e == 0xA8 or e == 0xA9 or e == 0xAF else 0
        if c == 0xE2:
            return 3 if d == 0x81 and e == 0x9F else 0
        if c == 0xE3:
            return 3 if d == 0x80 and e == 0x80 else 0
    return 0


@helper
def _single_spaces(text, starts):
    """Word starts of an ASCII text whose words are joined by one space each, as most are: it needs no copy. Else 0."""
    if len(text) == 0 or not is_ascii(text):
        return 0
    starts[0] = 0
    count = 0
    for i in range(len(text)):
        c = text[i]
        if c > 32:
            continue
        if c == 32 and i > starts[count]:
            count += 1
            starts[count] = i + 1
        elif c == 32 or 9 <= c <= 13 or c >= 28:
            return 0
    if starts[count] == len(text):
        return 0
    starts[count + 1] = len(text) + 1
    return count + 1


@helper
def units(text, unit, scratch, starts):
    """Cut a text into bytes, code points or words.

    Returns (bytes, count): unit i is bytes[starts[i]:starts[i + 1] - gap], where gap is 1 for words (the space that
    joins them), else 0. `scratch` has room for len(text) + 1 bytes, `starts` for len(text) + 2.
    """
    count = 0
    if unit != WORD:
        for i in range(len(text)):
            if unit == BYTE or (text[i] & 0xC0) != 0x80:
                starts[count] = i
                count += 1
        starts[count] = len(text)
        return text, count
    count = _single_spaces(text, starts)
    if count:
        return text, count
    at = 0
    i = 0
    while i < len(text):
        step = _space_length(text, i)
        if step:
            i += step
            continue
        starts[count] = at
        count += 1
        while i < len(text) and ((33 <= text[i] < 128) or not _space_length(text, i)):
            scratch[at] = text[i]
            at += 1
            i += 1
        scratch[at] = _SPACE
        at += 1
    starts[count] = at
    return scratch[:at], count


@helper
def shingle_hashes(text, n, unit, hash_kind, scratch, starts, sha, out):
    """fmix32 of the 32-bit hashes of a text's shingles into `out`, repeats included. Returns how many.

    `out` has room for len(text) + 1, `scratch` and `starts` as in `units`, `sha` as in `sha1_spans`.
    """
    plain = unit == BYTE or (unit == CHAR and is_ascii(text))
    if plain and hash_kind == XXH32 and n < 16 and len(text) >= n:
        return _hash_5grams(text, out) if n == 5 else _hash_ngrams(text, n, out)
    data, total = units(text, unit, scratch, starts)
    if total == 0:
        return 0
    gap = 1 if unit == WORD else 0
    width = min(n, total)
    count = total - width + 1
    if hash_kind == XXH32:
        for i in range(count):
            out[i] = xxh32(data[starts[i] : starts[i + width] - gap])
    else:
        sha1_spans(data, starts, count, width, gap, sha, out)
    for i in range(count):
        out[i] = fmix32(out[i])
    return count


@helper
def shingle_identities(text, n, unit, scratch, starts, out):
    """64-bit identities of the shingles of a text into `out`, repeats included. Returns how many."""
    plain = unit == BYTE or (unit == CHAR and is_ascii(text))
    if plain and n <= 7 and len(text) >= n:
        return identity64_ngrams(text, n, out)
    data, total = units(text, unit, scratch, starts)
    if total == 0:
        return 0
    gap = 1 if unit == WORD else 0
    width = min(n, total)
    for i in range(total - width + 1):
        out[i] = identity64(data[starts[i] : starts[i + width] - gap])
    return total - width + 1
