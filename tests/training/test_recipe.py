"""Training recipes: everything wrong is said at once, with file, line and the nearest name, before any work."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import Problem, RecipeError
from tests.training.conftest import text_rows, write_rows
from training.recipe import TrainingPlan, load_sft_recipe

RECIPE = """
name: run
model:
  path: model
data:
  - parquet: rows.parquet
steps: 3
"""


@pytest.fixture
def folder(tmp_path: Path, models: Callable[[str], Path]) -> Path:
    (tmp_path / "model").symlink_to(models("qwen2"))
    write_rows(tmp_path / "rows.parquet", text_rows(5))
    (tmp_path / "recipe.yaml").write_text(RECIPE.lstrip())
    return tmp_path


def loaded(folder: Path, text: str | None = None, *sets: str) -> TrainingPlan:
    if text is not None:
        (folder / "recipe.yaml").write_text(textwrap.dedent(text).lstrip())
    return load_sft_recipe(folder / "recipe.yaml", overrides=sets, workspace=folder / ".winnow")


def problems(folder: Path, text: str | None = None, *sets: str) -> list[Problem]:
    with pytest.raises(RecipeError) as told:
        loaded(folder, text, *sets)
    return told.value.problems


def test_a_small_recipe_is_enough(folder: Path) -> None:
    plan = loaded(folder)
    assert plan.recipe.optimizer.lr == 5e-5 and plan.recipe.batch.packing and plan.folder == folder
    assert plan.model_place == str(folder / "model")


def test_all_problems_come_at_once_with_line_and_suggestion(folder: Path) -> None:
    text = """
        name: Run
        model: {path: model, atention: varlen}
        data:
          - {parquet: rows.parquet, version: sums}
        optimizer: {lr: "1e-4", schedule: cosin}
        steps: 0
    """
    told = problems(folder, text)
    found = {line: "\n".join(str(p) for p in told if p.line == line) for line in range(1, 7)}
    assert "`name`" in found[1] and "lower-case" in found[1]
    assert "`atention` is not a key" in found[2] and "Did you mean `attention`?" in found[2]
    assert "exactly one of version, parquet, hub" in found[4]
    assert "`lr` should be a number" in found[5] and "Did you mean `cosine`?" in found[5]
    assert "`steps` should be at least 1" in found[6]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epochs=1", "Say either `steps` or `epochs`"),
        ("batch.workers=-1", "should be at least 0"),
        ("optimiser.lr=1", "Did you mean `optimizer`?"),
        ("optimizer.lr", "An override is KEY=VALUE"),
        ("model.path=modell", "Did you mean `model`?"),
        ("data.0.parquet=row.parquet", "rows.parquet"),
        ("data.0.source=3", "should be text"),
    ],
)
def test_overrides_are_checked_as_the_file_is(folder: Path, change: str, said: str) -> None:
    assert said in "\n".join(map(str, problems(folder, None, change)))


def test_overrides_and_extends(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "top.yaml").write_text("extends: ../recipe.yaml\nname: top\noptimizer: {warmup: 0.2}\n")
    sets = ["optimizer.lr=2e-4", "data.0.source=sums"]
    plan = load_sft_recipe(folder / "more" / "top.yaml", overrides=sets, workspace=folder)
    assert (plan.recipe.name, plan.recipe.optimizer.lr, plan.recipe.optimizer.warmup) == ("top", 2e-4, 0.2)
    assert plan.recipe.data[0].source == "sums" and plan.model_place == str(folder / "more" / "../model")
    assert "warmup: 0.2" in plan.text and "steps: 3" in plan.text


def test_settings_that_cannot_go_together_are_said(folder: Path) -> None:
    text = RECIPE.replace("steps: 3", "epochs: 1") + "batch: {streaming: true}\n"
    assert "no known number of steps" in str(problems(folder, text)[0])


def test_data_of_another_layout_is_told_what_there_is(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"question": ["1"], "answer": ["1"]}), folder / "rows.parquet")
    said = str(problems(folder)[0])
    assert "no column `messages`" in said and "answer, question" in said and "docs/exports.md" in said


def test_versions_are_looked_for_with_output_and_split(folder: Path) -> None:
    from curation import build

    rows = [{"id": str(n), "question": f"What is {n}?", "answer": str(n), "solution": f"It is {n}."} for n in range(20)]
    import json

    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "build.yaml").write_text(
        "name: made\nsources: [{jsonl: q.jsonl, license: MIT}]\nstages: [{stage: split, splits: {held_out: 0.2}}]\n"
        "outputs: [{export: sft, responses: solution}, {export: rl}]\n"
    )
    build(folder / "build.yaml", workspace=folder / ".winnow", workers=1)
    text = RECIPE.replace("parquet: rows.parquet", "{version: made}")
    assert loaded(folder, text).recipe.data[0].version == "made"
    for data, said in {
        "{version: mad}": "Did you mean made?",
        "{version: made, config: sf}": "Did you mean `sft`?",
        "{version: made, split: test}": "It has: ",
    }.items():
        found = str(problems(folder, RECIPE.replace("parquet: rows.parquet", data))[0])
        assert said in found and "recipe.yaml:" in found


def test_a_missing_file_and_a_folder_that_is_no_model(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yam"):
        load_sft_recipe(folder / "recipe.yam")
    (folder / "empty").mkdir()
    assert "no config.json" in str(problems(folder, None, "model.path=empty")[0])


def test_the_docs_name_every_key_and_reason() -> None:
    from schemas import training

    root = Path(__file__).parents[2]
    text = (root / "docs" / "training.md").read_text()
    models = (training.SftRecipe, training.Batch, training.Optimizer, training.Evaluation, training.Saving,
              training.ModelChoice, training.Lora, training.Logging, training.GspoRecipe, training.Loss,
              training.Rollouts, training.Reward, training.RewardFunction, training.Overlong, training.Curriculum,
              training.Alarms, training.GspoBatch)  # fmt: skip
    keys = {key for model in models for key in model.model_fields} - {"name", "description"}
    assert [key for key in sorted(keys) if f"`{key}`" not in text and f"`batch.{key}`" not in text and f" {key}`" not in text
            and f", {key}" not in text and f"{key}:" not in text] == []  # fmt: skip
    code = "".join(path.read_text() for path in (root / "training").glob("*.py"))
    import re

    reasons = set(re.findall(r'BadRow\(\s*"(\w+)"', code)) | {"overlong"}
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in text] == []
