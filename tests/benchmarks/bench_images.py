"""How much the image store costs beside decoding: hash, decode, perceptual hash and pack, against a bare Pillow loop.

    python tests/benchmarks/bench_images.py [FOLDER]

FOLDER has Parquet files with an `images` column (WINNOW_DATA, or synthetic pictures where there is none). CPU time,
median of five rounds that alternate; exits with 1 below a ratio of 0.8.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from curation.images import ImageWriter

ROUNDS = 5
TARGET = 0.8


def synthetic(count: int = 60) -> list[bytes]:
    """Pictures of 800 x 600 with shapes and noise, as PNG, JPEG and WebP in turn."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        pixels = np.kron(rng.integers(0, 256, (30, 40, 3)), np.ones((20, 20, 1))) + rng.integers(0, 8, (600, 800, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, ("PNG", "JPEG", "WEBP")[i % 3])
        made.append(buffer.getvalue())
    return made


def real(file: Path, most: int = 200) -> list[bytes]:
    pictures = pq.read_table(file, columns=["images"])["images"].to_pylist()
    return list(dict.fromkeys(picture["bytes"] for row in pictures for picture in row or ()))[:most]


def decode(pictures: list[bytes]) -> None:
    for data in pictures:
        Image.open(io.BytesIO(data)).load()


def store(pictures: list[bytes]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="winnow-bench-"))
    try:
        with ImageWriter(folder) as writer:
            for data in pictures:
                writer.add(data)
    finally:
        shutil.rmtree(folder)


def seconds(work: Callable[[list[bytes]], None], pictures: list[bytes]) -> float:
    start = time.process_time()
    work(pictures)
    return time.process_time() - start


def main() -> int:
    warnings.simplefilter("ignore")
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WINNOW_DATA")
    files = sorted(Path(folder).rglob("multimodal/*.parquet")) if folder else []
    sets = {file.stem: real(file) for file in files} or {"synthetic": synthetic()}
    store(synthetic(3))  # compiles the kernel
    bare_total = ours_total = 0.0
    for name, pictures in sets.items():
        pairs = [(seconds(decode, pictures), seconds(store, pictures)) for _ in range(ROUNDS)]
        bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        bare_total, ours_total = bare_total + bare, ours_total + ours
        print(
            f"{name:16} {len(pictures):4} pictures, {sum(map(len, pictures)) / 1e6:6.1f} MB: "
            f"decode {bare:6.3f} s, store {ours:6.3f} s, ratio {bare / ours:.2f}"
        )
    ratio = bare_total / ours_total
    print(f"image store: {ratio:.2f}x the speed of a bare Pillow decode loop (target {TARGET})")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
