"""Answers in words: names, dates, short phrases.

Equality is of words: case, articles, punctuation and accents do not count.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|textrm|textnormal|mbox|operatorname|emph)\s*\{([^{}]*)\}")
_NOT_WORD = re.compile(r"[^\w%$€£+-]+|_")
_ARTICLES = frozenset(("a", "an", "the"))


@lru_cache(maxsize=32_768)
def plain_words(text: str) -> str:
    """`text` as lower-case words without articles, accents and punctuation."""
    if "\\" in text:
        text = _TEXT_COMMAND.sub(r" \1 ", text)
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words = _NOT_WORD.sub(" ", text.casefold()).split()
    kept = [w for w in words if w not in _ARTICLES]
    return " ".join(kept or words)


def compare_text(gold: str, answer: str, policy, contained: bool = True):  # type: ignore[no-untyped-def]
    from curation.answers.outcome import Outcome

    if any(c.isalpha() for c in gold) and plain_words(gold) == plain_words(answer):
        return Outcome(True, "text", "equal words", gold, answer)
    return Outcome(None, "none", "words differ", gold, answer)
