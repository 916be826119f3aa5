"""Chains: a small YAML list of steps, run one after the other.

    - build: recipes/quickstart.yaml
      limit: 100
    - tag: quickstart
      as: stable
    - sql: select count(*) from quickstart.rows

A step is a pydantic model and a function; other modules add theirs to STEPS. A chain keeps no state of its own: every
step can be resumed and does nothing where its work is done, so a chain that was interrupted is simply run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from curation import yamlfile
from curation.console import Quiet, Reporter
from curation.recipe.layers import missing_file, shown
from curation.recipe.wording import did_you_mean, listed, problems_of
from curation.yamlfile import Node, Place
from schemas.errors import Problem, RecipeError
from schemas.recipe import Model, PathText


@dataclass(frozen=True)
class Setting:
    """Where a chain runs."""

    folder: Path
    """Relative paths begin here: the folder of the chain's file."""
    workspace: Path | None
    reporter: Reporter


@dataclass(frozen=True)
class Step:
    """A kind of step."""

    config: type[Model]
    """Its keys; the one that has the step's name says what to work on."""
    run: Callable[[Any, Setting], dict[str, Any]]
    """Does it; returns `said`, one line for a person, and whatever a program may want to know."""
    files: Callable[[Any], list[str]] = lambda config: []
    """Files that must be there before the chain begins."""


class BuildStep(Model):
    """Build a recipe."""

    build: PathText = Field(description="The recipe.")
    set: list[str] = Field(default_factory=list, description="Overrides, KEY=VALUE.")
    limit: int | None = Field(None, ge=1, description="Rows per source.")
    workers: int | None = Field(None, ge=1)


class TagStep(Model):
    """Give a version a tag."""

    tag: str = Field(description="The version: name, name@tag or name@id.")
    as_: str = Field(alias="as", description="The tag.")
    move: bool = Field(True, description="Move a tag that names another version.")


class SqlStep(Model):
    """Ask a question of all versions."""

    sql: str = Field(description="One SELECT.")
    to: PathText | None = Field(None, description="File for the answer: .csv, .json, .jsonl or .parquet.")


def _build(config: BuildStep, setting: Setting) -> dict[str, Any]:
    from curation.builder import build

    version = build(
        setting.folder / config.build,
        set=config.set,
        workspace=setting.workspace,
        limit=config.limit,
        workers=config.workers,
        reporter=setting.reporter,
    )
    said = f"{version}, {version.kept:,} rows"
    return {"said": said, "name": version.name, "id": version.id, "rows": version.kept, "path": str(version.path)}


def _tag(config: TagStep, setting: Setting) -> dict[str, Any]:
    from curation.versions import tag

    version = tag(config.tag, config.as_, setting.workspace, move=config.move)
    return {"said": f"{version.name}@{config.as_} is {version.id}", "name": version.name, "id": version.id}


def _sql(config: SqlStep, setting: Setting) -> dict[str, Any]:
    from curation import output
    from curation.catalog import query

    table = query(setting.workspace, config.sql)
    if config.to is not None:
        path = setting.folder / config.to
        output.write(table, output.format_of(None, path), path)
        return {"said": f"{len(table):,} rows in {shown(path)}", "rows": len(table), "path": str(path)}
    rows = [output.plain(row) for row in table.slice(0, 100).to_pylist()]
    more = "" if len(table) <= 100 else f" … and {len(table) - 100:,} more rows"
    return {"said": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + more, "rows": rows}


STEPS: dict[str, Step] = {
    "build": Step(BuildStep, _build, lambda config: [config.build]),
    "tag": Step(TagStep, _tag),
    "sql": Step(SqlStep, _sql),
}
"""Name -> step."""


def load_chain(path: Path) -> list[tuple[str, Any]]:
    """(name of the step, its config) in order. Raises RecipeError with all problems at once."""
    if not path.is_file():
        raise RecipeError([missing_file(Place(""), "The chain", path)], what="chain")
    try:
        tree = yamlfile.read(path, shown=shown(path))
    except yamlfile.YamlError as error:
        raise RecipeError(error.problems, what="chain") from error
    if not isinstance(tree.value, list) or not tree.value:
        problem = tree.place.problem("A chain is a list of steps.", "For example: - build: recipe.yaml")
        raise RecipeError([problem], what="chain")
    problems: list[Problem] = []
    steps = [step for node in tree.value if (step := _step(node, path.parent, problems)) is not None]
    if problems:
        raise RecipeError(problems, what="chain")
    return steps


def _step(node: Node, folder: Path, problems: list[Problem]) -> tuple[str, Any] | None:
    keys = [key for key, _ in node.items()]
    named = [key for key in keys if key in STEPS]
    if not named:
        first = keys[0] if keys else str(node.value)
        hint = did_you_mean(first, STEPS) or f"There are: {listed(sorted(STEPS))}."
        problems.append(node.place.problem(f"There is no step `{first}`.", hint))
        return None
    if len(named) > 1:
        message = f"This is more than one step: {listed(named)}."
        problems.append(node.place.problem(message, "Give each an entry of its own, with a `-`."))
        return None
    name = named[0]
    step = STEPS[name]
    try:
        config = step.config.model_validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        problems += problems_of(error, node, step.config, f"step {name}")
        return None
    for file in step.files(config):
        if not (folder / file).exists():
            problems.append(missing_file(node.find([name]).place, f"`{name}`", folder / file))
    return name, config


def run_chain(
    path: Path | str, *, workspace: Path | str | None = None, reporter: Reporter | None = None
) -> Iterator[dict[str, Any]]:
    """Run the steps of a chain; yields what each one says when it is done: `step`, `said` and its own facts.

    The whole chain is checked before its first step. Raises what a step raises; run it again to go on.
    """
    path = Path(path)
    steps = load_chain(path)
    setting = Setting(path.parent, Path(workspace) if workspace is not None else None, reporter or Quiet())
    for name, config in steps:
        yield {"step": name, **STEPS[name].run(config, setting)}
