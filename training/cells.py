"""The cells of an ablation: from its recipe to the overrides of the recipes that each cell runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from curation import yamlfile
from curation.recipe import layers
from curation.recipe.wording import problems_of
from schemas.ablation import Ablation
from schemas.errors import Problem, RecipeError


@dataclass(frozen=True)
class Cell:
    """One combination of levels, without its seed."""

    levels: Mapping[str, str]
    build: tuple[str, ...]
    """Overrides, "KEY=VALUE", of each recipe."""
    sft: tuple[str, ...]
    gspo: tuple[str, ...]

    @property
    def label(self) -> str:
        return ", ".join(f"{axis.rsplit('.', 1)[-1]} {level}" for axis, level in self.levels.items())


def load(path: Path | str, *, overrides: Sequence[str] = ()) -> Ablation:
    """Read and check an ablation recipe; its paths become absolute. Raises RecipeError with all problems at once."""
    path, problems = Path(path), list[Problem]()
    if not path.is_file():
        raise RecipeError([layers.missing_file(yamlfile.Place(""), "The recipe", path)], what="ablation recipe")
    tree = layers.read(path, problems)
    if tree is None:
        raise RecipeError(problems, what="ablation recipe")
    for text in overrides:
        tree = layers.override(tree, text, problems, keys=[k for k in Ablation.model_fields if k != "extends"])
    tree = layers.rebased(tree, Ablation.model_json_schema(), Path("/"))
    recipe = None
    try:
        recipe = Ablation.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        problems += problems_of(error, tree, Ablation, "the recipe")
    if recipe is not None:
        recipe = _absolute(recipe)
        for key in ("build", "sft", "gspo"):
            file = getattr(recipe, key)
            if file is not None and not Path(file).is_file():
                problems.append(layers.missing_file(tree.find([key]).place, f"`{key}`", Path(file)))
    if problems or recipe is None:
        raise RecipeError(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line or 0)), what="ablation recipe")
    return recipe


def _absolute(recipe: Ablation) -> Ablation:
    """Paths as they stand from the root: cells run in other processes and folders."""

    def rooted(text: str | None) -> str | None:
        return str(Path("/") / text) if text is not None else None

    prepare = [p.model_copy(update={"build": rooted(p.build), "sft": rooted(p.sft)}) for p in recipe.prepare]
    named = [str(Path("/") / b) if b.endswith((".yaml", ".yml")) else b for b in recipe.benchmarks]
    paths = {key: rooted(getattr(recipe, key)) for key in ("build", "sft", "gspo")}
    return recipe.model_copy(update={**paths, "prepare": prepare, "benchmarks": named})


def cells_of(recipe: Ablation) -> list[Cell]:
    """All combinations of levels, the budget being one more axis where there are two."""
    axes: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = []
    for axis, levels in recipe.axes.items():
        if isinstance(levels, dict):
            axes.append((axis, list(levels.items())))
        else:
            axes.append((axis, [(_level(value), {axis: value}) for value in levels]))
    axes.append(("budget", [(budget, {}) for budget in recipe.budget]))
    found = []
    for chosen in itertools.product(*(levels for _, levels in axes)):
        named = {axis: level for (axis, _), (level, _) in zip(axes, chosen, strict=True)}
        keys = dict(recipe.set)
        for _, one in chosen:
            keys |= one
        if named["budget"] == "equal_epochs":
            keys |= {"sft.steps": None, "sft.epochs": recipe.epochs}
        found.append(Cell(named, *by_recipe(keys)))
    return found


def _level(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def by_recipe(keys: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Overrides of build, sft and gspo. `stages.dedup: false` (or off) switches a stage."""
    of: dict[str, list[str]] = {"build": [], "sft": [], "gspo": []}
    for key, value in keys.items():
        head, _, rest = key.partition(".")
        name, target = (head, rest) if head in of else ("build", key)
        if target.count(".") == 1 and target.startswith("stages.") and value in (True, False, "on", "off"):
            target, value = f"{target}.enabled", value in (True, "on")
        of[name].append(f"{target}={json.dumps(value, ensure_ascii=False)}")
    return tuple(of["build"]), tuple(of["sft"]), tuple(of["gspo"])


def is_baseline(recipe: Ablation, cell: Cell) -> bool:
    return all(
        cell.levels[axis] == _level(recipe.baseline.get(axis, next(iter(levels))))
        for axis, levels in recipe.axes.items()
    )
