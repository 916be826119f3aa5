"""Worker processes for whole tables: plain interpreters that speak Arrow streams over pipes.

No fork of a threaded parent and no re-import of the caller's main module. Workers stay for the next table and end when
this process does; one that dies gives its slice back, and the caller does it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, cast

import pyarrow as pa

_idle: dict[tuple[int, str], list[subprocess.Popen[bytes]]] = {}
_lock = threading.Lock()


def send(pipe: BinaryIO, payload: bytes) -> None:
    """Write one length-prefixed message."""
    pipe.write(struct.pack("<Q", len(payload)) + payload)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes | None:
    """Read one message; None where the pipe closed."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    payload = pipe.read(size)
    return payload if len(payload) == size else None


def table_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def table_from(payload: bytes) -> pa.Table:
    """The table of an Arrow stream."""
    return pa.ipc.open_stream(payload).read_all()


def serve(work: Callable[[pa.Table], pa.Table]) -> None:
    """A worker's loop: slices in on stdin, results out on stdout, until stdin closes."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not break the stream
    while (payload := receive(source)) is not None:
        send(sink, table_bytes(work(table_from(payload))))


def _take(code: str) -> subprocess.Popen[bytes]:
    with _lock:
        waiting = _idle.get((os.getpid(), code), [])
        while waiting:
            process = waiting.pop()
            if process.poll() is None:
                return process
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )


def _leave(code: str, process: subprocess.Popen[bytes]) -> None:
    with _lock:
        _idle.setdefault((os.getpid(), code), []).append(process)


def close() -> None:
    """End the idle workers of this process."""
    with _lock:
        for (owner, _), processes in _idle.items():
            for process in processes if owner == os.getpid() else ():
                with contextlib.suppress(OSError):
                    if process.stdin:
                        process.stdin.close()
                process.wait()
        _idle.clear()


atexit.register(close)


def map_slices(code: str, slices: list[pa.Table], workers: int, here: Callable[[pa.Table], pa.Table]) -> list[pa.Table]:
    """Results of every slice, in order.

    code  starts a worker that calls `serve`
    here  does a slice in this process
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(slices)):
        todo.put(index)
    results: dict[int, pa.Table] = {}

    def feed() -> None:
        process = _take(code)
        while True:
            try:
                index = todo.get_nowait()
            except queue.Empty:
                _leave(code, process)
                return
            source, sink = cast(BinaryIO, process.stdout), cast(BinaryIO, process.stdin)
            try:
                send(sink, table_bytes(slices[index].combine_chunks()))
                answer = receive(source)
            except OSError:
                answer = None
            if answer is None:
                process.kill()
                process.wait()
                return  # the other workers, or the caller, do what is left
            results[index] = table_from(answer)

    threads = [threading.Thread(target=feed, daemon=True) for _ in range(min(workers, len(slices)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] if i in results else here(part) for i, part in enumerate(slices)]
