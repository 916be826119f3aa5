"""The trace store: what teachers said, on disk before anybody hears of it.

    traces/
      <writer>.log       records as they came in, each with its length and checksum: a torn tail is seen and dropped
      <writer>.parquet   the same, compacted when the log is full or its writer is done (or found dead)

Every writer owns one log, locked while it lives, so any number of processes may write at once. What `flush` took is
fsynced: it is never lost. Where two records have the same key and attempt, the first durable one wins.

Segments never change, so a `Snapshot` of the narrow columns of all of them (curation/teachers/snapshot.py) says what is
known of millions of keys in seconds, and texts are read where they are wanted. Segments keep the order in which answers
came: what was asked together lies together.
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
from curation.teachers.base import Answer
from curation.teachers.formats import shape_of

RECORD = pa.schema(
    [
        ("key", pa.string()),
        ("attempt", pa.int32()),
        ("teacher", pa.string()),
        ("model", pa.string()),
        ("text", pa.string()),
        ("reasoning", pa.string()),
        ("shape", pa.int16()),  # curation.teachers.formats.Shape
        ("finish", pa.string()),
        ("finish_reason", pa.string()),
        ("max_tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("logprobs", pa.list_(pa.float32())),
        ("at_ns", pa.int64()),  # when it was durable: tells which of two records was first; in no digest
    ]
)
_HEAD = struct.Struct("<4sII")
_MAGIC = b"WTR1"
FLUSH_RECORDS = 64
FLUSH_SECONDS = 1.0
LOG_BYTES = 32 << 20
"""A log so large is compacted, and another begun: what compaction holds in memory."""
MERGE_FILES = 16
"""So many small segments are merged."""
SMALL_BYTES = 8 << 20
"""A segment file smaller than this is small."""
ROW_GROUP = 4096


class TraceStore:
    """The traces under one folder. Use it as a context manager; it may be only read from as well."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._log: BinaryIO | None = None
        self._path: Path | None = None
        self._size = 0
        self._waiting: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(
            error, OSError
        ):  # a full disk: nothing more can be written, and the first error is the one to see
            self._waiting = []
            self._leave()
        else:
            self.close()

    # -------------------------------------------------------------------------------------------------------- writing

    def append(self, answer: Answer, *, teacher: str, model: str) -> bool:
        """Take an answer. It counts when it is durable: at the latest FLUSH_SECONDS or FLUSH_RECORDS later, or at
        `flush`; a process killed before asks for it again. Returns whether all that was taken is durable now."""
        self._waiting.append(
            {
                "key": answer.key,
                "attempt": answer.attempt,
                "teacher": teacher,
                "model": model,
                "text": answer.text,
                "reasoning": answer.reasoning,
                "shape": shape_of(answer.text, answer.reasoning),
                "finish": answer.finish,
                "finish_reason": answer.finish_reason,
                "max_tokens": answer.max_tokens,
                "prompt_tokens": answer.prompt_tokens,
                "output_tokens": answer.output_tokens,
                "logprobs": None if answer.logprobs is None else list(answer.logprobs),
            }
        )
        if len(self._waiting) >= FLUSH_RECORDS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
            return True
        return False

    def flush(self) -> None:
        """Make everything that was taken durable, with one fsync."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        log = self._own_log()
        now = time.time_ns()
        frames = []
        for record in self._waiting:
            payload = json.dumps({**record, "at_ns": now}).encode()
            frames.append(_HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload)
        data = b"".join(frames)
        log.write(data)
        log.flush()
        os.fsync(log.fileno())
        self._waiting = []
        self._size += len(data)
        if self._size >= LOG_BYTES:
            self._leave()

    def _own_log(self) -> BinaryIO:
        while self._log is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.log"
            log = path.open("xb")
            fcntl.flock(log, fcntl.LOCK_EX)
            if not path.exists():  # taken for a dead writer's in the moment before it was locked
                log.close()
                continue
            self._log, self._path, self._size = log, path, 0
            fsync_folder(self._folder)
        return self._log

    def _leave(self) -> None:
        """Compact the own log, if there is one."""
        if self._log is not None and self._path is not None:
            log, path = self._log, self._path
            self._log = self._path = None
            try:
                _compact(path)
            finally:
                log.close()

    def close(self) -> None:
        """Make everything durable and compact it. Logs of dead writers are compacted as well."""
        self.flush()
        self._leave()
        self._adopt()

    def _adopt(self) -> None:
        """Compact the logs that dead writers left, and merge small segments when there are many."""
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
            small = [p for p in sorted(self._folder.glob("*.parquet")) if p.stat().st_size < SMALL_BYTES]
            if len(small) <= MERGE_FILES:
                return
            with (self._folder / ".reading").open("a") as readers:
                try:
                    fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # a snapshot knows where texts lie in these
                _merge(small)

    # -------------------------------------------------------------------------------------------------------- reading

    def reading(self) -> BinaryIO | None:
        """A shared lock: while it is open, segments stay where they are."""
        if not self._folder.is_dir():
            return None
        readers = (self._folder / ".reading").open("ab")
        fcntl.flock(readers, fcntl.LOCK_SH)
        return readers

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[Path, pa.Table]]:
        """Each segment's path and some of its columns, in the order in which they were begun. A log counts up to its
        torn tail, and as it is now."""
        seen: set[str] = set()
        # A log may be compacted while we look: names are listed again until none is new. A segment that has the name
        # of a log that was read already holds the same records once more, which does no harm.
        while fresh := [path for path in _segments(self._folder) if path.name not in seen]:
            for path in fresh:
                seen.add(path.name)
                try:
                    yield path, read_segment(path, columns)
                except FileNotFoundError:
                    continue

    def records(self, keys: Iterable[str] | None = None) -> pa.Table:
        """All durable records (RECORD), or those of some keys; one per (key, attempt), the first that was durable."""
        wanted = None if keys is None else pa.array(sorted(set(keys)), pa.string())
        pieces = [RECORD.empty_table()]
        for _, table in self.tables(RECORD.names):
            pieces.append(table if wanted is None else table.filter(pc.is_in(table["key"], wanted)))
        return _first(pa.concat_tables(pieces))

    def mean_output_tokens(self, model: str) -> float | None:
        """How long the stored answers of a model are on average; None where there are none."""
        total = count = 0
        for _, table in self.tables(["model", "output_tokens"]):
            lengths = table.filter(pc.equal(table["model"], model))["output_tokens"]
            total += pc.sum(lengths).as_py() or 0
            count += len(lengths) - lengths.null_count
        return total / count if count else None


def _segments(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.log"), *folder.glob("*.parquet")]) if folder.is_dir() else []


def read_segment(path: Path, columns: Sequence[str], row_groups: Sequence[int] | None = None) -> pa.Table:
    """Columns of one segment, whole or some row groups of it. Raises FileNotFoundError where it has been compacted."""
    if path.suffix == ".log":
        return _read_log(path).select(list(columns))
    with pq.ParquetFile(path, memory_map=True) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        groups = range(file.num_row_groups) if row_groups is None else row_groups
        table = file.read_row_groups(list(groups), columns=there)
    for name in columns:  # written before the column was
        if name not in there:
            table = table.append_column(name, pa.nulls(len(table), RECORD.field(name).type))
    return table.select(list(columns)).cast(pa.schema([RECORD.field(name) for name in columns]))


def _first(table: pa.Table) -> pa.Table:
    """One record per (key, attempt): the one that was durable first."""
    table = table.sort_by([("key", "ascending"), ("attempt", "ascending"), ("at_ns", "ascending")])
    if len(table) < 2:
        return table
    new = pa.repeat(pa.scalar(False), len(table) - 1)
    for name in ("key", "attempt"):
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
        for name in ("text", "reasoning"):
            # Text from a model may hold half a character; Arrow and Parquet take only whole ones.
            if record.get(name) is not None:
                record[name] = record[name].encode("utf-8", "replace").decode()
    return pa.Table.from_pylist(records, schema=RECORD)


def _write(path: Path, table: pa.Table) -> None:
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        pq.write_table(
            table,
            beside,
            compression="zstd",
            use_dictionary=["teacher", "model", "finish", "finish_reason"],
            write_statistics=["key"],
            row_group_size=ROW_GROUP,
        )
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def _compact(log: Path) -> None:
    """A log becomes a Parquet segment; only then does it go."""
    try:
        table = _read_log(log)
    except FileNotFoundError:
        return
    if len(table):
        _write(log.with_suffix(".parquet"), table)
    log.unlink(missing_ok=True)


def _merge(segments: Sequence[Path]) -> None:
    """Small neighbours become one segment, under the name of the first, until it is no longer small."""
    run: list[Path] = []
    for path in [*segments, None]:
        if path is not None and sum(p.stat().st_size for p in run) < 4 * SMALL_BYTES:
            run.append(path)
            continue
        if len(run) > 1:
            whole = pa.concat_tables([read_segment(p, RECORD.names) for p in run])
            merged = run[0].with_name(f"{run[0].stem.split('-')[0]}-{uuid.uuid4().hex[:8]}.parquet")
            _write(merged, whole)
            for old in run:
                old.unlink(missing_ok=True)
            fsync_folder(merged.parent)
        run = [path] if path is not None else []
