"""How many requests at once, against servers that are simulated in their own time."""

from __future__ import annotations

import heapq

import pytest

from curation.teachers.limits import Limit


def simulated(
    slots: int, answers: int, *, most: int = 512, refuse_above: int | None = None
) -> tuple[Limit, float, int]:
    """A server that works at `slots` requests at once, each slower the more of them there are; the others wait in a
    queue. Returns the limit, the answers per second of the second half, and how many requests were refused."""
    now = 0.0
    limit = Limit(most, clock=lambda: now)
    busy: list[float] = []  # when each is done
    done = refused = 0
    half = 0.0
    while done < answers:
        while len(busy) < limit.value:
            if refuse_above is not None and len(busy) >= refuse_above:
                refused += 1
                limit.overloaded()
                break
            inside = min(len(busy) + 1, slots)
            # A batch of many is slower for each, and still gives more per second.
            service = 1.0 + 0.5 * inside / slots
            waiting = max(0, len(busy) - slots + 1) / slots * service
            heapq.heappush(busy, now + waiting + service)
        full = len(busy) >= limit.value
        now = heapq.heappop(busy)
        limit.done(100, full=full)
        done += 1
        if done == answers // 2:
            half = now
    return limit, (answers - answers // 2) / (now - half), refused


@pytest.mark.parametrize("slots", [4, 32, 256])
def test_it_finds_the_room_that_there_is(slots: int) -> None:
    limit, rate, _ = simulated(slots, slots * 300)
    best = slots / 1.5
    assert rate > 0.8 * best
    assert limit.value <= 4 * slots  # no endless queue


def test_refusals_halve_it_and_growth_is_careful_afterwards() -> None:
    limit, rate, refused = simulated(64, 20_000, refuse_above=40)
    assert 20 <= limit.value <= 60
    assert refused < 0.05 * 20_000
    assert rate > 0.5 * 40 / 1.5


def test_it_never_leaves_its_bounds() -> None:
    limit = Limit(4)
    for _ in range(100):
        limit.done(10, full=True)
    assert 1 <= limit.value <= 4
    for _ in range(50):
        limit.overloaded()
    assert limit.value >= 1


def test_a_burst_of_refusals_counts_once() -> None:
    now = 0.0
    limit = Limit(100, clock=lambda: now)
    before = limit.value
    for _ in range(20):
        limit.overloaded()
    assert limit.value == before // 2
