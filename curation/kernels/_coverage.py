"""Kernels of `coverage`: nearest pivots, nearest neighbours within a bucket, and two greedy orders.

Vectors are int16 rows of nearly equal length, so similarities are exact int32 dot products: no sum of floats whose last
digit depends on the machine decides which row is taken.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import helper, kernel


@helper
def dot(a, b):
    total = np.int32(0)
    for i in range(len(a)):
        total += np.int32(a[i]) * np.int32(b[i])
    return total


@kernel
def nearest(vectors, members, pivots, out):
    """out[i] = the pivot (its place in `pivots`) most similar to row members[i]; of equal ones the first."""
    for i in range(len(members)):
        row = vectors[members[i]]
        best, at = np.int32(-2147483648), 0
        for p in range(len(pivots)):
            near = dot(row, vectors[pivots[p]])
            if near > best:
                best, at = near, p
        out[i] = at


@helper
def keep(value, j, ranks, i, sims, ids, worst):
    """Put neighbour j of row i among its nearest, unless it is there: sims and ids are (n, t), worst[i] the place of
    the least of row i. Equal similarities go by rank."""
    t = ids.shape[1]
    at = worst[i]
    if value < sims[i, at] or (value == sims[i, at] and ids[i, at] >= 0 and ranks[j] > ranks[ids[i, at]]):
        return
    for s in range(t):
        if ids[i, s] == j:
            return
    sims[i, at] = value
    ids[i, at] = j
    for s in range(t):
        least = sims[i, at]
        if sims[i, s] < least or (
            sims[i, s] == least and (ids[i, s] < 0 or (ids[i, at] >= 0 and ranks[ids[i, s]] > ranks[ids[i, at]]))
        ):
            at = s
    worst[i] = at


@kernel
def neighbours(vectors, members, ranks, sims, ids, worst):
    """Look at all pairs of a bucket's members and keep each row's nearest (see `keep`). Similarities are above zero."""
    for a in range(len(members)):
        i = members[a]
        row = vectors[i]
        for b in range(a):
            j = members[b]
            value = dot(row, vectors[j])
            if value > 0:
                keep(value, j, ranks, i, sims, ids, worst)
                keep(value, i, ranks, j, sims, ids, worst)


@kernel
def transposed(vectors, sims, ids, starts, rows, values):
    """Who is covered by whom: starts (n + 1), and rows and values of all edges, those of candidate j at
    starts[j]:starts[j + 1]. Every row covers itself with its own length squared."""
    n, t = ids.shape
    starts[:] = 0
    for i in range(n):
        starts[i + 1] += 1
        for s in range(t):
            if ids[i, s] >= 0:
                starts[ids[i, s] + 1] += 1
    for j in range(n):
        starts[j + 1] += starts[j]
    filled = starts[:-1].copy()
    for i in range(n):
        at = filled[i]
        rows[at] = i
        values[at] = dot(vectors[i], vectors[i])
        filled[i] += 1
        for s in range(t):
            j = ids[i, s]
            if j >= 0:
                at = filled[j]
                rows[at] = i
                values[at] = sims[i, s]
                filled[j] += 1


@helper
def sink(heap, bounds, ranks, size, at):
    """Let the candidate at a place of the heap sink below those with a greater bound, or an equal one and less rank."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        a, b = heap[child], heap[min(child + 1, size - 1)]
        if bounds[b] > bounds[a] or (bounds[b] == bounds[a] and ranks[b] < ranks[a]):
            child += 1
            a = b
        own = heap[at]
        if bounds[own] > bounds[a] or (bounds[own] == bounds[a] and ranks[own] < ranks[a]):
            return
        heap[at], heap[child] = a, own
        at = child


