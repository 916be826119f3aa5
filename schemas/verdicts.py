"""What the checker says of one answer: its states, the record, and the Arrow columns it is stored in.

A verdict has one of eight states. Three are judgements of an answer (`correct`, `incorrect`, `no_answer`), one says
that the rules leave the question open (`undecided`), and four say why there is no judgement. Only the first three,
and `truncated` where a policy says so, enter a pass rate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa

State = Literal[
    "correct",
    "incorrect",
    "no_answer",
    "undecided",
    "unparsable_gold",
    "truncated",
    "checker_timeout",
    "checker_error",
]
STATES: tuple[str, ...] = get_args(State)

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("state", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("extracted", pa.string()),
        pa.field("span_start", pa.int32()),
        pa.field("span_end", pa.int32()),
        pa.field("gold_normal", pa.string()),
        pa.field("answer_normal", pa.string()),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict.

    state     one of STATES
    method    the layer that decided: text, choice, number, symbolic, judge, or none
    rule      how the answer was found: tag, box, boxes, hashes, marker, bare, math, number, line, none
    extracted the answer as the response writes it, None where there is none
    span      where it stands in the response, characters [start, end)
    gold_normal, answer_normal   what was compared
    evidence  a small JSON object: why
    seconds   wall time of the check; the only field that differs between runs
    """

    state: State
    method: str = "none"
    rule: str = "none"
    extracted: str | None = None
    span: tuple[int, int] | None = None
    gold_normal: str | None = None
    answer_normal: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """The verdict as one row of VERDICT_SCHEMA."""
        start, end = self.span if self.span else (None, None)
        return {
            "state": self.state,
            "method": self.method,
            "rule": self.rule,
            "extracted": self.extracted,
            "span_start": start,
            "span_end": end,
            "gold_normal": self.gold_normal,
            "answer_normal": self.answer_normal,
            "evidence": json.dumps(self.evidence, ensure_ascii=False, sort_keys=True),
            "seconds": self.seconds,
        }
