"""A dataset of the Hugging Face Hub, by repo id and revision.

`datasets` downloads and prepares it once; afterwards it is read from its cache, so a build works without a network.
The prepared Arrow files are the inputs whose bytes decide what is cached here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.sources.base import BATCH_BYTES, Part, Raw
from curation.sources.files import chosen
from schemas.errors import SourceError
from schemas.recipe import Source


def open_hub(config: Source, name: str, recipe_dir: Path, limit: int | None) -> HubReader:
    """Resolve `ORG/NAME@revision`. Raises SourceError with the command that fetches it where it is not cached."""
    import datasets

    repo, _, revision = str(config.hub).partition("@")
    split = config.split or "train"
    try:
        dataset = datasets.load_dataset(repo, config.config, split=split, revision=revision or None)
    except Exception as error:
        where = f"{repo}{'@' + revision if revision else ''}{', config ' + config.config if config.config else ''}, split {split}"
        fetch = f"hf download {repo} --repo-type dataset" + (f" --revision {revision}" if revision else "")
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"Source {name}: the dataset {where} cannot be opened: {said}\nIf this machine has no network, fetch it where "
            f"there is one (`{fetch}`) and bring the cache along (HF_HOME); else check the name, revision, config and split."
        ) from error
    assert isinstance(dataset, datasets.Dataset)
    files = [Path(file["filename"]) for file in dataset.cache_files]
    return HubReader(f"{repo}/{config.config or 'default'}/{split}", files, recipe_dir, limit, config.where)


class HubReader:
    """Rows of the Arrow files that `datasets` prepared."""

    def __init__(self, label: str, files: list[Path], recipe_dir: Path, limit: int | None, where: str | None):
        self._label = label
        self._files = files
        self._limit = limit
        self._where = where
        self.image_root = recipe_dir

    def inputs(self) -> list[Path]:
        return self._files

    @staticmethod
    def _open(path: str | Path) -> pa.Table:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()

    def schema(self) -> pa.Schema:
        return self._open(self._files[0]).schema.remove_metadata() if self._files else pa.schema([])

    def parts(self) -> list[Part]:
        parts, number, left = [], 0, self._limit
        for path in self._files:
            table = self._open(path)
            rows = len(table) if left is None else min(left, len(table))
            step = max(1, int(len(table) * 2 * BATCH_BYTES // max(table.nbytes, 1)))
            for start in range(0, rows, step):
                parts.append(Part(str(path), start, min(start + step, rows), number + start))
            number += rows
            left = None if left is None else left - rows
        return parts

    def read(self, part: Part) -> Iterator[Raw]:
        table = self._open(part.file).slice(part.start, part.stop - part.start)
        step = max(1, int(len(table) * BATCH_BYTES // max(table.nbytes, 1)))
        for start in range(0, len(table), step):
            piece = table.slice(start, step).replace_schema_metadata(None)
            first = part.first + start
            yield chosen(Raw(piece, self._label, np.arange(first, first + len(piece), dtype=np.int64)), self._where)
