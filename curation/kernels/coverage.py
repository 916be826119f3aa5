"""Choosing few rows that cover many: facility location and k-center over vectors, at a million rows.

Exact greedy looks at every pair of rows. Here rows are cut into buckets of neighbours (nearest of some pivots, again and
again until a bucket is small), and only pairs within a bucket are looked at.

- Facility location does so for several cuts, keeps each row's nearest neighbours, and runs lazy greedy over that graph
  (Wei, Iyer, Bilmes, "Fast multi-stage submodular maximization", ICML 2014): a row far from a pick gains nothing by it.
- k-center goes farthest first within each bucket of one cut and merges the picks of all by distance.

What that loses is measured by tests/benchmarks/bench_coverage.py. All arithmetic is in integers; the result depends on
vectors, ranks and parameters, never on threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

LENGTH = 4096
"""Euclidean length of quantised vectors: products of two stay near 2**24, far below the end of int32."""
BUCKET = 2048
"""Rows of a bucket at most."""
_PIVOTS = 32
_BLOCK = 16_384

Method = Literal["facility_location", "k_center"]


def quantise(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d) of any length as int16 (n, d) of length LENGTH, rounded; a zero vector stays zero.

    Raises ValueError for values that are not finite.
    """
    out = np.empty(np.shape(vectors), np.int16)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK], np.float64)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise ValueError(f"vector {start + int(np.argmin(finite))} has a value that is not finite")
        # Scaled before squaring, so that neither tiny nor huge values lose their length.
        greatest = np.abs(block).max(axis=1, keepdims=True, initial=0)
        block = block / np.where(greatest == 0, 1, greatest)
        length = np.sqrt((block * block).sum(axis=1, keepdims=True))
        out[start : start + _BLOCK] = np.rint(block / np.where(length == 0, 1, length) * LENGTH)
    return out


