"""The trace store: what teachers said, on disk before anybody hears of it.

    traces/
      <writer>.log       records as they came in, each with its length and checksum: a torn tail is seen and dropped
      <writer>.parquet   the same, compacted when the writer is done (or found dead)

Every writer owns one log, locked while it lives, so any number of processes may write at once. `append` returns after
fsync: what it took is never lost. Where two records have the same key and attempt, the first durable one wins.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.store import fsync_folder
from curation.teachers.base import Answer, Request

RECORD = pa.schema(
    [
        ("key", pa.string()),
        ("attempt", pa.int32()),
        ("teacher", pa.string()),
        ("model", pa.string()),
        ("text", pa.string()),
        ("finish", pa.string()),
        ("finish_reason", pa.string()),
        ("max_tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("at_ns", pa.int64()),  # when it was durable: tells which of two records was first; in no digest
    ]
)
_HEAD = struct.Struct("<4sII")
_MAGIC = b"WTR1"
FLUSH_RECORDS = 64
FLUSH_SECONDS = 1.0
MERGE_FILES = 16
"""So many compacted segments are merged into one."""


class TraceStore:
    """The traces under one folder. Use it as a context manager; it may be only read from as well."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._log: BinaryIO | None = None
        self._path: Path | None = None
        self._waiting: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------------- writing

    def append(self, answer: Answer, *, teacher: str, model: str) -> None:
        """Take an answer. It counts when it is durable: at the latest FLUSH_SECONDS or FLUSH_RECORDS later, or at
        `flush`; a process killed before asks for it again."""
        self._waiting.append(
            {
                "key": answer.key,
                "attempt": answer.attempt,
                "teacher": teacher,
                "model": model,
                "text": answer.text,
                "finish": answer.finish,
                "finish_reason": answer.finish_reason,
                "max_tokens": answer.max_tokens,
                "prompt_tokens": answer.prompt_tokens,
                "output_tokens": answer.output_tokens,
            }
        )
        if len(self._waiting) >= FLUSH_RECORDS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Make everything that was taken durable, with one fsync."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        log = self._own_log()
        now = time.time_ns()
        frames = []
        for record in self._waiting:
            # Text from a model may hold half a character; Arrow and Parquet take only whole ones.
            payload = json.dumps({**record, "at_ns": now}).encode()
            frames.append(_HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload)
        log.write(b"".join(frames))
        log.flush()
        os.fsync(log.fileno())
        self._waiting = []

    def _own_log(self) -> BinaryIO:
        while self._log is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.log"
            log = path.open("xb")
            fcntl.flock(log, fcntl.LOCK_EX)
            if not path.exists():  # taken for a dead writer's in the moment before it was locked
                log.close()
                continue
            self._log, self._path = log, path
            fsync_folder(self._folder)
        return self._log

    def close(self) -> None:
        """Make everything durable and compact it. Logs of dead writers are compacted as well."""
        self.flush()
        if self._log is not None and self._path is not None:
            _compact(self._path)
            self._log.close()
            self._log = None
        self._adopt()

    def _adopt(self) -> None:
        """Compact the logs that dead writers left, and merge segments when there are many."""
        if not self._folder.is_dir():
            return
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is doing it
            for path in sorted(self._folder.glob("*.log")):
                with path.open("rb") as log:
                    try:
                        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue  # its writer lives
                    _compact(path)
            segments = sorted(self._folder.glob("*.parquet"))
            if len(segments) > MERGE_FILES:
                _merge(segments)

    # -------------------------------------------------------------------------------------------------------- reading

    def records(self, keys: Iterable[str] | None = None) -> pa.Table:
        """All durable records (RECORD), or those of some keys; one per (key, attempt), the first that was durable."""
        wanted = None if keys is None else pa.array(sorted(set(keys)), pa.string())
        pieces = [RECORD.empty_table()]
        seen: set[str] = set()
        # A log may be compacted while we look: names are listed again until none is gone between listing and reading.
        while True:
            fresh = [path for path in self._segments() if path.name not in seen]
            if not fresh:
                break
            for path in fresh:
                try:
                    table = (
                        _read_log(path)
                        if path.suffix == ".log"
                        else pq.read_table(path, filters=_filter(wanted), memory_map=True)
                    )
                except FileNotFoundError:
                    continue
                seen.add(path.name)
                if wanted is not None and path.suffix == ".log":
                    table = table.filter(pc.is_in(table["key"], wanted))
                pieces.append(table.cast(RECORD))
        return _first(pa.concat_tables(pieces))

    def _segments(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted([*self._folder.glob("*.log"), *self._folder.glob("*.parquet")])

    def missing(self, requests: Sequence[Request], *, max_tokens: int) -> list[Request]:
        """The requests that have no answer yet, each once, with the attempt that they are.

        An answer that was truncated under a smaller limit than `max_tokens`, or that failed, is asked for again.
        """
        known: dict[str, tuple[int, bool]] = {}
        for line in (
            self.records(r.key for r in requests).select(["key", "attempt", "finish", "max_tokens"]).to_pylist()
        ):
            good = line["finish"] == "finished" or (line["finish"] == "truncated" and line["max_tokens"] >= max_tokens)
            attempt, was_good = known.get(line["key"], (-1, False))
            known[line["key"]] = (max(attempt, line["attempt"]), good or was_good)
        wanted: dict[str, Request] = {}
        for request in requests:
            attempt, good = known.get(request.key, (-1, False))
            if not good and request.key not in wanted:
                wanted[request.key] = Request(request.key, request.messages, request.images, request.k, attempt + 1)
        return list(wanted.values())

    def best(self, keys: Sequence[str]) -> pa.Table:
        """The record that counts of each key: the last finished attempt, else the last truncated, else the last."""
        table = self.records(keys)
        rank = pc.index_in(table["finish"], pa.array(["failed", "truncated", "finished"]))
        table = table.append_column("rank", rank).sort_by(
            [("key", "ascending"), ("rank", "descending"), ("attempt", "descending")]
        )
        return _heads(table, ["key"]).drop_columns(["rank"])


def _filter(keys: pa.Array | None) -> Any:
    return None if keys is None else pc.field("key").isin(keys)


def _first(table: pa.Table) -> pa.Table:
    """One record per (key, attempt): the one that was durable first."""
    return _heads(
        table.sort_by([("key", "ascending"), ("attempt", "ascending"), ("at_ns", "ascending")]), ["key", "attempt"]
    )


def _heads(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The first row of every run of equal values in `columns`."""
    if len(table) < 2:
        return table
    new = pa.repeat(pa.scalar(False), len(table) - 1)
    for name in columns:
        column = table[name].combine_chunks()
        new = pc.or_(new, pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)))
    return table.filter(pa.concat_arrays([pa.array([True]), new]))


def _frames(data: bytes) -> Iterator[dict[str, Any]]:
    """Records of a log up to its end or its torn tail: what comes after the first broken frame was never durable."""
    at = 0
    while at + _HEAD.size <= len(data):
        magic, size, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + size]
        if magic != _MAGIC or len(payload) < size or zlib.crc32(payload) != checksum:
            return
        yield json.loads(payload)
        at += _HEAD.size + size


def _read_log(path: Path) -> pa.Table:
    records = list(_frames(path.read_bytes()))
    for record in records:
        if record["text"] is not None:
            record["text"] = record["text"].encode("utf-8", "replace").decode()
    return pa.Table.from_pylist(records, schema=RECORD)


def _write(path: Path, table: pa.Table) -> None:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    pq.write_table(
        table,
        beside,
        compression="zstd",
        use_dictionary=["teacher", "model", "finish", "finish_reason"],
        write_statistics=["key"],
        row_group_size=1 << 14,
    )
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    fsync_folder(path.parent)


def _compact(log: Path) -> None:
    """A log becomes a Parquet segment sorted by key; only then does it go."""
    try:
        table = _first(_read_log(log))
    except FileNotFoundError:
        return
    if len(table):
        _write(log.with_suffix(".parquet"), table)
    log.unlink(missing_ok=True)


def _merge(segments: Sequence[Path]) -> None:
    table = _first(pa.concat_tables([pq.read_table(path, schema=RECORD) for path in segments]))
    merged = segments[0].with_name(f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.parquet")
    _write(merged, table)
    for path in segments:
        path.unlink(missing_ok=True)
    fsync_folder(merged.parent)
