"""The whole chain, from a Winnow recipe to held-out accuracy: tiny models learn two tasks from nothing.

Thresholds lie well below what was measured with the shipped recipes, which train longer (docs/training.md).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from curation import build, open_version
from training import tiny
from training.gspo import train as reinforce
from training.recipe import load_gspo_recipe, load_sft_recipe
from training.sft import train

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.timeout(1800)  # two CPU minutes each; a busy machine takes many times that
@pytest.mark.parametrize(
    ("data", "recipe", "wanted", "changes"),
    [
        ("tiny_sums", "train_tiny_sft", 0.6, ["steps=400", "evaluation.every=400", "evaluation.limit=100"]),
        ("tiny_shapes", "train_tiny_vision_sft", 0.5, ["steps=600", "evaluation.every=600", "evaluation.limit=100"]),
    ],
)
def test_a_tiny_model_learns(tmp_path: Path, data: str, recipe: str, wanted: float, changes: list[str]) -> None:
    version = build(RECIPES / f"{data}.yaml", workspace=tmp_path, workers=1)
    plan = load_sft_recipe(RECIPES / f"{recipe}.yaml", workspace=tmp_path, overrides=[*changes, "log.to=[]"])
    result = train(plan, workspace=tmp_path, quiet=True)
    assert result.evaluation["accuracy"] >= wanted and result.evaluation["finished"] >= 0.95
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["data"][0]["id"] == version.id and manifest["counts"]["left_out"] == {}
    answers = pq.read_table(next((result.folder / "samples").glob("*.parquet"))).to_pylist()
    # What was asked is held out: the trainer never saw it.
    asked = {row["row_id"] for row in answers}
    trained = set(version.dataset("sft", "train")["row_id"])
    assert len(asked) == 100 and not asked & trained


@pytest.mark.parametrize("name", ["train_tiny_sft", "train_tiny_vision_sft", "train_openmmreasoner_sft"])
def test_shipped_recipes_are_valid(name: str) -> None:
    load_sft_recipe(RECIPES / f"{name}.yaml", check_world=False)


def test_the_paper_run_is_the_papers() -> None:
    recipe = load_sft_recipe(RECIPES / "train_openmmreasoner_sft.yaml", check_world=False).recipe
    assert (recipe.steps, recipe.optimizer.lr, recipe.optimizer.schedule, recipe.optimizer.warmup) == (
        4300,
        5e-5,
        "cosine",
        0.1,
    )
    assert (recipe.batch.max_tokens, recipe.batch.packs, recipe.batch.max_pixels) == (61_440, 32, 4_194_304)
    assert recipe.precision == "bf16" and recipe.optimizer.weight_decay == 0 and recipe.save.every == 2000


@pytest.mark.parametrize(("folder", "kind"), [("tiny_text", "qwen2"), ("tiny_vision", "qwen2_5_vl")])
def test_the_shipped_models_are_what_their_maker_writes(tmp_path: Path, folder: str, kind: str) -> None:
    made = tiny.make(tmp_path / folder, kind)
    shipped = RECIPES / "data" / folder
    for path in made.iterdir():
        if path.suffix == ".json":
            fresh, held = (json.loads(p.read_text()) for p in (path, shipped / path.name))
            assert {**fresh, "transformers_version": ""} == {**held, "transformers_version": ""}
        else:
            assert path.read_bytes() == (shipped / path.name).read_bytes()
    assert {p.name for p in made.iterdir()} == {p.name for p in shipped.iterdir()}


@pytest.mark.timeout(1800)
def test_a_tiny_model_learns_from_being_told_whether_it_was_right(tmp_path: Path) -> None:
    """The quickstart's second half with half of its RL steps: margins over three seeds stand in docs/training.md."""
    from training import quickstart

    recipes = shorter(tmp_path, {"train_tiny_gspo.yaml": {"steps": 60}})
    found = {name: accuracy for name, accuracy, _ in quickstart.learn(recipes, tmp_path / "w", quiet=True)}
    assert list(found) == ["at random", "after SFT", "after GSPO"]
    assert found["at random"] <= 0.02 and 0.1 <= found["after SFT"] <= 0.7
    assert found["after GSPO"] >= found["after SFT"] + 0.15
    # Nothing that RL was told about was ever shown with its solution, and no held-out question was in either.
    w = tmp_path / "w"
    data = {name: set(open_version("tiny-rl", w).dataset(name, "train")["row_id"]) for name in ("sft", "rl")}
    asked = set(open_version("tiny-rl", w).dataset("rl", "held_out")["row_id"])
    assert not data["sft"] & data["rl"] and not asked & (data["sft"] | data["rl"]) and len(asked) > 100
    again = [report for *_, report in quickstart.learn(recipes, tmp_path / "w", quiet=True)]
    assert "tiny-gspo" in again[-1].read_text()  # what is finished is not made again


def shorter(folder: Path, changes: dict[str, dict[str, object]]) -> Path:
    """A copy of the shipped recipes with other values."""
    made = Path(shutil.copytree(RECIPES, folder / "recipes"))
    for name, values in changes.items():
        recipe = yaml.safe_load((made / name).read_text())
        (made / name).write_text(yaml.safe_dump({**recipe, **values}))
    return made


@pytest.mark.timeout(1800)
def test_a_tiny_model_learns_to_count_from_being_told_whether_it_was_right(tmp_path: Path) -> None:
    """RL on pictures, with fewer steps than the recipe's: its margins over three seeds stand in docs/training.md."""
    build(RECIPES / "tiny_cells.yaml", workspace=tmp_path, workers=1)
    start = load_sft_recipe(RECIPES / "train_tiny_vision_start_sft.yaml", workspace=tmp_path, overrides=["log.to=[]"])
    before = train(start, workspace=tmp_path, quiet=True).evaluation["accuracy"]
    assert 0.5 <= before <= 0.7
    changes = ["steps=30", "evaluation.every=30", "log.to=[]"]
    goal = load_gspo_recipe(RECIPES / "train_tiny_vision_gspo.yaml", workspace=tmp_path, overrides=changes)
    done = reinforce(goal, workspace=tmp_path, quiet=True)
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    right = [line["accuracy"] for line in lines if "loss" in line]
    assert len(right) == 30 and sum(right[-5:]) / 5 >= sum(right[:5]) / 5 + 0.08, right
    assert done.evaluation["accuracy"] >= before + 0.08