def select(
    vectors: np.ndarray,
    take: int,
    *,
    rank: np.ndarray,
    method: Method = "facility_location",
    bucket: int = BUCKET,
    cuts: int = 4,
    neighbours: int = 16,
    threads: int = 1,
) -> np.ndarray:
    """Positions of `take` rows that cover all, best first: int64 (min(take, n),).

    vectors     int16 (n, d), see `quantise`
    rank        int64 (n,), each row's place in a canonical order: pivots and ties go by it, so positions do not matter
    method      facility_location maximises the sum over all rows of the greatest similarity (0 at least) to a row that
                is taken; k_center minimises the greatest distance to one
    bucket      rows of a bucket at most; with all rows in one, and as many neighbours, the result is exact greedy
    cuts, neighbours  of facility_location; 8 * neighbours bytes a row, twice
    """
    n = len(vectors)
    if vectors.dtype != np.int16 or vectors.ndim != 2 or len(rank) != n:
        raise ValueError("vectors must be int16 (n, d), see quantise, with one rank a row")
    if bucket < 2 or threads < 1 or take < 0 or cuts < 1 or neighbours < 1:
        raise ValueError("bucket must be 2 or more, threads, cuts and neighbours 1 or more, and take 0 or more")
    if take == 0 or n == 0:
        return np.empty(0, np.int64)
    vectors, rank = np.ascontiguousarray(vectors), np.ascontiguousarray(rank, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        if method == "k_center":
            return _farthest_first(vectors, take, rank, bucket, pool)
        return _facility_location(vectors, take, rank, bucket, cuts, neighbours, pool)


def _facility_location(
    vectors: np.ndarray, take: int, rank: np.ndarray, bucket: int, cuts: int, most: int, pool: ThreadPoolExecutor
) -> np.ndarray:
    from ._coverage import lazy_greedy

    n = len(vectors)
    starts, rows, values = _graph(vectors, rank, bucket, cuts, most, pool)
    order = np.empty(min(take, n), np.int64)
    lazy_greedy(starts, rows, values, rank, order)
    return order


def _graph(
    vectors: np.ndarray, rank: np.ndarray, bucket: int, cuts: int, most: int, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows each candidate covers, and how well: see `transposed`."""
    from ._coverage import neighbours, transposed

    n = len(vectors)
    most = min(most, max(n - 1, 1))
    sims, ids, worst = np.zeros((n, most), np.int32), np.full((n, most), -1, np.int32), np.zeros(n, np.int32)
    in_order = np.argsort(rank, kind="stable")
    for cut in range(cuts if n > bucket else 1):
        parts = _buckets(vectors, in_order, bucket, cut / cuts)
        list(pool.map(lambda part: neighbours(vectors, part, rank, sims, ids, worst), parts))
    starts = np.empty(n + 1, np.int64)
    edges = n + int((ids >= 0).sum())
    rows, values = np.empty(edges, np.int32), np.empty(edges, np.int32)
    transposed(vectors, sims, ids, starts, rows, values)
    return starts, rows, values


def _farthest_first(
    vectors: np.ndarray, take: int, rank: np.ndarray, bucket: int, pool: ThreadPoolExecutor
) -> np.ndarray:
    from ._coverage import centers

    def ordered(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order, gains = np.empty(len(members), np.int64), np.empty(len(members), np.int64)
        centers(vectors, members, order, gains)
        return members[order], gains

    found = list(pool.map(ordered, _buckets(vectors, np.argsort(rank, kind="stable"), bucket, 0.0)))
    picks, gains = (np.concatenate([pair[i] for pair in found]) for i in (0, 1))
    # Distances never rise within a bucket, so the greatest of all are a beginning of each. Equal ones go by rank, but
    # never before an earlier pick of their own bucket.
    places = np.concatenate([np.arange(len(pair[0])) for pair in found])
    chosen: np.ndarray = picks[np.lexsort((rank[picks], places, -gains))[:take]]
    return chosen


def covered(vectors: np.ndarray, chosen: np.ndarray, *, of: np.ndarray | None = None, threads: int = 1) -> float:
    """How well `chosen` covers the rows `of` (all by default; positions): the mean of their greatest similarity to a
    chosen one, from 0 to 1. Looks at every pair of the two."""
    from ._coverage import covered_by

    members = np.arange(len(vectors)) if of is None else np.ascontiguousarray(of, np.int64)
    if not len(members):
        return 1.0
    vectors = np.ascontiguousarray(vectors)
    chosen = np.ascontiguousarray(chosen, np.int64)
    blocks = np.array_split(members, max(1, min(threads * 8, len(members))))

    def block(some: np.ndarray) -> int:
        out = np.empty(len(some), np.int32)
        covered_by(vectors, some, chosen, out)
        return int(out.sum(dtype=np.int64))

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(block, blocks)) / (len(members) * LENGTH * LENGTH)


def most_different(sketches: np.ndarray, starts: np.ndarray, take: int) -> np.ndarray:
    """Of each group of sketches the `take` that differ most, bool (n,).

    sketches  uint32 (n, slots), e.g. of `minhash.signatures`; group g is rows starts[g]:starts[g + 1]
    """
    from ._coverage import farthest

    if take < 1:
        raise ValueError(f"take must be 1 or more, not {take}")
    picked = np.zeros(len(sketches), np.bool_)
    farthest(np.ascontiguousarray(sketches), np.ascontiguousarray(starts, np.int64), take, picked)
    return picked


def _buckets(vectors: np.ndarray, members: np.ndarray, most: int, shift: float) -> Iterator[np.ndarray]:
    """`members` (in order of rank) cut into buckets of neighbours of at most `most`, each in order of rank. Another
    `shift` in [0, 1) takes other pivots."""
    from ._coverage import nearest

    stack = [members]
    while stack:
        members = stack.pop()
        if len(members) <= most:
            yield members
            continue
        # Evenly by rank, not the first: ranks may follow the source.
        count = min(_PIVOTS, -(-len(members) // most) * 2)
        pivots = members[((np.arange(count) + shift) * (len(members) / count)).astype(np.int64)]
        at = np.empty(len(members), np.int64)
        nearest(vectors, members, pivots, at)
        parts = [members[at == p] for p in range(len(pivots))]
        if max(map(len, parts)) == len(members):  # all alike: any cut is as good
            parts = [members[start : start + most] for start in range(0, len(members), most)]
        stack += [part for part in reversed(parts) if len(part)]
