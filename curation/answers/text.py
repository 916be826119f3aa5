"""Answers in words: names, places, phrases, yes and no.

Equality is of words: case, articles, punctuation, accents and the spelling of small numbers do not count. Beyond that:

- A gold whose words stand whole in the answer, not denied and not merely repeated from the question, is met.
- An answer of a few words that shares no word with the gold, not even a stem or a close spelling, is wrong; a longer
  one is wrong where the gold is a name that appears in no spelling.
- Everything between is undecided, for the judge. Shared words alone prove nothing either way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from curation.answers.dates import find_dates, parse_date
from curation.answers.gate import names
from curation.answers.normal import normal
from curation.answers.numbers import number_in_words, parse_number
from curation.answers.outcome import Outcome
from curation.answers.policy import Policy

SHORT_WORDS = 6  # an answer without a sentence around it
MIDDLE_WORDS = 25  # a sentence
LONGEST_WORD = 15  # longer runs of letters are words that lost their spaces
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|textrm|textnormal|mbox|operatorname|emph)\s*\{([^{}]*)\}"
)
_WORD_RUN = re.compile(r"[\w%$€£+-]+")
_NOT_WORD = re.compile(r"_|(?<!\w)-(?!\d)|-(?!\w)")
_FORMULA = re.compile(r"\\|[=^{}<>√]|\$.*\$|\d\)|\n\s*\S")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15",
    "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30",
    "forty": "40",
    "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
}  # fmt: skip
_SAME_NAME = {
    "united states of america": "usa", "united states": "usa", "u s a": "usa", "u s": "usa", "us": "usa",
    "united kingdom": "uk", "great britain": "uk", "u k": "uk",
}  # fmt: skip
_SAME_PHRASE = {"does not exist": "dne", "no solutions": "no solution", "no real solutions": "no real solution"}
_SAME = re.compile(r"\b(?:" + "|".join(sorted(_SAME_NAME, key=len, reverse=True)) + r")\b")
_SHORT_NAME = re.compile(r"\bus\b|\bu [sk]\b")
_POSSESSIVE = re.compile(r"(?<=\w)['’](?=s\b)")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3})")
_NEGATING = ("in", "im", "ir", "il", "un", "non", "non-", "dis")
_OPPOSITE = frozenset(map(frozenset, (("in", "de"), ("con", "di"), ("max", "min"))))
_YES = frozenset(("yes", "true", "right", "correct", "是", "对", "正确", "是的"))
_NO = frozenset(("no", "false", "wrong", "incorrect", "否", "错", "错误", "不是", "不对"))
YES_OR_NO = frozenset(("yes", "no", "true", "false"))
_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am)? (?:not sure|sorry|do not know|don't know|cannot|can't|could not|couldn't|unable|not able)"
    r"|unable to (?:find|answer|determine|see|view|process|analy[sz]e)"
    r"|please (?:provide|share|upload|attach)|no (?:definitive|reliable) information)|抱歉|无法(?:回答|确定|判断|查看)",
    re.IGNORECASE,
)
_AMOUNTS = names(
    "dozen half halves quarter quarters third thirds twice double triple once pair couple score none nothing single"
)
_DENIED = re.compile(
    r"\b(?:not|never|no|neither|nor|cannot|isn't|wasn't|aren't|weren't|isn t|wasn t|aren t|weren t|without"
    r"|rather than|instead of|except|unlike)\s+(?:\w+\s+){0,2}$"
)


@lru_cache(maxsize=32_768)
def plain_words(text: str) -> str:
    """`text` as lower-case words without articles, accents and punctuation; small numbers in digits."""
    if "\\" in text:
        text = _TEXT_COMMAND.sub(r" \1 ", text)
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = text.casefold()
    if "'" in text or "’" in text:
        text = _POSSESSIVE.sub("", text)
    if "," in text:
        text = _GROUPED.sub("", text)
    words = _WORD_RUN.findall(text)
    if "-" in text or "_" in text:
        words = _NOT_WORD.sub(" ", " ".join(words)).split()
    words = [_NUMBER_WORDS.get(w, w) for w in words]
    kept = [w for w in words if w not in _ARTICLES]
    joined = " ".join(kept or words)
    if len(joined) < 20 and joined in _SAME_PHRASE:
        return _SAME_PHRASE[joined]
    if "u" in joined and ("united" in joined or "britain" in joined or _SHORT_NAME.search(joined)):
        return _SAME.sub(lambda m: _SAME_NAME[m[0]], joined)
    return joined


def declines(text: str) -> bool:
    """Whether a response says that it gives no answer."""
    return bool(_REFUSAL.search(text))


@lru_cache(maxsize=8_192)
def is_words(gold: str) -> bool:
    """Whether a gold is words (which may hold numbers), without formulas in it: only then may words be compared."""
    return gold.replace(" ", "").isalnum() or not _FORMULA.search(_TEXT_COMMAND.sub(r" \1 ", gold))


def compare_text(
    golds: Sequence[str], answer: str, whole: str, question: str | None, policy: Policy, contained: bool = True
) -> Outcome:
    """Compare accepted golds in words with an answer.

    answer     the extracted answer; `whole` the visible response, where a gold may stand too
    contained  False asks for equality only
    """
    given = plain_words(answer)
    wanted = [(gold, plain_words(gold)) for gold in golds if is_words(gold)]
    wanted = [(gold, words) for gold, words in wanted if words and any(c.isalnum() for c in words)]
    if not wanted:
        return Outcome(None, "none", "the gold has no words", golds[0], given)
    for _, words in wanted:
        if words == given:
            if not any(c.isalpha() for g in golds for c in g):
                break  # numbers are not words: `4 3 -1` against `4, 3, -1`
            return Outcome(True, "text", "equal words", words, given)
    number = parse_number(normal(answer)) if answer == whole and all(_no_number(words) for _, words in wanted) else None
    if number and (number.value not in (0, 1) or not any(words in _YES | _NO for _, words in wanted)):
        return Outcome(False, "text", "a number where words are asked", wanted[0][1], given)
    polarity = _polarity([w for _, w in wanted], given)
    if polarity is not None:
        return Outcome(polarity, "text", "yes or no", wanted[0][1], given)
    if not contained or not policy.text_containment:
        return Outcome(None, "none", "words differ", wanted[0][1], given)
    return _contained(wanted, given, plain_words(whole[:8_192]), whole, question, policy)


def _no_number(words: str) -> bool:
    """Whether a gold in words names no amount."""
    return words.replace(" ", "").isalpha() and not number_in_words(words) and _AMOUNTS.isdisjoint(words.split())


def _polarity(wanted: Sequence[str], given: str) -> bool | None:
    """Yes and no against an answer that starts with one of them."""
    first = given.split(" ", 1)[0] if given else ""
    for words in wanted:
        for one, other in ((_YES, _NO), (_NO, _YES)):
            if words in one:
                if first in one and (first == given or first in ("yes", "no", "true", "false", "是", "否")):
                    return True
                if first in other:
                    return False
    return None


def _contained(
    wanted: Sequence[tuple[str, str]], given: str, full: str, whole: str, question: str | None, policy: Policy
) -> Outcome:
    asked = set(plain_words(question[-2_048:]).split()) if question else set()
    date = _dates([g for g, _ in wanted], whole)
    if date or (date is False and all(parse_date(g) for g, _ in wanted)):
        return Outcome(date, "text", "dates by their parts", wanted[0][1], given)
    refused = bool(_REFUSAL.search(whole))
    given_words, full_words = set(given.split()), full.split()
    size = len(full_words)
    repeated = False
    for _, words in wanted:
        parts = words.split()
        if words in _YES or words in _NO or (not any(c.isalpha() for c in words) and len(parts) > 1):
            continue  # neither a truth value nor a row of numbers is found by looking for it
        if all(p in asked for p in parts) and len(given.split()) > len(parts) + 2:
            repeated = True
            continue  # the question itself says these words
        if len(words) < 2 and not words.isdigit():
            continue  # one letter stands anywhere
        extra = given_words.difference(parts)
        if size <= 3 and extra and not all(w.isalpha() and len(w) <= LONGEST_WORD for w in extra):
            continue  # `Jia, 5` is not the answer `Jia`
        stands = stands_in(words, full)
        if stands and not refused:
            return Outcome(True, "text", "the gold stands in the answer", words, given)
        if len(wanted) == 1 and size <= SHORT_WORDS and (stands is False or _opposite(words, given)):
            return Outcome(False, "text", "the answer denies the gold", words, given)
        if (
            len(parts) > 1
            and size <= MIDDLE_WORDS
            and not any(c.isdigit() for c in words)
            and set(parts) <= set(full_words)
            and stands is None
            and all(stands_in(part, full) for part in parts)
            and not refused
        ):
            return Outcome(True, "text", "all words of the gold stand in the answer", words, given)
    gold_words = {w for _, words in wanted for w in words.split()} - asked
    answer_words = set(full_words) - asked
    if repeated or date is False or not gold_words or _related(gold_words, answer_words, full):
        return Outcome(None, "none", "some words agree", wanted[0][1], given)
    if refused:
        return Outcome(None, "none", "the response declines to answer", wanted[0][1], given, state="no_answer")
    names = all(_is_name(gold) for gold, _ in wanted)
    if size <= SHORT_WORDS or names:
        return Outcome(False, "text", "no word of the gold in any spelling", wanted[0][1], given)
    return Outcome(None, "none", "no word agrees, but a sentence may say it in others", wanted[0][1], given)


def stands_in(words: str, full: str) -> bool | None:
    """Whether the gold stands whole among the answer's words: None where it does not, False where it is denied."""
    padded, sought = f" {full} ", f" {words} "
    found = None
    at = padded.find(sought)
    while at >= 0:
        if not _DENIED.search(padded[max(0, at - 40) : at + 1]):
            return True
        found = False
        at = padded.find(sought, at + 1)
    return found


