"""One verdict: gate, extract, compare by layers, and say which layer decided.

`check` never raises on data: what goes wrong inside becomes `checker_error` with the reason, because a crash of the
checker says nothing about the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dataclasses import replace


from curation.answers.choices import options_of
from curation.answers.compare import Outcome, compare
from curation.answers.compare_choice import compare_choice
from curation.answers.extract import Extraction, extract
from curation.answers.kinds import ORDER_ASKED, kind_of
from curation.answers.text import compare_text
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
    response = response or ""
    found = extract(response, policy)
    if truncated and not (policy.judge_truncated and found.declared):
        return Verdict("truncated", rule=found.rule, extracted=found.text or None, span=found.span)
    options = options_of(tuple(choices) if choices else None, question)
    asked = kind_of(accepted[0], kind, options)
    if asked == "choice":
        outcome = compare_choice(accepted, response, found, options, policy)
    elif found.rule == "none":
        return Verdict("no_answer", evidence={"reason": "no answer found in the response"})
    else:
        outcome = _best(accepted, found, asked, question, policy)
    if outcome.equal is None and outcome.trees is not None and policy.symbolic:
        pass
    return _verdict(outcome, found)


def _best(accepted: list[str], found: Extraction, asked: str, question: str | None, policy: Policy) -> Outcome:
    """The outcome of the first accepted gold that is met; else an open one; else the first."""
    if question and policy.unordered_lists and ORDER_ASKED.search(question):
        policy = replace(policy, unordered_lists=False)
    outcomes = []
    for gold in accepted:
        outcome = compare(gold, found.text, policy, prose=policy.weak_extraction) if asked != "text" else None
        if outcome is None or (outcome.equal is None and outcome.trees is None):
            words = compare_text(gold, found.text, policy)
            outcome = words if outcome is None or words.equal is not None else outcome
        if outcome.equal:
            return outcome
        outcomes.append(outcome)
    return next((o for o in outcomes if o.equal is None), outcomes[0])


def _verdict(outcome: Outcome, found: Extraction) -> Verdict:
    evidence = {"reason": outcome.reason, **outcome.more}
    if outcome.state:
        state: State = outcome.state
    else:
        state = "correct" if outcome.equal else "undecided" if outcome.equal is None else "incorrect"
    return Verdict(
        state, outcome.method, found.rule, found.text or None, found.span, outcome.gold, outcome.answer, evidence
    )
