"""SHA-1 of many shingles at once: datasketch's default hash, kept so that its signatures can be had bit for bit.

Plain SHA-1 in loops over sixteen lanes; the loops are what the compiler turns into vector code. Slow next to xxh32.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import helper
from ._text import WORD, units
from ._vector import LANES


@helper
def sha1_schedule():
    """Room for the message schedule and, in its last ten rows, the five working and the five chaining variables."""
    return np.empty((90, LANES), np.uint32)


@helper
def _rotl(x, r):
    return np.uint32((x << np.uint32(r)) | (x >> np.uint32(32 - r)))


@helper
def sha1_hashes(text, n, unit, room, w, out):
    """First four bytes, little endian, of the SHA-1 (FIPS 180-4) of each shingle of a text. Returns how many.

    `room` is a `workspace`, `w` a `sha1_schedule`; `out` has room for len(text).
    """
    data, total = units(text, unit, room)
    if total == 0:
        return 0
    starts = room[1]
    width = min(n, total)
    count = total - width + 1
    gap = 1 if unit == WORD else 0
    for first in range(0, count, LANES):
        here = min(LANES, count - first)
        longest = 0
        for lane in range(here):
            longest = max(longest, starts[first + lane + width] - gap - starts[first + lane])
        _sha1_start(w)
        for block in range((longest + 8) // 64 + 1):
            for lane in range(LANES):
                i = first + min(lane, here - 1)
                _sha1_schedule(data[starts[i] : starts[i + width] - gap], block, lane, w)
            _sha1_rounds(w)
            for lane in range(here):
                i = first + lane
                if (starts[i + width] - gap - starts[i] + 8) // 64 == block:
                    h = w[85, lane]
                    out[i] = np.uint32(
                        (h >> np.uint32(24))
                        | ((h >> np.uint32(8)) & np.uint32(0xFF00))
                        | ((h << np.uint32(8)) & np.uint32(0xFF0000))
                        | (h << np.uint32(24))
                    )
    return count


@helper
def _sha1_start(w):
    for lane in range(LANES):
        w[85, lane] = np.uint32(0x67452301)
        w[86, lane] = np.uint32(0xEFCDAB89)
        w[87, lane] = np.uint32(0x98BADCFE)
        w[88, lane] = np.uint32(0x10325476)
        w[89, lane] = np.uint32(0xC3D2E1F0)


@helper
def _sha1_schedule(message, block, lane, w):
    """Write block number `block` of a padded message into its lane (zeros past the message's last block)."""
    n = len(message)
    last = (n + 8) // 64
    for t in range(16):
        value = np.uint32(0)
        for k in range(4):
            at = block * 64 + t * 4 + k
            byte = np.uint32(0)
            if at < n:
                byte = np.uint32(message[at])
            elif at == n:
                byte = np.uint32(0x80)
            value = np.uint32((value << np.uint32(8)) | byte)
        if block == last and t == 15:
            value = np.uint32(n * 8)
        elif block == last and t == 14:
            value = np.uint32(n >> 29)
        w[t, lane] = value


@helper
def _sha1_rounds(w):
    for t in range(16, 80):
        for lane in range(LANES):
            w[t, lane] = _rotl(w[t - 3, lane] ^ w[t - 8, lane] ^ w[t - 14, lane] ^ w[t - 16, lane], 1)
    for row in range(5):
        for lane in range(LANES):
            w[80 + row, lane] = w[85 + row, lane]
    for t in range(80):
        for lane in range(LANES):
            b, c, d = w[81, lane], w[82, lane], w[83, lane]
            if t < 20:
                f, k = np.uint32((b & c) | (~b & d)), np.uint32(0x5A827999)
            elif t < 40:
                f, k = np.uint32(b ^ c ^ d), np.uint32(0x6ED9EBA1)
            elif t < 60:
                f, k = np.uint32((b & c) | (b & d) | (c & d)), np.uint32(0x8F1BBCDC)
            else:
                f, k = np.uint32(b ^ c ^ d), np.uint32(0xCA62C1D6)
            a = np.uint32(_rotl(w[80, lane], 5) + f + w[84, lane] + k + w[t, lane])
            w[84, lane] = d
            w[83, lane] = c
            w[82, lane] = _rotl(b, 30)
            w[81, lane] = w[80, lane]
            w[80, lane] = a
    for row in range(5):
        for lane in range(LANES):
            w[85 + row, lane] = np.uint32(w[85 + row, lane] + w[80 + row, lane])
