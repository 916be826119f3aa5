"""The local engine: a pool of worker processes on this machine.

Workers are never forked from this process: polars, DuckDB and Arrow have threads that do not survive it. On Linux they
are forked from a server that has imported what they need and has no threads; elsewhere each is spawned. A worker whose
parent is gone ends itself, so a killed build leaves nobody behind. With one worker, or one job, everything runs in this
process, which saves the second that the first worker needs to start.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from schemas.errors import WinnowError

J = TypeVar("J")
R = TypeVar("R")


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def machine_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(workers: int) -> ProcessPoolExecutor:
    forked = sys.platform == "linux"  # macOS has system libraries that do not bear a fork
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload([PRELOADED])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


PRELOADED = "curation.engines.preloaded"


def _start_worker() -> None:
    importlib.import_module(PRELOADED)
    import pyarrow as pa

    pa.set_cpu_count(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main script while workers start. A spawned process runs its parent's script again unless it is guarded
    by `if __name__ == "__main__"`; workers need nothing of it, and three lines of a user's should just work."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def released(function: Callable[[J], R], job: J) -> R:
    """Do one job and give the memory that Arrow keeps for later back to the machine."""
    import pyarrow as pa

    try:
        return function(job)
    finally:
        pa.default_memory_pool().release_unused()


class LocalEngine:
    """Runs functions over jobs. Use it as a context manager."""

    name = "local"

    def __init__(self, workers: int | None = None, memory_limit: int | None = None):
        self.workers = workers or machine_cores()
        self.memory_limit = memory_limit or int(machine_memory() * 0.6)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:
            for process in list((getattr(self._pool, "_processes", None) or {}).values()):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def run(
        self, function: Callable[[J], R], jobs: Sequence[J], on_done: Callable[[R], None] | None = None
    ) -> Iterator[R]:
        """Results in the order of the jobs. The first error stops the rest and is raised."""
        if self.workers == 1 or len(jobs) <= 1:
            for job in jobs:
                result = released(function, job)
                if on_done:
                    on_done(result)
                yield result
            return
        if self._pool is None:
            self._pool = _pool(self.workers)
        try:
            with _without_main():
                futures = [self._pool.submit(released, function, job) for job in jobs]
            pending: set[Future[R]] = set(futures)
            given = 0
            while given < len(futures):
                # What comes first in order is given at once: the caller works on it while workers do the rest.
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    if on_done:
                        on_done(result)
                while given < len(futures) and futures[given] not in pending:
                    yield futures[given].result()
                    given += 1
        except BrokenProcessPool as error:
            self._pool = None
            raise WinnowError(
                "A worker process died, most likely because the machine ran out of memory.\nTry fewer --workers or a "
                "smaller --memory-limit. What was finished is kept: the same command goes on from there."
            ) from error
