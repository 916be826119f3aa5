"""Compare two answers, layer by layer, cheapest first.

Every layer answers True, False or None; None hands on to the next. A layer may say True only when it has proof, and
False only when it has read both sides whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from curation.answers.normal import normal
from curation.answers.numbers import parse_number
from curation.answers.policy import Policy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a comparison found: equal True/False/None (open), by which method, and why."""

    equal: bool | None
    method: str
    reason: str
    gold: str | None = None
    answer: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


def compare(gold: str, answer: str, kind: str | None, question: str | None, policy: Policy) -> Outcome:
    """Compare one gold with one answer text."""
    left, right = normal(gold), normal(answer)
    if left == right:
        return Outcome(True, "text", "equal strings", left, right)
    a, b = parse_number(left), parse_number(right)
    if a and b:
        return Outcome(a.value == b.value, "number", "exact values", left, right)
    if left.casefold() == right.casefold():
        return Outcome(True, "text", "equal but for case", left, right)
    return Outcome(None, "none", "no layer decides", left, right)
