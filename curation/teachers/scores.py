"""What models thought of answers: log-probabilities that were measured once, as a record in the workspace.

A score is keyed by the model, the rendered prompt with its pictures, and the answer. It is on disk before it counts, so
nothing is scored twice: not by a build that was killed, nor by one whose cached stages were thrown away.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from curation.answers.cache import VerdictCache
from curation.teachers.base import REJECTED, Message, Request, Sampling, Teacher, Want

RECORD = "scores.sqlite"
"""In the workspace."""
TOGETHER = 256
"""Scores that are made durable at once, or as many as come in SECONDS."""
SECONDS = 2.0


class Score(NamedTuple):
    """Of one answer. `logprob` is the sum over its `tokens`, in natural logarithms; None where the model refuses it
    (too long, a picture that nobody can read), and `why` says so."""

    logprob: float | None
    tokens: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer to score, behind its prompt."""

    messages: tuple[Message, ...]
    images: tuple[str, ...]
    text: str

    def key(self, model: str, revision: str) -> bytes:
        said = [[m.role, m.content] for m in self.messages]
        return VerdictCache.key("score", model, revision, json.dumps([said, list(self.images)]), self.text)


class Scores:
    """The record. Threads may share it; so may processes."""

    def __init__(self, workspace: Path):
        self._record = VerdictCache(workspace / RECORD, durable=True)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Score]:
        """Those that are there."""
        return {key: Score(*value) for key, value in self._record.get_many(keys).items()}

    def measure(
        self, teacher: Teacher, wanted: Iterable[Given], heard: Callable[[int], None] = lambda count: None
    ) -> tuple[int, int]:
        """Have these scored; (how many were, how many could not be had this time). `heard` is told the first as it grows."""
        by_want: dict[str, bytes] = {}
        met: set[bytes] = set()

        def requests() -> Iterator[Request]:
            for given in wanted:
                key = given.key(teacher.model, teacher.revision)
                if key not in met:
                    met.add(key)
                    by_want[key.hex()] = key
                    yield Request(given.messages, given.images, (Want(key.hex(), 0),), 0, 1, given.text)

        waiting: dict[bytes, Score] = {}
        since, count, missed = time.monotonic(), 0, 0
        try:
            for answer in teacher.ask(requests(), Sampling.model_validate({"max_tokens": 1})):
                key = by_want.pop(answer.key)
                if answer.finish == "finished":
                    logprobs = answer.logprobs or ()
                    waiting[key] = Score(round(math.fsum(logprobs), 6), len(logprobs))
                elif answer.finish_reason.startswith(REJECTED):
                    waiting[key] = Score(None, 0, answer.finish_reason.removeprefix(REJECTED))
                else:
                    missed += 1
                count += answer.finish == "finished"
                if len(waiting) >= TOGETHER or time.monotonic() - since > SECONDS:
                    self._record.put_many(waiting)
                    waiting, since = {}, time.monotonic()
                heard(count)
        finally:  # what was answered before an outage is kept
            self._record.put_many(waiting)
        return count, missed


def perplexity(scores: Iterable[Score]) -> tuple[float | None, int]:
    """exp(-sum of log-probabilities / tokens) over all tokens of these answers together, to millionths; and the tokens.
    None where there are none. (Jelinek, Mercer, Bahl and Baker, "Perplexity: a measure of the difficulty of speech
    recognition tasks", Journal of the Acoustical Society of America 62, 1977.)"""
    told = [score for score in scores if score.logprob is not None and score.tokens]
    tokens = sum(score.tokens for score in told)
    if not tokens:
        return None, 0
    mean = -math.fsum(score.logprob for score in told if score.logprob is not None) / tokens
    return round(math.exp(min(mean, 700.0)), 6), tokens
