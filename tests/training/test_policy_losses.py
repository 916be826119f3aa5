"""Objectives of RL: TRL's to the bit, finite differences, no matter how a step is split; advantages without traps."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from training.advantages import advantages
from training.logprobs import chunked_log_probs
from training.losses import (
    ALGORITHMS,
    Objective,
    Size,
    kl_k3,
    policy_loss,
    truncated_importance,
)

LONGEST = 16
TRL_NAMES = {
    "gspo": ("grpo", "sequence"),
    "grpo": ("grpo", "token"),
    "dr_grpo": ("dr_grpo", "token"),
    "dapo": ("dapo", "token"),
}


def case(seed: int, dtype: torch.dtype = torch.float64, spread: float = 0.3) -> dict[str, Any]:
    """Uneven sequences, some with no token at all in the loss (masked), some far from the old policy."""
    draw = torch.Generator().manual_seed(seed)
    rows, width = 6, 9
    lengths = torch.randint(1, width + 1, (rows,), generator=draw)
    mask = (torch.arange(width)[None] < lengths[:, None]).to(dtype)
    mask[seed % rows] *= seed % 3 != 0
    old = -3 * torch.rand(rows, width, generator=draw, dtype=torch.float64)
    made = {
        "old_logp": old,
        "logp": old + spread * torch.randn(rows, width, generator=draw, dtype=torch.float64),
        "ref_logp": old + spread * torch.randn(rows, width, generator=draw, dtype=torch.float64),
        "advantages": torch.randn(rows, generator=draw, dtype=torch.float64),
        "weights": 0.5 + torch.rand(rows, width, generator=draw, dtype=torch.float64),
    }
    return {name: value.to(dtype) for name, value in made.items()} | {"mask": mask}


def size_of(mask: torch.Tensor) -> Size:
    return Size(len(mask), int(mask.sum()), LONGEST)


def ours(given: dict[str, Any], objective: Objective, *, tis: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    logp = given["logp"].clone().requires_grad_()
    loss, _ = policy_loss(
        logp, given["old_logp"], given["advantages"], given["mask"], objective, size_of(given["mask"]),
        ref_logp=given["ref_logp"], weights=given["weights"] if tis else None,
    )  # fmt: skip
    loss.backward()
    return loss.detach(), logp.grad


def of_trl(trl: Any, given: dict[str, Any], name: str, objective: Objective, *, tis: bool = False) -> Any:
    """TRL's own loss, called on an object that holds only its settings."""
    logp = given["logp"].clone().requires_grad_()
    kind, level = TRL_NAMES[name]
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=objective.kl,
        importance_sampling_level=level, loss_type=kind, epsilon_low=objective.clip_low, epsilon_high=objective.clip_high,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1), use_vllm=tis,
        vllm_importance_sampling_correction=tis, model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1, max_completion_length=LONGEST, _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, **k: x, gather=lambda x: x),
    )  # fmt: skip
    ids = torch.zeros(given["mask"].shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": given["mask"],
        "advantages": given["advantages"], "old_per_token_logps": given["old_logp"],
        "ref_per_token_logps": given["ref_logp"], "importance_sampling_ratio": given["weights"],
        "num_items_in_batch": given["mask"].sum(),
    }  # fmt: skip
    loss = trl._compute_loss(stub, stub.model, inputs)
    loss.backward()
    return loss.detach(), logp.grad


@pytest.mark.parity
@pytest.mark.parametrize("name", TRL_NAMES)
def test_losses_and_gradients_are_those_of_trl(name: str) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install trl").GRPOTrainer
    base = ALGORITHMS[name][0]
    for seed in range(200):
        tis, spread = seed % 4 == 1, (0.0, 3e-4, 0.3)[seed % 3]  # on-policy; partly clipped by GSPO; by the others
        objective = Objective(base.ratio, base.aggregation, base.clip_low, base.clip_high, kl=0.1 * (seed % 2))
        for dtype, bound in ((torch.float64, 0.0), (torch.float32, 1e-5)):
            given = case(seed, dtype, spread)
            mine, theirs = ours(given, objective, tis=tis), of_trl(trl, given, name, objective, tis=tis)
            for a, b in zip(mine, theirs, strict=True):
                assert (a - b).abs().max().item() <= bound, (name, seed, dtype)


