"""Another Winnow version: the rows that are in its data, with the ids that they have there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.hub import is_published, open_published
from curation.images import ImageStore
from curation.sources.base import Part, Raw
from curation.sources.files import chosen
from curation.versions import Version, open_version
from schemas.recipe import Source

_PICTURES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
ROWS = 512
"""Rows with pictures that are in hand at a time."""


def open_version_source(config: Source, name: str, workspace: Path, limit: int | None) -> VersionReader:
    """Resolve `name@tag` in the workspace of the build, or fetch `hub:ORG/REPO@REVISION`."""
    wanted = str(config.version)
    version = open_published(wanted, data=True) if is_published(wanted) else open_version(wanted, workspace)
    return VersionReader(version, workspace, config.split, limit, config.where)


class VersionReader:
    """Kept rows of a version, shard by shard. Pictures come from the image store, or from the version's own data."""

    def __init__(self, version: Version, workspace: Path, split: str | None, limit: int | None, where: str | None):
        self._version = version
        self._store = ImageStore(workspace)
        self._split = split
        self._limit = limit
        self._where = where
        self.image_root = version.path

    def inputs(self) -> list[Path]:
        return [Path(f) for f in (*self._version.files("decisions"), *self._version.files("ledger"))]

    def schema(self) -> pa.Schema:
        return pq.read_schema(self._version.files("decisions")[0]).remove_metadata()

    def parts(self) -> list[Part]:
        parts, left = [], self._limit
        for file in self._version.files("decisions"):
            rows = len(self._kept(file)) if left is not None else 0
            if left != 0:
                parts.append(Part(file, 0, -1, 0, left))
            left = None if left is None else left - min(left, rows)
        return parts

    def _kept(self, file: str) -> pa.Table:
        rows = pq.read_table(file)
        ids = rows["row_id"]
        if not len(ids):
            return rows
        bounds = [("row_id", ">=", ids[0].as_py()), ("row_id", "<=", ids[len(ids) - 1].as_py()), ("fate", "=", "kept")]
        if self._split is not None:
            bounds.append(("split", "=", self._split))
        kept = pq.read_table(self._version.path / "ledger.parquet", columns=["row_id"], filters=bounds)["row_id"]
        return rows.filter(pc.is_in(ids, kept.combine_chunks()))

    def read(self, part: Part) -> Iterator[Raw]:
        rows = self._kept(part.file)
        rows = rows if part.take is None else rows.slice(0, part.take)
        for start in range(0, len(rows), ROWS if "images" in rows.column_names else len(rows)):
            piece = rows.slice(start, ROWS)
            at = piece.schema.get_field_index("images")
            piece = piece.set_column(at, "images", self._with_bytes(piece["images"]))
            raw = Raw(piece, str(self._version), np.arange(start, start + len(piece), dtype=np.int64))
            yield chosen(raw, self._where)

    def _with_bytes(self, column: pa.ChunkedArray) -> pa.Array:
        lists = column.to_pylist()
        wanted = sorted({name for names in lists for name in names or ()})
        found = self._store.read(wanted) if self._store.has(wanted) else self._from_data(set(wanted))
        return pa.array([[{"bytes": found[name], "path": None} for name in names or ()] for names in lists], _PICTURES)

    def _from_data(self, wanted: set[str]) -> dict[str, bytes]:
        """Pictures out of the version's own data files, for a workspace whose image store has lost them."""
        import hashlib

        found: dict[str, bytes] = {}
        for config in self._version.manifest["splits"]:
            for file in self._version.files(f"data/{config}"):
                parquet = pq.ParquetFile(file)
                if "images" not in parquet.schema_arrow.names:
                    continue
                for batch in parquet.iter_batches(batch_size=ROWS, columns=["images"]):
                    for pictures in batch.column(0).to_pylist():
                        for picture in pictures or ():
                            name = hashlib.sha256(picture["bytes"]).hexdigest()
                            if name in wanted:
                                found[name] = picture["bytes"]
        return found if len(found) == len(wanted) else self._store.read(sorted(wanted))
