"""Compare one gold with one answer text, layer by layer, cheapest first.

Strings, plain numbers, dates and times, numbered parts, quantities, then trees. A layer says True only with proof and
False only when it has read both sides whole; otherwise it hands on. What is left carries its two trees along, for the
symbolic layer.
"""

from __future__ import annotations

import re
from functools import lru_cache

from curation.answers.compare_values import numbers, quantities, two_nouns
from curation.answers.dates import parse_date, same_date, same_time
from curation.answers.extract import BARE_CHARS, FORMULA, NUMBER, Extraction, boxes, extract, has_heading, last_value
from curation.answers.gate import ascii_math
from curation.answers.lexer import RELATIONS
from curation.answers.normal import normal
from curation.answers.numbers import number_in_words, parse_number
from curation.answers.outcome import Outcome
from curation.answers.parser import parse
from curation.answers.policy import Policy
from curation.answers.text import YES_OR_NO, is_words, plain_words
from curation.answers.units import split_quantity

_ANSWER_IS = re.compile(r"(?<=[Aa])nswer(?: is|:)|\bANSWER(?: IS|:)")


_NAMED_VALUE = re.compile(r"[A-Za-z][A-Za-z. ]*[A-Za-z.]\s*=\s*(.+)")  # `Surface area = 78.5 cm^2`


@lru_cache(maxsize=8_192)
def gold_core(gold: str) -> str:
    """What a gold answer asks for: the answer alone where a whole solution was stored as gold."""
    if (
        "####" in gold
        or boxes(gold)
        or (len(gold) > BARE_CHARS)
        or (("nswer" in gold or "ANSWER" in gold) and _ANSWER_IS.search(gold))
        or ("\n" in gold and has_heading(gold.rstrip().rpartition("\n")[2]))
    ):
        found = extract(gold, Policy())
        if found.rule not in ("none", "number", "math"):
            return found.text
    written = normal(gold)
    if "=" in written and not is_math(written) and (named := _NAMED_VALUE.fullmatch(written)) and is_math(named[1]):
        return named[1]
    return gold


@lru_cache(maxsize=8_192)
def is_math(gold: str) -> bool:
    """Whether a gold's normal form is a value, an expression or a relation, not words."""
    if parse_number(gold):
        return True
    if is_word(gold):
        return False
    body, unit = split_quantity(gold)
    if unit is not None and parse(body) is not None:
        return True
    return parse(gold) is not None


# Ordinals, decades and spans of years are words: `47th`, `1890s`, `1723-1792`.
_DATED = re.compile(r"\d+(?:st|nd|rd|th)|\d{2,4}s|1\d{3}\s*-\s*[12]\d{3}")


_PHRASE = re.compile(r"[A-Za-z][a-z]{3,}(?:[ ,.'-]+[A-Za-z]+)*|[A-Za-z]+ [A-Za-z][a-z]{3,}(?: [A-Za-z]+)*")


_YEAR = re.compile(r"[12]\d{3}")
_VOWELS = frozenset("aeiouAEIOU")
INFINITE = frozenset(("infinity", "inf"))


def is_word(text: str) -> bool:
    """Whether a text is words at first sight: a phrase of letters, an ordinal, a decade."""
    if _DATED.fullmatch(text) or (_PHRASE.fullmatch(text) and text.lower() not in INFINITE):
        return True
    if text.lower() in YES_OR_NO:
        return True
    return len(text) > 2 and text.isalpha() and not _VOWELS.isdisjoint(text) and text.lower() not in INFINITE


def compare(gold: str, answer: str, policy: Policy, prose: bool = False) -> Outcome:
    """Compare one gold with one answer. `prose` lets a value be taken out of a sentence."""
    core = gold_core(gold)
    left, right = normal(core), normal(answer)
    lines = lines_of(core)
    if len(lines) > 1 and left != right:
        outcome = _line_by_line(lines, answer, policy)
    else:
        outcome = _compare_normal(left, right, policy)
    if outcome.equal is None and outcome.trees is None and prose and is_math(left) and not two_nouns(left, right):
        outcome = _from_prose(left, answer, outcome, policy)
    equal, method, reason, _, _, trees, state, more = outcome
    return Outcome(equal, method, reason, left, right, trees, state, more)


