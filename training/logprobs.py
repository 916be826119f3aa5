"""Log-probabilities of sampled tokens, from hidden states, without all logits at once.

Sampling and scoring must be one distribution: the temperature divides the logits, and ids that the sampler never takes
have probability 0 here too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ChunkedLogProbs(torch.autograd.Function):  # type: ignore[misc]
    """Logits of a chunk are made in the forward pass, and once more in the backward pass: they never stay."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float,
        banned: Tensor | None, chunk: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp = torch.empty(len(targets), dtype=wide, device=hidden.device)
        entropy = torch.empty_like(logp)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logs = _log_softmax(hidden[part], weight, bias, temperature, banned)
            logp[part] = logs.gather(1, targets[part, None])[:, 0]
            entropy[part] = -(logs.exp() * logs.masked_fill(logs.isneginf(), 0)).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, banned)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, banned = ctx.saved_tensors
        wide = grad.dtype
        by_hidden = torch.empty_like(hidden)
        by_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias, dtype=wide) if bias is not None else None
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            # d logp / d logits = (one-hot - softmax) / T
            slope = _log_softmax(hidden[part], weight, bias, ctx.temperature, banned).exp_().neg_()
            slope[torch.arange(len(slope), device=slope.device), targets[part]] += 1
            slope *= grad[part, None] / ctx.temperature
            narrow = slope.to(hidden.dtype)
            by_hidden[part] = narrow @ weight
            if by_weight is not None:
                by_weight += narrow.T @ hidden[part]
            if by_bias is not None:
                by_bias += slope.sum(0)
        return (
            by_hidden, None if by_weight is None else by_weight.to(weight.dtype),
            None if by_bias is None else by_bias.to(bias.dtype), None, None, None, None,
        )  # fmt: skip


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, banned: Any) -> Tensor:
    logits = (hidden @ weight.T).to(torch.promote_types(hidden.dtype, torch.float32))
    logits = (logits if bias is None else logits + bias) / temperature
    return (logits if banned is None else logits.index_fill(1, banned, -torch.inf)).log_softmax(-1)


def chunked_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, temperature: float = 1.0,
    banned: Tensor | None = None, chunk: int = 1024,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Log-probabilities of a linear head under the distribution that was sampled from: logits / T, banned ids at -inf.

    hidden [N, D], weight [V, D], targets [N]; banned: ids that the sampler never takes
    Returns (log p of the targets [N], differentiable; entropy in nats [N], without gradient).
    """
    logp, entropy = _ChunkedLogProbs.apply(hidden, weight, bias, targets, temperature, banned, chunk)
    return logp, entropy
