"""One verdict: gate, extract, compare by layers, and say which layer decided.

`check` never raises on data: what goes wrong inside becomes `checker_error` with the reason, because a crash of the
checker says nothing about the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from curation.answers import symbolic
from curation.answers.cache import VerdictCache
from curation.answers.choices import options_of
from curation.answers.compare import compare, gold_core, is_math
from curation.answers.compare_choice import compare_choice
from curation.answers.extract import Extraction, error_text, extract, visible_part
from curation.answers.kinds import ORDER_ASKED, kind_of
from curation.answers.normal import normal
from curation.answers.numbers import parse_number
from curation.answers.outcome import Outcome
from curation.answers.policy import Policy
from curation.answers.text import compare_text, is_words
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
    cache: VerdictCache | None = None,
) -> Verdict:
    """Whether `response` (a whole reply or a bare answer) gives `gold`.

    kind      what the gold is, if known: choice, number, math, text, ...; None reads it off the gold and choices
    choices   the options of a multiple-choice question, in order; options inside `question` are found too
    golds     further accepted answers; any one suffices
    truncated the response was cut off by a length limit
    cache     keeps what symbolic work finds across runs
    """
    began = time.perf_counter()
    try:
        verdict = _check(gold, response, kind, choices, question, golds, truncated, policy, cache)
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
    cache: VerdictCache | None,
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
    if (found.rule == "bare" or not found.declared) and error_text(found.text):
        return Verdict("no_answer", evidence={"reason": "a program's error message"})
    if asked == "choice":
        outcome = compare_choice(accepted, response, found, options, policy)
    elif found.rule == "none" and (asked != "text" and _all_math(accepted)):
        return Verdict("no_answer", evidence={"reason": "no answer found in the response"})
    else:
        outcome = _best(accepted, response, found, asked, question, policy)
    if outcome.equal is None and outcome.trees is not None and policy.symbolic:
        outcome = symbolic.decide(outcome, policy, cache)
    return _verdict(outcome, found)


def _best(
    accepted: list[str], response: str, found: Extraction, asked: str, question: str | None, policy: Policy
) -> Outcome:
    """The outcome of the first accepted gold that is met; else an open one; else the first."""
    listed = any("," in g or ";" in g for g in accepted)
    if question and listed and policy.unordered_lists and ORDER_ASKED.search(question):
        policy = replace(policy, unordered_lists=False)
    outcomes = []
    plain = parse_number(normal(found.text)) is not None
    if asked != "text" or (plain and any(parse_number(normal(g)) for g in accepted)):
        for gold in accepted:
            if len(accepted) > 1 and gold.replace(" ", "").isalpha():
                continue  # plain words: one pass over all of them below
            outcome = compare(gold, found.text, policy, prose=policy.weak_extraction)
            if outcome.equal:
                return outcome
            outcomes.append(outcome)
        if outcomes and _all_math(accepted) and (asked != "text" or plain):
            return next((o for o in outcomes if o.equal is None), outcomes[0])
    start, end = visible_part(response)
    if found.rule == "none" and (error_text(response[start:end]) or not response[start:end].strip()):
        return Outcome(None, "none", "no answer found in the response", state="no_answer")
    whole = found.text if found.declared and found.rule != "bare" else response[start:end]
    return compare_text([gold_core(g) for g in accepted], found.text, whole, question, policy)


def _all_math(golds: Sequence[str]) -> bool:
    """Whether no gold is words: then comparing words says nothing."""
    cores = [gold_core(g) for g in golds]
    return all(is_math(normal(core)) or not is_words(core) for core in cores)


def _verdict(outcome: Outcome, found: Extraction) -> Verdict:
    evidence = {"reason": outcome.reason, **outcome.more}
    if outcome.state:
        state: State = outcome.state
    else:
        state = "correct" if outcome.equal else "undecided" if outcome.equal is None else "incorrect"
    return Verdict(
        state, outcome.method, found.rule, found.text or None, found.span, outcome.gold, outcome.answer, evidence
    )
