"""From the answers of a version to scores: which answers count, what they vote for, and every figure with its interval.

What counts. A question whose gold the checker cannot read is nobody's mistake and is left out, and told. Everything
else is a question of the benchmark: a truncated answer, none, an undecided one, or a prompt that the model refused are
not right. An answer that could not be got (a server went away) makes the evaluation incomplete, never wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from curation.answers import check
from curation.answers.policy import Policy
from curation.teachers.base import REJECTED
from curation.versions import Version
from schemas.benchmarks import Score
from schemas.errors import WinnowError
from training import scores

UNITS = {"model": pl.String, "metric": pl.String, "unit": pl.String, "id": pl.String, "cluster": pl.String, "value": pl.Float64}  # fmt: skip
EFFICIENCY = ("tokens", "truncated")
"""Columns of answers that are units too, so that two models can be compared in them."""


@dataclass(frozen=True)
class Figure:
    """One line of the table of scores."""

    model: str
    metric: str
    value: float
    low: float
    high: float
    error: float
    units: int
    clusters: int
    headline: bool = False


@dataclass(frozen=True)
class Scored:
    """An evaluation's answers, what each unit scored, and the figures."""

    answers: pl.DataFrame
    units: pl.DataFrame
    figures: list[Figure]
    notes: dict[str, Any]


# -------------------------------------------------------------------------------------------------------------- answers


def answers_of(version: Version, score: Score, policy: Policy | None = None) -> tuple[pl.DataFrame, dict[str, Any]]:
    """One line per answer: question (row_id), id, cluster, part, model, k, state, right, vote, tokens, truncated,
    extracted, text and the fields of `by`; and counts of what is left out."""
    rows = version.rows()
    fields = _fields(rows, [score.group, score.part, *score.by], version)
    rows = rows.select("row_id", "id", "source", "question", "answer", "choices").with_columns(*fields)
    traces = version.traces()
    wanted = ["row_id", "k", "model", "text", "finish", "finish_reason", "output_tokens", "state", "method",
              "extracted", "answer_normal"]  # fmt: skip
    found = rows.join(traces.select(w for w in wanted if w in traces.columns), on="row_id", how="inner")
    refused = pl.col("finish_reason").fill_null("").str.starts_with(REJECTED)
    lost = (pl.col("finish") == "failed") & ~refused
    unreadable = pl.col("state") == "unparsable_gold"
    states = sorted(found.group_by("state").len().rows(), key=lambda line: str(line[0]))
    notes: dict[str, Any] = {
        "questions": len(rows),
        "quarantined": int(version.manifest["counts"].get("quarantined", 0)),
        "answers": len(found),
        "not_got": int(found.select(lost.sum()).item() or 0),
        "refused": int(found.select(((pl.col("finish") == "failed") & refused).sum()).item() or 0),
        "unreadable_gold": found.filter(unreadable)["row_id"].n_unique(),
        "unanswered": len(rows) - found.filter(~lost)["row_id"].n_unique(),
        "states": {str(name): count for name, count in states if name is not None},
    }
    counted = found.filter(~lost & ~unreadable.fill_null(False))
    if not len(counted):
        raise WinnowError(f"No answer of {version} can be scored: {json.dumps(notes)}.")
    counted = counted.with_columns(
        right=(pl.col("state") == "correct").fill_null(False),
        truncated=pl.col("finish") == "truncated",
        cluster=pl.coalesce(pl.col(f"@{score.group}") if score.group else pl.lit(None, pl.String), "row_id"),
        part=pl.col(f"@{score.part}") if score.part else pl.lit(None, pl.String),
    ).rename({"row_id": "unit", "output_tokens": "tokens"})
    counted = counted.sort("model", "unit", "k")
    votes = _votes(counted, policy or Policy())
    kept = ["unit", "id", "source", "cluster", "part", "model", "k", "state", "method", "right", "vote", "tokens",
            "truncated", "extracted", "question", "answer", "choices", "text"]  # fmt: skip
    return counted.with_columns(vote=votes).select(*kept, *(f"@{name}" for name in score.by)), notes


