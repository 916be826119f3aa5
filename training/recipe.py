"""Training recipes: from a YAML file to a checked plan, with every problem found before any work.

The same reader as for builds: `extends`, `--set KEY=VALUE`, paths from the file's own folder, and complaints with
file, line and the nearest valid name. Entries of lists are addressed by number: `--set data.0.split=test`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from curation import store, yamlfile
from curation.digests import file_digest, json_digest
from curation.recipe import layers
from curation.recipe.wording import problems_of, quoted
from curation.yamlfile import Node
from schemas.errors import Problem, RecipeError, WinnowError
from schemas.training import GspoRecipe, SftRecipe
from training.sources import open_data

RUN = "run:"
DECIDING = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")
"""Files of a model's folder that say what it is; a README may change."""
R = TypeVar("R", SftRecipe, GspoRecipe)


@dataclass(frozen=True)
class Plan(Generic[R]):
    """A training recipe that can run."""

    recipe: R
    path: Path
    folder: Path
    """Absolute; relative paths in the recipe begin here."""
    text: str
    """The whole recipe, with what it extends and all overrides, as YAML."""
    workspace: Path
    """Where `run:NAME` is looked up."""

    @property
    def model_place(self) -> str:
        """The model's folder, or its repo id. `run:NAME` is the newest checkpoint of that run."""
        path = self.recipe.model.path
        if path.startswith(RUN):
            return str(newest_checkpoint(self.workspace, path.removeprefix(RUN)))
        folder = self.folder / path
        return str(folder) if folder.is_dir() else path

    @cached_property
    def begun_from(self) -> dict[str, str] | None:
        """Which model `model_place` is by its content: the folder's name and a digest of the files that decide on it.
        None for a repo id. Reads all weights once."""
        place = Path(self.model_place)
        if not place.is_dir():
            return None
        files = sorted(file for file in place.iterdir() if file.suffix in DECIDING and file.is_file())
        with ThreadPoolExecutor(8) as pool:
            digests = pool.map(file_digest, files)
        return {"folder": place.name, "digest": json_digest([(f.name, d) for f, d in zip(files, digests, strict=True)])}


TrainingPlan = Plan[SftRecipe]
GspoPlan = Plan[GspoRecipe]


def newest_checkpoint(workspace: Path, name: str) -> Path:
    """Of a run of this workspace. Raises WinnowError where there is none."""
    found = sorted((workspace / "runs" / name / "checkpoints").glob("step-*"))
    if not found:
        raise WinnowError(f"There is no checkpoint of a run {name} in {layers.shown(workspace)}: train it first.")
    return found[-1]


def load_sft_recipe(
    path: Path | str, *, overrides: Sequence[str] = (), workspace: Path | str | None = None, check_world: bool = True
) -> TrainingPlan:
    """Read, merge, validate and check a recipe of `winnow train sft`. Raises RecipeError with all problems at once.

    overrides    "key=value", as in builds
    workspace    where versions are looked up
    check_world  whether to look for the data and the model; without it, only the recipe itself is judged
    """
    return _load(SftRecipe, path, overrides, workspace, check_world)


def load_gspo_recipe(
    path: Path | str, *, overrides: Sequence[str] = (), workspace: Path | str | None = None, check_world: bool = True
) -> GspoPlan:
    """The same for a recipe of `winnow train gspo`."""
    return _load(GspoRecipe, path, overrides, workspace, check_world)


def _load(
    kind: type[R], path: Path | str, overrides: Sequence[str], workspace: Path | str | None, check_world: bool
) -> Plan[R]:
    path = Path(path)
    problems: list[Problem] = []
    if not path.is_file():
        raise RecipeError([layers.missing_file(yamlfile.Place(""), "The recipe", path)], what="training recipe")
    tree = layers.read(path, problems)
    if tree is None:
        raise RecipeError(problems, what="training recipe")
    keys = [key for key in kind.model_fields if key != "extends"]
    for text in overrides:
        tree = layers.override(tree, text, problems, keys=keys)
    folder, schema = path.resolve().parent, kind.model_json_schema()
    tree = layers.rebased(tree, schema, folder)
    text = yamlfile.dump(tree.plain())
    tree = layers.expanded(tree, schema, problems)
    recipe = None
    try:
        recipe = kind.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        problems += problems_of(error, tree, kind, "the recipe")
    space = Path(workspace).absolute() if workspace else store.default_workspace().absolute()
    if recipe is not None and check_world and not problems:
        problems += _world(recipe, tree, folder, space)
    if problems or recipe is None:
        raise RecipeError(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line or 0)), what="training recipe")
    return Plan(recipe, path, folder, text, space)


def _world(recipe: SftRecipe | GspoRecipe, tree: Node, folder: Path, workspace: Path) -> list[Problem]:
    """What only the world can tell: the model's folder, versions, files and their columns."""
    problems = []
    model = tree.find(["model", "path"])
    local = folder / recipe.model.path
    if recipe.model.path.startswith(RUN):
        try:
            newest_checkpoint(workspace, recipe.model.path.removeprefix(RUN))
        except WinnowError as error:
            problems.append(quoted(error, model.place, "`path` of `model`: "))
    elif not local.is_dir() and (recipe.model.path.startswith((".", "/")) or recipe.model.path.count("/") != 1):
        problems.append(layers.missing_file(model.place, "`path` of `model`", local))
    elif local.is_dir() and not (local / "config.json").is_file():
        problems.append(model.place.problem(f"`path` of `model`: {layers.shown(local)} has no config.json."))
    if isinstance(recipe, GspoRecipe) and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        rollout, node = recipe.rollout, tree.find(["rollout"])
        if rollout.engine == "vllm":
            place = node.find(["engine"]).place
            problems.append(place.problem("`engine: vllm` of `rollout` runs with one process: with torchrun, take `vllm_server` or `transformers`."))  # fmt: skip
        if rollout.engine == "vllm_server" and rollout.ahead:
            place = node.find(["ahead"]).place
            problems.append(place.problem("`ahead` of `rollout` with `vllm_server` runs with one process: several would speak of two things at once."))  # fmt: skip
    entries = [(data, tree.find(["data", n])) for n, data in enumerate(recipe.data)]
    if recipe.evaluation is not None:
        entries.append((recipe.evaluation.data, tree.find(["evaluation", "data"])))
    for data, node in entries:
        try:
            open_data(data, folder, workspace)
        except WinnowError as error:
            problems.append(quoted(error, node.find([data.place]).place, f"`{data.place}`: "))
    return problems
