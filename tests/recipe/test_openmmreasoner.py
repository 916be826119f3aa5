"""The recipes of OpenMMReasoner's data: they are whole, and what they would cost is known without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curation import build
from curation.planning import plan
from curation.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = {"mathvista", "mathvision", "mathverse", "dynamath", "wemath", "logicvista", "mmmu", "mmmu-pro", "charxiv"}


@pytest.mark.parametrize("name", ["sft", "rl"])
def test_they_are_held_to_the_papers_counts_and_to_the_nine_benchmarks(name: str) -> None:
    recipe = load_recipe(ROOT / f"recipes/openmmreasoner_{name}.yaml", check_world=False).recipe
    (against,) = [set(stage["against"]) for stage in recipe.stages if stage["stage"] == "decontaminate"]
    assert against == BENCHMARKS
    assert all(source.hub and source.license for source in recipe.sources)
    assert {f"sources.{source.name}" for source in recipe.sources} <= set(recipe.expect or {})
    wanted = {key: value.count for key, value in (recipe.expect or {}).items() if value and key.startswith("outputs")}
    # OpenMMReasoner, arXiv 2511.16334: 874,357 examples of SFT, 74,971 questions of RL.
    assert sum(wanted.values()) == {"sft": 874_357, "rl": 74_971}[name]


def test_what_would_be_asked_is_known_without_a_network(tmp_path: Path) -> None:
    steps = {step["name"]: step for step in plan(ROOT / "recipes/openmmreasoner_sft.yaml", workspace=tmp_path).steps}
    assert all(steps[f"source:{name}"]["missing"] for name in ("llava_cot", "openvlthinker", "wemath", "mmr1", "m1"))
    asked = steps["fanout"]
    assert (asked["requests"], asked["answers"], asked["tokens"]) == (103_000, 824_000, 824_000 * 16_384)


def test_gpu_hours_of_a_stated_speed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "curation.cli", "build", "--plan", "--workspace", str(tmp_path)]
    words += [str(ROOT / "recipes/openmmreasoner_sft.yaml"), "--gpu-speed", "1500", "--answer-tokens", "675"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "824,000 answers in 103,000 requests" in done.stdout and "103 GPU hours" in done.stdout
    told: Any = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)
    assert {step["name"] for step in told["steps"]} >= {"source:mmr1", "fanout", "verify", "mix"}


def test_a_mistake_is_still_one(tmp_path: Path) -> None:
    from schemas.errors import RecipeError

    place = tmp_path / "r.yaml"
    place.write_text(f"extends: {ROOT / 'recipes/openmmreasoner_rl.yaml'}\nstages: [{{stage: dedupe}}]\n")
    with pytest.raises(RecipeError, match="dedup"):
        plan(place, workspace=tmp_path / "w")


@pytest.mark.parametrize(("name", "outputs"), [("sft", {"sft": 737, "recorded": 193}), ("rl", {"rl": 817})])
def test_the_whole_recipe_runs_on_samples(tmp_path: Path, name: str, outputs: dict[str, int]) -> None:
    """Every stage of the large recipe, on samples for sources and recorded responses for a teacher."""
    version = build(ROOT / f"recipes/examples/openmmreasoner_{name}_local.yaml", workspace=tmp_path, workers=1)
    large = load_recipe(ROOT / f"recipes/openmmreasoner_{name}.yaml", check_world=False)
    assert {stage.name for stage in large.stages} <= {stage["name"] for stage in version.manifest["stages"]}
    counts, ledger = version.manifest["counts"], version.ledger()
    assert (
        counts["input"] == sum(counts[fate] for fate in ("kept", "dropped", "merged", "quarantined")) == ledger.height
    )
    assert ledger["row_id"].n_unique() == ledger.height
    # Ten puzzles of the sample stand twice; four problems of MATH have no answer.
    assert (counts["merged"], counts["quarantined"]) == (10, 4)
    assert {key: len(version.dataset(key, "train")) for key in outputs} == outputs
    told = {line["what"]: line for line in version.manifest["expected"]}
    assert len(told) == len(large.recipe.expect or {}) and not any(line["agrees"] for line in told.values())
    assert told["sources.puzzlevqa" if name == "rl" else "sources.mmr1"]["found"] == 103
    if name == "rl":
        rates = version.dataset("rl", "train")["pass_rate"]
        assert sum(rate is not None for rate in rates) == 100


@pytest.mark.parametrize(
    ("name", "counts", "outputs"),
    [
        ("sft", {"input": 10_883, "merged": 364, "quarantined": 1}, {"sft": 703, "recorded": 9_109}),
        ("rl", {"input": 19_271, "merged": 369, "quarantined": 3}, {"rl": 18_881}),
    ],
)
def test_the_whole_recipe_runs_on_upstream_files(
    name: str, counts: dict[str, int], outputs: dict[str, int], data_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """PuzzleVQA whole, AlgoPuzzleVQA and MMK12 in part, text maths; held apart from five real benchmarks."""
    monkeypatch.setenv("WINNOW_DATA", str(data_dir))
    version = build(ROOT / f"recipes/examples/openmmreasoner_{name}_files.yaml", workspace=tmp_path, workers=2)
    found = version.manifest["counts"]
    assert {key: found[key] for key in counts} == counts
    assert found["input"] == found["kept"] + found["dropped"] + found["merged"] + found["quarantined"]
    assert {key: len(version.dataset(key, "train")) for key in outputs} == outputs
    ledger = version.ledger()
    # PuzzleVQA repeats 364 of its 2,000 puzzles: same picture, question and answer.
    merged = ledger.filter(pl.col("fate") == "merged")["source"].value_counts()
    assert dict(merged.iter_rows())["mmr1" if name == "sft" else "puzzlevqa"] == 364
    leaks = ledger.filter(pl.col("reason") == "benchmark_leak")
    assert len(leaks) > 0 and leaks["evidence"].null_count() == 0
