"""Verdicts while a teacher is still at work: in a process of its own, on a core that the teacher leaves free.

For the progress line verdicts may come late or not at all; where they decide what is asked next (`until`), none is left
out and `drain` waits for all. The verdicts of a version are those of the stage `verify`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from curation.answers import pool
from curation.answers.batch import check_slice
from curation.answers.policy import Policy

BATCH = 256
WAITING = 16
"""Batches that may wait before answers that nobody needs are let go unjudged."""

ASKED = pa.schema(
    [
        ("gold", pa.string()),
        ("response", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("question", pa.string()),
        ("truncated", pa.bool_()),
    ]
)
Gold = tuple[str | None, list[str] | None, str | None]
"""Gold answer, choices and question of a row."""


def judged(golds: list[Gold], texts: list[str | None], truncated: list[bool], policy: Policy) -> list[str]:
    """States of these answers, here and now."""
    return check_slice(_table(golds, texts, truncated), policy)["state"].to_pylist()


def _table(golds: list[Gold], texts: list[str | None], truncated: list[bool]) -> pa.Table:
    gold, choices, question = zip(*golds, strict=True) if golds else ((), (), ())
    return pa.table([list(gold), texts, list(choices), list(question), truncated], schema=ASKED)


class Judge:
    """Takes answers, and calls `heard(tag, state)` from its own thread with each verdict."""

    def __init__(self, policy: Policy, heard: Callable[[Any, str], None], *, needed: bool):
        self._policy, self._heard, self._needed = policy, heard, needed
        self._batch: list[tuple[Any, Gold, str | None, bool]] = []
        self._queue: queue.Queue[list[tuple[Any, Gold, str | None, bool]] | None] = queue.Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="judge")
        self._thread.start()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._needed:
            while not self._queue.empty():  # nobody waits for what is left
                self._queue.get_nowait()
                self._queue.task_done()
        self._queue.put(None)
        self._thread.join()

    def offer(self, tag: Any, gold: Gold, text: str | None, truncated: bool) -> None:
        """An answer to judge."""
        if not self._needed and self._queue.qsize() > WAITING:
            return
        self._batch.append((tag, gold, text, truncated))
        if len(self._batch) >= BATCH:
            self._queue.put(self._batch)
            self._batch = []

    def drain(self) -> None:
        """Wait for the verdicts of all that was taken. Where they are needed, raises what went wrong in the checker."""
        if self._batch:
            self._queue.put(self._batch)
            self._batch = []
        self._queue.join()
        if self._needed and self._error is not None:
            raise self._error

    def _work(self) -> None:
        code = f"from curation.answers.batch import serve; serve({asdict(self._policy)!r}, None)"
        while (batch := self._queue.get()) is not None:
            try:
                tags, golds, texts, cut = (list(column) for column in zip(*batch, strict=True))
                table = _table(golds, texts, cut)
                (found,) = pool.map_slices(code, [table], 1, lambda part: check_slice(part, self._policy))
                for tag, state in zip(tags, found["state"].to_pylist(), strict=True):
                    self._heard(tag, state)
            except BaseException as error:  # told by drain: this thread has nobody to raise it to
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()
