"""How many requests a server may be given at once, found out while it works.

A limit begins low, and grows as long as growing brings more answers per second; growth that does not is taken back, and
tried again now and then. It is halved where the server says that it is too much (429, 503) or lets a request time out.
Throughput decides, not latency alone: a batching server takes longer for each answer under more load and still gives
more of them, until its batch is full; from then on only the queue grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 8
GROW = 1.5
PAYS = 1.05
"""Growth pays where throughput rises by this factor."""
PROBE_EPOCHS = 15
"""So many epochs at one limit before a larger one is tried again: servers get faster too."""
CAREFUL_SECONDS = 60
"""So long after a refusal the limit grows by one, not by GROW."""


class Limit:
    """Requests that may be in flight. Call `done` for each answer and `overloaded` for each refusal.

    An epoch is as many answers as the limit, and at least EPOCH_SECONDS.
    """

    EPOCH_SECONDS = 0.5

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        self._most, self._clock = most, clock
        self._value = float(min(FIRST, most))
        self._from: tuple[float, float] | None = None
        """Limit and throughput before the growth that is being tried."""
        self._settled = PROBE_EPOCHS
        self._refused_at = float("-inf")
        self._begin()

    @property
    def value(self) -> int:
        return max(1, int(self._value))

    def done(self, tokens: int, *, full: bool) -> None:
        """An answer came. `full`: as many requests as allowed were in flight."""
        self._answers += 1
        self._work += max(tokens, 1)
        self._full |= full
        now = self._clock()
        if self._answers >= self.value and now - self._began >= self.EPOCH_SECONDS:
            rate, full = self._work / (now - self._began), self._full
            self._begin()
            if full:  # else nobody wanted more
                self._judge(rate, now)

    def overloaded(self) -> None:
        """The server refused, or did not answer in time. Refusals of one burst count once."""
        now = self._clock()
        if now - self._refused_at >= 1.0:
            self._value = max(1.0, self._value / 2)
            self._refused_at, self._from, self._settled = now, None, 0
        self._begin()

    def _begin(self) -> None:
        self._began, self._answers, self._work, self._full = self._clock(), 0, 0, False

    def _judge(self, rate: float, now: float) -> None:
        """Grow, or take growth back, after an epoch with this throughput."""
        careful = now - self._refused_at < CAREFUL_SECONDS
        if self._from is not None and rate < self._from[1] * PAYS and not careful:
            self._value, self._from, self._settled = self._from[0], None, 0
            return
        self._settled += 1
        if self._from is None and self._settled < PROBE_EPOCHS and not careful:
            return
        self._from = (self._value, rate)
        self._value = min(float(self._most), self._value + 1 if careful else self._value * GROW)
