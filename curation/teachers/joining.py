"""From answers to traces: what is stored or recorded, joined to rows piece by piece.

Texts of traces are a hundred times larger than rows, so nothing here holds more than a piece of them: some thousand
rows with their traces, in the order of row_id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.ids import ids_array, rows_of
from curation.stages.base import Context
from curation.teachers import formats
from curation.teachers.asking import BLOCK, Wish
from curation.teachers.base import Held
from curation.teachers.formats import Shape
from curation.teachers.judging import Gold, judged
from curation.teachers.policy import OPEN, UNKNOWN, prefix, state_of
from curation.teachers.snapshot import FAILED, FINISHED, TRUNCATED, Snapshot, key_numbers
from curation.teachers.store import TraceStore
from schemas.errors import WinnowError
from schemas.rows import TRACE

Piece = tuple[pa.Table, str, str]
"""Traces (TRACE) of some rows, and the first and last row_id of those rows."""


class Counts:
    """What became of the traces of some rows, counted while they pass by."""

    def __init__(self, row_ids: pa.ChunkedArray):
        own = ids_array(row_ids)
        self._order = np.argsort(own, kind="stable")
        self._sorted = own[self._order]
        self.usable = np.zeros(len(own), np.int64)
        """int64[rows]: traces with text, of each row."""
        self.finish = {"finished": 0, "truncated": 0, "failed": 0}
        self.repaired: Counter[str] = Counter()
        self.malformed = self.unused = 0
        self.again = False
        """Whether a trace failed in a way that another try might mend."""

    def add(self, traces: pa.Table) -> None:
        said = traces.filter(pc.not_equal(traces["finish"], "failed"))
        at = self._order[np.searchsorted(self._sorted, ids_array(said["row_id"]))]
        self.usable += np.bincount(at, minlength=len(self.usable))
        for line in pc.value_counts(traces["finish"]).to_pylist():
            self.finish[line["values"]] += line["counts"]
        for line in pc.value_counts(traces["repair"].drop_null()).to_pylist():
            self.repaired[line["values"]] += line["counts"]
        self.malformed += len(traces) - traces["malformed"].null_count


# --------------------------------------------------------------------------------------------------------------- stored


def stored_pieces(
    wish: Wish, who: tuple[str, str], rows: pa.Table, context: Context, counts: Counts
) -> Iterator[Piece]:
    """The traces of rows that a teacher was asked for.

    who  model and revision, as they stand in keys
    """
    model, revision = who
    store = TraceStore(context.workspace / "traces")
    wanted = [key_numbers(pa.array(_keys(wish, block, model, revision))) for block in _blocks(rows)]
    only = np.concatenate(wanted)
    snapshot = Snapshot(store, only[np.argsort(only[:, 0], kind="stable")])
    ranks = snapshot.ranks(wish.form)
    for block in _blocks(rows):
        keys = _keys(wish, block, model, revision)
        best = snapshot.best(*snapshot.find(keys), ranks)
        used = _used(wish, block, best, snapshot, context.name)
        where = np.flatnonzero(np.arange(wish.most)[None, :] < used[:, None])
        counts.unused += int(((best >= 0).reshape(len(block), -1).sum(axis=1) - used).sum())
        at = best[where]
        counts.again |= bool((snapshot.state[at] == FAILED).any())
        told = snapshot.texts(at, [c for c in TRACE.names if c in _STORED] + ["shape", "reasoning"])
        columns = {name: told[name] for name in told.column_names}
        columns["row_id"] = block["row_id"].take(pa.array(where // wish.most))
        columns["k"] = pa.array(where % wish.most, pa.int32())
        shapes = pc.fill_null(told["shape"], 0).to_numpy()
        piece = _formed(wish, columns, shapes, told["reasoning"], context.name)
        counts.add(piece)
        yield piece, block["row_id"][0].as_py(), block["row_id"][-1].as_py()


_STORED = {
    "attempt", "key", "teacher", "model", "text", "finish", "finish_reason", "prompt_tokens", "output_tokens", "logprobs",
}  # fmt: skip


def _blocks(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(rows), BLOCK):
        yield rows.slice(start, BLOCK)


def _keys(wish: Wish, rows: pa.Table, model: str, revision: str) -> list[str]:
    return [prompt.key(k) for prompt in wish.prompts(rows, model=model, revision=revision) for k in range(wish.most)]


def _golds(rows: pa.Table) -> list[Gold]:
    return list(zip(*(rows[c].to_pylist() for c in ("answer", "choices", "question")), strict=True))


def _used(wish: Wish, rows: pa.Table, best: np.ndarray, snapshot: Snapshot, stage: str) -> np.ndarray:
    """int64[rows]: how many answers of each row count, the first by k."""
    there = (best >= 0).reshape(len(rows), wish.most)
    if not wish.adaptive:
        complete = there.all(axis=1)
        used = np.full(len(rows), wish.most)
    else:
        state = snapshot.state[best] if len(snapshot) else np.full(len(best), FAILED)
        said = np.flatnonzero((best >= 0) & np.isin(state, (FINISHED, TRUNCATED)))
        golds, texts = _golds(rows), snapshot.texts(best[said], ["text"])["text"].to_pylist()
        cut = (state[said] == TRUNCATED).tolist()
        states = np.where(best >= 0, OPEN, UNKNOWN).astype(np.uint8)
        states[said] = [
            state_of(s) for s in judged([golds[i // wish.most] for i in said.tolist()], texts, cut, wish.policy)
        ]
        used, complete = _prefixes(wish, states.reshape(len(rows), wish.most))
    if not complete.all():
        lost = rows["row_id"][int(np.flatnonzero(~complete)[0])].as_py()
        raise WinnowError(
            f"Stage {stage}: answers of {int((~complete).sum()):,} rows are not in the trace store, the first {lost}.\n"
            "Run the same command again: what is missing is asked for."
        )
    return used


def _prefixes(wish: Wish, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many answers of each row are used, and whether no more are needed."""
    pairs = [prefix(line, wish.most, wish.correct, wish.all_wrong) for line in states.tolist()]
    found = np.asarray(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 0] == found[:, 1]


