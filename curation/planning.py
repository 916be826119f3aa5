"""What a build would do, found out without doing any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation import ingest as ingestion
from curation import sources, stages, store
from curation.engines.rows import apply_global_entry, apply_row_entry
from curation.recipe import Plan, PlannedStage, load_recipe
from curation.running import State, global_key, reads_of, row_key, stage_fingerprint
from curation.sources.hub import from_cache
from curation.stages.fanout import Fanout
from schemas.errors import RecipeError, SourceError
from schemas.recipe import Source


@dataclass(frozen=True)
class PlanReport:
    """What a build would do: one record per source and stage."""

    name: str
    steps: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps}


def plan(
    recipe: Path | str,
    *,
    set: Sequence[str] = (),
    workspace: Path | str | None = None,
    limit: int | None = None,
) -> PlanReport:
    """Say what `build` would do, and do none of it.

    Each step has name, kind, cached (true, false, or None where it depends on a step that has yet to run), rows, and
    for a stage that asks a teacher what that would cost (see curation.teachers.cost). Nothing is fetched: a dataset of
    the Hub that is not in the cache has the rows that the recipe expects of it (`expected` is true then), and so has
    what a teacher would be asked: all these rows, answers as long as they may be.
    """
    space = store.open_workspace(workspace)
    planned = _loaded(Path(recipe), set, limit, space)
    digests = store.FileDigests(space)
    steps: list[dict[str, Any]] = []
    ingested: list[ingestion.Ingested] | None = []
    counts_of: dict[str, int | None] = {}
    for source in planned.sources:
        entry, rows, missing = None, None, False
        try:
            with from_cache() if source.hub else nullcontext():
                reader = sources.open_source(source, recipe_dir=planned.recipe_dir, workspace=space.root, limit=limit)
            _, entry = ingestion.find(space, digests, source, reader, limit)
        except SourceError:
            if not source.hub:
                raise
            missing = True
        if entry is not None:
            found = ingestion.load(source, entry, cached=True)
            rows = ingestion.rows_in(found)
            if ingested is not None:
                ingested.append(found)
        else:
            ingested = None
        record: dict[str, Any] = {
            "name": f"source:{source.name}",
            "kind": "source",
            "cached": entry is not None,
            "rows": rows,
        }
        if missing and (wanted := _expected(planned, source)) is not None:
            record |= {"rows": wanted, "expected": True}
        if missing:
            record["missing"] = True
        counts_of[str(source.name)] = record["rows"]
        steps.append(record)
    digests.save()
    state = State([p for s in ingested for p in s.partitions], ingested) if ingested is not None else None
    for step in planned.stages:
        record = {"name": step.name, "kind": step.stage.kind, "cached": None, "rows": None}
        if state is not None:
            before = state
            record["rows"] = state.kept
            state, record["cached"] = _look_up(space, planned, step, state)
            if step.stage.estimate is not None:
                counts: Counter[str] = Counter(requests=0, answers=0, prompt_tokens=0, output_tokens=0, tokens=0)
                for partition in before.partitions if not record["cached"] else ():
                    rows = partition.read(["row_id", *(c for c in reads_of(step, partition) if c != "row_id")])
                    context = stages.Context(planned.recipe.seed, step.name, space.root, planned.recipe_dir)
                    counts.update(step.stage.estimate(step.config, rows, context))
                record.update(counts)
        elif isinstance(step.config, Fanout):
            record |= _at_most(step.config, counts_of)
        steps.append(record)
    return PlanReport(planned.recipe.name, steps)


def _loaded(recipe: Path, overrides: Sequence[str], limit: int | None, space: store.Workspace) -> Plan:
    """The recipe, judged with what is here; where it names datasets of the Hub, what is not here is no fault of it."""
    with from_cache():
        try:
            return load_recipe(recipe, overrides=overrides, limit=limit, workspace=space.root)
        except RecipeError:
            planned = load_recipe(recipe, overrides=overrides, limit=limit, workspace=space.root, check_world=False)
            if not any(source.hub for source in planned.sources):
                raise
            return planned


def _expected(plan: Plan, source: Source) -> int | None:
    """Rows that the recipe says a source has."""
    if source.expect is not None:
        return source.expect
    wanted = (plan.recipe.expect or {}).get(f"sources.{source.name}")
    return wanted.count if wanted is not None else None


def _at_most(config: Fanout, rows: dict[str, int | None]) -> dict[str, Any]:
    """What a fan-out asks when no row is dropped before it, from the numbers of rows; {} where one is not known."""
    asked = [rows[name] for name in rows if config.sources is None or name in config.sources]
    if not asked or any(count is None for count in asked):
        return {}
    requests = sum(count for count in asked if count is not None)
    answers = requests * (config.until.max if config.until is not None else config.n)
    tokens = answers * config.max_tokens
    return {"requests": requests, "answers": answers, "output_tokens": tokens, "tokens": tokens, "expected": True}


def _look_up(space: store.Workspace, plan: Plan, step: PlannedStage, state: State) -> tuple[State | None, bool]:
    """The state after a stage whose results are all cached, or None."""
    fingerprint = stage_fingerprint(plan, step)
    if step.stage.shape == "global":
        entry = space.entry(step.stage.kind, global_key(step, fingerprint, state.partitions))
        manifest = store.load_entry(entry)
        if manifest is None:
            return None, False
        return State(
            apply_global_entry(step.stage, step.config, state.partitions, entry, manifest), state.ingested
        ), True
    partitions = []
    for partition in state.partitions:
        entry = space.entry(step.stage.kind, row_key(plan, step, fingerprint, partition))
        manifest = store.load_entry(entry)
        if manifest is None or manifest.get("again"):
            return None, False
        partitions.append(apply_row_entry(step.stage, step.config, partition, entry, manifest))
    return State(partitions, state.ingested), True
