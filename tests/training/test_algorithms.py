"""Every algorithm learns what can be learned: from being told whether it was right, sums in text and counts in pictures.

Both tasks are small enough to know the best policy, which is right every time, and begin from a model that is right now
and then. The shipped recipes' figures over seeds stand in docs/training.md.
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

KINDS = {"text": "qwen2", "pictures": "qwen2_5_vl"}


def shown(quarters: tuple[int, ...]) -> bytes:
    """Four quarters, each an image token, red where it says 1."""
    pixels = np.where(np.reshape(quarters, (2, 2, 1)), (220, 40, 40), (50, 80, 220)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels.repeat(16, 0).repeat(16, 1)).save(sink, "PNG")
    return sink.getvalue()


def tasks(kind: str) -> list[tuple[str, bytes | None, str]]:
    """(question, picture, answer): all there are."""
    if kind == "text":
        return [(f"{a}+{b}=", None, str(a + b)) for a in range(5) for b in range(5)]
    return [("Red?", shown(quarters), str(sum(quarters))) for quarters in itertools.product((0, 1), repeat=4)]


def parts(question: str, seen: bytes | None) -> list[dict[str, Any]]:
    return [{"type": "image", "text": None}] * (seen is not None) + [{"type": "text", "text": question}]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, models: Callable[[str], Path]) -> Callable[[str], Path]:
    """A folder with a run `start` that is right now and then."""
    made: dict[str, Path] = {}

    def begin(kind: str) -> Path:
        if kind in made:
            return made[kind]
        folder = made[kind] = tmp_path_factory.mktemp(kind)
        rows: list[dict[str, Any]] = []
        for n, (question, seen, answer) in enumerate(tasks(kind)):
            asked: Any = parts(question, seen)
            turns = (("user", asked), ("assistant", [{"type": "text", "text": answer}])) if seen else (("user", question), ("assistant", answer))  # fmt: skip
            shown_ = {"images": [{"bytes": seen, "path": None}]} if seen else {}
            rows.append({"messages": conversation(*turns), **shown_, "row_id": f"row{n:03d}", "source": kind, "answer": answer})  # fmt: skip
        goal = {"data": {"parquet": "start.parquet"}, "every": 5, "limit": 25, "max_new_tokens": 3, "batch_size": 25, "until": 0.3}  # fmt: skip
        plan = plan_in(folder, models)(
            rows, KINDS[kind], "start", steps=200, batch={"max_tokens": 1024, "packs": 1}, evaluation=goal,
            optimizer={"lr": 3e-3, "schedule": "constant"},
        )  # fmt: skip
        assert 0.3 <= sft.train(plan, workspace=folder / ".winnow", quiet=True).evaluation["accuracy"] < 0.7
        return folder

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
        rows, name=algorithm, algorithm=algorithm, model={"path": "run:start"}, updates=2, steps=30,
        rollout={"prompts": 16, "n": 8, "max_new_tokens": 3, "at_once": 16}, reward={"format": "none", "functions": []},
        optimizer={"lr": 1e-3, "warmup": 3}, loss={"clip_low": 0.2, "clip_high": 0.2},
    )  # fmt: skip
    done = train(plan, workspace=folder / ".winnow", quiet=True)
    right = [line["accuracy"] for line in steps_of(done.folder)]
    assert sum(right[:3]) / 3 < 0.5 and sum(right[-3:]) / 3 > sum(right[:3]) / 3 + 0.3, right