def _fields(rows: pl.DataFrame, names: Sequence[str | None], version: Version) -> list[pl.Series]:
    """The named columns of rows, or fields of `meta`, as text, each called @name. `meta.id` means the field where a
    column has its name too."""
    wanted = list(dict.fromkeys(name for name in names if name))
    found = []
    for name in wanted:
        if name in rows.columns:
            found.append(rows[name].cast(pl.String).alias(f"@{name}"))
            continue
        key = name.removeprefix("meta.")
        values = [_text(json.loads(meta).get(key)) if meta else None for meta in rows["meta"].to_list()]
        if not any(value is not None for value in values):
            raise WinnowError(
                f"The field {name!r} of `score` is neither a column of the rows of {version.name} nor in their meta.\n"
                f"Keep it with `columns: {{meta: [{key}]}}` of the source."
            )
        found.append(pl.Series(f"@{name}", values, pl.String))
    return found


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)


def _votes(answers: pl.DataFrame, policy: Policy) -> pl.Series:
    """What each answer votes for: 0 the right answer, other numbers the wrong ones that say the same, −1 for none."""
    votes: list[int] = []
    known: list[str] = []
    before: tuple[str, str] | None = None
    said = answers.select(pl.coalesce("answer_normal", "extracted")).to_series().to_list()
    owner = answers.select("model", "unit").rows()
    alone = answers.select(pl.len().over("model", "unit") == 1).to_series().to_list()
    for key, text, right, single in zip(owner, said, answers["right"].to_list(), alone, strict=True):
        if key != before:
            before, known = key, []
        if right:
            votes.append(0)
        elif text is None:
            votes.append(-1)
        elif single:
            votes.append(1)
        else:
            votes.append(1 + _same(known, text, policy))
    return pl.Series("vote", votes, pl.Int32)


def _same(known: list[str], text: str, policy: Policy) -> int:
    """Which of the known answers this one is, however written: 1/2 and 0.5 are one. A new one is added."""
    if text in known:
        return known.index(text)
    for i, other in enumerate(known):
        if check(other, text, policy=policy).state == "correct":
            return i
    known.append(text)
    return len(known) - 1


# --------------------------------------------------------------------------------------------------------------- figures


def scored(answers: pl.DataFrame, score: Score, notes: dict[str, Any]) -> Scored:
    """All figures of every model in `answers`."""
    figures: list[Figure] = []
    tables = []
    for (model,), own in answers.group_by("model", maintain_order=True):
        name = str(model)
        units = units_of(own, score, notes).with_columns(model=pl.lit(name)).select(list(UNITS))
        tables.append(units)
        for (metric,), of in units.group_by("metric", maintain_order=True):
            if metric in EFFICIENCY:
                continue
            found = scores.estimate(of["value"].to_numpy(), None, of["cluster"].to_list())
            figures.append(Figure(name, str(metric), **asdict(found), headline=metric == _headline(score, units)))
        figures += _efficiency(name, own)
        for field in score.by:
            by = own.group_by("unit", f"@{field}", maintain_order=True).agg(pl.col("right").mean(), pl.col("cluster").first())  # fmt: skip
            for (value,), of in sorted(by.group_by(f"@{field}"), key=lambda pair: str(pair[0][0])):
                found = scores.estimate(of["right"].to_numpy(), None, of["cluster"].to_list())
                figures.append(Figure(name, f"accuracy/{field}={value}", **asdict(found)))
    return Scored(answers, pl.concat(tables), figures, notes)


def _headline(score: Score, units: pl.DataFrame) -> str:
    """The name under which the official metric stands among the units."""
    return score.metric if score.metric != "accuracy" else str(units["metric"][0])


