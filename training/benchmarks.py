"""Benchmark recipes, and the models that are put to them: from `winnow evaluate MODEL BENCH` to a build recipe.

A benchmark is named by its file, or by the name of one in recipes/benchmarks. A model is a folder, a repo id, an
endpoint (http://host/v1#MODEL), or a file of answers that were got elsewhere; each becomes a teacher of a fan-out. The
build recipe that comes out is written into the workspace, so that what was run can be read and run again.

A model that Winnow trained is asked as it was trained: system turn and template are those of its run's data.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from curation import store, yamlfile
from curation.prompts import PROMPT
from curation.recipe import layers
from curation.recipe.wording import did_you_mean, problems_of
from schemas.benchmarks import Benchmark
from schemas.errors import Problem, RecipeError, WinnowError

SHIPPED = Path(__file__).resolve().parents[1] / "recipes" / "benchmarks"
ANSWERS = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True)
class Bench:
    """A benchmark recipe that is right."""

    recipe: Benchmark
    path: Path
    plain: Mapping[str, Any] = field(repr=False)
    """The recipe as data, with what it extends and overrides; its paths begin at `home`."""
    home: Path = field(repr=False)


@dataclass(frozen=True)
class Model:
    """Who answers."""

    name: str
    teacher: Mapping[str, Any]
    """Config of the fan-out's teacher."""
    system: str | None = None
    template: str | None = None
    trained: str = ""
    """The run that made it, where that is known: then `system` and `template` are those of its training."""
    held: bool = False
    """Whether the answers are there already."""
    answers: int = 1
    """Of a held set: the most that one question has."""


# ----------------------------------------------------------------------------------------------------------- benchmarks


