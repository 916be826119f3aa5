"""Sets of shingles: sizes, and exact Jaccard counts of pairs.

One open hash table serves many comparisons without ever being cleared: a slot is in a set when it carries that
set's stamp. The table is sized for one set and as many misses as the threshold allows, so that comparing a text with
its candidates stays within the nearest cache.
"""

import numpy as np

from ._jit import helper, kernel
from ._shingles import shingle_identities, view

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@helper
def table_size(count, needed, den):
    """log2 of the slots that hold one set and the misses of another until the threshold is out of reach."""
    room = 2 * (count * den // needed + 2)
    bits = 4
    while (1 << bits) < room:
        bits += 1
    return bits


@helper
def fill(ids, bits, stamp, table, stamps):
    """Put a set of identities into an open hash table under a fresh stamp. Returns the number of distinct ones."""
    distinct = 0
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    for k in range(len(ids)):
        x = ids[k]
        slot = np.int64((x * _GOLDEN) >> shift)
        while True:
            if stamps[slot] != stamp:
                stamps[slot] = stamp
                table[slot] = x
                distinct += 1
                break
            if table[slot] == x:
                break
            slot = (slot + 1) & mask
    return distinct


@helper
def probe(ids, bits, stamp, own, table, stamps, hits, most_misses):
    """How many distinct ids are in the set under `stamp`, and how many are not (stops beyond most_misses).

    Misses are stored under the stamp `own`. Slots of any other stamp count as empty: they were empty when the set
    was filled in, so no chain of it runs through them.
    """
    shared = 0
    misses = 0
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    for k in range(len(ids)):
        x = ids[k]
        slot = np.int64((x * _GOLDEN) >> shift)
        while True:
            mark = stamps[slot]
            if mark != stamp and mark != own:
                stamps[slot] = own
                table[slot] = x
                misses += 1
                if misses > most_misses:
                    return shared, misses
                break
            if table[slot] == x:
                if mark == stamp and hits[slot] != own:
                    hits[slot] = own
                    shared += 1
                break
            slot = (slot + 1) & mask
    return shared, misses


@kernel
def set_sizes(address, length, n, unit, longest, sizes):
    """Number of distinct shingles of each text."""
    bits = table_size(longest + 1, 1, 1)
    table = np.empty(1 << bits, np.uint64)
    stamps = np.zeros(1 << bits, np.uint32)
    starts = np.empty(longest + 2, np.int32)
    scratch = np.empty(longest + 1, np.uint8)
    ids = np.empty(longest + 1, np.uint64)
    for i in range(len(address)):
        count = shingle_identities(view(address[i], max(length[i], 0)), n, unit, scratch, starts, ids)
        sizes[i] = fill(ids[:count], table_size(count, 1, 1), np.uint32(i + 1), table, stamps)


@kernel
def pair_counts(left, right, address, length, n, unit, longest, counts):
    """Shared shingles and union of texts left[k] and right[k], int64 (pairs, 2). Sorted by left, runs share a table."""
    bits = table_size(2 * longest + 2, 1, 1)
    table = np.empty(1 << bits, np.uint64)
    stamps = np.zeros(1 << bits, np.uint32)
    hits = np.zeros(1 << bits, np.uint32)
    starts = np.empty(longest + 2, np.int32)
    scratch = np.empty(longest + 1, np.uint8)
    ids = np.empty(longest + 1, np.uint64)
    stamp = np.uint32(0)
    distinct = 0
    leader = np.uint32(0)
    for k in range(len(left)):
        if k == 0 or left[k] != left[k - 1]:
            a = left[k]
            count = shingle_identities(view(address[a], max(length[a], 0)), n, unit, scratch, starts, ids)
            stamp += np.uint32(1)
            leader = stamp
            distinct = fill(ids[:count], bits, leader, table, stamps)
        b = right[k]
        count = shingle_identities(view(address[b], max(length[b], 0)), n, unit, scratch, starts, ids)
        stamp += np.uint32(1)
        shared, misses = probe(ids[:count], bits, leader, stamp, table, stamps, hits, count)
        counts[k, 0] = shared
        counts[k, 1] = distinct + misses
