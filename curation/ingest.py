"""From a source to partitions: read, map, give ids, sort.

Reading goes part by part (a row group, a range of lines) on any number of workers; each finished part is kept, so an
interrupted ingestion goes on where it stopped. Then every row gets its ids, and rows are cut into partitions by the
first digits of row_id and sorted by it. From here on, nothing depends on how upstream ordered or cut its files.

- content_id is a hash of question, choices, answer and images: the same content has the same id in any source.
- row_id is a hash of source, content_id and an ordinal that tells identical rows of that source apart. Rows with one
  content but other fields beside it (a solution, upstream's id) are numbered by those fields, never by position.
- origin_key is upstream's own id where there is one, else a hash of question and images: versions are compared by it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import sources, store
from curation.cutting import Uncut, cut_and_sort
from curation.digests import json_digest, text_id
from curation.engines.partition import Layer, Partition, read_table
from curation.ids import content_texts, hash_texts
from curation.images import ImageStore, ImageWriter
from schemas.errors import SourceError
from schemas.recipe import Source
from schemas.rows import LEDGER, MAPPED

REVISION = 1

_IDENTITY = pa.schema([("content_id", pa.string()), ("row_id", pa.string()), ("origin_key", pa.string())])
_PART = pa.schema([*MAPPED, *_IDENTITY, ("file", pa.string()), ("index", pa.int64())])


@dataclass(frozen=True)
class Ingested:
    """A source after ingestion."""

    source: str
    partitions: list[Partition]
    quarantine: pa.Table
    """schemas.rows.LEDGER rows of records that could not become rows."""
    provenance: dict[str, str]
    """Partition name -> Parquet file with schemas.rows.PROVENANCE, aligned with the partition."""
    key: str
    cached: bool
    inputs: list[dict[str, Any]]
    """path, size and sha256 of every file that was read, for the manifest."""


def rows_in(ingested: Ingested) -> int:
    return sum(p.rows for p in ingested.partitions) + len(ingested.quarantine)


# ---------------------------------------------------------------------------------------------------------- looking up


def find(
    workspace: store.Workspace, digests: store.FileDigests, config: Source, reader: sources.Reader, limit: int | None
) -> tuple[str, Path | None]:
    """The key of this source as it is now, and its cached entry where there is one that still holds."""
    assert config.name
    states = [digests.digest(path) for path in reader.inputs()]
    missing = next((state.path for state in states if state.sha256 is None), None)
    if missing:
        raise SourceError(f"Source {config.name}: the file is gone: {missing}")
    key = json_digest(
        {
            "config": config.model_dump(mode="json", exclude={"max_quarantine", "expect"}, by_alias=True),
            "limit": limit,
            "inputs": [[Path(state.path).name, state.sha256] for state in states],
            "revision": [REVISION, sources.REVISION],
        }
    )[:24]
    folder = workspace.stages / "source"
    for entry in sorted(folder.glob(f"{key}-*")) if folder.is_dir() else ():
        manifest = store.load_entry(entry)
        if manifest is None:
            store.discard(workspace, entry)
            continue
        read = [store.FileState(**state) for state in manifest["reads"]]
        if digests.unchanged(read) and ImageStore(workspace.root).has_packs(manifest["packs"]):
            return key, entry
    return key, None


def load(config: Source, entry: Path, *, cached: bool) -> Ingested:
    """A committed source entry as partitions."""
    manifest = store.read_json(entry / store.MANIFEST)
    partitions, provenance = [], {}
    for part in manifest["partitions"]:
        path = str(entry / part["rows_file"])
        schema = pq.read_schema(path)
        layers = {name: Layer(path, schema.field(name).type, digest) for name, digest in part["digests"].items()}
        full = np.packbits(np.ones(part["rows"], bool)).tobytes()
        partition = Partition(
            config.name or "", part["first"], part["last"], part["rows"], layers, full, part["nbytes"]
        )
        partitions.append(partition)
        provenance[partition.name] = str(entry / part["provenance_file"])
    return Ingested(
        source=config.name or "",
        partitions=partitions,
        quarantine=read_table(str(entry / "quarantine.parquet")).cast(LEDGER),
        provenance=provenance,
        key=entry.name,
        cached=cached,
        inputs=[{"path": Path(r["path"]).name, "bytes": r["size"], "sha256": r["sha256"]} for r in manifest["reads"]],
    )


# -------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class PartJob:
    """One part of a source, for a worker."""

    config: dict[str, Any]
    recipe_dir: str
    workspace: str
    limit: int | None
    part: Any
    number: int
    folder: str


def read_part(job: PartJob) -> tuple[str, int]:
    """Read and map one part, store its images, and leave `part-N/` in the folder. Returns the source and the number of
    records read."""
    target = Path(job.folder) / f"part-{job.number:05d}"
    done = store.load_entry(target)
    if done is not None:
        return job.config["name"], int(done["records"])
    config = Source.model_validate(job.config)
    reader = sources.open_source(
        config, recipe_dir=Path(job.recipe_dir), workspace=Path(job.workspace), limit=job.limit
    )
    building = Path(job.folder) / f"building-{job.number:05d}-{uuid.uuid4().hex[:8]}"
    building.mkdir(parents=True)
    broken: list[dict[str, Any]] = []
    read: dict[str, dict[str, Any]] = {}
    records = 0
    with (
        ImageWriter(Path(job.workspace)) as images,
        pq.ParquetWriter(
            building / "rows.parquet",
            _PART,
            compression="lz4",
            use_dictionary=["license", "file"],
            write_statistics=False,
        ) as writer,
    ):
        for raw in reader.read(job.part):
            mapped = sources.map_records(config, raw, images, reader.image_root)
            writer.write_table(_identified(config, mapped))
            records += len(raw.index) + len(raw.broken)
            broken += [_quarantined(config, bad) for bad in (*raw.broken, *mapped.broken)]
            read.update({state.path: asdict(state) for state in mapped.files_read})
    pq.write_table(pa.Table.from_pylist(broken, schema=LEDGER), building / "quarantine.parquet")
    store.commit(building, target, {"records": records, "reads": list(read.values()), "packs": images.packs_used()})
    return job.config["name"], records


def _identified(config: Source, mapped: sources.Mapped) -> pa.Table:
    """Mapped records with content_id, and with all three ids where a version gave them."""
    table = mapped.table
    n = len(table)
    kept = mapped.kept_ids
    nothing = pa.nulls(n, pa.string())
    content = kept["content_id"] if kept is not None else hash_texts(content_texts(table))
    columns = [*(table[name] for name in MAPPED.names), content]
    columns += [kept["row_id"], kept["origin_key"]] if kept is not None else [nothing, nothing]
    columns += [pa.repeat(pa.scalar(mapped.file, pa.string()), n), pa.array(mapped.index, pa.int64())]
    result = pa.table(columns, schema=_PART)
    if config.license is not None:
        at = result.schema.get_field_index("license")
        result = result.set_column(at, _PART.field("license"), pc.fill_null(result["license"], config.license))
    return result


def _quarantined(config: Source, bad: sources.Broken) -> dict[str, Any]:
    content = text_id(b"broken", bad.raw)
    return {
        "row_id": text_id(config.name, content, bad.file, str(bad.index))
        if not bad.raw
        else text_id(config.name, content),
        "content_id": content,
        "origin_key": f"{config.name}:={content}",
        "source": config.name,
        "fate": "quarantined",
        "stage": f"source:{config.name}",
        "reason": bad.reason,
        "sentence": bad.sentence,
        "evidence": json.dumps(bad.evidence, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
        "repeat": 0,
        "file": bad.file,
        "index": bad.index,
    }


# ---------------------------------------------------------------------------------------------------------- all together


@dataclass
class _Looked:
    """A source, and what was found of it."""

    config: Source
    reader: sources.Reader
    key: str
    entry: Path | None
    cached: bool = True

    @property
    def name(self) -> str:
        assert self.config.name
        return self.config.name


def ingest(
    workspace: store.Workspace,
    digests: store.FileDigests,
    configs: Sequence[Source],
    *,
    recipe_dir: Path,
    limit: int | None,
    run: Any,
    reporter: Any,
) -> list[Ingested]:
    """Bring sources into partitions, side by side, or find them done.

    `run(function, jobs, on_done)` is the engine's pool: it yields results in the order of the jobs.
    Raises SourceError where a source cannot be read or more than `max_quarantine` of it is bad.
    """

    def look(config: Source, reader: sources.Reader) -> _Looked:
        return _Looked(config, reader, *find(workspace, digests, config, reader, limit))

    looked = [
        look(config, sources.open_source(config, recipe_dir=recipe_dir, workspace=workspace.root, limit=limit))
        for config in configs
    ]
    digests.save()
    if any(one.entry is None for one in looked):
        with contextlib.ExitStack() as locks:
            # Builds that read one source take turns: the second finds it done. All take locks in one order.
            for name, one in sorted({f"source-{one.key[:2]}": one for one in looked if one.entry is None}.items()):
                locks.enter_context(store.lock(workspace, name, wait=True, what=f"Source {one.name}"))
            looked = [one if one.entry else look(one.config, one.reader) for one in looked]
            missing = [one for one in looked if one.entry is None]
            if missing:
                _read_all(workspace, digests, missing, recipe_dir, limit, run, reporter)
    found = []
    for one in looked:
        assert one.entry is not None
        result = load(one.config, one.entry, cached=one.cached)
        _within_limits(one.config, result)
        found.append(result)
        reporter.stage_finished(
            f"source:{one.name}",
            cached=one.cached,
            rows_in=rows_in(result),
            kept=rows_in(result) - len(result.quarantine),
            dropped=len(result.quarantine),
            seconds=None,
        )
    digests.save()
    return found


def _read_all(
    workspace: store.Workspace,
    digests: store.FileDigests,
    missing: Sequence[_Looked],
    recipe_dir: Path,
    limit: int | None,
    run: Any,
    reporter: Any,
) -> None:
    """Read, cut and sort sources, commit them, and set their entries."""
    jobs: list[PartJob] = []
    done: list[list[Path]] = []
    for one in missing:
        parts = one.reader.parts()
        folder = workspace.partial / f"source-{one.key}"
        folder.mkdir(parents=True, exist_ok=True)
        _forget_changed(folder, digests)
        reporter.stage_started(f"source:{one.name}", kind="source", rows=None, parts=len(parts))
        config = one.config.model_dump(mode="json", by_alias=True)
        jobs += [
            PartJob(config, str(recipe_dir), str(workspace.root), limit, part, number, str(folder))
            for number, part in enumerate(parts)
        ]
        done.append([folder / f"part-{number:05d}" for number in range(len(parts))])
    list(run(read_part, jobs, lambda result: reporter.advanced(f"source:{result[0]}", result[1])))

    with store.scratch(workspace) as space:
        uncut = []
        for number, (one, read) in enumerate(zip(missing, done, strict=True)):
            target = space / f"entry-{number}"
            target.mkdir()
            uncut.append(Uncut(one.name, read, space / f"cut-{number}", target))
        for one, source, partitions in zip(missing, uncut, cut_and_sort(uncut, run), strict=True):
            _commit(workspace, digests, one, source, partitions)


def _commit(
    workspace: store.Workspace,
    digests: store.FileDigests,
    one: _Looked,
    source: Uncut,
    partitions: list[dict[str, Any]],
) -> None:
    manifests = [store.read_json(part / store.MANIFEST) for part in source.parts]
    broken = [pq.read_table(part / "quarantine.parquet") for part in source.parts]
    pq.write_table(_numbered(pa.concat_tables(broken or [LEDGER.empty_table()])), source.target / "quarantine.parquet")
    reads = {state["path"]: state for manifest in manifests for state in manifest["reads"]}
    for path in one.reader.inputs():
        state = digests.digest(path)
        reads[state.path] = asdict(state)
    for state in reads.values():
        digests.remember(store.FileState(**state))
    seen = json_digest(sorted((r["path"], r["sha256"]) for r in reads.values()))
    one.entry, one.cached = workspace.entry("source", f"{one.key}-{seen[:8]}"), False
    manifest = {
        "partitions": partitions,
        "reads": sorted(reads.values(), key=lambda r: r["path"]),
        "packs": sorted({pack for manifest in manifests for pack in manifest["packs"]}),
        "source": one.name,
    }
    store.commit(source.target, one.entry, manifest)
    shutil.rmtree(workspace.partial / f"source-{one.key}", ignore_errors=True)


def _forget_changed(folder: Path, digests: store.FileDigests) -> None:
    """Parts of an interrupted ingestion whose files have changed since are read again."""
    for part in folder.glob("part-*"):
        manifest = store.load_entry(part)
        if manifest is None or not digests.unchanged([store.FileState(**state) for state in manifest["reads"]]):
            shutil.rmtree(part)


def _numbered(quarantine: pa.Table) -> pa.Table:
    """Bad records with the same bytes get their own row ids, by an ordinal."""
    seen: dict[str, int] = {}
    ids = []
    for row_id in quarantine["row_id"].to_pylist():
        seen[row_id] = seen.get(row_id, -1) + 1
        ids.append(row_id if not seen[row_id] else text_id(row_id, str(seen[row_id])))
    table = quarantine.set_column(0, "row_id", pa.array(ids, pa.string()))
    return table.sort_by("row_id")


def _within_limits(config: Source, result: Ingested) -> None:
    total, bad = rows_in(result), len(result.quarantine)
    if config.expect is not None and total != config.expect:
        raise SourceError(
            f"Source {config.name} has {total:,} rows, and the recipe expects {config.expect:,}.\n"
            "If the source has changed on purpose, change `expect`."
        )
    if total and bad / total > config.max_quarantine:
        counts = (
            result.quarantine.group_by("reason")
            .aggregate([("reason", "count")])
            .sort_by([("reason_count", "descending"), ("reason", "ascending")])
        )
        lines = []
        for reason, count in zip(counts["reason"].to_pylist(), counts["reason_count"].to_pylist(), strict=True):
            first = (
                result.quarantine.filter(pc.equal(result.quarantine["reason"], reason))
                .sort_by([("file", "ascending"), ("index", "ascending")])
                .slice(0, 1)
                .to_pylist()[0]
            )
            lines.append(f"  {count:,} × {reason}: first {first['file']}, record {first['index']}: {first['sentence']}")
        raise SourceError(
            f"Source {config.name} is broken: {bad:,} of {total:,} records ({bad / total:.1%}) are bad, more than the "
            f"allowed {config.max_quarantine:.1%}.\n"
            + "\n".join(lines)
            + "\nMend the source or its column mapping, or "
            "raise `max_quarantine` if these records may go."
        )
