"""Clusters of more texts than one would keep in memory: peak memory, time, and what 100 million would take.

Texts of about 100 bytes are written to an Arrow file, mapped, and clustered in a fresh process with the band keys on
disk. Peak memory is the process's maximum resident set, mapped pages of the text and of the sketches included.

    python tests/benchmarks/bench_out_of_core.py [texts, default 10,000,000] [limit in GB, default 6]
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow as pa
import text_corpus

from curation.kernels import minhash

PART = 1_000_000


def write(path: Path, count: int) -> None:
    schema = pa.schema([("text", pa.large_string())])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in range(0, count, PART):
            made = text_corpus.texts(min(PART, count - part), seed=part + 7, median=100)
            writer.write_batch(pa.record_batch([made], schema=schema))


def cluster(path: Path, scratch: str) -> None:
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).read_all()["text"]
        minhash.clusters(column[:1000])  # compile
        start, wall = time.process_time(), time.perf_counter()
        ids, links = minhash.clusters(column, threads=2, scratch=scratch)
        cpu, wall = time.process_time() - start, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        merged = int((ids != np.arange(len(ids))).sum())
        print(
            f"{len(ids):,} texts, {path.stat().st_size / 1e9:.2f} GB: {cpu:.0f} s of CPU ({cpu / len(ids) * 1e6:.2f} us a"
            f" text), {wall:.0f} s, peak {peak:.2f} GB resident; {merged:,} merged, {links.num_rows:,} links"
        )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    limit = float(sys.argv[2]) if len(sys.argv) > 2 else 6.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.arrow"
        write(path, count)
        command = [sys.executable, __file__, "--cluster", str(path), folder]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(said, end="")
        peak = float(said.split("peak ")[1].split(" GB")[0])
        print(f"within {limit:g} GB" if peak <= limit else f"OVER the limit of {limit:g} GB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cluster"]:
        cluster(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
