"""A report of a large version, and the pages of `winnow explore` over it: seconds, memory, the slowest question.

    python tests/benchmarks/bench_report.py [--rows 1000000] [--traces 8] [--workspace FOLDER]

The version is synthetic (large_version.py). The report is written in a process of its own, so that the peak is its own;
pages are asked over HTTP, the first one right after the server has started. The peer is DuckDB reading every column that the
report could read (one pass over the Parquet files): what any report of these figures costs at least.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import duckdb
from large_version import write_large

from curation import reporting
from curation.versions import open_version


def report(workspace: Path) -> tuple[float, int]:
    """(seconds, peak bytes) of `winnow report`; the seconds without the start of Python."""
    code = f"""
import time
from pathlib import Path
from curation import reporting
from curation.versions import open_version
version = open_version("large", Path({str(workspace)!r}))
began = time.perf_counter()
reporting.write(version, Path({str(workspace / "report.html")!r}))
took = time.perf_counter() - began
# Not getrusage: its peak begins at the size that the process which started this one had then.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(took, int(peak.split()[1]) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def one_pass(folder: Path) -> float:
    """Seconds in which DuckDB reads all columns of decisions, traces, verdicts and ledger once."""
    began = time.perf_counter()
    with duckdb.connect() as db:
        for part in ("ledger.parquet", "decisions/*.parquet", "traces/*.parquet", "verdicts/*.parquet"):
            names = [line[0] for line in db.sql(f"describe select * from '{folder / part}'").fetchall()]
            db.sql(f"select {', '.join(f'approx_count_distinct({quoted})' for n in names if (quoted := chr(34) + n + chr(34)))} from '{folder / part}'").fetchall()  # fmt: skip
    return time.perf_counter() - began


def pages(workspace: Path) -> None:
    words = [sys.executable, "-m", "curation.cli", "explore", "large", "--workspace", str(workspace), "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()

    def get(what: str, query: str = "") -> None:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            with urllib.request.urlopen(url + query) as answer:
                answer.read()
            times.append(time.perf_counter() - began)
        print(
            f"explore, {what}: {times[0] * 1e3:,.0f} ms the first time, {sorted(times)[1] * 1e3:,.0f} ms in the middle of three"
        )

    try:
        get("first page")
        get("a filter of rows", "?" + urllib.parse.urlencode({"where": "source = 'source_3' and pass_rate < 0.5"}))
        get("a filter of few rows", "?" + urllib.parse.urlencode({"where": "label_problem = 'suspect_gold'"}))
        get("words in questions", "?" + urllib.parse.urlencode({"where": "question like '%Question 77123:%'"}))
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--workspace", type=Path, help="Made here if it is not there yet, and kept: for looking at it.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workspace = options.workspace or Path(name)
        folder = workspace / "versions" / "large" / "000000000001"
        if not (folder / "manifest.json").exists():
            write_large(workspace, options.rows, options.traces)
        seconds, peak = report(workspace)
        floor = one_pass(folder)
        size = (workspace / "report.html").stat().st_size
        print(
            f"report of {options.rows:,} rows, {options.rows * options.traces:,} traces: {seconds:.1f} s, {peak / 1e6:,.0f} MB at most,"
            f" {size / 1e6:.2f} MB of HTML; {seconds / floor:.1f}x one pass of DuckDB over all columns ({floor:.1f} s)"
        )
        asked = reporting.answers(open_version("large", workspace)).answers
        slowest = max(asked, key=lambda answer: answer.seconds)
        print(f"slowest question: {slowest.question.name}, {slowest.seconds:.2f} s")
        pages(workspace)


if __name__ == "__main__":
    main()
