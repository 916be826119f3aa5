"""What an export is: a layout in which another program reads rows and traces.

An export turns kept rows into *narrow* examples, in which a picture is the hash of its bytes. The bytes come in when a
shard is written (curation/exports/parquet.py), so that two builds that differ in a few rows write only the shards that
differ and link the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import Problem
from schemas.recipe import NAME


class OutputConfig(BaseModel):
    """Base of every export's config."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    export: str
    name: str = Field(
        "", description="Config name in the version; the kind by default.", pattern=f"^({NAME.pattern})?$"
    )
    where: str | None = Field(None, description="SQL predicate over the columns of rows: those to export.")


@dataclass(frozen=True)
class Examples:
    """What an export makes of one shard's kept rows."""

    table: pa.Table
    """row_id, k (int32, null where the example is a row rather than a trace), split, then the layout's columns.
    Sorted by (split, row_id, k). A column named in `Export.images` holds lists of image hashes."""
    row_reasons: Mapping[str, tuple[str, str]]
    """row_id -> (reason, sentence) of kept rows of which it makes nothing."""
    trace_reasons: pa.Table | None = None
    """row_id, k, reason of traces that are not exported."""


@dataclass(frozen=True)
class Export:
    """A registered export."""

    kind: str
    config: type[OutputConfig]
    revision: int
    build: Callable[[Any, pa.Table, pa.Table | None, pa.Table | None], Examples]
    """(config, rows, traces, verdicts) -> Examples; traces and verdicts are sorted by (row_id, k), or None."""
    reads: Callable[[Any], Sequence[str]]
    """Columns of rows that it needs."""
    needs: Callable[[Any], str]
    """"rows", "traces" or "verdicts": what a recipe must have made before."""
    features: Callable[[Any, pa.Schema], Mapping[str, Any]]
    """Hugging Face `datasets` features of the written table, as the JSON of Features.to_dict(). They name the columns
    that are written: row_id always, k where examples are traces."""
    images: Callable[[Any], Sequence[str]]
    """Columns of the layout that hold images."""
    check: Callable[[Any, pa.Schema], Iterable[Problem]] | None = None
    settle: Callable[[Any, bool], Any] = lambda config, has_images: config
    """(config, whether any kept row of the dataset has an image) -> config with every "auto" decided. Called once per
    version, before the first shard: all shards of a config must have one schema. Idempotent."""
    of_traces: Callable[[Any], bool] = lambda config: False
    """Whether its examples are prompts that a teacher was asked, or that a model which learns from them will be: those
    without a `prompt` or `system` of their own take the fan-out's. Such a config has both fields."""
    linked: Callable[[Any], Sequence[str]] = lambda config: ()
    """Dotted paths of text columns that hold image hashes and become names of files in `images/` beside the shards."""


REGISTRY: dict[str, Export] = {}


def register(export: Export) -> Export:
    REGISTRY[export.kind] = export
    return export
