"""What an answer is worth: the checker's word, its form, its length, and functions of one's own.

    R = (1 - λ) · accuracy + λ · format + overlong + Σ weight · function

Only a judgement pays or costs anything: where the checker could not judge (an error, a time-out, a question that the
rules leave open, a gold answer that cannot be read), the reward is missing, and the answer leaves the loss. Everything
that could hang runs in processes that are killed at their deadline; no signal and no thread is relied on.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.answers import Judge, check_many, pool
from schemas.errors import WinnowError
from schemas.training import Overlong, Reward, RewardFunction

MASKED = ("checker_error", "checker_timeout", "undecided", "unparsable_gold")
"""States that are no judgement of the answer."""

_LAYOUT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")
_BOX = re.compile(r"\\boxed\s*\{\s*[^\s{}]")


@dataclass(frozen=True)
class Scored:
    """One answer's reward by part. `reward` is None where it cannot be told; `problem` then says why."""

    state: str
    accuracy: float | None
    format: float
    overlong: float
    functions: dict[str, float | None]
    reward: float | None
    problem: str = ""


@dataclass(frozen=True)
class Answered:
    """What a reward is given for."""

    response: str
    tokens: int
    finished: bool
    gold: str
    choices: list[str] | None = None
    question: str | None = None
    row_id: str = ""
    source: str = ""


def format_score(text: str, how: str) -> float:
    """1 where the answer has its form, else 0. Empty thoughts, empty answers and repeated tags have not."""
    if how == "none":
        return 0.0
    if how == "boxed":
        return float(len(_BOX.findall(text)) == 1)
    match = _LAYOUT.fullmatch(text)
    if match is None or len(_TAG.findall(text)) != 4:
        return 0.0
    return float(all(any(c.isalnum() for c in part) for part in match.groups()))


def overlong_punishment(tokens: int, config: Overlong | None, longest: int) -> float:
    """DAPO (arXiv 2503.14476, eq. 13): 0, then linear over the buffer, -factor from the limit on."""
    if config is None:
        return 0.0
    limit = config.limit or longest
    return -config.factor * min(1.0, max(0.0, (tokens - (limit - config.buffer)) / config.buffer))


class Rewarder:
    """Rewards of many answers, with the processes that give them. `close` ends those."""

    def __init__(self, config: Reward, *, longest: int, truncated: str = "mask"):
        self._config, self._longest, self._truncated = config, longest, truncated
        self._workers = config.workers or os.cpu_count() or 1
        self._functions = [Function(one, min(self._workers, 8)) for one in config.functions]
        judge = config.judge
        self._judge: Judge | None = None
        if judge is not None:
            self._judge = Judge(judge.base_url, judge.model, judge.api_key_env, timeout_s=judge.timeout_s)

    def __call__(self, answers: Sequence[Answered]) -> list[Scored]:
        """The reward of each, in order."""
        if not answers:
            return []
        table = pa.table(
            {
                "gold": [a.gold for a in answers],
                "response": [a.response for a in answers],
                "choices": pa.array([a.choices for a in answers], pa.list_(pa.string())),
                "question": pa.array([a.question for a in answers], pa.string()),
                "truncated": [not a.finished for a in answers],
            }
        )
        states = check_many(table, workers=self._workers, judge=self._judge)["state"].to_pylist()
        own = [
            function([_row(a, state) for a, state in zip(answers, states, strict=True)]) for function in self._functions
        ]
        return [self._scored(a, states[n], [values[n] for values in own]) for n, a in enumerate(answers)]

    def _scored(self, answer: Answered, state: str, values: Sequence[tuple[float | None, str]]) -> Scored:
        config = self._config
        form = format_score(answer.response, config.format)
        late = overlong_punishment(answer.tokens, config.overlong, self._longest)
        named = {one.path: value for one, (value, _) in zip(config.functions, values, strict=True)}
        masked = state in MASKED or (state == "truncated" and self._truncated == "mask")
        problem = state if masked else next((why for _, why in values if why), "")
        accuracy = None if state in MASKED else float(state == "correct")
        if problem or accuracy is None:
            return Scored(state, accuracy, form, late, named, None, problem)
        share = 1.0 if config.budget is None else min(1.0, config.budget / max(answer.tokens, 1))
        weight = config.format_weight if config.format != "none" else 0.0
        reward = (1 - weight) * accuracy * share + weight * form + late
        reward += sum(one.weight * (named[one.path] or 0.0) for one in config.functions)
        return Scored(state, accuracy, form, late, named, reward)

    def close(self) -> None:
        for function in self._functions:
            function.close()


