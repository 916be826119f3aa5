"""Tables and the judge: which verdicts it is asked about, what its answer makes of them, how often it agrees with rules.

Only what the rules leave open is asked. A judge that cannot be reached makes `checker_error`; where it fails many times
in a row, the rest is not asked at all, so that an outage costs minutes and not a night.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from curation.answers.cache import VerdictCache
from curation.answers.judge import MAX_CHARS, WORDS, Judge, JudgeError
from schemas.verdicts import State

FAILURES = 16
"""So many failures in a row, each after its retries, and the judge counts as gone."""
_STATES: dict[bool | None, State] = {True: "correct", False: "incorrect", None: "undecided"}
Said = bool | JudgeError | None


def judge_open(rows: pa.Table, verdicts: pa.Table, judge: Judge) -> pa.Table:
    """`verdicts` with every open one decided by the judge where it can. Columns beside VERDICT_SCHEMA stay."""
    where = open_verdicts(verdicts)
    return with_answers(verdicts, where, ask_many(rows, verdicts, where, judge)) if where else verdicts


def open_verdicts(verdicts: pa.Table) -> list[int]:
    """Positions of what the rules leave to a judge: undecided, timed out, or a gold that no rule reads. A gold that is
    empty, or none of its options, is wrong for a judge too."""
    columns = (verdicts[name].to_pylist() for name in ("state", "method", "gold_normal"))
    return [
        i
        for i, (state, method, gold) in enumerate(zip(*columns, strict=True))
        if state in ("undecided", "checker_timeout") or (state == "unparsable_gold" and method == "none" and gold)
    ]


def ask_many(rows: pa.Table, verdicts: pa.Table, where: Sequence[int], judge: Judge) -> list[tuple[Said, float]]:
    """What the judge says of the rows at `where`, in their order, and the seconds that it took."""
    few = pa.array(where, pa.int64())
    inputs = rows.take(few).to_pylist()
    found = verdicts.select(["extracted", "answer_normal"]).take(few).to_pylist()
    in_a_row, lock = 0, threading.Lock()

    def one(index: int) -> tuple[Said, float]:
        nonlocal in_a_row
        began = time.perf_counter()
        row = inputs[index]
        answer = found[index]["extracted"] or found[index]["answer_normal"] or (row["response"] or "")[-MAX_CHARS:]
        if in_a_row >= FAILURES:
            return JudgeError(f"not asked: the judge had failed {FAILURES} times in a row"), 0.0
        said: Said
        try:
            said = judge.ask(row.get("question"), gold_text(row), answer)
        except JudgeError as error:
            said = error
        with lock:
            in_a_row = in_a_row + 1 if isinstance(said, JudgeError) else 0
        return said, time.perf_counter() - began

    with ThreadPoolExecutor(max_workers=max(1, judge.concurrency)) as pool:
        return list(pool.map(one, range(len(where))))


def with_answers(verdicts: pa.Table, where: Sequence[int], said: Sequence[tuple[Said, float]]) -> pa.Table:
    """`verdicts` with those at `where` decided by what the judge said of them."""
    names = ("state", "method", "evidence", "seconds")
    columns = {name: verdicts[name].to_pylist() for name in names}
    for at, (answer, seconds) in zip(where, said, strict=True):
        if isinstance(answer, JudgeError):
            state, words = "checker_error", str(answer)
        else:
            state, words = _STATES[answer], WORDS[answer]
        columns["state"][at], columns["method"][at] = state, "judge"
        columns["seconds"][at] += seconds
        columns["evidence"][at] = with_evidence(columns["evidence"][at], judge=words)
    for name in names:
        field = verdicts.schema.field(name)
        verdicts = verdicts.set_column(
            verdicts.schema.get_field_index(name), field, pa.array(columns[name], field.type)
        )
    return verdicts


def with_evidence(evidence: str, **more: str) -> str:
    """A verdict's evidence with more in it."""
    return json.dumps({**json.loads(evidence), **more}, ensure_ascii=False, sort_keys=True)


def gold_text(row: dict[str, Any]) -> str:
    """The reference that the judge sees."""
    golds = row.get("golds")
    return " or ".join(golds[:8]) if golds else str(row["gold"])


# ------------------------------------------------------------------------------------------------------------ agreement


@dataclass(frozen=True)
class Agreement:
    """How often the judge says what the rules say, on rows that the rules decided."""

    asked: int
    agreed: int
    judge_accepts: int
    judge_refuses: int
    unclear: int
    errors: int

    @property
    def rate(self) -> float:
        judged = self.asked - self.errors
        return self.agreed / judged if judged else 0.0

    def as_dict(self) -> dict[str, float]:
        return {**asdict(self), "rate": self.rate}


def agreement(rows: pa.Table, verdicts: pa.Table, judge: Judge, sample: int = 100) -> Agreement:
    """Ask the judge about rows that the rules decided.

    The sample is the rows whose content hashes are smallest, so any run asks the same.
    """
    inputs = rows.select(["gold", "response"]).to_pylist()
    decided = decided_by_rules(verdicts)
    decided.sort(key=lambda i: VerdictCache.key("sample", str(inputs[i]["gold"]), inputs[i]["response"] or ""))
    chosen = decided[:sample]
    return compared(verdicts, chosen, ask_many(rows, verdicts, chosen, judge))


def decided_by_rules(verdicts: pa.Table) -> list[int]:
    """Positions of what the rules called correct or incorrect."""
    pairs = zip(verdicts["state"].to_pylist(), verdicts["method"].to_pylist(), strict=True)
    return [i for i, (state, method) in enumerate(pairs) if state in ("correct", "incorrect") and method != "judge"]


def compared(verdicts: pa.Table, where: Sequence[int], said: Sequence[tuple[Said, float]]) -> Agreement:
    """The rules' verdicts at `where` against the judge's."""
    states = verdicts["state"].to_pylist()
    rules = [states[i] == "correct" for i in where]
    pairs = [(answer, rule) for (answer, _), rule in zip(said, rules, strict=True)]
    return Agreement(
        asked=len(pairs),
        agreed=sum(s is r for s, r in pairs),
        judge_accepts=sum(s is True and not r for s, r in pairs),
        judge_refuses=sum(s is False and r for s, r in pairs),
        unclear=sum(s is None for s, _ in pairs),
        errors=sum(isinstance(s, JudgeError) for s, _ in pairs),
    )
