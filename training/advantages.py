"""From rewards to advantages: how much better an answer is than the others to its question.

A = (R - mean of its group) / deviation. The deviation has a floor, since dividing by a tiny one turns a slip in format
among fifteen equal answers into the largest signal of the step; without division, or by the whole batch's deviation,
there is no such trap. A group whose rewards are all equal has advantages of exactly 0: floating-point means are not
trusted to say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Scale = Literal["group", "batch", "none"]


@dataclass(frozen=True)
class Advantages:
    """values [N], 0 where a reward is missing; kinds: what each group is, in their order."""

    values: np.ndarray
    kinds: list[str]


def advantages(
    rewards: Sequence[float | None],
    groups: Sequence[int],
    *,
    scale: Scale = "group",
    floor: float = 0.1,
    accuracy: Sequence[float | None] | None = None,
) -> Advantages:
    """Advantages of answers, and the kind of each group.

    rewards   None: the answer could not be scored; it enters no mean and gets 0
    groups    [N] which question an answer is to: 0, 1, …, each number together
    scale     divide by the sample deviation of the group (arXiv 2402.03300), by that of all rewards (2508.08221), or not
              at all (2503.20783)
    floor     the deviation counts as at least this
    accuracy  what the checker alone gave: a group that differs in other parts only is `format`
    Kinds: `signal`; `format`; `equal` (max == min, or one answer); `unscored` (no reward at all).
    """
    given = np.array([np.nan if reward is None else reward for reward in rewards], np.float64)
    exact = np.array([np.nan if a is None else a for a in (accuracy if accuracy is not None else rewards)], np.float64)
    values, kinds = np.zeros(len(given)), []
    numbers = np.asarray(groups, np.int64)
    scored = ~np.isnan(given)
    batch = _deviation(given[scored])
    for group in range(int(numbers.max()) + 1 if len(numbers) else 0):
        mine = (numbers == group) & scored
        own = given[mine]
        if not len(own) or own.max() == own.min():
            kinds.append("equal" if len(own) else "unscored")
            continue
        parts = exact[mine]
        kinds.append("format" if np.nanmax(parts) == np.nanmin(parts) else "signal")
        by = {"group": _deviation(own), "batch": batch, "none": 1.0}[scale]
        values[mine] = (own - own.mean()) / (by if scale == "none" else max(by, floor))
    return Advantages(values, kinds)


def _deviation(values: np.ndarray) -> float:
    """Sample deviation (n - 1), as TRL and verl have it."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