def _row(answer: Answered, state: str) -> dict[str, Any]:
    return {
        "response": answer.response, "gold": answer.gold, "question": answer.question, "row_id": answer.row_id,
        "source": answer.source, "tokens": answer.tokens, "state": state,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- functions of one's own


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    row: int | None = None
    until: float = 0.0


@dataclass
class Function:
    """A user's function in worker processes: one row at a time, killed at its deadline, and begun anew."""

    config: RewardFunction
    workers: int
    _idle: list[_Worker] = field(default_factory=list)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[tuple[float | None, str]]:
        """(value, "") of each row; (None, why) where there is none."""
        found: dict[int, tuple[float | None, str]] = {}
        todo, busy = iter(range(len(rows))), list[_Worker]()
        waiting = next(todo, None)
        while waiting is not None or busy:
            while waiting is not None and len(busy) < self.workers:
                worker = self._idle.pop() if self._idle else self._start()
                assert worker.process.stdin is not None
                pool.send(worker.process.stdin, json.dumps(rows[waiting]).encode())  # type: ignore[arg-type]
                worker.row, worker.until = waiting, time.monotonic() + self.config.seconds
                busy.append(worker)
                waiting = next(todo, None)
            left = max(0.0, min(worker.until for worker in busy) - time.monotonic())
            ready = set(select.select([w.process.stdout for w in busy if w.process.stdout], [], [], left)[0])
            for worker in list(busy):
                assert worker.row is not None and worker.process.stdout is not None
                if worker.process.stdout in ready:
                    said = pool.receive(worker.process.stdout)  # type: ignore[arg-type]
                    if said is None:
                        found[worker.row] = (None, f"{self.config.path}: its process died")
                    else:
                        value, why = json.loads(said)
                        found[worker.row] = (value, f"{self.config.path}: {why}" if why else "")
                        self._idle.append(worker)
                elif time.monotonic() >= worker.until:
                    found[worker.row] = (None, f"{self.config.path}: longer than {self.config.seconds:g} s")
                    said = None
                else:
                    continue
                busy.remove(worker)
                if said is None:
                    worker.process.kill()
                    worker.process.wait()
        return [found[n] for n in range(len(rows))]

    def _start(self) -> _Worker:
        """A worker that has imported the function; its import is not on any row's clock. Raises WinnowError."""
        code = f"from training.rewards import serve; serve({self.config.path!r})"
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p or str(Path.cwd()) for p in sys.path))
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        said = pool.receive(process.stdout)  # type: ignore[arg-type]
        problem = "its process died" if said is None else json.loads(said)
        if problem:
            process.kill()
            process.wait()
            raise WinnowError(f"The reward function {self.config.path} cannot be used: {problem}")
        return _Worker(process)

    def close(self) -> None:
        for worker in self._idle:
            worker.process.kill()
            worker.process.wait()
        self._idle.clear()


def serve(path: str) -> None:
    """A worker's loop: rows in, [value, problem] out."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not break the stream
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        pool.send(sink, json.dumps(str(error)).encode())
        return
    pool.send(sink, json.dumps("").encode())
    while (payload := pool.receive(source)) is not None:
        pool.send(sink, json.dumps(_called(function, json.loads(payload))).encode())


def _called(function: Any, row: dict[str, Any]) -> tuple[float | None, str]:
    try:
        value = function(row)
        if value is None:
            return None, "no value"
        number = float(value)
    except Exception as error:  # whatever a user's function raises is told with the answer it was raised for
        return None, f"{type(error).__name__}: {error}"
    return (number, "") if number == number and abs(number) != float("inf") else (None, f"{number} is no reward")
