"""Ablations: which cells a recipe makes, what they share, and what is said of their difference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import RecipeError, WinnowError
from tests.conftest import write_jsonl
from training import ablation, cells
from training.tasks import sums

ROOT = Path(__file__).parents[2]


def recipe_in(folder: Path, **changes: Any) -> Path:
    """x1 and x2 of recorded answers, of which the second is right more often; two seeds of two steps."""
    rows = [sums(i) for i in range(24)]
    write_jsonl(folder / "rows.jsonl", rows)
    answers = [
        {"id": row["id"], "response": row["solution"] if k or i % 3 else row["solution"].replace("<answer>", "<answer>9")}
        for i, row in enumerate(rows) for k in range(2)
    ]  # fmt: skip
    write_jsonl(folder / "answers.jsonl", answers)
    build = {
        "name": "data", "language": "none", "sources": [{"name": "sums", "jsonl": "rows.jsonl"}],
        "stages": [{"stage": "fanout", "n": 2, "teacher": {"kind": "recorded", "path": "answers.jsonl"}},
                   {"stage": "verify"}, {"stage": "filter", "name": "short", "where": "length(question) < 100"}],
        "outputs": [{"export": "sft", "traces": "correct"}],
    }  # fmt: skip
    sft = {
        "name": "sft", "model": {"path": str(ROOT / "recipes/data/tiny_text"), "init": "random"},
        "data": [{"version": "data"}], "batch": {"max_tokens": 256, "workers": 0}, "optimizer": {"lr": 1e-3},
        "steps": 2, "log": {"to": []},
    }  # fmt: skip
    bench = {
        "name": "held", "sources": [{"name": "held", "generator": "training.tasks:sums", "count": 5, "args": {"seed": 3}}],
        "ask": {"max_tokens": 4},
    }  # fmt: skip
    recipe: dict[str, Any] = {
        "name": "small", "build": "build.yaml", "sft": "sft.yaml", "benchmarks": ["held.yaml"], "seeds": [0, 1],
        "axes": {"stages.fanout.n": [1, 2]},
    }  # fmt: skip
    for name, content in (("build", build), ("sft", sft), ("held", bench), ("small", recipe | changes)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ablation.Finished, list[str]]:
    folder, said = tmp_path_factory.mktemp("ablation"), list[str]()
    recipe = cells.load(recipe_in(folder))
    return folder, ablation.ablate(recipe, workspace=folder / "w", say=said.append), said


def test_every_cell_is_trained_and_measured(done: tuple[Path, ablation.Finished, list[str]]) -> None:
    _, finished, _ = done
    assert finished.cells.select("cell", "seed").rows() == [
        ("n 1, budget equal_steps", 0), ("n 2, budget equal_steps", 0),
        ("n 1, budget equal_steps", 1), ("n 2, budget equal_steps", 1),
    ]  # fmt: skip
    assert finished.cells["samples"].to_list() == [16, 40, 16, 40]  # of x1 a third of 24 questions is lost
    assert set(finished.cells["steps"]) == {2} and finished.cells["trained_tokens"].min() > 0  # type: ignore[operator]
    (effect,) = finished.effects.to_dicts()
    assert effect["seeds"] == 2 and effect["verdict"] == "no difference shown"  # two steps teach nothing
    for name in ("report.md", "report.html", "cells.parquet", "effects.parquet"):
        assert (finished.path / name).is_file()
    assert "no difference shown" in (finished.path / "report.md").read_text()


def test_run_again_it_trains_nothing(done: tuple[Path, ablation.Finished, list[str]]) -> None:
    folder, finished, _ = done
    before = {p: p.stat().st_mtime_ns for p in (folder / "w" / "runs").rglob("manifest.json")}
    again = ablation.ablate(cells.load(folder / "small.yaml"), workspace=folder / "w")
    assert again.path == finished.path and len(before) == 4
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "w" / "runs").rglob("manifest.json")}


def test_cells_run_in_processes_side_by_side(done: tuple[Path, ablation.Finished, list[str]], tmp_path: Path) -> None:
    _, finished, _ = done
    recipe = cells.load(recipe_in(tmp_path, seeds=[0]))
    found = ablation.ablate(recipe, workspace=tmp_path / "w", jobs=2)
    same = ["cell", "seed", "value", "answer_tokens", "samples", "trained_tokens"]
    assert found.cells.select(same).equals(finished.cells.head(2).select(same))


def test_cells_and_effects_can_be_asked_in_sql(done: tuple[Path, ablation.Finished, list[str]]) -> None:
    from curation.catalog import query

    folder, finished, _ = done
    assert query(folder / "w", "select count(*) n from ablations.cells").to_pylist() == [{"n": len(finished.cells)}]
    assert query(folder / "w", "select verdict from ablations.effects").to_pylist() == [
        {"verdict": "no difference shown"}
    ]


def test_the_matrix_of_levels_and_budgets(tmp_path: Path) -> None:
    axes = {
        "stages.short": ["on", "off"],
        "filter": {"none": {}, "hard": {"stages.verify.min_correct": 1, "sft.optimizer.lr": 1e-4}},
    }
    path = recipe_in(tmp_path, axes=axes, budget=["equal_steps", "equal_epochs"], epochs=3, baseline={"filter": "hard"})
    recipe = cells.load(path)
    made = cells.cells_of(recipe)
    assert len(made) == 8 and len({c.label for c in made}) == 8
    last = made[-1]
    assert last.build == ("stages.short.enabled=false", "stages.verify.min_correct=1")
    assert last.sft == ("optimizer.lr=0.0001", "steps=null", "epochs=3.0")
    base = [c for c in made if cells.is_baseline(recipe, c)]
    assert [c.levels["budget"] for c in base] == ["equal_steps", "equal_epochs"]
    assert {c.levels["filter"] for c in base} == {"hard"}


def test_a_teacher_that_was_prepared_is_named_by_its_run(tmp_path: Path) -> None:
    from curation.store import open_workspace

    space = open_workspace(tmp_path / "w")
    (space.root / "runs/teacher/checkpoints/step-000004").mkdir(parents=True)
    (found,) = ablation._filled(['stages.fanout.teacher.model="{run:teacher}"'], space)
    assert found.endswith('/runs/teacher/checkpoints/step-000004"')
    with pytest.raises(WinnowError, match="no checkpoint of a run nobody"):
        ablation._filled(["x={run:nobody}"], space)


def test_wrong_recipes_are_told(tmp_path: Path) -> None:
    for changes, words in (
        ({"axes": {"stages.fanout.n": [1]}}, "nothing to compare"),
        ({"budget": ["equal_epochs"]}, "needs `epochs`"),
        ({"axes": {"gspo.lr": [1, 2]}}, "no `gspo` recipe"),
        ({"baseline": {"n": 1}}, "there is no axis"),
        ({"sft": "missing.yaml"}, "`sft`"),
        ({"sedes": [1]}, "seeds"),
    ):
        with pytest.raises(RecipeError, match=words):
            cells.load(recipe_in(tmp_path, **changes))


def test_every_shipped_ablation_is_right_down_to_the_recipes_of_its_cells() -> None:
    from curation.recipe import load_recipe
    from training.recipe import load_gspo_recipe, load_sft_recipe

    files = [p for p in (ROOT / "recipes" / "ablations").rglob("*.yaml") if "axes:" in p.read_text()]
    # Each ablation of the paper has a small sibling.
    paper = {path.stem.removeprefix("rl_") for path in files if path.parent.name == "paper"}
    small = {path.stem.removeprefix("small_") for path in files if path.stem.startswith("small_")}
    assert len(paper) == 9 and paper <= small
    for path in files:
        recipe = cells.load(path)
        for prepared in recipe.prepare:
            build, sft, _ = cells.by_recipe(
                {f"{'build' if prepared.build else 'sft'}.{k}": v for k, v in prepared.set.items()}
            )
            if prepared.build:
                load_recipe(prepared.build, overrides=build, check_world=False)
            else:
                load_sft_recipe(str(prepared.sft), overrides=sft, check_world=False)
        for cell in cells.cells_of(recipe):
            if recipe.build is not None:
                load_recipe(recipe.build, overrides=cell.build, check_world=False)
            load_sft_recipe(recipe.sft, overrides=[*cell.sft, 'data.0.version="x@1"'], check_world=False)
            if recipe.gspo is not None:
                load_gspo_recipe(recipe.gspo, overrides=[*cell.gspo, 'model.path="x"'], check_world=False)
        assert sum(cells.is_baseline(recipe, cell) for cell in cells.cells_of(recipe)) == len(recipe.budget)


def test_one_seed_shows_nothing() -> None:
    from training.scores import over_seeds

    assert math.isinf(over_seeds([0.3])[1])
