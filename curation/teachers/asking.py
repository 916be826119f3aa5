"""Asking: what a fan-out wants of every row, held against what the store has, put to a teacher until nothing is left.

Rows are gone over in passes. In each, a row's answers that are missing, or that a rule asks for again, become requests;
the teacher takes them as it has room, and what it says is stored. Passes end when nothing is left to ask. All decisions
come from the store (curation/teachers/policy.py), so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from curation import prompts
from curation.answers.policy import Policy
from curation.teachers import policy as rules
from curation.teachers.base import Answer, Message, Prompt, Request, Sampling, Teacher, Want
from curation.teachers.formats import Format, problem_of, shape_of
from curation.teachers.judging import Gold, Judge, judged
from curation.teachers.meter import Meter
from curation.teachers.policy import Retry, Try, next_try, prefix, state_of
from curation.teachers.snapshot import FINISHED, TRUNCATED, WHOLE, Snapshot
from curation.teachers.store import TraceStore

BLOCK = 1024
"""Rows that are rendered at a time."""


@dataclass(frozen=True)
class Wish:
    """What a fan-out wants of every row."""

    sampling: Sampling
    most: int
    """Answers of a row at most."""
    template: str = prompts.PROMPT
    system: str | None = None
    form: Format = "any"
    retry: Retry = field(default_factory=Retry)
    correct: int | None = None
    """Enough where so many answers are right."""
    all_wrong: int | None = None
    """Hopeless where the first so many are all wrong."""
    policy: Policy = field(default_factory=Policy)

    @property
    def adaptive(self) -> bool:
        return self.correct is not None or self.all_wrong is not None

    @property
    def limits(self) -> list[int]:
        """Limits of tokens that answers may be asked under, rising."""
        first = self.sampling.max_tokens
        return [first, *(self.retry.truncated.limits(first) if self.retry.truncated else ())]

    def prompts(self, rows: pa.Table, *, model: str, revision: str) -> list[Prompt]:
        """The prompt of each row."""
        texts = prompts.render(rows, self.template).to_pylist()
        system = [Message("system", self.system)] if self.system is not None else []
        return [
            Prompt(
                (*system, Message("user", text)),
                images or (),
                model=model,
                revision=revision,
                sampling=self.sampling,
            )
            for text, images in zip(texts, rows["images"].to_pylist(), strict=True)
        ]

    def next_of(self, snapshot: Snapshot, start: int, stop: int) -> rules.Next | None:
        """The next try of the answer whose records are snapshot[start:stop]."""
        tries = [
            Try(
                int(snapshot.attempt[i]),
                int(snapshot.state[i]),
                int(snapshot.max_tokens[i]),
                snapshot.state[i] == FINISHED and problem_of(int(snapshot.shape[i]), self.form) is not None,
                bool(snapshot.logprobs[i]),
            )
            for i in range(start, stop)
        ]
        return next_try(tries, self.limits, self.retry, logprobs=self.sampling.logprobs)


@dataclass
class _Open:
    """A row with answers that are under way."""

    ordinal: int
    gold: Gold
    prompt_counted: bool = False


class _Pass:
    """One pass over all rows: the requests that are left, made as the teacher takes them."""

    def __init__(self, gathering: Gathering, first: bool):
        self._to, self._first = gathering, first
        self._snapshot = Snapshot(gathering.store)
        self._ranks = self._snapshot.ranks(gathering.wish.form)
        self._met: set[bytes] = set()
        self.open: dict[str, tuple[_Open, int]] = {}
        """Key of an answer under way -> its row and k."""

    def requests(self) -> Iterator[Request]:
        to = self._to
        ordinal = 0
        for batch in to.rows.batches():
            for at in range(0, len(batch), BLOCK):
                block = batch.slice(at, BLOCK)
                yield from self._of_block(block, ordinal)
                ordinal += len(block)
                if self._first:
                    to.meter.rows += len(block)
                    to.meter.tick()

    def _of_block(self, block: pa.Table, ordinal: int) -> Iterator[Request]:
        to, wish = self._to, self._to.wish
        made = wish.prompts(block, model=to.teacher.model, revision=to.teacher.revision)
        golds: list[Gold] = list(zip(*(block[c].to_pylist() for c in ("answer", "choices", "question")), strict=True))
        keys = [prompt.key(k) for prompt in made for k in range(wish.most)]
        start, stop = self._snapshot.find(keys)
        best = self._snapshot.best(start, stop, self._ranks)
        if wish.adaptive:
            self._judge_stored(golds, start, stop, best, ordinal)
        settled = (best >= 0) & (self._ranks[best] == WHOLE) if len(self._ranks) else np.zeros(len(best), bool)
        if wish.sampling.logprobs:
            settled &= self._snapshot.logprobs[best]
        reused = int(settled.sum())
        for i, prompt in enumerate(made):
            until = wish.most
            if wish.adaptive:
                used, until = prefix(to.states[ordinal + i].tolist(), wish.most, wish.correct, wish.all_wrong)
                if used == until:
                    until = 0
            wants = []
            for k in range(until):
                at = i * wish.most + k
                if settled[at]:
                    continue
                following = (
                    wish.next_of(self._snapshot, int(start[at]), int(stop[at]))
                    if stop[at] > start[at]
                    else rules.Next(0, wish.limits[0], 0)
                )
                if following is None:
                    reused += 1
                elif to.tries_left(keys[at]):
                    wants.append((k, keys[at], following))
            if not wants or prompt.digest in self._met:  # the same question in another row is asked once
                continue
            self._met.add(prompt.digest)
            row = _Open(ordinal + i, golds[i])
            for group in _grouped(wants):
                k, _, following = group[0]
                asked = tuple(Want(key, number, then.attempt) for number, key, then in group)
                for want in asked:
                    self.open[want.key] = (row, want.k)
                to.meter.requests += 1
                yield Request(
                    prompt.messages, prompt.images, asked, prompt.seed(k, following.draw), following.max_tokens
                )
        if self._first:
            to.meter.reused += reused

    def _judge_stored(
        self, golds: Sequence[Gold], start: np.ndarray, stop: np.ndarray, best: np.ndarray, ordinal: int
    ) -> None:
        """Verdicts of answers that are in the store and settled, of which none is known yet."""
        to, wish = self._to, self._to.wish
        unknown = (to.states[ordinal : ordinal + len(golds)] == rules.UNKNOWN).reshape(-1)
        where = [
            int(at)
            for at in np.flatnonzero((best >= 0) & unknown)
            if wish.next_of(self._snapshot, int(start[at]), int(stop[at])) is None
            or not to.tries_left_at(self._snapshot, int(start[at]))
        ]
        said = [at for at in where if self._snapshot.state[best[at]] in (FINISHED, TRUNCATED)]
        for at in where:
            to.states[ordinal + at // wish.most, at % wish.most] = rules.OPEN
        texts = self._snapshot.texts(best[np.asarray(said, np.int64)], ["text"])["text"].to_pylist()
        cut = [bool(self._snapshot.state[best[at]] == TRUNCATED) for at in said]
        states = judged([golds[at // wish.most] for at in said], texts, cut, wish.policy)
        for at, state in zip(said, states, strict=True):
            to.states[ordinal + at // wish.most, at % wish.most] = state_of(state)


def _grouped(wants: Sequence[tuple[int, str, rules.Next]]) -> Iterator[list[tuple[int, str, rules.Next]]]:
    """Runs of consecutive k that are asked in the same way."""
    run: list[tuple[int, str, rules.Next]] = []
    for want in wants:
        if run and (want[0] != run[-1][0] + 1 or want[2].max_tokens != run[-1][2].max_tokens or want[2].draw != run[-1][2].draw):  # fmt: skip
            yield run
            run = []
        run.append(want)
    if run:
        yield run


class Gathering:
    """A fan-out under way. `run` asks until nothing is left and returns notes for the manifest."""

    def __init__(self, wish: Wish, teacher: Teacher, rows: Any, store: TraceStore, meter: Meter):
        self.wish, self.teacher, self.rows, self.store, self.meter = wish, teacher, rows, store, meter
        self.states = np.zeros((rows.count, wish.most) if wish.adaptive else (0, 0), np.uint8)
        """uint8[rows, most]: what is known of each answer (curation.teachers.policy)."""
        self._failed: Counter[str] = Counter()

    def tries_left(self, key: str) -> bool:
        """Whether an answer that failed in this run may be asked for once more."""
        return self._failed[key] <= self.wish.retry.failed if self._failed else True

    def tries_left_at(self, snapshot: Snapshot, position: int) -> bool:
        return self.tries_left(f"{int(snapshot.high[position]):016x}{int(snapshot.low[position]):016x}")

    def run(self) -> Mapping[str, Any]:
        wish = self.wish
        first = True
        with Judge(wish.policy, self._heard, needed=wish.adaptive) as judge:
            while True:
                going = _Pass(self, first)
                asked = again = 0
                for answer in self.teacher.ask(going.requests(), wish.sampling):
                    self.store.append(answer, teacher=self.teacher.name, model=self.teacher.model)
                    asked += 1
                    again += self._follow(answer, going, judge)
                self.store.flush()
                first = False
                judge.drain()
                if wish.adaptive:
                    again += asked
                if not again:
                    break
        self.meter.tick(last=True)
        return self.meter.notes()

    def _follow(self, answer: Answer, going: _Pass, judge: Judge) -> bool:
        """Hand an answer to the judge; whether another pass may ask for it again."""
        row, k = going.open.pop(answer.key)
        self.meter.answered(answer, new_prompt=not row.prompt_counted)
        row.prompt_counted = True
        if answer.finish == "failed":
            self._failed[answer.key] += 1
            return True
        malformed = answer.finish == "finished" and self.wish.form != "any" and (
            problem_of(shape_of(answer.text, answer.reasoning), self.wish.form) is not None
        )  # fmt: skip
        again = (
            self.wish.retry.malformed > 0
            if malformed
            else answer.finish == "truncated" and answer.max_tokens < self.wish.limits[-1]
        )
        if not again or not self.wish.adaptive:
            judge.offer((row.ordinal, k, answer.key), row.gold, answer.text, answer.finish == "truncated")
        return again

    def _heard(self, tag: tuple[int, int, str], state: str) -> None:
        """From the judge's thread."""
        self.meter.verdict(state)
        if self.wish.adaptive:
            self.states[tag[0], tag[1]] = state_of(state)
