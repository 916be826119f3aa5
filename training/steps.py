"""Steps that training adds to chains (curation/chain.py), so that one file goes from raw questions to a measured model.

    - build: recipes/tiny_sums.yaml
    - sft: recipes/train_tiny_sft.yaml
    - evaluate: run:tiny-sft
      on: [recipes/benchmarks/sums.yaml]

A run that was interrupted goes on from its last checkpoint, a finished one is left as it is, and an evaluation asks for
nothing that it has already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from curation.chain import STEPS, Setting, Step
from curation.store import open_workspace
from schemas.recipe import Model, PathText


class SftStep(Model):
    """Train a model by SFT."""

    sft: PathText = Field(description="The training recipe.")
    set: list[str] = Field(default_factory=list, description="Overrides, KEY=VALUE.")


class GspoStep(Model):
    """Train a model by RL."""

    gspo: PathText = Field(description="The training recipe.")
    set: list[str] = Field(default_factory=list, description="Overrides, KEY=VALUE.")


class EvaluateStep(Model):
    """Evaluate a model."""

    evaluate: str = Field(description="run:NAME, or what `winnow evaluate` takes: a folder, a repo id, a server.")
    on: list[str] = Field(min_length=1, description="Benchmarks: names, or recipes (.yaml).")
    set: list[str] = Field(default_factory=list, description="Overrides of the benchmarks, KEY=VALUE.")
    limit: int | None = Field(None, ge=1, description="Questions of each source.")


def _trains(kind: str) -> Callable[[Any, Setting], dict[str, Any]]:
    def run(config: Any, setting: Setting) -> dict[str, Any]:
        from training import gspo, sft
        from training.processes import leave
        from training.recipe import load_gspo_recipe, load_sft_recipe

        space = open_workspace(setting.workspace)
        load: Any = {"sft": load_sft_recipe, "gspo": load_gspo_recipe}[kind]
        train: Any = {"sft": sft.train, "gspo": gspo.train}[kind]
        plan = load(setting.folder / getattr(config, kind), overrides=config.set, workspace=space.root)
        try:
            train(plan, workspace=space.root, quiet=True)
        finally:
            leave()
        folder = space.root / "runs" / str(plan.recipe.name)
        return {"said": f"run:{plan.recipe.name} is in {folder}", "run": plan.recipe.name, "path": str(folder)}

    return run


def _evaluate(config: EvaluateStep, setting: Setting) -> dict[str, Any]:
    from training.evaluate import evaluate

    space = open_workspace(setting.workspace)
    kind, _, name = config.evaluate.partition("run:")
    model = str(space.root / "runs" / name) if name and not kind else config.evaluate
    names = [setting.folder / one if one.endswith((".yaml", ".yml")) else one for one in config.on]
    found = evaluate(model, names, set=config.set, workspace=space.root, limit=config.limit)
    figures = [(one.benchmark, figure) for one in found for figure in one.headline.values()]
    said = "; ".join(f"{benchmark} {f.metric} {f.value:.3f} ({f.low:.3f} … {f.high:.3f})" for benchmark, f in figures)
    values = {
        benchmark: {"metric": f.metric, "value": f.value, "low": f.low, "high": f.high} for benchmark, f in figures
    }
    return {"said": f"{config.evaluate}: {said}", "figures": values, "evaluations": [one.id for one in found]}


STEPS["sft"] = Step(SftStep, _trains("sft"), lambda config: [config.sft])
STEPS["gspo"] = Step(GspoStep, _trains("gspo"), lambda config: [config.gspo])
STEPS["evaluate"] = Step(
    EvaluateStep, _evaluate, lambda config: [one for one in config.on if one.endswith((".yaml", ".yml"))]
)
