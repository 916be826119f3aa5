"""Every example recipe builds on the real files, and its ledger accounts for every record."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation import build, fsck

OWN = {"scale_simulation", *(f"openmmreasoner_{kind}_{on}" for kind in ("sft", "rl") for on in ("local", "files"))}
"""Recipes of several sources, each with a test of its own."""
EXAMPLES = sorted(
    path for path in (Path(__file__).parents[2] / "recipes" / "examples").glob("*.yaml") if path.stem not in OWN
)


@pytest.mark.parametrize("recipe", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_builds_and_reconciles(
    recipe: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_DATA", str(data_dir))
    version = build(recipe, workspace=tmp_path, workers=1)
    counts = version.manifest["counts"]
    upstream = sum(source.get("rows", 0) for source in _files(data_dir, recipe.stem))
    assert counts["input"] == upstream
    assert counts["input"] == counts["kept"] + counts["dropped"] + counts["merged"] + counts["quarantined"]
    ledger = version.ledger()
    assert ledger.height == ledger["row_id"].n_unique() == counts["input"]
    assert ledger["sentence"].null_count() == 0
    assert fsck(workspace=tmp_path) == []


def _files(data_dir: Path, name: str) -> list[dict[str, int]]:
    """How many records upstream has, counted without Winnow."""
    if name == "geometry3k":
        lines = (data_dir / "multimodal/geometry3k/records.jsonl").read_text().splitlines()
        return [{"rows": len(lines)}]
    found = [*data_dir.glob(f"text/{name}.parquet"), *data_dir.glob(f"multimodal/{name}.parquet")]
    return [{"rows": pq.read_metadata(path).num_rows} for path in found]
