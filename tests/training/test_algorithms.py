"""Every algorithm learns from being told whether it was right: sums in text, and counts in pictures.

Both tasks are small enough to know the best policy, which is right every time, and begin from a model that is right half
of the time. The shipped recipes' figures over seeds stand in docs/training.md.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import conversation, plan_in
from tests.training.test_gspo import plan_in as questions_in
from tests.training.test_gspo import steps_of
from training import sft
from training.gspo import train
from training.losses import ALGORITHMS

KINDS = {"text": ("qwen2", 250), "pictures": ("qwen2_5_vl", 120)}
"""Model, and how many steps it takes to know the form and half of the answers."""


def shown(halves: tuple[int, ...]) -> bytes:
    """A left and a right half, two image tokens each, red where it says 1."""
    pixels = np.where(np.reshape(halves, (1, 2, 1)), (220, 40, 40), (50, 80, 220)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels.repeat(32, 0).repeat(16, 1)).save(sink, "PNG")
    return sink.getvalue()


def tasks(kind: str) -> list[tuple[str, bytes | None, str]]:
    """(question, picture, answer): all there are."""
    if kind == "text":
        return [(f"{a}+1=", None, str(a + 1)) for a in range(4)]
    return [("Red?", shown(halves), str(sum(halves))) for halves in itertools.product((0, 1), repeat=2)]


def parts(question: str, seen: bytes | None) -> list[dict[str, Any]]:
    return [{"type": "image", "text": None}] * (seen is not None) + [{"type": "text", "text": question}]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, models: Callable[[str], Path]) -> Callable[[str], Path]:
    """A folder with a run `start`. It was shown every answer to every question, the right one in half of the cases: it
    knows the form, and gives the right answer about as often."""
    made: dict[str, Path] = {}

    def begin(kind: str) -> Path:
        if kind not in made:
            folder = made[kind] = tmp_path_factory.mktemp(kind)
            answers = sorted({answer for *_, answer in tasks(kind)})
            rows: list[dict[str, Any]] = [
                {
                    "messages": conversation(("user", parts(question, seen)), ("assistant", parts(answer, None))),
                    "images": [{"bytes": seen, "path": None}] if seen else [], "row_id": f"row{n:03d}-{m}",
                }
                for n, (question, seen, right) in enumerate(tasks(kind))
                for m, answer in enumerate([*answers, *[right] * (len(answers) - 2)])
            ]  # fmt: skip
            model, steps = KINDS[kind]
            plan = plan_in(folder, models)(
                rows, model, "start", steps=steps, batch={"max_tokens": 1024, "packs": 1},
                optimizer={"lr": 5e-3, "warmup": 10},
            )  # fmt: skip
            sft.train(plan, workspace=folder / ".winnow", quiet=True)
        return made[kind]

    return begin


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_rewards_rise(begun: Callable[[str], Path], models: Callable[[str], Path], kind: str, algorithm: str) -> None:
    folder = begun(kind)
    rows = [
        {
            "prompt": [{"role": "user", "content": parts(question, seen)}],
            "images": [{"bytes": seen, "path": None}] if seen else [],
            "reward_model": {"ground_truth": answer}, "row_id": f"row{n:03d}", "source": kind,
        }
        for n, (question, seen, answer) in enumerate(tasks(kind))
    ]  # fmt: skip
    plan = questions_in(folder, models)(
        rows, name=algorithm, algorithm=algorithm, model={"path": "run:start"}, updates=2, steps=20,
        rollout={"prompts": 4, "n": 16, "max_new_tokens": 3, "at_once": 4}, reward={"format": "none", "functions": [], "workers": 1},
        optimizer={"lr": 1e-3, "warmup": 5}, loss={"clip_low": 0.2, "clip_high": 0.2},
    )  # fmt: skip
    done = train(plan, workspace=folder / ".winnow", quiet=True)
    rewards = [line["reward"] for line in steps_of(done.folder)]
    before, after = sum(rewards[:2]) / 2, sum(rewards[-6:]) / 6
    assert 0.35 < before < 0.65 and after > before + 0.12, rewards
