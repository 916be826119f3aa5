"""Sets of shingles: sizes, and exact Jaccard counts of pairs.

One open hash table serves many comparisons without ever being cleared. A slot holds a stamp and a position in the
list of identities that the stamp stands for; a slot of any other stamp counts as empty. The table is sized for one
set and as many misses as the threshold allows, so that it stays in the nearest cache. Near duplicates have long runs
of shingles in common: only where a run begins, and between runs, is a shingle looked up.
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
def fill(ids, bits, stamp, table, repeats):
    """Put a list of identities into the table under a fresh stamp. Returns the number of distinct ones.

    `repeats`, int32 (len(ids), 2), gets the place of every other one, and the place where its like stands first.
    """
    distinct = 0
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    shift = np.uint64(64 - bits)
    for k in range(len(ids)):
        x = ids[k]
        slot = (x * _GOLDEN) >> shift
        entry = table[slot]
        while entry >> _HALF == stamp and ids[entry & _LOW] != x:
            slot = (slot + np.uint64(1)) & mask
            entry = table[slot]
        fresh = entry >> _HALF != stamp
        at = np.uint64(k) if fresh else entry & _LOW
        table[slot] = (stamp << _HALF) | at
        repeats[k - distinct, 0] = k
        repeats[k - distinct, 1] = at
        distinct += fresh
    return distinct


@helper
def most_misses(distinct, count, num, den):
    """How many of another text's `count` shingles may be missing from a set of `distinct` at similarity num / den.

    With m missing and s shared, s <= distinct and s + m <= count; then s / (distinct + m) >= num / den bounds m twice.
    Negative where the sizes alone rule it out.
    """
    return min(distinct * (den - num) // num, (count * den - distinct * num) // (den + num))


@helper
def probe(ids, own_ids, distinct, bits, stamp, own, table, repeats, covered, most):
    """How many distinct ids are in the set under `stamp` (filled from own_ids), and how many are not.

    Misses are stored under the stamp `own`, and counting stops beyond `most`; their slots were empty when the set was
    filled in, so no chain of it runs through them. `covered`, uint8 (len(own_ids),), is scratch.
    """
    misses = 0
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    shift = np.uint64(64 - bits)
    size = len(own_ids)
    for k in range(size):
        covered[k] = 0
    k = 0
    while k < len(ids) and misses <= most:
        x = ids[k]
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
            if mark != own:
                table[slot] = (own << _HALF) | np.uint64(k)
                misses += 1
            k += 1
            continue
        at = np.int64(entry & _LOW)
        run = _common(ids[k:], own_ids[at:])
        for i in range(at, at + run):
            covered[i] = 1
        k += run
    if misses > most:
        return 0, misses
    for i in range(size - distinct):
        covered[repeats[i, 1]] |= covered[repeats[i, 0]]
        covered[repeats[i, 0]] = 0
    shared = 0
    for i in range(size):
        shared += covered[i]
    return shared, misses


@helper
def _common(a, b):
    """Length of the longest common head; eight at a time."""
    limit = min(len(a), len(b))
    n = 0
    while n + 8 <= limit:
        x, y = a[n : n + 8], b[n : n + 8]
        differ = np.uint64(0)
        for i in range(8):
            differ |= x[i] ^ y[i]
        if differ:
            break
        n += 8
    while n < limit and a[n] == b[n]:
        n += 1
    return n


@kernel
def pair_counts(left, right, address, length, n, unit, longest, counts):
    """Shared shingles and union of texts left[k] and right[k], int64 (pairs, 2). Sorted by left, runs share a table."""
    bits = table_bits(2 * longest + 2, 1, 1)
    table = np.zeros(1 << bits, np.uint64)
    repeats, covered = np.empty((longest + 1, 2), np.int32), np.empty(longest + 1, np.uint8)
    room = workspace(longest)
    own_ids, ids = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    stamp = leader = np.uint64(0)
    distinct = own_count = 0
    for k in range(len(left)):
        a, b = left[k], right[k]
        if k == 0 or a != left[k - 1]:
            own_count = shingle_identities(view(address[a], length[a]), n, unit, room, own_ids)
            bits = 0
        count = shingle_identities(view(address[b], length[b]), n, unit, room, ids)
        if table_bits(own_count + count, 1, 1) > bits:
            bits = table_bits(own_count + count, 1, 1)
            stamp += np.uint64(1)
            leader = stamp
            distinct = fill(own_ids[:own_count], bits, leader, table, repeats)
        stamp += np.uint64(1)
        shared, misses = probe(
            ids[:count], own_ids[:own_count], distinct, bits, leader, stamp, table, repeats, covered, count
        )
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
