"""Generated pairs whose verdict is known by construction, and pairs about which only order and sanity are known.

    python -m tests.answers.fuzz --pairs 200000 --seed 1 --workers 2

A pair is made from a value: the same value written another way (must be correct), a value that differs in one
place (must never be correct), or two texts damaged at random (nothing is known but that the checker ends, does not
crash, and says the same of both orders). `pair(seed, index)` depends on its two numbers alone, so a failure is
made again from the line that names it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from curation.answers import Policy, check
from curation.answers.choices import LETTERS, letters_of
from curation.answers.compare import is_math
from curation.answers.normal import normal
from tests.answers.values import MAKERS

LIMIT_S = 1.2
SLICE = 2_000
POLICY = Policy(deadline_s=0.5)


@dataclass(frozen=True)
class Pair:
    """A gold, a response, and what is known of them: True (equal), False (different) or None."""

    kind: str
    gold: str
    response: str
    expected: bool | None
    choices: tuple[str, ...] | None = None
    symmetric: bool = False


# ----------------------------------------------------------------------------------------------------------- pairs

_WRAPS = (
    "{}", "{}", r"\boxed{{{}}}", r"So we get $\boxed{{{}}}$.", "The answer is {}", "<answer>{}</answer>",
    "First I add.\n#### {}", r"<think>It could be \boxed{{1234567}}.</think>It is \boxed{{{}}}", "**Answer:** {}", "答案是{}",
)  # fmt: skip
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4}")
_DAMAGE = [
    *r"0123456789xyabei+-*/^=<>()[]{}|\$%.,;:'!&~_ ",
    r"\frac",
    r"\sqrt",
    r"\boxed{",
    "π",
    "，",
    "½",
    "\u202e",
    "\n",
]


def _damaged(r: random.Random, text: str) -> str:
    characters = list(text)
    for _ in range(r.randint(1, 6)):
        at = r.randint(0, len(characters))
        if r.random() < 0.5 and at < len(characters):
            del characters[at]
        else:
            characters.insert(at, r.choice(_DAMAGE) * r.choice((1, 1, 1, 40)))
    return "".join(characters)


def pair(seed: int, index: int) -> Pair:
    """The pair with this number: depends on nothing else."""
    r = random.Random(f"{seed}/{index}")
    maker = r.choice(MAKERS)
    value = maker(r)
    gold = value.same[0] if value.choices else r.choice(value.golds or value.same)
    share = r.random()
    if share < 0.45:
        answer, expected = r.choice(value.same), True
    elif share < 0.85:
        answer, expected = r.choice(value.other), False
    else:
        texts = [_damaged(r, r.choice(value.same)), _damaged(r, r.choice(value.same + value.other))]
        # No sentences: a value is taken out of a response, never out of a gold.
        readable = not any(_WORD.search(text) for text in texts) and all(
            not {".", "\n"} & set(text) and is_math(normal(text)) and not letters_of(text, LETTERS) for text in texts
        )
        return Pair("damaged", *texts, None, symmetric=readable)
    wrap = r.choice(_WRAPS)
    symmetric = value.symmetric and wrap == "{}"
    return Pair(maker.__name__, gold, wrap.format(answer), expected, value.choices, symmetric)


def failures(seed: int, begin: int, end: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Counts by kind and what was expected, and everything that must not be."""
    counts: Counter[str] = Counter()
    found = []
    for index in range(begin, end):
        case = pair(seed, index)
        kind = "choice" if case.choices else None
        began = time.thread_time()
        verdict = check(case.gold, case.response, kind=kind, choices=case.choices, policy=POLICY)
        seconds = time.thread_time() - began
        accepted = verdict.state == "correct"
        counts[f"{case.kind} {case.expected} {verdict.state}"] += 1
        problem = ""
        if verdict.state == "checker_error":
            problem = "crash"
        elif seconds > LIMIT_S:
            problem = "slow"
        elif case.expected is False and accepted:
            problem = "false accept"
        elif case.expected is True and not accepted:
            problem = "false refusal"
        elif case.symmetric and verdict.state != "checker_timeout":
            back = check(case.response, case.gold, policy=POLICY).state
            if accepted != (back == "correct") and back != "checker_timeout":
                problem = "asymmetry"
        if problem:
            found.append({"problem": problem, "index": index, "kind": case.kind, "gold": case.gold, "response": case.response,
                          "choices": case.choices, "state": verdict.state, "evidence": verdict.evidence})  # fmt: skip
    return counts, found


def _slices(pairs: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, pairs, SLICE):
        yield begin, min(pairs, begin + SLICE)


def main() -> None:
    """Run the pairs and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", type=int, default=40, help="failures to print")
    options = parser.parse_args()
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers) as pool:
        jobs = [pool.submit(failures, options.seed, *part) for part in _slices(options.pairs)]
        for job in jobs:
            part, bad = job.result()
            counts += part
            found += bad
    kinds = sorted({name.split()[0] for name in counts})
    print(f"{options.pairs} pairs, seed {options.seed}, {time.perf_counter() - began:.0f} s")
    for kind in kinds:
        print(f"  {kind:<16}", {n.split(" ", 1)[1]: c for n, c in sorted(counts.items()) if n.split()[0] == kind})
    print("failures:", dict(Counter(f["problem"] for f in found)) or "none")
    for bad in found[: options.show]:
        print(json.dumps(bad, ensure_ascii=False))
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
