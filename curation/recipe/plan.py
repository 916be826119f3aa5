"""From a recipe file to a plan: sources, stages and outputs with their validated configs, in their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from curation import expectations, exports, stages, yamlfile
from curation.exports import Export, OutputConfig
from curation.recipe import layers, order, world
from curation.recipe.shapes import Schema
from curation.recipe.wording import NAMES, did_you_mean, listed, nearest, problems_of
from curation.stages import Stage, StageConfig
from curation.store import default_workspace
from curation.yamlfile import Node
from schemas.errors import Problem, RecipeError
from schemas.recipe import NAME, Recipe, Source

ANNOTATE = "annotate"
"""The stage that every recipe begins with: language and token counts."""


Change = Callable[[Node, Schema], Node]


@dataclass(frozen=True)
class PlannedStage:
    name: str
    stage: Stage
    config: StageConfig


@dataclass(frozen=True)
class PlannedOutput:
    name: str
    export: Export
    config: OutputConfig
    asked_otherwise: Mapping[str, str | None] | None = None
    """Where examples of traces are rendered in another way than the teacher was asked: its `template` and `system`."""


@dataclass(frozen=True)
class Plan:
    """A recipe that can run."""

    recipe: Recipe
    path: Path
    recipe_dir: Path
    """Absolute; relative paths in the configs begin here."""
    workspace: Path
    """Where the versions that it names are looked up."""
    text: str
    """The whole recipe, with what it extends and all overrides, as YAML: what a version's manifest keeps. Environment
    variables in paths stay as they are written."""
    sources: list[Source]
    """With unique names."""
    stages: list[PlannedStage]
    """Those that are enabled, `annotate` first."""
    outputs: list[PlannedOutput]
    use: tuple[str, ...]
    """Files (absolute) and modules of own stages; they are imported already in this process."""


def load_recipe(
    path: Path | str,
    *,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    workspace: Path | str | None = None,
    check_world: bool = True,
) -> Plan:
    """Read, merge, validate and check a recipe. Raises RecipeError with all problems at once.

    overrides    "target=value", see `layers.override`
    limit        rows per source that the build will read
    workspace    where sources of the kind `version` are looked up
    check_world  whether to look for files and columns; without it, only the recipe itself is judged
    """
    path = Path(path)
    problems: list[Problem] = []
    if not path.is_file():
        problem = layers.missing_file(yamlfile.Place(""), "The recipe", path)
        raise RecipeError([problem])
    tree = layers.read(path, problems)
    if tree is None:
        raise RecipeError(problems)
    for text in overrides:
        tree = layers.override(tree, text, problems)
    folder = path.resolve().parent
    space = Path(workspace) if workspace is not None else default_workspace()
    use, loaded = _import_use(tree, folder, problems)
    tree = _without_disabled(tree)
    stage_kinds, export_kinds = stages.load(), exports.load()

    tree = layers.rebased(tree, Recipe.model_json_schema(), folder)
    tree = _each_entry(tree, stage_kinds, export_kinds, lambda entry, schema: layers.rebased(entry, schema, folder))
    text = yamlfile.dump(tree.plain())
    tree = _expanded(tree, stage_kinds, export_kinds, problems)

    # Entries of lists are validated one by one, so that each is spoken of by its name.
    recipe = _validated(Recipe, tree, "the recipe", problems, apart=tuple(layers.NAMED))
    sources = _sources(tree, problems)
    right = len(problems)
    entries = _entries(tree, "stages", "stage", stage_kinds, loaded, problems)
    complete = loaded and len(problems) == right
    planned = [(PlannedStage(name, kind, config), entry) for name, entry, kind, config in entries if config.enabled]
    entries = _entries(tree, "outputs", "export", export_kinds, True, problems)
    outputs = [(PlannedOutput(name, kind, config), entry) for name, entry, kind, config in entries]
    if recipe is not None:
        annotate = stage_kinds[ANNOTATE].config.model_validate(
            {"stage": ANNOTATE, "name": ANNOTATE, "language": recipe.language, "tokenizer": recipe.tokenizer}
        )
        own = {key: node for key, node in tree.items() if key in ("language", "tokenizer")}
        planned.insert(0, (PlannedStage(ANNOTATE, stage_kinds[ANNOTATE], annotate), Node(own, tree.place)))
    if recipe is not None and recipe.expect and (node := tree.get("expect")) is not None:
        wanted = [key for key, value in recipe.expect.items() if value is not None]
        names = {
            "sources": [str(source.name) for source, _ in sources],
            "stages": [stage.name for stage, _ in planned],
            "outputs": [output.name for output, _ in outputs],
        }
        for key, wrong in expectations.unknown(wanted, **names):
            problems.append(
                node.find([key]).place.problem(f"`expect`: {key}: {wrong}", "Write null to expect nothing.")
            )
    if check_world:
        problems += world.source_problems(sources, folder, space, limit)
    problems += order.order_problems(
        planned,
        outputs,
        has_tokenizer=tree.get("tokenizer") is not None,
        complete=complete,
        files_in=(folder, space) if check_world else None,
        sources=[str(source.name) for source, _ in sources],
    )
    outputs = [(_as_asked(output, planned, node, problems), node) for output, node in outputs]
    if problems or recipe is None:
        files = list(dict.fromkeys(problem.file for problem in problems))
        raise RecipeError(sorted(dict.fromkeys(problems), key=lambda p: (files.index(p.file), p.line or 0)))
    return Plan(
        recipe=recipe,
        path=path,
        recipe_dir=folder,
        workspace=space,
        text=text,
        sources=[source for source, _ in sources],
        stages=[stage for stage, _ in planned],
        outputs=[output for output, _ in outputs],
        use=use,
    )


def _as_asked(
    output: PlannedOutput, planned: Sequence[tuple[PlannedStage, Node]], node: Node, problems: list[Problem]
) -> PlannedOutput:
    """The output with the prompt that the teacher was asked with, unless it says another."""
    asked = {
        (str(told["template"]), told["system"])
        for stage, _ in planned
        if stage.stage.makes == "traces" and {"template", "system"} <= (told := stage.config.model_dump()).keys()
    }
    if not asked or not output.export.of_traces(output.config):
        return output
    own = output.config.model_fields_set & {"prompt", "system"}
    if len(asked) > 1:
        if own != {"prompt", "system"}:
            problems.append(
                node.place.problem(
                    f"Output {output.name}: the fanouts before it ask with different prompts, so it must say its own.",
                    "Write `prompt` and `system` here, or the same `template` and `system` in every fanout.",
                )
            )
        return output
    ((template, system),) = asked
    theirs = {"prompt": template, "system": system}
    config = output.config.model_copy(update={name: value for name, value in theirs.items() if name not in own})
    differs = any(getattr(config, name) != value for name, value in theirs.items())
    return replace(output, config=config, asked_otherwise={"template": template, "system": system} if differs else None)


# ------------------------------------------------------------------------------------------------------- before models


def _import_use(tree: Node, folder: Path, problems: list[Problem]) -> tuple[tuple[str, ...], bool]:
    """Import the recipe's own stages; (what was imported, whether all of it could be)."""
    from curation.engines.rows import use

    node = tree.get("use")
    entries = node.value if node is not None and isinstance(node.value, list) else []
    imported: list[str] = []
    before = len(problems)
    for entry in entries:
        if not isinstance(entry.value, str):
            continue  # the model says so
        name = layers.expand(entry, problems)
        if name.endswith(".py"):
            home = Path(entry.place.file).resolve().parent if entry.place.line else folder
            file = home / name
            if not file.is_file():
                problems.append(layers.missing_file(entry.place, "`use`", file))
                continue
            name = str(file.resolve())
        try:
            use([name])
        except Exception as error:  # whatever a stranger's module raises, it is the recipe that names it
            message = f"{entry.value} can't be imported: {type(error).__name__}: {error}"
            problems.append(entry.place.problem(message, _line_in(error, name)))
            continue
        imported.append(name)
    return tuple(dict.fromkeys(imported)), len(problems) == before


