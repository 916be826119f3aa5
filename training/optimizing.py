"""The optimizer, its schedule and the norm of the gradient."""

from __future__ import annotations

import math

import torch

from schemas.errors import WinnowError
from schemas.training import Optimizer
from training import models


def make_optimizer(trainee: models.Trainee, config: Optimizer) -> torch.optim.AdamW:
    """AdamW over what is trained; weight decay on matrices only."""
    trained = [p for p in trainee.parameters() if p.requires_grad]
    if not trained:
        raise WinnowError("Nothing is trained: `freeze` holds every part of the model.")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps,
        fused=trained[0].is_cuda or None,
    )  # fmt: skip


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """Of the step after `step` (from 0): a linear warm-up, then the schedule down to `min_lr` behind the last step."""
    warm = round(config.warmup * steps) if config.warmup < 1 else round(config.warmup)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.schedule == "constant":
        return config.lr
    done = (step - warm) / max(1, steps - warm)
    share = 0.5 * (1 + math.cos(math.pi * min(done, 1.0))) if config.schedule == "cosine" else 1 - min(done, 1.0)
    return config.min_lr + (config.lr - config.min_lr) * share


def clip_gradient(trainee: models.Trainee, limit: float | None) -> float:
    """The norm of the whole gradient, over all processes; gradients are scaled down to `limit`."""
    norm = torch.nn.utils.clip_grad_norm_(trainee.parameters(), limit if limit is not None else math.inf)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
