"""The pool: workers are whole, and results come in order while others are still at work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from curation.engines.local import PRELOADED, LocalEngine


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned, and nothing is preloaded")
def test_what_is_preloaded_has_no_threads_that_a_fork_would_lose() -> None:
    names = "{p.read_text().strip() for p in Path('/proc/self/task').glob('*/comm')}"
    code = f"import {PRELOADED}, sys; from pathlib import Path; print(*{names}, sep=chr(10))"
    threads = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    main = Path(sys.executable).name
    assert {name for name in threads if not name.startswith("jemalloc") and name[:6] != main[:6]} == set()


def slept(job: tuple[int, float]) -> int:
    time.sleep(job[1])
    return job[0]


def test_results_come_in_order_and_early() -> None:
    jobs = [(0, 0.0), (1, 0.0), (2, 1.5), (3, 0.0), (4, 0.0)]
    done: list[int] = []
    with LocalEngine(workers=2) as engine:
        list(engine.run(slept, jobs[:2]))  # workers have started
        given = engine.run(slept, jobs, done.append)
        assert [next(given), next(given)] == [0, 1]
        assert 2 not in done, "the first are given while the third is at work"
        assert list(given) == [2, 3, 4]
    assert sorted(done) == [0, 1, 2, 3, 4]


def fail(job: int) -> int:
    if job == 1:
        raise ValueError("job 1")
    time.sleep(30)
    return job


def test_the_first_error_ends_it() -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="job 1"), LocalEngine(workers=2) as engine:
        list(engine.run(fail, [0, 1, 2, 3]))
    assert time.monotonic() - started < 25
