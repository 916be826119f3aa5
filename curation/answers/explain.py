"""Show one verdict step by step: what was found, how both sides were read, which layer decided and why."""

from __future__ import annotations

from collections.abc import Sequence

from curation.answers.check import check
from curation.answers.choices import options_of
from curation.answers.compare import gold_core, is_math
from curation.answers.extract import extract, visible_part
from curation.answers.kinds import kind_of
from curation.answers.latex import NoLatex, latex
from curation.answers.normal import normal
from curation.answers.numbers import parse_number
from curation.answers.parser import parse
from curation.answers.policy import Policy
from curation.answers.units import split_quantity


def explain(
    gold: str,
    response: str,
    *,
    kind: str | None = None,
    choices: Sequence[str] | None = None,
    question: str | None = None,
    golds: Sequence[str] | None = None,
    truncated: bool = False,
    policy: Policy | None = None,
) -> str:
    """The verdict on one pair as text for a person; the arguments are those of `check`."""
    policy = policy or Policy()
    verdict = check(
        gold, response, kind=kind, choices=choices, question=question, golds=golds, truncated=truncated, policy=policy
    )
    found = extract(response, policy)
    start, end = visible_part(response)
    options = options_of(tuple(choices) if choices else None, question)
    lines = [f"response   {len(response)} characters; characters {start} to {end} can hold the answer"]
    if found.span:
        declared = "declared" if found.declared else "not declared: only a fallback"
        lines.append(f"extracted  {_short(found.text)!r} at {found.start}-{found.end}, rule {found.rule} ({declared})")
    else:
        lines.append("extracted  nothing")
    lines.append(f"kind       {kind_of(gold, kind, options)}" + (f" (hint: {kind})" if kind else ", read off the gold"))
    lines += [f"option {o.letter}   {_short(o.text)}" for o in options]
    for name, text in (("gold", gold_core(gold)), ("answer", found.text)):
        lines.append(f"{name:<10} {_reading(text)}")
    lines.append(f"verdict    {verdict.state}, decided by {verdict.method} in {verdict.seconds * 1000:.2f} ms")
    lines += [f"  {key}: {value}" for key, value in verdict.evidence.items()]
    return "\n".join(lines)


def _reading(text: str) -> str:
    plain = normal(text)
    if number := parse_number(plain):
        return f"{_short(plain)!r}: the number {number.value}{' percent' if number.percent else ''}"
    body, unit = split_quantity(plain)
    if unit is not None and is_math(plain):
        return f"{_short(plain)!r}: {body} with the unit {unit.text}"
    tree = parse(plain) if is_math(plain) else None
    if tree is None:
        return f"{_short(plain)!r}: words"
    try:
        return f"{_short(plain)!r}: read as {_short(latex(tree), 160)}"
    except NoLatex:
        return f"{_short(plain)!r}: read as {tree[0]}"


def _short(text: str, limit: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
