"""Publishing and comparing: memory and CPU of publishing against sha256 over the same files; what travels when rows
change; time of a diff.

    python tests/benchmarks/bench_publish.py [--gb 0.5] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numba
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))
from standin import StandIn, environment

from curation import build
from curation.comparison import diff
from curation.store import commit
from curation.versions import Version
from schemas.rows import LEDGER, ROW

PUBLISH = """
import re, sys, time
from pathlib import Path
from curation import hub
from curation.versions import Version
import datasets
version = Version.open(Path(sys.argv[1]))
started = time.process_time()
hub.publish(version, "org/bench", tag="v1")
done = time.process_time()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(done - started, peak)
"""
CHECK = """
import sys, time
from pathlib import Path
from curation import publishcheck
from curation.publication import prepare
from curation.versions import Version
import datasets
version = Version.open(Path(sys.argv[1]))
started = time.process_time()
publishcheck.check(prepare(version))
print(time.process_time() - started)
"""
HASH = """
import hashlib, sys, time
from pathlib import Path
started = time.process_time()
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.is_file():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
print(time.process_time() - started)
"""


def photo_set(folder: Path, photos: int, side: int, seeds: dict[int, int] | None = None) -> Version:
    """A version of questions with one PNG of noise each (3 * side² bytes); `seeds` exchanges some of the pictures."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w") as file:
        for i in range(photos):
            seed = (seeds or {}).get(i, i)
            path = folder / "images" / f"{seed}.png"
            if not path.exists():
                noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
                Image.fromarray(noise).save(path, "PNG", compress_level=0)
            row = {
                "id": str(i),
                "question": f"What is in picture {i}?",
                "answer": str(seed),
                "image": f"images/{seed}.png",
            }
            file.write(json.dumps(row) + "\n")
    source = {"name": "photos", "jsonl": "rows.jsonl", "license": "MIT", "columns": {"images": "image"}}
    recipe = {"name": "bench", "language": "none", "sources": [source], "outputs": [{"export": "rows"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return build(folder / "recipe.yaml", workspace=folder / "ws")


def publishing(folder: Path, gb: float) -> None:
    version = photo_set(folder / "large", int(gb * 1e9 / 1e6), 577)
    size = sum(path.stat().st_size for path in version.path.rglob("*") if path.is_file())
    standin = StandIn(folder / "hub", keep=False)
    variables = environment(standin, folder / "cache")

    def run(program: str) -> list[float]:
        command = [sys.executable, "-c", program, str(version.path)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [float(x) for x in done.stdout.split()]

    run(HASH)  # the files come into the page cache
    (hashed,) = run(HASH)
    publish, memory = run(PUBLISH)
    (check,) = run(CHECK)
    hashed = (hashed + run(HASH)[0]) / 2
    standin.close()
    print(
        f"publish {size / 1e9:.2f} GB: {publish:.2f} s of CPU with its checks ({check:.2f} s); sha256 over it {hashed:.2f} s"
    )
    print(
        f"  ratio {publish / hashed:.2f}, {(publish - check) / hashed:.2f} without the checks; peak memory {memory:.0f} MB"
    )


# --------------------------------------------------------------------------------------------- what a chunker would send

GEAR = np.random.default_rng(7).integers(0, 1 << 63, 256, np.int64).astype(np.uint64)


@numba.njit(cache=True)
def cuts(data: np.ndarray, gear: np.ndarray, least: int, most: int, mask: int) -> list[int]:
    """Ends of chunks by a gear hash: a cut where the hash of the last 64 bytes is zero under `mask`."""
    ends = [0]
    state, start = np.uint64(0), 0
    for i in range(len(data)):
        state = (state << np.uint64(1)) + gear[data[i]]
        length = i + 1 - start
        if length >= most or (length >= least and (state & np.uint64(mask)) == 0):
            ends.append(i + 1)
            start, state = i + 1, np.uint64(0)
    if ends[-1] != len(data):
        ends.append(len(data))
    return ends


def chunks(version: Version) -> dict[bytes, int]:
    """hash -> size of the chunks (about 64 kB, as the Hub's storage cuts them) of all files."""
    found: dict[bytes, int] = {}
    for path in sorted(version.path.rglob("*")):
        if path.is_file():
            data = np.frombuffer(path.read_bytes(), np.uint8)
            ends = cuts(data, GEAR, 8 << 10, 128 << 10, 0xFFFF << 40)
            for start, stop in itertools.pairwise(ends):
                piece = data[start:stop].tobytes()
                found[hashlib.sha256(piece).digest()] = len(piece)
    return found


def scattered(folder: Path) -> None:
    photos, side = 1000, 182  # 100 kB each
    first = photo_set(folder / "scattered", photos, side)
    changed = np.random.default_rng(3).choice(photos, photos // 20, replace=False)
    second = photo_set(folder / "scattered", photos, side, {int(i): photos + int(i) for i in changed})
    before, after = chunks(first), chunks(second)
    novel = sum(size for name, size in after.items() if name not in before)
    total = sum(after.values())
    print(
        f"5 % scattered rows, pictures of 100 kB: {novel / 1e6:.1f} of {total / 1e6:.1f} MB are novel to a chunker ({novel / total:.1%})"
    )


# ------------------------------------------------------------------------------------------------------------------ diff


def narrow_version(folder: Path, rows: int, seed: int) -> Version:
    """A version of `rows` rows without data files: nine in ten kept; every hundredth other answer per seed."""
    numbers = np.arange(rows)
    chance = np.random.default_rng(seed)
    ids = np.sort(np.array([hashlib.sha256(str(n).encode()).hexdigest()[:20] for n in range(rows)]))
    kept = chance.random(rows) < 0.9
    other = chance.random(rows) < 0.01
    frame = pl.DataFrame(
        {
            "row_id": ids, "content_id": ids, "origin_key": [f"made:{n}" for n in numbers], "source": ["made"] * rows,
            "question": [f"What is {n} times {n}, and why is it so?" for n in numbers],
            "answer": np.where(other, numbers + seed, numbers).astype(str), "license": ["MIT"] * rows,
        }
    )  # fmt: skip
    fates = pl.DataFrame(
        {
            "row_id": ids, "content_id": ids, "origin_key": frame["origin_key"], "source": frame["source"],
            "fate": np.where(kept, "kept", "dropped"), "stage": np.where(kept, "export", "filter"),
            "reason": np.where(kept, "kept", "too long"), "sentence": [""] * rows, "evidence": ["{}"] * rows,
        }
    )  # fmt: skip

    def table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
        have = frame.to_arrow()
        columns = [have[f.name].cast(f.type) if f.name in have.column_names else pa.nulls(rows, f.type) for f in schema]
        return pa.table(columns, names=schema.names)

    beside = folder / f"beside-{seed}"
    (beside / "decisions").mkdir(parents=True)
    pq.write_table(table(frame, ROW), beside / "decisions" / "part-00000-of-00001.parquet")
    pq.write_table(table(fates, LEDGER), beside / "ledger.parquet")
    manifest = {"name": "made", "id": f"{seed:012x}", "stages": [], "counts": {"kept": int(kept.sum())}, "splits": {}}
    commit(beside, folder / "made" / f"{seed:012x}", manifest)
    return Version.open(folder / "made" / f"{seed:012x}")


def comparing(folder: Path, rows: int) -> None:
    a, b = (narrow_version(folder, rows, seed) for seed in (1, 2))
    started, cpu = time.perf_counter(), time.process_time()
    found = diff(a, b)
    took = time.perf_counter() - started
    started = time.perf_counter()
    for version in (a, b):
        pl.read_parquet([*version.files("ledger"), *version.files("decisions")][:1])
        pl.read_parquet(version.files("decisions"))
    read = time.perf_counter() - started
    print(
        f"diff of two versions of {rows:,} rows: {took:.1f} s ({time.process_time() - cpu:.1f} s of CPU), reading them alone {read:.1f} s"
    )
    print(f"  {found.counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=0.5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        if asked.rows:
            comparing(folder, asked.rows)
            scattered(folder)
        if asked.gb:
            publishing(folder, asked.gb)


if __name__ == "__main__":
    main()