SPREAD = {"gspo": 1e-3, "gspo_token": 1e-3}
FROZEN: dict[str, tuple[float, float, float]] = {
    "gspo": (-0.10487925075600518, 0.0485465113452348, 0.0485465113452348),
    "grpo": (-0.16414900184790757, -0.07243470032484253, 0.1695778080240819),
    "dr_grpo": (-0.10276543577970483, -0.032028846696560274, 0.061229273761638545),
    "dapo": (-0.35737707835297156, -0.10693420719572515, 0.20359768989391527),
}
"""TRL 1.16's loss, and the sum and the sum of absolutes of its gradient, for case(7)."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_numbers_of_trl_that_were_written_down(name: str) -> None:
    loss, grad = ours(case(7, spread=SPREAD.get(name, 0.3)), ALGORITHMS[name][0])
    found = (loss.item(), grad.sum().item(), grad.abs().sum().item())
    expected = FROZEN["gspo" if name == "gspo_token" else name]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("spread", [1e-4, 0.5], ids=["unclipped", "clipped"])
def test_gradients_are_finite_differences(name: str, spread: float) -> None:
    given = case(4, spread=spread)
    base = ALGORITHMS[name][0]
    objective = Objective(base.ratio, base.aggregation, base.clip_low, base.clip_high, kl=0.05)
    _, grad = ours(given, objective)
    if base.ratio == "sequence_token":  # its value is that of the sequence form; its own holds a stopped gradient
        objective = Objective("sequence", base.aggregation, base.clip_low, base.clip_high, kl=0.05)
    for place in ((0, 0), (2, 0), (3, 1), (5, 0)):
        values = []
        for step in (1e-7, -1e-7):
            moved = {**given, "logp": given["logp"].clone()}
            moved["logp"][place] += step
            values.append(ours(moved, objective)[0].item())
        assert (values[0] - values[1]) / 2e-7 == pytest.approx(grad[place].item(), abs=1e-6)


def test_gspo_token_is_gspo_where_advantages_do_not_differ_by_token() -> None:
    for seed in range(50):
        one, other = (ours(case(seed), ALGORITHMS[name][0]) for name in ("gspo", "gspo_token"))
        assert (one[0] - other[0]).abs() < 1e-15 and (one[1] - other[1]).abs().max() < 1e-15


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_split_into_micro_batches_and_no_padding_changes_a_step(name: str) -> None:
    given, objective = case(11), ALGORITHMS[name][0]
    loss, grad = ours(given, objective)
    size, parts = size_of(given["mask"]), []
    logp = torch.nn.functional.pad(given["logp"], (0, 4)).requires_grad_()
    for rows in (slice(4, 6), slice(0, 1), slice(1, 4)):
        padded = {k: torch.nn.functional.pad(given[k][rows], (0, 4)) for k in ("old_logp", "mask")}
        part, _ = policy_loss(
            logp[rows], padded["old_logp"], given["advantages"][rows], padded["mask"], objective, size
        )
        part.backward()
        parts.append(part.item())
    assert sum(parts) == pytest.approx(loss.item(), abs=1e-14)
    assert (logp.grad[:, :-4] - grad).abs().max() < 1e-15


def test_a_clipped_sequence_has_no_gradient_and_the_others_have() -> None:
    given = case(1)
    given["mask"][:] = 1
    given["advantages"] = torch.tensor([1.0, 1, -1, -1, 1, -1], dtype=torch.float64)
    shift = torch.tensor([0.1, -0.1, 0.1, -0.1, 0, 0], dtype=torch.float64)
    given["logp"] = given["old_logp"] + shift[:, None]
    _, grad = ours(given, ALGORITHMS["gspo"][0])
    # Better answers stop where they have become likelier, worse ones where they have become less likely.
    assert [bool(row.any()) for row in grad] == [False, True, True, False, True, True]


def test_a_sequence_ratio_is_refused_with_an_aggregation_that_weighs_by_length() -> None:
    with pytest.raises(ValueError, match="seq_mean"):
        Objective("sequence", "token_mean", 3e-4, 4e-4)


def test_kl_is_never_negative_and_importance_is_capped() -> None:
    given = case(2)
    assert (kl_k3(given["logp"], given["ref_logp"]) >= 0).all()
    weights = truncated_importance(given["logp"] + 1, given["old_logp"], 2.0)
    assert weights.max() == 2.0 and weights.min() < 2.0


# ----------------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_log_probs_in_chunks_are_the_dense_ones(chunk: int) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in ((23, 8), (30, 8), (30,))
    )
    targets, banned = torch.randint(3, 30, (23,), generator=draw), torch.tensor([0, 2])
    pull = torch.randn(23, generator=draw, dtype=torch.float64)
    logp, entropy = chunked_log_probs(hidden, weight, targets, bias=bias, temperature=0.7, banned=banned, chunk=chunk)
    grads = torch.autograd.grad((logp * pull).sum(), (hidden, weight, bias))
    logits = ((hidden @ weight.T + bias) / 0.7).index_fill(1, banned, -torch.inf)
    dense = torch.distributions.Categorical(logits=logits)
    expected = torch.autograd.grad((dense.log_prob(targets) * pull).sum(), (hidden, weight, bias))
    assert (logp - dense.log_prob(targets)).abs().max() < 1e-12
    assert (entropy - dense.entropy()).abs().max() < 1e-12
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(grads, expected, strict=True))


# ------------------------------------------------------------------------------------------------------------ advantages


@pytest.mark.parametrize("count", range(2, 33))
def test_equal_rewards_give_exactly_nothing(count: int) -> None:
    for value in (0.1, 0.9, 1 / 3, 0.98):
        found = advantages([value] * count, [0] * count, floor=1e-8)
        assert found.kinds == ["equal"] and not found.values.any()


def test_one_slip_in_format_does_not_explode() -> None:
    rewards, right = [1.0] * 15 + [0.98], [1.0] * 16
    found = advantages(rewards, [0] * 16, accuracy=right)
    assert found.kinds == ["format"] and np.abs(found.values).max() < 0.2
    bare = advantages(rewards, [0] * 16, accuracy=right, floor=0.0)
    assert bare.values.min() == pytest.approx(-3.75)  # what the floor is there for


def test_scales_and_missing_rewards() -> None:
    rewards, groups = [1.0, 0.0, None, 0.0, 1.0, 1.0, None, None], [0, 0, 0, 1, 1, 1, 2, 2]
    by_group = advantages(rewards, groups)
    assert by_group.kinds == ["signal", "signal", "unscored"]
    assert by_group.values[:3] == pytest.approx([0.5**0.5, -(0.5**0.5), 0.0])
    plain = advantages(rewards, groups, scale="none").values
    assert plain[3:6] == pytest.approx([-2 / 3, 1 / 3, 1 / 3]) and not plain[6:].any()
    whole = np.std([1, 0, 0, 1, 1], ddof=1)
    assert advantages(rewards, groups, scale="batch").values == pytest.approx(plain / whole)


def test_with_a_group_s_deviation_the_weight_of_format_says_nothing_without_a_floor() -> None:
    slips = [[weight] * 7 + [0.0] for weight in (0.01, 0.1, 0.5)]
    worst = [advantages(rewards, [0] * 8, floor=0.0).values.min() for rewards in slips]
    assert worst == pytest.approx([worst[0]] * 3)
    told = [advantages(rewards, [0] * 8, scale="none").values.min() for rewards in slips]
    assert told == pytest.approx([-0.00875, -0.0875, -0.4375])
