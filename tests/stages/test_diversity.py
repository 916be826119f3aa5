"""diversity: answers that differ in their steps, questions that cover the others; exports follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from curation import build
from curation.stages import REGISTRY, load
from curation.stages.base import Context
from curation.stages.diversity import Diversity
from schemas.errors import WinnowError

load()
STAGE = REGISTRY["diversity"]

PATHS = [
    "First 3 * 4 = 12, then 12 + 5 = 17, so 17 - 2 = 15.",
    "We begin with 3 * 4 = 12. Now 12 + 5 = 17; at last 17 - 2 = 15.",  # the first, told in other words
    "Since 5 - 2 = 3 and 3 * 4 = 12, the sum is 12 + 3 = 15.",
    "So 3 * 4 = 12 and 12 + 5 = 17 and 17 - 2 = 15!",  # again the first
    r"\frac{30}{2} = 15 because 30 = 60 / 2 and 60 = 15 * 4",
]


def answers(lab: Any, texts: list[str], states: list[str] | None = None) -> tuple[pa.Table, pa.Table, pa.Table]:
    rows = lab.rows([{"question": "q"}, {"question": "no answers"}])
    ids = rows["row_id"].to_pylist()
    n = len(texts)
    states = states or ["correct"] * n
    traces = pa.table(
        {"row_id": [ids[0]] * n, "k": pa.array(range(n), pa.int32()), "text": texts, "finish": ["finished"] * n}
    )
    verdicts = pa.table({"row_id": [ids[0]] * n, "k": pa.array(range(n), pa.int32()), "state": states})
    return rows, traces, verdicts


def chosen(lab: Any, context: Context, config: dict[str, Any], *made: pa.Table, batch: int = 7) -> list[list[int]]:
    rows, traces, verdicts = made
    outcome = lab.all(STAGE, Diversity(answers=config), rows, context, batch=batch, traces=traces, verdicts=verdicts)
    found = dict(zip(outcome.columns["row_id"].to_pylist(), outcome.columns["chosen_k"].to_pylist(), strict=True))
    return [found[row_id] for row_id in rows["row_id"].to_pylist()]


def test_other_words_are_no_other_path(lab: Any, context: Context) -> None:
    made = answers(lab, PATHS)
    assert chosen(lab, context, {"take": 3}, *made) == [[0, 2, 4], []]
    assert chosen(lab, context, {"take": 3}, *made, batch=1) == [[0, 2, 4], []]
    assert chosen(lab, context, {"take": 9}, *made) == [[0, 1, 2, 3, 4], []]


def test_by_words_and_of_finished(lab: Any, context: Context) -> None:
    texts = ["the cat sat on the mat today", "the cat sat on the mat again", "a dog ran over there very fast"]
    made = answers(lab, texts, ["incorrect", "correct", "correct"])
    assert chosen(lab, context, {"take": 2, "by": "words", "of": "finished"}, *made)[0] in ([0, 2], [1, 2])
    assert chosen(lab, context, {"take": 2, "by": "words"}, *made) == [[1, 2], []]
    # Too few steps to compare: words decide.
    assert chosen(lab, context, {"take": 2, "of": "finished"}, *made)[0] in ([0, 2], [1, 2])


def test_questions_that_cover_the_others(lab: Any, context: Context) -> None:
    themes = [
        "How many apples has Anna after {} days?",
        "Find the area of a square with side {}.",
        "Is {} a prime number?",
    ]
    rows = lab.rows([{"question": themes[i % 3].format(i), "source": "ab"[i % 2]} for i in range(60)])
    outcome = lab.all(STAGE, Diversity(questions={"take": 6}), rows, context)
    gone = set(outcome.fates["row_id"].to_pylist())
    left = [r for r in rows.to_pylist() if r["row_id"] not in gone]
    assert sorted((r["source"], r["question"].split()[0]) for r in left) == [
        (source, word) for source in "ab" for word in ("Find", "How", "Is")
    ]
    note = outcome.notes["questions"]["a"]
    assert (note["rows"], note["taken"]) == (30, 3) and note["coverage"] > note["coverage_by_chance"]
    assert set(outcome.fates["reason"].to_pylist()) == {"not_diverse"}
    for seed in range(3):
        again = lab.all(STAGE, Diversity(questions={"take": 0.1}), lab.shuffled(rows, seed), context, batch=3)
        assert set(again.fates["row_id"].to_pylist()) == gone


def test_vectors_of_the_recipe(lab: Any, context: Context) -> None:
    vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    rows = lab.rows([{"question": f"q{i}", "vector": v} for i, v in enumerate(vectors)])
    config = Diversity(questions={"take": 2, "embedding": "vector", "by": None, "method": "k_center"})
    assert not list(STAGE.check(config, rows.schema))  # type: ignore[misc]
    gone = set(lab.all(STAGE, config, rows, context).fates["row_id"].to_pylist())
    left = {i for i, row_id in enumerate(rows["row_id"].to_pylist()) if row_id not in gone}
    assert len(left & {0, 1}) == 1 and len(left & {2, 3}) == 1
    bad = lab.rows([{"vector": [1.0]}, {"vector": [1.0, 2.0]}])
    with pytest.raises(WinnowError, match="equally long"):
        lab.all(STAGE, config, bad, context)
    wrong = Diversity(questions={"take": 2, "embedding": "answer"})
    (problem,) = STAGE.check(wrong, rows.schema)  # type: ignore[misc]
    assert "`answer` is string" in problem.message and "vector" in problem.hint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "say what to choose"),
        ({"answers": {"take": 0}}, "greater than or equal to 1"),
        ({"questions": {"take": 0}}, "greater than 0"),
    ],
)
def test_a_wrong_config_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Diversity(**config)


def test_an_export_takes_the_chosen_answers_and_the_others_say_why(tmp_path: Path) -> None:
    questions = [{"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": "15"} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(questions), tmp_path / "q.parquet")
    said = [
        {"id": q["id"], "response": f"{text} The answer is \\boxed{{15}}.", "sample": k}
        for q in questions
        for k, text in enumerate(PATHS)
    ]
    pq.write_table(pa.Table.from_pylist(said), tmp_path / "said.parquet")
    recipe = {
        "name": "few",
        "seed": 1,
        "sources": [{"name": "q", "parquet": "q.parquet", "license": "MIT"}],
        "stages": [
            {"stage": "fanout", "n": 5, "teacher": {"kind": "recorded", "path": "said.parquet", "k": "sample"}},
            {"stage": "verify"},
            {"stage": "diversity", "answers": {"take": 3}},
        ],
        "outputs": [{"export": "sft"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    version = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
    assert version.manifest["counts"]["examples"] == {"sft": 12}
    fates = version.sql("select k, fate, fate_reason, count(*) as n from traces group by all order by k").to_dicts()
    assert [(f["k"], f["fate_reason"], f["n"]) for f in fates] == [
        (0, None, 4),
        (1, "not_diverse", 4),
        (2, None, 4),
        (3, "not_diverse", 4),
        (4, None, 4),
    ]