def units_of(answers: pl.DataFrame, score: Score, notes: dict[str, Any] | None = None) -> pl.DataFrame:
    """metric, unit, id, cluster, value: of one model. avg@n first; then pass@k, maj@k, and what groups score."""
    by = answers.group_by("unit", maintain_order=True).agg(
        pl.col("id").first(), pl.col("cluster").first(), pl.col("part").first(),
        pl.col("right"), pl.col("vote"), pl.len().alias("n"),
    )  # fmt: skip
    least = int(by["n"].min() or 1)  # type: ignore[arg-type]
    found = [_table(f"avg@{least}" if least > 1 else "accuracy", by, [float(r.mean()) for r in by["right"]])]
    for metric in EFFICIENCY:
        of = answers.group_by("unit", maintain_order=True).agg(pl.col(metric).cast(pl.Float64).mean())
        if not of[metric].null_count():
            found.append(_table(metric, by, of[metric].to_list()))
    if least > 1:
        for k in scores.powers(least):
            if k > 1:
                found.append(_table(f"pass@{k}", by, [scores.pass_at(sum(r), len(r), k) for r in by["right"]]))
        for k in scores.powers(least):
            if k > 2:  # a vote of two is a lot
                votes = [scores.majority_at(v.to_list(), 0, k) for v in by["vote"]]
                found.append(_table(f"maj@{k}", by, votes))
    metrics = list(dict.fromkeys([score.metric, *score.also]))
    if "worst_case" in metrics:
        worst = found[0].group_by("cluster", maintain_order=True).agg(pl.col("value").min())
        found.append(worst.select(pl.lit("worst_case").alias("metric"), pl.col("cluster").alias("unit"),
                                  pl.col("cluster").alias("id"), "cluster", "value"))  # fmt: skip
    for metric in metrics:
        if metric.startswith("wemath"):
            found.append(_wemath(by, metric, notes if notes is not None else {}))
    return pl.concat(found)


def _table(metric: str, by: pl.DataFrame, values: Sequence[float]) -> pl.DataFrame:
    return by.select(
        pl.lit(metric).alias("metric"), "unit", "id", "cluster", pl.Series("value", values, pl.Float64)
    )  # fmt: skip


def _wemath(by: pl.DataFrame, metric: str, notes: dict[str, Any]) -> pl.DataFrame:
    """A value per problem: mean over its answers, the k-th answers to its steps and its whole together."""
    lines, short = [], 0
    for (problem,), own in by.group_by("cluster", maintain_order=True):
        parts = dict(zip(own["part"].to_list(), own["right"].to_list(), strict=True))
        whole = next((right for part, right in parts.items() if part and part.endswith("multi")), None)
        steps = [right for part, right in parts.items() if part and not part.endswith("multi")]
        wanted = next((int(part[0]) for part in parts if part and part[0].isdigit()), 0)
        if whole is None or len(steps) != wanted:
            short += 1
            continue
        values = [
            scores.mastery([step[k] for step in steps], whole[k], loose=metric.endswith("loose"))
            for k in range(min(map(len, [whole, *steps])))
        ]
        lines.append((metric, str(problem), str(problem), str(problem), float(np.mean(values))))
    if short:
        notes["incomplete_problems"] = short
    kinds = {"metric": pl.String, "unit": pl.String, "id": pl.String, "cluster": pl.String, "value": pl.Float64}
    return pl.DataFrame(lines, kinds, orient="row")


def _efficiency(model: str, answers: pl.DataFrame) -> Iterator[Figure]:
    """Tokens and truncation, beside accuracy: a model that thinks twice as long should be worth it."""
    by = answers.group_by("unit", maintain_order=True).agg(
        pl.col("cluster").first(), pl.col("right").mean(), pl.col("truncated").mean(), pl.col("tokens").mean()
    )
    clusters = by["cluster"].to_list()
    cut = scores.estimate(by["truncated"].cast(pl.Float64).to_numpy(), None, clusters)
    yield Figure(model, "truncated", **asdict(cut))
    if by["tokens"].null_count():
        return  # who held these answers did not count
    tokens, right = by["tokens"].to_numpy(), by["right"].to_numpy()
    ones = np.ones(len(tokens))
    yield Figure(model, "tokens", **asdict(scores.estimate(tokens, ones, clusters)))
    yield Figure(model, "accuracy_per_1k_tokens", **asdict(scores.estimate(right, tokens / 1000, clusters)))