def find(name: str) -> Path:
    """The file of a benchmark. Raises WinnowError naming those that there are."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise WinnowError(f"There is no benchmark recipe {name}. {_shipped()}")
    folders = [Path("recipes/benchmarks"), SHIPPED]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    names = [p.stem for folder in folders for p in folder.glob("*.yaml")]
    raise WinnowError(f"There is no benchmark {name!r}. {did_you_mean(name, names) or _shipped()}")


def _shipped() -> str:
    names = sorted({p.stem for folder in (Path("recipes/benchmarks"), SHIPPED) for p in folder.glob("*.yaml")})
    return f"There are: {', '.join(names)}." if names else "A benchmark is a YAML file; see docs/evaluation.md."


def load(name: str | Path, home: Path, *, overrides: Sequence[str] = ()) -> Bench:
    """Read, merge and check a benchmark recipe. Raises RecipeError with all problems at once.

    home       the folder at which its relative paths shall begin
    overrides  "ask.n=8", "sources.gsm8k.split=train"
    """
    path = find(str(name))
    problems: list[Problem] = []
    tree = layers.read(path, problems)
    if tree is None:
        raise RecipeError(problems, what="benchmark recipe")
    keys = [key for key in Benchmark.model_fields if key != "extends"]
    for text in overrides:
        tree = layers.override(tree, text, problems, keys=keys)
    schema = Benchmark.model_json_schema()
    plain = layers.rebased(tree, schema, home).plain()
    recipe = None
    try:
        recipe = Benchmark.model_validate_json(json.dumps(tree.plain()), strict=True)
    except ValidationError as error:
        problems += problems_of(error, tree, Benchmark, "the recipe")
    if recipe is not None:
        problems += _contradictions(recipe, tree)
    if problems or recipe is None:
        raise RecipeError(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line or 0)), "benchmark recipe")
    return Bench(recipe, path, plain, home)


def _contradictions(recipe: Benchmark, tree: yamlfile.Node) -> list[Problem]:
    ask, score, found = recipe.ask, recipe.score, []
    if ask.temperature == 0 and ask.n > 1:
        place = tree.find(["ask", "n"]).place
        found.append(place.problem("ask.n: at temperature 0 all answers are the same.", "Raise ask.temperature."))
    metrics = {score.metric, *score.also}
    if "worst_case" in metrics and score.group is None:
        place = tree.find(["score"]).place
        found.append(place.problem("score: the worst case of what? `group` is missing.", "Name the field of the seed."))
    if any(m.startswith("wemath") for m in metrics) and (score.group is None or score.part is None):
        found.append(tree.find(["score"]).place.problem("score: We-Math's scheme needs `group` and `part`."))
    return found


def composed(bench: Bench, model: Model, name: str) -> dict[str, Any]:
    """The build recipe of an evaluation, as data: the benchmark's sources and stages, the model as teacher, the
    checker, and prompts with gold answers as output."""
    ask = bench.recipe.ask
    prompt = prompt_of(bench, model)
    n = model.answers if model.held else ask.n
    fanout: dict[str, Any] = {"stage": "fanout", "name": "answers", "n": n, "teacher": dict(model.teacher)}
    if not model.held:
        fanout |= {"temperature": ask.temperature, "top_p": ask.top_p, "seed": ask.seed, "max_tokens": ask.max_tokens}
    fanout |= {"template": prompt["template"]} | ({"system": prompt["system"]} if prompt["system"] else {})
    verify = {"stage": "verify", **({"policy": dict(bench.recipe.policy)} if bench.recipe.policy else {})}
    return {
        "name": name,
        "description": f"{bench.recipe.name}, answered by {model.name}.",
        "seed": bench.recipe.seed,
        "language": "none",
        **({"use": bench.plain["use"]} if bench.recipe.use else {}),
        "sources": bench.plain["sources"],
        "stages": [*bench.plain.get("stages", ()), fanout, verify],
        "outputs": [{"export": "rl", "images": "no"}],
    }


def prompt_of(bench: Bench, model: Model) -> dict[str, str | None]:
    """system, template and where they come from. A template that the benchmark writes counts always: it holds
    instructions about the answer. For all else the training counts where it is known."""
    ask = bench.recipe.ask
    template = ask.template or model.template or PROMPT
    if model.trained:
        return {"system": model.system, "template": template, "as_in": f"the training {model.trained}"}
    return {"system": ask.system, "template": template, "as_in": "the benchmark recipe"}


# --------------------------------------------------------------------------------------------------------------- models


def model_of(
    text: str, *, engine: str = "auto", revision: str | None = None, options: Mapping[str, Any] | None = None
) -> Model:
    """The model that a person names.

    text     folder of a model, of a run or of a checkpoint; repo id; http://host/v1#NAME; file of answers
    engine   auto, transformers or vllm: auto takes vLLM where it is installed and a GPU is there
    options  further fields of the teacher, like {batch_size: 64}
    Raises WinnowError where it is none of these.
    """
    more = dict(options or {})
    if text.startswith(("http://", "https://")):
        url, _, name = text.partition("#")
        if not name:
            raise WinnowError(f"{text}: which of the server's models? Write {text}#NAME.")
        state = {"revision": revision} if revision else {}
        return Model(name, {"kind": "openai_server", "url": url, "model": name, **state, **more})
    path = Path(text)
    if path.is_file() and path.suffix in ANSWERS:
        return _answers(path, more)
    if path.is_dir():
        return _folder(path, engine, more)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not path.parent.is_dir():
        state = {"revision": revision} if revision else {}
        return Model(text, {"kind": _kind(engine), "model": text, **state, **more})
    raise WinnowError(
        f"{text} is no model: neither a folder, nor a repo id (ORG/NAME), an endpoint (http://host/v1#NAME) or a file of "
        "answers (Parquet or JSON Lines)."
    )


def _folder(path: Path, engine: str, more: dict[str, Any]) -> Model:
    """A folder with a model; of a run, its newest checkpoint."""
    if not (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        found = sorted(p for p in (path / "checkpoints").glob("step-*") if (p / "config.json").is_file())
        if not found:
            raise WinnowError(f"The run {path} has no finished checkpoint yet.")
        path = found[-1]
    if not (path / "config.json").is_file():
        raise WinnowError(f"{path} has no config.json, so it is no model.")
    path = path.resolve()
    teacher = {"kind": _kind(engine), "model": str(path), **more}
    run = path.parents[1] if path.parent.name == "checkpoints" else None
    if run is None or not (run / "manifest.json").is_file():
        return Model(path.name, teacher)
    system, template = trained_with(store.read_json(run / "manifest.json"), run.parents[1])
    return Model(f"{run.name}-{path.name}", teacher, system, template, trained=run.name)


def trained_with(manifest: Mapping[str, Any], workspace: Path) -> tuple[str | None, str | None]:
    """System turn and template of a run's first entry of data, as far as the workspace still knows them.

    A run that went on from another model's folder was itself asked in its own data's way, so nothing else counts.
    """
    from curation.versions import resolve

    data = (manifest.get("data") or [{}])[0]
    if "version" not in data:
        return None, None
    space = store.open_workspace(workspace, create=False)
    built = store.load_entry(resolve(space, f"{data['version']}@{data['id']}"))
    for output in (built or {}).get("outputs", ()):
        if output["name"] == data.get("config"):
            config = output["config"]
            return config.get("system"), config.get("prompt")
    return None, None


def _answers(path: Path, more: dict[str, Any]) -> Model:
    """A file of answers: the `recorded` teacher, with as many answers as one question has at most."""
    import polars as pl

    from curation.teachers.recorded import Recorded

    config = Recorded.model_validate({"kind": "recorded", "path": str(path.resolve()), **more})
    read = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_ndjson(path)
    names = read.collect_schema().names()
    if config.join.traces not in names:
        raise WinnowError(
            f"{path} has no column {config.join.traces!r} by which its answers could be joined to questions; it has "
            f"{', '.join(names)}.\nSay which: --teacher 'join={{rows: id, traces: COLUMN}}'."
        )
    most = read.group_by(config.join.traces).len().select(pl.col("len").max()).collect().item() or 1
    return Model(path.stem, config.model_dump(mode="json", exclude_defaults=True) | {"kind": "recorded"},
                 held=True, answers=int(most))  # fmt: skip


def _kind(engine: str) -> str:
    if engine == "auto":
        import torch

        engine = "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"
    kinds = {"transformers": "transformers_local", "vllm": "vllm_offline"}
    if engine not in kinds:
        raise WinnowError(f"There is no engine {engine!r}. There are: auto, transformers, vllm.")
    return kinds[engine]


def slug(text: str) -> str:
    """A name as versions have it."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-.") or "model"
