"""Few rows that cover many: greedy is greedy, buckets lose little, and nothing but the vectors decides."""

from __future__ import annotations

import numpy as np
import pytest

from curation.kernels import coverage
from curation.kernels.coverage import LENGTH


def blobs(n: int, seed: int = 0, d: int = 48, k: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * 2
    return coverage.quantise(centres[rng.choice(k, n)] + rng.normal(size=(n, d)))


def plain_facility(vectors: np.ndarray, take: int) -> list[int]:
    near = np.maximum(vectors.astype(np.int64) @ vectors.T.astype(np.int64), 0)
    best, picks = np.zeros(len(vectors), np.int64), []
    for _ in range(take):
        gains = np.maximum(near - best, 0).sum(axis=1)
        gains[picks] = -1
        picks.append(int(np.argmax(gains)))
        best = np.maximum(best, near[picks[-1]])
    return picks


def plain_centers(vectors: np.ndarray, take: int) -> list[int]:
    dots = vectors.astype(np.int64) @ vectors.T.astype(np.int64)
    picks, far = [0], np.full(len(vectors), np.iinfo(np.int64).max)
    while len(picks) < take:
        last = picks[-1]
        far = np.minimum(far, np.maximum(dots[last, last] - dots[last], 0))
        far[picks] = -1
        picks.append(int(np.argmax(far)))
    return picks


@pytest.mark.parametrize(("method", "plain"), [("facility_location", plain_facility), ("k_center", plain_centers)])
@pytest.mark.parametrize("seed", range(3))
def test_in_one_bucket_it_is_greedy(method: str, plain: object, seed: int) -> None:
    vectors = blobs(150, seed)
    chosen = coverage.select(vectors, 40, rank=np.arange(150), method=method, neighbours=150)  # type: ignore[arg-type]
    assert chosen.tolist() == plain(vectors, 40)  # type: ignore[operator]


def test_buckets_lose_little_and_beat_chance() -> None:
    vectors, rank = blobs(3000), np.arange(3000)
    exact = coverage.covered(vectors, coverage.select(vectors, 150, rank=rank, bucket=3000, neighbours=3000))
    ours = coverage.covered(vectors, coverage.select(vectors, 150, rank=rank, bucket=300))
    chance = np.mean([coverage.covered(vectors, np.random.default_rng(s).choice(3000, 150)) for s in range(3)])
    assert ours > 0.98 * exact
    assert ours > chance + 0.5 * (exact - chance)


@pytest.mark.parametrize("method", ["facility_location", "k_center"])
def test_positions_and_threads_do_not_matter(method: str) -> None:
    vectors, rank = blobs(2000, 5), np.random.default_rng(1).permutation(2000)
    want = rank[coverage.select(vectors, 100, rank=rank, method=method, bucket=128)]  # type: ignore[arg-type]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(2000)
        chosen = coverage.select(vectors[order], 100, rank=rank[order], method=method, bucket=128, threads=2)  # type: ignore[arg-type]
        assert rank[order][chosen].tolist() == want.tolist()


def test_more_is_the_same_and_more() -> None:
    vectors, rank = blobs(500), np.arange(500)
    few, many = (coverage.select(vectors, n, rank=rank, bucket=64).tolist() for n in (20, 200))
    assert many[:20] == few and len(set(many)) == 200
    assert sorted(coverage.select(vectors, 10_000, rank=rank, bucket=64).tolist()) == list(range(500))


def test_copies_and_zeros_are_taken_last() -> None:
    vectors = coverage.quantise(np.concatenate([np.eye(6), np.eye(6), np.zeros((3, 6))]))
    chosen = coverage.select(vectors, 15, rank=np.arange(15), bucket=4)
    assert sorted(chosen[:6] % 6) == list(range(6)), "one of each before a second"
    assert sorted(chosen.tolist()) == list(range(15))
    assert len(coverage.select(coverage.quantise(np.ones((50, 4))), 7, rank=np.arange(50), bucket=8)) == 7


def test_quantised_vectors_have_one_length() -> None:
    rng = np.random.default_rng(3)
    wild = rng.normal(size=(200, 256)) * 10.0 ** rng.integers(-150, 150, (200, 1))
    lengths = np.sqrt((coverage.quantise(wild).astype(np.int64) ** 2).sum(axis=1))
    assert np.all(np.abs(lengths - LENGTH) < 16)
    assert not coverage.quantise(np.zeros((2, 3))).any()
    assert coverage.quantise(np.empty((0, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match="vector 1 has a value that is not finite"):
        coverage.quantise(np.array([[1.0, 2.0], [np.nan, 0.0]]))


def test_most_different_of_each_group() -> None:
    same, other, third = (np.full(16, v, np.uint32) for v in (1, 2, 3))
    near = same.copy()
    near[0] = 9
    sketches = np.stack([same, same, near, other, third, same, same, near, other])
    picked = coverage.most_different(sketches, np.array([0, 5, 5, 7, 9]), 2)
    assert picked.tolist() == [True, False, False, True, False, True, True, True, True]
    picked = coverage.most_different(sketches[:5], np.array([0, 5]), 3)
    assert picked.tolist() == [True, False, False, True, True]
    picked = coverage.most_different(sketches[:5], np.array([0, 5]), 1)
    assert picked.tolist() == [True, False, False, False, False], "the one nearest to all others"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bucket": 1}, "bucket must be 2"),
        ({"threads": 0}, "and neighbours 1 or more"),
        ({"rank": np.arange(3)}, "one rank a row"),
    ],
)
def test_bad_arguments(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        coverage.select(blobs(10), 2, **{"rank": np.arange(10), **options})  # type: ignore[arg-type]
