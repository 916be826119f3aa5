"""Exports: text rows and x8 traces to Parquet, against `datasets` doing the same row by row.

CPU seconds of one core. The peer maps a function over a `datasets.Dataset`, as conversion scripts do, and writes its
Parquet; it gets a tenth of the rows, since it grows linearly.

    python tests/benchmarks/bench_exports.py [rows]
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import datasets
import pyarrow as pa

from curation import exports
from curation.exports import parquet
from schemas.rows import ROW, TRACE
from schemas.verdicts import VERDICT_SCHEMA

pa.set_cpu_count(1)
datasets.disable_progress_bars()


def rows_of(count: int) -> pa.Table:
    columns = {field.name: pa.nulls(count, field.type) for field in ROW}
    words = "some ordinary words of a question that has a certain length "
    columns["row_id"] = pa.array([f"{i:020x}" for i in range(count)])
    columns["question"] = pa.array([f"Question {i}: {words * 5}" for i in range(count)])
    columns["answer"] = pa.array([str(i) for i in range(count)])
    columns["solution"] = pa.array([f"The solution of {i}: {words * 2}" for i in range(count)])
    columns["source"] = pa.repeat(pa.scalar("made"), count)
    return pa.table(columns)


def traces_of(rows: pa.Table, n: int) -> tuple[pa.Table, pa.Table]:
    ids = [row_id for row_id in rows["row_id"].to_pylist() for _ in range(n)]
    ks = pa.array([k for _ in range(len(rows)) for k in range(n)], pa.int32())
    columns = {field.name: pa.nulls(len(ids), field.type) for field in TRACE}
    text = pa.array([f"Thought {i}. " * 40 for i in range(len(ids))])
    columns |= {"row_id": pa.array(ids), "k": ks, "text": text, "finish": pa.repeat(pa.scalar("finished"), len(ids))}
    states = pa.array([("correct", "incorrect")[i % 3 == 0] for i in range(len(ids))])
    judged = {field.name: pa.nulls(len(ids), field.type) for field in VERDICT_SCHEMA}
    return pa.table(columns), pa.table({"row_id": columns["row_id"], "k": ks, **judged, "state": states})


def ours(kind: str, folder: Path, rows: pa.Table, traces=None, verdicts=None, **options) -> tuple[float, int]:
    export = exports.load()[kind]
    config = export.settle(export.config.model_validate({"export": kind, **options}), False)
    began = time.process_time()
    table = export.build(config, rows, traces, verdicts).table.drop_columns(["split"])
    features = export.features(config, table.schema)
    parquet.write_shard(folder / "ours.parquet", table.select(list(features)), features=features)
    return time.process_time() - began, len(table)


def conversation(row: dict) -> dict:
    user, assistant = {"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["solution"]}
    return {"messages": [user, assistant]}


def prompt(row: dict) -> dict:
    return {
        "data_source": row["source"],
        "prompt": [{"role": "user", "content": row["question"]}],
        "reward_model": {"ground_truth": row["answer"], "style": "rule"},
        "extra_info": {"index": int(row["row_id"][:15], 16), "question": row["question"], "answer": row["answer"]},
    }


def peer(function, folder: Path, rows: pa.Table) -> float:
    table = rows.select(["row_id", "source", "question", "answer", "solution"])
    began = time.process_time()
    made = datasets.Dataset(table).map(function, remove_columns=table.column_names, load_from_cache_file=False)
    made.to_parquet(folder / "peer.parquet")
    return time.process_time() - began


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
    rows = rows_of(count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, kind, options, function in [
            ("sft from solutions", "sft", {"responses": "solution"}, conversation),
            ("rl", "rl", {}, prompt),
        ]:
            seconds, made = ours(kind, folder, rows, **options)
            theirs = peer(function, folder, rows.slice(0, count // 10)) * 10
            print(f"{label}: {made / seconds:,.0f} rows/s; datasets.map {count / theirs:,.0f}; {theirs / seconds:.1f}x")
        few = rows.slice(0, count // 10)
        traces, verdicts = traces_of(few, 8)
        seconds, made = ours("sft", folder, few, traces, verdicts)
        print(f"sft, correct of x8: {len(traces) / seconds:,.0f} traces/s read, {made:,} written")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
