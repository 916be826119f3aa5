"""One verdict: gate, extract, compare by layers, and say which layer decided.

`check` never raises on data: what goes wrong inside becomes `checker_error` with the reason, because a crash of the
checker says nothing about the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from curation.answers.compare import compare
from curation.answers.extract import extract
from curation.answers.policy import Policy
from schemas.verdicts import State, Verdict

DEFAULT = Policy()


def check(
    gold: str | None,
    response: str | None,
    *,
    kind: str | None = None,
    choices: Sequence[str] | None = None,
    question: str | None = None,
    golds: Sequence[str] | None = None,
    truncated: bool = False,
    policy: Policy = DEFAULT,
) -> Verdict:
    """Whether `response` (a whole reply or a bare answer) gives `gold`.

    kind      what the gold is, if known: choice, number, math, text, ...; None reads it off the gold and choices
    choices   the options of a multiple-choice question, in order; options inside `question` are found too
    golds     further accepted answers; any one suffices
    truncated the response was cut off by a length limit
    """
    began = time.perf_counter()
    try:
        verdict = _check(gold, response, kind, choices, question, golds, truncated, policy)
    except Exception as error:
        verdict = Verdict("checker_error", evidence={"error": f"{type(error).__name__}: {error}"[:300]})
    return Verdict(
        verdict.state, verdict.method, verdict.rule, verdict.extracted, verdict.span, verdict.gold_normal,
        verdict.answer_normal, verdict.evidence, time.perf_counter() - began,
    )  # fmt: skip


def _check(
    gold: str | None,
    response: str | None,
    kind: str | None,
    choices: Sequence[str] | None,
    question: str | None,
    golds: Sequence[str] | None,
    truncated: bool,
    policy: Policy,
) -> Verdict:
    accepted = [str(g) for g in (golds or ([] if gold is None else [gold])) if str(g).strip()]
    if not accepted:
        return Verdict("unparsable_gold", evidence={"reason": "the gold answer is empty"})
    found = extract(response or "", policy)
    if truncated and not (policy.judge_truncated and found.declared):
        return Verdict("truncated", rule=found.rule, extracted=found.text or None, span=found.span)
    if found.rule == "none":
        return Verdict("no_answer", evidence={"reason": "no answer found in the response"})
    outcomes = [compare(g, found.text, policy, prose=policy.weak_extraction) for g in accepted]
    best = next((o for o in outcomes if o.equal), None) or next((o for o in outcomes if o.equal is None), outcomes[0])
    state: State = "correct" if best.equal else "undecided" if best.equal is None else "incorrect"
    return Verdict(
        state, best.method, found.rule, found.text, found.span, best.gold, best.answer, {"reason": best.reason}
    )
