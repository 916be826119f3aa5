"""Ablations: a matrix of data and training choices x seeds in, effects with intervals out, by one command.

    winnow ablate recipes/ablations/small_answers.yaml

A cell is: build a version -> fine-tune -> (RL ->) evaluate. What cells share is made once: versions by their overrides
(and within a build, every cached stage and every answer of a teacher: x8 asks for what x1 lacks), runs by their version,
overrides and seed, so cells that differ in RL alone share the fine-tuned model. Each step that is finished is found
again, so an ablation that was interrupted goes on.

What an effect is. The same seeds train every cell, so a cell is compared with the baseline seed by seed, and Student's
interval over those differences says whether training noise explains it. The same questions are asked of both, so a
bootstrap over questions says whether the choice of questions does. A difference is shown only where both say so.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from curation import builder, store, yamlfile
from curation.catalog import write_catalog
from curation.digests import json_digest
from curation.store import Workspace, open_workspace
from schemas.ablation import Ablation
from schemas.errors import WinnowError
from training import ablation_report, cluster, scores
from training import evaluate as evaluation
from training.cells import Cell, by_recipe, cells_of, is_baseline
from training.contrast import NO_DIFFERENCE
from training.metrics import read_lines
from training.recipe import newest_checkpoint

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A cell with a seed and its version: what a process runs. Everything in it can be sent."""

    ablation: Ablation
    cell: Cell
    seed: int
    version: str | None
    workspace: str

    @property
    def title(self) -> str:
        return f"{self.cell.label}, seed {self.seed}"


@dataclass(frozen=True)
class Finished:
    """A finished ablation: where its record lies, its cells and effects."""

    path: Path
    cells: pl.DataFrame
    effects: pl.DataFrame


# ------------------------------------------------------------------------------------------------------------------ run


def ablate(
    recipe: Ablation,
    *,
    workspace: Path | str | None = None,
    jobs: int | None = None,
    on: str | None = None,
    say: Say = lambda text: None,
) -> Finished:
    """Run what is not there yet, and write the record: <workspace>/ablations/<name>/<id>.

    jobs   cells that run at once on this machine; by default as the recipe says
    on     "ray" or "ray:ADDRESS": cells are tasks of a Ray cluster, as many at once as it has place for

    Raises WinnowError where a step refuses; what is finished stays, and the same command goes on from there.
    """
    if on and jobs:
        raise WinnowError("`jobs` is for cells on this machine; on a cluster `resources` of the recipe decides.")
    address = cluster.address_of(on) if on else None
    space = open_workspace(workspace)
    for number, prepared in enumerate(recipe.prepare):
        say(f"prepare {number + 1} of {len(recipe.prepare)}: {Path(prepared.build or prepared.sft or '').name}")
        keys = by_recipe({f"{'build' if prepared.build else 'sft'}.{k}": v for k, v in prepared.set.items()})
        if prepared.build:
            builder.build(prepared.build, set=_filled(keys[0], space), workspace=space.root)
        elif prepared.sft:
            _trained("sft", prepared.sft, keys[1], space, 1)
    cells = cells_of(recipe)
    versions: dict[tuple[str, ...], str] = {}
    for cell in cells:
        if recipe.build is not None and cell.build not in versions:
            say(f"build {len(versions) + 1}: {' '.join(cell.build) or 'as the recipe is'}")
            name = f'name="{recipe.name}-data"'
            built = builder.build(recipe.build, set=_filled([*cell.build, name], space), workspace=space.root)
            versions[cell.build] = str(built)
    todo = [
        Job(recipe, cell, seed, versions.get(cell.build), str(space.root)) for seed in recipe.seeds for cell in cells
    ]
    lines: list[dict[str, Any]] = []
    if on:
        gpus, resources = recipe.processes, recipe.resources
        cells_run = cluster.on_ray(todo, run_cell, _shared, address=address, resources=resources, gpus=gpus, say=say)
    else:
        cells_run = _each(todo, jobs or recipe.jobs)
    for number, (job, found) in enumerate(cells_run):
        lines += found
        shown = ", ".join(f"{line['benchmark']} {line['value']:.3f}" for line in found)
        say(f"{number + 1} of {len(todo)}: {job.title}: {shown}")
    table = pl.DataFrame(lines, infer_schema_length=None)
    return _record(space, recipe, table, effects_of(recipe, cells, table, space))


