"""Running the sources and stages of a plan: which are cached, which must run, and what the dataset is after each.

It goes stage by stage; everything finished is committed at once and found again by its key, so an interrupted build goes
on where it stopped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from curation import ingest as ingestion
from curation import materialize, stages, store
from curation.console import Reporter
from curation.digests import file_digest, json_digest
from curation.engines.local import LocalEngine
from curation.engines.partition import Partition
from curation.engines.rows import (
    PartitionRows,
    RowJob,
    added,
    apply_global_entry,
    apply_row_entry,
    run_global,
    run_row_job,
)
from curation.recipe import Plan, PlannedStage
from schemas.errors import WinnowError


@dataclass
class State:
    """The dataset at one point of a plan."""

    partitions: list[Partition]
    ingested: list[ingestion.Ingested]
    fates: dict[str, list[materialize.FateFile]] = field(default_factory=dict)
    """Partition name -> files of fates, in the order of the stages."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """What each stage did, for the manifest."""

    @property
    def kept(self) -> int:
        return sum(p.kept for p in self.partitions)


def _context(space: store.Workspace, plan: Plan, planned: PlannedStage, engine: LocalEngine) -> stages.Context:
    return stages.Context(
        seed=plan.recipe.seed,
        name=planned.name,
        workspace=space.root,
        recipe_dir=plan.recipe_dir,
        workers=engine.workers,
        memory_limit=engine.memory_limit // 2,
        before=_before(plan, planned),
    )


def _before(plan: Plan, planned: PlannedStage) -> dict[str, Any]:
    """The configs of earlier stages by which a stage goes."""
    earlier = plan.stages[: plan.stages.index(planned)]
    uses = planned.stage.uses(planned.config)
    return {other.stage.kind: other.config for other in earlier if other.stage.kind in uses}


def stage_fingerprint(plan: Plan, planned: PlannedStage) -> str:
    """What decides a stage's output besides the rows: config, revision, libraries, own source, seed, files it reads."""
    stage, config = planned.stage, planned.config
    before = {kind: used.model_dump(mode="json", by_alias=True) for kind, used in _before(plan, planned).items()}
    paths = stage.inputs(config, plan.recipe_dir, plan.workspace) if stage.inputs else ()
    files = [(path.name, file_digest(path)) for path in paths]
    return json_digest(
        {
            "kind": stage.kind,
            "config": config.model_dump(mode="json", by_alias=True, exclude={"enabled"}),
            "revision": stage.revision,
            "libraries": {name: metadata.version(name) for name in sorted(stage.libraries_of(config))},
            "source": stage.source,
            "seed": plan.recipe.seed,
            "name": planned.name,
            "inputs": files,
            **({"before": before} if before else {}),
        }
    )


def reads_of(planned: PlannedStage, partition: Partition) -> list[str]:
    """The columns that a stage reads of a partition."""
    return planned.stage.reads_of(planned.config, partition.layers)


def row_key(plan: Plan, planned: PlannedStage, fingerprint: str, partition: Partition) -> str:
    needs = planned.stage.needs_of(planned.config)
    if planned.stage.makes == "traces" and partition.traces is not None:
        needs = "traces"  # it adds to those that are there
    return json_digest([fingerprint, partition.fingerprint(reads_of(planned, partition), needs=needs)])[:24]


def global_key(planned: PlannedStage, fingerprint: str, partitions: Sequence[Partition]) -> str:
    seen = [
        [p.name, p.fingerprint(reads_of(planned, p), needs=planned.stage.needs_of(planned.config))] for p in partitions
    ]
    return json_digest([fingerprint, seen])[:24]


def run_plan(space: store.Workspace, plan: Plan, engine: LocalEngine, limit: int | None, reporter: Reporter) -> State:
    ingested = ingestion.ingest(
        space,
        store.FileDigests(space),
        plan.sources,
        recipe_dir=plan.recipe_dir,
        limit=limit,
        run=engine.run,
        reporter=reporter,
    )
    state = State([p for source in ingested for p in source.partitions], ingested)
    for found in ingested:
        rows = ingestion.rows_in(found)
        quarantined = len(found.quarantine)
        state.log.append(
            {
                "name": f"source:{found.source}",
                "kind": "source",
                "rows_in": rows,
                "rows_out": rows - quarantined,
                "dropped": quarantined,
                "keys": [found.key],
            }
        )
    state.fates = {p.name: [] for p in state.partitions}
    for planned in plan.stages:
        run = _run_row_stage if planned.stage.shape == "row" else _run_global_stage
        run(space, plan, planned, engine, state, reporter)
    return state