@lru_cache(maxsize=65_536)
def _compare_normal(left: str, right: str, policy: Policy) -> Outcome:
    if left == right:
        return Outcome(True, "text", "equal strings")
    if not right:
        return Outcome(None, "none", "the answer is empty")
    if _DIGIT.search(left):
        if outcome := _with_digits(left, right, policy):
            return outcome
    elif (b := parse_number(right)) and (a := parse_number(number_in_words(left))):
        return numbers(a, b, policy)
    elif left in SIGNS and right in SIGNS:
        return Outcome(SIGNS[left] == SIGNS[right], "number", "signs of comparison")
    elif _both_empty(left, right) or _both_empty(right, left):
        return Outcome(True, "text", "the empty set, in words")
    if is_math(left):
        outcome = quantities(left, right, policy)
        if outcome.equal is not None or outcome.trees is not None:
            return outcome
    if len(left) > 1 and _LETTER.search(left) and is_words(left) and plain_words(left) == plain_words(right):
        return Outcome(True, "text", "equal words")
    return Outcome(None, "none", "no layer reads both sides")


SIGNS = {"=": "=", "<": "<", ">": ">"} | {f"\\{name}": sign for name, sign in RELATIONS.items() if sign != "in"}


def _both_empty(one: str, other: str) -> bool:
    return one in _EMPTY and plain_words(other) in _EMPTY_WORDS


_EMPTY = frozenset((r"\emptyset", r"\varnothing", r"\{\}"))
_EMPTY_WORDS = frozenset(("empty set", "no solution", "no real solution"))
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")


def _with_digits(left: str, right: str, policy: Policy) -> Outcome | None:
    """Numbers, dates, times and numbered parts: what no gold without a digit is."""
    a = parse_number(left)
    if a and (b := parse_number(right) or parse_number(number_in_words(right))):
        return numbers(a, b, policy)
    same = same_date(left, right)
    if same is None:
        same = same_time(left, right)
    if same is not None:
        return Outcome(same, "number", "dates or times by their parts")
    if _YEAR.fullmatch(left) and (date := parse_date(right)) and date.year:
        return Outcome(None if date.year == int(left) else False, "number", "a year against a date")
    if (parts := numbered_parts(left)) and (others := numbered_parts(right)):
        return _parts(parts, others, policy)
    return None


def lines_of(text: str) -> list[str]:
    """The lines of a gold that gives one value on each; matrices and equation systems stay whole."""
    if "\n" not in text or "\\begin" in text:
        return [text]
    return [line.strip(" ;,.") for line in text.split("\n") if line.strip(" ;,.$")]


def _line_by_line(lines: list[str], answer: str, policy: Policy) -> Outcome:
    """A gold of several lines against the answer's lines or list items, in order."""
    others = lines_of(answer)
    if len(others) == 1:
        others = [p.strip() for p in _split_list(normal(answer))]
    if len(others) != len(lines) and all(is_math(normal(other)) for other in others):
        return Outcome(False, "number", "a different number of parts")
    if len(others) != len(lines):
        return Outcome(None, "none", f"{len(lines)} lines against {len(others)} items")
    return _parts(lines, others, policy)


def _split_list(text: str) -> list[str]:
    """`text` split at commas and semicolons outside brackets."""
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char in ",;" and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


_PART = re.compile(r"(?:^|(?<=[\s;,.$]))\(?([1-9])\)[.:]?\s*")


def numbered_parts(text: str) -> list[str] | None:
    """The parts of `(1) ... (2) ...`, numbered from one without a gap; None where there are not at least two."""
    if ")" not in text or "2)" not in text:
        return None
    marks: list[re.Match[str]] = []
    for match in _PART.finditer(text):
        if int(match[1]) == len(marks) + 1:
            marks.append(match)
    if len(marks) < 2 or marks[0].start() > 0:
        return None
    ends = [m.start() for m in marks[1:]] + [len(text)]
    parts = [text[m.end() : e].strip(" ;,.") for m, e in zip(marks, ends, strict=True)]
    return parts if all(parts) else None


