"""Losses: pure functions on tensors, no I/O, no state."""

from __future__ import annotations

from typing import Any

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
