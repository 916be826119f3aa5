"""difficulty: how hard each row is for the model that answered it, and which rows that lets through.

The measures come from traces and verdicts, partition by partition and without their texts:

- the pass rate over judgeable traces and its Wilson interval (Wilson, "Probable inference, the law of succession, and
  statistical inference", JASA 1927): eight samples say little, and the interval says how little;
- the mean length of the answers, in tokens;
- the disagreement: Shannon's entropy, in bits, of the distinct answers. All correct ones are one answer.

A condition over these (and any other column), quantiles, buckets and the order of a curriculum follow from them.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from curation import draws, sqlguard
from curation.ids import ids_array
from curation.stages.base import Context, Outcome, Rows, StageConfig, fates, global_stage
from schemas.errors import Problem, WinnowError
from schemas.rows import FATE

MEASURES = {
    "pass_rate": pa.float64(),
    "pass_rate_low": pa.float64(),
    "pass_rate_high": pa.float64(),
    "n_judged": pa.int32(),
    "n_correct": pa.int32(),
    "response_tokens": pa.float64(),
    "disagreement": pa.float64(),
}
BORROWED = ("perplexity",)
"""Measures that another stage wrote."""
_BAND = re.compile(r"\s*([\d.eE+-]+)\s*(<=?)\s*(\w+)\s*(<=?)\s*([\d.eE+-]+)\s*")


class Difficulty(StageConfig):
    """Measures how hard rows are, from verdicts. Writes pass_rate with pass_rate_low and pass_rate_high, n_judged,
    n_correct, response_tokens and disagreement; and, where asked for, `difficulty` (a bucket) and `curriculum`."""

    stage: Literal["difficulty"] = "difficulty"
    model: str | None = Field(None, description="Only traces of this model count; by default those of all.")
    count_truncated: bool = Field(True, description="Whether a truncated trace counts as a failed try.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the interval pass_rate_low to pass_rate_high.")
    keep: str | None = Field(
        None, description="SQL condition for rows that stay, or a band such as 0 < pass_rate < 1; NULL counts as no."
    )
    quantiles: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Measure -> [low, high]: rows outside these quantiles of it go, e.g. {response_tokens: [0.05, 0.95]}.",
    )
    quantiles_by: str | None = Field("source", description="Column within whose values quantiles are taken; null: all.")
    buckets: dict[str, float] = Field(
        default_factory=dict,
        description="Name -> upper bound, rising, e.g. {hard: 0.25, medium: 0.75, easy: 1}; written to `difficulty`.",
    )
    curriculum: Literal["easy_first", "hard_first"] | None = Field(
        None, description="Writes `curriculum`: the place of each row in this order, from 0; ties are drawn."
    )
    rank_by: str = Field(
        "pass_rate",
        description="Measure that buckets and curriculum go by: high is easy for pass_rate, hard for the others. Also "
        "perplexity, where that stage stands before.",
    )

    @field_validator("keep")
    @classmethod
    def _condition(cls, keep: str | None) -> str | None:
        if keep is None:
            return None
        if band := _BAND.fullmatch(keep):
            low, below, name, above, high = band.groups()
            keep = f"{low} {below} {name} and {name} {above} {high}"
        sqlguard.predicate(keep)
        return keep

    @field_validator("quantiles")
    @classmethod
    def _shares(cls, quantiles: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in quantiles.items():
            _known_measure(name)
            if not 0 <= low < high <= 1:
                raise ValueError(f"quantiles of {name} are two shares between 0 and 1, the lower first")
        return quantiles

    @field_validator("rank_by")
    @classmethod
    def _measure(cls, name: str) -> str:
        _known_measure(name)
        return name

    @field_validator("buckets")
    @classmethod
    def _rising(cls, buckets: dict[str, float]) -> dict[str, float]:
        bounds = list(buckets.values())
        if any(b <= a for a, b in itertools.pairwise(bounds)):
            raise ValueError("the upper bounds of buckets must rise, e.g. {hard: 0.25, medium: 0.75, easy: 1}")
        return buckets

    @model_validator(mode="after")
    def _covers(self) -> Difficulty:
        if self.buckets and self.rank_by.startswith("pass_rate") and list(self.buckets.values())[-1] < 1:
            raise ValueError("the last bucket of a pass rate must reach to 1, or rows would fall into none")
        return self


def _known_measure(name: str) -> None:
    known = (*MEASURES, *BORROWED)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{name!r} is none of the measures {', '.join(known)}{hint}")


def writes(config: Difficulty) -> Mapping[str, pa.DataType]:
    bucket = {"difficulty": pa.string()} if config.buckets else {}
    return MEASURES | bucket | ({"curriculum": pa.int64()} if config.curriculum else {})


def _named(config: Difficulty) -> list[str]:
    """Columns of rows, not of its own making, that the condition and the quantiles read."""
    named = set(sqlguard.predicate(config.keep).columns if config.keep else ())
    named.update(config.quantiles)
    if config.quantiles and config.quantiles_by:
        named.add(config.quantiles_by)
    if config.buckets or config.curriculum:
        named.add(config.rank_by)
    return sorted(named - {"row_id", *writes(config)})


def check(config: Difficulty, schema: pa.Schema) -> Iterable[Problem]:
    if not config.keep:
        return []
    for name, kind in MEASURES.items():
        at = schema.get_field_index(name)
        schema = schema.append(pa.field(name, kind)) if at < 0 else schema.set(at, pa.field(name, kind))
    sql = f"select (\n{config.keep}\n)::boolean from rows"
    columns = sqlguard.predicate(config.keep).columns
    return sqlguard.problems(config.keep, sql, {"rows": schema}, where="keep", columns=columns)


@global_stage(Difficulty, revision=1, reads=_named, writes=writes, check=check, needs="verdicts", libraries=("duckdb",))
def run(config: Difficulty, rows: Rows, context: Context) -> Outcome:
    seen: set[str] = set()
    measured = pa.concat_tables(list(_measured(config, rows, context, seen))).combine_chunks()
    if config.model is not None and config.model not in seen:
        raise WinnowError(
            f"Stage {context.name}: no trace is of the model {config.model!r}. "
            f"Traces are of: {', '.join(sorted(seen)) or 'no model'}."
        )
    table = measured
    for name in _named(config):
        table = table.append_column(name, rows.table([name])[name].combine_chunks())
    stays = np.ones(len(table), bool)
    said = [FATE.empty_table()]
    if config.keep:
        said.append(_outside_condition(config, table, stays, context))
    for name, shares in config.quantiles.items():
        said.append(_outside_quantiles(config, table, name, shares, stays))
    if config.buckets:
        measured = measured.append_column("difficulty", _bucket(config, table[config.rank_by].combine_chunks()))
    if config.curriculum:
        measured = measured.append_column("curriculum", _curriculum(config, table, stays, context))
    return Outcome(columns=measured, fates=pa.concat_tables(said), notes=_notes(config, measured, stays))


# ------------------------------------------------------------------------------------------------------------- measures


def _measured(config: Difficulty, rows: Rows, context: Context, seen: set[str]) -> Iterator[pa.Table]:
    """row_id and MEASURES, batch by batch. Models of traces are added to `seen`."""
    trace_columns = ("k", "model", "finish", "output_tokens")
    verdict_columns = ("k", "state", "answer_normal", "extracted")
    batches = rows.batches(["row_id"])
    for batch, traces, verdicts in zip(
        batches, rows.traces(trace_columns), rows.verdicts(verdict_columns), strict=True
    ):
        seen.update(name for name in pc.unique(traces["model"]).to_pylist() if name is not None)
        own = ids_array(batch["row_id"])
        order = np.argsort(own, kind="stable")

        def position(table: pa.Table, own: np.ndarray = own, order: np.ndarray = order) -> np.ndarray:
            return order[np.searchsorted(own, ids_array(table["row_id"]), sorter=order)]

        if config.model is not None:
            wanted = traces.filter(pc.equal(traces["model"], config.model))
            pairs = pa.table({"row": position(wanted), "k": wanted["k"]})
            verdicts = verdicts.append_column("row", pa.array(position(verdicts)))
            verdicts = verdicts.join(pairs, ["row", "k"], join_type="left semi")
            traces = wanted
        yield _of_batch(config, batch, traces, position(traces), verdicts, position(verdicts))
        context.progress(len(batch))


def _of_batch(
    config: Difficulty, batch: pa.Table, traces: pa.Table, at: np.ndarray, verdicts: pa.Table, judged_at: np.ndarray
) -> pa.Table:
    n = len(batch)
    state = verdicts["state"].combine_chunks()
    counted = ["correct", "incorrect", "no_answer", *(["truncated"] if config.count_truncated else [])]
    correct = pc.equal(state, "correct").to_numpy(zero_copy_only=False)
    judged = np.bincount(
        judged_at[pc.is_in(state, pa.array(counted)).to_numpy(zero_copy_only=False)], minlength=n
    ).astype(np.int64)
    right = np.bincount(judged_at[correct], minlength=n).astype(np.int64)
    low, high = wilson(right, judged, config.confidence)
    length = pc.if_else(pc.equal(traces["finish"], "failed"), pa.scalar(None, pa.int32()), traces["output_tokens"])
    known = length.is_valid().to_numpy()
    tokens = np.bincount(at[known], weights=length.drop_null().to_numpy(), minlength=n)
    answers = np.bincount(at[known], minlength=n)
    answered = correct | pc.equal(state, "incorrect").to_numpy(zero_copy_only=False)
    text = pc.coalesce(verdicts["answer_normal"], verdicts["extracted"], "")
    answer = pc.if_else(pa.array(correct), "\x00correct", text)
    entropy, any_answer = _entropy(judged_at[answered], answer.filter(pa.array(answered)), n)
    none = judged == 0
    columns = {
        "pass_rate": pa.array(right / np.maximum(judged, 1), mask=none),
        "pass_rate_low": pa.array(low, mask=none),
        "pass_rate_high": pa.array(high, mask=none),
        "n_judged": pa.array(judged, pa.int32()),
        "n_correct": pa.array(right, pa.int32()),
        "response_tokens": pa.array(tokens / np.maximum(answers, 1), mask=answers == 0),
        "disagreement": pa.array(entropy, mask=~any_answer),
    }
    return pa.table({"row_id": batch["row_id"].combine_chunks(), **columns})


def wilson(successes: np.ndarray, trials: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion, float64 arrays (low, high); [0, 1] where there are no trials.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), with z the normal quantile of (1 + confidence) / 2.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = np.maximum(trials, 1).astype(np.float64)
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    none = np.asarray(trials) == 0
    # At the ends the interval touches 0 or 1 exactly, which floats miss by an ulp.
    low = np.where(none | (successes == 0), 0.0, low)
    high = np.where(none | (successes == trials), 1.0, high)
    return low, high


def _entropy(at: np.ndarray, answers: pa.ChunkedArray | pa.Array, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits of entropy of each row's answers, and whether it has any. Rounded to millionths, because the last digit of a
    logarithm is not the same on every machine."""
    counts = (
        pa.table({"row": pa.array(at), "answer": answers}).group_by(["row", "answer"]).aggregate([([], "count_all")])
    )
    row, count = counts["row"].to_numpy(), counts["count_all"].to_numpy()
    total = np.bincount(at, minlength=n)
    most = int(count.max()) if len(count) else 0
    weighed = np.array([0.0, *(c * math.log2(c) for c in range(1, most + 1))])
    order = np.lexsort((count, row))  # one order of addition, whatever the grouping gave
    sums = np.bincount(row[order], weights=weighed[count[order]], minlength=n)
    whole = np.array([0.0, *(math.log2(c) for c in range(1, (int(total.max()) if n else 0) + 1))])
    entropy = whole[total] - sums / np.maximum(total, 1)
    return np.round(np.maximum(entropy, 0.0), 6), total > 0


