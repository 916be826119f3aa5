"""A version with pictures from three sources, built once, and Hubs to publish it to."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from curation import build
from curation.hubclient import Hub
from curation.versions import Version

sys.path.insert(0, str(Path(__file__).parent))
from standin import ROOT, TOKEN, StandIn, environment

MANY, FEW = 380, 20
"""Rows of the source that stays, and of the one that changes: 5 %."""


def photo(n: int) -> bytes:
    """A JPEG of noise, other for each n: about 4 kB, as incompressible as a photo."""
    noise = np.random.default_rng(n).integers(0, 256, (64, 64, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def write_source(folder: Path, name: str, rows: list[tuple[str, int]]) -> None:
    """`name`.jsonl with a picture for each (question, seed)."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    lines = []
    for i, (question, seed) in enumerate(rows):
        (images / f"{seed}.jpg").write_bytes(photo(seed))
        record = {"id": f"{name}{i}", "question": question, "answer": str(seed), "image": f"images/{seed}.jpg"}
        lines.append(json.dumps(record | {"solution": f"It is {seed}."}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_recipe(folder: Path, **more: Any) -> Path:
    columns = {"images": "image"}
    recipe = {
        "name": "shown",
        "language": "none",
        "sources": [
            {"name": "many", "jsonl": "many.jsonl", "license": "MIT", "columns": columns},
            {"name": "few", "jsonl": "few.jsonl", "license": "CC-BY-4.0", "columns": columns},
            {"name": "words", "jsonl": "words.jsonl", "license": "MIT"},
        ],
        "stages": [
            {"stage": "fanout", "n": 2, "teacher": {"kind": "recorded", "path": "responses.jsonl", "k": "sample"}},
            {"stage": "verify"},
        ],
        "outputs": [{"export": "rows"}, {"export": "sft"}],
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@dataclass(frozen=True)
class Built:
    """Two versions: in the second, all rows of the source `few` are others."""

    folder: Path
    workspace: Path
    first: Version
    second: Version


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("shown")
    workspace = folder / "ws"
    write_source(folder, "many", [(f"What is number {i}?", i) for i in range(MANY)])
    write_source(folder, "few", [(f"Which is {i}?", 1000 + i) for i in range(FEW)])
    words = [{"id": f"w{i}", "question": f"{i} + 1?", "answer": str(i + 1), "solution": "Add."} for i in range(8)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    answers = [("many", i, i) for i in range(0, MANY, 4)] + [("w", i, i + 1) for i in range(8)]
    responses = [
        {"id": f"{source}{i}", "sample": k, "response": f"So \\boxed{{{right + k * (i % 3 == 0)}}}."}
        for source, i, right in answers
        for k in range(2)
    ]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in responses))
    recipe = write_recipe(folder)
    first = build(recipe, workspace=workspace, workers=1)
    write_source(folder, "few", [(f"Which one is {i}?", 2000 + i) for i in range(FEW)])
    second = build(recipe, workspace=workspace, workers=1)
    return Built(folder, workspace, first, second)


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    server = StandIn(tmp_path / "hub")
    yield server
    server.close()


@pytest.fixture
def hub(standin: StandIn) -> Hub:
    """The stand-in, as the publisher sees it; waits take no time and are counted in `hub.waits`."""
    waits: list[float] = []
    made = Hub(standin.url, TOKEN, timeout=2.0, sleep=waits.append)
    made.waits = waits  # type: ignore[attr-defined]
    return made


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(standin: StandIn, tmp_path: Path) -> Run:
    """run("-m", "curation.cli", …): Python in a process of its own, whose Hub is the stand-in; the libraries look at
    their settings once, when they are imported."""

    def start(
        *words: str, check: bool = True, cache: Path | None = None, xet: bool = False
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *words], env=environment(standin, cache or tmp_path / "cache", xet=xet), cwd=ROOT,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done

    return start
