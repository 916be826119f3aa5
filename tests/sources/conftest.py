"""Sources made on the spot."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.images import ImageWriter
from curation.sources import Broken, map_records, open_source
from schemas.recipe import Source


def png(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Outcome:
    rows: list[dict[str, Any]]
    broken: list[Broken]
    index: list[int]
    files: list[tuple[str, str | None]]
    """(name, sha256) of the picture files that were read or looked for."""

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def reasons(self) -> list[str]:
        return [bad.reason for bad in self.broken]


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., Outcome]:
    """Read and map a whole source whose files lie in tmp_path: `take(jsonl="x.jsonl", limit=2, columns={...})`."""

    def run(limit: int | None = None, **source: Any) -> Outcome:
        config = Source.model_validate({"name": "s", **source})
        reader = open_source(config, recipe_dir=tmp_path, workspace=tmp_path / "ws", limit=limit)
        rows: list[dict[str, Any]] = []
        broken: list[Broken] = []
        index: list[int] = []
        files: list[tuple[str, str | None]] = []
        with ImageWriter(tmp_path / "ws") as writer:
            for part in reader.parts():
                for raw in reader.read(part):
                    mapped = map_records(config, raw, writer, reader.image_root)
                    rows += mapped.table.to_pylist()
                    index += mapped.index.tolist()
                    broken += [*raw.broken, *mapped.broken]
                    files += [(Path(state.path).name, state.sha256) for state in mapped.files_read]
        return Outcome(rows, broken, index, files)

    return run
