"""Sources: where rows come from. One file per kind; all of them yield upstream records, which mapping.py makes rows."""

from __future__ import annotations

from pathlib import Path

from curation.sources.base import Broken, Mapped, Part, Raw, Reader
from curation.sources.mapping import map_records
from schemas.recipe import Source

REVISION = 1
"""Bumped when the same upstream bytes would give other rows."""

__all__ = ["REVISION", "Broken", "Mapped", "Part", "Raw", "Reader", "map_records", "open_source"]


def open_source(config: Source, *, recipe_dir: Path, workspace: Path, limit: int | None = None) -> Reader:
    """Open a source for reading. Raises SourceError where it cannot be found or read."""
    from curation.sources import files

    name = config.name or config.place
    if config.parquet is not None:
        return files.ParquetReader(
            name, files.find_files(name, "parquet", config.parquet, recipe_dir), recipe_dir, limit, config.where
        )
    if config.jsonl is not None:
        found = files.find_files(name, "jsonl", config.jsonl, recipe_dir)
        return files.JsonLinesReader(name, found, recipe_dir, limit, config.where, config.image_folder)
    if config.generator is not None:
        from curation.sources.generator import GeneratorReader

        return GeneratorReader(name, config.generator, config.count or 0, config.args, recipe_dir, limit, config.where)
    if config.hub is not None:
        from curation.sources.hub import open_hub

        return open_hub(config, name, recipe_dir, limit)
    from curation.sources.version import open_version_source

    return open_version_source(config, name, workspace, limit)
