"""What goes wrong inside a step, in words: which rows were there, and what to try."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from schemas.errors import WinnowError
from schemas.training import GspoRecipe, SftRecipe
from training.batches import Batch


def explained(error: BaseException, batch: Batch, recipe: SftRecipe | GspoRecipe) -> BaseException:
    """Out of memory, in words; any other error as it is."""
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in text:
        return error
    size = f"{sum(batch.lengths):,} tokens of {len(batch.lengths)} samples, the longest {max(batch.lengths):,}"
    size += f", {len(batch.pixels):,} image patches" if batch.pixels is not None else ""
    advice = [] if recipe.activation_checkpointing else ["--set activation_checkpointing=true"]
    advice += ["--set precision=bf16"] if recipe.precision == "fp32" else []
    if batch.packed:
        advice.append(f"--set batch.max_tokens={recipe.batch.max_tokens // 2}")
    elif isinstance(recipe, SftRecipe):
        advice.append(f"--set batch.samples={max(1, recipe.batch.samples // 2)}")
    if batch.pixels is not None:
        patches = isinstance(recipe, SftRecipe)
        advice.append(f"--set batch.max_patches={len(batch.pixels) // 2}" if patches else "--set batch.max_pixels=…")
    return WinnowError(
        f"Out of memory at a pack of {size}: rows {some(batch.row_ids)}.\nTry one of: {'; '.join(advice)}.\n"
        f"The run goes on from its last checkpoint. ({text.splitlines()[0] if text else type(error).__name__})"
    )


def not_finite(step: int, norm: float, values: Sequence[tuple[Batch, torch.Tensor]]) -> WinnowError:
    """Which rows of this process made the loss no number, or were there when the gradient was none."""
    bad = []
    for batch, each in values:
        owners = set(batch.owner[~each.isfinite()].tolist())
        bad += [batch.row_ids[n] for n in sorted(owners)]
    what = "The loss is not a number" if bad else f"The gradient's norm is {norm}"
    rows = bad or [row for batch, _ in values for row in batch.row_ids]
    return WinnowError(
        f"{what} at step {step:,}; nothing was updated. Rows: {some(rows)}.\nLook at them (`winnow why`), or lower "
        "optimizer.lr; the run goes on from its last checkpoint."
    )


def some(rows: Sequence[str], limit: int = 12) -> str:
    """The first of many names."""
    return ", ".join(rows[:limit]) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")
