"""A whole x8 set: recorded traces joined, verified, filtered and exported as SFT, against how OpenMMReasoner did it.

Their way (data_pipeline/distill_response.py and its reward, written down again here): load the set, go through it row by
row and rollout by rollout, judge each response (tags, then text, then math-verify), append it to a JSON Lines cache, read
the cache back, and `save_to_disk`. It gets a part of the rows, since it grows linearly. Ours is the real `winnow build`
in a process of its own. Compared are CPU seconds per trace, which do not depend on what else the machine does; wall time
and peak memory (of all processes together, sampled) are told beside.

Then: a store of millions of traces is listed and joined.

    python tests/benchmarks/bench_fanout_scale.py [--rows 4000] [--stored 1000000]

--rows 103000 is OpenMMReasoner's size (824,000 traces), --stored 8000000 that of a set ten times as large.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from processes import adopt_orphans, cpu_of_children, tree_bytes

N = 8
WORDS = 525
"""Words of a response: about 700 tokens."""
PART = 0.02
"""Share of the rows that the peer gets, and at least 400 rows."""


def write_set(folder: Path, rows: int) -> None:
    """Questions with integer, decimal, fraction and letter answers, and eight responses of each; 70 % are right."""
    chance = random.Random(0)
    words = [f"word{i}" for i in range(2000)]
    thoughts = [" ".join(chance.choices(words, k=WORDS)) for _ in range(200)]
    schema = pa.schema([("id", pa.string()), ("sample", pa.int32()), ("response", pa.string())])
    questions = {"id": [], "question": [], "answer": [], "options": []}
    with pq.ParquetWriter(folder / "traces.parquet", schema, compression="zstd") as writer:
        made: dict[str, list] = {name: [] for name in schema.names}
        for i in range(rows):
            value, kind = chance.randrange(10_000), i % 4
            answer = [str(value), f"{value / 100:.2f}", f"\\frac{{{value}}}{{{i % 97 + 2}}}", "ABCD"[value % 4]][kind]
            questions["id"].append(f"q{i}")
            questions["question"].append(
                f"Question {i}: what comes out of {value} here? " + "It is asked plainly. " * 10
            )
            questions["answer"].append(answer)
            questions["options"].append(["one", "two", "three", "four"] if kind == 3 else None)
            for k in range(N):
                wrong = [
                    str(value + 1),
                    f"{value / 100 + 1:.2f}",
                    f"\\frac{{{value + 1}}}{{{i % 97 + 2}}}",
                    "ABCD"[(value + 1) % 4],
                ]
                said = answer if chance.random() < 0.7 else wrong[kind]
                shown = (
                    f"<answer>{said}</answer>" if kind == 3 else f"<answer>The result is \\boxed{{{said}}}.</answer>"
                )
                made["id"].append(f"q{i}")
                made["sample"].append(k)
                made["response"].append(f"<think>{i} {k} {chance.choice(thoughts)}</think>{shown}")
            if len(made["id"]) >= 8000 or i == rows - 1:
                writer.write_table(pa.table(made, schema=schema))
                made = {name: [] for name in schema.names}
    pq.write_table(pa.table(questions), folder / "questions.parquet")
    recipe = {
        "name": "scale",
        "sources": [{"parquet": "questions.parquet", "license": "MIT", "columns": {"choices": "options"}}],
        "stages": [
            {
                "stage": "fanout",
                "n": N,
                "format": "think_answer",
                "teacher": {"kind": "recorded", "path": "traces.parquet", "k": "sample"},
            },
            {"stage": "verify", "min_correct": 1},
        ],
        "outputs": [{"export": "sft"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


# ----------------------------------------------------------------------------------------------------------------- ours


def ours(folder: Path, traces: int) -> float:
    """CPU seconds per trace."""
    before, began = cpu_of_children(), time.perf_counter()
    words = [sys.executable, "-m", "curation.cli", "build", "recipe.yaml", "--workspace", "ws"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(words, cwd=folder, env=environment)
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], tree_bytes(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    watcher.join()
    if process.returncode:
        sys.exit("the build failed")
    wall = time.perf_counter() - began
    cpu = cpu_of_children() - before
    print(
        f"winnow        {traces:>9,} traces: {cpu:.1f} s of CPU, {cpu / traces * 1e3:.3f} ms a trace; {wall:.0f} s, {traces / wall:,.0f} traces/s; peak {peak[0] / 1e9:.2f} GB"
    )
    return cpu / traces


# ------------------------------------------------------------------------------------------------------------- their way


def extracted(text: str) -> str:
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    text = found[1].strip() if found else text
    at = text.rfind("\\boxed{")
    if at < 0:
        return text
    depth, end = 1, at + 7
    while end < len(text) and depth:
        depth += (text[end] == "{") - (text[end] == "}")
        end += 1
    return text[at + 7 : end - 1]


def right(gold: str, text: str) -> bool:
    """Text first, math-verify where that does not decide."""
    from math_verify import parse, verify

    said = extracted(text).strip().rstrip(".")
    gold = gold.strip().rstrip(".")
    if re.fullmatch("[A-H]", gold):
        found = re.match(r"\(?([A-H])\b", said)
        return bool(found) and found[1] == gold
    if gold == said or (
        min(len(gold), len(said))
        and (gold in said or said in gold)
        and min(len(gold), len(said)) >= 0.9 * max(len(gold), len(said))
    ):
        return True
    try:
        return bool(verify(parse(f"${gold}$"), parse(f"${said}$")))
    except Exception:
        return False


def theirs(folder: Path, rows: int) -> float:
    """CPU seconds per trace; run in a process of its own."""
    import datasets

    datasets.disable_progress_bars()
    began, wall = time.process_time(), time.perf_counter()
    questions = datasets.load_dataset(
        "parquet", data_files=str(folder / "questions.parquet"), split=f"train[:{rows}]", cache_dir=str(folder / "hf")
    )
    answers = datasets.load_dataset(
        "parquet", data_files=str(folder / "traces.parquet"), split=f"train[:{rows * N}]", cache_dir=str(folder / "hf")
    )
    cache = folder / "cache.jsonl"
    with cache.open("a") as file:
        for i, question in enumerate(questions):
            for k in range(N):
                response = answers[i * N + k]["response"]
                thought = re.search(r"<think>(.*?)</think>", response, re.DOTALL)
                answer = re.search(r"<answer>(.*?)</answer>", response, re.DOTALL)
                if not thought or not answer:
                    continue
                if right(question["answer"], response):
                    whole = f"<think>{thought[1]}</think><answer>{answer[1]}</answer>"
                    messages = [
                        {"role": "user", "content": question["question"]},
                        {"role": "assistant", "content": whole},
                    ]
                    file.write(json.dumps({"id": f"{question['id']}_{k}", "messages": messages}) + "\n")
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    datasets.Dataset.from_list(lines).save_to_disk(str(folder / "saved"))
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    traces = rows * N
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"their method  {traces:>9,} traces: {cpu:.1f} s of CPU, {cpu / traces * 1e3:.3f} ms a trace; {wall:.0f} s, {traces / wall:,.0f} traces/s; peak {peak:.2f} GB; kept {len(lines):,}",
        flush=True,
    )
    print(cpu / traces)
    return cpu / traces


# ---------------------------------------------------------------------------------------------------------------- stored


def stored(folder: Path, count: int) -> None:
    """List a store of so many traces and join a tenth of their keys."""
    from curation.teachers.snapshot import Snapshot
    from curation.teachers.store import RECORD, TraceStore, _write

    folder = folder / "traces"
    folder.mkdir()
    chance = np.random.default_rng(0)
    keys: list[str] = []
    size = 100_000
    for part in range(0, count, size):
        own = [raw.hex() for raw in np.frombuffer(chance.bytes(16 * size), "V16").tolist()]
        keys += own[::10]
        values = {
            "key": own, "attempt": np.zeros(size, np.int32), "teacher": ["t"] * size, "model": ["m"] * size,
            "text": [f"text {i}" for i in range(size)], "shape": np.ones(size, np.int16), "finish": ["finished"] * size,
            "finish_reason": ["stop"] * size, "max_tokens": np.full(size, 4096, np.int32),
            "at_ns": np.arange(part, part + size),
        }  # fmt: skip
        table = pa.table([values.get(f.name, pa.nulls(size, f.type)) for f in RECORD], names=RECORD.names).cast(RECORD)
        _write(folder / f"{part:020d}-00000000.parquet", table)
    began, wall = time.process_time(), time.perf_counter()
    snapshot = Snapshot(TraceStore(folder))
    listed = time.perf_counter() - wall
    start, stop = snapshot.find(keys)
    best = snapshot.best(start, stop, snapshot.ranks("any"))
    assert (best >= 0).all() and len(snapshot) == count
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"store         {count:>9,} traces listed in {listed:.1f} s, {len(keys):,} keys joined in {wall - listed:.1f} s ({cpu:.1f} s of CPU); peak {peak:.2f} GB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--stored", type=int, default=1_000_000)
    parser.add_argument("--theirs", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        theirs(Path(options.theirs[0]), int(options.theirs[1]))
        return
    adopt_orphans()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder, options.rows)
        mine = ours(folder, options.rows * N)
        part = min(options.rows, max(400, int(options.rows * PART)))
        words = [sys.executable, __file__, "--theirs", name, str(part)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
        print(said[0])
        print(f"ratio         {float(said[1]) / mine:.1f}x less CPU than their method")
        stored(folder, options.stored)


if __name__ == "__main__":
    main()
