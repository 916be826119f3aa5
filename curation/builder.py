"""Build a version: hold the locks, run the plan (see `curation.running`), write what is left, name it, make it visible.

A build holds the lock of its recipe's name in the workspace. Run again after any interruption, it goes on where it stopped
and ends in the same version: an id comes from the version's rows alone (see `materialize.version_id`).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import expectations, ledger, materialize, store
from curation import ingest as ingestion
from curation.card import write_card
from curation.catalog import write_catalog
from curation.console import Quiet, Reporter
from curation.digests import PREFIXES, json_digest
from curation.engines.local import LocalEngine
from curation.engines.partition import Partition
from curation.images import ImageStore
from curation.recipe import Plan, load_recipe
from curation.running import State, run_plan
from curation.versions import Version, list_manifests
from schemas.errors import WinnowError

FORMAT = 1


def build(
    recipe: Path | str,
    *,
    set: Sequence[str] = (),
    workspace: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    memory_limit: int | None = None,
    limit: int | None = None,
    wait: bool = True,
    reporter: Reporter | None = None,
) -> Version:
    """Build the version that a recipe describes, and return it.

    set           overrides like "stages.dedup.text.threshold=0.7"
    workspace     folder of caches and versions; by default WINNOW_WORKSPACE or .winnow
    workers       processes; by default one per core
    memory_limit  bytes; by default 60 % of the machine's memory
    limit         rows per source, for a first try
    wait          wait for another build of this name in the workspace, or raise BusyError

    Running it again gives the same version: what is there is not made again. Raises RecipeError before any work where
    the recipe is wrong, and WinnowError where a source, the disk or a stage refuses.
    """
    reporter = reporter or Quiet()
    space = store.open_workspace(workspace)
    plan = load_recipe(Path(recipe), overrides=set, limit=limit, workspace=space.root)
    if engine != "local":
        raise WinnowError(f"The engine {engine!r} is not known. Use --engine local.")
    started = time.monotonic()
    with (
        store.os_errors(space.root),
        store.lock(space, "workspace", wait=wait, what="The workspace", shared=True),
        store.lock(space, f"build-{plan.recipe.name}", wait=wait, what=f"The build of {plan.recipe.name}"),
        LocalEngine(workers, memory_limit) as runner,
    ):
        for stale in store.stale_scratch(space):
            store.discard(space, stale)
        for output in plan.outputs:
            if output.asked_otherwise:
                reporter.note(
                    f"Output {output.name}: its examples are prompted otherwise than the teacher was (`prompt` and `system` "
                    "here, `template` and `system` of the fanout)."
                )
        state = run_plan(space, plan, runner, limit, reporter)
        version = _finish(space, plan, runner, state, reporter, started, limit)
        write_catalog(space)
        if limit is None:
            for line in expectations.compared(plan.recipe.expect, version.manifest):
                if not line["agrees"]:
                    reporter.note(expectations.sentence(line))
        for stage in version.manifest["stages"]:
            for text in stage.get("notes", {}).get("impossible", ()):
                reporter.note(f"Stage {stage['name']}: impossible: {text}.")
        _report(version, reporter)
    reporter.finished(version)
    return version


def _report(version: Version, reporter: Reporter) -> None:
    """Write report.html into a version that has none. The version is whole without it, so a report that fails is told of
    and costs nothing. `WINNOW_REPORT=no` leaves it out."""
    from curation import reporting

    if os.environ.get("WINNOW_REPORT") == "no" or (version.path / reporting.NAME).exists():
        return
    try:
        reporting.write(version, version.path / reporting.NAME, items=False)
    except Exception as error:
        reporter.note(f"The version is finished, its report is not: {error}\nTry again: winnow report {version}")


# -------------------------------------------------------------------------------------------------------------- the end


def _finish(
    space: store.Workspace,
    plan: Plan,
    engine: LocalEngine,
    state: State,
    reporter: Reporter,
    started: float,
    limit: int | None,
) -> Version:
    name = plan.recipe.name
    has_images = any(_has_images(partition) for partition in state.partitions)
    outputs = []
    for output in plan.outputs:
        config = output.export.settle(output.config, has_images)
        outputs.append(
            materialize.OutputSpec(output.name, output.export.kind, config.model_dump(mode="json", by_alias=True))
        )
    key = json_digest(
        {
            "name": name,
            "revision": [FORMAT, materialize.REVISION],
            "partitions": [[p.name, p.fingerprint(list(p.layers), needs="verdicts")] for p in state.partitions],
            "sources": [source.key for source in state.ingested],
            "fates": [
                [partition, [[f.stage, Path(f.path).parent.name] for f in files]]
                for partition, files in state.fates.items()
            ],
            "outputs": [
                [o.name, o.kind, dict(o.config), plan.outputs[i].export.revision] for i, o in enumerate(outputs)
            ],
        }
    )[:24]
    done = space.builds / f"{key}.json"
    if done.exists():
        record = store.read_json(done)
        path = space.versions / name / record["id"]
        if store.load_entry(path) is not None:
            _point_latest(space, name, record["id"])
            reporter.stage_finished(
                "write",
                cached=True,
                rows_in=state.kept,
                kept=record["kept"],
                dropped=state.kept - record["kept"],
                seconds=0.0,
            )
            return Version.open(path)

    previous = list_manifests(space, name)
    images = ImageStore(space.root)
    shards = materialize.shard_count(state.partitions, images, has_images=has_images)
    if previous and shards / 4 <= previous[0]["shards"] <= shards * 4:
        # A lineage keeps its shards, so that files stay the same where rows do, unless it has outgrown them.
        shards = previous[0]["shards"]
    reporter.stage_started("write", kind="write", rows=state.kept, parts=shards)
    write_started = time.monotonic()
    with store.scratch(space) as scratch:
        target = scratch / "version"
        target.mkdir()
        quarantine = _quarantine_files(state, scratch)
        provenance = {k: v for source in state.ingested for k, v in source.provenance.items()}
        known = _known_files(space, previous)
        jobs = []
        for number in range(shards):
            first, last = PREFIXES * number // shards, PREFIXES * (number + 1) // shards
            here = [p for p in state.partitions if p.first < last and p.last > first]
            jobs.append(
                materialize.ShardJob(
                    number, shards, here, {p.name: provenance[p.name] for p in here}, {p.name: state.fates[p.name] for p in here},
                    quarantine, outputs, plan.use, known, str(target), str(space.root), len(state.ingested) > 1,
                )
            )  # fmt: skip
        results = []
        book = ledger.LedgerWriter(target / "ledger.parquet")
        for result in engine.run(materialize.write_shard, jobs, lambda result: reporter.advanced("write", result.kept)):
            results.append(result)
            with pa.memory_map(result.ledger) as file:
                book.write(pa.ipc.open_file(file).read_all())
            Path(result.ledger).unlink()
        manifest = _manifest(plan, state, results, book, target, shards, limit)
        version_id = manifest["id"]
        manifest["run"] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 3),
            "host": platform.node(),
            "workers": engine.workers,
            "memory_limit": engine.memory_limit,
        }
        write_card(target, manifest)
        manifest["files"]["README.md"] = materialize.file_record(target / "README.md")
        path = space.versions / name / version_id
        with store.lock(space, "commit", wait=True, what="The workspace"):
            if path.exists() and store.load_entry(path) is None:
                store.discard(space, path)
            if not path.exists():
                store.commit(target, path, manifest)
            store.write_json(done, {"name": name, "id": version_id, "kept": manifest["counts"]["kept"]})
        _point_latest(space, name, version_id)
    kept = manifest["counts"]["kept"]
    reporter.stage_finished(
        "write",
        cached=False,
        rows_in=state.kept,
        kept=kept,
        dropped=state.kept - kept,
        seconds=time.monotonic() - write_started,
    )
    return Version.open(path)


def _has_images(partition: Partition) -> bool:
    """Whether a kept row of it has a picture."""
    lengths = pc.list_value_length(partition.read(["images"])["images"])
    return bool((pc.max(lengths).as_py() or 0) > 0)


def _quarantine_files(state: State, scratch: Path) -> list[str]:
    files = []
    for number, source in enumerate(state.ingested):
        if len(source.quarantine):
            path = scratch / f"quarantine-{number}.parquet"
            pq.write_table(source.quarantine, path)
            files.append(str(path))
    return files


def _known_files(space: store.Workspace, manifests: Sequence[Mapping[str, Any]]) -> dict[str, materialize.KnownFile]:
    """Shard files of earlier versions of this name, by key; the newest version that has one counts."""
    known: dict[str, materialize.KnownFile] = {}
    for manifest in manifests[:20]:
        for name, record in manifest["files"].items():
            path = space.versions / manifest["name"] / manifest["id"] / name
            if (
                "key" in record
                and record["key"] not in known
                and path.exists()
                and path.stat().st_size == record["bytes"]
            ):
                known[record["key"]] = materialize.KnownFile(str(path), record)
    return known


def _manifest(
    plan: Plan,
    state: State,
    results: Sequence[materialize.ShardResult],
    book: ledger.LedgerWriter,
    target: Path,
    shards: int,
    limit: int | None,
) -> dict[str, Any]:
    digests: dict[str, dict[int, str]] = {}
    files: dict[str, dict[str, Any]] = {}
    examples: dict[str, int] = {output.name: 0 for output in plan.outputs}
    splits: dict[str, dict[str, int]] = {output.name: {} for output in plan.outputs}
    traces = {"made": 0, "exported": 0, "not_exported": 0}
    for result in results:
        for table, of in result.digests.items():
            digests.setdefault(table, {}).update(of)
        files.update(result.files)
        for name, by_split in result.examples.items():
            for split, count in by_split.items():
                examples[name] += count
                splits[name][split] = splits[name].get(split, 0) + count
        for fate, count in result.traces.items():
            traces[fate] += count
    counts, funnel = book.reconcile(
        rows_in={source.source: ingestion.rows_in(source) for source in state.ingested},
        examples=examples,
        traces=traces if traces["made"] else {},
    )
    if not counts["kept"]:
        raise materialize.nothing_left(funnel)
    files["ledger.parquet"] = {**materialize.file_record(target / "ledger.parquet"), "rows": counts["input"]}
    manifest = {
        "format": FORMAT,
        "name": plan.recipe.name,
        "id": materialize.version_id(digests),
        "description": plan.recipe.description,
        "seed": plan.recipe.seed,
        "recipe": plan.text,
        "limit": limit,
        "shards": shards,
        "counts": counts,
        "funnel": funnel,
        "splits": {name: dict(sorted(of.items())) for name, of in splits.items()},
        "outputs": [
            {
                "name": o.name,
                "export": o.export.kind,
                "config": o.config.model_dump(mode="json", by_alias=True),
                **({"asked_otherwise": dict(o.asked_otherwise)} if o.asked_otherwise else {}),
            }
            for o in plan.outputs
        ],
        "stages": state.log,
        "inputs": {source.source: source.inputs for source in state.ingested},
        "licenses": _licenses(state.partitions),
        "digests": {table: json_digest(sorted(of.items())) for table, of in sorted(digests.items())},
        "libraries": {name: metadata.version(name) for name in ("winnow", "polars", "duckdb", "pyarrow", "numpy")},
        "python": platform.python_version(),
        "files": dict(sorted(files.items())),
    }
    if limit is None and (expected := expectations.compared(plan.recipe.expect, manifest)):
        manifest["expected"] = expected
    return manifest


def _licenses(partitions: Sequence[Partition]) -> dict[str, dict[str, int]]:
    """source -> licence -> kept rows."""
    found: dict[str, dict[str, int]] = {}
    for partition in partitions:
        column = partition.read(["license"])["license"].combine_chunks()
        for line in column.value_counts().to_pylist():
            of = found.setdefault(partition.source, {})
            name = line["values"] or "unknown"
            of[name] = of.get(name, 0) + line["counts"]
    return {source: dict(sorted(of.items())) for source, of in sorted(found.items())}


def _point_latest(space: store.Workspace, name: str, version_id: str) -> None:
    path = space.root / "refs" / f"{name}.json"
    with store.lock(space, "commit", wait=True, what="The workspace"):
        refs = store.read_json(path) if path.exists() else {"tags": {}}
        if refs.get("latest") != version_id:
            store.write_json(path, {**refs, "latest": version_id})
