"""Leader clusters: components cut so that every member is verified against the one that leads it.

Components are chains: a is near b, b near c, a not near c. Merging a row into another needs the two to be alike, so
within a component the first row in canonical order leads, takes every row that is near enough to it, and the first
of those left leads next. Each comparison is exact and stops when the threshold is out of reach.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import kernel
from ._sets import fill, most_misses, probe, table_bits
from ._shingles import shingle_identities, view
from ._text import workspace


@kernel
def lead(members, bounds, first, last, address, length, n, unit, num, den, longest, leader, counts):
    """leader[row] and counts[row] = (shared, union) with it, for the components first..last.

    Component i is members[bounds[i, 0]:bounds[i, 1]], in canonical order; leader[row] is the row itself at the start.
    """
    table = np.zeros(1 << table_bits(longest + 1, num, den), np.uint64)
    repeats, covered = np.empty((longest + 1, 2), np.int32), np.empty(longest + 1, np.uint8)
    room = workspace(longest)
    own_ids, ids = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    stamp = np.uint64(0)
    for component in range(first, last):
        rows = members[bounds[component, 0] : bounds[component, 1]]
        for i in range(len(rows)):
            a = rows[i]
            if leader[a] != a:
                continue
            own_count = shingle_identities(view(address[a], length[a]), n, unit, room, own_ids)
            bits = table_bits(own_count, num, den)
            stamp += np.uint64(1)
            head = stamp
            distinct = fill(own_ids[:own_count], bits, head, table, repeats)
            counts[a, 0] = distinct
            counts[a, 1] = distinct
            for j in range(i + 1, len(rows)):
                b = rows[j]
                if leader[b] != b:
                    continue
                count = shingle_identities(view(address[b], length[b]), n, unit, room, ids)
                stamp += np.uint64(1)
                most = most_misses(distinct, count, num, den)
                shared, misses = probe(
                    ids[:count], own_ids[:own_count], distinct, bits, head, stamp, table, repeats, covered, most
                )
                union = distinct + misses
                if misses <= most and shared * den >= num * union:
                    leader[b] = a
                    counts[b, 0] = shared
                    counts[b, 1] = union
