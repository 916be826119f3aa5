"""split: what belongs together stays together, and shares move nobody when rows are added."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation import stages
from curation.similarity.groups import components
from curation.stages.base import Context
from curation.stages.split import Split
from schemas.errors import WinnowError

STAGE = stages.load()["split"]


def sides(lab: Any, config: Split, rows: pa.Table, context: Context) -> dict[str, str]:
    columns = lab.all(STAGE, config, rows, context).columns
    assert sorted(columns["row_id"].to_pylist()) == sorted(rows["row_id"].to_pylist())
    return dict(zip(columns["row_id"].to_pylist(), columns["split"].to_pylist(), strict=True))


def test_shares_come_out_near_and_move_nobody(lab: Any, context: Context) -> None:
    config = Split(splits={"test": 0.1, "val": 0.05})
    rows = lab.rows([{"question": f"question {i}"} for i in range(4000)])
    found = sides(lab, config, rows, context)
    counts = Counter(found.values())
    assert abs(counts["test"] - 400) < 80 and abs(counts["val"] - 200) < 60
    assert counts["train"] == 4000 - counts["test"] - counts["val"]
    part = sides(lab, config, rows.slice(1000, 500), context)
    assert all(found[row_id] == side for row_id, side in part.items())


def test_identical_content_stays_together(lab: Any, context: Context) -> None:
    rows = lab.rows(
        [
            {"question": f"q {i % 50}", "images": [f"{i % 2}"], "choices": [str(i)], "source": "ab"[i % 3 // 2]}
            for i in range(300)
        ]
    )
    found = sides(lab, Split(splits={"test": 0.5}), rows, context)
    by_content: dict[tuple[str, str], set[str]] = {}
    for row in rows.to_pylist():
        by_content.setdefault((row["question"], row["images"][0]), set()).add(found[row["row_id"]])
    assert all(len(s) == 1 for s in by_content.values())
    assert len({next(iter(s)) for s in by_content.values()}) == 2


def test_by_column_keeps_values_whole_and_nulls_apart(lab: Any, context: Context) -> None:
    rows = lab.rows([{"family": i % 7 if i < 70 else None} for i in range(200)])
    found = sides(lab, Split(splits={"test": 0.4}, by="family"), rows, context)
    by_family: dict[int | None, set[str]] = {}
    for row in rows.to_pylist():
        by_family.setdefault(row["family"], set()).add(found[row["row_id"]])
    assert by_family.pop(None) == {"train", "test"}
    assert all(len(s) == 1 for s in by_family.values())


def test_near_duplicates_stay_together(lab: Any, context: Context) -> None:
    base = [
        f"A train number {i} leaves the town of {chr(65 + i)}burg at noon and meets a cyclist after {i} hours" * 2
        for i in range(20)
    ]
    near = [text.replace("noon", "one ") for text in base]
    rows = lab.rows([{"question": q} for q in base + near])
    found = list(sides(lab, Split(splits={"test": 0.5}, near_duplicates=0.8), rows, context).values())
    assert found[:20] == found[20:]
    assert set(found) == {"train", "test"}
    apart = list(sides(lab, Split(splits={"test": 0.5}), rows, context).values())
    assert apart[:20] != apart[20:]


def test_a_shared_picture_binds_rows_and_a_shared_wording_does_not(lab: Any, context: Context) -> None:
    question = "What is the missing number of the part denoted with a question mark?"
    rows = lab.rows([{"question": question, "images": [f"p{i // 2}"], "answer": str(i)} for i in range(80)])
    found = list(sides(lab, Split(splits={"test": 0.5}, near_duplicates=0.8), rows, context).values())
    assert found[::2] == found[1::2]
    assert set(found) == {"train", "test"}


def test_exact_numbers(lab: Any, context: Context) -> None:
    rows = lab.rows(
        [{"question": f"q {i}"} for i in range(100)] + [{"question": "same", "answer": str(i)} for i in range(30)]
    )
    found = sides(lab, Split(splits={"test": 40, "val": 25}), rows, context)
    assert Counter(found.values()) == {"test": 40, "val": 25, "train": 65}
    same = {found[r["row_id"]] for r in rows.to_pylist() if r["question"] == "same"}
    assert len(same) == 1


def test_numbers_that_groups_cannot_make_are_an_error(lab: Any, context: Context) -> None:
    rows = lab.rows([{"question": "same", "answer": str(i)} for i in range(30)])
    with pytest.raises(WinnowError, match=r"test was to have 10 rows, and 10 are missing.*the largest of 30"):
        lab.all(STAGE, Split(splits={"test": 10}), rows, context)


def test_shares_may_use_up_everything(lab: Any, context: Context) -> None:
    rows = lab.rows([{} for _ in range(50)])
    assert "train" not in sides(lab, Split(splits={"a": 0.9, "b": 0.1}), rows, context).values()


@pytest.mark.parametrize(
    "options",
    [
        {"splits": {}},
        {"splits": {"test": 0}},
        {"splits": {"test": 1.5}},
        {"splits": {"test": 0.7, "val": 0.4}},
        {"splits": {"test": 0.1, "val": 100}},
        {"splits": {"te/st": 0.1}},
        {"splits": {"train": 0.1}},
        {"splits": {"test": 0.1}, "near_duplicates": 1.0},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Split(**options)


def test_check(lab: Any) -> None:
    schema = lab.rows([{}]).schema
    assert STAGE.check is not None
    assert list(STAGE.check(Split(splits={"test": 0.1}), schema)) == []
    (problem,) = STAGE.check(Split(splits={"test": 0.1}, by="sourc"), schema)
    assert problem.hint == "Did you mean 'source'?"
    (problem,) = STAGE.check(Split(splits={"test": 0.1}, by="row_id"), schema)
    assert "content" in problem.hint


def test_components() -> None:
    links = [np.array([[0, 3], [3, 5]]), np.empty((0, 2), np.int64), np.array([[4, 2]])]
    assert components(6, links).tolist() == [0, 1, 2, 0, 2, 0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["one and the same long question", "another long question", "x"]), st.integers(0, 3)),
        min_size=1,
    ),
    st.sampled_from([{}, {"near_duplicates": 0.7}, {"by": "source", "near_duplicates": 0.7}, {"by": "source"}]),
    st.integers(0, 9),
)
def test_order_of_rows_makes_no_difference(
    lab: Any, context: Context, texts: list[tuple[str, int]], options: dict[str, Any], seed: int
) -> None:
    rows = lab.rows(
        [{"question": f"{q} {n}", "source": str(n), "images": [str(n)] if n == 2 else []} for q, n in texts]
    )
    config = Split(splits={"test": 0.5}, **options)
    assert sides(lab, config, rows, context) == sides(lab, config, lab.shuffled(rows, seed), context)
