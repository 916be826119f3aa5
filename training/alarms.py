"""Alarms of an RL run: what has gone wrong in its figures, said in one line with what to look at.

A condition looks at the lines of the steps so far and gives its sentence, or nothing. An alarm is a condition that holds
now and did not hold in the steps just before (`window` of them): so it is said once when it begins, and again only after
it had been away for a while. All of it follows from the lines, so a run that is taken up again says nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from schemas.training import Alarms

Line = Mapping[str, Any]
Condition = Callable[[Sequence[Line], Alarms], str | None]
SURE = 3.0
"""Standard errors by which two windows must differ to count as different."""
LEAST = 0.01
"""And the smallest fall of accuracy that is told."""


def alarms(steps: Sequence[Line], config: Alarms) -> list[str]:
    """What begins to be wrong with the last of these steps. `steps`: the lines of metrics.jsonl that are steps, in order."""
    told = []
    for condition in CONDITIONS:
        text = condition(steps, config)
        before = (steps[:-back] for back in range(1, min(config.window, len(steps) - 1) + 1))
        if text is not None and not any(condition(earlier, config) for earlier in before):
            told.append(text)
    return told


def entropy_collapse(steps: Sequence[Line], config: Alarms) -> str | None:
    """The policy hardly varies any more: answers to one question become the same, and groups teach nothing."""
    first, last = _ends(steps, "entropy", config.window)
    if first is None or last is None or last >= config.entropy * first:
        return None
    return (
        f"Entropy fell to {last:.3g} nats per token from {first:.3g} at first (mean of {config.window} steps; alarm below "
        f"{100 * config.entropy:g} %). Answers hardly vary any more: lower optimizer.lr, raise loss.clip_high, or stop here."
    )


def hacked(steps: Sequence[Line], config: Alarms) -> str | None:
    """The reward rises while fewer answers are right: something else than being right is paid for."""
    size = config.window
    told = [line for line in steps if "reward" in line and "accuracy" in line]
    if len(told) < 2 * size:
        return None
    last = told[-size:]
    # Against each window before that does not overlap, counted from the end: a fall from a peak is a fall too.
    for start in range(len(told) - 2 * size, -1, -size):
        before = told[start : start + size]
        fell, risen = _difference(before, last, "accuracy"), _difference(before, last, "reward")
        if fell < -LEAST and risen > 0:
            parts = [key for key in last[-1] if key in ("format", "overlong") or ":" in key]
            moved = {key: (_mean(before, key), _mean(last, key)) for key in parts}
            said = "; ".join(f"{key} {a:.3f} -> {b:.3f}" for key, (a, b) in moved.items() if a != b)
            return (
                f"The reward rises while fewer answers are right: {_mean(before, 'reward'):.3f} -> "
                f"{_mean(last, 'reward'):.3f}, but {100 * _mean(before, 'accuracy'):.1f} % -> "
                f"{100 * _mean(last, 'accuracy'):.1f} % right (steps {_span(before)} against {_span(last)})"
                f"{'; ' + said if said else ''}. Something else than being right is paid for: look at the best paid wrong "
                "answers in rollouts/, and lower the weight of that part (reward.format_weight, the functions' weight)."
            )
    return None


def length_explosion(steps: Sequence[Line], config: Alarms) -> str | None:
    """Answers become much longer than they were."""
    first, last = _ends(steps, "tokens", config.window)
    if first is None or last is None or last <= config.length * first:
        return None
    cut = 100 * _mean(steps[-config.window :], "truncated")
    return (
        f"Answers have {last:,.0f} tokens, {last / first:.1f} times the {first:,.0f} of the first {config.window} steps "
        f"(alarm above {config.length:g}); {cut:.1f} % are cut off. Read the longest in rollouts/: if they repeat "
        "themselves, set reward.overlong or reward.budget, or `rollout.truncated: penalise`."
    )


def mismatch(steps: Sequence[Line], config: Alarms) -> str | None:
    """The engine that draws answers is not the model that learns from them."""
    value = steps[-1].get("mismatch") if steps else None
    if value is None or not value > config.mismatch:
        return None
    return (
        f"Rollouts are not drawn from the policy that learns: mean |log π − log π_rollout| is {value:.3g} per token (alarm "
        f"above {config.mismatch:g}). Where it grows with the steps, new weights do not reach the engine; where it is high "
        "from the first, its numerics or its chat template differ. loss.importance_cap corrects small differences."
    )


def never_clipped(steps: Sequence[Line], config: Alarms) -> str | None:
    """Several updates are made from one batch of answers, and no ratio ever leaves the clip range."""
    last = [line for line in steps[-config.unclipped :] if line.get("updates", 0) > 1 and line.get("clipped") == 0]
    if len(last) < config.unclipped:
        return None
    return (
        f"Nothing was clipped in {config.unclipped} steps, with {last[-1]['updates']} updates from each batch of answers. "
        "Steps are far smaller than the clip range allows: raise optimizer.lr or updates, or narrow loss.clip_low and "
        "clip_high (a sequence's ratio needs about a thousandth of a token's range)."
    )


def nothing_taught(steps: Sequence[Line], config: Alarms) -> str | None:
    """No question of a step has answers of different worth."""
    kinds = steps[-1].get("groups") if steps else None
    if not kinds or kinds.get("signal", 0) + kinds.get("format", 0):
        return None
    said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    right = steps[-1].get("accuracy")
    share = "none could be judged" if right is None else f"{100 * right:.1f} % of the answers right"
    if right is not None and right > 0.5:
        advice = "Questions are too easy: take harder ones (curriculum.band)."
    elif right is not None and kinds.get("equal"):
        advice = "Questions are too hard: take easier ones (curriculum.band), more answers (rollout.n), or train by SFT first."
    else:
        advice = "See `state` and `problem` of the answers in rollouts/ for why they have no reward."
    return f"No group of this step teaches anything ({said}; {share}): all rewards of a group are equal. {advice}"


CONDITIONS: tuple[Condition, ...] = (
    entropy_collapse, hacked, length_explosion, mismatch, never_clipped, nothing_taught,
)  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- windows


def _ends(steps: Sequence[Line], key: str, size: int) -> tuple[float | None, float | None]:
    """Means of a figure over the first and the last `size` steps that have it; None where those overlap."""
    told = [line for line in steps if line.get(key) is not None]
    if len(told) < 2 * size:
        return None, None
    return _mean(told[:size], key), _mean(told[-size:], key)


def _values(lines: Sequence[Line], key: str) -> np.ndarray:
    return np.array([line[key] for line in lines if line.get(key) is not None], float)


def _mean(lines: Sequence[Line], key: str) -> float:
    values = _values(lines, key)
    return float(values.mean()) if len(values) else float("nan")


def _difference(before: Sequence[Line], after: Sequence[Line], key: str) -> float:
    """How much a mean has moved; 0 where that is within the noise of its steps (Welch's standard error)."""
    a, b = _values(before, key), _values(after, key)
    moved = float(b.mean() - a.mean())
    error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
    return moved if abs(moved) > SURE * error else 0.0


def _span(lines: Sequence[Line]) -> str:
    return f"{lines[0]['step']:,}–{lines[-1]['step']:,}"
