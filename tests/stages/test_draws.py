"""Draws: known answers against a plain implementation, uniformity, independence of order."""

from __future__ import annotations

import hashlib
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from curation import draws

MASK = (1 << 64) - 1


def plain(row_id: str, seed: int, name: str, index: int = 0) -> int:
    """The documented formula in Python's own integers."""

    def mix(word: int) -> int:
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        return word ^ (word >> 31)

    key = int.from_bytes(hashlib.sha256(f"winnow.draw/{seed}/{index}/{name}".encode()).digest()[:8], "big")
    high, low = int(row_id[:16], 16), int(row_id[16:], 16)
    return mix((mix(key ^ high) + low * 0x9E3779B97F4A7C15) & MASK)


def some_ids(n: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [f"{source.getrandbits(80):020x}" for _ in range(n)]


def test_mix_is_splitmix64() -> None:
    # First outputs of SplitMix64 with seed 0: the finaliser over multiples of the golden gamma.
    words = np.array([(i * 0x9E3779B97F4A7C15) & MASK for i in (1, 2, 3)], np.uint64)
    assert draws.mix(words).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_known_answers() -> None:
    ids = ["00000000000000000000", "ffffffffffffffffffff", "0123456789abcdef0123", *some_ids(50)]
    for seed, name, index in [(0, "mix", 0), (7, "split", 0), (7, "split", 1), (2**63, "ünïcode", 3)]:
        found = draws.draws(pa.array(ids), seed, name, index)
        assert found.dtype == np.uint64
        assert found.tolist() == [plain(i, seed, name, index) for i in ids]


def test_a_number_belongs_to_its_row() -> None:
    ids = some_ids(100)
    alone = [int(draws.draws(pa.array([i]), 3, "mix")[0]) for i in ids]
    sliced = pa.chunked_array([pa.array(ids[:37]), pa.array(["x", *ids[37:]]).slice(1)])
    assert draws.draws(sliced, 3, "mix").tolist() == alone


def test_uniform_and_unrelated() -> None:
    # Sequential ids are the hard case for a mixer: only their last bits differ.
    ids = pa.array([f"{i:020x}" for i in range(100_000)])
    first, second = (draws.draws(ids, 1, "mix", index) for index in (0, 1))
    for numbers in (first, second):
        counts = np.bincount((numbers >> np.uint64(54)).astype(np.int64), minlength=1024)
        chi_squared = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert abs(chi_squared - 1023) < 5 * (2 * 1023) ** 0.5
    assert abs(np.corrcoef(first.astype(float), second.astype(float))[0, 1]) < 0.015
    assert len(np.unique(first)) == len(first)


def test_below_is_exact() -> None:
    numbers = np.array([0, 2**62 - 1, 2**62, 2**63, MASK], np.uint64)
    assert draws.below(numbers, Fraction(1, 4)).tolist() == [True, True, False, False, False]
    assert draws.below(numbers, Fraction(1)).all()
    assert not draws.below(numbers, Fraction(0)).any()


def test_order_breaks_ties_by_id() -> None:
    ids = pa.array(["b" * 20, "a" * 20, "c" * 20])
    assert draws.order(ids, np.array([5, 5, 1], np.uint64)).tolist() == [2, 1, 0]


@pytest.mark.parametrize("bad", [["abc"], ["G" * 20], ["A" * 20], [None]])
def test_other_ids_are_refused(bad: list[str | None]) -> None:
    with pytest.raises(ValueError, match="hex digits"):
        draws.draws(pa.array(bad, pa.string()), 0, "mix")


def test_no_rows() -> None:
    assert len(draws.draws(pa.array([], pa.string()), 0, "mix")) == 0
