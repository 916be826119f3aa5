"""Rows of a source get their ids, and are cut into partitions that are sorted by row_id.

Parts come in any order and of any cut; what leaves here depends on their rows alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.digests import PREFIXES
from curation.engines.partition import layers_of, read_table, write_table
from curation.ids import canonical_texts, hash_texts, ids_array
from schemas.errors import SourceError
from schemas.rows import MAPPED, PROVENANCE, ROW

PARTITION_BYTES = 40 << 20
"""Narrow bytes that a partition should hold: what one worker has in hand at a time."""


@dataclass(frozen=True)
class Uncut:
    """A source whose parts are read."""

    source: str
    parts: Sequence[Path]
    """Folders with a rows.parquet each."""
    cut: Path
    """Where pieces go in between, made and removed here."""
    target: Path
    """Where the partitions go."""


def cut_and_sort(sources: Sequence[Uncut], run: Any) -> list[list[dict[str, Any]]]:
    """Write the partitions of each source to its target; returns their records for its manifest."""
    buckets = [_bucket_count(source.parts) for source in sources]
    cuts = []
    ordinals = run(_ordinals, [[str(part / "rows.parquet") for part in source.parts] for source in sources])
    for source, count, found in zip(sources, buckets, ordinals, strict=True):
        source.cut.mkdir()
        places: dict[int, list[tuple[int, int]]] = {}
        for spots in found.values():
            for ordinal, (_, number, position) in enumerate(spots):
                places.setdefault(number, []).append((position, ordinal))
        cuts += [
            CutJob(source.source, str(part), places.get(number, []), count, number, str(source.cut))
            for number, part in enumerate(source.parts)
        ]
    list(run(cut_part, cuts))
    sorts = []
    for source, count in zip(sources, buckets, strict=True):
        width = PREFIXES // count
        for bucket in range(count):
            pieces = sorted(str(path) for path in source.cut.glob(f"{bucket:03d}-*.arrow"))
            if pieces:
                sorts.append(SortJob(source.source, pieces, bucket * width, (bucket + 1) * width, str(source.target)))
    made: dict[str, list[dict[str, Any]]] = {source.source: [] for source in sources}
    for job, record in zip(sorts, run(sort_bucket, sorts), strict=True):
        made[job.source].append(record)
    for source in sources:
        shutil.rmtree(source.cut)
    return [made[source.source] for source in sources]


def _bucket_count(parts: Sequence[Path]) -> int:
    """Into how many partitions a source is cut: a power of two, by the size of its rows."""
    total = sum(
        pq.ParquetFile(part / "rows.parquet").metadata.serialized_size + (part / "rows.parquet").stat().st_size * 2
        for part in parts
    )
    buckets = 1
    while buckets < PREFIXES and total / buckets > PARTITION_BYTES:
        buckets *= 2
    return buckets


def _ordinals(files: Sequence[str]) -> dict[str, list[tuple[str, int, int]]]:
    """For contents that stand more than once in a source's parts: content_id -> (hash of all fields, part, position),
    sorted.

    Only repeated contents are held in memory; DuckDB finds them, on disk if it must.
    """
    import duckdb

    if not files:
        return {}
    with duckdb.connect() as connection:
        repeated = connection.sql(
            "select content_id from read_parquet($files) where row_id is null group by 1 having count(*) > 1",
            params={"files": list(files)},
        ).to_arrow_table()["content_id"]
    if not len(repeated):
        return {}
    wanted = np.sort(ids_array(repeated))
    found: dict[str, list[tuple[str, int, int]]] = {}
    for number, file in enumerate(files):
        ids = ids_array(read_table(file, ["content_id"])["content_id"])
        at = np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)
        positions = np.flatnonzero(wanted[at] == ids)
        if not len(positions):
            continue
        rows = read_table(file).take(positions)
        ties = hash_texts(canonical_texts(rows, MAPPED.names)).to_pylist()
        for content, tie, position in zip(rows["content_id"].to_pylist(), ties, positions.tolist(), strict=True):
            found.setdefault(content, []).append((tie, number, position))
    return {content: sorted(places) for content, places in found.items()}


# -------------------------------------------------------------------------------------------------------------- sorting


@dataclass(frozen=True)
class CutJob:
    """Give the rows of one part their ids and cut them by row-id prefix."""

    source: str
    part: str
    ordinals: list[tuple[int, int]]
    """(position, ordinal) of the rows whose content stands more than once."""
    buckets: int
    number: int
    folder: str


def cut_part(job: CutJob) -> None:
    table = read_table(str(Path(job.part) / "rows.parquet"))
    n = len(table)
    ordinals = np.zeros(n, np.int64)
    for position, ordinal in job.ordinals:
        ordinals[position] = ordinal
    given = table["row_id"]
    if given.null_count == n:
        key = pc.binary_join_element_wise(job.source, table["content_id"], pa.array(ordinals).cast(pa.string()), "/")
        row_ids: Any = hash_texts(key)
        own = (
            hash_texts(canonical_texts(table, ["question", "images"]))
            if table["id"].null_count
            else pa.nulls(n, pa.string())
        )
        origin = pc.if_else(
            pc.is_valid(table["id"]),
            pc.binary_join_element_wise(job.source, table["id"], ":"),
            pc.binary_join_element_wise(job.source, own, ":="),
        )
    else:
        row_ids, origin = given.combine_chunks(), table["origin_key"]
    columns = {**{name: table[name] for name in table.column_names}, "row_id": row_ids, "origin_key": origin}
    table = pa.table(columns)
    order = np.argsort(ids_array(row_ids), kind="stable")
    table = table.take(order)
    for bucket, piece in _split(table, job.buckets):
        if len(piece):
            with (
                pa.OSFile(f"{job.folder}/{bucket:03d}-{job.number:05d}.arrow", "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as writer,
            ):
                writer.write_table(piece)


def _split(table: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """A table sorted by row_id, cut at the prefixes where buckets begin."""
    ids = ids_array(table["row_id"])
    width = PREFIXES // buckets
    edges = [np.searchsorted(ids, f"{bucket * width:02x}".encode()) for bucket in range(buckets)] + [len(ids)]
    for bucket in range(buckets):
        yield bucket, table.slice(edges[bucket], edges[bucket + 1] - edges[bucket])


@dataclass(frozen=True)
class SortJob:
    """Bring the pieces of one bucket together."""

    source: str
    pieces: list[str]
    first: int
    last: int
    target: str


def sort_bucket(job: SortJob) -> dict[str, Any]:
    """Write rows-XX.parquet and provenance-XX.parquet of one bucket; returns their record for the manifest."""
    tables = [pa.ipc.open_file(pa.memory_map(path)).read_all() for path in job.pieces]
    table = pa.concat_tables(tables)
    if len(tables) > 1:
        table = table.take(np.argsort(ids_array(table["row_id"]), kind="stable"))
    ids = ids_array(table["row_id"])
    if len(ids) > 1 and (twice := np.flatnonzero(ids[1:] == ids[:-1])).size:
        raise SourceError(
            f"Source {job.source}: two rows have the row_id {ids[twice[0]].decode()}. Does it read the same version twice?"
        )
    n = len(table)
    made = {"source": pa.repeat(pa.scalar(job.source), n)}
    rows = pa.table(
        [
            made[f.name]
            if f.name in made
            else table[f.name].cast(f.type)
            if f.name in table.column_names
            else pa.nulls(n, f.type)
            for f in ROW
        ],
        schema=ROW,
    ).combine_chunks()
    rows_file, provenance_file = f"rows-{job.first:02x}.parquet", f"provenance-{job.first:02x}.parquet"
    write_table(Path(job.target) / rows_file, rows)
    write_table(Path(job.target) / provenance_file, table.select(PROVENANCE.names))
    digests = {name: layer.digest for name, layer in layers_of(Path(rows_file), rows).items()}
    return {
        "first": job.first,
        "last": job.last,
        "rows": n,
        "rows_file": rows_file,
        "provenance_file": provenance_file,
        "digests": digests,
        "nbytes": rows.nbytes,
    }
