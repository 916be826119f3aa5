"""What the trace store knows at one moment: the narrow facts of all records in numpy, sorted by key, and their texts
where somebody wants them.

A record takes 40 bytes here, so that eight million are listed and joined in seconds (tests/benchmarks/
bench_fanout_scale.py). Keys are 128-bit numbers; they are sought by their upper half and compared by both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.teachers.base import REJECTED
from curation.teachers.formats import Format, problems
from curation.teachers.store import RECORD, ROW_GROUP, TraceStore, read_segment

FAILED, REFUSED, TRUNCATED, FINISHED = 0, 1, 2, 3
"""What became of a record; REFUSED failed in a way that another try would meet again."""
WHOLE = 3
"""The rank of a finished answer that has the format."""
_NARROW = ["key", "attempt", "finish", "finish_reason", "max_tokens", "shape", "logprobs", "at_ns"]
_HELD = 6
"""Segments whose texts are kept at hand."""


def key_numbers(keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """uint64[n, 2] of keys of 32 hex digits."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    if not len(keys):
        return np.empty((0, 2), np.uint64)
    digits = np.frombuffer(keys.buffers()[2], np.uint8)[32 * keys.offset : 32 * (keys.offset + len(keys))]
    if len(digits) != 32 * len(keys):
        raise ValueError("a key has 32 hex digits")
    nibbles = ((digits & 15) + 9 * (digits >> 6)).reshape(-1, 2)
    return (nibbles[:, 0] << 4 | nibbles[:, 1]).view(">u8").astype(np.uint64).reshape(-1, 2)


