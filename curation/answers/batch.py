"""Check a table: one verdict row per input row, in the same order, with any number of worker processes.

Workers are plain `python -c` processes that speak Arrow streams over pipes: no fork of a threaded parent and no
re-import of the caller's main module. Rows are dealt in fixed slices and put back in order, so the result is the same
for any number of workers.
"""

from __future__ import annotations

import os
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from curation.answers.check import check
from curation.answers.policy import Policy
from schemas.verdicts import VERDICT_SCHEMA

if TYPE_CHECKING:
    from curation.answers.judge import Judge

SLICE_ROWS = 256
_OPTIONAL = ("kind", "choices", "question", "golds", "truncated")


def check_many(
    table: pa.Table, *, policy: Policy | None = None, workers: int = 1, judge: Judge | None = None
) -> pa.Table:
    """Verdicts (VERDICT_SCHEMA) for every row of `table`, in order.

    table    columns gold and response; optional kind, choices (list<string>), question, golds (list<string>),
             truncated (bool)
    workers  processes; 1 works in this one
    judge    asked for the rows that the rules leave undecided
    Raises ValueError where gold or response is missing.
    """
    missing = [name for name in ("gold", "response") if name not in table.column_names]
    if missing:
        raise ValueError(f"check_many needs the columns gold and response; missing: {', '.join(missing)}")
    policy = policy or Policy()
    rows = table.select([c for c in ("gold", "response", *_OPTIONAL) if c in table.column_names])
    if workers <= 1 or rows.num_rows <= SLICE_ROWS:
        return _check_slice(rows, policy)
    return _in_processes(rows, policy, workers)


def _check_slice(rows: pa.Table, policy: Policy) -> pa.Table:
    verdicts = []
    for row in rows.to_pylist():
        gold, response = row.pop("gold"), row.pop("response")
        row["truncated"] = bool(row.get("truncated"))
        verdicts.append(check(gold, response, policy=policy, **row).row())
    return pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA)


def _send(pipe: BinaryIO, payload: bytes) -> None:
    pipe.write(struct.pack("<Q", len(payload)))
    pipe.write(payload)
    pipe.flush()


def _receive(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    payload = pipe.read(size)
    return payload if len(payload) == size else None


def _table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _table_from(payload: bytes) -> pa.Table:
    return pa.ipc.open_stream(payload).read_all()


def serve(policy_fields: dict[str, Any]) -> None:
    """The worker's loop: Arrow slices in on stdin, verdicts out on stdout, until stdin closes."""
    policy = Policy(**policy_fields)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not break the stream
    while (payload := _receive(source)) is not None:
        _send(sink, _table_bytes(_check_slice(_table_from(payload), policy)))


def _start_worker(policy: Policy) -> subprocess.Popen[bytes]:
    from dataclasses import asdict

    code = f"from curation.answers.batch import serve; serve({asdict(policy)!r})"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)


def _in_processes(rows: pa.Table, policy: Policy, workers: int) -> pa.Table:
    slices = [rows.slice(at, SLICE_ROWS) for at in range(0, rows.num_rows, SLICE_ROWS)]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(slices)):
        todo.put(index)
    results: list[pa.Table | None] = [None] * len(slices)

    def feed() -> None:
        process = _start_worker(policy)
        assert process.stdin and process.stdout
        try:
            while True:
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    return
                _send(process.stdin, _table_bytes(slices[index].combine_chunks()))
                answer = _receive(process.stdout)
                # A worker that died took a slice with it: this process does it again.
                results[index] = _table_from(answer) if answer is not None else _check_slice(slices[index], policy)
                if answer is None:
                    process.kill()
                    process.wait()
                    process = _start_worker(policy)
                    assert process.stdin and process.stdout
        finally:
            process.stdin.close()
            process.wait()

    _run_threads([feed] * min(workers, len(slices)))
    done: Iterator[pa.Table] = (
        r if r is not None else _check_slice(s, policy) for r, s in zip(results, slices, strict=True)
    )
    return pa.concat_tables(done).combine_chunks()


def _run_threads(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
