"""Two models on the same benchmark: the difference question by question, its interval, and whether it is shown at all.

Units are met by their row, or by upstream's own id where one side was imported. A record without units (another
harness's bare table) is compared as two independent samples, which needs far larger differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from training import scores
from training.evaluate import Evaluation, chosen
from training.scoring import EFFICIENCY, Figure

NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Contrast:
    """One metric of two models, B minus A."""

    benchmark: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    units: int
    clusters: int
    verdict: str


def contrast(a: tuple[Evaluation, str], b: tuple[Evaluation, str], *, metrics: Sequence[str] = ()) -> list[Contrast]:
    """Every metric that both records have for a benchmark; only `metrics` where some are named."""
    (one, first), (two, second) = a, b
    of = [{f.metric: f for f in record.figures if f.model == model} for record, model in ((one, first), (two, second))]
    left, right = (record.units.filter(pl.col("model") == model) for record, model in ((one, first), (two, second)))
    found = []
    for metric in (m for m in of[0] if m in of[1] and (not metrics or m in metrics)):
        met = _met(left.filter(pl.col("metric") == metric), right.filter(pl.col("metric") == metric))
        if len(met):
            diff = scores.difference(met["value"].to_numpy(), met["value_b"].to_numpy(), met["cluster"].to_list())
            found.append(_said(one.benchmark, metric, met, diff))
        elif not len(left) or not len(right):
            found.append(_apart(one.benchmark, of[0][metric], of[1][metric]))
    return found


def _met(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Units of both sides with their values, by row, else by upstream's id."""
    met = left.join(right.select("unit", pl.col("value").alias("value_b")), on="unit", how="inner")
    if not len(met):
        by_id = right.filter(pl.col("id").is_not_null()).unique("id", keep="none")
        met = left.join(by_id.select("id", pl.col("value").alias("value_b")), on="id", how="inner")
    return met.sort("unit")


def _said(benchmark: str, metric: str, met: pl.DataFrame, diff: scores.Difference) -> Contrast:
    a, b = (float(met[name].mean()) for name in ("value", "value_b"))  # type: ignore[arg-type]
    verdict = _word(metric, diff.value) if diff.shown else NO_DIFFERENCE
    return Contrast(
        benchmark, metric, a, b, diff.value, diff.low, diff.high, diff.p, diff.units, diff.clusters, verdict
    )


def _apart(benchmark: str, a: Figure, b: Figure) -> Contrast:
    """Two independent samples: a normal interval of the difference."""
    error = math.hypot(a.error, b.error)
    value = b.value - a.value
    low, high = value - 1.96 * error, value + 1.96 * error
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error > 0 else math.nan
    shown = low > 0 or high < 0
    verdict = (_word(a.metric, value) if shown else NO_DIFFERENCE) + " (not paired)"
    return Contrast(benchmark, a.metric, a.value, b.value, value, low, high, p, min(a.units, b.units),
                    min(a.clusters, b.clusters), verdict)  # fmt: skip


def _word(metric: str, value: float) -> str:
    if metric in EFFICIENCY:  # fewer may be better; that is for the reader to say
        return "B has more" if value > 0 else "A has more"
    return "B is better" if value > 0 else "A is better"


def compare(a: str, b: str, workspace: Path | str | None = None) -> list[Contrast]:
    """Contrasts on every benchmark that two references (see `evaluate.chosen`) have in common."""
    first = {record.benchmark: (record, model) for record, model in chosen(a, workspace)}
    second = {record.benchmark: (record, model) for record, model in chosen(b, workspace)}
    return [c for bench in first if bench in second for c in contrast(first[bench], second[bench])]


def significance(figure: Figure) -> str:
    """What size of difference this benchmark could show between two models that are asked independently."""
    if not math.isfinite(figure.error) or figure.error == 0:
        return f"{figure.clusters:,} independent questions"
    return (
        f"{figure.clusters:,} independent questions: two models less than {1.96 * math.sqrt(2) * figure.error:.1%} "
        "apart cannot be told apart unless they are compared question by question"
    )
