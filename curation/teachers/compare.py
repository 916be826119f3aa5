"""teacher_compare: the same rows through several teachers, and what each one's traces were worth.

The rows are those of one version whose recipe has a fan-out for each teacher (reports/sql/teacher_compare.sql is the
whole of the counting). OpenMMReasoner chose its teacher in this way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from curation.versions import Version
from schemas.errors import WinnowError

Prices = Mapping[str, tuple[float, float]]
"""Stage -> price of a million tokens, read and written."""


@dataclass(frozen=True)
class Line:
    """One fan-out. Rates are shares of one; None where nothing could be counted."""

    stage: str
    model: str
    rows: int
    traces: int
    verified: float | None
    """Correct over judgeable traces."""
    rows_solved: float | None
    distinct_answers: float | None
    """Different answers of a row, on average."""
    mean_tokens: float | None
    p95_tokens: float | None
    truncated: float
    failed: float
    malformed: float
    prompt_tokens: int | None
    output_tokens: int | None
    correct: int
    cost: float | None = None
    cost_per_1000_correct: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> dict[str, str]:
        """For a person."""
        each = self.output_tokens / self.correct if self.output_tokens and self.correct else None
        percent, number = "{:.1%}", "{:,.1f}"
        cells = {
            "stage": self.stage,
            "model": self.model,
            "rows": f"{self.rows:,}",
            "traces": f"{self.traces:,}",
            "verified": _said(self.verified, percent),
            "rows solved": _said(self.rows_solved, percent),
            "answers/row": _said(self.distinct_answers, number),
            "tokens": _said(self.mean_tokens, "{:,.0f}"),
            "p95": _said(self.p95_tokens, "{:,.0f}"),
            "truncated": _said(self.truncated, percent),
            "failed": _said(self.failed, percent),
            "malformed": _said(self.malformed, percent),
            "tokens/correct": _said(each, number),
        }
        if self.cost is not None:
            cells |= {
                "cost": _said(self.cost, "{:,.2f}"),
                "per 1000 correct": _said(self.cost_per_1000_correct, "{:,.2f}"),
            }
        return cells


def _said(value: float | None, how: str) -> str:
    return "—" if value is None else how.format(value)


def compare(version: Version, costs: Prices | None = None) -> list[Line]:
    """One line for each fan-out (and model) of a version, by name. Raises WinnowError where it has no traces, or where
    a price names a fan-out that it has not."""
    if not version.files("traces"):
        raise WinnowError(f"{version} has no traces, so there are no teachers to compare. Its recipe needs a fanout.")
    if not version.files("verdicts"):
        raise WinnowError(f"The traces of {version} were not judged. Its recipe needs a verify after the fanout.")
    query = resources.files("reports").joinpath("sql", "teacher_compare.sql").read_text(encoding="utf-8")
    query = query.replace("$sampled_until", "g")  # all rows: ids are hexadecimal
    found = version.sql(query).to_dicts()
    strangers = set(costs or ()) - {line["stage"] for line in found}
    if strangers:
        raise WinnowError(
            f"{version} has no fanout {sorted(strangers)[0]!r}; it has {', '.join(sorted({f['stage'] for f in found}))}."
        )
    return [_line(record, (costs or {}).get(record["stage"])) for record in found]


def _line(record: dict[str, Any], price: tuple[float, float] | None) -> Line:
    line = Line(**record)
    if price is None:
        return line
    cost = ((line.prompt_tokens or 0) * price[0] + (line.output_tokens or 0) * price[1]) / 1e6
    each = 1000 * cost / line.correct if line.correct else None
    return Line(**{**record, "cost": cost, "cost_per_1000_correct": each})


def prices(words: Sequence[str]) -> Prices:
    """`big=0.6,2.4` as {"big": (0.6, 2.4)}. Raises WinnowError for what is no price."""
    found: dict[str, tuple[float, float]] = {}
    for word in words:
        stage, _, pair = word.partition("=")
        try:
            read, written = (float(part) for part in pair.split(","))
        except ValueError:
            read = written = math.nan
        if not stage or not read >= 0 or not written >= 0:
            raise WinnowError(
                f"{word!r} is no price. Write --price STAGE=IN,OUT, like big=0.6,2.4 (per million tokens)."
            )
        found[stage] = (read, written)
    return found
