"""Near-duplicate texts: MinHash signatures, LSH candidates, and an exact answer for every link.

`signatures` gives the numbers that datasketch 2.x gives, bit for bit, from Arrow buffers. `clusters` uses them only
to propose: a pair becomes a link when the Jaccard similarity of the two shingle sets, counted exactly and compared
as integers, reaches the threshold. Clusters are the connected components of the links; `leader_clusters` cuts them
so that every member is linked to its leader, which is what merging rows needs.

The result depends on the texts, the parameters and `order`, never on chunks, threads or (given `order`) on where a
row stands.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from ._bands import BandStore
from ._memory import Texts, texts
from ._spread import spread

Unit = Literal["byte", "char", "word"]
Hash = Literal["xxh32", "sha1"]
UNITS: dict[str, int] = {"byte": 0, "char": 1, "word": 2}
HASHES = ("xxh32", "sha1")
TextArray: TypeAlias = "pa.Array | pa.ChunkedArray"  # string, large_string, binary or large_binary
_SLOTS = 32  # slots that kernels take at a time
_BLOCK = 4096  # rows a signature block: 2 MB of signatures stay in the cache, and threads end together


def permutations(num_perm: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The multipliers (odd) and increments of datasketch's affine32 scheme, two uint32 (num_perm,)."""
    draw = np.random.RandomState(seed)
    a = draw.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, draw.randint(0, 1 << 32, num_perm, dtype=np.uint32)


def signatures(
    array: TextArray,
    *,
    ngram: int = 5,
    unit: Unit = "char",
    num_perm: int = 128,
    seed: int = 1,
    hash: Hash = "xxh32",
    threads: int = 1,
) -> np.ndarray:
    """MinHash signatures of texts, uint32 (len(array), num_perm).

    Row i equals `datasketch.MinHash(num_perm, seed, hashfunc=f).hashvalues` after `update(s)` for the UTF-8 bytes s of
    every n-gram of text i, where f is `xxhash.xxh32_intdigest`, or datasketch's own default for hash="sha1".
    A text with fewer than `ngram` units is one shingle; an empty or null text has none and gets 0xFFFFFFFF in every
    slot, as an empty MinHash has. unit="char" counts code points, "word" what `str.split()` gives, joined by a space.
    """
    _check(ngram, unit, num_perm, hash, threads)
    located = texts(array)
    out = np.empty((len(located), num_perm), np.uint32)
    a, b = map(_padded, permutations(num_perm, seed))

    def block(start: int) -> None:
        part = slice(start, start + _BLOCK)
        _sign(located.part(part), ngram, unit, hash, a, b, out[part])

    spread(block, range(0, len(located), _BLOCK), threads)
    return out


