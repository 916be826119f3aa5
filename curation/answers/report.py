"""Check a file of pairs, and measure the checker against expected verdicts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.answers.batch import check_many
from curation.answers.judge import Judge
from curation.answers.judging import Agreement, agreement
from curation.answers.policy import Policy
from schemas.errors import WinnowError

_RENAMED = {"prediction": "response", "answer": "response", "completion": "response"}
_KEPT = ("gold", "response", "kind", "choices", "question", "golds", "truncated")
EXAMPLES = 5


@dataclass(frozen=True)
class ClassReport:
    """Counts of one class of pairs. Only `correct` accepts; every other state refuses."""

    name: str
    pairs: int
    right: int
    false_accepts: int
    false_refusals: int
    expected_true: int
    undecided: int

    @property
    def accuracy(self) -> float:
        return self.right / self.pairs if self.pairs else 0.0


@dataclass(frozen=True)
class FileReport:
    """Verdicts for a file; with an `expected` column also what was right.

    table    the input columns and the verdict's columns, in the file's order
    classes  one ClassReport per class and one named `all`; empty without expectations
    examples mistakes: {class, mistake, gold, extracted, state, reason}, at most EXAMPLES of each mistake and class
    """

    table: pa.Table
    states: dict[str, int]
    classes: tuple[ClassReport, ...]
    examples: tuple[dict[str, Any], ...]
    judged: Agreement | None = None

    @property
    def summary(self) -> str:
        """Text for a person."""
        lines = [f"{self.table.num_rows} pairs: " + ", ".join(f"{n} {s}" for s, n in sorted(self.states.items()))]
        if self.judged:
            j = self.judged
            lines.append(
                f"the judge agrees with the rules on {j.agreed} of {j.asked - j.errors} pairs that they decided "
                f"({j.judge_accepts} accepted, {j.judge_refuses} refused, {j.unclear} unclear, {j.errors} errors)"
            )
        if self.classes:
            lines += ["", f"{'class':<20} {'pairs':>7} {'accuracy':>9} {'false accepts':>15} {'false refusals':>16}"]
            for c in self.classes:
                wrong = c.pairs - c.expected_true
                accepts = f"{c.false_accepts} ({100 * c.false_accepts / max(1, wrong):.2f} %)"
                refusals = f"{c.false_refusals} ({100 * c.false_refusals / max(1, c.expected_true):.2f} %)"
                lines.append(f"{c.name[:20]:<20} {c.pairs:>7} {100 * c.accuracy:>8.2f}% {accepts:>15} {refusals:>16}")
        for example in self.examples:
            lines.append(
                f"{example['mistake']} [{example['class']}] gold {example['gold']!r}, "
                f"found {example['extracted']!r}: {example['state']}, {example['reason']}"
            )
        return "\n".join(lines)

    def json(self) -> str:
        """The counts and examples as JSON."""
        classes = [
            {**{f: getattr(c, f) for f in ClassReport.__dataclass_fields__}, "accuracy": c.accuracy}
            for c in self.classes
        ]
        judged = {"agreement": self.judged.as_dict()} if self.judged else {}
        return json.dumps(
            {
                "pairs": self.table.num_rows,
                "states": self.states,
                "classes": classes,
                "examples": list(self.examples),
                **judged,
            },
            ensure_ascii=False,
            indent=2,
        )


def check_file(
    path: Path | str,
    *,
    policy: Policy | None = None,
    workers: int = 1,
    judge: Judge | None = None,
    by: str | None = None,
    cache: Path | str | None = None,
    sample: int = 100,
) -> FileReport:
    """Check a JSON Lines file of {gold, response, ...}; `expected` (bool) per line adds accuracy.

    by      the field that names a pair's class; by default `class`, else `kind`, else none
    sample  pairs decided by the rules that a judge is asked about too, for its agreement with them
    Raises WinnowError that names the line where the file is not what it should be.
    """
    rows = _read(Path(path))
    data = {
        name: [r.get(name) for r in rows]
        for name in _KEPT
        if any(r.get(name) is not None for r in rows) or name in ("gold", "response")
    }
    types = {"choices": pa.list_(pa.string()), "golds": pa.list_(pa.string()), "truncated": pa.bool_()}
    table = pa.table({n: pa.array(v, type=types.get(n, pa.string())) for n, v in data.items()})
    verdicts = check_many(table, policy=policy, workers=workers, judge=judge, cache=cache)
    joined = table
    for name in verdicts.column_names:
        joined = joined.append_column(name, verdicts.column(name))
    states = dict(Counter(verdicts.column("state").to_pylist()))
    judged = agreement(table, verdicts, judge, sample) if judge else None
    if not any("expected" in r for r in rows):
        return FileReport(joined, states, (), (), judged)
    field = by or ("class" if any("class" in r for r in rows) else "kind")
    classes, examples = _measure(rows, verdicts.to_pylist(), field)
    return FileReport(joined, states, classes, examples, judged)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise WinnowError(f"{path} is not a file. Give a JSON Lines file with the fields gold and response.")
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise WinnowError(
                    f"{path}:{number}: not a JSON object ({error.msg}). Put one object on each line."
                ) from None
            if not isinstance(row, dict):
                raise WinnowError(f"{path}:{number}: a {type(row).__name__}, not a JSON object.")
            for old, new in _RENAMED.items():
                if old in row and new not in row:
                    row[new] = row[old]
            if "gold" not in row or "response" not in row:
                raise WinnowError(
                    f"{path}:{number}: needs the fields gold and response; it has {', '.join(sorted(row))}."
                )
            for name in ("gold", "response"):
                if row[name] is not None and not isinstance(row[name], str):
                    row[name] = json.dumps(row[name], ensure_ascii=False)
            rows.append(row)
    return rows


def _measure(
    rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], field: str
) -> tuple[tuple[ClassReport, ...], tuple[dict[str, Any], ...]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    examples: list[dict[str, Any]] = []
    shown: Counter[tuple[str, str]] = Counter()
    for row, verdict in zip(rows, verdicts, strict=True):
        if not isinstance(row.get("expected"), bool):
            continue
        accepted, expected = verdict["state"] == "correct", row["expected"]
        name = str(row.get(field) or "-")
        for key in (name, "all"):
            count = counts[key]
            count["pairs"] += 1
            count["true"] += expected
            count["right"] += accepted == expected
            count["accepts"] += accepted and not expected
            count["refusals"] += expected and not accepted
            count["undecided"] += verdict["state"] == "undecided"
        if accepted != expected:
            mistake = "false accept" if accepted else "false refusal"
            shown[mistake, name] += 1
            if shown[mistake, name] <= EXAMPLES:
                reason = json.loads(verdict["evidence"]).get("reason", "")
                examples.append(
                    {
                        "class": name, "mistake": mistake, "gold": str(row["gold"])[:120],
                        "extracted": (verdict["extracted"] or "")[:120], "state": verdict["state"], "reason": reason,
                    }
                )  # fmt: skip
    names = sorted(n for n in counts if n != "all") + (["all"] if "all" in counts else [])
    classes = tuple(
        ClassReport(
            n, counts[n]["pairs"], counts[n]["right"], counts[n]["accepts"], counts[n]["refusals"], counts[n]["true"],
            counts[n]["undecided"],
        )
        for n in names
    )  # fmt: skip
    examples.sort(key=lambda e: (e["mistake"], e["class"]))
    return classes, tuple(examples)
