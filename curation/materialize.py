"""The end of a plan: what is kept becomes files of a version.

The version is cut into shards by row-id prefix; one job writes everything of one shard: its part of the ledger, the
narrow columns of all rows, kept or not, the traces and verdicts with their fates, and each export's examples. A shard
file that an earlier version of the same name already has is linked, not written: image bytes are touched only where
something changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import exports
from curation.digests import PREFIXES, json_digest, prefix_digests, table_digest
from curation.engines.partition import (
    Partition,
    dictionary_columns,
    read_prefixes,
    read_table,
)
from curation.engines.rows import use
from curation.ids import ids_array, pair_keys
from curation.images import ImageStore
from curation.ledger import lines_of_fates, lines_of_kept
from schemas.errors import WinnowError
from schemas.rows import LEDGER, PROVENANCE, TRACE_FATES

REVISION = 1
NARROW_SHARD_BYTES = 40 << 20
WIDE_SHARD_BYTES = 128 << 20


@dataclass(frozen=True)
class FateFile:
    """Fates that one stage gave, in a file sorted by row_id."""

    stage: str
    path: str


@dataclass(frozen=True)
class KnownFile:
    """A shard file of an earlier version, and what its manifest says of it."""

    path: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class OutputSpec:
    name: str
    kind: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class ShardJob:
    number: int
    count: int
    partitions: Sequence[Partition]
    """Those that may hold rows of this shard."""
    provenance: Mapping[str, str]
    fates: Mapping[str, Sequence[FateFile]]
    """Partition name -> fates that stages gave its rows."""
    quarantine: Sequence[str]
    """Ledger files of records that never became rows."""
    outputs: Sequence[OutputSpec]
    use: tuple[str, ...]
    known: Mapping[str, KnownFile]
    """Key of a shard file -> the same file in an earlier version."""
    target: str
    workspace: str
    by_source: bool = False
    """Cut data files by source too, so that a source that changes leaves the files of the others as they are."""

    @property
    def first(self) -> int:
        return PREFIXES * self.number // self.count

    @property
    def last(self) -> int:
        return PREFIXES * (self.number + 1) // self.count


@dataclass
class ShardResult:
    digests: dict[str, dict[int, str]] = field(default_factory=dict)
    """Table name -> prefix -> digest of its logical rows."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Relative path -> sha256, bytes, rows, key, linked."""
    examples: dict[str, dict[str, int]] = field(default_factory=dict)
    """Output -> split -> examples."""
    traces: dict[str, int] = field(default_factory=lambda: {"made": 0, "exported": 0, "not_exported": 0})
    kept: int = 0
    ledger: str = ""
    """Its part of the ledger, as an Arrow file for the writer of ledger.parquet, who removes it."""


def shard_count(partitions: Sequence[Partition], image_store: ImageStore, *, has_images: bool) -> int:
    """How many shards a new lineage gets: a power of two, from the size of its rows."""
    narrow = sum(p.nbytes + p.trace_bytes for p in partitions)
    wide = narrow
    if has_images:
        sizes = {row["hash"]: row["bytes"] for row in image_store.index().select(["hash", "bytes"]).to_pylist()}
        for partition in partitions:
            for name in pc.unique(pc.list_flatten(partition.read(["images"])["images"])).to_pylist():
                wide += sizes.get(name, 0)
    count = 1
    while count < PREFIXES and (narrow / count > NARROW_SHARD_BYTES or wide / count > WIDE_SHARD_BYTES):
        count *= 2
    return count


