"""What all tests share."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from PIL import Image, ImageDraw

# How long an example takes says more about the machine's other work than about the code.
hypothesis.settings.register_profile("winnow", deadline=None)
hypothesis.settings.load_profile("winnow")

# Tests build some hundred versions; those that are about reports ask for them.
os.environ.setdefault("WINNOW_REPORT", "no")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real records that some tests read. It is no part of the repository: without it they are skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WINNOW_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no folder of real records: run `WINNOW_DATA=/path/to/records make test` to include these tests")
    return folder


NO_VLLM = "no vLLM engine here: `python tests/vllm_environment.py` (as `make test` does) installs one on Linux x86_64 or with a GPU"


NO_RAY = "no Ray here: `pip install 'winnow[ray]'` (as `make test` does) installs it"


NO_BROWSER = "no browser here: `python tests/browser_environment.py` (as `make test` does) finds or installs a Chromium"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("vllm") and importlib.util.find_spec("vllm") is None:
        pytest.skip(NO_VLLM)
    if item.get_closest_marker("ray") and importlib.util.find_spec("ray") is None:
        pytest.skip(NO_RAY)
    if item.get_closest_marker("browser") and browser() is None:
        pytest.skip(NO_BROWSER)


@functools.cache
def browser() -> str | None:
    """The path of a Chromium: see browser_environment.py."""
    spec = importlib.util.spec_from_file_location(
        "browser_environment", Path(__file__).with_name("browser_environment.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str | None = module.browser()
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why tests that need a vLLM engine, Ray or a browser did not run."""
    for why in (NO_VLLM, NO_RAY, NO_BROWSER):
        unrun = [r for r in terminalreporter.stats.get("skipped", ()) if why in str(r.longrepr)]
        if unrun:
            terminalreporter.write_line(f"{len(unrun)} tests did not run: {why}.")


# ---------------------------------------------------------------------------- small sources, for building whole versions


def picture(n: int) -> bytes:
    """A PNG that differs for every n."""
    image = Image.new("RGB", (64, 48), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for bit in range(16):
        if n >> bit & 1:
            draw.rectangle((4 * bit, 4, 4 * bit + 3, 40), fill=(0, 0, 0))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def text_rows(n: int) -> list[dict[str, Any]]:
    """Sums, with their worked solution; every tenth question is long."""
    rows = []
    for i in range(n):
        padding = " Think carefully." * 20 if i % 10 == 9 else ""
        rows.append(
            {
                "id": f"t{i}",
                "question": f"What is {i} + {i + 1}?{padding}",
                "answer": str(2 * i + 1),
                "solution": f"The sum is {2 * i + 1}.",
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with text.jsonl (60 rows), pictures/records.jsonl (12 rows, 6 pictures), responses.jsonl (x4 for 40
    rows) and recipe.yaml, which uses them all."""
    write_jsonl(tmp_path / "text.jsonl", text_rows(60))
    images = tmp_path / "pictures" / "images"
    images.mkdir(parents=True)
    records = []
    for i in range(12):
        (images / f"{i % 6}.png").write_bytes(picture(i % 6 + 1))
        records.append(
            {
                "id": f"p{i}",
                "question": f"How many bars are in picture {i}?",
                "answer": str(i % 3),
                "image": f"images/{i % 6}.png",
                "solution": "Count them.",
            }
        )
    write_jsonl(tmp_path / "pictures" / "records.jsonl", records)
    responses = [
        {
            "id": f"t{i}",
            "sample": k,
            "response": f"I add them. The answer is \\boxed{{{2 * i + 1 + (k == 3) * (i % 2)}}}.",
        }
        for i in range(40)
        for k in range(4)
    ]
    write_jsonl(tmp_path / "responses.jsonl", responses)
    recipe = {
        "name": "demo",
        "seed": 3,
        "sources": [
            {"name": "text", "jsonl": "text.jsonl", "license": "MIT"},
            {
                "name": "pictures",
                "jsonl": "pictures/records.jsonl",
                "license": "CC-BY-4.0",
                "columns": {"images": "image"},
            },
        ],
        "stages": [
            {"stage": "normalize"},
            {"stage": "filter", "where": "length(question) < 200", "reason": "too long"},
            {"stage": "split", "splits": {"test": 0.2}},
            {"stage": "fanout", "n": 4, "teacher": {"kind": "recorded", "path": "responses.jsonl", "k": "sample"}},
            {"stage": "verify"},
        ],
        "outputs": [{"export": "sft"}, {"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return tmp_path


@pytest.fixture
def edit(project: Path) -> Callable[..., None]:
    """Change the recipe: `edit(lambda recipe: ...)`."""

    def change(how: Callable[[dict[str, Any]], object], name: str = "recipe.yaml") -> None:
        path = project / name
        recipe = yaml.safe_load(path.read_text())
        how(recipe)
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))

    return change


# ------------------------------------------------------------------------------- a teacher in a process of its own

LOOPBACK = Path(__file__).parent / "teachers" / "loopback.py"


@dataclass
class Server:
    """A running loopback teacher."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def teacher(self) -> dict:
        return {"kind": "openai_server", "url": self.url, "model": "tiny"}

    def asked(self) -> list[tuple[str, int, int]]:
        """(prompt, seed, max_tokens) of every answer that it was asked for, in order."""
        return [(name, int(seed), int(limit)) for name, seed, limit, _ in self._lines()]

    def said(self) -> list[str]:
        """The first 12 hex digits of the sha256 of each of those answers' texts."""
        return [text for *_, text in self._lines()]

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def counts(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/counts", timeout=10) as response:
            return json.load(response)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """loopback(faults=0.2, …) starts a teacher in a process of its own; see loopback.py."""
    started: list[Server] = []

    def start(log: str = "asked.log", **options: Any) -> Server:
        words = [sys.executable, str(LOOPBACK), "--log", str(tmp_path / log)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        server = Server(process, int(process.stdout.readline()), tmp_path / log)
        started.append(server)
        return server

    yield start
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
