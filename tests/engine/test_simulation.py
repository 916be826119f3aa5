"""The simulated set: the same bytes each time, all that was planted is found, and a version that differs is told."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from curation import build

EXAMPLES = Path(__file__).parents[2] / "recipes/examples"
SCALE = 0.004


def _simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_simulation", EXAMPLES / "scale_simulation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulation = _simulation()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    simulation.write(folder, SCALE)
    return folder


@pytest.fixture(scope="module")
def version(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINNOW_SIMULATION", str(sources))
        built = build(EXAMPLES / "scale_simulation.yaml", workspace=tmp_path_factory.mktemp("workspace"), workers=1)
    return Path(built.path)


def test_sources_are_the_same_bytes_each_time_and_have_the_planned_proportions(sources: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "scale_simulation.py"), str(tmp_path), "--scale", str(SCALE)]
    subprocess.run(command, check=True)  # a process of its own: no order of a hash may matter
    names = sorted(path.name for path in sources.iterdir())
    assert len(names) == 6
    for name in names:
        assert (sources / name).read_bytes() == (tmp_path / name).read_bytes(), name
    planted = json.loads((sources / "planted.json").read_text())
    assert (planted["pictured"]["stay"], planted["pictured"]["correct"]) == (412, 2332)  # of 103,000 and 583,000
    assert planted["plain"]["stay"] == planted["plain"]["correct"] == 1164  # of 291,000
    rows, traces = pl.read_parquet(sources / "pictured.parquet"), pl.read_parquet(sources / "pictured_traces.parquet")
    assert len(rows) == rows["id"].n_unique() == planted["pictured"]["rows"] == len(traces) / 8
    assert all(planted["pictured"][kind] for kind in ("duplicates", "leaks", "wrong", "truncated", "siblings"))


def test_a_build_finds_exactly_what_was_planted(sources: Path, version: Path) -> None:
    assert simulation.departures(sources, version) == []


@pytest.fixture
def tampered(version: Path, tmp_path: Path) -> Callable[[pl.Expr], Path]:
    """A copy of the version whose ledger's column was changed."""

    def changed(column: pl.Expr) -> Path:
        folder = shutil.copytree(version, tmp_path / "version")
        ledger = pl.read_parquet(version / "ledger.parquet").with_columns(column)
        ledger.write_parquet(folder / "ledger.parquet")
        return folder

    return changed


def test_a_leak_that_was_kept_is_told(sources: Path, tampered: Callable[[pl.Expr], Path]) -> None:
    leak = pl.col("origin_key") == pl.col("origin_key").filter(pl.col("reason") == "benchmark_leak").min()
    keep = pl.when(leak).then(pl.lit("kept"))
    said = simulation.departures(
        sources, tampered(pl.struct(fate=keep.otherwise("fate"), reason=keep.otherwise("reason")).struct.unnest())
    )
    assert [line.partition(":")[0] for line in said] == [
        "pictured, stay",
        "pictured, stay that are none",
        "pictured, leaks",
    ]


def test_a_row_merged_into_a_stranger_is_told(sources: Path, tampered: Callable[[pl.Expr], Path]) -> None:
    count = sum(
        json.loads((sources / "planted.json").read_text())[name]["duplicates"] for name in ("pictured", "plain")
    )
    said = simulation.departures(sources, tampered(pl.col("into").shift(1)))
    assert len(said) == 1 and said[0].endswith(f"{count:,} planted")


def test_the_check_of_a_command_line_fails_where_a_count_departs(
    sources: Path, version: Path, tampered: Callable[[pl.Expr], Path]
) -> None:
    command = [sys.executable, str(EXAMPLES / "scale_simulation.py"), str(sources), "--check"]
    assert subprocess.run([*command, str(version)], check=False).returncode == 0
    bad = tampered(pl.lit("kept").alias("fate"))
    failed = subprocess.run([*command, str(bad)], check=False, capture_output=True, text=True)
    assert failed.returncode == 1 and "plain, duplicates: 0 found" in failed.stderr
