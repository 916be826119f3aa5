"""What a process and all below it take: resident memory now, CPU seconds once they have ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path


def tree_bytes(root: int) -> int:
    """Resident bytes of a process and its descendants; pages that they share count once each."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        # Memory-mapped files are the kernel's to take back: what counts is what the process itself holds.
        total += sum(
            int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:"))
        )
    return total


def adopt_orphans() -> None:
    """From now on processes whose parent ends become ours. Workers are children of a server that a build does not wait
    for, and only the time of processes that somebody waited for is counted. Linux only; elsewhere it is missing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def cpu_of_children() -> float:
    """CPU seconds of all processes below this one, which must be ending: it waits for them."""
    with contextlib.suppress(ChildProcessError):  # there are none left
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
