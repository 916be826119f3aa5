"""Sources: where rows come from. One file per kind; all of them yield upstream records, which mapping.py makes rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from curation.sources.base import Broken, Mapped, Part, Raw, Reader
from curation.sources.files import find_files
from curation.sources.jsonl import JsonLinesReader
from curation.sources.mapping import columns_read, map_records
from curation.sources.parquet import ParquetReader
from schemas.errors import SourceError
from schemas.recipe import Source

REVISION = 2
"""Bumped when the same upstream bytes would give other rows."""

__all__ = ["REVISION", "Broken", "Mapped", "Part", "Raw", "Reader", "map_records", "open_source"]


def open_source(config: Source, *, recipe_dir: Path, workspace: Path, limit: int | None = None) -> Reader:
    """Open a source for reading. Raises SourceError where it cannot be found or read."""
    name = config.name or config.place
    folder = config.image_folder
    if folder is not None and not (recipe_dir / folder).is_dir():
        raise SourceError(f"Source {name}: `image_folder` names {recipe_dir / folder}, and there is no such folder.")
    if config.parquet is not None:
        found = find_files(name, "parquet", config.parquet, recipe_dir)
        needed = partial(columns_read, config)
        return ParquetReader(name, found, recipe_dir, limit, config.where, image_folder=folder, needed=needed)
    if config.jsonl is not None:
        found = find_files(name, "jsonl", config.jsonl, recipe_dir)
        pictured = bool(config.columns.images) or folder is not None
        return JsonLinesReader(name, found, recipe_dir, limit, config.where, image_folder=folder, pictured=pictured)
    if config.generator is not None:
        from curation.sources.generator import GeneratorReader

        return GeneratorReader(name, config.generator, config.count or 0, config.args, recipe_dir, limit, config.where)
    if config.hub is not None:
        from curation.sources.hub import open_hub

        return open_hub(config, name, recipe_dir, limit)
    from curation.sources.version import open_version_source

    return open_version_source(config, name, workspace, limit)