def _each(jobs: Sequence[Job], at_once: int) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    if at_once == 1:
        for job in jobs:
            yield job, run_cell(job)
        return
    import torch

    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    with ProcessPoolExecutor(at_once, context, _claim, (counter, torch.cuda.device_count())) as pool:
        # A run that two cells share must not be made by two processes: those go first, one cell of each kind.
        first = {_shared(job): job for job in reversed(jobs)}
        done = dict(zip(first, pool.map(run_cell, first.values()), strict=True))
        rest = [job for job in jobs if first[_shared(job)] is not job]
        others = iter(pool.map(run_cell, rest))
        for job in jobs:
            yield job, done[_shared(job)] if first[_shared(job)] is job else next(others)


def _shared(job: Job) -> str:
    return _name_of(job.ablation, "sft", job.version, job.cell.sft, job.seed)


def _claim(counter: Any, gpus: int) -> None:
    """A worker takes the next GPU for itself, before torch sees any."""
    with counter.get_lock():
        mine, counter.value = counter.value, counter.value + 1
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(n) for n in range(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[mine % len(devices)]


def run_cell(job: Job) -> list[dict[str, Any]]:
    """Train and evaluate one cell with one seed; a line per benchmark."""
    recipe, space = job.ablation, open_workspace(job.workspace)
    data = [f'data.0.version="{job.version}"'] if job.version else []
    name = _shared(job)
    own = [*job.cell.sft, *data, f'name="{name}"', f"seed={job.seed}"]
    run = _trained("sft", recipe.sft, own, space, recipe.processes)
    if recipe.gspo is not None:
        made = _name_of(recipe, "gspo", name, job.cell.gspo, job.seed)
        start = newest_checkpoint(space.root, run.name)
        own = [*job.cell.gspo, f'model.path="{start}"', f'name="{made}"', f"seed={job.seed}"]
        run = _trained("gspo", recipe.gspo, own, space, recipe.processes)
    asked = [f"{key}={json.dumps(value)}" for key, value in recipe.ask.items()]
    found = evaluation.evaluate(str(run), recipe.benchmarks, set=asked, workspace=space.root)
    cost = _cost(run)
    lines = []
    for one in found:
        (figure,) = one.headline.values()
        tokens = next((f.value for f in one.figures if f.metric == "tokens"), None)
        lines.append({
            **{f"axis.{axis}": level for axis, level in job.cell.levels.items()}, "cell": job.cell.label, "seed": job.seed,
            "benchmark": one.benchmark, "metric": figure.metric, "value": figure.value, "low": figure.low,
            "high": figure.high, "questions": figure.units, "answer_tokens": tokens, "version": job.version or "",
            "run": run.name, "evaluation": one.id, **cost,
        })  # fmt: skip
    return lines


def _name_of(recipe: Ablation, kind: str, start: str | None, overrides: Sequence[str], seed: int) -> str:
    """The name of a run, made from all that decides it."""
    file = recipe.sft if kind == "sft" else recipe.gspo
    text = Path(str(file)).read_text(encoding="utf-8")
    return f"{recipe.name}-{kind}-{json_digest([text, start, list(overrides), seed])[:8]}"


def _trained(kind: str, file: str, overrides: Sequence[str], space: Workspace, processes: int) -> Path:
    """The folder of a finished run of `winnow train <kind>`; it is made, or gone on with, where it is not there."""
    from training import gspo, sft
    from training.processes import leave
    from training.recipe import load_gspo_recipe, load_sft_recipe

    load: Any = {"sft": load_sft_recipe, "gspo": load_gspo_recipe}[kind]
    train: Any = {"sft": sft.train, "gspo": gspo.train}[kind]
    overrides = _filled(overrides, space)
    plan = load(file, overrides=overrides, workspace=space.root)
    folder = space.root / "runs" / str(plan.recipe.name)
    if _is_finished(folder, plan.text):
        return folder
    if processes > 1:
        words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        words += ["-m", f"training.{kind}", file, "--workspace", str(space.root)]
        words += [word for text in overrides for word in ("--set", text)]
        if subprocess.run(words, stdout=2, check=False).returncode:  # to stderr: the result is ours to print
            raise WinnowError(f"The training {plan.recipe.name} failed; what it said stands above.")
        return folder
    train(plan, workspace=space.root, quiet=True)
    leave()
    return folder


def _is_finished(folder: Path, text: str) -> bool:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return False
    said = store.read_json(manifest)
    return said.get("state") == "finished" and said.get("recipe") == text


def _filled(overrides: Sequence[str], space: Workspace) -> list[str]:
    """Overrides in which {run:NAME} is the newest checkpoint of a run of this workspace."""
    filled = []
    for text in overrides:
        while (at := text.find("{run:")) >= 0:
            end = text.index("}", at)
            text = text[:at] + str(newest_checkpoint(space.root, text[at + 5 : end])) + text[end + 1 :]
        filled.append(text)
    return filled


def _cost(run: Path) -> dict[str, Any]:
    """What a run took: steps, tokens, seconds of its steps, samples."""
    manifest = store.read_json(run / "manifest.json")
    lines = [line for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    return {
        "samples": int(manifest.get("counts", {}).get("samples", 0)),
        "steps": int(manifest.get("step", 0)),
        "trained_tokens": int(sum(line.get("trained_tokens", line.get("tokens", 0)) for line in lines)),
        "train_seconds": round(float(sum(line.get("seconds", 0.0) for line in lines)), 2),
    }


# -------------------------------------------------------------------------------------------------------------- effects


def effects_of(recipe: Ablation, cells: Sequence[Cell], table: pl.DataFrame, space: Workspace) -> pl.DataFrame:
    """One line per cell, benchmark and metric: the cell minus the baseline of the same budget."""
    lines = []
    for cell in cells:
        base = next(c for c in cells if is_baseline(recipe, c) and c.levels["budget"] == cell.levels["budget"])
        if cell is base:
            continue
        for benchmark in table["benchmark"].unique(maintain_order=True):
            own, other = (
                table.filter((pl.col("cell") == c.label) & (pl.col("benchmark") == benchmark)).sort("seed")
                for c in (cell, base)
            )
            lines.append(_effect(cell, base, own, other, space))
    return pl.DataFrame(lines)


def _effect(cell: Cell, base: Cell, own: pl.DataFrame, other: pl.DataFrame, space: Workspace) -> dict[str, Any]:
    values = (own["value"] - other["value"]).to_list()
    mean, low, high = scores.over_seeds(values)
    mine, theirs = (_units(table, space) for table in (own, other))
    met = mine.join(theirs, on="unit", how="inner", suffix="_base").sort("unit")
    asked = scores.difference(met["value_base"].to_numpy(), met["value"].to_numpy(), met["cluster"].to_list())
    shown = (low > 0 or high < 0) and asked.shown
    verdict = ("better" if mean > 0 else "worse") if shown else NO_DIFFERENCE
    if len(values) < 2:
        verdict = f"{NO_DIFFERENCE}: one seed says nothing about training noise"
    return {
        "cell": cell.label, "baseline": base.label, "budget": cell.levels["budget"], "benchmark": own["benchmark"][0],
        "metric": own["metric"][0], "value": _mean(own, "value"), "base_value": _mean(other, "value"),
        "effect": mean, "low": low, "high": high, "seeds": len(values), "questions_low": asked.low,
        "questions_high": asked.high, "p_questions": asked.p, "verdict": verdict,
        "tokens_ratio": _mean(own, "trained_tokens") / max(1.0, _mean(other, "trained_tokens")),
    }  # type: ignore[arg-type,operator,type-var]  # fmt: skip


def _mean(table: pl.DataFrame, column: str) -> float:
    values = table[column].to_list()
    return float(sum(values) / len(values))


def _units(lines: pl.DataFrame, space: Workspace) -> pl.DataFrame:
    """What each question scored, averaged over seeds."""
    tables = []
    for line in lines.iter_rows(named=True):
        path = space.root / "evaluations" / line["benchmark"] / line["evaluation"] / "units.parquet"
        tables.append(pl.read_parquet(path).filter(pl.col("metric") == line["metric"]))
    return pl.concat(tables).group_by("unit").agg(pl.col("value").mean(), pl.col("cluster").first())


def _record(space: Workspace, recipe: Ablation, cells: pl.DataFrame, effects: pl.DataFrame) -> Finished:
    free = [name for name in cells.columns if name != "train_seconds"]
    decides = recipe.model_dump(mode="json", exclude={"jobs", "resources"})  # not where and how many at once
    rid = json_digest([decides, cells.select(free).write_csv()])[:12]
    target = space.root / "ablations" / recipe.name / rid
    if store.load_entry(target) is None:
        manifest = {
            "format": 1,
            "kind": "ablation",
            "name": recipe.name,
            "id": rid,
            "recipe": yamlfile.dump(recipe.model_dump(mode="json", exclude_defaults=True)),
            "cells": len(cells),
            "libraries": {name: metadata.version(name) for name in ("winnow", "torch", "transformers")},
            "run": {"created": datetime.now(UTC).isoformat(timespec="seconds"), "cpu": time.process_time()},
        }
        with store.scratch(space) as scratch:
            folder = scratch / "ablation"
            folder.mkdir()
            cells.write_parquet(folder / "cells.parquet")
            effects.write_parquet(folder / "effects.parquet")
            ablation_report.write(folder, recipe, cells, effects)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                store.discard(space, target)
            store.commit(folder, target, manifest)
        write_catalog(space)
    return Finished(target, cells, effects)
