"""Packing: nothing is lost or doubled, the plan can be taken up anywhere, and little room is left empty."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.errors import WinnowError
from training.batches import Share
from training.packing import Order, Pack, Packer, Shape, block_permutation, permutation


def skewed(count: int, largest: int, seed: int = 0) -> np.ndarray:
    """Lengths with mean 675 and median 180, as measured on OpenMMReasoner's SFT set: a log-normal."""
    sigma = math.sqrt(2 * math.log(675 / 180))
    drawn = np.exp(np.random.default_rng(seed).normal(math.log(180), sigma, count)).astype(int) + 1
    return drawn[drawn <= largest]


def packer(lengths: list[int] | np.ndarray, largest: int, **options: object) -> Packer:
    order_options = {key: options.pop(key) for key in ("epochs", "shuffle", "seed") if key in options}
    order = Order(len(lengths), **{"seed": 0, "shuffle": True, "epochs": 1, **order_options})
    return Packer(order, lambda n: Shape(int(lengths[n]), 1, int(lengths[n]) // 4), max_tokens=largest, **options)


@given(st.lists(st.integers(1, 120), min_size=1, max_size=200), st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_every_sample_comes_once_an_epoch_and_no_pack_is_too_full(lengths: list[int], bins: int, epochs: int) -> None:
    assume(min(lengths) <= 100)
    packs = list(packer(lengths, 100, open_bins=bins, epochs=epochs))
    held = Counter(n for pack in packs for n in pack.samples)
    assert held == {n: epochs for n, length in enumerate(lengths) if length <= 100}
    assert all(sum(lengths[n] for n in pack.samples) <= 100 for pack in packs)


def test_samples_that_no_pack_holds_are_told() -> None:
    told = []
    packs = list(packer([5, 500, 7], 100, too_large=lambda n, shape: told.append((n, shape.tokens))))
    assert sorted(n for pack in packs for n in pack.samples) == [0, 2]
    assert told == [(1, 500)]


def test_a_set_in_which_nothing_fits_is_an_error_rather_than_endless() -> None:
    with pytest.raises(WinnowError, match="No sample fits into a pack of 100 tokens"):
        next(iter(packer([500, 600], 100, epochs=None)))


@given(st.lists(st.integers(1, 60), min_size=5, max_size=80), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_a_plan_goes_on_from_its_state(lengths: list[int], at: int) -> None:
    whole = list(itertools.islice(packer(lengths, 100, epochs=None, open_bins=4), at + 20))
    again = packer(lengths, 100, epochs=None, open_bins=4)
    again.resume(whole[at].state)
    assert list(itertools.islice(again, 19)) == whole[at + 1 :]


def test_image_patches_are_a_second_limit() -> None:
    packs = list(packer([40] * 10, 400, max_patches=30, open_bins=2))  # ten patches each
    assert {len(pack.samples) for pack in packs} <= {1, 2, 3} and sum(len(pack.samples) for pack in packs) == 10


def test_without_packing_a_pack_is_a_number_of_samples_in_order() -> None:
    packs = list(packer([3, 9, 50, 1, 1], 60, fixed=2, shuffle=False))
    assert [pack.samples for pack in packs] == [(0, 1), (2, 3), (4,)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_packs_of_a_step_do_not_depend_on_the_number_of_processes(processes: int) -> None:
    lengths = skewed(400, 4000)
    whole = list(packer(lengths, 4000))
    shares = [list(Share(packer(lengths, 4000), rank, processes)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    together = [pack.samples for row in zip(*shares, strict=True) for pack in row]
    assert [samples for samples in together if samples] == [pack.samples for pack in whole]
    # All processes stop behind the same row, and go on from there.
    assert all(a.state == b.state for row in zip(*shares, strict=True) for a, b in itertools.pairwise(row))


@pytest.mark.parametrize(("largest", "wanted"), [(8192, 0.98), (61_440, 0.995)])
def test_efficiency_on_the_lengths_of_openmmreasoner(largest: int, wanted: float) -> None:
    lengths = skewed(60_000, largest)
    packs = list(packer(lengths, largest))
    assert sum(int(lengths[n]) for pack in packs for n in pack.samples) / (len(packs) * largest) >= wanted


def test_orders_are_permutations_that_no_library_version_moves() -> None:
    assert sorted(permutation(1000, 3, 0)) == list(range(1000))
    assert permutation(8, 3, 0).tolist() == [6, 1, 5, 2, 7, 4, 3, 0]
    assert permutation(1000, 3, 0).tolist() != permutation(1000, 3, 1).tolist() != permutation(1000, 4, 1).tolist()
    blocks = [7, 30, 2, 11, 50, 1, 9]
    order = block_permutation(blocks, 0, 0)
    assert sorted(order) == list(range(sum(blocks))) and order.tolist() != block_permutation(blocks, 0, 1).tolist()
    # A window of a streamed order holds few blocks, so few row groups are in memory.
    starts = np.cumsum([0, *blocks])
    first = {int(np.searchsorted(starts, n, side="right")) - 1 for n in order[:10]}
    assert len(first) <= 4


def test_fewer_epochs_than_one_and_more() -> None:
    assert len(list(Order(100, seed=0, shuffle=True, epochs=0.25))) == 25
    assert Counter(Order(10, seed=0, shuffle=False, epochs=2.5)) == {
        **dict.fromkeys(range(5), 3),
        **dict.fromkeys(range(5, 10), 2),
    }


def test_a_pack_is_told_by_its_samples_alone() -> None:
    assert Pack((1, 2), {"at": 1}) == Pack((1, 2), {"at": 2})
