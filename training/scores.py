"""The arithmetic of evaluation: pure functions from judged answers to figures with error bars.

Everything is a ratio Σ numerator / Σ denominator over *units* (a question, a seed question with its variants, a problem
with its steps), each unit in a *cluster* of units that are not independent (the variants of one seed question). A
bootstrap draws clusters, not answers: ten variants of one question are not ten observations. Two models are compared on
the same draws, so what makes a question hard for both cancels out.

    pass@k   1 − C(n−c, k) / C(n, k)     Chen et al., arXiv 2107.03374: the unbiased estimate from n answers, c right
    maj@k    the answer that most of k answers give, ties drawn by lot: a vote, not a share above one half
    CM …     We-Math's scheme, arXiv 2407.01284: 1 for complete mastery, ½ where the steps are right and the whole is not
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
SUBSETS = 2000
"""Subsets of k answers of which a vote is averaged at most; where there are more, so many are drawn."""
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and what it rests on."""

    value: float
    low: float
    high: float
    error: float
    """Standard error, over clusters."""
    units: int
    clusters: int

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """Model B minus model A on the same questions."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of the hypothesis that swapping the two models changes nothing (sign flips of clusters)."""
    units: int
    clusters: int

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


# ------------------------------------------------------------------------------------------------------ of one question


def pass_at(right: int, answers: int, k: int) -> float:
    """The chance that at least one of k answers is right. Raises ValueError where k exceeds the number of answers."""
    if not 1 <= k <= answers:
        raise ValueError(f"pass@{k} of {answers} answers")
    if answers - right < k:
        return 1.0
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)


def majority_at(votes: Sequence[int], right: Sequence[int] | int, k: int, seed: int = 0) -> float:
    """The chance that the vote of k of the answers is right: over all subsets of k, or SUBSETS drawn ones.

    votes   for each answer what it votes for, a number; negative where it names no answer and does not vote
    right   the number, or numbers, that stand for the right answer
    """
    n = len(votes)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} of {n} answers")
    good = {right} if isinstance(right, int) else set(right)
    if math.comb(n, k) <= SUBSETS:
        subsets: list[tuple[int, ...]] = list(itertools.combinations(range(n), k))
    else:
        draw = np.random.Generator(np.random.Philox(key=seed))
        subsets = [tuple(draw.permutation(n)[:k].tolist()) for _ in range(SUBSETS)]
    total = 0.0
    for subset in subsets:
        count: dict[int, int] = {}
        for i in subset:
            if votes[i] >= 0:
                count[votes[i]] = count.get(votes[i], 0) + 1
        if count:
            most = max(count.values())
            first = [vote for vote, times in count.items() if times == most]
            total += sum(vote in good for vote in first) / len(first)
    return total / len(subsets)


def mastery(steps: Sequence[bool], whole: bool, *, loose: bool) -> float:
    """We-Math's score of one problem from its single-step questions and the question that needs all of them.

    Steps and whole right: 1 (complete mastery). Steps right, whole wrong: ½ (inadequate generalisation). Whole right
    although steps are wrong is rote memorisation, 0; loosely it is that only where every step is wrong. Else 0.
    """
    if whole:
        return float(any(steps) if loose else all(steps))
    return 0.5 if all(steps) else 0.0


# ----------------------------------------------------------------------------------------------------- over all of them


def estimate(
    numerator: np.ndarray, denominator: np.ndarray | None, clusters: Sequence[str], *, seed: int = 0
) -> Estimate:
    """Σ numerator / Σ denominator (1 each by default) with a percentile bootstrap over clusters.

    Where every unit has the same value 0 or 1 a bootstrap sees no spread; the exact binomial bound is taken then.
    """
    num, den, sizes = _by_cluster(numerator, denominator, clusters)
    n = len(num)
    value = float(num.sum() / den.sum()) if den.sum() else math.nan
    if denominator is None and n and value in (0.0, 1.0):
        far = 1 - ((1 - LEVEL) / 2) ** (1 / n)
        low, high = (0.0, far) if value == 0 else (1 - far, 1.0)
        return Estimate(value, low, high, 0.0, int(sizes.sum()), n)
    drawn = _drawn(num, den, seed)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (math.nan, math.nan)
    error = float(drawn.std(ddof=1)) if len(drawn) > 1 else math.nan
    return Estimate(value, float(low), float(high), error, int(sizes.sum()), n)


def difference(a: np.ndarray, b: np.ndarray, clusters: Sequence[str], *, seed: int = 0) -> Difference:
    """Mean of b − a over units that both have, in the same order; interval and p over clusters."""
    num, den, sizes = _by_cluster(np.asarray(b, float) - np.asarray(a, float), None, clusters)
    n, total = len(num), den.sum()
    value = float(num.sum() / total)
    drawn = _drawn(num, den, seed)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(value, float(low), float(high), _flips(num, seed), int(sizes.sum()), n)


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of a few values: for seeds, of which there are too few for a bootstrap. One
    value has the interval (−∞, ∞)."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, -math.inf, math.inf
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = _T[min(n - 1, len(_T) - 1)] * spread / math.sqrt(n)
    return mean, mean - half, mean + half


# 97.5 % quantile of Student's t by degrees of freedom; beyond the table the normal one is near enough.
_T = [math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
      2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
      2.042, 1.960]  # fmt: skip


def _by_cluster(
    numerator: np.ndarray, denominator: np.ndarray | None, clusters: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of each cluster and how many units it has."""
    den = np.ones(len(numerator)) if denominator is None else np.asarray(denominator, float)
    names, at = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    of = [np.bincount(at, weights=w, minlength=len(names)) for w in (np.asarray(numerator, float), den)]
    return of[0], of[1], np.bincount(at, minlength=len(names))


def _drawn(num: np.ndarray, den: np.ndarray, seed: int, block: int = 100) -> np.ndarray:
    """The ratio in each bootstrap draw; draws depend on the number of clusters and the seed alone, so two models are
    drawn alike."""
    n = len(num)
    if not n:
        return np.empty(0)
    draw = np.random.Generator(np.random.Philox(key=seed))
    found = []
    for _ in range(0, DRAWS, block):
        times = draw.multinomial(n, np.full(n, 1 / n), size=block).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append((times @ num) / (times @ den))
    ratios = np.concatenate(found)
    return ratios[np.isfinite(ratios)]


def _flips(num: np.ndarray, seed: int) -> float:
    """p of a sign-flip test: how often random signs of the clusters' differences give a sum as far from zero."""
    moved = num[num != 0]
    if not len(moved):
        return 1.0
    observed = abs(moved.sum()) - 1e-9
    if len(moved) <= 12:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(moved))))
        return float((np.abs(signs @ moved) >= observed).mean())
    draw = np.random.Generator(np.random.Philox(key=seed + 1))
    hits = total = 0
    for _ in range(10):
        signs = draw.integers(0, 2, (1000, len(moved))) * 2.0 - 1.0
        hits, total = hits + int((np.abs(signs @ moved) >= observed).sum()), total + 1000
    return (hits + 1) / (total + 1)


def powers(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    found = [2**i for i in range(most.bit_length()) if 2**i <= most]
    return found if found[-1] == most else [*found, most]


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjustment of several p: what each is worth where all were looked at."""
    ranked, worst, found = sorted(p, key=lambda name: p[name]), 0.0, {}
    for i, name in enumerate(ranked):
        worst = max(worst, min(1.0, (len(ranked) - i) * p[name]))
        found[name] = worst
    return found
