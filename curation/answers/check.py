"""One verdict: gate, extract, compare by layers, and say which layer decided.

`check` never raises on data: what goes wrong inside becomes `checker_error` with the reason, because a crash of the
checker says nothing about the answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from curation.answers import symbolic
from curation.answers.cache import VerdictCache
from curation.answers.choices import Option, letters_of_gold, options_of
from curation.answers.compare import SIGNS, compare, gold_core, is_math, is_word, lines_of, numbered_parts
from curation.answers.compare_choice import compare_choice
from curation.answers.dates import parse_date, parse_time
from curation.answers.extract import NOTHING, Extraction, error_text, extract, visible_part
from curation.answers.kinds import ORDER_ASKED, alternatives, kind_of
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
    golds     the accepted answers, in place of `gold`; any one suffices
    truncated the response was cut off by a length limit
    cache     keeps what symbolic work finds across runs
    """
    began = time.perf_counter()
    found = NOTHING
    try:
        accepted = [text for given in golds or (gold,) if given is not None for text in _accepted(str(given))]
        response = response or ""
        found = extract(response, policy)
        outcome = _decide(accepted, response, found, kind, choices, question, truncated, policy, cache)
    except Exception as error:
        found, outcome = NOTHING, Outcome(None, "none", f"{type(error).__name__}: {error}"[:300], state="checker_error")
    state = outcome.state or _STATES[outcome.equal]
    name = "error" if state == "checker_error" and outcome.method == "none" else "reason"
    evidence = {name: outcome.reason, **(outcome.more or {})}
    return Verdict(
        state, outcome.method, found.rule, found.text or None, found.span, outcome.gold, outcome.answer, evidence,
        time.perf_counter() - began,
    )  # fmt: skip


@lru_cache(maxsize=8_192)
def _accepted(gold: str) -> tuple[str, ...]:
    """The answers that a gold accepts; none where it is empty."""
    return tuple(text for text in alternatives(gold) if text and not text.isspace())


_STATES: dict[bool | None, State] = {True: "correct", False: "incorrect", None: "undecided"}


def _decide(
    accepted: list[str],
    response: str,
    found: Extraction,
    kind: str | None,
    choices: Sequence[str] | None,
    question: str | None,
    truncated: bool,
    policy: Policy,
    cache: VerdictCache | None,
) -> Outcome:
    """The outcome for what was found, by the layers that its kind needs."""
    if not accepted:
        return Outcome(None, "none", "the gold answer is empty", state="unparsable_gold")
    if truncated and not (policy.judge_truncated and found.declared):
        return Outcome(None, "none", "cut off by a length limit", state="truncated")
    if (found.rule == "bare" or not found.declared) and error_text(found.text):
        return Outcome(None, "none", "a program's error message", state="no_answer")
    if found.declared and found.rule != "bare" and not found.text.strip(" \t\n.,;:$\\{}"):
        return Outcome(None, "none", "what is declared as the answer is empty", state="no_answer")
    options: tuple[Option, ...] = ()
    if choices or (question and (kind or letters_of_gold(accepted[0]) or accepted[0].strip() in question)):
        options = options_of(tuple(choices) if choices else None, question)
    asked = kind_of(accepted[0], kind, options)
    if asked == "choice":
        outcome = compare_choice(accepted, response, found, options, policy)
    elif found.rule == "none" and (asked != "text" and _all_math(accepted)):
        return Outcome(None, "none", "no answer found in the response", state="no_answer")
    else:
        outcome = _best(accepted, response, found, asked, question, policy)
    if outcome.equal is None and outcome.trees is not None and policy.symbolic:
        outcome = symbolic.decide(outcome, policy, cache)
    return outcome


def _best(
    accepted: list[str], response: str, found: Extraction, asked: str, question: str | None, policy: Policy
) -> Outcome:
    """The outcome of the first accepted gold that is met; else an open one; else the first."""
    listed = question and policy.unordered_lists and any("," in g or ";" in g for g in accepted)
    if question and listed and ORDER_ASKED.search(question):
        policy = replace(policy, unordered_lists=False)
    outcomes = []
    plain = asked == "text" and parse_number(normal(found.text)) is not None
    if asked != "text" or (plain and any(parse_number(normal(g)) for g in accepted)):
        for gold in accepted:
            if len(accepted) > 1 and (gold.replace(" ", "").isalpha() or is_word(gold)):
                continue  # plain words: one pass over all of them below
            outcome = compare(gold, found.text, policy, prose=policy.weak_extraction)
            if outcome.equal:
                return outcome
            outcomes.append(outcome)
        if not any(map(_readable, accepted)):
            return outcomes[0]._replace(equal=None, trees=None, state="unparsable_gold", reason=UNREAD)
        if outcomes and _all_math(accepted) and (asked != "text" or plain):
            return next((o for o in outcomes if o.equal is None), outcomes[0])
    start, end = visible_part(response)
    if found.rule == "none" and (error_text(response[start:end]) or not response[start:end].strip()):
        return Outcome(None, "none", "no answer found in the response", state="no_answer")
    whole = found.text if found.declared else response[start:end]
    return compare_text([gold_core(g) for g in accepted], found.text, whole, question, policy)


UNREAD = "the gold is neither a value nor words"


def _readable(gold: str) -> bool:
    core = gold_core(gold)
    text = normal(core)
    if is_words(core) or is_math(text) or text in SIGNS or parse_time(text) or parse_date(text):
        return True
    return len(lines_of(core)) > 1 or bool(numbered_parts(text))


def _all_math(golds: Sequence[str]) -> bool:
    """Whether no gold is words: then comparing words says nothing."""
    cores = [gold_core(g) for g in golds]
    return all(is_math(normal(core)) or not is_words(core) for core in cores)
