"""What goes on around the steps of an RL run: a clock by phase, answers drawn ahead, a line of progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from curation.console import duration
from schemas.training import GspoRecipe
from training.groups import Collected


class Clock:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - began

    def line(self, tokens: int) -> dict[str, Any]:
        """For metrics.jsonl; `tokens`: what was learned from."""
        learning = self.phases["score"] + self.phases["train"]
        return {"seconds": sum(self.phases.values()), "phases": self.phases, "tokens_per_second": tokens / learning}


@contextmanager
def drawing_ahead(recipe: GspoRecipe) -> Iterator[Callable[..., Future[Collected] | None]]:
    """How the next step's answers are drawn ahead: not at all, at once (generate is the policy), or by a thread."""

    def at_once(function: Callable[..., Collected], *arguments: Any) -> Future[Collected]:
        done: Future[Collected] = Future()
        done.set_result(function(*arguments))
        return done

    if not recipe.rollout.ahead:
        yield lambda *_: None
    elif recipe.rollout.engine == "transformers":
        yield at_once
    else:
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit


def progress_of(line: dict[str, Any], steps: int, left: float) -> str:
    """`step 12 of 150  reward 0.712  right 68.8 %  23 tokens  clipped 12.5 %  1 min left`"""
    return (
        f"step {line['step']:,} of {steps:,}  reward {line.get('reward', math.nan):.3f}  "
        f"right {100 * line.get('accuracy', math.nan):.1f} %  {line['tokens']:,.0f} tokens  "
        f"clipped {100 * line.get('clipped', 0.0):.1f} %  {duration(left)} left"
    )
