"""Kernels of the Hamming search: cutting hashes into parts, the index of each part, and the search itself."""

import numpy as np

from ._jit import helper, kernel

_ROWS = 16


@kernel
def cut(codes):
    """Parts of 256-bit codes, uint16 (n, 16): part c holds the bits (row r, column (c + r) mod 16)."""
    n = len(codes)
    parts = np.zeros((n, _ROWS), np.uint16)
    for i in range(n):
        for r in range(_ROWS):
            row = np.int64((codes[i, r // 4] >> np.uint64(48 - 16 * (r % 4))) & np.uint64(0xFFFF))
            for c in range(_ROWS):
                bit = (row >> ((c + r) & 15)) & 1
                parts[i, c] |= np.uint16(bit << r)
    return parts


@kernel
def index(parts):
    """Inverted index of each part: ids[c, starts[c, v]:starts[c, v + 1]] are the codes with value v in part c."""
    n = len(parts)
    starts = np.zeros((_ROWS, 65_537), np.int32)
    ids = np.empty((_ROWS, n), np.int32)
    for c in range(_ROWS):
        for i in range(n):
            starts[c, np.int64(parts[i, c]) + 1] += 1
        for v in range(65_536):
            starts[c, v + 1] += starts[c, v]
        at = starts[c].copy()
        for i in range(n):
            v = np.int64(parts[i, c])
            ids[c, at[v]] = i
            at[v] += 1
    return starts, ids


@helper
def _popcount(x):
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@helper
def _found_before(x, y, part, budgets):
    """Whether an earlier part already brings these two together."""
    c = 0
    while c < part and (budgets[c] < 0 or _popcount(np.uint64(x[c] ^ y[c])) > budgets[c]):
        c += 1
    return c < part


@kernel
def search(query, target, query_parts, target_parts, starts, ids, budgets, radius, begin, end, own):
    """Pairs (query, target, distance) of queries begin..end; with `own`, pairs (i, j) of one set, i < j, j a query."""
    flips = np.zeros(1 + 16 + 120, np.int64)  # values at 0, 1 and 2 bits of distance
    at = 17
    for a in range(16):
        flips[1 + a] = 1 << a
        for b in range(a):
            flips[at] = (1 << a) | (1 << b)
            at += 1
    tries = np.array([0, 1, 17, 137])
    pairs = np.empty((1024, 3), np.int64)
    found = 0
    for i in range(begin, end):
        q0, q1, q2, q3 = query[i, 0], query[i, 1], query[i, 2], query[i, 3]
        for c in range(_ROWS):
            for k in range(tries[budgets[c] + 1]):
                value = np.int64(query_parts[i, c]) ^ flips[k]
                for s in range(starts[c, value], starts[c, value + 1]):
                    j = ids[c, s]
                    if own and j >= i:
                        break
                    distance = _popcount(q0 ^ target[j, 0]) + _popcount(q1 ^ target[j, 1])
                    if distance > radius:
                        continue
                    distance += _popcount(q2 ^ target[j, 2]) + _popcount(q3 ^ target[j, 3])
                    if distance > radius or _found_before(query_parts[i], target_parts[j], c, budgets):
                        continue
                    if found == len(pairs):
                        larger = np.empty((2 * found, 3), np.int64)
                        larger[:found] = pairs
                        pairs = larger
                    pairs[found, 0] = j if own else i
                    pairs[found, 1] = i if own else j
                    pairs[found, 2] = distance
                    found += 1
    return pairs[:found].copy()