def write_shard(job: ShardJob) -> ShardResult:
    """Write all files of one shard under `job.target`."""
    use(job.use)
    registry = exports.load()
    result = ShardResult()
    folder = Path(job.target)

    rows, alive, lines = _gather(job)
    kept = rows if alive.all() else rows.filter(pa.array(alive))
    kept_ids = ids_array(kept["row_id"])
    traces = _gather_traces(job, "traces")
    verdicts = _gather_traces(job, "verdicts")
    kept_traces, kept_verdicts = (_of_rows(table, kept_ids) for table in (traces, verdicts))

    counts: dict[str, np.ndarray] = {}
    refusals: dict[str, tuple[str, str, str]] = {}
    exported = np.zeros(len(traces) if traces is not None else 0, bool)
    trace_reasons: dict[tuple[str, int], str] = {}
    images = ImageStore(Path(job.workspace))
    for spec in job.outputs:
        export = registry[spec.kind]
        config = export.config.model_validate(spec.config)
        chosen = _where(kept, config.where)
        chosen_ids = ids_array(chosen["row_id"])
        made = export.build(config, chosen, _of_rows(kept_traces, chosen_ids), _of_rows(kept_verdicts, chosen_ids))
        table = made.table
        counts[spec.name] = _count_rows(kept_ids, table)
        for row_id, (reason, sentence) in made.row_reasons.items():
            refusals.setdefault(row_id, (spec.name, reason, sentence))
        if traces is not None:
            exported |= np.isin(pair_keys(traces), pair_keys(table))
            if made.trace_reasons is not None:
                for line in made.trace_reasons.to_pylist():
                    trace_reasons.setdefault((line["row_id"], line["k"]), line["reason"])
        table = _repeated(table, kept)
        features = export.features(config, table.drop_columns(["split"]).schema)
        splits = sorted(pc.unique(table["split"]).to_pylist())
        if len(splits) > 1:  # an export sorts by (split, row_id, k)
            table = table.sort_by([("row_id", "ascending"), *([("k", "ascending")] if "k" in features else [])])
        table = table.select([*features, "split"])
        digests = result.digests[f"data/{spec.name}"] = prefix_digests(table, job.first, job.last)
        result.examples[spec.name] = {}
        for split in splits:
            piece = table if len(splits) == 1 else table.filter(pc.equal(table["split"], split))
            piece = piece.drop_columns(["split"])
            result.examples[spec.name][split] = len(piece)
            parts: Sequence[tuple[str | None, pa.Table]] = _by_source(piece, kept) if job.by_source else [(None, piece)]
            for source, part in parts:
                content = digests if len(splits) == 1 and source is None else table_digest(part)
                _write_data(job, spec, export, config, features, split, part, content, images, folder, result, source)

    # A kept row that is in no output is not kept: its fate is the word of the export that refused it.
    total = sum(counts.values()) if counts else np.zeros(len(kept_ids), np.int64)
    made_of = np.asarray(total) > 0
    if "repeat" in kept.column_names:
        repeat = pc.fill_null(kept["repeat"], 1).to_numpy()
    else:
        repeat = np.ones(len(kept_ids), np.int32)
    in_data = kept if made_of.all() else kept.filter(pa.array(made_of))
    lines.append(
        lines_of_kept(in_data, in_data["split"], repeat[made_of], {name: n[made_of] for name, n in counts.items()})
    )
    lines.append(_refused(kept.filter(pa.array(~made_of)), refusals, [spec.name for spec in job.outputs]))
    ledger = pa.concat_tables(lines).sort_by("row_id").combine_chunks()
    result.kept = int(made_of.sum())

    decisions = rows.drop_columns(["file", "index"])
    result.digests["ledger"] = prefix_digests(ledger.drop_columns(["file", "index"]), job.first, job.last)
    result.digests["decisions"] = prefix_digests(decisions, job.first, job.last)
    result.ledger = str(folder / f"ledger-{job.number:05d}.arrow")
    with pa.OSFile(result.ledger, "wb") as sink, pa.ipc.new_file(sink, LEDGER) as writer:
        writer.write_table(ledger)
    _write_narrow(job, "decisions", decisions, folder, result)
    if traces is not None:
        traces = _trace_fates(traces, exported, trace_reasons, ledger)
        result.traces = {
            "made": len(traces),
            "exported": int(exported.sum()),
            "not_exported": pc.sum(pc.is_valid(traces["fate_reason"])).as_py() or 0,
        }
        result.digests["traces"] = prefix_digests(traces, job.first, job.last)
        _write_narrow(job, "traces", traces, folder, result)
    if verdicts is not None:
        result.digests["verdicts"] = prefix_digests(verdicts.drop_columns(["seconds"]), job.first, job.last)
        _write_narrow(job, "verdicts", verdicts, folder, result)
    return result


# ------------------------------------------------------------------------------------------------------------ gathering


def _gather(job: ShardJob) -> tuple[pa.Table, np.ndarray, list[pa.Table]]:
    """All rows of the shard (sorted by row_id, with provenance and split), which are alive, and ledger lines of those
    that are not."""
    tables, masks, lines = [], [], []
    for path in job.quarantine:
        lines.append(read_prefixes(path, job.first, job.last).cast(LEDGER))
    for partition in job.partitions:
        whole = partition.read(alive=False)
        where = read_table(job.provenance[partition.name], PROVENANCE.names[1:])
        table = pa.table({**{n: whole[n] for n in whole.column_names}, **{n: where[n] for n in where.column_names}})
        if "split" not in table.column_names:
            table = table.append_column("split", pa.nulls(len(table), pa.string()))
        ids = ids_array(table["row_id"])
        start = np.searchsorted(ids, f"{job.first:02x}".encode())
        stop = np.searchsorted(ids, f"{job.last:02x}".encode()) if job.last < PREFIXES else len(ids)
        table, mask = table.slice(start, stop - start), partition.mask[start:stop]
        for file in job.fates[partition.name]:
            fates = read_prefixes(file.path, job.first, job.last)
            own = fates.filter(pa.array(np.isin(ids_array(fates["row_id"]), ids_array(table["row_id"]))))
            lines.append(lines_of_fates(table, file.stage, own))
        tables.append(table)
        masks.append(mask)
    rows = pa.concat_tables(tables).combine_chunks()
    alive = np.concatenate(masks)
    if len(tables) > 1:
        order = np.argsort(ids_array(rows["row_id"]), kind="stable")
        rows, alive = rows.take(order).combine_chunks(), alive[order]
    # Only rows that are in the data belong to a split; those without one are training rows.
    split = pc.if_else(pa.array(alive), pc.fill_null(rows["split"], "train"), rows["split"])
    return rows.set_column(rows.schema.get_field_index("split"), "split", split), alive, lines


