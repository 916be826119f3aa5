"""Small real files around which recipes are written, and the problems that loading one gives."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.recipe import load_recipe
from schemas.errors import Problem, RecipeError

Problems = Callable[..., list[Problem]]
Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data/sums.parquet (question, answer, level, info {subject}) and data/sums.jsonl."""
    records = [
        {"question": f"{i} + {i} = ?", "answer": str(2 * i), "level": i, "info": {"subject": "sums"}} for i in range(8)
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "data" / "sums.parquet")
    (tmp_path / "data" / "sums.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    """Write a recipe, by default as recipe.yaml; returns its path."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        return path

    return write


@pytest.fixture
def problems(folder: Path) -> Problems:
    """The problems of a recipe; none where it loads."""

    def problems(path: Path, *overrides: str, check_world: bool = True) -> list[Problem]:
        try:
            load_recipe(path, overrides=overrides, workspace=folder / ".winnow", check_world=check_world)
        except RecipeError as error:
            return error.problems
        return []

    return problems