def _opposite(word: str, other: str) -> bool:
    """Whether one word is the other's denial by its prefix: rational and irrational, increasing and decreasing."""
    if " " in word + other or min(len(word), len(other)) < 4:
        return False
    longer, shorter = (word, other) if len(word) > len(other) else (other, word)
    if longer.endswith(shorter):
        return longer.removesuffix(shorter) in _NEGATING
    heads = [(word[:cut], other[:end]) for cut in (2, 3) for end in (2, 3) if word[cut:] == other[end:] and word[cut:]]
    return any(frozenset(pair) in _OPPOSITE for pair in heads)


def _dates(golds: Sequence[str], whole: str) -> bool | None:
    """Full dates on both sides: equal to one of them, or to none."""
    dates = [d for d in map(parse_date, golds) if d and d.day]
    if not dates or not any(c.isdigit() for c in whole):
        return None
    given = [d for d in find_dates(whole[:4_096]) if d.day and d.year]
    if not given or any(d.year is None for d in dates):
        return None
    if any(d in dates for d in given):
        return True
    return False if len(given) == 1 else None


def _related(gold: set[str], answer: set[str], full: str) -> bool:
    """Whether any word of one is a word, a stem or a close spelling of a word of the other."""
    if gold & answer:
        return True
    joined = full.replace(" ", "")
    long = [word for word in answer if len(word) >= 4]
    stems = {word[:4] for word in long}
    for word in gold:
        if len(word) >= 3 and word in joined and not word.isdigit():
            return True
        if len(word) >= 4 and (word[:4] in stems or any(_distance_within(word, other) for other in long)):
            return True
    return False


def _distance_within(a: str, b: str) -> bool:
    """Edit distance of at most a quarter of the longer word (bounded by 32 letters)."""
    a, b = a[:32], b[:32]
    limit = max(len(a), len(b)) // 4
    if abs(len(a) - len(b)) > limit or len(set(a).difference(b)) > limit or len(set(b).difference(a)) > limit:
        return False
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
        if min(row) > limit:
            return False
    return row[-1] <= limit


_SMALL = names("of and in de la the a an von van le el on at for")


def _is_name(gold: str) -> bool:
    """A proper name: every word capitalised, no digits, more than two letters, and not a yes or no."""
    words = [w for w in re.findall(r"[^\W\d_][\w'.-]*", gold) if w.lower() not in _SMALL]
    if not words or any(c.isdigit() for c in gold) or len("".join(words)) < 3:
        return False
    return all(w[0].isupper() for w in words) and words[0].lower() not in (_YES | _NO | {"none"})