def _line_in(error: BaseException, file: str) -> str:
    """Where in a file an error was raised, for a hint."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename}, line {error.lineno}"
    found, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            found = f"{layers.shown(Path(file))}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _without_disabled(tree: Node) -> Node:
    """Sources and outputs with `enabled: false` are left out; stages say it in their own config."""
    assert isinstance(tree.value, dict)
    changed = dict(tree.value)
    for key in ("sources", "outputs"):
        node = changed.get(key)
        if node is None or not isinstance(node.value, list):
            continue
        kept = []
        for entry in node.value:
            enabled = entry.get("enabled")
            if enabled is None or not isinstance(enabled.value, bool) or not isinstance(entry.value, dict):
                kept.append(entry)
            elif enabled.value:
                kept.append(Node({k: v for k, v in entry.value.items() if k != "enabled"}, entry.place))
        changed[key] = Node(kept, node.place)
    return Node(changed, tree.place)


def _each_entry(
    tree: Node, stage_kinds: Mapping[str, Stage], export_kinds: Mapping[str, Export], change: Change
) -> Node:
    """The tree with `change(entry, JSON Schema of its kind)` for every stage and output of a known kind."""
    assert isinstance(tree.value, dict)
    changed = dict(tree.value)
    registries: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        ("stages", "stage", stage_kinds),
        ("outputs", "export", export_kinds),
    )
    for key, field, kinds in registries:
        node = changed.get(key)
        if node is None or not isinstance(node.value, list):
            continue
        entries = []
        for entry in node.value:
            kind = entry.get(field)
            known = kinds.get(kind.value) if kind is not None and isinstance(kind.value, str) else None
            entries.append(change(entry, known.config.model_json_schema() if known else {}))
        changed[key] = Node(entries, node.place)
    return Node(changed, tree.place)


def _expanded(
    tree: Node, stage_kinds: Mapping[str, Stage], export_kinds: Mapping[str, Export], problems: list[Problem]
) -> Node:
    """Environment variables: entries of stages and outputs by the schema of their kind, the rest by the recipe's."""
    assert isinstance(tree.value, dict)
    lists = {k: v for k, v in tree.value.items() if k in ("stages", "outputs")}
    rest = Node({k: v for k, v in tree.value.items() if k not in lists}, tree.place)
    rest = layers.expanded(rest, Recipe.model_json_schema(), problems)

    def change(entry: Node, schema: Schema) -> Node:
        return layers.expanded(entry, schema, problems)

    entries = _each_entry(Node(lists, tree.place), stage_kinds, export_kinds, change)
    assert isinstance(rest.value, dict) and isinstance(entries.value, dict)
    return Node({key: {**rest.value, **entries.value}[key] for key in tree.value}, tree.place)