def _run_row_stage(
    space: store.Workspace, plan: Plan, planned: PlannedStage, engine: LocalEngine, state: State, reporter: Reporter
) -> None:
    fingerprint = stage_fingerprint(plan, planned)
    started = time.monotonic()
    rows_in = state.kept
    keys = [row_key(plan, planned, fingerprint, p) for p in state.partitions]
    missing = []
    for key, partition in zip(keys, state.partitions, strict=True):
        entry = space.entry(planned.stage.kind, key)
        found = store.load_entry(entry)
        if found is None or found.get("again"):
            store.discard(space, entry)
            missing.append((key, partition))
    prepared: list[Mapping[str, Any]] = []
    if missing:
        reporter.stage_started(
            planned.name, kind=planned.stage.kind, rows=sum(p.kept for _, p in missing), parts=len(missing)
        )
        context = _context(space, plan, planned, engine)
        # A partition that is alone has all cores to itself: its stage may have processes of its own.
        context = dataclasses.replace(
            context,
            memory_limit=context.memory_limit // engine.workers,
            workers=max(1, engine.workers // len(missing)),
        )
        if planned.stage.prepare is not None:
            prepared.append(_prepare(space, planned, [p for _, p in missing], context, reporter))
        config = planned.config.model_dump(mode="json", by_alias=True)
        jobs = [
            RowJob(planned.stage.kind, config, plan.use, partition, context, str(space.root), key)
            for key, partition in missing
        ]
        list(engine.run(run_row_job, jobs, lambda result: reporter.advanced(planned.name, result[1])))
    notes: list[Any] = []
    for number, (key, partition) in enumerate(zip(keys, state.partitions, strict=True)):
        entry = space.entry(planned.stage.kind, key)
        manifest = _entry(entry)
        state.partitions[number] = apply_row_entry(planned.stage, planned.config, partition, entry, manifest)
        if manifest["dropped"]:
            state.fates[partition.name].append(materialize.FateFile(planned.name, str(entry / "fates.parquet")))
        if manifest["notes"]:
            notes.append(manifest["notes"])
    _log(state, planned, rows_in, keys, added([*prepared, *notes]), started, cached=not missing, reporter=reporter)


def _prepare(
    space: store.Workspace,
    planned: PlannedStage,
    partitions: list[Partition],
    context: stages.Context,
    reporter: Reporter,
) -> Mapping[str, Any]:
    """What a row stage does once, before its partitions are run."""
    stage = planned.stage
    assert stage.prepare is not None
    reads = (stage.prepares or stage.reads)(planned.config)
    with store.scratch(space) as scratch:
        context = dataclasses.replace(
            context, scratch=scratch, status=lambda text, facts: reporter.status(planned.name, text, facts)
        )
        rows = PartitionRows(partitions, reads, scratch=scratch, memory_limit=context.memory_limit)
        return stage.prepare(planned.config, rows, context) if rows.count else {}


def _run_global_stage(
    space: store.Workspace, plan: Plan, planned: PlannedStage, engine: LocalEngine, state: State, reporter: Reporter
) -> None:
    started = time.monotonic()
    rows_in = state.kept
    key = global_key(planned, stage_fingerprint(plan, planned), state.partitions)
    entry = space.entry(planned.stage.kind, key)
    cached = store.load_entry(entry) is not None
    if not cached:
        store.discard(space, entry)
        reporter.stage_started(planned.name, kind=planned.stage.kind, rows=rows_in, parts=1)
        context = dataclasses.replace(
            _context(space, plan, planned, engine), progress=lambda rows: reporter.advanced(planned.name, rows)
        )
        run_global(planned.stage, planned.config, state.partitions, context, space, key)
    manifest = _entry(entry)
    state.partitions = apply_global_entry(planned.stage, planned.config, state.partitions, entry, manifest)
    if manifest["dropped"]:
        for partition in state.partitions:
            state.fates[partition.name].append(materialize.FateFile(planned.name, str(entry / "fates.parquet")))
    _log(state, planned, rows_in, [key], manifest["notes"], started, cached=cached, reporter=reporter)


def _entry(path: Path) -> dict[str, Any]:
    manifest = store.load_entry(path)
    if manifest is None:
        raise WinnowError(
            f"A result of the stage cache vanished while it was in use: {path}\nIs `winnow gc` running beside this build? Run the same command again."
        )
    return manifest


def _log(
    state: State,
    planned: PlannedStage,
    rows_in: int,
    keys: list[str],
    notes: Any,
    started: float,
    *,
    cached: bool,
    reporter: Reporter,
) -> None:
    kept = state.kept
    state.log.append(
        {
            "name": planned.name,
            "kind": planned.stage.kind,
            "revision": planned.stage.revision,
            "rows_in": rows_in,
            "rows_out": kept,
            "dropped": rows_in - kept,
            "writes": sorted(planned.stage.writes(planned.config)),
            "keys": keys,
            "notes": notes,
        }
    )
    reporter.stage_finished(
        planned.name,
        cached=cached,
        rows_in=rows_in,
        kept=kept,
        dropped=rows_in - kept,
        seconds=time.monotonic() - started,
    )
