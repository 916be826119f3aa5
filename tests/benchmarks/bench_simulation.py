"""A whole version of the size of a published one, built from sources whose every defect is known.

Writes the sources of recipes/examples/scale_simulation.yaml, builds it in a process of its own, holds the version against
what was planted, and prints wall and CPU seconds, rows/s by stage, and peak memory of all processes together.

    python tests/benchmarks/bench_simulation.py [--scale 0.02] [--folder DIR]

--scale 1 is the published size: 874,000 examples. With --folder sources that are already there at that scale are taken
as they are, so that writing and building can be separate runs; without, everything goes at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import adopt_orphans, cpu_of_children, tree_bytes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes/examples/scale_simulation.py"
RECIPE = ROOT / "recipes/examples/scale_simulation.yaml"


def measured(what: str, words: list[str], environment: dict[str, str]) -> None:
    """Run a command and print its wall and CPU seconds and the peak of its memory; exit if it fails."""
    cpu, began, peak = cpu_of_children(), time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, *words], env=environment)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.25):
            peak = max(peak, tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    done.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{what} failed")
    wall = time.perf_counter() - began
    print(f"== {what}: {wall:.0f} s, {cpu_of_children() - cpu:.0f} s of CPU, peak {peak / 1e9:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=0.02)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only-write", action="store_true", help="write the sources, build nothing")
    options = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as temporary:
        sources = options.folder or Path(temporary) / "sources"
        workspace = sources / "workspace"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "WINNOW_SIMULATION": str(sources.resolve())}
        planted = sources / "planted.json"
        if not planted.is_file() or json.loads(planted.read_text())["scale"] != options.scale:
            measured("writing the sources", [str(SCRIPT), str(sources), "--scale", str(options.scale)], environment)
        if options.only_write:
            return
        shutil.rmtree(workspace, ignore_errors=True)
        build = ["-m", "curation.cli", "build", str(RECIPE), "--workspace", str(workspace)]
        measured("the build", build, environment)
        (version,) = (path for path in (workspace / "versions/scale-simulation").iterdir() if path.is_dir())
        measured("the check", [str(SCRIPT), str(sources), "--check", str(version)], environment)
        counts = json.loads((version / "manifest.json").read_text())["counts"]
        print(f"== every planted count agrees: {counts['input']:,} rows, {counts['traces']['made']:,} answers, {counts['examples']['sft']:,} examples")  # fmt: skip


if __name__ == "__main__":
    main()
