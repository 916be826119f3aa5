"""Rows to ask about, and a context to ask in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from curation.stages.base import Context
from schemas.rows import ROW


@pytest.fixture
def rows_of() -> Callable[..., pa.Table]:
    """rows_of(records) -> canonical rows with ids 000…, 001… in order."""

    def make(records: Sequence[dict]) -> pa.Table:
        filled = [{"row_id": f"{i:03x}" + "0" * 17, "source": "made", **record} for i, record in enumerate(records)]
        return pa.Table.from_pylist(filled, schema=ROW)

    return make


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    return lambda **more: Context(seed=0, name="stage", workspace=tmp_path / "ws", recipe_dir=tmp_path, **more)
