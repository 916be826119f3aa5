"""mix: exact numbers, nested choices, every row accounted for."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation import stages
from curation.mixture import allot, largest_remainder
from curation.stages.base import Context, Outcome
from curation.stages.mix import Mix
from schemas.errors import WinnowError

STAGE = stages.load()["mix"]
SIZES = {"a": 40, "b": 25, "c": 10}


def some(lab: Any, sizes: dict[str, int] = SIZES) -> pa.Table:
    return lab.rows([{"source": s, "question": f"{s}{i}"} for s, n in sizes.items() for i in range(n)])


def taken(rows: pa.Table, outcome: Outcome) -> Counter[str]:
    """How often each source stands in the data; fails where a row has two fates or an unknown one."""
    dropped = outcome.fates["row_id"].to_pylist() if outcome.fates is not None else []
    assert len(dropped) == len(set(dropped)) and set(dropped) <= set(rows["row_id"].to_pylist())
    times = (
        dict(zip(*(outcome.repeat[c].to_pylist() for c in ("row_id", "repeat")), strict=True)) if outcome.repeat else {}
    )
    assert not set(times) & set(dropped)
    counts: Counter[str] = Counter()
    for row_id, source in zip(rows["row_id"].to_pylist(), rows["source"].to_pylist(), strict=True):
        if row_id not in set(dropped):
            counts[source] += times.get(row_id, 1)
    return counts


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"caps": {"a": 7, "b": 0.5}}, {"a": 7, "b": 12, "c": 10}),
        ({"caps": {"*": 5}}, {"a": 5, "b": 5, "c": 5}),
        ({"caps": {"a": 0}}, {"b": 25, "c": 10}),
        ({"weights": {"a": 2, "b": 1, "c": 1}, "total": 20}, {"a": 10, "b": 5, "c": 5}),
        ({"weights": {"a": 1, "*": 1}}, {"a": 10, "b": 10, "c": 10}),
        ({"weights": {"a": 1, "b": 1, "c": 1}, "total": 50}, {"a": 20, "b": 20, "c": 10}),
        ({"weights": {"a": 1, "b": 1, "c": 1}, "total": 500}, SIZES),
        ({"weights": {"a": 1, "b": 0, "c": 1}, "total": 20}, {"a": 10, "c": 10}),
        ({"weights": {"a": 1, "b": 1, "c": 1}, "total": 90, "repeat": True}, {"a": 30, "b": 30, "c": 30}),
        ({"weights": {"a": 1, "b": 1, "c": 1}, "repeat": True}, {"a": 25, "b": 25, "c": 25}),
        ({"weights": {"a": 1, "b": 1, "c": 1}, "caps": {"a": 5}, "total": 60}, {"a": 5, "b": 25, "c": 10}),
        ({"repeats": {"c": 3}}, {"a": 40, "b": 25, "c": 30}),
        ({"repeats": {"c": 3}, "caps": {"a": 0, "b": 0, "c": 5}}, {"c": 15}),
        ({"weights": {"a": 1, "*": 0}, "floors": {"source": {"c": 4}}, "total": 10}, {"a": 6, "c": 4}),
        (
            {"weights": {"a": 1, "b": 1, "c": 0}, "floors": {"source": {"c": 10}}, "total": 30},
            {"a": 10, "b": 10, "c": 10},
        ),
        ({"total": 0}, {}),
        ({"total": 500}, SIZES),
        ({"where": "source <> 'b'", "total": 500}, {"a": 40, "c": 10}),
        ({"sql": "select row_id, 3 as repeat from rows where source = 'c'"}, {"c": 30}),
    ],
)
def test_numbers_are_exact(lab: Any, context: Context, options: dict[str, Any], expected: dict[str, int]) -> None:
    rows = some(lab)
    outcome = lab.all(STAGE, Mix(**options), rows, context)
    assert taken(rows, outcome) == Counter(expected)
    if "sql" not in options:
        assert {k: v for k, v in outcome.notes["taken"].items() if v} == expected


def test_total_without_weights_is_a_sample_of_all(lab: Any, context: Context) -> None:
    rows = some(lab)
    assert sum(taken(rows, lab.all(STAGE, Mix(total=30), rows, context)).values()) == 30


def test_fates_say_why(lab: Any, context: Context) -> None:
    rows = some(lab)
    outcome = lab.all(STAGE, Mix(caps={"a": 30}, weights={"a": 1, "*": 1}, total=24), rows, context)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for fate in outcome.fates.to_pylist():
        by_reason.setdefault(fate["reason"], []).append(fate)
    assert Counter({r: len(f) for r, f in by_reason.items()}) == {"over_cap": 10, "not_sampled": 41}
    capped = by_reason["over_cap"]
    assert capped[0]["sentence"] == "Over the cap: of source a at most 30 rows are kept, in the order of their draws."
    assert sorted(json.loads(f["evidence"])["rank"] for f in capped) == list(range(31, 41))
    sampled = [f for f in by_reason["not_sampled"] if json.loads(f["evidence"])["value"] == "c"]
    assert sampled[0]["sentence"] == (
        "Not sampled: 8 rows of source c are taken, in the order of their draws, and this one comes later."
    )
    evidence = json.loads(sampled[0]["evidence"])
    assert 8 < evidence.pop("rank") <= 10
    assert evidence == {"by": "source", "limit": 8, "value": "c"}


@pytest.mark.parametrize("option", ["caps", "total"])
def test_more_is_a_superset_of_less(lab: Any, context: Context, option: str) -> None:
    rows = some(lab)
    before: set[str] = set()
    for n in (0, 3, 11, 24, 40):
        config = Mix(caps={"*": n}) if option == "caps" else Mix(total=n)
        kept = set(rows["row_id"].to_pylist()) - set(lab.all(STAGE, config, rows, context).fates["row_id"].to_pylist())
        assert before <= kept
        before = kept


def test_other_rows_and_other_order_move_nobody(lab: Any, context: Context) -> None:
    rows, more = some(lab), some(lab, {**SIZES, "d": 30})
    config = Mix(caps={"a": 9})
    first = lab.all(STAGE, config, rows, context).fates.sort_by("row_id")
    assert first == lab.all(STAGE, config, lab.shuffled(rows, 5), context).fates.sort_by("row_id")
    assert first == lab.all(STAGE, config, more, context).fates.sort_by("row_id")


def test_seed_and_name_choose_others(lab: Any, context: Context, named: Any) -> None:
    rows = some(lab)
    kept = [lab.all(STAGE, Mix(total=20), rows, c).fates.sort_by("row_id") for c in (context, named("there"))]
    assert kept[0] != kept[1]


def test_by_another_column(lab: Any, context: Context) -> None:
    rows = lab.rows([{"level": i % 3 if i else None} for i in range(31)])
    outcome = lab.all(STAGE, Mix(by="level", caps={"1": 2}), rows, context)
    assert outcome.notes["taken"] == {"": 1, "0": 10, "1": 2, "2": 10}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"a": 1}}, "do not name 'b', 'c'"),
        ({"caps": {"maths": 3}}, "Did you mean 'math'"),
    ],
)
def test_wrong_names_are_errors(lab: Any, context: Context, options: dict[str, Any], said: str) -> None:
    rows = some(lab, {"math": 3}) if "maths" in options.get("caps", {}) else some(lab)
    with pytest.raises(WinnowError, match=said):
        lab.all(STAGE, Mix(**options), rows, context)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sql": "select row_id from rows", "total": 3},
        {"repeat": True, "total": 3},
        {"caps": {"a": 1.5}},
        {"weights": {"a": -1}},
        {"weights": {"a": 0}},
        {"where": "random() > 1"},
        {"sql": "select row_id from traces"},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mix(**options)


def test_check(lab: Any) -> None:
    schema = some(lab).schema
    assert STAGE.check is not None
    (problem,) = STAGE.check(Mix(by="sorce", total=1), schema)
    assert problem.hint == "Did you mean 'source'?"
    assert list(STAGE.check(Mix(where="nothing > 1", total=1), schema))
    assert list(STAGE.check(Mix(sql="select question from rows"), schema))
    assert list(STAGE.reads(Mix(where="length(question) > 1", total=1))) == ["question", "source"]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_largest_remainder_adds_up_and_is_fair(weights: list[int], total: int) -> None:
    parts = largest_remainder([Fraction(w) for w in weights], total)
    assert sum(parts) == total
    assert all(abs(p - Fraction(total * w, sum(weights))) < 1 for p, w in zip(parts, weights, strict=True))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(0, 200)),
)
def test_allotment_takes_no_more_than_there_is(sources: list[tuple[int, int]], total: int | None) -> None:
    weights, available = [Fraction(w) for w, _ in sources], [n for _, n in sources]
    quotas = allot(weights, available, total, repeat=False)
    assert all(0 <= q <= n for q, n in zip(quotas, available, strict=True))
    usable = sum(n for w, n in sources if w)
    if total is not None:
        assert sum(quotas) == min(total, usable)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 12), min_size=1),
    st.integers(0, 30),
    st.booleans(),
    st.integers(0, 9),
)
def test_every_row_is_accounted_for(
    lab: Any, context: Context, sizes: dict[str, int], total: int, repeat: bool, seed: int
) -> None:
    rows = some(lab, sizes)
    config = Mix(weights={"a": 2, "*": 1}, total=total, repeat=repeat)
    one, other = (lab.all(STAGE, config, t, context) for t in (rows, lab.shuffled(rows, seed)))
    assert one.fates.sort_by("row_id") == other.fates.sort_by("row_id")
    assert sum(taken(rows, one).values()) == (total if repeat else min(total, len(rows)))


def kept_of(rows: pa.Table, outcome: Outcome) -> list[dict[str, Any]]:
    gone = set(outcome.fates["row_id"].to_pylist())
    return [row for row in rows.to_pylist() if row["row_id"] not in gone]


def test_floors_of_any_column_come_before_the_draw(lab: Any, context: Context) -> None:
    """Of 100 rows six have pictures and four another licence; two have both. A sample of ten has what is asked."""
    records = [
        {
            "source": "a",
            "question": f"q{i}",
            "images": ["f" * 64] if i < 6 else [],
            "license": "CC-BY-4.0" if 4 <= i < 8 else "MIT",
        }
        for i in range(100)
    ]
    rows = lab.rows(records)
    floors = {"modality": {"image": 5}, "license": {"CC-BY-4.0": 4}}
    kept = kept_of(rows, lab.all(STAGE, Mix(total=10, floors=floors), rows, context))
    assert len(kept) == 10
    assert sum(bool(row["images"]) for row in kept) >= 5 and sum(row["license"] == "CC-BY-4.0" for row in kept) == 4
    plain = kept_of(rows, lab.all(STAGE, Mix(total=10), rows, context))
    assert sum(row["license"] == "CC-BY-4.0" for row in plain) < 4  # the floor is what brought them in
    others = [row for row in kept if not row["images"] and row["license"] == "MIT"]
    assert others and all(row in plain for row in others)  # the rest is the same draw


def test_what_is_impossible_is_said(lab: Any, context: Context) -> None:
    rows = some(lab)
    asked = Mix(weights={"a": 1, "b": 1, "c": 1}, floors={"source": {"c": 12}, "license": {"MIT": 1}}, total=90)
    assert lab.all(STAGE, asked, rows, context).notes["impossible"] == [
        "floors: source c has 10 rows, 12 asked",
        "floors: license MIT has 0 rows, 1 asked",
        "weights: source b has 25 rows, 30 asked",
        "weights: source c has 10 rows, 30 asked",
        "total: there are 75 rows, 90 asked",
    ]
    assert "impossible" not in lab.all(STAGE, Mix(total=75), rows, context).notes


@pytest.mark.parametrize("options", [{}, {"weights": {"a": 1, "b": 1, "c": 1}}, {"repeats": {"a": 2}}])
@pytest.mark.parametrize("budget", [0, 1, 57, 200, 10**9])
def test_a_token_budget_is_kept_and_used_up(lab: Any, context: Context, options: dict[str, Any], budget: int) -> None:
    """With one more row of what stands next the budget would be broken."""
    rows = some(lab)
    rows = rows.set_column(rows.schema.get_field_index("n_tokens"), "n_tokens", pa.array([1 + i % 9 for i in range(75)], pa.int32()))  # fmt: skip
    outcome = lab.all(STAGE, Mix(tokens=budget, **options), rows, context)
    cost = dict(zip(rows["row_id"].to_pylist(), rows["n_tokens"].to_pylist(), strict=True))
    times = dict.fromkeys(cost, 1) | (
        dict(zip(*(outcome.repeat[c].to_pylist() for c in ("row_id", "repeat")), strict=True)) if outcome.repeat else {}
    )
    times |= dict.fromkeys(outcome.fates["row_id"].to_pylist(), 0)
    spent = sum(cost[row] * n for row, n in times.items())
    assert spent == outcome.notes["tokens"] <= budget
    everything = sum(cost.values()) + (sum(cost[row] for row in cost if times[row] == 2))
    assert spent > budget - 10 or spent == everything


def test_a_budget_needs_tokens(lab: Any, context: Context) -> None:
    with pytest.raises(WinnowError, match="75 rows have no n_tokens"):
        lab.all(STAGE, Mix(tokens=10), some(lab), context)


@pytest.mark.parametrize(
    "options",
    [
        {"floors": {"source": {"a": 1}}}, {"total": 1, "tokens": 1}, {"repeats": {"a": 0}}, {"repeats": {"a": 2}, "weights": {"a": 1}},
        {"total": 1, "floors": {"source": {"a": -1}}}, {"sql": "select row_id from rows", "tokens": 3},
    ],
)  # fmt: skip
def test_options_that_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mix(**options)
