"""How many requests a server may be given at once, found out while it works.

A limit begins low, grows while growing brings more answers, and is halved where the server says that it is too much
(429, 503) or stops answering. Growth is judged by throughput, not by latency alone: a batching server takes longer for
each answer under more load, and still gives more of them, until its batch is full; from then on only the queue grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 8
GROW, KEEP_RATIO = 1.5, 1.05
"""Factor of growth while it pays; throughput must rise by KEEP_RATIO for that."""
SLOWER = 2.0
"""Latency per token so many times the best, without a gain of throughput, means that requests wait in a queue."""
PROBE_EPOCHS = 20
"""After so many epochs at one limit a larger one is tried again: servers get faster too."""


class Limit:
    """Requests that may be in flight. Call `done` for each answer and `overloaded` for each refusal.

    An epoch is as many answers as the limit, and at least EPOCH_SECONDS.
    """

    EPOCH_SECONDS = 0.5

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        self._most, self._clock = most, clock
        self._value = float(min(FIRST, most))
        self._before: tuple[float, float] | None = None  # limit and throughput of the last epoch at a smaller limit
        self._best = float("inf")
        self._settled = 0
        self._refused_at = float("-inf")
        self._begin()

    @property
    def value(self) -> int:
        return max(1, int(self._value))

    def done(self, seconds: float, tokens: int, *, full: bool) -> None:
        """An answer came after so many seconds. `full`: as many requests as allowed were in flight."""
        self._answers += 1
        self._work += max(tokens, 1)
        self._latency += seconds / max(tokens, 1)
        self._full |= full
        now = self._clock()
        if self._answers >= self.value and now - self._began >= self.EPOCH_SECONDS:
            self._end_epoch(now)

    def overloaded(self) -> None:
        """The server refused, or broke off. Refusals of one burst count once."""
        now = self._clock()
        if now - self._refused_at >= 1.0:
            self._value = max(1.0, self._value / 2)
            self._refused_at = now
            self._before, self._settled = None, 0
        self._begin()

    def _begin(self) -> None:
        self._began, self._answers, self._work, self._latency, self._full = self._clock(), 0, 0, 0.0, False

    def _end_epoch(self, now: float) -> None:
        rate, latency, full = self._work / (now - self._began), self._latency / self._answers, self._full
        self._best = min(self._best, latency)
        self._begin()
        if not full:  # nobody wanted more
            return
        before, self._before = self._before, (self._value, rate)
        if before is None or rate >= before[1] * KEEP_RATIO:
            self._settled = 0
            self._grow(now)
        elif latency > SLOWER * self._best and before[0] < self._value:
            self._value = before[0]
            self._settled = 1
        else:
            self._settled += 1
            if self._settled >= PROBE_EPOCHS:
                self._settled, self._best = 0, latency
                self._grow(now)

    def _grow(self, now: float) -> None:
        # Slowly where it was too much not long ago.
        step = self._value + 1 if now - self._refused_at < 60 else self._value * GROW
        self._value = min(float(self._most), step)
