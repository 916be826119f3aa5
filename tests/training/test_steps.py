"""A chain from a recipe to a measured model, by the real command; run again, it does nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="pip install 'winnow[train]'")
ROOT = Path(__file__).resolve().parents[2]
CHAIN = f"""\
- build: {ROOT}/recipes/tiny_sums.yaml
  limit: 300
- sft: {ROOT}/recipes/train_tiny_sft.yaml
  set: [steps=4, evaluation=null, save.every=4]
- evaluate: run:tiny-sft
  on: [{ROOT}/recipes/benchmarks/sums.yaml]
  limit: 40
"""


def run(folder: Path, *, ok: bool = True) -> Any:
    words = [sys.executable, "-m", "curation.cli", "run", "chain.yaml", "--workspace", "ws", "--json", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == ok, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()] if ok else done.stderr


def test_one_file_from_questions_to_a_figure(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN)
    build, sft, evaluate = run(tmp_path)
    assert [build["step"], sft["step"], evaluate["step"]] == ["build", "sft", "evaluate"]
    folder = Path(sft["path"])
    steps = (folder / "metrics.jsonl").read_text()
    figure = evaluate["figures"]["sums"]
    assert figure["metric"] == "accuracy" and 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert run(tmp_path)[1:] == [sft, evaluate]
    assert (folder / "metrics.jsonl").read_text() == steps  # nothing was trained again


def test_a_recipe_that_is_not_there_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(CHAIN.replace("train_tiny_sft", "train_tiny_sfft"))
    said = run(tmp_path, ok=False)
    assert "chain.yaml:3: " in said and "train_tiny_sft" in said
    assert not (tmp_path / "ws" / "versions").exists() or not list((tmp_path / "ws" / "versions").iterdir())
