"""Fates: what became of every input row, and the proof that none is missing.

The ledger has one line per record that any source yielded, whatever happened to it. `LedgerWriter.reconcile` is
called on every version before it can be seen: a build whose counts do not add up fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.engines.partition import dictionary_columns
from curation.ids import ids_array
from schemas.errors import WinnowError
from schemas.rows import FATES, LEDGER


class LedgerError(WinnowError):
    """The fates do not account for every row: a defect of a stage or of Winnow, never of the data."""


def lines_of_fates(rows: pa.Table, stage: str, fates: pa.Table) -> pa.Table:
    """Ledger lines for rows that a stage took out. `rows` (sorted by row_id) gives their ids and where they came from."""
    own = ids_array(rows["row_id"])
    at = np.searchsorted(own, ids_array(fates["row_id"]))
    taken = rows.take(at)
    n = len(fates)
    columns = {
        **{name: taken[name] for name in ("row_id", "content_id", "origin_key", "source", "file", "index")},
        "split": taken["split"] if "split" in taken.column_names else pa.nulls(n, pa.string()),
        "stage": pa.repeat(pa.scalar(stage), n),
        **{name: fates[name] for name in ("fate", "reason", "sentence", "evidence", "into")},
        "repeat": pa.repeat(pa.scalar(0, pa.int32()), n),
    }
    return pa.table([columns[name] for name in LEDGER.names], schema=LEDGER)


def lines_of_kept(
    rows: pa.Table, split: pa.Array | pa.ChunkedArray, repeat: np.ndarray, counts: Mapping[str, np.ndarray]
) -> pa.Table:
    """Ledger lines for rows that are in the data. `counts`: output -> number of examples made of each row."""
    n = len(rows)
    parts: list[Any] = []
    said: list[Any] = []
    for output, made in counts.items():
        text = pa.array(made).cast(pa.string())
        parts.append(pc.binary_join_element_wise(f'"{output}":', text, ""))
        said.append(
            pc.binary_join_element_wise(
                text, pc.if_else(pa.array(made == 1), f"example in {output}", f"examples in {output}"), " "
            )
        )
    evidence = pc.binary_join_element_wise(*parts, ",")
    columns = {
        **{name: rows[name] for name in ("row_id", "content_id", "origin_key", "source", "file", "index")},
        "split": split,
        "fate": pa.repeat(pa.scalar("kept"), n),
        "stage": pa.repeat(pa.scalar("export"), n),
        "reason": pa.repeat(pa.scalar("kept"), n),
        "sentence": pc.binary_join_element_wise("Kept: ", pc.binary_join_element_wise(*said, ", "), ".", ""),
        "evidence": pc.binary_join_element_wise("{", evidence, "}", ""),
        "into": pa.nulls(n, pa.string()),
        "repeat": pa.array(repeat, pa.int32()),
    }
    return pa.table([columns[name] for name in LEDGER.names], schema=LEDGER)


class LedgerWriter:
    """Writes ledger.parquet shard by shard, and proves at the end that every input row has exactly one fate.

    Shards come in the order of their row-id prefixes, so a row that stands in two of them is seen at once.
    """

    def __init__(self, path: Path):
        self._path = path
        self._writer = pq.ParquetWriter(
            path,
            LEDGER,
            compression="zstd",
            use_dictionary=dictionary_columns(LEDGER),
            write_page_index=True,
        )
        self._wrong: list[str] = []
        self._counted: dict[str, Counter[str]] = {}
        self._steps: Counter[tuple[str, str, str]] = Counter()
        self._targets: list[np.ndarray] = []
        self._last = b""

    def write(self, table: pa.Table) -> None:
        """Count and write the lines of one shard (LEDGER, sorted by row_id)."""
        self._writer.write_table(table)
        ids = ids_array(table["row_id"])
        before = np.append(np.array([self._last], ids.dtype), ids[:-1])
        if np.any(ids <= before):
            at = int(np.flatnonzero(ids <= before)[0])
            self._wrong.append(f"row {ids[at].decode()} has more than one fate, or the ledger is not sorted")
        self._last = ids[-1] if len(ids) else self._last
        for line in table.group_by(["source", "stage", "fate", "reason"]).aggregate([("row_id", "count")]).to_pylist():
            self._counted.setdefault(line["source"], Counter())[line["fate"]] += line["row_id_count"]
            self._steps[line["stage"], line["fate"], line["reason"]] += line["row_id_count"]
        merged = table.filter(pc.equal(table["fate"], "merged"))
        if merged["into"].null_count:
            self._wrong.append(f"{merged['into'].null_count:,} merged rows do not say into which row")
        self._targets.append(ids_array(merged["into"].drop_null()))
        silent = table.filter(pc.or_(pc.is_null(table["sentence"]), pc.is_null(table["reason"])))
        if len(silent):
            self._wrong.append(
                f"{len(silent):,} rows have a fate without a reason, the first {silent['row_id'][0].as_py()}"
            )

    def reconcile(
        self, *, rows_in: Mapping[str, int], examples: Mapping[str, int], traces: Mapping[str, int]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Close the file; return the counts and the funnel for the manifest.

        rows_in   source -> records that it yielded
        examples  output -> examples written
        traces    "made", "exported", "not_exported": traces by fate
        Raises LedgerError naming what does not add up.
        """
        self._writer.close()
        wrong, counted = self._wrong, self._counted
        lost = np.unique(np.concatenate(self._targets)) if self._targets else np.empty(0, "S20")
        if len(lost):
            for batch in pq.ParquetFile(self._path).iter_batches(columns=["row_id"]):
                lost = np.setdiff1d(lost, ids_array(batch.column(0)), assume_unique=True)
        if len(lost):
            wrong.append(f"rows were merged into rows that do not exist, the first {lost[0].decode()}")
        for source in sorted({*rows_in, *counted}):
            have, want = counted.get(source, Counter()).total(), rows_in.get(source, 0)
            if have != want:
                wrong.append(f"source {source} yielded {want:,} rows and the ledger has {have:,}")
            for fate in counted.get(source, {}):
                if fate not in FATES:
                    wrong.append(f"rows of source {source} have the unknown fate {fate!r}")
        fates = {fate: sum(of[fate] for of in counted.values()) for fate in FATES}
        if fates["kept"] and not sum(examples.values()):
            wrong.append(f"{fates['kept']:,} rows are kept and no output has an example")
        if traces.get("made", 0) != traces.get("exported", 0) + traces.get("not_exported", 0):
            wrong.append(
                f"{traces['made']:,} traces were made, {traces['exported']:,} exported and {traces['not_exported']:,} given a reason"
            )
        if wrong:
            raise LedgerError(
                "The ledger does not reconcile; no version was made.\n" + "\n".join(f"  - {line}" for line in wrong)
            )
        counts = {
            "input": sum(fates.values()),
            **fates,
            "sources": {source: dict(sorted(of.items())) for source, of in sorted(counted.items())},
            "examples": dict(examples),
            "traces": dict(traces),
        }
        funnel = [
            {"stage": stage, "fate": fate, "reason": reason, "rows": rows}
            for (stage, fate, reason), rows in self._steps.items()
        ]
        return counts, sorted(funnel, key=lambda x: (x["fate"] == "kept", -x["rows"], x["stage"], x["reason"]))
