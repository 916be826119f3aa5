"""What is asked next: of one answer, by what became of its tries; and of one row, by the verdicts of its answers.

Both look at what the store has and at nothing else, so a run that was killed decides as an undisturbed one would, and
the order in which answers came decides nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, field_validator

from curation.teachers.snapshot import FAILED, FINISHED, REFUSED, TRUNCATED
from schemas.recipe import Model

_TIMES = re.compile(r"x(\d+(?:\.\d+)?)")
LONGEST = 1 << 20
"""Tokens that a limit is never raised beyond."""


class Truncated(Model):
    """Ask again for what was cut, under a larger limit."""

    max_tokens: int | str = Field(
        default="x2", description="The larger limit: a number, or x2 for twice the one before."
    )
    times: int = Field(default=1, ge=1, description="How often the limit is raised; a number raises it once.")

    @field_validator("max_tokens")
    @classmethod
    def _limit(cls, value: int | str) -> int | str:
        found = _TIMES.fullmatch(value) if isinstance(value, str) else None
        if isinstance(value, str) and (found is None or float(found[1]) <= 1):
            raise ValueError("write a number of tokens, or x2 for twice the limit before")
        return value

    def limits(self, first: int) -> list[int]:
        """The limits after `first`, each larger than the one before."""
        if not isinstance(self.max_tokens, str):
            return [self.max_tokens] if self.max_tokens > first else []
        found = _TIMES.fullmatch(self.max_tokens)
        assert found is not None
        limits = [first]
        for _ in range(self.times):
            limits.append(min(LONGEST, int(limits[-1] * float(found[1]))))
        return [limit for before, limit in itertools.pairwise(limits) if limit > before]


class Retry(Model):
    """Which answers are asked for again, and how often. An answer that is there is asked for again by no other rule."""

    truncated: Truncated | None = Field(
        default=None, description="{max_tokens: x2, times: 1}; not asked again by default."
    )
    malformed: int = Field(
        default=0, ge=0, description="How many further draws where a finished answer does not have the `format`."
    )
    failed: int = Field(
        default=1,
        ge=0,
        description="How often in one build what failed is asked for again (a timeout, a server's error).",
    )
    rejected: bool = Field(
        default=False, description="Whether what a server refused (too long, a bad picture) is asked again."
    )


class Until(Model):
    """Ask row by row until there is enough."""

    correct: int = Field(ge=1, description="Stop where so many answers of a row are correct.")
    max: int = Field(ge=1, description="Ask for no more answers of a row than this.")


@dataclass(frozen=True, slots=True)
class Try:
    """A stored try of one answer."""

    attempt: int
    state: int
    max_tokens: int
    malformed: bool = False
    has_logprobs: bool = True


@dataclass(frozen=True, slots=True)
class Next:
    """The try to make now."""

    attempt: int
    max_tokens: int
    draw: int


def next_try(tries: Sequence[Try], limits: Sequence[int], retry: Retry, *, logprobs: bool = False) -> Next | None:
    """The next try of an answer whose tries (by attempt) are these, or None where it stays as it is.

    limits  the limits of tokens that it may be asked under, rising
    """
    if not tries:
        return Next(0, limits[0], 0)
    attempt = tries[-1].attempt + 1
    finished = [i for i, one in enumerate(tries) if one.state == FINISHED]
    whole = [tries[i] for i in finished if not tries[i].malformed]
    if whole:
        if logprobs and not any(one.has_logprobs for one in whole):
            return Next(attempt, limits[-1], len(finished) - 1)
        return None
    if len(finished) > retry.malformed:
        return None
    # Since the last finished one: the tries of the draw that is under way.
    current = tries[finished[-1] + 1 :] if finished else tries
    if current and (
        (current[-1].state == REFUSED and not retry.rejected) or (current[-1].state == FAILED and not retry.failed)
    ):
        return None
    cut = max((one.max_tokens for one in current if one.state == TRUNCATED), default=0)
    limit = next((limit for limit in limits if limit > cut), None)
    return None if limit is None else Next(attempt, limit, len(finished))


UNKNOWN, CORRECT, WRONG, OPEN = 0, 1, 2, 3
"""What is known of an answer: nothing yet; right; wrong (incorrect, no answer, truncated); neither (failed, undecided)."""


def state_of(verdict: str | None) -> int:
    """The state of an answer with this verdict; None for one that failed."""
    if verdict == "correct":
        return CORRECT
    return WRONG if verdict in ("incorrect", "no_answer", "truncated") else OPEN


def prefix(states: Sequence[int], most: int, correct: int | None, all_wrong: int | None) -> tuple[int, int]:
    """(how many answers of a row are used, up to which k it needs answers).

    states     of the answers k = 0, 1, …; what comes after the first UNKNOWN is not looked at
    most       answers at most
    correct    enough where so many are right
    all_wrong  hopeless where the first so many are all wrong
    The two numbers are equal where the row needs no more.
    """
    right = wrong = 0
    for k, state in enumerate(states[:most]):
        if state == UNKNOWN:
            break
        right += state == CORRECT
        wrong += state == WRONG
        if (correct is not None and right >= correct) or (all_wrong is not None and wrong == k + 1 >= all_wrong):
            return k + 1, k + 1
    else:
        k = min(len(states), most)
        if k == most:
            return most, most
    # Never more than could be needed: `correct` short of so many, and none past the point where hope may end.
    needed = most if correct is None else min(most, k + correct - right)
    if all_wrong is not None and wrong == k < all_wrong:
        needed = min(needed, all_wrong)
    return k, max(needed, k + 1)
