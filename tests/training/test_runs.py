"""A run of one trainer as the start of another: it ends at its goal, and nobody goes on from a start that has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import WinnowError
from tests.training import test_gspo
from tests.training.conftest import Plan, conversation, lines, plan_in
from training import gspo, sft

GOAL: dict[str, Any] = {"every": 5, "limit": 10, "max_new_tokens": 4, "batch_size": 10}


def rows(count: int = 20) -> list[dict[str, Any]]:
    """Questions that all have one answer: what it takes to be right is learned in a few steps."""
    return [
        {"messages": conversation(("user", f"Say {n}."), ("assistant", "7")), "row_id": f"row{n:03d}", "source": "s", "answer": "7"}
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, models: Callable[[str], Path]) -> Path:
    """A folder with a run `start` that has reached its goal."""
    folder = tmp_path_factory.mktemp("start")
    sft.train(start(plan_in(folder, models)), workspace=folder / ".winnow", quiet=True)
    return folder


def start(make: Plan, until: float | None = 0.9, **changes: Any) -> Any:
    asked = {**GOAL, "data": {"parquet": "start.parquet"}, "until": until}
    return make(rows(), name="start", evaluation=asked, steps=80, optimizer={"lr": 1e-2, "warmup": 0.0}, **changes)


@pytest.fixture
def space(tmp_path: Path, trained: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "own", symlinks=True)) / ".winnow"


def goal(space: Path, models: Callable[[str], Path], until: float | None = None, **changes: Any) -> Any:
    make = test_gspo.plan_in(space.parent, models)
    asked = {"data": {"parquet": "start.parquet"}, "every": 2, "until": until, "limit": 10, "max_new_tokens": 4}
    return make(
        test_gspo.asked(8),
        name="goal",
        model={"path": "run:start"},
        optimizer={"lr": 1e-6},
        evaluation=asked,
        steps=4,
        **changes,
    )


def test_a_run_ends_when_it_is_good_enough(space: Path, models: Callable[[str], Path]) -> None:
    folder = space / "runs" / "start"
    told = [(line["step"], line["evaluation"]["accuracy"]) for line in lines(folder / "metrics.jsonl") if "evaluation" in line]  # fmt: skip
    assert told[-1][1] >= 0.9 and all(accuracy < 0.9 for _, accuracy in told[:-1]) and 5 < told[-1][0] < 80
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["state"], manifest["step"]) == ("finished", told[-1][0])
    assert [p.name for p in (folder / "checkpoints").iterdir()] == [f"step-{told[-1][0]:06d}"]
    # It is not gone on with, unless more is asked of it.
    make = plan_in(space.parent, models)
    assert sft.train(start(make), workspace=space, quiet=True).step == told[-1][0]
    more = sft.train(start(make, until=None), workspace=space, quiet=True)
    assert more.step == 80


def test_an_rl_run_ends_when_it_is_good_enough(space: Path, models: Callable[[str], Path]) -> None:
    plan = goal(space, models, until=0.5)
    for _ in range(2):
        done = gspo.train(plan, workspace=space, quiet=True)
        assert done.step == 2 and done.checkpoint.name == "step-000002" and done.evaluation["accuracy"] >= 0.5
    assert [line["step"] for line in lines(done.folder / "metrics.jsonl") if "loss" in line] == [1, 2]


@pytest.mark.parametrize("kind", ["gspo", "sft"])
def test_a_start_that_was_trained_anew_is_noticed(space: Path, models: Callable[[str], Path], kind: str) -> None:
    make = plan_in(space.parent, models)

    def follow(steps: int) -> Any:
        if kind == "gspo":
            return gspo.train(goal(space, models, save={"every": 1}), workspace=space, quiet=True)
        plan = make(rows(), name="goal", model={"path": "run:start"}, steps=steps, save={"every": 1})
        return sft.train(plan, workspace=space, quiet=True)

    done = follow(2)
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest["model"]["path"] == "run:start" and len(manifest["model"]["begun_from"]["digest"]) == 64
    assert follow(3).step >= done.step
    # Trained again to the same weights it is the same start; trained otherwise it is not.
    sft.train(start(make), workspace=space, fresh=True, quiet=True)
    again = follow(3)
    sft.train(start(make, seed=5), workspace=space, fresh=True, quiet=True)
    before = (again.folder / "manifest.json").read_bytes()
    with pytest.raises(
        WinnowError, match=r"(?s)goal was begun from run:start as it was then.*another `name`.*--fresh"
    ) as caught:
        follow(3)
    assert manifest["model"]["begun_from"]["digest"][:12] in str(caught.value).replace("\n", " ")
    assert (again.folder / "manifest.json").read_bytes() == before and len(
        list((again.folder / "checkpoints").iterdir())
    ) > 0