def parameters(
    threshold: float,
    *,
    num_perm: int = 128,
    recall: float = 0.999,
    weights: tuple[float, float] | None = None,
) -> tuple[int, int]:
    """LSH bands and rows for a similarity threshold, with bands * rows <= num_perm.

    A pair of similarity s becomes a candidate with probability P(s) = 1 - (1 - s**rows)**bands (Leskovec, Rajaraman,
    Ullman, Mining of Massive Datasets, 3.4). Chosen are the most rows, hence the fewest false candidates, for which
    a pair at the threshold itself is found with P >= `recall`, and then the fewest bands that still give it.
    With `weights` (false positives, false negatives) the choice is datasketch's: the least weighted sum of the areas
    of P below the threshold and of 1 - P above it; `recall` is then ignored.
    """
    _check_threshold(threshold)
    best = (math.inf, 1, 1)
    for rows in range(num_perm, 0, -1):
        for bands in range(1, num_perm // rows + 1):
            if weights is None:
                if 1 - (1 - threshold**rows) ** bands >= recall:
                    return bands, rows
            else:
                false = weights[0] * _area(bands, rows, 0.0, threshold, missed=False)
                error = false + weights[1] * _area(bands, rows, threshold, 1.0, missed=True)
                best = min(best, (error, bands, rows))
    if weights is not None:
        return best[1], best[2]
    raise ValueError(
        f"num_perm={num_perm} is too few for recall {recall} at threshold {threshold}; raise num_perm or lower recall"
    )


def _area(bands: int, rows: int, low: float, high: float, *, missed: bool) -> float:
    """Integral of P, or of 1 - P when missed, over [low, high]: Gauss-Legendre on 8 pieces of 16 nodes."""
    nodes, gauss = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(low, high, 9)
    half = np.diff(edges)[:, None] / 2
    s = edges[:-1, None] + half * (nodes[None, :] + 1)
    miss = (1 - s**rows) ** bands
    return float((half * gauss * (miss if missed else 1 - miss)).sum())


def clusters(
    array: TextArray,
    *,
    threshold: float = 0.8,
    ngram: int = 5,
    unit: Unit = "char",
    num_perm: int = 128,
    recall: float = 0.999,
    bands: int | None = None,
    rows: int | None = None,
    seed: int = 1,
    hash: Hash = "xxh32",
    order: np.ndarray | None = None,
    threads: int = 1,
    scratch: str | Path | None = None,
) -> tuple[np.ndarray, pa.Table]:
    """Clusters of texts whose shingle sets have Jaccard similarity >= threshold, and the links that make them.

    Returns `cluster_id`, int64 (n,): the row that stands first in canonical order in the row's cluster (its own
    index where it stands alone); and `links`, one row per verified pair: `a`, `b` (row indices, a before b in
    canonical order), `shared`, `union` (sizes of the intersection and union of the shingle sets), `jaccard`. Links
    span each cluster; they are not all of its similar pairs. Empty and null texts stand alone.

    `order` is the canonical order: any array of n distinct sortable values, such as row ids or content hashes;
    the default is the row number. Given it, shuffling rows renames indices and changes nothing else.
    Candidates come from `parameters(threshold, num_perm=num_perm, recall=recall)` unless bands and rows are given.
    With `scratch`, a folder, band keys and sketches (12 * bands + bands * rows bytes a text, and up to 31 more) lie in a
    temporary file there and one band a thread is in memory at a time; texts mapped from an Arrow file are read in
    place. What stays is about 60 bytes a text, and 40 more a thread while bands are grouped.
    Work is bounded: in a bucket of more than 128 texts, 64 leaders are compared with all members.
    """
    if (bands is None) != (rows is None):
        raise ValueError("give both bands and rows, or neither")
    if bands is None or rows is None:
        bands, rows = parameters(threshold, num_perm=num_perm, recall=recall)
    slots = _whole_blocks(bands * rows)
    num_perm = max(num_perm, slots)
    _check(ngram, unit, num_perm, hash, threads)
    fraction = _check_threshold(threshold)
    located = texts(array)
    n = len(located)
    ranked, rank = _canonical(order, n)
    from . import _join

    root, exact = _copies(located, ranked, ngram, unit, threads)
    copies = exact[:, 1]
    distinct = ranked[root[ranked] == ranked] if len(copies) else ranked  # first of its text, in canonical order
    first = np.sort(distinct)
    where = np.empty(n, np.int32)
    where[first] = np.arange(len(first))
    narrow = located.take(first) if len(copies) else located

    with BandStore(scratch, bands, slots, len(first)) as store:
        _sketch(narrow, ngram, unit, permutations(num_perm, seed), hash, rows, store, threads)
        local_order, local_rank = where[distinct], rank[first]
        del distinct
        local_root = np.arange(len(first), dtype=np.int32)
        overfull = np.zeros(len(first), np.uint64)
        enough = _agreement_floor(bands, rows, slots, threshold)
        found = []
        for start in range(0, bands, threads):
            together = range(start, min(start + threads, bands))
            grouped = spread(lambda band: _buckets(store.keys(band), local_order), together, threads)
            for band, (ids, bounds) in zip(together, grouped, strict=True):

                def join(part: tuple[int, int], band: int = band, ids: np.ndarray = ids, bounds: np.ndarray = bounds):  # type: ignore[no-untyped-def]
                    return _join.join_buckets(
                        ids, bounds, part[0], part[1], local_root, store.sketches, store.marks, band, overfull, enough,
                        narrow.address, narrow.length, ngram, UNITS[unit], fraction.numerator, fraction.denominator,
                    )  # fmt: skip

                pairs = spread(join, _parts(bounds, threads), threads)
                _join.mark_overfull(ids, bounds, band, overfull)
                found.append(np.concatenate(pairs) if pairs else np.empty((0, 4), np.int64))
                _join.unite(found[-1], local_root, local_rank)
            del grouped, ids, bounds
    near = np.concatenate(found) if found else np.empty((0, 4), np.int64)
    near[:, :2] = first[near[:, :2]]
    cluster_id = first[local_root[where[root]]].astype(np.int64)
    return cluster_id, _table(np.concatenate([near, exact]), rank)


def leader_clusters(
    array: TextArray,
    cluster_id: np.ndarray,
    *,
    threshold: float = 0.8,
    ngram: int = 5,
    unit: Unit = "char",
    order: np.ndarray | None = None,
    threads: int = 1,
) -> tuple[np.ndarray, pa.Table]:
    """Cut clusters so that every member is similar to its leader itself, not only through others.

    In each cluster the first row in canonical order leads and takes all rows whose exact Jaccard similarity with it
    is >= threshold; the first of the rest leads next. Put the row that should stay first in `order` (the better
    licence, the longer solution): it is then never merged into a lesser one that comes after it.
    Returns `leader_id`, int64 (n,), and a table with one row per merged text: `row`, `leader`, `shared`, `union`,
    `jaccard`. `cluster_id` is what `clusters` returned, or any other grouping: rows of different groups never merge.
    """
    _check(ngram, unit, 1, "xxh32", threads)
    fraction = _check_threshold(threshold)
    located = texts(array)
    n = len(located)
    ranked, rank = _canonical(order, n)
    groups = np.unique(np.asarray(cluster_id), return_inverse=True)[1]
    if groups.shape != (n,):
        raise ValueError(f"cluster_id must have one value for each of the {n} texts, got shape {groups.shape}")
    members = ranked[np.argsort(groups[ranked], kind="stable")]
    edges = np.flatnonzero(np.diff(groups[members], prepend=-1, append=-1))
    bounds = np.stack([edges[:-1], edges[1:]], axis=1) if n else np.empty((0, 2), np.int64)
    bounds = np.ascontiguousarray(bounds[bounds[:, 1] - bounds[:, 0] > 1])
    leader = np.arange(n)
    counts = np.zeros((n, 2), np.int64)
    from ._leaders import lead

    def block(part: tuple[int, int]) -> None:
        inside = members[bounds[part[0], 0] : bounds[part[1] - 1, 1]]
        longest = max(int(located.length[inside].max(initial=0)), 0)
        lead(
            members, bounds, part[0], part[1], located.address, located.length, ngram, UNITS[unit],
            fraction.numerator, fraction.denominator, longest, leader, counts,
        )  # fmt: skip

    spread(block, _parts(bounds, threads), threads)
    leader[counts[:, 0] == 0] = np.flatnonzero(counts[:, 0] == 0)
    merged = np.flatnonzero(leader != np.arange(n))
    merged = merged[np.argsort(rank[merged])]
    shared, union = counts[merged, 0], counts[merged, 1]
    columns = {"row": merged, "leader": leader[merged], "shared": shared, "union": union, "jaccard": shared / union}
    return leader, pa.table(columns)


def jaccard(
    array: TextArray, left: np.ndarray, right: np.ndarray, *, ngram: int = 5, unit: Unit = "char"
) -> tuple[np.ndarray, np.ndarray]:
    """Exact intersection and union sizes of the shingle sets of texts left[k] and right[k], two int64 (pairs,)."""
    _check(ngram, unit, 1, "xxh32", 1)
    located = texts(array)
    left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"left and right must be row numbers of the same length, got {left.shape} and {right.shape}")
    both = np.concatenate([left, right])
    if len(both) and (both.min() < 0 or both.max() >= len(located)):
        raise IndexError(f"row numbers must lie in 0..{len(located) - 1}, got {both.min()}..{both.max()}")
    from ._sets import pair_counts

    longest = max(int(located.length[both].max(initial=0)), 0)
    counts = np.empty((len(left), 2), np.int64)
    pair_counts(left, right, located.address, located.length, ngram, UNITS[unit], longest, counts)
    return counts[:, 0].copy(), counts[:, 1].copy()


