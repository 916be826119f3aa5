"""The labelled cases, by the groups that figures are given for; used by the test and the benchmark.

A case: gold, prediction, expected, and optionally question, golds, kind (math, numeric, mcq, text), form (answer,
response), id. Groups are told by form, kind and where the case comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.answers.normal import normal
from curation.answers.numbers import parse_number

SCHOOL = ("oppia", "perseus", "compute-engine")
REAL = ("rho", "mathcoder", "math-v", "theoremqa", "grade-school-math")
GROUPS = ("bare", "hard bare", "replies", "school", "suites", "choice", "text")


def load(path: Path) -> list[dict[str, Any]]:
    """The cases of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def groups_of(case: dict[str, Any]) -> tuple[str, ...]:
    """The groups of a case; a hard bare case is a bare one too."""
    source = case["source_repo"].lower()
    if case["kind"] == "mcq":
        return ("choice",)
    if case["kind"] == "text" and case["label"] == "human":
        return ("text",)
    if any(name in source for name in SCHOOL):
        return ("school",)
    if not any(source.endswith(f"/{name}") for name in REAL):
        return ("suites",)
    if case["form"] != "answer":
        return ("replies",)
    gold, answer = normal(case["gold"]), normal(case["prediction"])
    easy = gold == answer or (parse_number(gold) and parse_number(answer))
    return ("bare",) if easy else ("bare", "hard bare")


@dataclass(frozen=True)
class Score:
    """What a checker did on a group. A checker that decides nothing refuses."""

    cases: int
    right: int
    false_accepts: int
    wrong: int
    false_refusals: int
    true: int
    decided: int
    decided_right: int

    def line(self, name: str) -> str:
        """One line of a table."""
        return (
            f"{name:<34} {self.cases:>5} {100 * self.right / self.cases:>7.2f}% "
            f"{self.false_accepts:>4} ({100 * self.false_accepts / max(1, self.wrong):.2f}%) "
            f"{self.false_refusals:>5} ({100 * self.false_refusals / max(1, self.true):.2f}%)"
        )


def score(cases: Iterable[dict[str, Any]], decide: Callable[[dict[str, Any]], bool | None]) -> dict[str, Score]:
    """Score by group: `decide` returns True, False, or None where it leaves the case open."""
    rows: dict[str, list[tuple[bool, bool | None]]] = {}
    for case in cases:
        said = decide(case)
        for group in groups_of(case):
            rows.setdefault(group, []).append((case["expected"], said))
    found = {}
    for group, pairs in rows.items():
        found[group] = Score(
            cases=len(pairs),
            right=sum((s is True) == e for e, s in pairs),
            false_accepts=sum(s is True and not e for e, s in pairs),
            wrong=sum(not e for e, _ in pairs),
            false_refusals=sum(s is not True and e for e, s in pairs),
            true=sum(e for e, _ in pairs),
            decided=sum(s is not None for _, s in pairs),
            decided_right=sum(s is e for e, s in pairs),
        )
    return found