# ------------------------------------------------------------------------------------------------------------- recorded


def held_pieces(wish: Wish, held: Held, rows: pa.Table, context: Context, counts: Counts) -> Iterator[Piece]:
    """The traces of rows whose answers are held already."""
    for block, traces in held.pieces(rows, wish.most, context):
        traces = traces.sort_by([("row_id", "ascending"), ("k", "ascending")])
        if wish.adaptive:
            before = len(traces)
            traces = _first_that_count(wish, block, traces)
            counts.unused += before - len(traces)
        shapes = np.zeros(len(traces), np.int16)
        if wish.form != "any":
            shapes = formats.shapes_of(traces["text"].to_pylist())
        piece = _formed(wish, {c: traces[c] for c in traces.column_names}, shapes, None, context.name)
        counts.add(piece)
        ids = pc.min_max(block["row_id"]).as_py()
        yield piece, ids["min"], ids["max"]


def _first_that_count(wish: Wish, rows: pa.Table, traces: pa.Table) -> pa.Table:
    """The traces that `until` and `stop_if_all_wrong_after` leave, of held answers: those that a teacher would have
    been asked for. Where the file ends before the rule, all of a row's count."""
    at = rows_of(traces, rows)
    golds = _golds(rows)
    said = np.flatnonzero(pc.not_equal(traces["finish"], "failed").to_numpy())
    few = traces.select(["text", "finish"]).take(pa.array(said))
    cut = pc.equal(few["finish"], "truncated").to_pylist()
    states = np.full(len(traces), OPEN, np.uint8)
    states[said] = [
        state_of(s) for s in judged([golds[i] for i in at[said].tolist()], few["text"].to_pylist(), cut, wish.policy)
    ]
    k = traces["k"].to_numpy()
    table = np.full((len(rows), wish.most), UNKNOWN, np.uint8)
    table[at, k] = states
    used, _ = _prefixes(wish, table)
    return traces.filter(pa.array(k < used[at]))


# ----------------------------------------------------------------------------------------------------------------- both


def _formed(
    wish: Wish,
    columns: dict[str, pa.Array | pa.ChunkedArray],
    shapes: np.ndarray,
    reasoning: pa.ChunkedArray | None,
    stage: str,
) -> pa.Table:
    """TRACE, with texts repaired and what is malformed named."""
    count = len(shapes)
    text, repair = _repaired(wish, columns["text"], shapes, reasoning)
    finished = pc.equal(columns["finish"], "finished")
    malformed = formats.problems(shapes, wish.form)
    made = {
        **columns,
        "stage": pa.repeat(pa.scalar(stage), count),
        "text": text,
        "repair": repair,
        "malformed": pc.if_else(finished, malformed, pa.scalar(None, pa.string())),
        "logprobs": columns["logprobs"] if wish.sampling.logprobs else pa.nulls(count, TRACE.field("logprobs").type),
        "origin_row": pa.nulls(count, pa.string()),
    }
    return pa.table([made[name] for name in TRACE.names], names=TRACE.names).cast(TRACE)


def _repaired(
    wish: Wish, text: pa.Array | pa.ChunkedArray, shapes: np.ndarray, reasoning: pa.ChunkedArray | None
) -> tuple[pa.Array | pa.ChunkedArray, pa.Array]:
    """Texts and the repair of each; only those that may need one become Python objects."""
    apart = (shapes & Shape.REASONING) > 0
    unopened = ((shapes & Shape.CLOSES) > 0) & ((shapes & (Shape.OPENS | Shape.TWICE)) == 0)
    where = np.flatnonzero(apart | (unopened & wish.form.startswith("think")))
    if not len(where):
        return text, pa.nulls(len(shapes), pa.string())
    index = pa.array(where)
    thoughts: Sequence[str | None] = [None] * len(where) if reasoning is None else reasoning.take(index).to_pylist()
    mended = [formats.repaired(t, r, wish.form) for t, r in zip(text.take(index).to_pylist(), thoughts, strict=True)]
    mask = np.zeros(len(shapes), bool)
    mask[where] = True
    whole = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    return (
        pc.replace_with_mask(whole, pa.array(mask), pa.array([t for t, _ in mended], pa.string())),
        pc.replace_with_mask(pa.nulls(len(mask), pa.string()), pa.array(mask), pa.array([r for _, r in mended], pa.string())),
    )  # fmt: skip


def together(piece: pa.Table, first: str, last: str, context: Context) -> pa.Table:
    """A piece beside the traces that an earlier fan-out made of the same rows: its k go on where theirs end, and what
    they have already (the same key) is not there twice."""
    if context.earlier_traces is None:
        return piece
    before = context.earlier_traces(first, last)
    if not len(before):
        return piece
    piece = piece.filter(pc.invert(pc.is_in(piece["key"], before["key"])))
    own = ids_array(before["row_id"])
    ids, starts = np.unique(own, return_index=True)
    ends = np.maximum.reduceat(before["k"].to_numpy(), starts) + 1
    at = np.minimum(np.searchsorted(ids, ids_array(piece["row_id"])), len(ids) - 1)
    shift = np.where(ids[at] == ids_array(piece["row_id"]), ends[at], 0)
    k = pa.array(piece["k"].to_numpy() + shift, pa.int32())
    piece = piece.set_column(piece.schema.get_field_index("k"), TRACE.field("k"), k)
    return pa.concat_tables([before.cast(TRACE), piece])
