"""How stages run over partitions: one row stage on one partition, and what a global stage sees of all of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation import stages, store
from curation.digests import json_digest
from curation.engines.moved import write_moved
from curation.engines.partition import VERDICTS, Layer, Partition, layers_of, read_table, write_pieces, write_table
from curation.ids import ids_array
from schemas.errors import WinnowError
from schemas.rows import FATE, TRACE
from schemas.sqltext import quoted

if TYPE_CHECKING:
    import duckdb


def use(modules: Sequence[str]) -> None:
    """Import a recipe's own stages: paths of Python files, or names of modules. Done once per process."""
    for name in modules:
        if not name.endswith(".py"):
            importlib.import_module(name)
            continue
        module_name = f"winnow_use_{json_digest(name)[:12]}"
        if module_name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module_name, name)
        if spec is None or spec.loader is None:
            raise WinnowError(f"use: {name} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise


BLOCK_ROWS = 2048
"""Rows that a stage which sees traces is shown at a time."""

# ----------------------------------------------------------------------------------------------------------- row stages


@dataclass(frozen=True)
class RowJob:
    """One row stage on one partition, for a worker."""

    kind: str
    config: Mapping[str, Any]
    use: tuple[str, ...]
    partition: Partition
    context: stages.Context
    workspace: str
    key: str


def run_row_job(job: RowJob) -> tuple[str, int]:
    """Do it, commit the entry, return its path and the number of rows seen."""
    workspace = store.open_workspace(job.workspace)
    entry = workspace.entry(job.kind, job.key)
    kept = job.partition.kept
    if (found := store.load_entry(entry)) is not None and not found.get("again"):
        return str(entry), kept
    registry = stages.load()
    use(job.use)
    stage = registry[job.kind]
    config = stage.config.model_validate(job.config)
    rows = job.partition.read(["row_id", *(c for c in stage.reads_of(config, job.partition.layers) if c != "row_id")])
    with store.scratch(workspace) as space:
        context = replace(job.context, scratch=space)
        started = time.monotonic()
        outcome = _outcome(stage, config, rows, context, job.partition) if len(rows) else stages.Outcome()
        target = space / "entry"
        target.mkdir()
        manifest = _write_outcome(stage, config, job, rows, outcome, target)
        store.commit(target, entry, {**manifest, "seconds": round(time.monotonic() - started, 3)})
    return str(entry), kept


def _outcome(
    stage: stages.Stage, config: Any, rows: pa.Table, context: stages.Context, partition: Partition
) -> stages.Outcome:
    """What a row stage says of a partition's rows. Texts of traces are far larger than rows, so a stage that sees them
    is shown BLOCK_ROWS rows at a time."""
    needs = stage.needs_of(config)
    if needs == "rows":
        if stage.makes == "traces" and partition.traces is not None:

            def earlier(first: str, last: str) -> pa.Table:
                found = partition.read_traces(between=(first, last))
                assert found is not None
                return found

            context = replace(context, earlier_traces=earlier)
        return stage.run(config, rows, context)
    said = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows.slice(start, BLOCK_ROWS)
        first, last = block["row_id"][0].as_py(), block["row_id"][-1].as_py()
        traces = partition.read_traces(between=(first, last))
        verdicts = partition.read_verdicts(between=(first, last)) if needs == "verdicts" else None
        said.append(stage.run(config, block, replace(context, traces=traces, verdicts=verdicts)))
    if len(said) == 1:
        return said[0]
    made = {
        what: pa.concat_tables(found)
        for what in ("columns", "fates", "verdicts")
        if (found := [table for one in said if (table := getattr(one, what)) is not None])
    }
    traces = [piece for one in said for piece in _pieces(one.traces) or ()]
    return stages.Outcome(**made, traces=traces or None, notes=added([_called(one.notes) for one in said]))


def _called(value: Any) -> Any:
    """What a stage said, now that its pieces are written."""
    return value() if callable(value) else value


def _pieces(table: pa.Table | Iterable[pa.Table] | None) -> Iterable[pa.Table] | None:
    return [table] if isinstance(table, pa.Table) else table


def added(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Notes of several parts as one: numbers are added, lists joined, other values kept where they agree."""
    total: dict[str, Any] = {}
    for note in notes:
        for key, value in note.items():
            have = total.get(key)
            if have is None:
                total[key] = value
            elif isinstance(value, bool | str):
                total[key] = (
                    value if value == have else f"{have}; {value}" if isinstance(value, str) else have and value
                )
            elif isinstance(value, int | float):
                total[key] = have + value
            elif isinstance(value, list):
                total[key] = [*have, *value][:100]
            elif isinstance(value, dict):
                total[key] = added([have, value])
    return total


def _write_outcome(
    stage: stages.Stage, config: Any, job: RowJob, rows: pa.Table, outcome: stages.Outcome, target: Path
) -> dict[str, Any]:
    name = job.context.name
    manifest: dict[str, Any] = {}
    writes = stage.writes(config)
    if writes:
        columns = outcome.columns
        if columns is None and not len(rows):
            columns = pa.schema(list(writes.items())).empty_table()
        if columns is None or len(columns) != len(rows) or not set(writes) <= set(columns.column_names):
            raise WinnowError(
                f"Stage {name} must return the columns {sorted(writes)} for all {len(rows):,} rows that it was given; it "
                f"returned {'nothing' if columns is None else f'{columns.column_names} for {len(columns):,} rows'}."
            )
        # Full length, so that later stages read it beside the others without a join.
        mask = job.partition.mask
        table = pa.table([columns[c].cast(t) for c, t in writes.items()], names=list(writes))
        if not mask.all():
            index = np.where(mask, np.cumsum(mask) - 1, -1)
            table = table.take(pa.array(index, mask=index < 0))
        table = table.combine_chunks()
        write_table(target / "columns.parquet", table)
        manifest["columns"] = {c: layer.digest for c, layer in layers_of(Path(), table).items()}
    for what, schema in (("traces", TRACE), ("verdicts", VERDICTS)):
        made = _pieces(getattr(outcome, what))
        if made is None and (stage.makes != what or (what == "traces" and job.partition.traces is not None)):
            continue
        manifest[what], manifest[f"{what}_count"] = write_pieces(target / f"{what}.parquet", made or (), schema)
    fates = _called(outcome.fates)
    fates = checked_fates(name, FATE.empty_table() if fates is None else fates, ids_array(rows["row_id"]))
    write_table(target / "fates.parquet", fates)
    manifest |= {"dropped": len(fates), "notes": dict(_called(outcome.notes)), "again": _called(outcome.again)}
    return manifest


def checked_fates(name: str, fates: pa.Table, known: np.ndarray) -> pa.Table:
    """Fates in the one schema, sorted by row_id; each names one of the `known` rows (S20, sorted), and names it once."""
    fates = fates.select(FATE.names).cast(FATE).sort_by("row_id").combine_chunks()
    ids = ids_array(fates["row_id"])
    if len(ids) > 1 and (twice := np.flatnonzero(ids[1:] == ids[:-1])).size:
        raise WinnowError(f"Stage {name} gave row {ids[twice[0]].decode()} two fates; a row has exactly one.")
    at = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    strangers = ids[known[at] != ids] if len(known) else ids
    if len(strangers):
        raise WinnowError(
            f"Stage {name} decided on {len(strangers):,} rows that it was not given, the first {strangers[0].decode()}."
        )
    return fates


def apply_row_entry(
    stage: stages.Stage, config: Any, partition: Partition, entry: Path, manifest: Mapping[str, Any]
) -> Partition:
    """The partition after a stage whose result lies in `entry`."""
    layers = dict(partition.layers)
    if "columns" in manifest:
        types = stage.writes(config)
        layers.update({c: Layer(str(entry / "columns.parquet"), types[c], d) for c, d in manifest["columns"].items()})
    changed = replace(partition, layers=layers)
    if "traces" in manifest:
        changed = replace(changed, traces=str(entry / "traces.parquet"), traces_digest=manifest["traces"])
    if "verdicts" in manifest:
        changed = replace(changed, verdicts=str(entry / "verdicts.parquet"), verdicts_digest=manifest["verdicts"])
    if manifest["dropped"]:
        ids = ids_array(read_table(str(entry / "fates.parquet"), ["row_id"])["row_id"])
        changed, _ = changed.drop(ids)
    return changed


# -------------------------------------------------------------------------------------------------------- global stages


class PartitionRows:
    """`curation.stages.base.Rows` over partitions on disk."""

    def __init__(
        self,
        partitions: Sequence[Partition],
        reads: Sequence[str],
        *,
        scratch: Path,
        memory_limit: int,
        needs: str = "rows",
    ):
        self._partitions = partitions
        self._reads = ["row_id", *(c for c in reads if c != "row_id")]
        self._scratch = scratch
        self._memory_limit = memory_limit
        self._needs = needs

    @property
    def schema(self) -> pa.Schema:
        types = self._partitions[0].schema
        return pa.schema([types.field(name) for name in self._reads])

    @cached_property
    def count(self) -> int:
        return sum(p.kept for p in self._partitions)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        names = self._reads if columns is None else ["row_id", *(c for c in columns if c != "row_id")]
        for partition in self._partitions:
            yield partition.read(names)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        return pa.concat_tables(list(self.batches(columns)))

    def traces(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        schema = pa.schema([TRACE.field(name) for name in ("row_id", *(c for c in columns if c != "row_id"))])
        for partition in self._partitions:
            table = partition.read_traces(columns)
            yield schema.empty_table() if table is None else table

    def verdicts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        schema = pa.schema([VERDICTS.field(name) for name in ("row_id", *(c for c in columns if c != "row_id"))])
        for partition in self._partitions:
            table = partition.read_verdicts(columns)
            yield schema.empty_table() if table is None else table

    def connect(self, *, threads: int = 1) -> duckdb.DuckDBPyConnection:
        """See `Rows.connect`. The columns are laid out once in the scratch folder, so DuckDB may scan them often and
        out of core."""
        folder = self._scratch / f"rows-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        views = {"rows": (f"{folder}/rows-*.parquet", self.batches())}
        if self._needs in ("traces", "verdicts"):
            views["traces"] = (f"{folder}/traces-*.parquet", (p.read_traces() for p in self._partitions))
        if self._needs == "verdicts":
            views["verdicts"] = (f"{folder}/verdicts-*.parquet", (p.read_verdicts() for p in self._partitions))
        for pattern, tables in views.values():
            for number, table in enumerate(tables):
                if table is not None:
                    write_table(Path(pattern.replace("*", f"{number:05d}")), table)
        return locked_connection(
            folder,
            memory_limit=self._memory_limit,
            threads=threads,
            views={name: pattern for name, (pattern, _) in views.items()},
        )


def locked_connection(
    folder: Path, *, memory_limit: int, threads: int, views: Mapping[str, str]
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that can read Parquet files in `folder` and nothing else, and whose settings are locked."""
    import duckdb

    connection = duckdb.connect()
    spill = folder / "spill"
    spill.mkdir(exist_ok=True)
    connection.execute(f"set threads = {threads}")
    connection.execute(f"set memory_limit = '{max(memory_limit, 64 << 20)}B'")
    connection.execute(f"set temp_directory = {quoted(str(spill))}")
    connection.execute("set preserve_insertion_order = true")
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("set enable_progress_bar = false")
    connection.execute(f"set allowed_directories = [{quoted(str(folder) + '/')}]")
    connection.execute("set enable_external_access = false")
    for name, pattern in views.items():
        connection.execute(f"create view {name} as select * from read_parquet({quoted(pattern)})")
    connection.execute("set lock_configuration = true")
    return connection


def run_global(
    stage: stages.Stage,
    config: Any,
    partitions: Sequence[Partition],
    context: stages.Context,
    workspace: store.Workspace,
    key: str,
) -> Path:
    """Run a global stage over all partitions and commit what it said."""
    entry = workspace.entry(stage.kind, key)
    with store.scratch(workspace) as space:
        reads = stage.reads_of(config, partitions[0].schema.names if partitions else ())
        rows = PartitionRows(
            partitions, reads, scratch=space, memory_limit=context.memory_limit, needs=stage.needs_of(config)
        )
        started = time.monotonic()
        outcome = stage.run(config, rows, replace(context, scratch=space)) if rows.count else stages.Outcome()
        seconds = time.monotonic() - started
        target = space / "entry"
        target.mkdir()
        kept = (
            np.sort(np.concatenate([ids_array(p.read(["row_id"])["row_id"]) for p in partitions]))
            if partitions
            else np.empty(0, "S20")
        )
        fates = _called(outcome.fates)
        fates = checked_fates(context.name, FATE.empty_table() if fates is None else fates, kept)
        write_table(target / "fates.parquet", fates)
        manifest: dict[str, Any] = {"notes": dict(_called(outcome.notes)), "dropped": len(fates), "columns": {}}
        laid = _laid_out(stage, config, context.name, outcome, kept)
        for number, partition in enumerate(partitions):
            if laid is None:
                break
            table = _spread(laid, partition)
            write_table(target / f"columns-{number:05d}.parquet", table)
            manifest["columns"][str(number)] = {c: layer.digest for c, layer in layers_of(Path(), table).items()}
        if outcome.moved is not None:
            manifest["moved"] = write_moved(context.name, outcome.moved, partitions, target)
        store.commit(target, entry, {**manifest, "seconds": round(seconds, 3)})
    return entry


def _laid_out(
    stage: stages.Stage, config: Any, name: str, outcome: stages.Outcome, kept: np.ndarray
) -> pa.Table | None:
    """row_id and the written columns (and `repeat`), sorted by row_id; or None where nothing was written."""
    writes = dict(stage.writes(config))
    table = outcome.columns
    if outcome.repeat is not None:
        import polars as pl

        repeat = outcome.repeat.select(["row_id", "repeat"])
        frame = pl.from_arrow(repeat)
        assert isinstance(frame, pl.DataFrame)
        if table is not None:
            others = pl.from_arrow(table)
            assert isinstance(others, pl.DataFrame)
            frame = others.join(frame, on="row_id", how="full", coalesce=True)
        table = frame.to_arrow()
        writes["repeat"] = pa.int32()
    if writes and table is None and len(kept):
        raise WinnowError(f"Stage {name} must return the columns {sorted(writes)}; it returned none.")
    if writes and table is not None:
        table = (
            table.select(["row_id", *writes])
            .cast(pa.schema([("row_id", pa.string()), *writes.items()]))
            .sort_by("row_id")
            .combine_chunks()
        )
        if not np.all(np.isin(ids_array(table["row_id"]), kept)):
            raise WinnowError(f"Stage {name} returned columns for rows that it was not given.")
        if len(table) > 1 and np.any(ids_array(table["row_id"])[1:] == ids_array(table["row_id"])[:-1]):
            raise WinnowError(f"Stage {name} returned columns twice for one row.")
    return table if writes else None


def _spread(laid: pa.Table, partition: Partition) -> pa.Table:
    """The written columns at full length of the partition; null where the stage said nothing."""
    own = ids_array(partition.read(["row_id"], alive=False)["row_id"])
    known = ids_array(laid["row_id"])
    values = laid.drop_columns(["row_id"])
    if not len(known):
        return pa.table([pa.nulls(len(own), f.type) for f in values.schema], names=values.column_names)
    at = np.minimum(np.searchsorted(known, own), len(known) - 1)
    return values.take(pa.array(at, mask=known[at] != own)).combine_chunks()


def apply_global_entry(
    stage: stages.Stage, config: Any, partitions: Sequence[Partition], entry: Path, manifest: Mapping[str, Any]
) -> list[Partition]:
    """All partitions after a global stage."""
    types = {**stage.writes(config), "repeat": pa.int32()}
    ids = ids_array(read_table(str(entry / "fates.parquet"), ["row_id"])["row_id"])
    result = []
    for number, partition in enumerate(partitions):
        layers = dict(partition.layers)
        for column, digest in manifest["columns"].get(str(number), {}).items():
            layers[column] = Layer(str(entry / f"columns-{number:05d}.parquet"), types[column], digest)
        changed = replace(partition, layers=layers)
        for what, digest in manifest.get("moved", {}).get(str(number), {}).items():
            changed = replace(changed, **{what: str(entry / f"{what}-{number:05d}.parquet"), f"{what}_digest": digest})
        if len(ids):
            changed, _ = changed.drop(ids)
        result.append(changed)
    return result
