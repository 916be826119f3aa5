"""Kernels of the Hamming search. A part of the hash is a set of bit positions, so a key is the XOR of one random word
for each set bit (Zobrist): flipping a bit changes the key by one XOR. Bit b is bit 63 - b % 64 of word b // 64.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import grown, helper, kernel


@helper
def popcount(x):
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@helper
def _masked(x, y, mask):
    """Bits in which two codes differ inside a mask."""
    total = popcount((x[0] ^ y[0]) & mask[0]) + popcount((x[1] ^ y[1]) & mask[1])
    return total + popcount((x[2] ^ y[2]) & mask[2]) + popcount((x[3] ^ y[3]) & mask[3])


@kernel
def bit_counts(codes):
    """How many codes have each of the 256 bits set."""
    counts = np.zeros(256, np.int64)
    for i in range(len(codes)):
        for b in range(256):
            counts[b] += np.int64((codes[i, b // 64] >> np.uint64(63 - b % 64)) & np.uint64(1))
    return counts


@kernel
def near_counts(queries, targets, masks, most):
    """Pairs that differ in at most t bits of each part, int64 (parts, most + 1): column t."""
    counts = np.zeros((len(masks), most + 1), np.int64)
    for i in range(len(queries)):
        for j in range(len(targets)):
            for part in range(len(masks)):
                distance = _masked(queries[i], targets[j], masks[part])
                for t in range(distance, most + 1):
                    counts[part, t] += 1
    return counts


@kernel
def part_keys(codes, bits, words, keys):
    """The key of one part of every code."""
    for i in range(len(codes)):
        key = np.uint64(0)
        for k in range(len(bits)):
            b = bits[k]
            bit = (codes[i, b // 64] >> np.uint64(63 - b % 64)) & np.uint64(1)
            key ^= words[b] * bit
        keys[i] = key


@kernel
def index(keys, log2_buckets):
    """Codes in order of the leading bits of their key: (starts, sorted keys, ids), ids ascending in each bucket."""
    shift = np.uint64(64 - log2_buckets)
    starts = np.zeros((1 << log2_buckets) + 1, np.int32)
    for i in range(len(keys)):
        starts[(keys[i] >> shift) + np.uint64(1)] += 1
    for v in range(1 << log2_buckets):
        starts[v + 1] += starts[v]
    at = starts[:-1].copy()
    sorted_keys = np.empty(len(keys), np.uint64)
    ids = np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        v = keys[i] >> shift
        sorted_keys[at[v]] = keys[i]
        ids[at[v]] = i
        at[v] += 1
    return starts, sorted_keys, ids


@kernel
def search_part(query, target, keys, starts, sorted_keys, ids, flips, masks, budgets, part, radius, begin, end, own):
    """Pairs (query, target, distance) within the radius that this part brings together and no earlier part did.

    `flips` are the XORs that lead to every key within the part's budget. With `own` both sets are one, and a pair
    (i, j) has i < j.
    """
    shift = np.uint64(64)
    size = len(starts) - 1
    while size > 1:
        size >>= 1
        shift -= np.uint64(1)
    pairs = np.empty((256, 3), np.int64)
    found = 0
    for i in range(begin, end):
        q = query[i]
        for k in range(len(flips)):
            key = keys[i] ^ flips[k]
            bucket = key >> shift
            for s in range(starts[bucket], starts[bucket + np.uint64(1)]):
                j = ids[s]
                if own and j >= i:
                    break
                if sorted_keys[s] != key:
                    continue
                x = target[j]
                distance = popcount(q[0] ^ x[0]) + popcount(q[1] ^ x[1])
                distance += popcount(q[2] ^ x[2]) + popcount(q[3] ^ x[3])
                if distance > radius:
                    continue
                earlier = 0
                while earlier < part and (budgets[earlier] < 0 or _masked(q, x, masks[earlier]) > budgets[earlier]):
                    earlier += 1
                if earlier < part:
                    continue
                if found == len(pairs):
                    pairs = grown(pairs)
                pairs[found, 0] = j if own else i
                pairs[found, 1] = i if own else j
                pairs[found, 2] = distance
                found += 1
    return pairs[:found].copy()
