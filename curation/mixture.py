"""How many rows of each source a mixture takes, and how often each row stands in it: whole numbers that add up exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

OTHERS = "*"
"""In weights and caps: every source that is not named."""


@dataclass(frozen=True)
class Mixture:
    """How often each row stands in the data, for any total."""

    names: Sequence[str]
    """Of the sources."""
    weights: Mapping[str, float]
    repeat: bool
    """Whether a source with too few rows for its weight is repeated."""
    repeats: Mapping[str, int]
    group: np.ndarray
    """int64 (rows,): the number of each row's source."""
    caps: np.ndarray
    """int64 (sources,): most of its rows that may be taken."""
    by_draw: np.ndarray
    """int64 (rows,): positions in the order of taking."""
    rank: np.ndarray
    """int64 (rows,): place among the source's rows."""
    over: np.ndarray
    """bool (rows,): beyond the cap."""
    required: np.ndarray
    """int64 (sources,): rows that floors ask for."""

    def times(self, total: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 (rows,) each: how often a row stands in the data; its place in the order of taking, and the last place
        that is taken."""
        if self.weights:
            takes = np.array(self.quotas(total), np.int64)[self.group]
            times = np.where(self.over, 0, evenly(self.rank, self.caps[self.group], takes))
            return times, self.rank, takes
        factor = np.array([self.repeats.get(name, 1) for name in self.names], np.int64)[self.group]
        factor = np.where(self.over, 0, factor)
        end = np.empty(len(self.group), np.int64)
        end[self.by_draw] = np.cumsum(factor[self.by_draw])
        last = np.full(len(end), int(factor.sum()) if total is None else total)
        return np.clip(factor - np.maximum(end - last, 0), 0, None), np.maximum(end - factor + 1, 1), last

    def quotas(self, total: int | None) -> list[int]:
        """Rows of each source by weight, none under its floor."""
        order = sorted(range(len(self.names)), key=lambda i: self.names[i])  # equal remainders fall the same way
        found, least = [0] * len(order), {i: int(self.required[i]) for i in order}
        fixed: dict[int, int] = {}
        while True:
            free = [i for i in order if i not in fixed]
            weights = [_fraction(self.weights.get(self.names[i], self.weights.get(OTHERS, 0))) for i in free]
            left = None if total is None else max(0, total - sum(fixed.values()))
            shares = allot(weights, [int(self.caps[i]) for i in free], left, repeat=self.repeat)
            for i, share in zip(free, shares, strict=True):
                found[i] = share
            below = [i for i in free if found[i] < least[i]]
            if not below:
                break
            fixed |= {i: least[i] for i in below}
            for i in below:
                found[i] = least[i]
        return found

    def fitting(self, tokens: np.ndarray, budget: int) -> int:
        """The largest total whose rows have no more tokens than the budget."""
        low, high = 0, int(self.caps.sum() if self.weights else self.times(None)[0].sum())
        high = max(high, budget) if self.repeat else high  # no row has less than a token
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if int((tokens * self.times(middle)[0]).sum()) <= budget else (low, middle - 1)
        return low

    def impossible(self, total: int | None, by: str) -> list[str]:
        """What the weights and the total ask for and these rows do not give; `by` says what a source is."""
        if total is None:
            return []
        said = []
        if self.weights and not self.repeat:
            order = sorted(range(len(self.names)), key=lambda i: self.names[i])
            weights = [_fraction(self.weights.get(self.names[i], self.weights.get(OTHERS, 0))) for i in order]
            if any(weights):
                asked = largest_remainder(weights, total)
                said = [
                    f"weights: {by} {self.names[i]} has {int(self.caps[i]):,} rows, {of:,} asked"
                    for i, of in zip(order, asked, strict=True)
                    if of > self.caps[i]
                ]
        there = int(self.times(total)[0].sum())
        return said if there >= total else [*said, f"total: there are {there:,} rows, {total:,} asked"]


def _fraction(size: int | float) -> Fraction:
    return Fraction(str(size))


def cap_of(cap: int | float | None, rows: int) -> int:
    if cap is None:
        return rows
    return min(rows, cap if isinstance(cap, int) else int(_fraction(cap) * rows))


def allot(weights: Sequence[Fraction], available: Sequence[int], total: int | None, *, repeat: bool) -> list[int]:
    """How many rows of each source, in proportion to weights.

    Without repetition no source gives more than it has: what one cannot give, the others share by weight, so that the
    total holds as long as there are rows; without a total it is the most rows for which the weights hold exactly (but
    for rounding). With repetition the weights always hold; without a total it is the number of rows that there are.
    """
    live = [i for i, w in enumerate(weights) if w > 0 and available[i] > 0]
    quotas = [0] * len(weights)
    if not live:
        return quotas
    if total is None:
        whole = sum((weights[i] for i in live), Fraction(0))
        total = sum(available[i] for i in live) if repeat else min(int(available[i] * whole / weights[i]) for i in live)
    while live and total > 0:
        shares = largest_remainder([weights[i] for i in live], total)
        full = [] if repeat else [i for i, share in zip(live, shares, strict=True) if share >= available[i]]
        if not full:
            for i, share in zip(live, shares, strict=True):
                quotas[i] = share
            break
        for i in full:
            quotas[i] = available[i]
            total -= available[i]
        live = [i for i in live if i not in full]
    return quotas


def largest_remainder(weights: Sequence[Fraction], total: int) -> list[int]:
    """`total` cut in proportion to weights into whole numbers that add up to it (Hamilton's method); of equal
    remainders the first wins."""
    whole = sum(weights, Fraction(0))
    exact = [total * w / whole for w in weights]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def ranks(group: np.ndarray, by_draw: np.ndarray) -> np.ndarray:
    """The place of each row among its group's rows in the order of draws, from 1. int64 (n,)."""
    ordered = by_draw[np.argsort(group[by_draw], kind="stable")]
    sorted_group = group[ordered]
    starts = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]]) if len(group) else np.empty(0, np.int64)
    rank = np.empty(len(group), np.int64)
    rank[ordered] = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)])) + 1
    return rank


def evenly(rank: np.ndarray, available: np.ndarray, take: np.ndarray) -> np.ndarray:
    """How often each row stands in the data, so that the group's rows give `take` in all: evenly, the first ranks once
    more."""
    room = np.maximum(available, 1)
    times = take // room + (rank <= take % room)
    return np.where(rank <= available, times, 0)


def inside(group: np.ndarray, by_draw: np.ndarray, over: np.ndarray) -> np.ndarray:
    """The place of each row that is under its cap among its group's, from 1; 0 for the others."""
    inside = by_draw[~over[by_draw]]
    rank = np.zeros(len(group), np.int64)
    rank[inside] = ranks(group[inside], np.arange(len(inside)))
    return rank
