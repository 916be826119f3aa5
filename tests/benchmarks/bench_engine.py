"""The engine's speed and memory: text rows end to end, and rows with pictures.

    python tests/benchmarks/bench_engine.py [text|images]

text     1,000,000 and 4,000,000 rows of about 400 bytes through normalize, filter, mix and an SFT export
images   20,000 rows with pictures (about 1 GB): a first build, a no-op, and one threshold changed late

Each build is a process of its own. Times are wall clock and CPU of all its processes; memory is the largest sum of
resident sets, sampled; bytes come from /proc. Rows are synthetic and the same in every run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEXT = """\
name: bench
seed: 1
sources:
  - {name: a, parquet: a.parquet, license: MIT}
  - {name: b, parquet: b.parquet, license: MIT}
stages:
  - stage: normalize
  - {stage: filter, where: "length(question) > 60", reason: too short}
  - {stage: mix, caps: {a: 0.9}}
outputs:
  - {export: sft, responses: solution}
"""
IMAGES = """\
name: bench
seed: 1
sources:
  - {name: pictures, parquet: "p*.parquet", license: MIT}
stages:
  - stage: normalize
  - {stage: filter, where: "length(question) > 5", reason: too short}
outputs:
  - export: rl
"""


def texts(n: int, seed: int) -> pa.Table:
    """Rows of about 400 bytes, from a vocabulary of 5,000 words; every twentieth is short."""
    rng = np.random.default_rng(seed)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 9))) for _ in range(5000)])
    pool = [" ".join(words[rng.integers(0, 5000, 45)]) for _ in range(4096)]
    picks = rng.integers(0, len(pool), (n, 1))[:, 0]
    numbers = rng.integers(0, 10**9, n)
    questions = [f"{numbers[i]} {pool[picks[i]] if i % 20 else 'short'}?" for i in range(n)]
    answers = [str(x) for x in numbers % 9973]
    solutions = [f"Working it out gives {a}." for a in answers]
    return pa.table(
        {"id": [f"{seed}-{i}" for i in range(n)], "question": questions, "answer": answers, "solution": solutions}
    )


def pictures(n: int, folder: Path) -> int:
    """Parquet files with n different PNG pictures of about 50 KB; returns their bytes."""
    import io

    from PIL import Image

    rng = np.random.default_rng(5)
    total = 0
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for part in range(10):
        rows = []
        for i in range(n // 10):
            pixels = np.zeros((180, 240, 3), np.uint8)
            pixels[:70] = rng.integers(0, 256, (70, 240, 3), dtype=np.uint8)
            pixels[70:, :, 1] = i % 256
            sink = io.BytesIO()
            Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
            total += sink.tell()
            rows.append([{"bytes": sink.getvalue(), "path": f"{part}-{i}.png"}])
        count = len(rows)
        table = pa.table(
            {
                "id": [f"{part}-{i}" for i in range(count)],
                "question": [f"What is in picture {part}-{i}?" for i in range(count)],
                "answer": [str(i % 7) for i in range(count)],
                "images": pa.array(rows, kind),
            }
        )
        pq.write_table(table, folder / f"p{part}.parquet", compression="none", row_group_size=500)
    return total


class Watch(threading.Thread):
    """The largest sum of resident sets of a process group, all of it and without pages of mapped files; and the CPU time
    of its processes, of each as it was last seen (workers are no children of the build, so wait() does not tell)."""

    def __init__(self, group: int):
        super().__init__(daemon=True)
        self.group, self.peak, self.anonymous, self.done = group, 0, 0, False
        self.ticks: dict[str, int] = {}

    def run(self) -> None:
        while not self.done:
            whole = anonymous = 0
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    if int(stat[2]) != self.group:
                        continue
                    self.ticks[entry.name] = int(stat[11]) + int(stat[12])
                    status = (entry / "status").read_text()
                except (OSError, IndexError):
                    continue
                lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
                whole += int(lines.get("VmRSS", "0 kB").split()[0]) * 1024
                anonymous += int(lines.get("RssAnon", "0 kB").split()[0]) * 1024
            self.peak, self.anonymous = max(self.peak, whole), max(self.anonymous, anonymous)
            time.sleep(0.1)

    @property
    def cpu(self) -> float:
        """Seconds."""
        return sum(self.ticks.values()) / os.sysconf("SC_CLK_TCK")


def run(folder: Path, *words: str) -> dict[str, float]:
    """One build in a process of its own: wall, cpu, peak (bytes)."""
    command = [
        sys.executable,
        "-m",
        "curation.cli",
        "build",
        "recipe.yaml",
        "--workspace",
        "ws",
        "--workers",
        "2",
        "--log-json",
        *words,
    ]
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0
    )
    watch = Watch(process.pid)
    watch.start()
    assert process.stderr is not None
    log = process.stderr.read()
    code = process.wait()
    wall = time.monotonic() - started
    watch.done = True
    watch.join()
    if code:
        raise SystemExit(log[-3000:])
    stages = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    for line in stages:
        if line.get("event") == "stage_finished" and line.get("seconds"):
            print(f"    {line['stage']:<18} {line['seconds']:7.1f} s")
    return {
        "wall": wall,
        "cpu": watch.cpu,
        "peak": watch.peak,
        "anonymous": watch.anonymous,
    }


def said(label: str, figures: dict[str, float], rows: int) -> None:
    print(
        f"{label}: {figures['wall']:.1f} s wall, {figures['cpu']:.1f} s CPU, {figures['peak'] / 2**20:,.0f} MiB peak ({figures['anonymous'] / 2**20:,.0f} without mapped files), {rows / figures['wall']:,.0f} rows/s wall, {2 * rows / figures['cpu']:,.0f} rows/s at two full cores"
    )


def bench_text() -> None:
    results = {}
    for rows in (1_000_000, 4_000_000):
        folder = Path(tempfile.mkdtemp(prefix="winnow-bench-"))
        half = rows // 2
        for name, seed in (("a", 1), ("b", 2)):
            with pq.ParquetWriter(folder / f"{name}.parquet", texts(1, 0).schema) as writer:
                for block in range(0, half, 250_000):
                    writer.write_table(texts(min(250_000, half - block), seed * 1000 + block))
        (folder / "recipe.yaml").write_text(TEXT)
        if rows == 1_000_000:
            run(folder, "--limit", "1000")  # compiles what is compiled once per machine
        results[rows] = run(folder)
        said(f"text, {rows:,} rows", results[rows], rows)
        if rows == 1_000_000:
            said("  the same again (no-op)", run(folder), rows)
        shutil.rmtree(folder)
    growth = np.log(results[4_000_000]["cpu"] / results[1_000_000]["cpu"]) / np.log(4)
    print(
        f"exponent of CPU time, 1M to 4M rows: {growth:.2f}; memory {results[4_000_000]['peak'] / results[1_000_000]['peak']:.2f} x"
    )


def written(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.stat().st_nlink == 1)


def bench_images() -> None:
    folder = Path(tempfile.mkdtemp(prefix="winnow-bench-"))
    rows = 20_000
    size = pictures(rows, folder)
    print(f"pictures: {rows:,}, {size / 2**20:,.0f} MiB")
    (folder / "recipe.yaml").write_text(IMAGES)
    run(folder, "--limit", "100")
    shutil.rmtree(folder / "ws")
    first = run(folder)
    said("first build", first, rows)
    print(f"  bytes on disk in the workspace: {written(folder / 'ws') / size:.2f} x the pictures (store and version)")
    said("no-op", run(folder), rows)
    changed = run(folder, "--set", "stages.filter.where=question not like '%picture 3-77?'")
    said("one row less, late in the recipe", changed, rows)
    newest = max((folder / "ws/versions/bench").iterdir(), key=lambda path: path.stat().st_mtime)
    shards = list(newest.glob("data/rl/*"))
    print(f"  shards linked: {sum(p.stat().st_nlink > 1 for p in shards)} of {len(shards)}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("WINNOW_WORKSPACE", "ws")
    which = sys.argv[1] if len(sys.argv) > 1 else "all"
    if which in ("text", "all"):
        bench_text()
    if which in ("images", "all"):
        bench_images()
