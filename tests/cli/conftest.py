"""The real command, run as a person runs it, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RECIPE = """
    name: sums
    sources:
      - jsonl: sums.jsonl
        license: MIT
    stages:
      - stage: normalize
      - stage: filter
        where: question not like '7 %'
        reason: no sevens
    outputs:
      - export: rl
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Winnow = Callable[..., Result]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command in a folder, with the workspace `ws` in it, as the head of a process group of its own."""
    root = str(Path(__file__).resolve().parents[2])
    # A terminal of 100 columns without colours, whatever runs the tests.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WINNOW", "COV", "FORCE_COLOR"))}
    own = {"PYTHONPATH": root, "COLUMNS": "100", "NO_COLOR": "1", "WINNOW_WORKSPACE": str(folder / "ws")}
    return subprocess.Popen(
        [sys.executable, "-m", "curation.cli", *arguments],
        cwd=folder,
        env={**kept, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sums.jsonl, recipe.yaml and a workspace in which it is built once. Nobody changes it."""
    folder = tmp_path_factory.mktemp("built")
    fill(folder)
    with start(folder, "build", "recipe.yaml", "--workers", "1") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return folder


def fill(folder: Path) -> None:
    records = [{"id": f"s{i}", "question": f"{i} + {i} = ?", "answer": str(2 * i)} for i in range(20)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "recipe.yaml").write_text(textwrap.dedent(RECIPE).lstrip())


@pytest.fixture
def winnow(built: Path) -> Winnow:
    """Run the command in the folder in which the recipe is built."""

    def run(*arguments: str, cwd: Path | None = None) -> Result:
        with start(cwd or built, *arguments) as process:
            out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        return Result(process.returncode, out, err)

    return run


@pytest.fixture
def launch() -> Callable[..., subprocess.Popen[str]]:
    """Start the command and do not wait for it: launch(folder, *arguments)."""
    return start


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder of one's own with the same files and nothing built."""
    fill(tmp_path)
    return tmp_path
