"""Fates reconcile, or there is no version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.digests import text_id
from curation.engines.partition import Partition, layers_of, write_table
from curation.engines.rows import checked_fates
from curation.ids import ids_array
from curation.ledger import LedgerError, LedgerWriter, lines_of_fates, lines_of_kept
from curation.stages import fates
from schemas.errors import DamagedError, WinnowError

IDS = sorted(text_id("row", str(i)) for i in range(6))


def rows(ids: list[str]) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "row_id": ids,
            "content_id": ids,
            "origin_key": ids,
            "source": ["s"] * n,
            "split": pa.array(["train"] * n),
            "file": ["f"] * n,
            "index": pa.array(range(n), pa.int64()),
        }
    )


def written(tmp_path: Path, *tables: pa.Table, shards: int = 2) -> LedgerWriter:
    """A ledger of these lines, written in shards."""
    book = LedgerWriter(tmp_path / "ledger.parquet")
    whole = pa.concat_tables(list(tables)).sort_by("row_id")
    step = -(-len(whole) // shards)
    for start in range(0, len(whole), step):
        book.write(whole.slice(start, step))
    return book


def kept(ids: list[str]) -> pa.Table:
    table = rows(ids)
    return lines_of_kept(table, table["split"], np.ones(len(ids)), {"sft": np.arange(1, len(ids) + 1)})


def dropped(ids: list[str], **fate: object) -> pa.Table:
    given = fates(ids, **{"reason": "too_long", "sentence": "It is too long.", **fate})  # type: ignore[arg-type]
    return lines_of_fates(rows(IDS), "filter", given)


def test_counts_and_funnel(tmp_path: Path) -> None:
    book = written(tmp_path, kept(IDS[:4]), dropped(IDS[4:]))
    counts, funnel = book.reconcile(rows_in={"s": 6}, examples={"sft": 10}, traces={})
    assert (counts["input"], counts["kept"], counts["dropped"]) == (6, 4, 2)
    assert counts["sources"] == {"s": {"dropped": 2, "kept": 4}}
    assert funnel[0] == {"stage": "filter", "fate": "dropped", "reason": "too_long", "rows": 2}
    line = pq.read_table(tmp_path / "ledger.parquet").filter(pa.array([i == IDS[0] for i in IDS])).to_pylist()[0]
    assert line["sentence"] == "Kept: 1 example in sft."
    assert line["evidence"] == '{"sft":1}'


@pytest.mark.parametrize(
    ("tables", "rows_in", "words"),
    [
        ([kept(IDS[:4])], {"s": 6}, "yielded 6 rows and the ledger has 4"),
        ([kept(IDS[:4]), dropped(IDS[3:])], {"s": 7}, "more than one fate"),
        ([kept(IDS), dropped([])], {"s": 6, "t": 1}, "source t yielded 1"),
        ([kept(IDS[:5]), dropped(IDS[5:], fate="merged")], {"s": 6}, "do not say into which row"),
        ([kept(IDS[:5]), dropped(IDS[5:], fate="merged", into=["f" * 20])], {"s": 6}, "do not exist"),
        ([kept(IDS[:5]), dropped(IDS[5:], fate="vanished")], {"s": 6}, "unknown fate 'vanished'"),
        ([kept(IDS[:5]), dropped(IDS[5:], sentence=[None])], {"s": 6}, "without a reason"),
    ],
)
def test_what_does_not_add_up_is_named(
    tmp_path: Path, tables: list[pa.Table], rows_in: dict[str, int], words: str
) -> None:
    for shards in (1, 2, 6):
        with pytest.raises(LedgerError, match=words):
            written(tmp_path, *tables, shards=shards).reconcile(rows_in=rows_in, examples={"sft": 1}, traces={})


def test_traces_must_add_up_too(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="8 traces were made, 5 exported and 2 given a reason"):
        written(tmp_path, kept(IDS)).reconcile(
            rows_in={"s": 6},
            examples={"sft": 5},
            traces={"made": 8, "exported": 5, "not_exported": 2},
        )


def test_kept_rows_without_an_example_are_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no output has an example"):
        written(tmp_path, kept(IDS)).reconcile(rows_in={"s": 6}, examples={"sft": 0}, traces={})


def test_a_stage_cannot_decide_twice_or_on_strangers() -> None:
    known = ids_array(pa.array(IDS))
    with pytest.raises(WinnowError, match="two fates"):
        checked_fates("mine", fates([IDS[0], IDS[0]], reason="r", sentence="s"), known)
    with pytest.raises(WinnowError, match="not given"):
        checked_fates("mine", fates(["0" * 20], reason="r", sentence="s"), known)
    in_order = checked_fates("mine", fates([IDS[3], IDS[1]], reason="r", sentence="s"), known)
    assert in_order["row_id"].to_pylist() == [IDS[1], IDS[3]]


def partition(tmp_path: Path) -> Partition:
    table = pa.table({"row_id": IDS, "n": range(6)})
    write_table(tmp_path / "rows.parquet", table)
    full = np.packbits(np.ones(6, bool)).tobytes()
    return Partition("s", 0, 256, 6, layers_of(tmp_path / "rows.parquet", table), full)


def test_a_partition_drops_rows_and_reads_layers_aligned(tmp_path: Path) -> None:
    whole = partition(tmp_path)
    smaller, here = whole.drop(ids_array(pa.array([IDS[1], IDS[4], "f" * 20])))
    assert here.tolist() == [True, True, False]
    assert smaller.kept == 4
    assert smaller.read(["n"])["n"].to_pylist() == [0, 2, 3, 5]
    assert smaller.read(["n"], alive=False)["n"].to_pylist() == list(range(6))
    again, here = smaller.drop(ids_array(pa.array([IDS[1]])))
    assert not here.any() and again.kept == 4
    assert whole.fingerprint(["n"], needs="rows") != smaller.fingerprint(["n"], needs="rows")


def test_a_lost_or_cut_layer_is_said_so(tmp_path: Path) -> None:
    whole = partition(tmp_path)
    path = tmp_path / "rows.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedError, match="cannot be read"):
        whole.read()
    write_table(path, pa.table({"row_id": IDS[:3], "n": range(3)}))
    with pytest.raises(DamagedError, match="3 rows instead of 6"):
        whole.read()
    path.unlink()
    with pytest.raises(DamagedError, match="is gone"):
        whole.read()
