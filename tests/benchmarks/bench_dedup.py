"""The stage dedup through whole builds: time, peak memory and growth where half of the rows must be looked at closely.

    python tests/benchmarks/bench_dedup.py [rows, default 1,000,000]

Rows are texts of 330 bytes; every other one is an earlier one again, in capitals or with other white space, a tenth of
those with another answer. The peer is the least that any exact merge does: polars' `unique` on the lower-cased text and
the answer, which knows neither answers that agree nor conflicts nor siblings. Peak memory is that of a fresh process.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import text_corpus
import yaml

from curation import build
from curation.console import Quiet


class Clock(Quiet):
    """Keeps how long the stage took."""

    seconds = 0.0

    def stage_finished(
        self, name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None
    ) -> None:
        if name == "dedup":
            self.seconds = seconds or 0.0


def write(folder: Path, rows: int) -> None:
    texts = pl.Series(text_corpus.texts(rows // 2).cast(pa.string()))
    number = pl.int_range(pl.len())
    first = pl.DataFrame({"question": texts}).with_columns(answer=(number * 7919 % 9973).cast(pl.String))
    again = first.with_columns(
        question=pl.when(number % 2 == 0)
        .then(pl.col("question").str.to_uppercase())
        .otherwise(" " + pl.col("question")),
        answer=pl.when(number % 10 == 0).then(pl.lit("other")).otherwise("answer"),
    )
    pq.write_table(pl.concat([first, again]).to_arrow(), folder / "rows.parquet")
    recipe = {
        "name": "bench",
        "sources": [{"parquet": "rows.parquet", "license": "MIT"}],
        "language": "none",
        "stages": [{"stage": "dedup"}],
        "outputs": [{"export": "rl"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def measure(folder: Path) -> None:
    clock = Clock()
    version = build(folder / "recipe.yaml", workspace=folder / "ws", workers=1, reporter=clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    notes = next(stage["notes"] for stage in version.manifest["stages"] if stage["kind"] == "dedup")
    print(
        f"{notes['rows']:,} rows: stage {clock.seconds:.1f} s, peak of the build {peak:.2f} GB; {notes['duplicates']:,} "
        f"duplicates, {notes['label_conflicts']['questions']:,} label conflicts",
        flush=True,
    )


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for count in (rows // 4, rows):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), count)
            subprocess.run([sys.executable, __file__, "--measure", folder], check=True)
            if count == rows:
                frame = pl.read_parquet(Path(folder) / "rows.parquet")
                start = time.perf_counter()
                kept = frame.unique([pl.col("question").str.strip_chars().str.to_lowercase(), "answer"])
                print(f"polars unique: {time.perf_counter() - start:.1f} s, {frame.height - kept.height:,} gone")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
    else:
        main()