# -------------------------------------------------------------------------------------------------------------- models


def _validated(
    model: type[BaseModel], node: Node, what: str, problems: list[Problem], apart: Collection[str] = ()
) -> Any:
    """The model's object, or None and problems. Strict, as JSON: a quoted number is not a number. Complaints about
    entries of the lists `apart` are left out."""
    try:
        return model.model_validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        problems += problems_of(error, node, model, what, apart)
        return None


def _sources(tree: Node, problems: list[Problem]) -> list[tuple[Source, Node]]:
    node = tree.get("sources")
    entries = node.value if node is not None and isinstance(node.value, list) else []
    names = layers.names("sources", entries)
    _say_repeated("source", names, entries, problems)
    found = []
    for name, entry in zip(names, entries, strict=True):
        source = _validated(Source, entry, f"source {name}", problems)
        _check_name(name, entry, problems)
        if source is not None:
            found.append((source.model_copy(update={"name": name}), entry))
    return found


def _entries(
    tree: Node, key: str, field: str, kinds: Mapping[str, Any], all_known: bool, problems: list[Problem]
) -> list[tuple[str, Node, Any, Any]]:
    """(name, node, registered kind, config) of the entries of `stages` or `outputs` that are right."""
    node = tree.get(key)
    entries = node.value if node is not None and isinstance(node.value, list) else []
    names = layers.names(key, entries)
    found = []
    one = layers.NAMED[key]
    choices = sorted(k for k in kinds if k != ANNOTATE)
    for name, entry in zip(names, entries, strict=True):
        if not isinstance(entry.value, dict):
            meant = nearest(str(entry.value), choices) or choices[0]
            problems.append(entry.place.problem(f"This {one} should be a mapping.", f"Write: - {field}: {meant}"))
            continue
        kind = entry.get(field)
        if kind is None:
            message = f"`{field}` is missing: which {field} this is."
            typo = nearest(field, (key for key, _ in entry.items()))
            hint = f"Is that what `{typo}` was meant to be?" if typo else ""
            hint = hint or (
                f"No {one} of the extended recipe is called `{name}`, so this is a new one." if name else ""
            )
            problems.append(entry.place.problem(message, hint or f"There are: {listed(choices)}."))
        elif not isinstance(kind.value, str) or kind.value not in choices:
            if kind.value == ANNOTATE:
                message = "`annotate` is run first in every recipe."
                hint = "Set `language` and `tokenizer` of the recipe."
            else:
                message = f"There is no {field} `{kind.value}`."
                hint = did_you_mean(str(kind.value), choices) or f"There are: {listed(choices)}."
            if all_known or kind.value == ANNOTATE or nearest(str(kind.value), choices):
                problems.append(kind.place.problem(message, hint))
        else:
            _check_name(name, entry, problems)
            config = _validated(kinds[kind.value].config, entry, f"{one} {name}", problems)
            if config is not None:
                found.append((name, entry, kinds[kind.value], config.model_copy(update={"name": name})))
    _say_repeated(one, names, entries, problems)
    return found


def _check_name(name: str, entry: Node, problems: list[Problem]) -> None:
    if not NAME.fullmatch(name):
        problems.append((entry.get("name") or entry).place.problem(f"`name` can't be `{name}`.", NAMES))


def _say_repeated(what: str, names: Sequence[str], entries: Sequence[Node], problems: list[Problem]) -> None:
    first: dict[str, Node] = {}
    for name, entry in zip(names, entries, strict=True):
        if name and name in first:
            line = first[name].place.line
            where = f" (line {line})" if line and first[name].place.file == entry.place.file else ""
            message = f"Two {what}s are called `{name}`{where}."
            problems.append((entry.get("name") or entry).place.problem(message, "Give one of them another `name:`."))
        first.setdefault(name, entry)