def _canonical(order: np.ndarray | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in canonical order, and the rank of each row."""
    if order is None:
        same = np.arange(n, dtype=np.int32)
        return same, same
    order = np.asarray(order)
    if order.shape != (n,):
        raise ValueError(f"order must have one value for each of the {n} texts, got shape {order.shape}")
    ranked = np.argsort(order, kind="stable").astype(np.int32)
    again = np.flatnonzero(order[ranked[1:]] == order[ranked[:-1]])
    if len(again):
        raise ValueError(f"order must be distinct: rows {ranked[again[0]]} and {ranked[again[0] + 1]} are equal")
    rank = np.empty(n, np.int32)
    rank[ranked] = np.arange(n)
    return ranked, rank


def _copies(located: Texts, ranked: np.ndarray, ngram: int, unit: str, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first row in canonical order with the very same bytes, and the links that say so."""
    from . import _join
    from ._sets import pair_counts

    keys = np.empty(len(located), np.uint64)

    def block(start: int) -> None:
        part = slice(start, start + _BLOCK)
        _join.whole_keys(located.address[part], located.length[part], keys[part])

    spread(block, range(0, len(located), _BLOCK), threads)
    first = np.arange(len(located), dtype=np.int32)
    ids, bounds = _buckets(keys, ranked)
    _join.equal_texts(ids, bounds, located.address, located.length, first)
    copies = np.flatnonzero(first != np.arange(len(located)))
    same = located.take(copies)
    rows, counts = np.arange(len(copies)), np.empty((len(copies), 2), np.int64)

    def count(start: int) -> None:
        part = slice(start, start + _BLOCK)
        longest = same.part(part).longest
        pair_counts(rows[part], rows[part], same.address, same.length, ngram, UNITS[unit], longest, counts[part])

    spread(count, range(0, len(copies), _BLOCK), threads)
    sizes = counts[:, 0]
    first[copies[sizes == 0]] = copies[sizes == 0]  # texts of white space alone have no words
    links = np.stack([first[copies].astype(np.int64), copies, sizes, sizes], axis=1)
    return first, links[sizes > 0]


def _buckets(keys: np.ndarray, ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by key and canonical order, and the begin and end of each bucket of two or more."""
    from . import _join

    ids = np.empty(len(keys), np.int32)
    bounds = np.empty((len(keys) // 2 + 1, 2), np.int64)
    return ids, bounds[: _join.group(keys, ranked, ids, bounds)]


def _parts(bounds: np.ndarray, threads: int) -> list[tuple[int, int]]:
    """Runs of buckets of about equal work."""
    if not len(bounds):
        return []
    if threads == 1:
        return [(0, len(bounds))]
    size = bounds[:, 1] - bounds[:, 0]
    work = np.cumsum(size * np.minimum(size, 64))
    cuts = np.searchsorted(work, np.linspace(0, work[-1], 8 * threads + 1)[1:-1])
    edges = np.unique(np.concatenate([[0], cuts, [len(bounds)]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _sketch(
    located: Texts,
    ngram: int,
    unit: str,
    parameters: tuple[np.ndarray, np.ndarray],
    hash: str,
    rows: int,
    store: BandStore,
    threads: int,
) -> None:
    """Band keys and sketches of all texts, block by block: whole signatures are never kept."""
    from ._signatures import cut

    a, b = (parameter[: store.slots].copy() for parameter in parameters)

    def block(start: int) -> None:
        part = slice(start, start + _BLOCK)
        own = located.part(part)
        out = np.empty((len(own), store.slots), np.uint32)
        _sign(own, ngram, unit, hash, a, b, out)
        keys = np.empty((store.bands, len(own)), np.uint64)
        cut(out, store.bands, rows, keys, store.sketches[part], store.marks[part])
        store.put(start, keys)

    spread(block, range(0, len(located), _BLOCK), threads)


def _agreement_floor(bands: int, rows: int, slots: int, threshold: float) -> int:
    """How many slots of two sketches must agree for the pair to be read: a pair at the threshold falls short of them in
    less than a tenth of the cases in which the bands miss it, and in less than one of ten thousand."""
    below = 0.0
    missed = min((1 - threshold**rows) ** bands / 10, 1e-4)
    for k in range(slots + 1):
        below += math.comb(slots, k) * threshold**k * (1 - threshold) ** (slots - k)
        if below > missed:
            return k
    return slots


def _table(links: np.ndarray, rank: np.ndarray) -> pa.Table:
    """Links as a table in canonical order."""
    links = links[np.lexsort((rank[links[:, 1]], rank[links[:, 0]]))]
    a, b, shared, union = (pa.array(np.ascontiguousarray(column)) for column in links.T)
    return pa.table({"a": a, "b": b, "shared": shared, "union": union, "jaccard": links[:, 2] / links[:, 3]})


def _check_threshold(threshold: float) -> Fraction:
    """The threshold as an exact fraction, so that 0.8 means 4/5."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    return Fraction(str(threshold)).limit_denominator(1_000_000)


def signatures_of_hashes(hashes: np.ndarray, offsets: np.ndarray, *, num_perm: int = 128, seed: int = 1) -> np.ndarray:
    """Signatures of sets that are hashed already, uint32 (len(offsets) - 1, num_perm).

    Set i is hashes[offsets[i]:offsets[i + 1]], uint32; equal to datasketch's MinHash with the identity as hashfunc.
    """
    from ._signatures import prehashed_rows

    out = np.empty((len(offsets) - 1, num_perm), np.uint32)
    a, b = map(_padded, permutations(num_perm, seed))
    prehashed_rows(np.ascontiguousarray(hashes, np.uint32), np.ascontiguousarray(offsets, np.int64), a, b, out)
    return out


def _check(ngram: int, unit: str, num_perm: int, hash: str, threads: int) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if hash not in HASHES:
        raise ValueError(f"hash must be one of {', '.join(HASHES)}, got {hash!r}")
    for name, value in (("ngram", ngram), ("num_perm", num_perm), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")


def _sign(located: Texts, ngram: int, unit: str, hash: str, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Signatures of a block of texts; as many slots as `out` has columns, a and b padded for the kernel."""
    from . import _signatures

    sign = _signatures.signature_rows if hash == "xxh32" else _signatures.sha1_signature_rows
    sign(located.address, located.length, ngram, UNITS[unit], a, b, located.longest, out)


def _padded(parameter: np.ndarray) -> np.ndarray:
    """Zeros behind it, up to a multiple of the slots that the kernel takes at a time."""
    return np.pad(parameter, (0, _whole_blocks(len(parameter)) - len(parameter)))


def _whole_blocks(slots: int) -> int:
    """The next multiple of the slots that kernels take at a time."""
    return -(-slots // _SLOTS) * _SLOTS
