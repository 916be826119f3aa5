"""Near-duplicate pictures: all pairs of 256-bit hashes within a Hamming radius, exactly and without comparing all.

Works on difference hashes (or any other 256-bit picture hash of 16 rows by 16 columns) as 64 hex digits. A hash only
proposes: two questions on one figure are as near as two copies of it, so text and answers must decide.

Multi-index search (Norouzi, Punjani, Fleet, CVPR 2012) with a budget for each part (Qin et al., ICDE 2018): the hash
is cut into m parts; if two hashes differ in at most r bits, then for budgets t with sum(t + 1) = r + 1 they differ in
at most t bits in at least one part, so looking up every key within the budgets finds all. Hashes of drawings on white
are far from uniform: the bits are dealt to the parts by how much they tell, and m and the budgets are chosen by
what a sample says a search would cost. The choice changes the time, never the result.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator

import numpy as np
import pyarrow as pa

from ._spread import spread

MAX_RADIUS = 47
_PARTS = (4, 6, 8, 10, 12, 14, 16)
_MOST = 2  # bits of budget: beyond, keys to look up outnumber the codes
_BLOCK = 4096


def codes(array: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Parse hex hashes: uint64 (m, 4), and the int64 (m,) rows they stand in; nulls are left out.

    Raises ValueError for a value that is not 64 hex digits.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    rows = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    values = array.drop_null().to_pylist()
    for row, value in zip(rows, values, strict=True):
        if len(value) != 64:
            raise ValueError(f"row {row}: a picture hash has 64 hex digits, this one has {len(value)}")
    try:
        data = bytes.fromhex("".join(values))
    except ValueError as error:
        raise ValueError(f"a picture hash holds something that is no hex digit: {error}") from None
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 4), rows


def pairs(array: pa.Array | pa.ChunkedArray, *, radius: int = 16, threads: int = 1) -> pa.Table:
    """All pairs of pictures whose hashes differ in at most `radius` bits (0 to 47): `a`, `b`, `distance`, a < b.

    Equal hashes are linked to the first row that has them (distance 0) and only that row is compared further, so a
    thousand copies of a picture give a thousand links, not half a million. Null hashes match nothing.
    """
    _check(radius, threads)
    code, rows = codes(array)
    distinct, first, inverse = _distinct(code)
    near = _search(distinct, distinct, radius, threads, own=True)
    # distinct codes stand in order of their first row, so a pair (i, j) with i < j has its rows in order as well
    near[:, 0], near[:, 1] = rows[first[near[:, 0]]], rows[first[near[:, 1]]]
    copies = np.flatnonzero(first[inverse] != np.arange(len(code)))
    same = np.stack([rows[first[inverse[copies]]], rows[copies], np.zeros(len(copies), np.int64)], axis=1)
    return _table(np.concatenate([near, same]), ("a", "b", "distance"))


def matches(
    array: pa.Array | pa.ChunkedArray, against: pa.Array | pa.ChunkedArray, *, radius: int = 16, threads: int = 1
) -> pa.Table:
    """For every picture the pictures of another set within `radius` bits: `row`, `against`, `distance`.

    Where several of `against` have one hash, the first of them stands for all.
    """
    _check(radius, threads)
    code, rows = codes(array)
    distinct, _, inverse = _distinct(code)
    other, other_rows = codes(against)
    target, target_first, _ = _distinct(other)
    near = _search(distinct, target, radius, threads, own=False)
    order = np.argsort(inverse, kind="stable")  # rows by distinct code
    begin = np.searchsorted(inverse[order], near[:, 0])
    count = np.searchsorted(inverse[order], near[:, 0], side="right") - begin
    hit = np.repeat(np.arange(len(near)), count)
    inside = np.arange(len(hit)) - np.repeat(np.cumsum(count) - count, count)
    row = rows[order[begin[hit] + inside]]
    found = np.stack([row, other_rows[target_first[near[hit, 1]]], near[hit, 2]], axis=1)
    return _table(found, ("row", "against", "distance"))


def _check(radius: int, threads: int) -> None:
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(
            f"radius must lie in 0..{MAX_RADIUS} of 256 bits, got {radius}; further pictures have no relation"
        )
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads}")


def _table(found: np.ndarray, names: tuple[str, str, str]) -> pa.Table:
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    return pa.table({name: np.ascontiguousarray(column) for name, column in zip(names, found.T, strict=True)})


def _distinct(code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct codes in order of first appearance, where each appears first, and the distinct code of each row."""
    _, first, inverse = np.unique(code, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return np.ascontiguousarray(code[first[order]]), first[order], place[inverse.reshape(-1)]


def _search(query: np.ndarray, target: np.ndarray, radius: int, threads: int, *, own: bool) -> np.ndarray:
    """Pairs (query, target, distance) within the radius, int64 (m, 3). With own=True both are one set, and i < j."""
    found = [np.empty((0, 3), np.int64)]
    if not len(query) or not len(target):
        return found[0]
    from . import _hamming

    words = np.random.RandomState(256).randint(0, 2**64, 256, dtype=np.uint64)
    bits, masks, budgets = _plan(query, target, radius)
    log2_buckets = max(len(target).bit_length(), 4)
    for part in np.flatnonzero(budgets >= 0):
        keys, target_keys = np.empty(len(query), np.uint64), np.empty(len(target), np.uint64)
        _hamming.part_keys(query, bits[part], words, keys)
        _hamming.part_keys(target, bits[part], words, target_keys)
        looked_up = (keys, *_hamming.index(target_keys, log2_buckets), _flips(words[bits[part]], int(budgets[part])))
        block = functools.partial(_block, query, target, looked_up, masks, budgets, part, radius, own)
        found += spread(block, range(0, len(query), _BLOCK), threads)
    return np.concatenate(found)


def _block(query, target, looked_up, masks, budgets, part, radius, own, begin):  # type: ignore[no-untyped-def]
    from . import _hamming

    end = min(begin + _BLOCK, len(query))
    return _hamming.search_part(query, target, *looked_up, masks, budgets, part, radius, begin, end, own)


def _flips(words: np.ndarray, budget: int) -> np.ndarray:
    """The XORs that turn a key into every key within `budget` bits of it."""
    subsets = [combo for count in range(budget + 1) for combo in itertools.combinations(words.tolist(), count)]
    return np.array([functools.reduce(operator.xor, combo, 0) for combo in subsets], np.uint64)


def _plan(query: np.ndarray, target: np.ndarray, radius: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Bit positions, masks and budgets of the parts that a sample says are cheapest.

    A look-up costs about as much as two candidates; candidates are counted on 64 x 2,048 evenly spaced pairs.
    """
    from . import _hamming

    share = _hamming.bit_counts(target) / len(target)
    order = np.argsort(-share * (1 - share), kind="stable")
    queries = query[np.linspace(0, len(query) - 1, 64).astype(np.int64)]
    targets = target[np.linspace(0, len(target) - 1, 2_048).astype(np.int64)]
    best: tuple[float, list[np.ndarray], np.ndarray, np.ndarray] | None = None
    for count in _PARTS:
        base, extra = divmod(radius + 1, count)
        if base - 1 + (extra > 0) > _MOST:
            continue
        bits = [order[part::count] for part in range(count)]
        masks = np.zeros((count, 4), np.uint64)
        for part, own in enumerate(bits):
            for bit in own.tolist():
                masks[part, bit // 64] |= np.uint64(1 << (63 - bit % 64))
        rates = _hamming.near_counts(queries, targets, masks, _MOST) / (len(queries) * len(targets))
        rates = np.concatenate([np.zeros((count, 1)), rates], axis=1)  # column t + 1; a budget of -1 finds nothing
        budgets = np.full(count, base - 1)
        budgets[np.argsort(rates[:, min(base + 1, _MOST + 1)], kind="stable")[:extra]] += 1
        probes = sum(math.comb(len(own), k) for own, t in zip(bits, budgets, strict=True) for k in range(t + 1))
        cost = 2 * probes + len(target) * rates[np.arange(count), budgets + 1].sum()
        if best is None or cost < best[0]:
            best = (cost, bits, masks, budgets)
    assert best is not None  # the last count serves every radius up to MAX_RADIUS
    return best[1], best[2], best[3]
