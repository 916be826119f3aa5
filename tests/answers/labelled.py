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


_CONTENT = "the response states the gold option's content (a value, with or without its unit), not its letter"
# Accepted cases whose label is "wrong" and which were read: why the label, not the verdict, is at odds with the case.
ARGUED_ACCEPTS = {
    "math-verify/a7bd66632e67/9989017e1fa8": "an interval against the same inequality; the suite accepts the reverse",
    "rho-math/555b1a65b131/9897d8e7c644": "the reply ends in the gold; the stored extraction missed it",
    "rho-math/ad7a89173a1f/edbf0bec0afa": "the gold in quotation marks",
    "math-vision/6600e671fcd8/7065179884f8": "the gold letter in bold",
    "math-vision/6ad756b81bb2/5bc48cefc7b6": "the word of the gold option",
    "mr-ben/599ae61ca916/b63501fab92d": "the reply corrects itself to the gold letter in its last line",
} | dict.fromkeys(
    (
        "math-vision/00af5ca3413e/1006bc27fe73", "math-vision/18a3dd1ded73/9afa2472beb1",
        "math-vision/18a3dd1ded73/c4c207420163", "math-vision/1f673fb7ef04/673813f2ab7a",
        "math-vision/3a29132fce3c/b0a90fc35801", "math-vision/640ccbb50a10/f67af78c61f3",
        "math-vision/72a1fca865c8/9705758ef65b", "math-vision/77b5a8ebd4c6/153cfbcc8135",
        "math-vision/a17b795fafff/1aafd7cec4d7", "math-vision/a593238af3c6/e439159cc519",
        "math-vision/af43326ac5cf/405458aab42a", "math-vision/b831585d358d/7054ae958def",
    ),
    _CONTENT,
)  # fmt: skip


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
    unargued_accepts: int

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
    unargued: dict[str, int] = {}
    for case in cases:
        said = decide(case)
        for group in groups_of(case):
            rows.setdefault(group, []).append((case["expected"], said))
            fresh = said is True and not case["expected"] and case["id"] not in ARGUED_ACCEPTS
            unargued[group] = unargued.get(group, 0) + fresh
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
            unargued_accepts=unargued[group],
        )
    return found
