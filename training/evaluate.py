"""Evaluation: a model and benchmarks in, figures with error bars out, under the one checker.

    winnow evaluate .winnow/runs/tiny-sft recipes/benchmarks/sums.yaml --workspace .winnow

An evaluation is a build. The benchmark's rows get a fan-out by the model and a verdict for every answer, so answers are
traces in the workspace's store: one that was interrupted goes on, a second one of the same model asks nothing, more
answers (`--set ask.n=8`) ask for those that are missing, and what was answered is a query:

    winnow sql "select question, text, state from \\"eval-sums-tiny-sft-step-000600\\".traces …"

What is made of the answers is a record in <workspace>/evaluations/<benchmark>/<id>: figures, units and answers as
Parquet, a manifest, and the same figures in the layout of lm-evaluation-harness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from curation import builder, store, yamlfile
from curation.answers import Judge
from curation.answers.policy import REVISION as CHECKER_REVISION
from curation.answers.policy import Policy
from curation.catalog import write_catalog
from curation.console import Reporter
from curation.digests import json_digest
from curation.store import Workspace, open_workspace
from schemas.errors import WinnowError
from training import benchmarks, harness, scoring
from training.benchmarks import Bench, Model
from training.scoring import Figure, Scored

FORMAT = 1
REVISION = 1
"""Of the arithmetic: bumped when the same answers would give other figures."""
ANSWERS = ("unit", "id", "source", "cluster", "part", "model", "k", "state", "method", "right", "vote", "tokens", "truncated", "extracted")  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation of one benchmark: where its record lies, and what it found."""

    benchmark: str
    path: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def figures(self) -> list[Figure]:
        return [Figure(**line) for line in self.manifest["figures"]]

    @property
    def headline(self) -> dict[str, Figure]:
        """The official metric of each model."""
        return {figure.model: figure for figure in self.figures if figure.headline}

    @property
    def units(self) -> pl.DataFrame:
        return pl.read_parquet(self.path / "units.parquet")


def evaluate(
    model: Model | str,
    names: Sequence[str | Path],
    *,
    set: Sequence[str] = (),
    workspace: Path | str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    judge: Judge | None = None,
    reporter: Callable[[], Reporter] | None = None,
) -> list[Evaluation]:
    """Evaluate a model on benchmarks, one after the other.

    model     what `benchmarks.model_of` takes, or what it gave
    set       overrides of the benchmark recipes: "ask.n=8", "ask.temperature=1"
    limit     questions of each source, for a first try; the record says so
    judge     asked for answers that the rules leave open; its verdicts are cached and marked as its own
    Raises RecipeError where a benchmark is wrong, WinnowError where the model cannot be asked.
    """
    space = open_workspace(workspace)
    who = model if isinstance(model, Model) else benchmarks.model_of(model)
    recipes = space.root / "evaluations" / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    benches = [benchmarks.load(name, recipes, overrides=set) for name in names]
    found = []
    for bench in benches:
        said = reporter() if reporter else None
        try:
            found.append(_one(space, bench, who, limit, workers, judge, said))
        finally:
            if said is not None:
                said.close()
    return found


def _one(
    space: Workspace,
    bench: Bench,
    model: Model,
    limit: int | None,
    workers: int | None,
    judge: Judge | None,
    reporter: Reporter | None,
) -> Evaluation:
    name = f"eval-{benchmarks.slug(bench.recipe.name)}-{benchmarks.slug(model.name)}"
    recipe = space.root / "evaluations" / "recipes" / f"{name}.yaml"
    recipe.write_text(yamlfile.dump(benchmarks.composed(bench, model, name)), encoding="utf-8")
    began = time.monotonic()
    version = builder.build(recipe, workspace=space.root, workers=workers, limit=limit, reporter=reporter)
    policy = Policy(**bench.recipe.policy)
    answers, notes = scoring.answers_of(version, bench.recipe.score, policy)
    if judge is not None:
        answers = judged(answers, judge, space, policy)
    if not model.held:
        answers = answers.with_columns(model=pl.lit(model.name))
    result = scoring.scored(answers, bench.recipe.score, notes)
    about = {
        "benchmark": bench.recipe.name,
        "recipe": yamlfile.dump(bench.recipe.model_dump(mode="json", exclude_defaults=True, by_alias=True)),
        "model": {"name": model.name, "teacher": dict(model.teacher), "trained": model.trained},
        "prompt": benchmarks.prompt_of(bench, model),
        "ask": bench.recipe.ask.model_dump() if not model.held else {"held": True, "n": model.answers},
        "official": bench.recipe.score.official,
        "version": {"name": version.name, "id": version.id},
        "limit": limit,
        "judge": judge.key() if judge is not None else None,
    }
    return record(space, bench.recipe.name, result, about, seconds=time.monotonic() - began)