@kernel
def lazy_greedy(starts, rows, values, ranks, order):
    """Facility location over a sparse graph (Minoux 1978; Wei, Iyer, Bilmes 2014): order[t] is the t-th pick.

    A candidate's gain is what it adds to the sum over all rows of their greatest similarity to a pick. Gains only fall,
    so a bound that is still the greatest after it was counted again is the greatest gain. Of equal gains the lower
    rank is taken.
    """
    n = len(starts) - 1
    covered = np.zeros(n, np.int32)
    bounds = np.zeros(n, np.int64)
    heap = np.arange(n)
    for j in range(n):
        for e in range(starts[j], starts[j + 1]):
            bounds[j] += values[e]
    for at in range(n // 2 - 1, -1, -1):
        sink(heap, bounds, ranks, n, at)
    size = n
    for t in range(len(order)):
        while True:
            top = heap[0]
            gain = np.int64(0)
            for e in range(starts[top], starts[top + 1]):
                gain += max(values[e] - covered[rows[e]], np.int32(0))
            if gain == bounds[top]:
                break
            bounds[top] = gain
            sink(heap, bounds, ranks, size, 0)
        order[t] = top
        for e in range(starts[top], starts[top + 1]):
            covered[rows[e]] = max(covered[rows[e]], values[e])
        size -= 1
        heap[0] = heap[size]
        sink(heap, bounds, ranks, size, 0)


@kernel
def centers(vectors, members, order, gains):
    """Farthest-first traversal (Gonzalez 1985) over one bucket, to the end; the first member stands first.

    gains[t] is how far the t-th pick lies from those before it, as length² - similarity; the first one's is the
    greatest int64, so that every bucket gives one before any gives two.
    """
    b = len(members)
    far = np.full(b, np.int64(9223372036854775807))
    pick = 0
    for t in range(b):
        order[t] = pick
        gains[t] = far[pick]
        row = vectors[members[pick]]
        own = np.int64(dot(row, row))
        far[pick] = np.int64(-1)
        best, following = np.int64(-2), 0
        for i in range(b):
            if far[i] >= 0:
                far[i] = min(far[i], max(own - np.int64(dot(row, vectors[members[i]])), np.int64(0)))
                if far[i] > best:
                    best, following = far[i], i
        pick = following


@kernel
def covered_by(vectors, members, chosen, out):
    """out[i] = the greatest similarity (0 at least) of members[i] to a row of `chosen`."""
    for i in range(len(members)):
        row = vectors[members[i]]
        best = np.int32(0)
        for c in range(len(chosen)):
            best = max(best, dot(row, vectors[chosen[c]]))
        out[i] = best


@kernel
def farthest(signatures, starts, take, picked):
    """Of each group of sketches the `take` that differ most: picked[i] is set for those that are taken.

    Group g is rows starts[g]:starts[g + 1]. Its two most different sketches come first (of equal pairs the first), then
    again and again the one whose nearest taken one is farthest: a 2-approximation of the max-min dispersion (Ravi,
    Rosenkrantz, Tayi 1994). Distance is the number of slots that differ.
    """
    width = signatures.shape[1]
    for g in range(len(starts) - 1):
        first, n = starts[g], starts[g + 1] - starts[g]
        if n <= take:
            for i in range(n):
                picked[first + i] = True
            continue
        apart = np.zeros((n, n), np.int32)
        widest, left, right = np.int32(-1), 0, 0
        for i in range(n):
            for j in range(i + 1, n):
                differ = np.int32(0)
                for s in range(width):
                    differ += np.int32(signatures[first + i, s] != signatures[first + j, s])
                apart[i, j] = differ
                apart[j, i] = differ
                if differ > widest:
                    widest, left, right = differ, i, j
        if take == 1:
            # One alone: the one nearest to all others speaks for them.
            least, at = np.int64(9223372036854775807), 0
            for i in range(n):
                total = np.int64(apart[i].sum())
                if total < least:
                    least, at = total, i
            picked[first + at] = True
            continue
        picked[first + left] = True
        picked[first + right] = True
        for _ in range(take - 2):
            best, at = np.int32(-1), -1
            for i in range(n):
                if picked[first + i]:
                    continue
                close = np.int32(2147483647)
                for j in range(n):
                    if picked[first + j]:
                        close = min(close, apart[i, j])
                if close > best:
                    best, at = close, i
            picked[first + at] = True
