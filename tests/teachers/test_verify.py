"""Verdicts, pass rates and label problems."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.stages import REGISTRY, verify
from schemas.rows import TRACE


def trace(row, k, text, finish="finished"):
    return {"row_id": f"{row:05x}" + "0" * 15, "k": k, "attempt": 0, "text": text, "finish": finish}


@pytest.fixture
def judged(rows_of, context):
    def run(records, traces, **options):
        table = pa.Table.from_pylist(traces, schema=TRACE)
        outcome = verify.run(verify.Verify(**options), rows_of(records), context(traces=table))
        return outcome, outcome.columns.drop_columns(["row_id"]).to_pylist()

    return run


def test_pass_rate_is_correct_over_judgeable(judged):
    records = [{"question": "q", "answer": "12"}, {"question": "r", "answer": "5"}, {"question": "s", "answer": None}]
    traces = [
        trace(0, 0, r"So it is \boxed{12}."),
        trace(0, 1, r"So it is \boxed{13}."),
        trace(0, 2, "It is 1", "truncated"),
        trace(0, 3, None, "failed"),
        trace(2, 0, r"\boxed{1}"),
    ]
    outcome, columns = judged(records, traces)
    assert columns == [
        {"n_traces": 4, "n_judged": 3, "n_correct": 1, "pass_rate": 1 / 3, "label_problem": None},
        {"n_traces": 0, "n_judged": 0, "n_correct": 0, "pass_rate": None, "label_problem": None},
        {"n_traces": 1, "n_judged": 0, "n_correct": 0, "pass_rate": None, "label_problem": "unparsable_gold"},
    ]
    # A failed trace says nothing, so nothing is said of it.
    assert [(v["row_id"][2:5], v["k"], v["state"]) for v in outcome.verdicts.to_pylist()] == [
        ("000", 0, "correct"),
        ("000", 1, "incorrect"),
        ("000", 2, "truncated"),
        ("002", 0, "unparsable_gold"),
    ]
    assert outcome.notes["verdicts"] == {"correct": 1, "incorrect": 1, "truncated": 1, "unparsable_gold": 1}
    assert len(outcome.fates) == 0
    _, columns = judged(records, traces, count_truncated=False)
    assert columns[0]["pass_rate"] == 0.5


def test_rows_in_any_order_get_their_own_counts(rows_of, context, judged):
    records = [{"question": "q", "answer": str(i)} for i in range(3)]
    traces = [trace(i, 0, rf"\boxed{{{i if i != 1 else 9}}}") for i in range(3)]
    backwards = rows_of(records).take([2, 1, 0])
    table = pa.Table.from_pylist(traces, schema=TRACE)
    outcome = verify.run(verify.Verify(), backwards, context(traces=table))
    assert outcome.columns["n_correct"].to_pylist() == [1, 0, 1]
    assert outcome.columns["row_id"].to_pylist() == backwards["row_id"].to_pylist()


def test_min_correct_says_why_rows_go(judged):
    records = [
        {"question": "q", "answer": "1"},
        {"question": "q", "answer": "2"},
        {"question": "q", "answer": "3"},
        {"question": "q", "answer": " "},
    ]
    traces = [trace(0, 0, r"\boxed{1}"), trace(1, 0, r"\boxed{9}"), trace(3, 0, r"\boxed{9}")]
    outcome, _ = judged(records, traces, min_correct=1)
    fates = {f["row_id"][2:5]: f for f in outcome.fates.to_pylist()}
    assert {row: f["reason"] for row, f in fates.items()} == {
        "001": "no_correct_trace",
        "002": "no_trace",
        "003": "unparsable_gold",
    }
    assert fates["001"]["sentence"] == "0 of 1 judgeable traces are correct; the recipe asks for 1."
    assert json.loads(fates["001"]["evidence"]) == {"n_traces": 1, "n_judged": 1, "n_correct": 0}


def test_traces_that_agree_make_a_gold_suspect(judged):
    records = [{"question": "q", "answer": "140"}, {"question": "q", "answer": "140"}]
    traces = [trace(0, k, r"\boxed{40}") for k in range(4)] + [trace(1, k, r"\boxed{40}") for k in range(4)]
    traces.append(trace(1, 4, r"\boxed{140}"))
    outcome, columns = judged(records, traces, drop_suspect=True)
    # The second row's gold was reached once, so it stands.
    assert [c["label_problem"] for c in columns] == ["suspect_gold", None]
    (fate,) = outcome.fates.to_pylist()
    assert fate["sentence"] == '4 traces agree on "40", but the gold answer is "140".'
    assert outcome.notes["label_problems"] == {"suspect_gold": {"rows": 1, "examples": ["0" * 20]}}
    _, columns = judged(records, traces, suspect_agree=5)
    assert [c["label_problem"] for c in columns] == [None, None]


def test_an_answer_is_one_however_it_is_written(judged):
    texts = [r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{2/4}", r"\boxed{50\%}", r"\boxed{7}"]
    traces = [trace(0, k, text) for k, text in enumerate(texts)]
    outcome, columns = judged([{"question": "q", "answer": "0.25"}], traces, drop_suspect=True)
    assert columns[0]["label_problem"] == "suspect_gold"
    assert json.loads(outcome.fates["evidence"][0].as_py())["agree"] == 4
    _, columns = judged([{"question": "q", "answer": "0.25"}], traces, suspect_agree=5)
    assert columns[0]["label_problem"] is None


def test_a_gold_that_nothing_reads_is_a_label_problem(judged, tmp_path):
    records = [
        {"question": "q", "answer": "∵ AB = AC ∴ ∠B = ∠C, so x = {30 and y"},
        {"question": "q", "answer": "x+1=0"},
    ]
    _, columns = judged(records, [trace(0, 0, r"\boxed{30}"), trace(1, 0, r"\boxed{x^3+x^2=-x-1}")])
    assert [c["label_problem"] for c in columns] == ["unparsable_gold", None]
    assert (tmp_path / "ws" / verify.VERDICTS).is_file(), "the comparison by sympy is kept in the workspace"


def test_a_gold_outside_the_choices_is_a_label_problem(judged):
    choices = ["6", "9", "blue"]
    golds = ["9", "B", "(c)", " Blue ", "D", "7", "AC", None]
    _, columns = judged([{"question": "q", "answer": g, "choices": choices} for g in golds], [])
    assert [c["label_problem"] for c in columns] == [
        None,
        None,
        None,
        None,
        "gold_not_in_choices",
        "gold_not_in_choices",
        None,
        None,
    ]


def test_policy_is_checked_and_part_of_the_notes(judged):
    with pytest.raises(ValidationError, match="policy has no 'tolerence'"):
        verify.Verify(policy={"tolerence": 0.1})
    with pytest.raises(ValidationError, match=r"policy\.lowest_terms is a bool"):
        verify.Verify(policy={"lowest_terms": 1})
    outcome, _ = judged([{"question": "q", "answer": "1"}], [], policy={"lowest_terms": True})
    assert json.loads(outcome.notes["policy"])["lowest_terms"] is True


def test_the_cache_key_knows_the_checker():
    from curation.answers.policy import REVISION

    assert REGISTRY["verify"].revision % 1000 == REVISION % 1000
    assert {"math-verify", "sympy"} <= set(REGISTRY["verify"].libraries)
