"""Sets of shingles: sizes, and exact Jaccard counts of pairs.

One open hash table serves many comparisons without ever being cleared. A slot holds a stamp and a position in the
list of identities that the stamp stands for; a slot of any other stamp counts as empty. The table is sized for one
set and as many misses as the threshold allows, so that it stays in the nearest cache.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import helper, kernel
from ._shingles import shingle_identities, view
from ._text import workspace

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@helper
def table_bits(count, num, den):
    """log2 of the slots for a set of `count` and the misses of another, until similarity num / den is out of reach."""
    room = 3 * (count * den // num + 2)
    bits = 4
    while (1 << bits) < room:
        bits += 1
    return bits


@helper
def fill(ids, bits, stamp, table, first):
    """Put a list of identities into the table under a fresh stamp. Returns the number of distinct ones.

    first[k] becomes the position of the first occurrence of ids[k].
    """
    distinct = 0
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    shift = np.uint64(64 - bits)
    for k in range(len(ids)):
        x = ids[k]
        slot = (x * _GOLDEN) >> shift
        entry = table[slot]
        fresh = entry >> _HALF != stamp
        at = np.uint64(k) if fresh else entry & _LOW
        while ids[at] != x:
            slot = (slot + np.uint64(1)) & mask
            entry = table[slot]
            fresh = entry >> _HALF != stamp
            at = np.uint64(k) if fresh else entry & _LOW
        table[slot] = (stamp << _HALF) | at
        distinct += fresh
        first[k] = at
    return distinct


@helper
def probe(ids, own_ids, bits, stamp, own, table, first, hits, most_misses):
    """How many distinct ids are in the set under `stamp` (filled from own_ids), and how many are not.

    Near duplicates run in parallel: after a hit at one position the next id is mostly the next position's, so that is
    tried before the table. Misses are stored under the stamp `own`, and counting stops beyond most_misses; their slots
    were empty when the set was filled in, so no chain of it runs through them.
    """
    shared = 0
    misses = 0
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    shift = np.uint64(64 - bits)
    last = np.uint64(len(own_ids) - 1)
    at = last
    for k in range(len(ids)):
        x = ids[k]
        if at < last and own_ids[at + np.uint64(1)] == x:
            at += np.uint64(1)
        else:
            slot = (x * _GOLDEN) >> shift
            while True:
                entry = table[slot]
                mark = entry >> _HALF
                if mark == stamp:
                    if own_ids[entry & _LOW] == x:
                        break
                elif mark != own or ids[entry & _LOW] == x:
                    break
                slot = (slot + np.uint64(1)) & mask
            if mark != stamp:
                at = last
                if mark != own:
                    table[slot] = (own << _HALF) | np.uint64(k)
                    misses += 1
                    if misses > most_misses:
                        return shared, misses
                continue
            at = entry & _LOW
        place = first[at]
        if hits[place] != own:
            hits[place] = own
            shared += 1
    return shared, misses


@kernel
def set_sizes(address, length, n, unit, longest, sizes):
    """Number of distinct shingles of each text."""
    table = np.zeros(1 << table_bits(longest + 1, 1, 1), np.uint64)
    first = np.empty(longest + 1, np.uint64)
    room = workspace(longest)
    ids = np.empty(longest + 1, np.uint64)
    for i in range(len(address)):
        count = shingle_identities(view(address[i], length[i]), n, unit, room, ids)
        sizes[i] = fill(ids[:count], table_bits(count, 1, 1), np.uint64(i + 1), table, first)


@kernel
def pair_counts(left, right, address, length, n, unit, longest, counts):
    """Shared shingles and union of texts left[k] and right[k], int64 (pairs, 2). Sorted by left, runs share a table."""
    bits = table_bits(2 * longest + 2, 1, 1)
    table = np.zeros(1 << bits, np.uint64)
    first, hits = np.empty(longest + 1, np.uint64), np.zeros(longest + 1, np.uint64)
    room = workspace(longest)
    own_ids, ids = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    stamp = leader = np.uint64(0)
    distinct = own_count = 0
    for k in range(len(left)):
        if k == 0 or left[k] != left[k - 1]:
            a = left[k]
            own_count = shingle_identities(view(address[a], length[a]), n, unit, room, own_ids)
            stamp += np.uint64(1)
            leader = stamp
            bits = table_bits(own_count, 1, 2)
            distinct = fill(own_ids[:own_count], bits, leader, table, first)
        b = right[k]
        count = shingle_identities(view(address[b], length[b]), n, unit, room, ids)
        stamp += np.uint64(1)
        if table_bits(own_count + count, 1, 1) > bits:
            bits = table_bits(own_count + count, 1, 1)
            stamp += np.uint64(1)
            leader = stamp - np.uint64(1)
            distinct = fill(own_ids[:own_count], bits, leader, table, first)
        shared, misses = probe(ids[:count], own_ids[:own_count], bits, leader, stamp, table, first, hits, count)
        counts[k, 0] = shared
        counts[k, 1] = distinct + misses


@helper
def locate(x, ids, bits, stamp, table):
    """Position of the first occurrence of an identity in the list that was filled in under `stamp`, or -1."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    slot = (x * _GOLDEN) >> np.uint64(64 - bits)
    while table[slot] >> _HALF == stamp:
        place = np.int64(table[slot] & _LOW)
        if ids[place] == x:
            return place
        slot = (slot + np.uint64(1)) & mask
    return -1
