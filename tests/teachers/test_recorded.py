"""Recorded answers joined to rows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from curation.stages import fanout
from curation.teachers import recorded
from schemas.errors import WinnowError

DATA = Path(__file__).parents[2] / "recipes" / "data"


@pytest.fixture
def run(fan_out):
    return lambda rows, context, teacher, **options: fan_out(rows, {"kind": "recorded", **teacher}, **options)


def of(outcome):
    return [(t["row_id"][2:5], t["k"], t["text"], t["finish"]) for t in outcome.traces]


@pytest.fixture
def file(tmp_path):
    def write(records, name="t.jsonl"):
        if name.endswith(".parquet"):
            pl.DataFrame(records).write_parquet(tmp_path / name)
        else:
            (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in records))
        return name

    return write


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_answers_are_joined_by_id_and_ordered_by_k(run, rows_of, context, file, name):
    rows = rows_of([{"id": "a", "question": "q"}, {"id": "b", "question": "r"}, {"question": "no id"}])
    answers = [
        {"id": "b", "response": "b0", "sample": 0, "model": "m"},
        {"id": "a", "response": "a1", "sample": 1, "model": "m"},
        {"id": "a", "response": "a0", "sample": 0, "model": "m"},
        {"id": "other", "response": "x", "sample": 0, "model": "m"},
    ]
    outcome = run(rows, context, {"path": file(answers, name), "k": "sample"}, n=2)
    assert of(outcome) == [("000", 0, "a0", "finished"), ("000", 1, "a1", "finished"), ("001", 0, "b0", "finished")]
    assert outcome.notes == {
        "teacher": "recorded",
        "template": "{question}",
        "system": "",
        "rows": 3,
        "rows_without": 1,
        "rows_short": 1,
        "traces": {"finished": 3, "truncated": 0, "failed": 0},
    }
    assert outcome.fates is None
    assert {t["model"] for t in outcome.traces} == {"m"}


def test_without_k_they_are_numbered_as_they_stand(run, rows_of, context, file):
    name = file([{"id": "a", "response": t} for t in "xyz"])
    rows = rows_of([{"id": "a", "question": "q"}])
    assert [t[2] for t in of(run(rows, context, {"path": name}, n=2))] == ["x", "y"]


def test_k_that_counts_from_one_begins_at_zero(run, rows_of, context, file):
    name = file([{"id": "a", "response": f"r{k}", "k": k} for k in (3, 1, 2)])
    rows = rows_of([{"id": "a", "question": "q"}])
    assert of(run(rows, context, {"path": name, "k": "k"}, n=2)) == [
        ("000", 0, "r1", "finished"),
        ("000", 1, "r2", "finished"),
    ]


def test_finish_is_read_in_the_words_of_others(run, rows_of, context, file):
    name = file(
        [
            {"id": 7, "response": r, "why": w}
            for r, w in [("a", "stop"), ("b", "LENGTH"), ("c", None), ("d", "error"), (None, "stop")]
        ]
    )
    rows = rows_of([{"id": "7", "question": "q"}])
    outcome = run(rows, context, {"path": name, "finish": "why"})
    assert [t[3] for t in of(outcome)] == ["finished", "truncated", "finished", "failed", "failed"]
    assert [t[2] for t in of(outcome)] == ["a", "b", "c", None, None]
    with pytest.raises(WinnowError, match="says 'weird', which is none of"):
        run(rows, context, {"path": file([{"id": "7", "response": "a", "why": "weird"}]), "finish": "why"})


def test_min_traces_drops_with_a_reason(run, rows_of, context, file):
    name = file([{"id": "a", "response": "1"}, {"id": "a", "response": "2"}, {"id": "b", "response": "1"}])
    rows = rows_of([{"id": i, "question": "q"} for i in "abc"])
    fates = run(rows, context, {"path": name}, n=2, min_traces=2).fates.to_pylist()
    assert [(f["row_id"][2:5], f["reason"]) for f in fates] == [("001", "too_few_traces"), ("002", "too_few_traces")]
    assert fates[0]["sentence"] == "The teacher gave 1 usable answers; the recipe asks for 2."


def test_only_the_named_sources_are_asked(run, rows_of, context, file):
    name = file([{"id": "a", "response": "1"}])
    rows = rows_of([{"id": "a", "question": "q", "source": "x"}, {"id": "a", "question": "q", "source": "y"}])
    assert [t[0] for t in of(run(rows, context, {"path": name}, sources=["y"]))] == ["001"]


def test_a_key_is_the_answer_not_its_place(run, rows_of, context, file):
    first = run(rows_of([{"id": "a", "question": "q"}]), context, {"path": file([{"id": "a", "response": "1"}])})
    again = run(
        rows_of([{"id": "z", "question": "p"}, {"id": "a", "question": "q"}]),
        context,
        {"path": file([{"id": "z", "response": "2"}, {"id": "a", "response": "1"}], "u.jsonl")},
    )
    assert first.traces[0]["key"] == again.traces[1]["key"]


@pytest.mark.parametrize(
    ("records", "teacher", "message"),
    [
        ([{"id": "a", "text": "x"}], {}, "has no column 'response'.*\n.*It has: id, text"),
        ([{"id": "a", "response": "x"}], {"k": "sample"}, "no column 'sample' .option k."),
        ([{"id": "a", "response": "x", "k": 0}] * 2, {"k": "k"}, "share id and k, the first: 'a', 0"),
        (
            [{"id": "a", "response": "x", "k": None}, {"id": "a", "response": "y", "k": 1}],
            {"k": "k"},
            "is empty in 1 answers",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(run, rows_of, context, file, records, teacher, message):
    with pytest.raises(WinnowError, match=message):
        run(rows_of([{"id": "a", "question": "q"}]), context, {"path": file(records), **teacher})


def test_a_missing_or_broken_file_is_said(run, rows_of, context, tmp_path):
    rows = rows_of([{"id": "a", "question": "q"}])
    with pytest.raises(WinnowError, match="is not there"):
        run(rows, context, {"path": "nowhere.parquet"})
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(WinnowError, match="cannot be read"):
        run(rows, context, {"path": "broken.parquet"})


def test_configs_say_what_is_wrong(rows_of):
    schema = rows_of([]).schema
    with pytest.raises(ValidationError, match="kind"):
        fanout.Fanout(teacher={"kind": "oracle"})
    recorded = {"kind": "recorded", "path": "x.parquet"}
    (problem,) = fanout.check(fanout.Fanout(teacher={**recorded, "join": {"rows": "ident"}}), schema)
    assert "'ident'" in str(problem)
    (problem,) = fanout.check(fanout.Fanout(teacher=recorded, n=2, min_traces=3), schema)
    assert "every row would be dropped" in str(problem)
    (problem,) = fanout.check(
        fanout.Fanout(teacher={"kind": "transformers_local", "model": "m"}, temperature=0), schema
    )
    assert "temperature 0" in str(problem)


def test_the_sample_data_has_eight_answers_of_a_hundred_problems(run, rows_of, context):
    math = pl.read_parquet(DATA / "math.parquet")
    rows = rows_of(math.select("id", "question", "answer").to_dicts())
    teacher = {"path": str(DATA / "math_x8.parquet"), "k": "sample"}
    outcome = run(rows, context, teacher, n=8)
    assert len(outcome.traces) == 800
    assert outcome.notes["rows_without"] == 150
    first_four = run(rows, context, teacher, n=4)
    wanted = [t for t in outcome.traces if t["k"] < 4]
    assert first_four.traces == wanted


def test_until_takes_the_first_that_are_needed(run, rows_of, context, file):
    """Recorded answers as if they had been asked for: the prefix that holds two right ones."""
    name = file([{"id": "a", "response": f"The answer is {x}.", "k": i} for i, x in enumerate([1, 2, 3, 2, 2])])
    rows = rows_of([{"id": "a", "question": "q", "answer": "2"}])
    assert [t[1] for t in of(run(rows, context, {"path": name, "k": "k"}, until={"correct": 2, "max": 5}))] == [
        0,
        1,
        2,
        3,
    ]
    assert len(of(run(rows, context, {"path": name, "k": "k"}, n=5, stop_if_all_wrong_after=1))) == 1


def test_formats_are_demanded_of_recorded_answers_too(run, rows_of, context, file):
    name = file([{"id": "a", "response": r} for r in ("<think>x</think>y", "x</think>y", "y")])
    outcome = run(rows_of([{"id": "a", "question": "q"}]), context, {"path": name}, format="think")
    assert [t["malformed"] for t in outcome.traces] == [None, None, "no think block"]
    assert [t["repair"] for t in outcome.traces] == [None, "opened_think", None]
    assert outcome.traces[1]["text"] == "<think>x</think>y"
    assert outcome.notes["malformed"] == 1 and outcome.notes["repaired"] == {"opened_think": 1}


@pytest.mark.parametrize("held", [0, 1 << 40])
def test_many_rows_in_another_order_than_the_file(run, rows_of, context, file, monkeypatch, held):
    """Several pieces, in memory and on disk: every answer comes to its row."""
    monkeypatch.setattr(recorded, "HELD_BYTES", held)
    monkeypatch.setattr(recorded, "PIECE_ROWS", 64)
    order = list(range(300))
    random.Random(1).shuffle(order)
    name = file([{"id": str(i), "response": f"r{i}-{k}", "k": k} for k in (2, 0, 1) for i in order], "t.parquet")
    rows = rows_of([{"id": str(i), "question": "q"} for i in range(300)])
    outcome = run(rows, context, {"path": name, "k": "k"}, n=3)
    assert [t["text"] for t in outcome.traces] == [f"r{i}-{k}" for i in range(300) for k in range(3)]
    assert not list(context().scratch.glob("texts-*"))
