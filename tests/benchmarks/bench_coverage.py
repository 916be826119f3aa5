"""Choosing few rows that cover many: time, and what buckets lose against exact greedy and win over chance.

    python tests/benchmarks/bench_coverage.py [rows]

Vectors of 256 dimensions around 2,000 centres of very unequal weight; a tenth of the rows is taken. Exact greedy looks at
all pairs; tests/kernels/test_coverage.py holds the same scheme to a plain greedy.
"""

from __future__ import annotations

import resource
import sys
import time

import numba
import numpy as np

from curation.kernels import coverage

EXACT = 20_000


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """int16 (n, 256)"""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2000, 256)).astype(np.float32)
    weights = rng.dirichlet(np.full(len(centres), 0.3))
    out = np.empty((n, 256), np.int16)
    for start in range(0, n, 50_000):
        size = min(50_000, n - start)
        noise = rng.normal(size=(size, 256)).astype(np.float32) * rng.uniform(0.3, 1.2, (size, 1)).astype(np.float32)
        out[start : start + size] = coverage.quantise(centres[rng.choice(len(centres), size, p=weights)] + noise)
    return out


@numba.njit(parallel=True)  # type: ignore[untyped-decorator]
def exact_greedy(near, take):  # type: ignore[no-untyped-def]
    """Picks of plain lazy greedy over a full matrix of similarities."""
    n = len(near)
    covered, bounds = np.zeros(n, np.int32), np.empty(n, np.int64)
    for j in numba.prange(n):
        bounds[j] = near[j].sum()
    picks = np.empty(take, np.int64)
    for t in range(take):
        counted = -1
        while True:
            best = np.argmax(bounds)
            if best == counted:
                break
            bounds[best] = np.maximum(near[best] - covered, 0).sum()
            counted = best
        picks[t] = counted
        covered = np.maximum(covered, near[counted])
        bounds[counted] = -1
    return picks


def similarities(vectors: np.ndarray) -> np.ndarray:
    """int32 (n, n), those below zero as zero; exact, since float64 holds all sums."""
    out = np.empty((len(vectors), len(vectors)), np.int32)
    wide = vectors.astype(np.float64)
    for start in range(0, len(wide), 1000):
        out[start : start + 1000] = np.maximum(wide[start : start + 1000] @ wide.T, 0)
    return out


def timed(label: str, *args: object, **options: object) -> np.ndarray:
    wall, cpu = time.monotonic(), time.process_time()
    chosen = coverage.select(*args, **options)  # type: ignore[arg-type]
    print(f"  {label:<40} {time.monotonic() - wall:7.1f} s wall {time.process_time() - cpu:7.1f} s CPU")
    return chosen


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    small = vectors(EXACT)
    rank = np.arange(EXACT)
    for method in ("facility_location", "k_center"):  # compile
        coverage.select(small[:100], 10, rank=rank[:100], method=method)  # type: ignore[arg-type]
    coverage.covered(small[:100], rank[:10])

    print(f"{EXACT:,} rows, {EXACT // 10:,} taken:")
    exact = coverage.covered(small, exact_greedy(similarities(small), EXACT // 10), threads=2)
    ours = coverage.covered(small, timed("in buckets", small, EXACT // 10, rank=rank), threads=2)
    chance = coverage.covered(small, np.random.default_rng(1).choice(EXACT, EXACT // 10, replace=False), threads=2)
    print(f"  coverage: exact {exact:.4f}, in buckets {ours:.4f} ({ours / exact:.2%} of it), by chance {chance:.4f}")

    large = vectors(n)
    print(f"{n:,} rows, {n // 10:,} taken, two threads:")
    for method in ("facility_location", "k_center"):
        timed(method, large, n // 10, rank=np.arange(n), method=method, threads=2)
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:,.0f} MiB")


if __name__ == "__main__":
    main()
