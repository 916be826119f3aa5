"""The arithmetic of evaluation against worked cases, brute force and known distributions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from training import scores


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer() -> None:
    for right, n in itertools.product(range(6), (5,)):
        marks = [1] * right + [0] * (n - right)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(marks, k))
            assert scores.pass_at(right, n, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="pass@6 of 5"):
        scores.pass_at(1, 5, 6)


def test_majority_is_a_vote_and_not_a_share_above_one_half() -> None:
    # Two of five are right, and the others disagree: the vote is right although the share is 0.4.
    assert scores.majority_at([0, 0, 1, 2, 3], 0, 5) == 1.0
    # Three of five agree on a wrong answer.
    assert scores.majority_at([0, 0, 1, 1, 1], 0, 5) == 0.0
    # A tie is drawn by lot; an answer that names nothing does not vote.
    assert scores.majority_at([0, 1, -1, -1], 0, 4) == 0.5
    assert scores.majority_at([-1, -1], 0, 2) == 0.0
    # maj@1 is the mean.
    assert scores.majority_at([0, 0, 1, 2, -1], 0, 1) == pytest.approx(0.4)


def test_majority_over_drawn_subsets_is_near_that_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = [0] * 6 + [1] * 5 + [2, 3, -1]
    exact = scores.majority_at(votes, 0, 5)  # 2,002 subsets are more than are gone through
    monkeypatch.setattr(scores, "SUBSETS", 10_000)
    assert scores.majority_at(votes, 0, 5) == pytest.approx(exact, abs=0.04)


def test_we_maths_four_cases() -> None:
    whole, part, none = (True, True), (True, False), (False, False)
    assert [scores.mastery(s, True, loose=False) for s in (whole, part, none)] == [1, 0, 0]
    assert [scores.mastery(s, True, loose=True) for s in (whole, part, none)] == [1, 1, 0]
    assert [scores.mastery(s, False, loose=True) for s in (whole, part, none)] == [0.5, 0, 0]


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = (np.arange(400) % 4 == 0).astype(float)
    found = scores.estimate(values, None, [str(i) for i in range(400)])
    assert found.value == 0.25
    assert found.error == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.1)
    assert found.half == pytest.approx(1.96 * found.error, rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(5)
    hits = 0
    for seed in range(120):
        seeds = draw.random(60) < 0.4  # sixty seed questions whose five variants are all alike
        values = np.repeat(seeds.astype(float), 5)
        found = scores.estimate(values, None, [str(i // 5) for i in range(300)], seed=seed)
        hits += found.low <= 0.4 <= found.high
    assert 104 <= hits <= 120  # 95 % of 120 is 114; by answers instead of clusters about 60 % would be hit


def test_variants_of_one_seed_are_no_independent_observations() -> None:
    values = np.repeat((np.arange(50) % 2).astype(float), 10)
    alone = scores.estimate(values, None, [str(i) for i in range(500)])
    clustered = scores.estimate(values, None, [str(i // 10) for i in range(500)])
    assert clustered.value == alone.value
    assert clustered.error == pytest.approx(math.sqrt(10) * alone.error, rel=0.15)
    assert (clustered.clusters, clustered.units) == (50, 500)


def test_none_right_is_not_known_for_certain() -> None:
    found = scores.estimate(np.zeros(30), None, [str(i) for i in range(30)])
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_a_paired_difference_is_shown_where_two_intervals_overlap() -> None:
    draw = np.random.default_rng(1)
    a = (draw.random(300) < 0.5).astype(float)
    b = a.copy()
    b[np.flatnonzero(a == 0)[:15]] = 1  # B solves all that A does, and fifteen more
    names = [str(i) for i in range(300)]
    one, two = scores.estimate(a, None, names), scores.estimate(b, None, names)
    assert one.high > two.low
    found = scores.difference(a, b, names)
    assert found.value == pytest.approx(0.05) and found.shown and found.p < 0.001


def test_equal_models_are_not_told_apart() -> None:
    draw = np.random.default_rng(2)
    told = 0
    for seed in range(100):
        a, b = ((draw.random(100) < 0.6).astype(float) for _ in range(2))
        told += scores.difference(a, b, [str(i) for i in range(100)], seed=seed).shown
    assert told <= 12  # five are expected
    same = np.ones(5)
    assert scores.difference(same, same, list("abcde")).p == 1.0


def test_few_clusters_have_an_exact_p() -> None:
    # Five differences of one sign: of 2^5 sign patterns two are as extreme.
    assert scores.difference(np.zeros(5), np.ones(5), list("abcde")).p == pytest.approx(2 / 32)


def test_over_seeds_is_students() -> None:
    mean, low, high = scores.over_seeds([1.0, 2.0, 3.0])
    assert mean == 2.0 and high - mean == pytest.approx(4.303 / math.sqrt(3), rel=1e-3) and low < 0
    assert scores.over_seeds([0.5])[1:] == (-math.inf, math.inf)


def test_holm() -> None:
    assert scores.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
