"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real records that some tests read. It is no part of the repository: without it they are skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WINNOW_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no folder of real records: run `WINNOW_DATA=/path/to/records make test` to include these tests")
    return folder
