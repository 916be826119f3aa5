"""Selection: `difficulty` and `mix` over the verdicts of millions of traces, in seconds and peak memory.

    python tests/benchmarks/bench_selection.py [--rows 1000000] [--traces 8]

The stages are the real ones, run as a build runs them over partitions on disk; texts are not read, so there are none. Each
stage is keyed, run, committed and laid over the rows. The process that does it is fresh, so the peak is its own. The peer is
DuckDB, which joins traces and verdicts of the same files and counts pass rates, lengths and the entropy of answers: what
`difficulty` measures, without intervals, quantiles, buckets, order, reasons or files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import duckdb
import numpy as np
import pyarrow as pa

from curation import stages, store
from curation.engines.partition import VERDICTS, Partition, layers_of, write_table
from curation.engines.rows import apply_global_entry, run_global
from curation.stages.base import Context
from schemas.rows import TRACE

SOURCES, PIECES = 8, 16
DIFFICULTY = {
    "stage": "difficulty", "keep": "0 < pass_rate < 1", "quantiles": {"response_tokens": [0.02, 0.98]},
    "buckets": {"hard": 0.25, "medium": 0.75, "easy": 1}, "curriculum": "easy_first",
}  # fmt: skip
MIX = {
    "stage": "mix", "weights": {"source_0": 3, "*": 1}, "caps": {"source_7": 20_000}, "total": 200_000,
    "floors": {"difficulty": {"hard": 30_000}, "license": {"MIT": 50_000}},
}  # fmt: skip


def partition(folder: Path, number: int, rows: int, traces: int) -> Partition:
    """Rows of one source and a range of ids, with judged traces; drawn by its number alone."""
    draw = np.random.default_rng(number)
    source, piece = divmod(number, PIECES)
    first, last = piece * 256 // PIECES, (piece + 1) * 256 // PIECES
    heads = draw.integers(first, last, rows)
    ids = sorted(f"{head:02x}{hashlib.md5(f'{number}:{n}'.encode()).hexdigest()[:18]}" for n, head in enumerate(heads))
    table = pa.table(
        {
            "row_id": pa.array(ids),
            "source": pa.repeat(f"source_{source}", rows),
            "license": pa.array(np.where(draw.random(rows) < 0.3, "MIT", "Apache-2.0")),
            "images": pa.nulls(rows, pa.list_(pa.string())),
            "n_tokens": pa.array(draw.integers(20, 200, rows), pa.int32()),
        }
    )
    total = rows * traces
    each = pa.array(np.repeat(np.array(ids), traces))
    k = pa.array(np.tile(np.arange(traces, dtype=np.int32), rows))
    right = draw.random(total) < np.repeat(draw.beta(0.6, 0.6, rows), traces)
    answers = pa.array(np.where(right, 0, draw.integers(1, 6, total))).cast(pa.string())
    of_traces = {
        "row_id": each, "k": k, "stage": pa.repeat("fanout", total), "model": pa.repeat("m", total),
        "finish": pa.repeat("finished", total),
        "output_tokens": pa.array(draw.lognormal(6.3, 0.7, total).astype(np.int32) + 1),
    }  # fmt: skip
    of_verdicts = {
        "row_id": each, "k": k, "state": pa.array(np.where(right, "correct", "incorrect")), "extracted": answers,
        "answer_normal": answers,
    }  # fmt: skip
    paths = [folder / f"{what}-{number:05d}.parquet" for what in ("rows", "traces", "verdicts")]
    for path, found, schema in ((paths[1], of_traces, TRACE), (paths[2], of_verdicts, VERDICTS)):
        write_table(path, pa.table([found.get(f.name, pa.nulls(total, f.type)) for f in schema], names=schema.names))
    write_table(paths[0], table)
    alive = np.packbits(np.ones(rows, bool)).tobytes()
    return Partition(
        f"source_{source}", first, last, rows, layers_of(paths[0], table), alive, traces=str(paths[1]),
        verdicts=str(paths[2]), traces_digest=str(number), verdicts_digest=str(number),
    )  # fmt: skip


def select(folder: Path) -> None:
    """In a process of its own: both stages over the partitions; prints what it took as JSON."""
    partitions: list[Partition] = pickle.loads((folder / "partitions").read_bytes())
    space = store.open_workspace(folder / "ws")
    kinds, told = stages.load(), {}
    for given in (DIFFICULTY, MIX):
        began, cpu = time.perf_counter(), time.process_time()
        stage = kinds[str(given["stage"])]
        config = stage.config.model_validate(given)
        context = Context(0, stage.kind, space.root, folder, workers=2, memory_limit=2 << 30)
        entry = run_global(stage, config, partitions, context, space, "bench")
        manifest = store.load_entry(entry)
        assert manifest is not None
        partitions = apply_global_entry(stage, config, partitions, entry, manifest)
        told[stage.kind] = time.perf_counter() - began, time.process_time() - cpu, sum(p.kept for p in partitions)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"stages": told, "peak": int(peak.split()[1]) << 10}))


def peer(folder: Path) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of the same measures by DuckDB, on two threads."""
    began, cpu = time.perf_counter(), time.process_time()
    with duckdb.connect() as db:
        db.execute("set threads = 2")
        db.execute(f"""
            create table measured as
            with judged as (select * from '{folder}/verdicts-*.parquet' where state in ('correct', 'incorrect')),
            rates as (select row_id, avg((state = 'correct')::int) as pass_rate, count(*) as n_judged from judged group by row_id),
            answers as (select row_id, if(state = 'correct', '', answer_normal) as answer, count(*) as n from judged group by all),
            spread as (select row_id, log2(sum(n)) - sum(n * log2(n)) / sum(n) as disagreement from answers group by row_id),
            lengths as (select t.row_id, avg(output_tokens) as response_tokens from '{folder}/traces-*.parquet' t
                        join judged v on t.row_id = v.row_id and t.k = v.k group by t.row_id)
            select * from rates join spread using (row_id) join lengths using (row_id)""")
        assert db.execute("select count(*) from measured").fetchone()
    return time.perf_counter() - began, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--select", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.select is not None:
        select(options.select)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = SOURCES * PIECES
        sizes = [options.rows // count + (n < options.rows % count) for n in range(count)]
        made = [partition(folder, n, size, options.traces) for n, size in enumerate(sizes)]
        (folder / "partitions").write_bytes(pickle.dumps(made))
        del made
        words = [sys.executable, __file__, "--select", str(folder)]
        told = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
        wall = sum(seconds for seconds, _, _ in told["stages"].values())
        print(
            f"{options.rows:,} rows, {options.rows * options.traces:,} traces: {wall:.1f} s, {told['peak'] / 1e6:,.0f} MB at most"
        )
        for kind, (seconds, cpu, kept) in told["stages"].items():
            print(f"  {kind:<12} {seconds:6.1f} s wall {cpu:6.1f} s CPU, {kept:,} rows left")
        seconds, cpu = peer(folder)
        ours = told["stages"]["difficulty"][1]
        print(
            f"  DuckDB, the measures alone {seconds:.1f} s wall {cpu:.1f} s CPU: difficulty takes {ours / cpu:.1f}x its CPU"
        )


if __name__ == "__main__":
    main()
