"""The quickstart's second half: a tiny model on a CPU, fine-tuned on a version and then reinforced on another.

for name, accuracy, report in learn(Path("recipes"), None): ...   # at random 0.0, after SFT 0.4, after GSPO 0.8
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from curation.builder import build
from training import gspo, sft
from training.metrics import read_lines
from training.processes import leave
from training.recipe import load_gspo_recipe, load_sft_recipe

DATA, START, GOAL = "tiny_rl.yaml", "train_tiny_start_sft.yaml", "train_tiny_gspo.yaml"


def learn(recipes: Path, workspace: Path | str | None, quiet: bool = False) -> Iterator[tuple[str, float, Path]]:
    """(stage, held-out accuracy, report) as each is reached; runs that are finished already are not made again."""
    build(recipes / DATA, workspace=workspace)
    first = sft.train(load_sft_recipe(recipes / START, workspace=workspace), workspace=workspace, quiet=quiet)
    for name, accuracy in zip(("at random", "after SFT"), _asked(first.folder), strict=True):
        yield name, accuracy, first.folder / "report.html"
    last = gspo.train(load_gspo_recipe(recipes / GOAL, workspace=workspace), workspace=workspace, quiet=quiet)
    yield "after GSPO", _asked(last.folder)[1], last.folder / "report.html"
    leave()


def _asked(folder: Path) -> tuple[float, float]:
    """Held-out accuracy at the first and the last evaluation of a run."""
    found = [line["evaluation"]["accuracy"] for line in read_lines(folder / "metrics.jsonl") if "evaluation" in line]
    return found[0], found[-1]
