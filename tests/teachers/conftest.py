"""Rows to ask about, a context to ask in, and teachers to ask."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from curation.stages import fanout
from curation.stages.base import Context
from schemas.rows import ROW, TRACE


@pytest.fixture
def rows_of() -> Callable[..., pa.Table]:
    """rows_of(records) -> canonical rows with ids 000…, 001… in order."""

    def make(records: Sequence[dict]) -> pa.Table:
        filled = [{"row_id": f"{i:05x}" + "0" * 15, "source": "made", **record} for i, record in enumerate(records)]
        return pa.Table.from_pylist(filled, schema=ROW)

    return make


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def make(**more: Any) -> Context:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return Context(
            **{
                "seed": 0,
                "name": "stage",
                "workspace": tmp_path / "ws",
                "recipe_dir": tmp_path,
                "scratch": scratch,
                **more,
            }
        )

    return make


class OneTable:
    """`Rows` over one table, in batches."""

    def __init__(self, table: pa.Table, size: int = 700):
        self._table, self._size = table, size
        self.schema, self.count = table.schema, len(table)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for start in range(0, len(self._table), self._size):
            yield self._table.slice(start, self._size)


@dataclass
class Result:
    """What a fan-out said of some rows."""

    traces: list[dict]
    table: pa.Table
    notes: dict
    prepared: dict
    fates: pa.Table | None
    again: bool


def outcome_of(outcome: Any, prepared: dict) -> Result:
    pieces = list(outcome.traces) if outcome.traces is not None else []
    table = pa.concat_tables(pieces) if pieces else TRACE.empty_table()
    fates = outcome.fates() if callable(outcome.fates) else outcome.fates
    notes = outcome.notes() if callable(outcome.notes) else dict(outcome.notes)
    again = outcome.again() if callable(outcome.again) else outcome.again
    return Result(table.to_pylist(), table, notes, prepared, fates, again)


@pytest.fixture
def fan_out(context: Callable[..., Context]) -> Callable[..., Result]:
    """fan_out(rows, teacher, n=2, …) -> Result: what a build does, on one table."""

    def run(rows: pa.Table, teacher: dict, *, into: Context | None = None, **options: Any) -> Result:
        config = fanout.Fanout(teacher=teacher, **options)
        space = into or context()
        prepared = dict(fanout.prepare(config, OneTable(rows), space))
        return outcome_of(fanout.run(config, rows, space), prepared)

    return run


@pytest.fixture(scope="session")
def lab() -> Any:
    """What test modules cannot import from here."""
    return SimpleNamespace(OneTable=OneTable, outcome_of=outcome_of)


# ------------------------------------------------------------------------------------------------- models made on the spot


def models() -> Any:
    """tiny_models.py, for tests that need torch and transformers."""
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'winnow[train]'")
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent / "tiny_models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Qwen2 with a byte-level tokenizer."""
    return models().text(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Qwen2.5-VL."""
    made = models()
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"vision processors need a torchvision that fits torch ({error}): python tests/vllm_environment.py")
    return made.vision(tmp_path_factory.mktemp("vision"))
