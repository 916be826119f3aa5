"""The verdict on a multiple-choice question: letters first, then content, then the sentence around it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from curation.answers.choices import (
    LETTERS,
    Option,
    by_content,
    content_behind,
    labelled_gold,
    letters_in_prose,
    letters_of,
    letters_of_gold,
)
from curation.answers.compare import compare
from curation.answers.extract import Extraction, announced, extract_tail
from curation.answers.outcome import Outcome
from curation.answers.policy import Policy
from curation.answers.text import MIDDLE_WORDS, compare_text, declines, is_words, plain_words, stands_in

_LABEL_A = re.compile(r"(?:^|\n)[ \t]*A[ \t]*[:.][ \t]*\Z")


def compare_choice(
    golds: Sequence[str], response: str, found: Extraction, options: Sequence[Option], policy: Policy
) -> Outcome:
    """Compare the options that the response names with the gold's."""
    available = "".join(o.letter for o in options)
    letters = [g for g in map(letters_of_gold, golds) if g]
    if not available or any(c not in available for g in letters for c in g):
        # No options, or labels in the question's prose that are not its options: any letter may be named.
        options, available = (), LETTERS

    def same(option: str, answer: str) -> bool | None:
        outcome = compare(option, answer, policy)
        return (
            outcome.equal
            if outcome.equal is not None
            else compare_text([option], answer, answer, None, policy, contained=False).equal
        )

    wanted = [_gold_letters(g, options, same) for g in golds]
    named, how = _named(response, found, options, available, same)
    if named is None:
        for gold in golds:
            if letters_of_gold(gold) is None and same(gold, found.text):
                return Outcome(True, "choice", "the answer is the gold's content", gold, found.text)
        if found.rule == "none" or (found.rule == "bare" and declines(found.text)):
            return Outcome(None, "none", "no answer found in the response", state="no_answer")
        decided = (
            not how
            and not letters_of(found.text, available)
            and found.declared
            and len(options) > 1
            and all(o.text and o.text != o.letter for o in options)
        )
        reason = how or "the answer names no letter and meets no option"
        return Outcome(False if decided else None, "choice" if decided else "none", reason, golds[0], found.text)
    known = [w for w in wanted if w]
    if not known:
        return Outcome(None, "choice", "the gold is none of the options", golds[0], named, state="unparsable_gold")
    return Outcome(named in known, "choice", how, known[0], named)


def _in_words(text: str, options: Sequence[Option]) -> str:
    """The options in words that stand whole in a short answer and are not denied there."""
    full = plain_words(text)
    if len(full.split()) > MIDDLE_WORDS:
        return ""
    standing = {}
    for option in options:
        words = plain_words(option.text)
        if len(words) > 2 and any(map(str.isalpha, words)) and is_words(option.text) and stands_in(words, full):
            standing[option.letter] = words
    return "".join(
        letter
        for letter, words in standing.items()
        if not any(words != other and f" {words} " in f" {other} " for other in standing.values())
    )


def _gold_letters(gold: str, options: Sequence[Option], same) -> str | None:  # type: ignore[no-untyped-def]
    letters = letters_of_gold(gold)
    if letters and (not options or all(c in {o.letter for o in options} for c in letters)):
        return letters
    return by_content(gold, options, same) or labelled_gold(gold)


def _named(response: str, found: Extraction, options: Sequence[Option], available: str, same) -> tuple[str | None, str]:  # type: ignore[no-untyped-def]
    """The letters that the response names and how they were found."""
    letters = letters_of(found.text, available)
    labelled = found.rule == "marker" and bool(_LABEL_A.search(response, max(0, found.start - 16), found.start))
    if labelled and found.text.islower():
        letters = None  # `A: b` names option A as much as it answers b
    if letters:
        if any(o.text == letters != o.letter for o in options):
            return None, "the letter is one option's label and another one's content"
        behind = content_behind(found.text) if len(letters) == 1 and options else ""
        if behind and (other := by_content(behind, options, same)) not in (None, letters):
            return None, f"the letter names option {letters}, what stands behind it option {other}"
        return letters, "letters in a letter's place"
    letter = by_content(found.text, options, same)
    if not letter and (behind := content_behind(found.text)):
        letter = by_content(behind, options, same)  # `A: 54`, where A may say "answer" as well
    if letter:
        return letter, f"the content of option {letter}"
    if labelled and len(found.text) > 1 and found.text[0].isalpha() and "A" in available:
        return "A", "the label before a sentence"
    named = _in_words(found.text, options)
    if len(named) == 1:
        return named, f"option {named} stands in the answer"
    if named:
        return None, "the answer holds several options"
    for text, how in (
        (found.text, "a letter in the declared sentence"),
        (extract_tail(response), "a letter in the last sentence"),
        (announced(response) if found.rule in ("box", "boxes") else "", "a letter that was announced before the box"),
    ):
        letters = letters_in_prose(text, available)
        if letters:
            return letters, how
        if (how.endswith("box") or not found.declared) and (letters := letters_of(text, available)):
            return letters, how
    return None, ""