# ------------------------------------------------------------------------------------------------------------ decisions


def _outside_condition(config: Difficulty, table: pa.Table, stays: np.ndarray, context: Context) -> pa.Table:
    """Fates of rows for which the condition is not true; clears them in `stays`."""
    import duckdb

    assert config.keep
    try:
        holds = sqlguard.holds(config.keep, table)
    except duckdb.Error as error:
        raise WinnowError(
            f"Stage {context.name}: keep fails on a row: {str(error).splitlines()[0]}\n    {config.keep}"
        ) from error
    text = " ".join(config.keep.split())
    unknown = holds.is_null().to_numpy(zero_copy_only=False)
    gone = ~pc.fill_null(holds, False).to_numpy(zero_copy_only=False)
    stays &= ~gone
    named = [c for c in sqlguard.predicate(config.keep).columns if c != "row_id"]
    evidence = [name for name in (*named, "n_correct", "n_judged") if name in table.column_names]
    return pa.concat_tables(
        [
            _fates(
                table, gone & ~unknown, "outside_band", f"Its difficulty is not wanted: {text} does not hold.", evidence
            ),
            _fates(
                table,
                gone & unknown,
                "unknown_difficulty",
                f"Whether {text} holds is unknown: a measure is missing.",
                evidence,
            ),
        ]
    )