def judged(answers: pl.DataFrame, judge: Judge, space: Workspace, policy: Policy) -> pl.DataFrame:
    """The answers with undecided ones put to a judge."""
    from dataclasses import replace

    from curation.answers import check_many
    from curation.answers.cache import VerdictCache

    judge = replace(judge, cache=VerdictCache(space.root / "judge.sqlite"))
    where = answers.with_row_index("at").filter(pl.col("state").is_in(["undecided", "checker_timeout"]))
    if not len(where):
        return answers
    asked = where.select(
        pl.col("answer").alias("gold"), pl.col("text").alias("response"), "question", "choices", "truncated"
    ).to_arrow()
    verdicts = check_many(asked, policy=policy, judge=judge)
    changed = pl.DataFrame(
        {"at": where["at"], "state": verdicts["state"].to_pylist(), "method": verdicts["method"].to_pylist()}
    )
    merged = answers.with_row_index("at").join(changed, on="at", how="left", suffix="_judged", maintain_order="left")
    merged = merged.with_columns(
        state=pl.coalesce("state_judged", "state"), method=pl.coalesce("method_judged", "method")
    )
    right = pl.col("state") == "correct"
    vote = pl.when(right).then(pl.lit(0, pl.Int32)).otherwise(pl.col("vote"))
    return merged.with_columns(right=right, vote=vote).drop("at", "state_judged", "method_judged")


# -------------------------------------------------------------------------------------------------------------- records


def record(
    space: Workspace,
    benchmark: str,
    result: Scored,
    about: Mapping[str, Any],
    *,
    seconds: float = 0.0,
) -> Evaluation:
    """Write an evaluation's record. Its id is made from what was answered and how it is scored: the same answers give
    the same record."""
    columns = [name for name in result.answers.columns if name in ANSWERS or name.startswith("@")]
    answers = result.answers.select(columns).rename({n: n.removeprefix("@") for n in columns if n.startswith("@")})
    units = result.units.sort("model", "metric", "unit")
    rid = json_digest(
        [FORMAT, REVISION, CHECKER_REVISION, benchmark, about.get("recipe"), about.get("model"), about.get("prompt"),
         units.write_csv()]
    )[:12]  # fmt: skip
    target = space.root / "evaluations" / benchmark / rid
    if (known := store.load_entry(target)) is not None:
        return Evaluation(benchmark, target, known)
    lines = pl.DataFrame([asdict(figure) for figure in result.figures]).with_columns(
        benchmark=pl.lit(benchmark), evaluation=pl.lit(rid)
    )
    manifest = {
        "format": FORMAT,
        "kind": "evaluation",
        "id": rid,
        "revision": REVISION,
        "checker": CHECKER_REVISION,
        **about,
        "complete": not result.notes.get("not_got") and not result.notes.get("unanswered"),
        "notes": result.notes,
        "figures": [asdict(figure) for figure in result.figures],
        "libraries": {name: metadata.version(name) for name in ("winnow", "polars", "numpy")},
        "run": {"created": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 3)},
    }
    with store.scratch(space) as scratch:
        folder = scratch / "evaluation"
        folder.mkdir()
        lines.write_parquet(folder / "scores.parquet")
        units.with_columns(benchmark=pl.lit(benchmark), evaluation=pl.lit(rid)).write_parquet(folder / "units.parquet")
        answers.with_columns(benchmark=pl.lit(benchmark), evaluation=pl.lit(rid)).write_parquet(
            folder / "answers.parquet"
        )
        store.write_json(folder / "results.json", harness.results(manifest))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            store.discard(space, target)
        store.commit(folder, target, manifest)
    write_catalog(space)
    return Evaluation(benchmark, target, store.load_entry(target) or manifest)


