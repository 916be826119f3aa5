"""Our verdicts beside those that were stored with model outputs: every disagreement, by cause, with a judgement.

    python -m tests.answers.rollouts [FOLDER OF REAL RECORDS]      writes docs/answers_disagreements.md

The causes are told from the verdict and the two texts, by the functions of CAUSES; the judgements were made by reading
the replies. Ids and short answers are listed, never the replies.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curation.answers import Verdict, check
from curation.answers.choices import content_behind, options_of
from curation.answers.normal import normal

FILES = ("gsm8k_test", "math_cot_100", "mathv_testmini")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "answers_disagreements.md"
SHORT = 60


@dataclass(frozen=True)
class Case:
    """One reply with both verdicts."""

    row: dict[str, Any]
    choices: tuple[str, ...]
    upstream: bool
    ours: Verdict

    @property
    def reason(self) -> str:
        return str(self.ours.evidence.get("reason", ""))

    @property
    def option(self) -> str:
        """The text of the gold's option, empty where the gold is no letter."""
        return next((o.text for o in options_of(self.choices, None) if o.letter == self.row["answer"]), "")


def cases(data: Path) -> Iterator[tuple[str, Case]]:
    """(file, case) for every reply; options come from the benchmark's own file."""
    benchmark = pq.read_table(data / "benchmark" / "mathv_testmini.parquet", columns=["id", "choices"]).to_pylist()
    options = {row["id"]: tuple(row["choices"] or ()) for row in benchmark}
    for name in FILES:
        for row in pq.read_table(data / "rollouts" / f"{name}.parquet").to_pylist():
            choices = options.get(row["id"], ())
            verdict = check(row["answer"], row["response"], question=row["question"], choices=choices or None)
            yield name, Case(row, choices, str(row["correct"]) == "True", verdict)


def _letters(case: Case) -> bool:
    return case.ours.state == "correct" and "letter" in case.reason


def _content(case: Case) -> bool:
    return case.ours.state == "correct" and case.reason.startswith("the content")


# (heading, who is right and why, which cases); the first that fits.
CAUSES: list[tuple[str, str, Callable[[Case], bool]]] = [
    (
        "A time of day",
        "**Ours.** The reply's box is the gold (`4:30 \\text{ p.m.}`); the stored extraction lost the `p.m.`",
        lambda c: "p.m." in c.row["answer"],
    ),
    (
        "A thousands separator",
        "**Ours.** `10{,}000` is 10000.",
        lambda c: "{,}" in c.row["answer"],
    ),
    (
        "One letter, several times",
        "**Either.** The reply names A and nothing else, but five times.",
        lambda c: _letters(c) and len((c.ours.extracted or "").split(",")) > 2,
    ),
    (
        "The gold letter with its option's text behind it",
        "**Ours.** The stored comparison wants the letter or the content alone. A letter with *another* option's "
        "content is undecided here.",
        lambda c: _letters(c) and bool(content_behind(c.ours.extracted or "")),
    ),
    (
        "The gold letter after a box with a value",
        "**Ours, as the convention is:** the last declaration counts, and it is the gold letter.",
        lambda c: _letters(c) and any(map(str.isdigit, c.row["extracted"] or "")),
    ),
    (
        "The gold letter in a font or in brackets",
        "**Ours.** `\\textbf{A}` is A.",
        _letters,
    ),
    (
        "The content of the gold option, as the option writes it",
        "**Ours.** The reply says what the gold option says; the stored extraction changed one of the two "
        "(degree and percent signs dropped on one side, blanks, capitals).",
        lambda c: _content(c) and normal(c.ours.extracted or "") == normal(c.option),
    ),
    (
        "The content of the gold option, its unit or name left out or written otherwise",
        "**Ours.** The value is that of the gold option and of no other; the stored comparison is of strings.",
        _content,
    ),
    (
        "A value with its unit or percent sign, or in a sentence",
        "**Ours.** The value is the gold; what is asked for carries the unit.",
        lambda c: c.ours.state == "correct",
    ),
    (
        "A letter that is one option's label and another one's content",
        "**Open.** Option D reads E; whether E names the label E or the content E nobody can tell. Upstream takes the "
        "content.",
        lambda c: c.ours.state == "undecided" and "label" in c.reason,
    ),
    (
        "Digits in an order, computed as a difference",
        "**Ours.** 5-2-3-4-1 is an order of letters, and not the gold's 5-2-3-1-4; upstream evaluates both to -5.",
        lambda c: "-" in (c.ours.extracted or ""),
    ),
]  # fmt: skip


def page(data: Path) -> str:
    """The committed page."""
    counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in FILES}
    groups: dict[str, list[str]] = {heading: [] for heading, _, _ in CAUSES}
    open_: Counter[str] = Counter()
    for name, case in cases(data):
        counts[name][str(case.upstream), case.ours.state] += 1
        if case.upstream is (case.ours.state == "correct"):
            if case.ours.state == "undecided":
                open_[re.sub(r"option [A-J]", "one option", case.reason)] += 1
            continue
        heading = next(heading for heading, _, fits in CAUSES if fits(case))
        groups[heading].append(_line(case))
    lines = [
        "# Where our verdicts and stored ones differ",
        "",
        "Written by `python -m tests.answers.rollouts`, which needs the folder of real records. Replies of models with the"
        " verdict that their authors stored; golds, questions and options as they are in the files.",
        "",
        "| file | stored | correct | incorrect | no answer | undecided |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, count in counts.items():
        for upstream in ("True", "False"):
            states = [count[upstream, state] for state in ("correct", "incorrect", "no_answer", "undecided")]
            assert sum(states) == sum(n for (u, _), n in count.items() if u == upstream), "a checker state"
            said = "right" if upstream == "True" else "wrong"
            lines.append(f"| {name} | {said} | {' | '.join(map(str, states))} |")
    lines += ["", f"{sum(map(len, groups.values()))} replies are judged differently. By cause:"]
    for heading, judgement, _ in CAUSES:
        if groups[heading]:
            lines += ["", f"## {heading} ({len(groups[heading])})", "", judgement, "",
                      "| id | model | gold | stored extraction | stored | found here | here |",
                      "| --- | --- | --- | --- | --- | --- | --- |", *groups[heading]]  # fmt: skip
    lines += ["", "## Stored as wrong, undecided here", "",
              "No disagreement: nothing is claimed. Most are replies that describe one of several pictured options.", "",
              "| why it is open | replies |", "| --- | --- |", *(f"| {w} | {n} |" for w, n in open_.most_common())]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(case: Case) -> str:
    row = case.row
    gold = f"{row['answer']} = {case.option}" if case.option and case.option != row["answer"] else row["answer"]
    cells = [f"{row['id']} #{row['sample']}", row["model"], _code(gold), _code(row["extracted"]),
             "right" if case.upstream else "wrong", _code(case.ours.extracted), case.ours.state]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _code(text: str | None) -> str:
    flat = " ".join((text or "").split()).replace("|", "\\|").replace("`", "'")
    return f"`{flat if len(flat) <= SHORT else flat[: SHORT - 1] + '…'}`" if flat else ""


def main() -> None:
    """Write the page."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WINNOW_DATA") or beside)
    PAGE.write_text(page(data), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
