"""What the checker says of one answer: its states, the record, and the Arrow columns it is stored in.

A verdict has one of eight states. Three are judgements of an answer (`correct`, `incorrect`, `no_answer`), one says
that the rules leave the question open (`undecided`), and four say why there is no judgement. Only the first three,
and `truncated` where a policy says so, enter a pass rate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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


# Made once: json.dumps makes an encoder for every call with options.
_to_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def verdict_table(verdicts: Sequence[Verdict]) -> pa.Table:
    """Verdicts as a table of VERDICT_SCHEMA, column by column."""
    columns = [
        [v.state for v in verdicts],
        [v.method for v in verdicts],
        [v.rule for v in verdicts],
        [v.extracted for v in verdicts],
        [v.span[0] if v.span else None for v in verdicts],
        [v.span[1] if v.span else None for v in verdicts],
        [v.gold_normal for v in verdicts],
        [v.answer_normal for v in verdicts],
        [_to_json(v.evidence) for v in verdicts],
        [v.seconds for v in verdicts],
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, VERDICT_SCHEMA, strict=True)], schema=VERDICT_SCHEMA)


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
            "evidence": _to_json(self.evidence),
            "seconds": self.seconds,
        }
