"""filter: what is kept and dropped, what the ledger is told, and that batches make no difference."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation import stages
from curation.stages.base import Context
from curation.stages.filter import Filter
from schemas.errors import WinnowError

STAGE = stages.load()["filter"]


def test_false_and_null_are_dropped(lab: Any, context: Context) -> None:
    rows = lab.rows(
        [
            {"question": "short", "answer": "1"},
            {"question": "x" * 500, "answer": "2"},
            {"question": "none", "answer": None},
        ]
    )
    outcome = lab.row(
        STAGE, Filter(where="length(question) < 100 and answer <> '9'", reason="Too long!"), rows, context
    )
    assert outcome.fates is not None
    ids = rows["row_id"].to_pylist()
    by_row = {f["row_id"]: f for f in outcome.fates.to_pylist()}
    assert set(by_row) == {ids[1], ids[2]}
    long, missing = by_row[ids[1]], by_row[ids[2]]
    assert (long["fate"], long["reason"]) == ("dropped", "too_long")
    assert long["sentence"] == "Too long!: the condition length(question) < 100 and answer <> '9' does not hold."
    assert missing["sentence"].endswith("holds is unknown (NULL), because a value is missing.")
    evidence = json.loads(long["evidence"])
    assert evidence["is"] is False and evidence["values"] == {"answer": "2", "question": "x" * 199 + "…"}
    assert json.loads(missing["evidence"]) == {
        "is": None, "values": {"answer": None, "question": "none"}, "where": "length(question) < 100 and answer <> '9'",
    }  # fmt: skip


def test_nothing_to_say_when_all_pass(lab: Any, context: Context) -> None:
    assert lab.row(STAGE, Filter(where="true"), lab.rows([{}, {}]), context).fates is None


def test_evidence_is_json_whatever_the_type(lab: Any, context: Context) -> None:
    rows = lab.rows([{"images": ["aa"], "score": float("nan"), "deep": {"a": 1}, "flag": True}])
    config = Filter(where="images is null and isfinite(score) and deep.a = 2 and not flag")
    outcome = lab.row(STAGE, config, rows, context)
    assert outcome.fates is not None
    values = json.loads(outcome.fates["evidence"][0].as_py())["values"]
    assert values == {"deep": "{'a': 1}", "flag": True, "images": "['aa']", "score": "nan"}


def test_reads_only_what_it_names() -> None:
    assert list(STAGE.reads(Filter(where="length(question) > 1 or source = 'a'"))) == ["question", "source"]


def test_a_condition_that_fails_on_a_value_says_how_to_mend_it(lab: Any, context: Context) -> None:
    with pytest.raises(WinnowError, match="try_cast"):
        lab.row(STAGE, Filter(where="answer::int > 3"), lab.rows([{"answer": "many"}]), context)


@pytest.mark.parametrize("where", ["random() < 0.5", "question in (select 1)", "length(", "hash(question) = 1"])
def test_refused_when_the_recipe_is_read(where: str) -> None:
    with pytest.raises(ValidationError):
        Filter(where=where)


def test_check_finds_unknown_columns_and_functions(lab: Any) -> None:
    schema = lab.rows([{}]).schema
    assert STAGE.check is not None
    assert list(STAGE.check(Filter(where="length(question) > 1"), schema)) == []
    (problem,) = STAGE.check(Filter(where="langage = 'en'"), schema)
    assert problem.hint == "Did you mean 'language'?"
    (problem,) = STAGE.check(Filter(where="question + 1 > 2"), schema)
    assert problem.message.startswith("where: ")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=6)), min_size=1, max_size=20),
    st.lists(st.integers(0, 20), max_size=4),
    st.integers(0, 9),
)
def test_batches_and_order_make_no_difference(
    lab: Any, context: Context, answers: list[str | None], cuts: list[int], seed: int
) -> None:
    rows = lab.rows([{"answer": a} for a in answers])
    config = Filter(where="length(answer) % 2 = 0")
    whole = lab.row(STAGE, config, rows, context).fates
    cut = lab.row(STAGE, config, lab.shuffled(rows, seed), context, cuts=[min(c, len(rows)) for c in cuts]).fates
    dropped = {r for r, a in zip(rows["row_id"].to_pylist(), answers, strict=True) if a is None or len(a) % 2}
    assert (set() if whole is None else set(whole["row_id"].to_pylist())) == dropped
    empty = pa.table({})
    assert (whole or empty) == (cut or empty)
