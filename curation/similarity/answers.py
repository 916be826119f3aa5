"""Whether the gold answers of two rows agree: the content of a letter, not the letter, and the one checker's word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from curation.answers import check
from curation.answers.choices import letters_of_gold, options_of
from curation.answers.policy import Policy

Agreement = Literal["equal", "compatible", "missing", "unclear", "incompatible"]
"""equal: the same text; compatible: the checker takes one for the other; missing: one of them has none; unclear: the
checker can't say; incompatible: it says that they differ."""

_POLICY = Policy(text_containment=False)
"""Of two golds neither may be a part of the other: dark blue is not blue."""

FEW_VALUES = frozenset(["true", "false", "yes", "no", "correct", "incorrect", "right", "wrong"])


@dataclass(frozen=True, slots=True)
class Answer:
    """A gold answer as it is compared."""

    text: str
    """Its content: for a letter, the option that it names. "" where there is no answer."""
    letter: bool = False
    """A bare letter whose option is not written anywhere."""
    option: bool = False
    """One of the row's options: two that are spelled differently are two."""

    @property
    def tells(self) -> bool:
        """Whether two questions hardly have this answer in common by chance: no option, truth value or digit."""
        bare = self.text.strip("$ ").casefold()
        return not (self.letter or self.option) and len(bare) > 1 and bare not in FEW_VALUES


def answer_of(gold: str | None, options: Sequence[str]) -> Answer:
    """The answer's content. `options` are the texts of the options, in the order of their letters."""
    text = " ".join((gold or "").split())
    letters = letters_of_gold(text) if text else None
    bare = text.strip("()[]. ")
    if letters is None or (bare.upper() if options else bare) != letters:
        return Answer(text, option=text.casefold() in {" ".join(o.split()).casefold() for o in options})
    if len(letters) == 1:
        found = options_of(tuple(options), None) if options else ()
        named = next((option.text for option in found if option.letter == letters and len(option.text) > 0), "")
        # Options that are nothing but their own letters stand for what is in the picture.
        if named and named.strip("()[]. ").upper() != letters:
            return Answer(" ".join(named.split()), option=True)
    return Answer(text, letter=True)


@lru_cache(maxsize=1 << 16)
def agreement(left: Answer, right: Answer) -> Agreement:
    """How two answers go together. Symmetric: either may be the one that is taken as right."""
    if not left.text or not right.text:
        return "missing"
    if left.text.casefold() == right.text.casefold():
        return "equal"
    if left.letter or right.letter:
        # Two letters of the same options differ; a letter beside a content that no option names says nothing.
        return "incompatible" if left.letter and right.letter else "unclear"
    states = {check(a.text, b.text, policy=_POLICY).state for a, b in ((left, right), (right, left))}
    if "correct" in states:
        return "compatible"
    return "incompatible" if states == {"incorrect"} or (left.option and right.option) else "unclear"


def agrees(found: Agreement) -> bool:
    return found in ("equal", "compatible", "missing")
