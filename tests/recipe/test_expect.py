"""What a recipe expects: found out, told, and never in the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation import open_version
from curation.builder import build
from curation.console import Quiet
from schemas.errors import RecipeError

TEXT = "".join(f'{{"id": "q{i}", "question": "What is {i % 8} + 1?", "answer": "{i % 8 + 1}"}}\n' for i in range(10))


class Heard(Quiet):
    """Keeps what a build has to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(folder: Path, expect: Any, further: Sequence[Any] = (), **options: Any) -> tuple[Any, list[str]]:
    (folder / "rows.jsonl").write_text(TEXT)
    recipe = {
        "name": "x",
        "sources": [{"jsonl": "rows.jsonl", "name": "sums"}],
        "stages": [{"stage": "dedup"}, *further],
        "outputs": [{"export": "rl"}],
        "expect": expect,
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(recipe))
    heard = Heard()
    version = build(folder / "x.yaml", workspace=folder / "ws", reporter=heard, workers=1, **options)
    return version, heard.notes


def test_what_agrees_is_kept_and_what_departs_is_told(tmp_path: Path) -> None:
    expect = {
        "sources.sums": 10,
        "stages.dedup": {"count": 8, "because": "eight sums"},
        "stages.dedup.merged": 2,
        "stages.dedup.duplicate": {"count": 3, "within": 0.5},
        "outputs.rl.train": 9,
        "kept": {"count": 9, "within": 0.2},
        "stages.dedup.nothing_of_the_kind": None,
    }
    version, notes = run(tmp_path, expect)
    assert notes == ["Other than expected: outputs.rl.train: 8 found, 9 expected."]
    lines = {line["what"]: (line["found"], line["agrees"]) for line in version.manifest["expected"]}
    assert lines == {
        "sources.sums": (10, True),
        "stages.dedup": (8, True),
        "stages.dedup.merged": (2, True),
        "stages.dedup.duplicate": (2, True),
        "outputs.rl.train": (8, False),
        "kept": (8, True),
    }


def test_expectations_are_no_part_of_the_id_and_a_cached_build_tells_them_too(tmp_path: Path) -> None:
    first, notes = run(tmp_path, None)
    assert notes == [] and "expected" not in first.manifest
    again, notes = run(tmp_path, {"kept": {"count": 100, "within": 0.1, "because": "a guess"}})
    assert again.id == first.id == open_version("x", tmp_path / "ws").id
    assert notes == ["Other than expected: kept: 8 found, 100 within 10.0% expected (a guess)."]


def test_what_a_mixture_cannot_give_is_told(tmp_path: Path) -> None:
    _, notes = run(tmp_path, None, [{"stage": "mix", "total": 20, "floors": {"source": {"sums": 9}}}])
    assert notes == [
        "Stage mix: impossible: floors: source sums has 8 rows, 9 asked.",
        "Stage mix: impossible: total: there are 8 rows, 20 asked.",
    ]


def test_a_limited_build_is_held_against_nothing(tmp_path: Path) -> None:
    version, notes = run(tmp_path, {"kept": 100}, limit=5)
    assert notes == [] and "expected" not in version.manifest


@pytest.mark.parametrize(
    ("key", "words"),
    [("sources.sms", "sums"), ("stages.dedupe.merged", "none of this name"), ("rows", "begins with none of"), ("outputs.sft", "none of this name")],
)  # fmt: skip
def test_a_key_that_counts_nothing_is_a_mistake_in_the_recipe(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as told:
        run(tmp_path, {key: 3})
    assert "x.yaml" in str(told.value)