def _same_words(p: str, q: str) -> Outcome | None:
    same = is_words(p) and not any(c.isdigit() for c in p) and plain_words(p) == plain_words(q) != ""
    return Outcome(True, "text", "equal words") if same else None


def _parts(parts: list[str], others: list[str], policy: Policy) -> Outcome:
    if len(parts) != len(others):
        return Outcome(False, "number", "a different number of parts")
    outcomes = [
        _same_words(p, q) or _compare_normal(normal(p), normal(q), policy) for p, q in zip(parts, others, strict=True)
    ]
    if any(o.equal is False for o in outcomes):
        return Outcome(False, "number", "one part differs")
    if all(o.equal for o in outcomes):
        return Outcome(True, "number", "all parts agree")
    return Outcome(None, "none", "a part that no layer decides")


def _with_unit(text: str, sentence: str, found: Extraction) -> str:
    """A value of a sentence with its unit of measure: behind it (`mm`, `miles per hour`) or, for money, before it."""
    before, behind = sentence[: found.start].rstrip(" $\\")[-1:], _BEHIND.match(sentence, found.end)
    written = [f"{before}{text}"] if before in ("€", "£", "¥") else []
    if behind:
        written += [f"{text} {behind[1]}{behind[2] or ''}", f"{text} {behind[1]}"]
    for quantity in written:
        unit = split_quantity(normal(quantity))[1]
        if unit is not None and not unit.is_noun:
            return quantity
    return text


_BEHIND = re.compile(r"[\s$~]*((?:(?:square|cubic)\s+)?[^\s,;.!?()$]+)(\s+(?:per\s+[A-Za-z]+|squared|cubed))?")
_SENTENCE = re.compile(r"[A-Za-zÀ-ÿ]{2}|[\u0600-\u06ff\u0900-\u0fff\u3040-\u9fff\uac00-\ud7af]")
_ENCLOSED = re.compile(r"(?:\(.*\)|\[.*\]|\\?\{.*\\?\}|`.*`|'.*')", re.DOTALL)
# A bound alone is no value; a sentence that works one out ("he needs at least 7 boxes") names it.
_BOUND = re.compile(
    r"\W*(?:at (?:least|most)|no (?:more|less|fewer) than|(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|over|under|above|below|up to|not)\b[\s$]*\S+\W*(?:[A-Za-z]+\W*)?|\W*\S+\s+(?:or|and) (?:more|less|fewer|over|under)\W*",
    re.IGNORECASE,
)
_HEDGE = re.compile(r"\b(?:or|either|maybe|perhaps|possibly)\b|或", re.IGNORECASE)


def _from_prose(left: str, answer: str, open_: Outcome, policy: Policy) -> Outcome:
    """A value inside a sentence: the last formula or number, unless the sentence hedges."""
    answer = ascii_math(answer)
    prose = FORMULA.sub(" ", answer) if "$" in answer or "\\" in answer else answer
    if not _SENTENCE.search(prose) or _ENCLOSED.fullmatch(answer.strip()):
        return open_  # nothing but formulas: what stands around them belongs to them
    found = last_value(answer)
    if found.rule == "none":
        valueless = not re.search(r"[\d$\\]", plain_words(answer))  # which writes number words in digits
        return Outcome(False, "text", "words where a value is asked") if valueless else open_
    if _HEDGE.search(answer) or _BOUND.fullmatch(answer):
        return open_
    text = found.text
    if found.rule == "math" and not is_math(normal(text)):
        number = NUMBER.findall(text)
        text = number[-1] if number else text
    unit = split_quantity(left)[1]
    if unit and not unit.is_noun:
        text = _with_unit(text, answer, found)
    outcome = _compare_normal(left, normal(text), policy)
    if outcome.equal is False and "measure different things" in outcome.reason and unit and not unit.is_money:
        return open_  # the sentence may say more than the unit
    if outcome.equal is False and len(answer.split()) > 3:
        wanted = parse_number(left)
        others = [parse_number(normal(n)) for n in NUMBER.findall(answer)]
        if wanted and any(o and o.value == wanted.value for o in others):
            return open_._replace(reason="the sentence holds the gold and other numbers")
    return outcome._replace(more={"taken_from_prose": text})
