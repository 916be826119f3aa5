"""Alarms: each on a run made up to go wrong in its way, none on one that goes well, and none twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from schemas.training import Alarms
from training.alarms import alarms

CONFIG = Alarms(window=5, unclipped=8)
Change = Callable[[int, float], dict[str, Any]]


def run(count: int, change: Change = lambda step, share: {}, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of a run that learns, with noise as large as real steps have it; `change(step, share of the run)` spoils it."""
    draw, made = np.random.default_rng(seed), []
    for step in range(1, count + 1):
        share = step / count
        right = 0.3 + 0.4 * share + draw.normal(0, 0.03)
        form = min(1.0, 0.85 + 0.1 * share + draw.normal(0, 0.01))
        line = {
            "step": step, "loss": draw.normal(0, 1e-3), "reward": 0.9 * right + 0.1 * form, "accuracy": right, "format": form,
            "overlong": 0.0, "entropy": 0.6 - 0.3 * share + draw.normal(0, 0.02), "tokens": 200 + 100 * share + draw.normal(0, 10),
            "truncated": 0.01, "mismatch": 0.004, "clipped": 0.15, "updates": 4,
            "groups": {"signal": 40, "format": 4, "equal": 20, "unscored": 0},
        }  # fmt: skip
        changed = {**line, **change(step, share)}
        made.append({key: value for key, value in changed.items() if value is not None})
    return made


def told(lines: list[dict[str, Any]], config: Alarms = CONFIG) -> dict[int, list[str]]:
    """What the loop would say, by step."""
    found = {n: alarms(lines[:n], config) for n in range(1, len(lines) + 1)}
    return {n: texts for n, texts in found.items() if texts}


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_has_none(seed: int) -> None:
    assert told(run(60, seed=seed)) == {}


def test_a_run_that_stays_where_it_is_has_none() -> None:
    assert (
        told(run(60, lambda step, share: {"reward": 0.5 + 0.02 * (-1) ** step, "accuracy": 0.5 + 0.03 * (-1) ** step}))
        == {}
    )


def hacking(step: int, share: float) -> dict[str, Any]:
    """Format is learned to perfection while knowledge is lost."""
    right, form = 0.5 - 0.1 * share, 0.2 + 0.8 * share
    return {"accuracy": right, "format": form, "reward": 0.6 * right + 0.4 * form}


def peaked(step: int, share: float) -> dict[str, Any]:
    """The same, but after a while in which all went well."""
    right, form = (0.3 + share, 0.3) if share < 0.5 else (1.05 - 0.5 * share, 0.3 + 1.4 * (share - 0.5))
    return {"accuracy": right, "format": form, "reward": 0.6 * right + 0.4 * form}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda step, share: {"entropy": 0.6 * 0.9**step}, ["Entropy fell to", "10 %", "optimizer.lr"]),
        (hacking, ["reward rises while fewer answers are right", "format 0.", "reward.format_weight"]),
        (peaked, ["reward rises while fewer answers are right"]),
        (lambda step, share: {"tokens": 100 + 300 * share, "truncated": 0.25}, ["times the", "25.0 % are cut off", "reward.overlong"]),
        (lambda step, share: {"mismatch": 0.3 if step > 20 else 0.01}, ["is 0.3 per token", "above 0.05", "loss.importance_cap"]),
        (lambda step, share: {"clipped": 0.0} if step > 20 else {}, ["Nothing was clipped in 8 steps", "4 updates"]),
        (lambda step, share: {"groups": {"signal": 0, "format": 0, "equal": 60, "unscored": 4}, "accuracy": 0.01, "reward": 0.1},
         ["60 equal, 4 unscored; 1.0 % of the answers right", "too hard"]),
        (lambda step, share: {"groups": {"signal": 0, "format": 0, "equal": 64, "unscored": 0}, "accuracy": 1.0, "reward": 1.0}, ["too easy"]),
        (lambda step, share: {"groups": {"signal": 0, "format": 0, "equal": 0, "unscored": 64}, "accuracy": None, "reward": None},
         ["none could be judged", "`problem`"]),
    ],
    ids=["entropy", "hacking", "hacking-later", "length", "mismatch", "unclipped", "too-hard", "too-easy", "unscored"],
)  # fmt: skip
def test_each_is_said_once_when_it_begins(change: Change, words: list[str]) -> None:
    found = told(run(60, change))
    assert [len(texts) for texts in found.values()] == [1], found
    (text,) = next(iter(found.values()))
    assert all(word in text for word in words) and "\n" not in text, text


def test_it_is_said_at_the_step_at_which_it_begins() -> None:
    assert list(told(run(60, lambda step, share: {"mismatch": 0.3 if step > 20 else 0.01}))) == [21]
    assert list(told(run(60, lambda step, share: {"clipped": 0.0} if step > 20 else {}))) == [28]


def test_it_is_said_again_only_after_it_had_been_away() -> None:
    flickering = run(60, lambda step, share: {"mismatch": 0.3 if step % 2 else 0.01})
    assert list(told(flickering)) == [1]
    twice = run(60, lambda step, share: {"mismatch": 0.3 if step < 5 or step > 40 else 0.01})
    assert list(told(twice)) == [1, 41]


def test_one_update_per_batch_clips_nothing_and_that_is_no_alarm() -> None:
    assert told(run(60, lambda step, share: {"clipped": 0.0, "updates": 1})) == {}


def test_bounds_are_those_of_the_recipe() -> None:
    longer = run(60, lambda step, share: {"tokens": 100 + 300 * share})
    assert told(longer) and not told(longer, CONFIG.model_copy(update={"length": 5.0}))
    flat = run(60, lambda step, share: {"entropy": 0.6 * 0.9**step})
    assert told(flat) and not told(flat, CONFIG.model_copy(update={"entropy": 0.0}))


def test_figures_that_are_not_there_are_no_alarm() -> None:
    bare = [{"step": n, "loss": 0.0} for n in range(60)]
    assert alarms([], CONFIG) == [] and told(bare) == {}
    assert told(run(60, lambda step, share: {"entropy": None, "mismatch": None, "clipped": None})) == {}
