"""Asking: what is wanted of every row, the store between the teacher and everybody else, and what is never asked twice.

The teacher is the loopback server, whose answer is a function of the prompt and the seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from curation.stages import fanout
from curation.teachers.policy import CORRECT, OPEN, UNKNOWN, WRONG, Next, Retry, Truncated, Try, next_try, prefix
from curation.teachers.snapshot import FAILED, FINISHED, REFUSED, TRUNCATED


@pytest.fixture
def rows(rows_of):
    return rows_of(
        [
            {
                "question": f"What is {i} + {i}?",
                "choices": ["x", "y"] if i else None,
                "answer": str(2 * i),
                "images": [],
            }
            for i in range(5)
        ]
    )


def sums(rows_of, n):
    return rows_of([{"question": f"What is {i} + {i}?", "answer": str(2 * i), "images": []} for i in range(n)])


def test_what_was_answered_is_not_asked_again(rows, fan_out, loopback):
    server = loopback()
    before = fan_out(rows, server.teacher, n=2)
    again = fan_out(rows, server.teacher, n=2)
    assert again.table.equals(before.table) and again.prepared["asked"] == 0
    more = fan_out(rows, server.teacher, n=4)
    assert (more.prepared["asked"], more.prepared["reused"]) == (10, 10)
    assert [t for t in more.traces if t["k"] < 2] == before.traces
    # Rows in another order, or fewer of them, are the same questions.
    assert fan_out(rows.take([4, 0]).sort_by("row_id"), server.teacher, n=4).prepared["asked"] == 0
    for other in ({"system": "Think."}, {"temperature": 0.5}, {"seed": 3}, {"template": "{stem}!"}):
        assert fan_out(rows.slice(0, 1), server.teacher, n=2, **other).prepared["asked"] == 2


def test_choices_stand_in_the_prompt(rows, fan_out, loopback):
    server = loopback()
    fan_out(rows.slice(0, 2), server.teacher, n=1)
    plain = fan_out(rows.slice(1, 1), server.teacher, n=1, template="{stem}")
    assert plain.prepared["asked"] == 1  # without its choices it is another prompt


def test_a_longer_limit_asks_only_for_what_was_cut(rows_of, fan_out, loopback):
    server, rows = loopback(), sums(rows_of, 40)
    cut = fan_out(rows, server.teacher, n=2, max_tokens=50)
    counts = cut.notes["traces"]
    assert counts["truncated"] > 10 and counts["finished"] > 10
    longer = fan_out(rows, server.teacher, n=2, max_tokens=100)
    assert longer.prepared["asked"] == counts["truncated"]
    assert longer.notes["traces"]["finished"] == 80
    assert {t["attempt"] for t in longer.traces} == {0, 1}
    # And what is finished under the long limit is taken under the short one too.
    assert fan_out(rows, server.teacher, n=2, max_tokens=50).prepared["asked"] == 0


def test_truncated_answers_are_asked_for_again_with_twice_the_limit_and_their_seed(rows_of, fan_out, loopback):
    server, rows = loopback(length=50), sums(rows_of, 10)
    result = fan_out(rows, server.teacher, n=2, max_tokens=20, retry={"truncated": {"max_tokens": "x2", "times": 2}})
    assert result.notes["traces"]["finished"] == 20 and {t["attempt"] for t in result.traces} == {2}
    asked = server.asked()
    assert Counter(limit for _, _, limit in asked) == {20: 20, 40: 20, 80: 20}
    assert set(Counter((name, seed) for name, seed, _ in asked).values()) == {3}  # the same draw, cut later
    short = fan_out(rows, server.teacher, n=3, max_tokens=20, retry={"truncated": {"max_tokens": 30}})
    assert short.prepared["asked"] == 20  # 10 at 20 tokens, 10 at 30; what is finished stays
    assert Counter(t["finish"] for t in short.traces) == {"finished": 20, "truncated": 10}


def test_malformed_answers_are_drawn_again_and_the_last_well_formed_one_counts(rows_of, fan_out, loopback):
    server, rows = loopback(), sums(rows_of, 30)
    # Every answer of the server has a think block and a box, none has answer tags.
    fine = fan_out(rows, server.teacher, n=2, format="think_boxed", retry={"malformed": 2})
    assert fine.prepared["asked"] == 60 and fine.notes["malformed"] == 0
    bad = fan_out(rows, server.teacher, n=2, format="think_answer", retry={"malformed": 2})
    assert bad.prepared["asked"] == 120 and bad.notes["malformed"] == 60
    assert {t["attempt"] for t in bad.traces} == {2}
    assert {t["malformed"] for t in bad.traces} == {"no answer block, or text beside it"}
    assert max(Counter(server.asked()).values()) == 1  # each draw has a seed of its own
    assert fan_out(rows, server.teacher, n=2, format="think_answer", retry={"malformed": 2}).prepared["asked"] == 0


def test_reasoning_of_a_field_of_its_own_is_put_in_front_and_said(rows_of, fan_out, loopback):
    rows = sums(rows_of, 5)
    result = fan_out(rows, loopback(reasoning=True).teacher, n=2, format="think_boxed")
    assert {t["repair"] for t in result.traces} == {"reasoning_content"}
    assert result.notes["repaired"] == {"reasoning_content": 10} and result.notes["malformed"] == 0
    assert all(t["text"].startswith("<think>\nw") and "</think>\nThe answer" in t["text"] for t in result.traces)


def test_until_asks_no_more_than_is_needed(rows_of, fan_out, loopback, context, tmp_path):
    server, rows = loopback(), sums(rows_of, 200)
    result = fan_out(rows, server.teacher, until={"correct": 2, "max": 8})
    frame = pl.from_arrow(result.table).group_by("row_id").len()
    assert frame["len"].min() >= 2 and frame["len"].max() <= 8 and len(frame) == 200
    # Two thirds are right: three answers on average, nothing is asked that is not used.
    assert result.notes["unused"] == 0
    assert server.counts()["asked"] == len(result.table) < 650
    # With eight of each row there already, the same traces are used: the rule looks at the prefix by k.
    elsewhere = replace(context(), workspace=tmp_path / "b")
    fan_out(rows, server.teacher, n=8, into=elsewhere)
    found = fan_out(rows, server.teacher, until={"correct": 2, "max": 8}, into=elsewhere)
    assert found.prepared["asked"] == 0
    assert found.table.equals(result.table)
    assert found.notes["unused"] == 1600 - len(result.table)


def test_rows_that_are_hopeless_are_left(rows_of, fan_out, loopback):
    rows = rows_of([{"question": f"What is {i} + {i}?", "answer": "7777", "images": []} for i in range(20)])
    server = loopback()
    result = fan_out(rows, server.teacher, n=8, stop_if_all_wrong_after=3)
    assert server.counts()["asked"] == 60 == len(result.traces)
    both = fan_out(rows, server.teacher, until={"correct": 2, "max": 8}, stop_if_all_wrong_after=5, seed=1)
    assert len(both.traces) == 100


def test_a_second_fan_out_adds_to_the_first(rows, fan_out, loopback, context):
    server = loopback()
    first = fan_out(rows, server.teacher, n=2)
    into = replace(
        context(),
        name="second",
        earlier_traces=lambda a, b: first.table.filter(
            (pa.compute.field("row_id") >= a) & (pa.compute.field("row_id") <= b)
        ),
    )
    both = fan_out(rows, server.teacher, n=3, temperature=0.5, into=into)
    assert Counter((t["row_id"], t["k"]) for t in both.traces) == Counter(
        (i, k) for i in rows["row_id"].to_pylist() for k in range(5)
    )
    assert Counter(t["stage"] for t in both.traces) == {"stage": 10, "second": 15}
    same = fan_out(rows, server.teacher, n=3, into=into)  # the same question: what is there is not there twice
    assert Counter(t["stage"] for t in same.traces) == {"stage": 10, "second": 5}


def test_logprobs_on_request(rows_of, fan_out, loopback):
    server, rows = loopback(), sums(rows_of, 3)
    assert {t["logprobs"] for t in fan_out(rows, server.teacher, n=1).traces} == {None}
    told = fan_out(rows, server.teacher, n=1, logprobs=True)
    assert told.prepared["asked"] == 3  # they were not kept the first time
    assert all(len(t["logprobs"]) == t["output_tokens"] for t in told.traces)
    assert fan_out(rows, server.teacher, n=1, logprobs=True).prepared["asked"] == 0


def test_same_questions_are_asked_once(rows_of, fan_out, loopback):
    server = loopback()
    rows = rows_of([{"question": "What is 1 + 1?", "answer": "2", "images": []}] * 2)
    result = fan_out(rows, server.teacher, n=2)
    assert result.prepared["asked"] == 2
    assert [t["text"] for t in result.traces[:2]] == [t["text"] for t in result.traces[2:]]
    until = fan_out(rows, server.teacher, until={"correct": 1, "max": 6})
    texts = [[t["text"] for t in until.traces if t["row_id"] == row] for row in rows["row_id"].to_pylist()]
    assert texts[0] == texts[1]


def test_the_log_of_throughput(rows_of, fan_out, loopback, context):
    first = fan_out(sums(rows_of, 50), loopback().teacher, n=2)
    (log,) = (context().workspace / "throughput").glob("stage-*.parquet")
    last = pl.read_parquet(log).row(-1, named=True)
    assert (last["answers"], last["rows"], last["failed"], last["truncated"]) == (100, 50, 0, 0)
    assert last["output_tokens"] > 1000 and last["prompt_tokens"] > 100
    assert (last["requests"], last["again"]) == (50, 0)
    told = first.prepared["throughput"]
    assert set(told["run"]) == {0} and len({len(column) for column in told.values()}) == 1
    assert {name: told[name][-1] for name in ("answers", "output_tokens")} == {name: last[name] for name in ("answers", "output_tokens")}  # fmt: skip


def test_the_manifest_tells_of_all_runs_that_asked_the_same(rows_of, fan_out, loopback):
    server, rows = loopback(faults=0.3), sums(rows_of, 30)
    teacher = {**server.teacher, "timeout": 0.3, "tries": 20}
    one = fan_out(rows, teacher, n=2).prepared["throughput"]
    assert one["again"][-1] > 0  # requests that the server failed
    two = fan_out(rows, teacher, n=2).prepared["throughput"]
    assert two["run"][-1] == 1 and two["answers"][-1] == 0 and two["reused"][-1] == 60
    assert two["answers"][: len(one["run"])] == one["answers"]
    more = fan_out(rows, teacher, n=3).prepared["throughput"]
    assert set(more["run"]) == {0} and more["answers"][-1] == 30  # another question to the teacher, told of alone


def test_a_long_log_is_shortened_for_the_manifest(tmp_path):
    from curation.teachers.meter import IN_MANIFEST, KEPT, LOG, Meter

    zeros = {field.name: 0 for field in LOG}
    for run, length in enumerate((1000, 7)):
        lines = [{**zeros, "stage": "s", "at": None, "seconds": 2.0 * (i + 1), "answers": i + 1} for i in range(length)]
        pq.write_table(pa.Table.from_pylist(lines, LOG), tmp_path / f"s-same-{run}.parquet")
        pq.write_table(pa.Table.from_pylist(lines, LOG), tmp_path / f"s-other-{run}.parquet")
    told = Meter("s", 1, tmp_path, lambda text, facts: None, dict, "same").notes()["throughput"]
    assert set(told) == {"run", *IN_MANIFEST}
    assert told["run"] == [0] * (KEPT // 2) + [1] * 7
    assert (
        told["answers"][49] == 1000
        and told["answers"][-1] == 7
        and told["answers"] == sorted(told["answers"][:50]) + list(range(1, 8))
    )


def test_what_a_plan_says(rows_of, fan_out, loopback, context):
    server, rows = loopback(), sums(rows_of, 100)
    config = fanout.Fanout(teacher=server.teacher, n=4, max_tokens=100)
    before = fanout.estimate(config, rows, context())
    assert (before["requests"], before["answers"], before["tokens"], before["output_tokens"]) == (
        100,
        400,
        40_000,
        40_000,
    )
    assert 300 < before["prompt_tokens"] < 500
    fan_out(rows.slice(0, 50), server.teacher, n=2, max_tokens=100)
    after = fanout.estimate(config, rows, context())
    assert (after["requests"], after["answers"]) == (100, 300)
    assert after["output_tokens"] < after["tokens"] == 30_000  # by the length of the answers that are there


def test_options_that_do_not_fit(rows_of):
    teacher = {"kind": "openai_server", "url": "http://x", "model": "m"}
    said = [
        p.message
        for options in (
            {"n": 2, "temperature": 0},
            {"n": 3, "until": {"correct": 1, "max": 4}},
            {"until": {"correct": 3, "max": 2}},
        )
        for p in fanout.check(fanout.Fanout(teacher=teacher, **options), rows_of([]).schema)
    ]
    assert len(said) == 3
    for bad in (
        {"retry": {"truncated": {"max_tokens": "2x"}}},
        {"retry": {"truncated": {"max_tokens": "x1"}}},
        {"format": "xml"},
    ):
        with pytest.raises(ValidationError):
            fanout.Fanout(teacher=teacher, **bad)


# ------------------------------------------------------------------------------------------------------------- the rules


def test_next_tries():
    retry, limits = Retry(truncated=Truncated(max_tokens="x2"), malformed=1, failed=1), [10, 20]

    def after(*tries):
        return next_try([Try(i, *t) for i, t in enumerate(tries)], limits, retry)

    fin, bad = (FINISHED, 10), (FINISHED, 10, True)
    assert after() == Next(0, 10, 0)
    assert after(fin) is None
    assert after((TRUNCATED, 10)) == Next(1, 20, 0)
    assert after((TRUNCATED, 10), (TRUNCATED, 20)) is None
    assert after((TRUNCATED, 40)) is None
    assert after((FAILED, 10)) == Next(1, 10, 0)
    assert after((TRUNCATED, 10), (FAILED, 20)) == Next(2, 20, 0)
    assert after((REFUSED, 10)) is None
    assert after(bad) == Next(1, 10, 1)
    assert after(bad, (TRUNCATED, 10)) == Next(2, 20, 1)
    assert after(bad, bad) is None
    assert after(bad, fin) is None
    assert next_try([Try(0, REFUSED, 10)], limits, Retry(rejected=True)) == Next(1, 10, 0)
    assert Truncated(max_tokens="x1.5", times=3).limits(100) == [150, 225, 337]
    assert Truncated(max_tokens=50).limits(100) == []


@pytest.mark.parametrize(
    ("states", "correct", "all_wrong", "used", "wanted"),
    [
        ([], 2, None, 0, 2),
        ([CORRECT], 2, None, 1, 2),
        ([CORRECT, WRONG, CORRECT, CORRECT], 2, None, 3, 3),
        ([CORRECT, UNKNOWN, CORRECT], 2, None, 1, 2),  # what comes after a gap decides nothing
        ([WRONG] * 8, 2, None, 8, 8),
        ([WRONG] * 7, 2, None, 7, 8),
        ([], 2, 4, 0, 2),
        ([], 6, 4, 0, 4),
        ([WRONG] * 4, 2, 4, 4, 4),
        ([WRONG, OPEN, WRONG, WRONG], 2, 4, 4, 6),  # one that failed is not wrong
        ([WRONG] * 3, None, 4, 3, 4),
        ([WRONG] * 3 + [CORRECT], None, 4, 4, 8),
    ],
)
def test_prefixes(states, correct, all_wrong, used, wanted):
    assert prefix(states, 8, correct, all_wrong) == (used, wanted)
    padded = states + [UNKNOWN] * (8 - len(states))
    assert prefix(padded, 8, correct, all_wrong) == (used, wanted)
