"""Losses: pure functions on tensors, no I/O, no state.

Cross-entropy for SFT, and the objectives of RL (their log-probabilities: training/logprobs.py). A step's denominators are
counted over all its micro-batches and processes and handed in, so no split changes a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


class _ChunkedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Gradients are made in the forward pass, chunk by chunk, so that one chunk of logits exists at a time and none is
    computed twice (as in Liger-Kernel's fused linear cross-entropy, arXiv 2410.10989, §3.2)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        # Logits and sums over chunks are in float32 whatever the weights are, in float64 where those are.
        wide = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.empty(len(targets), dtype=wide, device=hidden.device)
        by_hidden = torch.empty_like(hidden) if want_hidden else None
        by_weight = torch.zeros_like(weight, dtype=wide) if want_weight else None
        by_bias = torch.zeros_like(bias, dtype=wide) if want_bias and bias is not None else None
        for start in range(0, len(targets), chunk):
            part, aim = hidden[start : start + chunk], targets[start : start + chunk]
            logits = (part @ weight.T).to(wide)
            if bias is not None:
                logits += bias
            log_sum = logits.logsumexp(dim=-1)
            nll[start : start + chunk] = log_sum - logits.gather(1, aim[:, None])[:, 0]
            if not (want_hidden or want_weight or want_bias):
                continue
            # d nll / d logits = softmax - one-hot
            logits.sub_(log_sum[:, None]).exp_()
            logits[torch.arange(len(aim), device=aim.device), aim] -= 1
            logits *= scale
            slope = logits.to(hidden.dtype)
            if by_hidden is not None:
                by_hidden[start : start + chunk] = slope @ weight
            if by_weight is not None:
                if by_weight.dtype == slope.dtype:
                    by_weight.addmm_(slope.T, part)
                else:
                    by_weight += slope.T @ part
            if by_bias is not None:
                by_bias += logits.sum(0)
        ctx.grads = [
            None if grad is None or like is None else grad.to(like.dtype)
            for grad, like in ((by_hidden, hidden), (by_weight, weight), (by_bias, bias))
        ]
        loss = nll.sum() * scale
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return *(None if g is None else g * grad.to(g.dtype) for g in ctx.grads), None, None, None


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a linear head whose logits never exist all at once.

    hidden   [N, D] hidden states that predict the targets (select them first: the others need no logits)
    weight   [V, D] of the head
    targets  [N] token ids
    scale    factor of the sum: 1 / (targets of the whole step) makes it the step's mean
    chunk    rows whose logits [chunk, V] exist at once
    Returns (scale · Σ nll, a differentiable scalar; nll [N] in nats, float32 or wider, without gradient).
    """
    loss, nll = _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, scale, chunk)
    return loss, nll


# ------------------------------------------------------------------------------------------------------ policy gradients

Ratio = Literal["token", "sequence", "sequence_token"]
Aggregation = Literal["seq_mean", "token_mean", "constant"]


@dataclass(frozen=True)
class Objective:
    """What an algorithm's name fixes. r = π/π_old; A the advantage; m the mask of generated tokens.

    ratio        token: r_t. sequence: the geometric mean of r_t over the sequence. sequence_token: its value with the
                 gradient of r_t, for advantages that differ by token
    aggregation  seq_mean: Σ_i (Σ_t l m / Σ_t m) / N. token_mean: Σ l m / Σ m. constant: Σ l m / (N · L_max)
    clip         ratios are held within [1 - low, 1 + high]
    kl           weight of the k3 estimate of KL(π ‖ π_ref)
    """

    ratio: Ratio
    aggregation: Aggregation
    clip_low: float
    clip_high: float
    kl: float = 0.0

    def __post_init__(self) -> None:
        if self.ratio != "token" and self.aggregation != "seq_mean":
            raise ValueError(
                f"The ratio `{self.ratio}` goes with the aggregation `seq_mean`: {self.aggregation} would weigh each "
                "sequence by its length, which is what the sequence's ratio takes out."
            )


