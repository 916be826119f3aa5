"""Which traces of the kept rows an SFT export takes, and why it leaves each of the others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import sqlguard
from curation.ids import ids_array, pair_keys
from schemas.errors import WinnowError
from schemas.rows import TRACE
from schemas.verdicts import VERDICT_SCHEMA

WORDS = ("correct", "finished", "all")
REASONS = pa.schema([("row_id", pa.string()), ("k", pa.int32()), ("reason", pa.string())])


def is_word(choice: str) -> bool:
    """Whether a choice is one of the names, not a SQL condition."""
    return choice in WORDS


def chosen_traces(
    choice: str,
    max_per_row: int | None,
    row_ids: np.ndarray,
    traces: pa.Table | None,
    verdicts: pa.Table | None,
    chosen_k: pa.ChunkedArray | None = None,
) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Choose among the traces of the rows `row_ids` (S20, sorted). `chosen_k`: list<int32>[rows], the only rollouts of
    a row that may be taken, where it is not null.

    Returns the chosen ones, sorted by (row_id, k), as a table of `at` (position of the row), k, response, extracted and
    the other columns of traces and verdicts; REASONS of the others; and bool[rows], whether a row has traces at all.
    Failed traces have no text and are never chosen.
    """
    table = _joined(traces if traces is not None else TRACE.empty_table(), verdicts)
    ids = ids_array(table["row_id"])
    at = np.minimum(np.searchsorted(row_ids, ids), max(len(row_ids) - 1, 0))
    ours = row_ids[at] == ids if len(row_ids) else np.zeros(len(ids), bool)
    table, at = table.filter(pa.array(ours)), at[ours]
    held = np.zeros(len(row_ids), bool)
    held[at] = True
    reason = _reasons(choice, table)
    if chosen_k is not None:
        left_out = pa.array(_left_out(chosen_k.combine_chunks(), at, table["k"]))
        reason = pc.if_else(pc.and_(left_out, pc.is_null(reason)), "not_diverse", reason)
    wanted = reason.is_null().to_numpy(zero_copy_only=False)
    if max_per_row is not None:
        over = wanted & (_rank_in_row(at, wanted) >= max_per_row)
        reason = pc.if_else(pa.array(over), "over_max_per_row", reason)
        wanted &= ~over
    chosen = table.filter(pa.array(wanted)).rename_columns({"text": "response"})
    chosen = chosen.append_column("at", pa.array(at[wanted]))
    left = pa.table({"row_id": table["row_id"], "k": table["k"], "reason": reason}).filter(pa.array(~wanted))
    return chosen, left.cast(REASONS), held


def _joined(traces: pa.Table, verdicts: pa.Table | None) -> pa.Table:
    """Traces with the columns of their verdicts, null where a trace has none. Both are sorted by (row_id, k)."""
    missing = [f for f in VERDICT_SCHEMA if verdicts is None or f.name not in verdicts.column_names]
    if verdicts is not None:
        here, there = pair_keys(traces), pair_keys(verdicts)
        at = np.minimum(np.searchsorted(there, here), max(len(there) - 1, 0))
        hit = there[at] == here if len(there) else np.zeros(len(here), bool)
        judged = verdicts.drop_columns(["row_id", "k"]).take(pa.array(at, mask=~hit))
        for name in judged.column_names:
            traces = traces.append_column(name, judged[name])
    for field in missing:
        traces = traces.append_column(field.name, pa.nulls(len(traces), field.type))
    return traces


def _left_out(chosen: pa.ListArray, at: np.ndarray, k: pa.ChunkedArray) -> np.ndarray:
    """bool[traces]: whether the trace's row names other rollouts, and not this one."""
    row = pc.list_parent_indices(chosen).to_numpy()
    named = np.stack([row, chosen.flatten().to_numpy()], axis=1).astype(np.int64)
    own = np.stack([at, k.to_numpy()], axis=1).astype(np.int64)
    pairs = (named[:, 0] << 32) + named[:, 1], (own[:, 0] << 32) + own[:, 1]
    says = chosen.is_valid().to_numpy(zero_copy_only=False)
    out: np.ndarray = ~np.isin(pairs[1], pairs[0])
    return out & says[at] if len(says) else out


def _rank_in_row(at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many wanted traces of the same row come before each trace."""
    before = np.concatenate([[0], np.cumsum(wanted)])[:-1]
    starts = np.flatnonzero(np.concatenate([[True], at[1:] != at[:-1]])) if len(at) else np.empty(0, np.int64)
    return before - np.repeat(before[starts], np.diff(np.append(starts, len(at))))


def _reasons(choice: str, table: pa.Table) -> pa.Array:
    """string[traces]: null for the chosen ones."""
    finish = table["finish"].combine_chunks()
    if choice == "correct":
        state = table["state"].combine_chunks()
        refused = pc.if_else(pc.is_null(state), "not_verified", pc.binary_join_element_wise("not_correct", state, ":"))
        reason = pc.if_else(pc.equal(pc.fill_null(state, ""), "correct"), pa.scalar(None, pa.string()), refused)
    elif choice == "finished":
        reason = pc.if_else(pc.equal(finish, "finished"), pa.scalar(None, pa.string()), finish)
    elif choice == "all":
        reason = pa.nulls(len(table), pa.string())
    else:
        reason = pc.if_else(_holds(choice, table), pa.scalar(None, pa.string()), "not_selected")
    if choice in ("correct", "finished"):
        # The recipe demands a format of this answer, and it has another.
        reason = pc.if_else(
            pc.and_(pc.is_null(reason), pc.is_valid(table["malformed"].combine_chunks())), "malformed", reason
        )
    no_text = pc.or_(pc.equal(finish, "failed"), pc.is_null(table["text"].combine_chunks()))
    return pc.if_else(no_text, "failed", reason)


def _holds(condition: str, table: pa.Table) -> pa.Array:
    import duckdb

    try:
        return pc.fill_null(sqlguard.holds(condition, table), False)
    except duckdb.Error as error:
        raise WinnowError(
            f"traces: the condition fails on a trace: {str(error).splitlines()[0]}\n    {condition}"
        ) from error
