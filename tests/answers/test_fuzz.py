"""A slice of the fuzzer, and every gold of the real records against itself. The whole: python -m tests.answers.fuzz."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.answers import check
from curation.answers.compare import gold_core
from tests.answers.fuzz import failures, pair

EXCEPTIONS: set[str] = set()
"""Ids of records whose gold does not accept itself."""


@pytest.mark.parametrize("begin", range(0, 4000, 1000))
def test_generated_pairs(begin: int) -> None:
    counts, found = failures(1, begin, begin + 1000)
    assert not found, found[:5]
    assert sum(counts.values()) == 1000 and len({name.split()[0] for name in counts}) > 20


def test_a_pair_is_made_again_from_its_number() -> None:
    assert pair(1, 77) == pair(1, 77)
    assert pair(1, 77) != pair(2, 77)


def test_every_gold_accepts_itself_in_a_box(data_dir: Path) -> None:
    refused, golds = set(), 0
    for folder in ("text", "multimodal", "benchmark"):
        for path in sorted((data_dir / folder).glob("*.parquet")):
            if "answer" in pq.read_schema(path).names:
                for row in pq.read_table(path, columns=["id", "answer"]).to_pylist():
                    if row["answer"] and row["answer"].strip():
                        golds += 1
                        said = check(row["answer"], rf"So it is \boxed{{{gold_core(row['answer'])}}}")
                        if said.state != "correct":
                            refused.add(row["id"])
    if not golds:
        pytest.skip(f"no records in {data_dir}: set WINNOW_DATA to a folder that has them")
    assert refused == EXCEPTIONS