def _gather_traces(job: ShardJob, what: str) -> pa.Table | None:
    paths = [path for p in job.partitions if (path := getattr(p, what)) is not None]
    if not paths:
        return None
    table = pa.concat_tables([read_prefixes(path, job.first, job.last) for path in paths])
    return table.sort_by([("row_id", "ascending"), ("k", "ascending")]).combine_chunks()


def _of_rows(table: pa.Table | None, row_ids: np.ndarray) -> pa.Table | None:
    if table is None:
        return None
    own = ids_array(table["row_id"])
    if len(row_ids) == 0:
        return table.slice(0, 0)
    at = np.minimum(np.searchsorted(row_ids, own), len(row_ids) - 1)
    return table.filter(pa.array(row_ids[at] == own))


def _where(rows: pa.Table, predicate: str | None) -> pa.Table:
    if predicate is None:
        return rows
    import duckdb

    with duckdb.connect(config={"threads": 1, "enable_external_access": False}) as connection:
        connection.register("rows", rows)
        chosen = connection.sql(f"select row_id from rows where ({predicate})").to_arrow_table()["row_id"]
    return rows.filter(pa.array(np.isin(ids_array(rows["row_id"]), ids_array(chosen))))


# ------------------------------------------------------------------------------------------------------ fates at the end


def _count_rows(row_ids: np.ndarray, table: pa.Table) -> np.ndarray:
    """How many examples were made of each row."""
    made = ids_array(table["row_id"])
    counts = np.zeros(len(row_ids), np.int64)
    if len(made):
        np.add.at(counts, np.searchsorted(row_ids, made), 1)
    return counts


def _refused(rows: pa.Table, refusals: Mapping[str, tuple[str, str, str]], outputs: Sequence[str]) -> pa.Table:
    """Ledger lines of rows that survived every stage and that no export took."""
    lines = []
    for row in rows.select(["row_id", "content_id", "origin_key", "source", "split", "file", "index"]).to_pylist():
        output, reason, sentence = refusals.get(
            row["row_id"], (outputs[0], "not_selected", "No output selects this row (see the `where` of each output).")
        )
        lines.append(
            {
                **row,
                "fate": "dropped",
                "stage": f"export:{output}",
                "reason": reason,
                "sentence": sentence,
                "evidence": "{}",
                "into": None,
                "repeat": 0,
            }
        )
    return pa.Table.from_pylist(lines, schema=LEDGER)


def _trace_fates(
    traces: pa.Table, exported: np.ndarray, reasons: Mapping[tuple[str, int], str], ledger: pa.Table
) -> pa.Table:
    """Traces with `fate` and `fate_reason`: every one is exported, or says why it is not."""
    own = ids_array(ledger["row_id"])
    at = np.searchsorted(own, ids_array(traces["row_id"]))
    of_row = ledger.select(["fate", "stage", "reason"]).take(at)
    ids, ks = traces["row_id"].to_pylist(), traces["k"].to_pylist()
    why: list[str | None] = []
    for i, (fate, stage, reason) in enumerate(
        zip(*(of_row[c].to_pylist() for c in ("fate", "stage", "reason")), strict=True)
    ):
        if exported[i]:
            why.append(None)
        elif fate != "kept":
            why.append(
                reasons.get((ids[i], ks[i]))
                if stage.startswith("export:") and (ids[i], ks[i]) in reasons
                else f"row_{fate}:{stage}:{reason}"
            )
        else:
            why.append(reasons.get((ids[i], ks[i]), "not_selected"))
    fate_column = pc.if_else(pa.array(exported), "exported", "not_exported")
    table = traces.drop_columns([c for c in TRACE_FATES.names if c in traces.column_names])
    return table.append_column("fate", fate_column).append_column("fate_reason", pa.array(why, pa.string()))


