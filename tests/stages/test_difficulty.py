"""difficulty: what it measures, what it lets through, and that neither depends on how rows lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from curation.stages import REGISTRY, load
from curation.stages.base import Context, Outcome
from curation.stages.difficulty import Difficulty, wilson
from schemas.errors import WinnowError
from schemas.rows import TRACE
from schemas.verdicts import VERDICT_SCHEMA

load()
STAGE = REGISTRY["difficulty"]

# row name -> answers of its traces; a leading letter says the state: c(orrect), w(rong), n(o answer), t(runcated),
# u(ndecided), f(ailed); the rest is what was answered.
TRACES = {
    "easy": ["c"] * 8,
    "middle": ["c", "c", "w7", "w7", "w9", "n", "t", "u"],
    "hard": ["w1", "w2", "w3", "w4", "f", "f", "f", "f"],
    "silent": ["f", "u"],
}
STATES = {"c": "correct", "w": "incorrect", "n": "no_answer", "t": "truncated", "u": "undecided"}


def tables(lab: Any, traces: dict[str, list[str]] = TRACES, model: str = "m") -> tuple[pa.Table, pa.Table, pa.Table]:
    rows = lab.rows([{"question": name, "source": "a" if i % 2 else "b"} for i, name in enumerate(traces)])
    made, judged = [], []
    for row_id, said in zip(rows["row_id"].to_pylist(), traces.values(), strict=True):
        for k, word in enumerate(said):
            failed = word[0] == "f"
            made.append(
                dict.fromkeys(TRACE.names)
                | {
                    "row_id": row_id,
                    "k": k,
                    "model": model,
                    "finish": "failed" if failed else "truncated" if word[0] == "t" else "finished",
                    "output_tokens": None if failed else 10 * (k + 1),
                }
            )
            if not failed:
                judged.append({"row_id": row_id, "k": k, "state": STATES[word[0]], "answer_normal": word[1:] or None})
    schema = pa.schema([("row_id", pa.string()), ("k", pa.int32()), *VERDICT_SCHEMA])
    return rows, pa.Table.from_pylist(made, TRACE), pa.Table.from_pylist(judged, schema)


def run(lab: Any, context: Context, config: dict[str, Any], **others: Any) -> tuple[Outcome, dict[str, dict[str, Any]]]:
    rows, traces, verdicts = tables(lab, **others)
    outcome = lab.all(STAGE, Difficulty(**config), rows, context, batch=2, traces=traces, verdicts=verdicts)
    names = dict(zip(rows["row_id"].to_pylist(), rows["question"].to_pylist(), strict=True))
    assert outcome.columns is not None
    return outcome, {names[line["row_id"]]: line for line in outcome.columns.to_pylist()}


def gone(lab: Any, outcome: Outcome) -> dict[str, str]:
    rows = tables(lab)[0]
    names = dict(zip(rows["row_id"].to_pylist(), rows["question"].to_pylist(), strict=True))
    assert outcome.fates is not None
    return {names[line["row_id"]]: line["reason"] for line in outcome.fates.to_pylist()}


def test_measures(lab: Any, context: Context) -> None:
    _, found = run(lab, context, {})
    assert (found["easy"]["n_judged"], found["easy"]["n_correct"], found["easy"]["pass_rate"]) == (8, 8, 1.0)
    middle = found["middle"]
    assert (middle["n_judged"], middle["n_correct"]) == (7, 2), "undecided is in neither number"
    assert middle["pass_rate"] == 2 / 7
    assert middle["response_tokens"] == sum(range(10, 90, 10)) / 8
    assert found["hard"]["response_tokens"] == 25, "failed traces have no length"
    assert found["easy"]["disagreement"] == 0
    assert middle["disagreement"] == pytest.approx(-(2 / 5 * math.log2(2 / 5) * 2 + 1 / 5 * math.log2(1 / 5)), abs=1e-6)
    assert found["hard"]["disagreement"] == 2.0
    silent = found["silent"]
    assert (silent["pass_rate"], silent["pass_rate_low"], silent["disagreement"], silent["n_judged"]) == (
        None,
        None,
        None,
        0,
    )


def test_truncated_may_be_left_out(lab: Any, context: Context) -> None:
    _, found = run(lab, context, {"count_truncated": False})
    assert (found["middle"]["n_judged"], found["middle"]["n_correct"]) == (6, 2)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_is_wilsons(confidence: float) -> None:
    pairs = [(s, n) for n in (1, 2, 8, 16, 1000) for s in {0, 1, n // 2, n - 1, n}]
    low, high = wilson(np.array([s for s, _ in pairs]), np.array([n for _, n in pairs]), confidence)
    for i, (s, n) in enumerate(pairs):
        want = binomtest(s, n).proportion_ci(confidence, method="wilson")
        assert (low[i], high[i]) == (pytest.approx(want.low, abs=1e-12), pytest.approx(want.high, abs=1e-12))
    low, high = wilson(np.array([0]), np.array([0]))
    assert (low[0], high[0]) == (0, 1)


@pytest.mark.parametrize(
    ("keep", "reasons"),
    [
        ("0 < pass_rate < 1", {"easy": "outside_band", "hard": "outside_band", "silent": "unknown_difficulty"}),
        ("0 <= pass_rate < 1", {"easy": "outside_band", "silent": "unknown_difficulty"}),
        ("pass_rate_high < 0.9 or pass_rate is null", {"easy": "outside_band"}),
        ("response_tokens > 30", {"hard": "outside_band", "silent": "outside_band"}),
        ("source = 'a'", {"easy": "outside_band", "hard": "outside_band"}),
    ],
)
def test_what_stays(lab: Any, context: Context, keep: str, reasons: dict[str, str]) -> None:
    outcome, _ = run(lab, context, {"keep": keep})
    assert gone(lab, outcome) == reasons
    assert outcome.notes["stay"] == 4 - len(reasons)


def test_a_fate_shows_the_numbers(lab: Any, context: Context) -> None:
    outcome, _ = run(lab, context, {"keep": "0 < pass_rate < 1"})
    assert outcome.fates is not None
    line = next(x for x in outcome.fates.to_pylist() if x["evidence"] and '"n_correct":8' in x["evidence"])
    assert line["evidence"] == '{"n_correct":8,"n_judged":8,"pass_rate":1.0}'
    assert "0 < pass_rate and pass_rate < 1 does not hold" in line["sentence"]


def test_one_model_of_two(lab: Any, context: Context) -> None:
    rows, weak, judged_weak = tables(lab, {"q": ["w1", "c"]}, "weak")
    _, strong, judged_strong = tables(lab, {"q": ["c", "c"]}, "strong")
    later = {"k": pa.array([2, 3], pa.int32())}
    strong, judged_strong = (
        t.set_column(t.schema.get_field_index("k"), "k", later["k"]) for t in (strong, judged_strong)
    )
    traces, verdicts = pa.concat_tables([weak, strong]), pa.concat_tables([judged_weak, judged_strong])

    def rate(**config: Any) -> float:
        outcome = lab.all(STAGE, Difficulty(**config), rows, context, traces=traces, verdicts=verdicts)
        return float(outcome.columns["pass_rate"][0].as_py())

    assert (rate(), rate(model="weak"), rate(model="strong")) == (0.75, 0.5, 1.0)
    with pytest.raises(WinnowError, match=r"no trace is of the model 'other'.*strong, weak"):
        rate(model="other")


def test_quantiles_are_taken_within_a_group(lab: Any, context: Context) -> None:
    traces = {f"q{i}": ["c"] * (i // 2 + 1) for i in range(20)}  # lengths 10 … 55 in steps, alike in both sources
    outcome, found = run(lab, context, {"quantiles": {"response_tokens": [0.1, 0.9]}}, traces=traces)
    assert outcome.fates is not None
    lengths = {line["row_id"]: line["response_tokens"] for line in found.values()}
    left = sorted(lengths[x["row_id"]] for x in outcome.fates.to_pylist())
    assert left == [55.0, 55.0], "the value at the lower quantile itself stays"
    assert {x["reason"] for x in outcome.fates.to_pylist()} == {"outside_quantiles"}


def test_buckets_and_curriculum(lab: Any, context: Context) -> None:
    config = {"buckets": {"hard": 0.25, "medium": 0.75, "easy": 1}, "curriculum": "easy_first", "keep": "n_judged > 0"}
    outcome, found = run(lab, context, config)
    assert {name: line["difficulty"] for name, line in found.items()} == {
        "easy": "easy",
        "middle": "medium",
        "hard": "hard",
        "silent": None,
    }
    assert [found[n]["curriculum"] for n in ("easy", "middle", "hard", "silent")] == [0, 1, 2, None]
    assert outcome.notes["buckets"] == {"hard": 1, "medium": 1, "easy": 1}
    _, found = run(lab, context, {**config, "curriculum": "hard_first"})
    assert [found[n]["curriculum"] for n in ("easy", "middle", "hard")] == [2, 1, 0]
    _, found = run(lab, context, {"curriculum": "easy_first", "rank_by": "response_tokens"})
    assert [found[n]["curriculum"] for n in ("silent", "hard")] == [0, 1], "20 and 25 tokens"


def test_order_and_batches_do_not_matter(lab: Any, context: Context) -> None:
    traces = {f"q{i}": ["cwwn"[(i + j) % 4] + str(j % 3 * (i % 2)) for j in range(8)] for i in range(60)}
    rows, made, judged = tables(lab, traces)
    config = Difficulty(keep="pass_rate < 0.9", quantiles={"disagreement": (0.1, 0.9)}, curriculum="easy_first")
    seen = set()
    for seed in range(4):
        outcome = lab.all(
            STAGE, config, lab.shuffled(rows, seed), context, batch=1 + 7 * seed, traces=made, verdicts=judged
        )
        assert outcome.columns is not None and outcome.fates is not None
        seen.add((str(outcome.columns.sort_by("row_id").to_pylist()), str(outcome.fates.sort_by("row_id").to_pylist())))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"keep": "random() < 0.5"}, "random"),
        ({"quantiles": {"respone_tokens": [0, 1]}}, "did you mean response_tokens"),
        ({"quantiles": {"response_tokens": [0.9, 0.1]}}, "the lower first"),
        ({"buckets": {"a": 0.5, "b": 0.25}}, "must rise"),
        ({"buckets": {"a": 0.5}}, "must reach to 1"),
        ({"rank_by": "length"}, "none of the measures"),
    ],
)
def test_a_wrong_config_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Difficulty(**config)


def test_an_unknown_column_is_found_before_any_work(context: Context, lab: Any) -> None:
    problems = list(STAGE.check(Difficulty(keep="pass_rat < 1"), lab.rows([{}]).schema))  # type: ignore[misc]
    assert "pass_rat" in problems[0].message and "pass_rate" in problems[0].hint
    assert not list(STAGE.check(Difficulty(keep="0 < pass_rate < 1"), lab.rows([{}]).schema))  # type: ignore[misc]


def test_no_rows_and_no_traces(lab: Any, context: Context) -> None:
    rows, traces, verdicts = tables(lab)
    outcome = lab.all(
        STAGE,
        Difficulty(curriculum="easy_first"),
        rows,
        context,
        traces=traces.slice(0, 0),
        verdicts=verdicts.slice(0, 0),
    )
    assert outcome.columns is not None and outcome.columns["pass_rate"].null_count == 4
