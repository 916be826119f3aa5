"""Accuracy on labelled cases, where the folder of real records is at hand.

False accepts come first: none may remain that was not read and argued to be an error of its label (the list stands in
labelled.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.answers import check
from tests.answers.labelled import Score, load, score

BOUNDS = {  # group: accuracy at least
    "bare": 0.998,
    "hard bare": 0.992,
    "replies": 0.997,
    "school": 0.97,
    "suites": 0.97,
    "choice": 0.985,
}


@pytest.fixture(scope="module")
def scores(data_dir: Path) -> dict[str, Score]:
    def decide(case: dict[str, Any]) -> bool | None:
        verdict = check(case["gold"], case["prediction"], question=case["question"], golds=case.get("golds"))
        return {"correct": True, "incorrect": False, "no_answer": False}.get(verdict.state)

    path = data_dir / "answers" / "labelled_dev.jsonl"
    if not path.is_file():
        pytest.skip(f"no labelled cases at {path}: set WINNOW_DATA to a folder that has them")
    return score(load(path), decide)


@pytest.mark.parametrize("group", BOUNDS)
def test_accuracy(scores: dict[str, Score], group: str) -> None:
    found = scores[group]
    assert found.right / found.cases >= BOUNDS[group], found
    assert found.unargued_accepts == 0, found


def test_text_is_decided_often_and_rightly(scores: dict[str, Score]) -> None:
    found = scores["text"]
    assert found.decided / found.cases >= 0.75, found
    assert found.decided_right / found.decided >= 0.975, found