# --------------------------------------------------------------------------------------------------------------- writing


def _repeated(table: pa.Table, rows: pa.Table) -> pa.Table:
    """Examples of rows that a mixture repeats, as often as it says."""
    if "repeat" not in rows.column_names or not len(table):
        return table
    at = np.searchsorted(ids_array(rows["row_id"]), ids_array(table["row_id"]))
    times = pc.fill_null(rows["repeat"], 1).to_numpy()[at]
    return table if np.all(times == 1) else table.take(np.repeat(np.arange(len(table)), times))


def data_file(split: str, number: int, count: int, source: str | None = None) -> str:
    """The name of a data file. A source is told by a hash of its name, because loaders look for words such as `test`
    in file names; the manifest says which it is."""
    mark = "" if source is None else f"-{hashlib.sha256(source.encode()).hexdigest()[:6]}"
    return f"{split}-{number:05d}-of-{count:05d}{mark}.parquet"


def _by_source(table: pa.Table, rows: pa.Table) -> list[tuple[str | None, pa.Table]]:
    """The examples of each source, by its name."""
    at = np.searchsorted(ids_array(rows["row_id"]), ids_array(table["row_id"]))
    column = rows["source"].take(pa.array(at)).combine_chunks()
    names = sorted(pc.unique(column).to_pylist())
    return [(name, table.filter(pc.equal(column, name))) for name in names]


def _write_data(
    job: ShardJob,
    spec: OutputSpec,
    export: exports.Export,
    config: Any,
    features: Mapping[str, Any],
    split: str,
    piece: pa.Table,
    content: str | Mapping[int, str],
    images: ImageStore,
    folder: Path,
    result: ShardResult,
    source: str | None = None,
) -> None:
    """One file of one export and split (and source); `content` is the digest of its rows."""
    from curation.exports import parquet

    name = f"data/{spec.name}/{data_file(split, job.number, job.count, source)}"
    key = json_digest([export.kind, export.revision, parquet.REVISION, features, content])
    if _link(job, key, name, folder, result):
        return
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    linked = export.linked(config)
    written = parquet.write_shard(
        path,
        piece,
        image_columns=export.images(config),
        linked=linked,
        read_images=images.read,
        features=dict(features),
    )
    beside = sorted(written.files)
    for file, (sha256, nbytes) in written.files.items():
        result.files[f"data/{spec.name}/{file}"] = {"sha256": sha256, "bytes": nbytes, "rows": 0}
    result.files[name] = {"sha256": written.sha256, "bytes": written.bytes, "rows": written.rows, "key": key}
    if source is not None:
        result.files[name]["source"] = source
    if linked:
        result.files[name] |= {"linked_columns": list(linked), "beside": beside}


def _write_narrow(job: ShardJob, table_name: str, table: pa.Table, folder: Path, result: ShardResult) -> None:
    name = f"{table_name}/part-{job.number:05d}-of-{job.count:05d}.parquet"
    key = json_digest([REVISION, table_name, result.digests[table_name]])
    if _link(job, key, name, folder, result):
        return
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=dictionary_columns(table.schema),
        row_group_size=1 << 16,
        write_page_index=True,
    )
    result.files[name] = {**file_record(path), "rows": len(table), "key": key}


def _link(job: ShardJob, key: str, name: str, folder: Path, result: ShardResult) -> bool:
    """Take the file from an earlier version, where one has the same rows in the same layout."""
    known = job.known.get(key)
    if known is None:
        return False
    here, there = (folder / name).parent, Path(known.path).parent
    wanted = {folder / name: Path(known.path), **{here / file: there / file for file in known.record.get("beside", ())}}
    if not all(source.exists() for source in wanted.values()):
        return False
    for path, source in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # a picture that another shard has put there
            continue
        try:
            os.link(source, path)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, path)
    result.files[name] = {**known.record, "linked": True}
    for file in known.record.get("beside", ()):
        path = here / file
        result.files[str(path.relative_to(folder))] = {**file_record(path), "rows": 0}
    return True


def file_record(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def version_id(digests: Mapping[str, Mapping[int, str]]) -> str:
    """The first 12 hex digits of a hash over the logical rows of all tables."""
    return json_digest(
        {table: {f"{prefix:02x}": d for prefix, d in sorted(of.items())} for table, of in digests.items() if of}
    )[:12]


def nothing_left(funnel: Sequence[Mapping[str, Any]]) -> WinnowError:
    """The error for a recipe that keeps no row."""
    steps = "\n".join(f"  {line['rows']:,} × {line['stage']}: {line['reason']}" for line in funnel[:8])
    return WinnowError(
        f"No row is left, so there is no version to make. Where they went:\n{steps}\nLoosen the stage that takes too many."
    )