def evaluations(workspace: Path | str | None = None) -> list[Evaluation]:
    """All records of a workspace: by benchmark, the newest first."""
    space = open_workspace(workspace, create=False)
    found = []
    for path in (space.root / "evaluations").glob("*/*"):
        manifest = store.load_entry(path) if path.is_dir() else None
        if manifest is not None and manifest.get("kind") == "evaluation":
            found.append(Evaluation(path.parent.name, path, manifest))
    found.sort(key=lambda e: str(e.manifest["run"]["created"]), reverse=True)
    return sorted(found, key=lambda e: e.benchmark)


def chosen(reference: str, workspace: Path | str | None = None) -> list[tuple[Evaluation, str]]:
    """(record, model) that a reference means: the beginning of a record's id, a benchmark, or a model's name; of each
    benchmark and model the newest record. Raises WinnowError naming what there is."""
    known = evaluations(workspace)
    found: dict[tuple[str, str], Evaluation] = {}
    for one in known:
        for model in one.headline:
            if reference in (model, one.benchmark) or (len(reference) >= 4 and one.id.startswith(reference)):
                found.setdefault((one.benchmark, model), one)
    if not found:
        names = sorted({model for one in known for model in one.headline})
        raise WinnowError(
            f"No evaluation is of {reference!r}. "
            + (f"There are models {', '.join(names)}." if names else "Nothing has been evaluated yet.")
        )
    return [(one, model) for (_, model), one in found.items()]


def export(one: Evaluation, folder: Path, workspace: Path | str | None = None) -> list[Path]:
    """Write `results_<id>.json` and `samples_<benchmark>_<id>.jsonl` of each model, in lm-evaluation-harness's layout:
    <folder>/<model>/. The texts come from the version, so it must still be there."""
    from curation.versions import open_version

    space = open_workspace(workspace)
    place = one.manifest.get("version")
    texts = None
    if place:
        version = open_version(f"{place['name']}@{place['id']}", space.root)
        rows = version.rows().select(pl.col("row_id").alias("unit"), "question", "answer")
        traces = version.traces().select(pl.col("row_id").alias("unit"), "k", "text")
        texts = rows.join(traces, on="unit")
    answers, written = pl.read_parquet(one.path / "answers.parquet"), []
    for model in one.headline:
        target = folder / benchmarks.slug(model)
        target.mkdir(parents=True, exist_ok=True)
        store.write_json(target / f"results_{one.id}.json", harness.results(one.manifest, model))
        written.append(target / f"results_{one.id}.json")
        if texts is not None:
            own = answers.filter(pl.col("model") == model).join(texts, on=["unit", "k"], how="inner")
            path = target / f"samples_{one.benchmark}_{one.id}.jsonl"
            path.write_text("\n".join(harness.samples(own.sort("unit", "k"))) + "\n", encoding="utf-8")
            written.append(path)
    return written


def take_in(
    path: Path, *, workspace: Path | str | None = None, group: str | None = None, model: str | None = None
) -> list[Evaluation]:
    """Records of another harness's results (see `harness.read`)."""
    if not path.exists():
        raise WinnowError(f"There is no {path}.")
    space = open_workspace(workspace)
    return [
        record(
            space, benchmarks.slug(task), result, {"benchmark": benchmarks.slug(task), "imported": str(path), **about}
        )
        for task, (result, about) in harness.read(path, group=group, model=model).items()
    ]