def _outside_quantiles(
    config: Difficulty, table: pa.Table, name: str, shares: tuple[float, float], stays: np.ndarray
) -> pa.Table:
    """Fates of rows that still stay and lie outside the quantiles of their group; clears them in `stays`."""
    values = table[name].to_numpy().astype(np.float64)  # null is NaN
    by = table[config.quantiles_by] if config.quantiles_by else pa.chunked_array([pa.repeat("", len(table))])
    groups = pc.fill_null(by.cast(pa.string()), "").combine_chunks().dictionary_encode()
    group = groups.indices.to_numpy()
    low, high = np.full(len(table), -np.inf), np.full(len(table), np.inf)
    for number in range(len(groups.dictionary)):
        here = stays & (group == number) & ~np.isnan(values)
        if here.any():
            # A value that is there, never one in between: the same on any machine.
            low[group == number], high[group == number] = np.quantile(values[here], shares, method="inverted_cdf")
    gone = stays & ((values < low) | (values > high))
    stays &= ~gone
    of = f" of its {config.quantiles_by}" if config.quantiles_by else ""
    table = table.append_column("low", pa.array(low)).append_column("high", pa.array(high))
    sentence = f"Its {name} lies outside the quantiles {shares[0]:g} to {shares[1]:g}{of}."
    return _fates(table, gone, "outside_quantiles", sentence, [name, "low", "high"])