ALGORITHMS: dict[str, tuple[Objective, str]] = {
    "gspo": (Objective("sequence", "seq_mean", 3e-4, 4e-4), "group"),
    "gspo_token": (Objective("sequence_token", "seq_mean", 3e-4, 4e-4), "group"),
    "grpo": (Objective("token", "seq_mean", 0.2, 0.2), "group"),
    "dr_grpo": (Objective("token", "constant", 0.2, 0.2), "none"),
    "dapo": (Objective("token", "token_mean", 0.2, 0.28), "group"),
}
"""Objective, and by what advantages are divided (training/advantages.py):

gspo, gspo_token  arXiv 2507.18071, eq. 5-7 and 13-14: s_i = exp(mean_t log r_it); -(1/N) Σ_i min(s_i A_i, clip(s_i) A_i)
grpo              arXiv 2402.03300, eq. 3: -(1/N) Σ_i (1/|y_i|) Σ_t min(r_it A_i, clip(r_it) A_i)
dr_grpo           arXiv 2503.20783, §3.3: GRPO with 1/L_max for 1/|y_i|, and no division by the group's deviation
dapo              arXiv 2503.14476, eq. 8: GRPO with a higher upper clip, and every token of the step weighing the same
"""


@dataclass(frozen=True)
class Size:
    """What a whole optimizer step holds, over micro-batches and processes: sequences, generated tokens, L_max."""

    sequences: int
    tokens: int
    longest: int


def sequence_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sequence over its generated tokens: [B, T] -> [B]; 0 where it has none."""
    return (value * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)


def log_ratios(logp: Tensor, old_logp: Tensor, mask: Tensor, ratio: Ratio) -> Tensor:
    """log of the importance ratio: [B, T] by token, [B, 1] by sequence (GSPO, eq. 7), [B, T] for GSPO-token (eq. 14)."""
    by_token = logp - old_logp
    if ratio == "token":
        return by_token
    by_sequence = sequence_mean(by_token, mask)[:, None]
    return by_sequence if ratio == "sequence" else logp - logp.detach() + by_sequence.detach()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347, eq. 7)."""
    return -torch.min(ratio * advantages, torch.clamp(ratio, 1 - low, 1 + high) * advantages)


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Estimate of KL(π ‖ π_ref) by token, never negative: q - log q - 1 with q = π_ref / π (GRPO, eq. 4)."""
    return torch.exp(ref_logp - logp) - (ref_logp - logp) - 1


def truncated_importance(old_logp: Tensor, rollout_logp: Tensor, cap: float) -> Tensor:
    """Weights min(π_old / π_rollout, cap) by token, without gradient: the sampler's own numerics are not the trainer's
    (truncated importance sampling, as in IMPALA, arXiv 1802.01561, §4.1)."""
    return torch.exp(old_logp - rollout_logp).clamp(max=cap).detach()


def aggregate(loss: Tensor, mask: Tensor, how: Aggregation, size: Size) -> Tensor:
    """Share of a micro-batch in its step's mean: the shares of all micro-batches and processes add up to it."""
    if how == "seq_mean":
        return sequence_mean(loss, mask).sum() / max(size.sequences, 1)
    summed = (loss * mask).sum()
    return summed / (max(size.tokens, 1) if how == "token_mean" else max(size.sequences, 1) * size.longest)


def policy_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor, objective: Objective, size: Size, *,
    ref_logp: Tensor | None = None, weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The share of these sequences in the loss of their step.

    logp, old_logp, ref_logp [B, T]; advantages [B] or [B, T]; mask [B, T], 1 on generated tokens with their end
    weights  [B, T] factors of the surrogate, as `truncated_importance` gives them
    Returns (differentiable scalar, {ratio, clipped, kl} without gradient: [B, T], or [B, 1] by sequence).
    """
    if advantages.dim() == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(log_ratios(logp, old_logp, mask, objective.ratio))
    loss = clipped_surrogate(ratio, advantages, objective.clip_low, objective.clip_high)
    low, high = ratio < 1 - objective.clip_low, ratio > 1 + objective.clip_high
    seen = {"ratio": ratio.detach(), "clipped": (low & (advantages < 0)) | (high & (advantages > 0))}
    if weights is not None:
        loss = loss * weights
    if objective.kl and ref_logp is not None:
        kl = kl_k3(logp, ref_logp)
        loss, seen["kl"] = loss + objective.kl * kl, kl.detach()
    return aggregate(loss, mask, objective.aggregation, size), seen
