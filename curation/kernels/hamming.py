"""Near-duplicate pictures: all pairs of 256-bit hashes within a Hamming radius, exactly and without comparing all.

Works on difference hashes (or any other 256-bit picture hash of 16 rows by 16 columns) as 64 hex digits. A hash only
proposes: two questions on one figure are as near as two copies of it, so text and answers must decide.

Multi-index search (Norouzi, Punjani, Fleet, CVPR 2012) with a budget for each part (Qin et al., ICDE 2018): the hash
is cut into 16 parts of 16 bits; if two hashes differ in at most r bits, then for budgets t with sum(t + 1) = r + 1
they differ in at most t bits in at least one part. Parts are diagonals of the picture, not rows: blank margins
make whole rows equal in every line drawing, while each diagonal still crosses the figure. Parts in which the
hashes are most alike get the smallest budgets.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ._spread import spread

PARTS, MAX_RADIUS = 16, 47
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


def pairs(array: pa.Array | pa.ChunkedArray, *, radius: int = 24, threads: int = 1) -> pa.Table:
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
    array: pa.Array | pa.ChunkedArray, against: pa.Array | pa.ChunkedArray, *, radius: int = 24, threads: int = 1
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
    if not len(query) or not len(target):
        return np.empty((0, 3), np.int64)
    from . import _hamming

    query_parts = _hamming.cut(query)
    target_parts = query_parts if own else _hamming.cut(target)
    starts, ids = _hamming.index(target_parts)
    budgets = _budgets(starts, radius)

    def block(begin: int) -> np.ndarray:
        end = min(begin + _BLOCK, len(query))
        found: np.ndarray = _hamming.search(
            query, target, query_parts, target_parts, starts, ids, budgets, radius, begin, end, own
        )
        return found

    return np.concatenate(spread(block, range(0, len(query), _BLOCK), threads))


def _budgets(starts: np.ndarray, radius: int) -> np.ndarray:
    """Bits that two hashes may differ by in each part, -1 for a part that need not be looked at."""
    size = np.diff(starts, axis=1).astype(np.float64)
    skew = (size * size).sum(axis=1)
    budgets = np.full(PARTS, (radius + 1) // PARTS - 1, np.int64)
    budgets[np.argsort(skew, kind="stable")[: (radius + 1) % PARTS]] += 1
    return budgets
