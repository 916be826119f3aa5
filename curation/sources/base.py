"""What a source is: a reader that yields upstream records in parts.

A reader never interprets what it reads. It yields tables of upstream columns, and records that are broken as such; the
mapping (mapping.py) makes rows of them, the same way for every kind of source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from curation.store import FileState

BATCH_BYTES = 64 << 20
"""About the most that one table of upstream records holds."""


@dataclass(frozen=True)
class Broken:
    """A record that cannot become a row. It goes to quarantine with these words."""

    file: str
    index: int
    reason: str
    sentence: str
    evidence: dict[str, Any]
    raw: bytes
    """What it was: its hash identifies it."""


@dataclass(frozen=True)
class Raw:
    """Some upstream records of one file."""

    table: pa.Table
    file: str
    """The file's name as people are shown it."""
    index: np.ndarray
    """int64: number of each record in its file, from 0."""
    broken: list[Broken] = field(default_factory=list)
    records: list[dict[str, Any]] | None = None
    """The same records as Python values, where upstream has values and no columns (JSON, generators): a key may be
    missing from any record, and only these still know a number from its text."""
    folder: Path | None = None
    """Where relative image paths begin, if not at the reader's image_root."""


@dataclass(frozen=True)
class Part:
    """A unit of work: records [start, stop) of a file, in the reader's own count (row groups, bytes, indices)."""

    file: str
    start: int
    stop: int
    first: int = 0
    """Number of the first record, where the reader knows it."""
    take: int | None = None
    """Read at most so many records."""
    skip: int = 0
    """Records to pass over at the beginning, where a row group is cut."""


class Reader(Protocol):
    """One opened source."""

    image_root: Path
    """Where relative image paths begin."""

    def inputs(self) -> list[Path]:
        """Files whose bytes shape the result."""
        ...

    def schema(self) -> pa.Schema:
        """Upstream columns; reads no more than it must."""
        ...

    def parts(self) -> list[Part]:
        """The work, cut the same way on every machine."""
        ...

    def read(self, part: Part) -> Iterator[Raw]:
        """The records of one part, in tables of bounded size."""
        ...


@dataclass(frozen=True)
class Mapped:
    """Records as rows: schemas.rows.MAPPED, with where they stood."""

    table: pa.Table
    file: str
    index: np.ndarray
    broken: list[Broken] = field(default_factory=list)
    files_read: Sequence[FileState] = ()
    """Image files that were read, or looked for and not found."""
    kept_ids: pa.Table | None = None
    """row_id, content_id and origin_key, where the records are rows of another version."""


def shown(path: Path, base: Path) -> str:
    """A file's name for people and provenance: relative to the recipe where it lies below it."""
    try:
        return str(path.resolve().relative_to(base.resolve()))
    except ValueError:
        return path.name