class Snapshot:
    """All records of a store, or those of the keys `only` (sorted uint64[n, 2], see key_numbers)."""

    def __init__(self, store: TraceStore, only: np.ndarray | None = None):
        self._reading = store.reading()  # segments are not merged while somebody knows where texts lie in them
        self._paths: list[Path] = []
        self._held: OrderedDict[int, pa.Table] = OrderedDict()
        pieces: list[tuple[np.ndarray, ...]] = []
        for path, table in store.tables(_NARROW):
            keys = key_numbers(table["key"])
            rows = np.arange(len(keys))
            if only is not None:
                at = np.minimum(np.searchsorted(only[:, 0], keys[:, 0]), max(len(only) - 1, 0))
                rows = np.flatnonzero(only[at, 0] == keys[:, 0]) if len(only) else rows[:0]
                keys, table = keys[rows], table.take(pa.array(rows))
            if not len(rows):
                continue
            number = len(self._paths)
            self._paths.append(path)
            pieces.append(
                (
                    keys[:, 0], keys[:, 1], table["attempt"].to_numpy().astype(np.int32), _states(table),
                    table["max_tokens"].to_numpy().astype(np.int32), pc.fill_null(table["shape"], 0).to_numpy().astype(np.int16),
                    table["logprobs"].is_valid().to_numpy(), np.full(len(rows), number, np.int32),
                    rows.astype(np.int32), table["at_ns"].to_numpy(),
                )
            )  # fmt: skip
        kinds = (np.uint64, np.uint64, np.int32, np.int8, np.int32, np.int16, bool, np.int32, np.int32, np.int64)
        columns = [
            np.concatenate([piece[i] for piece in pieces]) if pieces else np.empty(0, kind)
            for i, kind in enumerate(kinds)
        ]
        order = _order(columns[0], columns[1], columns[2], columns[9])
        self.high, self.low, self.attempt, self.state, self.max_tokens, self.shape, self.logprobs = (
            column[order] for column in columns[:7]
        )
        self._segment, self._row = columns[7][order], columns[8][order]

    def __len__(self) -> int:
        return len(self.high)

    def find(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Where the records of each key begin and end: int64[keys] twice."""
        numbers = key_numbers(pa.array(keys, pa.string()))
        start = np.searchsorted(self.high, numbers[:, 0], "left")
        stop = np.searchsorted(self.high, numbers[:, 0], "right")
        hit = stop > start
        if hit.any():
            wrong = hit.copy()
            wrong[hit] = (self.low[start[hit]] != numbers[hit, 1]) | (self.low[stop[hit] - 1] != numbers[hit, 1])
            for i in np.flatnonzero(wrong).tolist():  # two keys that share their upper 64 bits
                inside = start[i] + np.flatnonzero(self.low[start[i] : stop[i]] == numbers[i, 1])
                start[i], stop[i] = (inside[0], inside[-1] + 1) if len(inside) else (0, 0)
        return start, stop

    def best(self, start: np.ndarray, stop: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """int64[keys]: the record that counts of each key (the highest of `ranks`, then the last attempt), -1 where
        there is none."""
        lengths = stop - start
        group = np.repeat(np.arange(len(start)), lengths)
        at = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(start, lengths)
        order = np.lexsort((self.attempt[at], ranks[at], group))
        best = np.full(len(start), -1, np.int64)
        best[group[order]] = at[order]  # the last assignment of each group stays
        return best

    def texts(self, positions: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Columns of RECORD of the records at these positions, in their order."""
        segments = self._segment[positions]
        pieces, places = [], []
        for number in np.unique(segments).tolist():
            where = np.flatnonzero(segments == number)
            pieces.append(self._texts_of(number, self._row[positions[where]], columns))
            places.append(where)
        if not pieces:
            return pa.schema([RECORD.field(name) for name in columns]).empty_table()
        back = np.empty(len(positions), np.int64)
        back[np.concatenate(places)] = np.arange(len(positions))
        return pa.concat_tables(pieces).take(pa.array(back))

    def _texts_of(self, number: int, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Rows of one segment: of the whole of it, which is kept at hand, unless few are wanted."""
        held = self._held.get(number)
        if held is None:
            path = self._paths[number]
            if not path.exists():  # a log that was compacted since
                path = path.with_suffix(".parquet")
            groups = np.unique(rows // ROW_GROUP)
            if path.suffix == ".parquet" and len(groups) * 4 <= pq.read_metadata(path).num_row_groups:
                few = read_segment(path, columns, groups.tolist())
                return few.take(pa.array(np.searchsorted(groups, rows // ROW_GROUP) * ROW_GROUP + rows % ROW_GROUP))
            held = read_segment(path, RECORD.names)
            self._held[number] = held
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return held.select(list(columns)).take(pa.array(rows))

    def ranks(self, form: Format) -> np.ndarray:
        """int8[records]: 0 failed, 1 truncated, 2 finished but not in the format, WHOLE."""
        bad = problems(self.shape, form).is_valid().to_numpy(zero_copy_only=False)
        ranks = np.zeros(len(self), np.int8)
        ranks[self.state == TRUNCATED] = 1
        ranks[self.state == FINISHED] = WHOLE
        ranks[(self.state == FINISHED) & bad] = 2
        return ranks


def _order(high: np.ndarray, low: np.ndarray, attempt: np.ndarray, at_ns: np.ndarray) -> np.ndarray:
    """Positions sorted by key and attempt, without all but the first durable record of each."""
    order = np.argsort(high)
    same = high[order[1:]] == high[order[:-1]]
    if not same.any():
        return order
    # Few keys have several records: only those are sorted by everything else.
    tied = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    few = order[tied]
    order[tied] = few[np.lexsort((few, at_ns[few], attempt[few], low[few], high[few]))]
    again = np.ones(len(order) - 1, bool)
    for column in (high, low, attempt):
        again &= column[order[1:]] == column[order[:-1]]
    return order[np.concatenate([[True], ~again])]


def _states(table: pa.Table) -> np.ndarray:
    finish = table["finish"]
    state = np.full(len(table), FAILED, np.int8)
    state[pc.equal(finish, "truncated").to_numpy()] = TRUNCATED
    state[pc.equal(finish, "finished").to_numpy()] = FINISHED
    refused = pc.and_(pc.equal(finish, "failed"), pc.starts_with(table["finish_reason"], REJECTED))
    state[pc.fill_null(refused, False).to_numpy()] = REFUSED
    return state