def _fates(table: pa.Table, mask: np.ndarray, reason: str, sentence: str, columns: Sequence[str]) -> pa.Table:
    few = table.filter(pa.array(mask))
    evidence = few.select(dict.fromkeys(columns)).to_pylist()
    return fates(few["row_id"], reason=reason, sentence=sentence, evidence=[_json_safe(line) for line in evidence])


def _json_safe(line: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, bool, type(None))
    return {
        name: value if isinstance(value, plain) or (isinstance(value, float) and math.isfinite(value)) else str(value)
        for name, value in line.items()
    }


def _bucket(config: Difficulty, values: pa.Array) -> pa.Array:
    """The first bucket whose upper bound is not below the value; null for null, and above all bounds."""
    names, bounds = list(config.buckets), np.array(list(config.buckets.values()))
    at = np.searchsorted(bounds, pc.fill_null(values.cast(pa.float64()), np.inf).to_numpy())
    return pa.array(names).take(pa.array(np.minimum(at, len(names) - 1), mask=at >= len(names)))


def _curriculum(config: Difficulty, table: pa.Table, stays: np.ndarray, context: Context) -> pa.Array:
    """Places of the rows that stay, from 0; rows whose measure is unknown come last."""
    values = table[config.rank_by].to_numpy().astype(np.float64)
    easy_is_high = config.rank_by.startswith("pass_rate") or config.rank_by == "n_correct"
    rising = easy_is_high == (config.curriculum == "hard_first")
    key = np.where(np.isnan(values), np.inf, values if rising else -values)
    by_draw = draws.order(table["row_id"], draws.draws(table["row_id"], context.seed, context.name))
    tie = np.empty(len(table), np.int64)
    tie[by_draw] = np.arange(len(table))
    order = np.lexsort((tie, key, ~stays))
    place = np.empty(len(table), np.int64)
    place[order] = np.arange(len(table))
    return pa.array(place, mask=~stays)


def _notes(config: Difficulty, table: pa.Table, stays: np.ndarray) -> dict[str, Any]:
    kept = table.filter(pa.array(stays))
    rates = kept["pass_rate"].drop_null().to_numpy()
    edges = np.linspace(0, 1, 11)
    notes: dict[str, Any] = {
        "measured": len(table),
        "stay": len(kept),
        "without_a_pass_rate": int(kept["pass_rate"].null_count),
        "pass_rate_histogram": np.histogram(rates, edges)[0].tolist(),
    }
    if config.buckets:
        counts = {line["values"]: line["counts"] for line in pc.value_counts(kept["difficulty"]).to_pylist()}
        notes["buckets"] = {name: counts.get(name, 0) for name in config.buckets}
    return notes
