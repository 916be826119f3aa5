"""Hamming search over picture hashes: growth from 25k to 100k pictures, against comparing all pairs.

The pictures are drawn, small: polygons and lines on white, some bar charts, 10 % altered copies. Hashes of such
pictures are far from uniform, which is what makes a multi-index search hard. The peer is the same distance on all
pairs in one numba loop, measured on 20,000 pictures (it grows with the square).

    python tests/benchmarks/bench_hamming.py [pictures]
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numba
import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from curation.images import difference_hash
from curation.kernels import _hamming, hamming


def draw(rng: np.random.Generator) -> Image.Image:
    image = Image.new("L", (68, 64), 255)
    pen = ImageDraw.Draw(image)
    if rng.random() < 0.3:
        for bar in range(rng.integers(3, 8)):
            pen.rectangle(
                [6 + 8 * bar, 60 - int(rng.integers(4, 54)), 11 + 8 * bar, 60], fill=int(rng.integers(0, 200))
            )
    else:
        pen.polygon(list(map(int, rng.integers(4, 62, 2 * rng.integers(3, 7)))), outline=0)
    for _ in range(rng.integers(0, 4)):
        pen.line(list(map(int, rng.integers(2, 64, 4))), fill=0)
    return image


def hashes(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    out: list[str] = []
    while len(out) < count:
        image = draw(rng)
        out.append(difference_hash(image))
        if rng.random() < 0.1:
            out.append(difference_hash(image.resize((170, 160)).crop((1, 1, 168, 158))))
    return out[:count]


@numba.njit
def all_pairs(codes, radius):
    found = 0
    for i in range(len(codes)):
        for j in range(i):
            distance = _hamming.popcount(codes[i, 0] ^ codes[j, 0]) + _hamming.popcount(codes[i, 1] ^ codes[j, 1])
            if distance <= radius:
                distance += _hamming.popcount(codes[i, 2] ^ codes[j, 2]) + _hamming.popcount(codes[i, 3] ^ codes[j, 3])
                found += distance <= radius
    return found


def seconds(function, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    every = pa.array(hashes(count))
    hamming.pairs(every[:100])
    sample = hamming.codes(every[:20_000])[0]
    all_pairs(sample[:10], 24)
    brute = seconds(lambda: all_pairs(sample, 24)) * (count / 20_000) ** 2
    print(f"all pairs, scaled from 20,000 to {count:,} pictures: {brute:.1f} s of CPU")
    for radius in (8, 16, 24):
        taken = []
        for size in (count // 4, count // 2, count):
            part = every[:size]
            taken.append(seconds(lambda part=part, radius=radius: hamming.pairs(part, radius=radius)))
        found = hamming.pairs(every, radius=radius).num_rows
        exponent = np.log(taken[2] / taken[0]) / np.log(4)
        steps = " / ".join(f"{t:.2f}" for t in taken)
        print(
            f"radius {radius}: {steps} s of CPU at 1/4, 1/2, all; exponent {exponent:.2f}; {found:,} links;"
            f" {brute / taken[2]:.1f}x all pairs"
        )


if __name__ == "__main__":
    main()
