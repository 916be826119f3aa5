"""Supervised fine-tuning: a recipe and a Winnow version in, a model that answers like its traces out.

    winnow train sft recipes/train_tiny_sft.yaml                       one process
    torchrun --nproc-per-node 8 -m training.sft RECIPE [--set …]       FSDP2 over 8 GPUs, from the same file

Read it from top to bottom: open the run, data, model, loop. What it stands for:

- The loss of a step is the mean over all target tokens of the step, over processes and accumulation: Σ nll / N. A
  micro-batch contributes its sum divided by the global N, so the same samples give the same gradient however they are
  split. FSDP averages gradients, hence the factor `processes`.
- The packs of a step are planned from the lengths alone, the same on every process; a checkpoint holds where the plan
  stands, so a resumed run sees what it would have seen.
- Nothing is trained on silently: rows that are left out are in ledger.jsonl with their reason; a loss that is no number
  stops the run before the optimizer moves, and names the rows.

A run lies in <workspace>/runs/<name>: manifest.json (what it was trained on), recipe.yaml, metrics.jsonl, ledger.jsonl,
checkpoints/, samples/, tensorboard/ and report.html.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from curation import store
from curation.store import open_workspace
from schemas.errors import WinnowError
from schemas.training import Optimizer, SftRecipe
from training import checkpoints, models
from training.batches import Batch, Collator, Share, load
from training.heldout import evaluate
from training.index import LeftOut, RowStream, Samples, TokenIndex, token_index
from training.metrics import Log, Meter, line_of
from training.packing import Order, Packer, Shape
from training.recipe import TrainingPlan, load_sft_recipe
from training.report import write_report
from training.runs import Ledger, check_same_data, manifest_of, open_run, opening
from training.sources import OpenData, Question, open_data, questions_of
from training.tokens import Encoder

TINY = 20_000_000
"""Parameters below which a CPU trains with one thread: more are many times slower, since they wait for each other."""


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    checkpoint: Path
    step: int
    loss: float
    evaluation: dict[str, float]
    left_out: dict[str, int]


def train(
    plan: TrainingPlan, *, workspace: Path | str | None = None, fresh: bool = False, quiet: bool = False
) -> Result:
    """Run, or take up again, what a recipe describes. Raises WinnowError for what a person can put right.

    fresh   remove what an earlier run of this name left, instead of going on with it
    """
    recipe = plan.recipe
    device, (rank, processes) = _start(recipe)

    # -------------------------------------------------------------------------------------------------------- the run
    space = open_workspace(workspace)
    folder = space.root / "runs" / recipe.name
    if rank == 0:
        open_run(folder, plan, fresh)
    wait()
    found = checkpoints.complete(folder / "checkpoints")
    before = checkpoints.read_run(found[-1]) if found else None
    start = before["step"] if before else 0

    # ----------------------------------------------------------------------------------------------------------- data
    encoder = Encoder(plan.model_place, recipe.model.revision, recipe.batch.min_pixels, recipe.batch.max_pixels)
    opened = [open_data(data, plan.folder, space.root) for data in recipe.data]
    questions: list[Question] = []
    if recipe.evaluation is not None:
        held_out = open_data(recipe.evaluation.data, plan.folder, space.root)
        questions = list(questions_of(held_out, recipe.evaluation.limit))
        if not questions:
            raise WinnowError("`evaluation`: none of its rows has a gold answer (reward_model.ground_truth or answer).")
    samples = open_samples(recipe, encoder, opened, space.root / "tokens")
    ledger = Ledger(folder / ("ledger.jsonl" if rank == 0 else f"ledger-{rank}.jsonl"))
    if rank == 0:
        ledger.add(samples.left_out)
        ledger.add(too_large(samples, recipe))
    steps = recipe.steps or count_steps(samples, recipe)
    packer = make_packer(samples, recipe)
    if before:
        check_same_data(before, opened, recipe.name)
        packer.resume(before["data"])
    accumulate = recipe.batch.packs // processes

    # ---------------------------------------------------------------------------------------------------------- model
    model = models.load_model(plan.model_place, recipe.model, seed=recipe.seed, device=device)
    if device.type == "cpu" and sum(p.numel() for p in model.parameters()) < TINY:
        torch.set_num_threads(1)
    if recipe.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe.compile:
        for layer in models.layers(model):
            layer.compile()
    trainee = models.Trainee(model, chunk=recipe.loss_chunk, varlen=recipe.model.attention == "varlen")
    if processes > 1 or recipe.precision == "bf16":
        models.shard(trainee, precision=recipe.precision, mesh=mesh_of(device))
    optimizer = make_optimizer(trainee, recipe.optimizer)
    peak = models.peak_flops(device, recipe.log.peak_tflops)
    dtype = torch.bfloat16 if recipe.save.dtype == "bfloat16" or (
        recipe.save.dtype == "as_trained" and recipe.precision == "bf16"
    ) else torch.float32  # fmt: skip

    # ----------------------------------------------------------------------------------------------------------- loop
    manifest = manifest_of(plan, opened, len(samples), ledger.reasons, steps, processes)
    log = Log(folder, recipe.log.to, recipe.model_dump(), start=start, quiet=quiet) if rank == 0 else None
    collate = Collator(encoder, packed=recipe.batch.packing, mrope=models.is_mrope(model.config))
    drop = {"passed": samples.drop} if isinstance(samples, RowStream) else {}
    share = Share(packer, rank, processes, **drop)
    batches = load(samples, share, collate, workers=recipe.batch.workers, pin=device.type == "cuda")
    seed_all(recipe.seed + rank)
    if found and not checkpoints.restore(found[-1], trainee, optimizer) and log:
        log.say("This run had another number of processes before: dropout draws anew, all else goes on.")
    if rank == 0:
        store.write_json(folder / "manifest.json", manifest)
        if log:
            log.say(opening(recipe, model, len(samples), ledger.reasons, steps, start, processes))
    state, loss, checkpoint, scores = before["data"] if before else {}, math.nan, found[-1] if found else None, {}
    meter, step, began = Meter(), start, time.perf_counter()
    while step < steps:
        micro = list(itertools.islice(batches, accumulate))
        if not micro:
            break
        step, state = step + 1, micro[-1].state
        for batch in micro:
            ledger.add(batch.left_out)

        # Forward and backward: each micro-batch is its share of the step's mean.
        targets = total_of(sum(len(batch.targets) for batch in micro), device)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in micro:
            batch = batch.to(device)
            try:
                part, nll = trainee(batch, processes / max(targets, 1))
                part.backward()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                raise _explained(error, batch, recipe) from error
            losses.append((batch, nll))
            meter.add(batch, nll, capacity=_capacity(batch, recipe), flops=models.step_flops(model, batch))

        # Update, unless something is no number.
        norm = clip_gradient(trainee, recipe.optimizer.clip)
        if not math.isfinite(norm) or not all(bool(nll.isfinite().all()) for _, nll in losses):
            raise _not_finite(step, norm, losses)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe.optimizer, step - 1, steps)
        optimizer.step()

        # Say, ask, save.
        if step % recipe.log.every == 0 or step == steps:
            total = meter.total()
            meter = Meter()
            lr = optimizer.param_groups[0]["lr"]
            line = line_of(total, step=step, lr=lr, norm=norm, processes=processes, peak=peak)
            loss = line["loss"]
            if log:
                log.write(line)
                left = (time.perf_counter() - began) / (step - start) * (steps - step)
                log.progress(line, steps, left, last=step == steps)
        if recipe.evaluation is not None and (step % recipe.evaluation.every == 0 or step == steps):
            scores = evaluate(trainee, encoder, questions, recipe.evaluation, step, folder)
            if log:
                log.write({"step": step, "evaluation": scores})
                log.say(f"step {step:,}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
            meter.began = time.perf_counter()
        if step % recipe.save.every == 0 or step == steps:
            checkpoint = _save(folder, step, trainee, optimizer, state, opened, processes, encoder, plan, dtype)
            if rank == 0:
                write_report(folder)
            meter.began = time.perf_counter()
    if checkpoint is None or checkpoint.name != f"step-{step:06d}":  # the data ended before the steps did
        checkpoint = _save(folder, step, trainee, optimizer, state, opened, processes, encoder, plan, dtype)
    if rank == 0 and log:
        counts = {**manifest["counts"], "left_out": ledger.reasons}
        done = {"state": "finished", "step": step, "loss": loss, "evaluation": scores, "checkpoint": checkpoint.name}
        store.write_json(folder / "manifest.json", {**manifest, **done, "counts": counts})
        write_report(folder)
        log.close()
    wait()
    return Result(folder, checkpoint, step, loss, scores, ledger.reasons)


# ----------------------------------------------------------------------------------------------------------------- data


def open_samples(recipe: SftRecipe, encoder: Encoder, data: Sequence[OpenData], folder: Path) -> Samples:
    """The samples of a recipe: from the token index, which the first process makes, or streamed."""
    if recipe.batch.streaming:
        return RowStream(encoder, data)
    rank, _ = models.world()
    if rank == 0:
        token_index(encoder, data, folder, workers=os.cpu_count() or 1)
    wait()
    index = token_index(encoder, data, folder)
    if not len(index):
        reasons = Counter(one.reason for one in index.left_out)
        raise WinnowError(f"No row can be trained on: {', '.join(f'{n:,} {reason}' for reason, n in reasons.items())}.")
    return index


def make_packer(samples: Samples, recipe: SftRecipe) -> Packer:
    """The stream of packs that the recipe asks for."""
    batch, blocks = recipe.batch, None

    def tell(number: int, shape: Shape) -> None:
        if isinstance(samples, RowStream):
            samples.left_out.append(_overlong(*samples.named(number), shape, recipe))

    if isinstance(samples, RowStream):
        blocks = [rows for *_, rows in samples.groups]
    order = Order(len(samples), seed=recipe.seed, shuffle=batch.shuffle, epochs=recipe.epochs, blocks=blocks)
    return Packer(
        order,
        samples.shape,
        max_tokens=batch.max_tokens,
        max_patches=batch.max_patches,
        open_bins=batch.open_bins,
        fixed=None if batch.packing else batch.samples,
        too_large=tell,
    )


def count_steps(samples: Samples, recipe: SftRecipe) -> int:
    """How many steps the epochs of a recipe make: the plan, run through without loading anything."""
    packs = sum(1 for _ in make_packer(samples, recipe))
    return max(1, math.ceil(packs / recipe.batch.packs))


def too_large(samples: Samples, recipe: SftRecipe) -> Iterator[LeftOut]:
    """Samples that no pack can hold. Those of a streamed set are known when they come."""
    if isinstance(samples, TokenIndex):
        packer = make_packer(samples, recipe)
        for number in range(len(samples)):
            if packer.holds_not(shape := samples.shape(number)):
                named = samples.get(number)
                yield _overlong(named.row_id, named.source, shape, recipe)


def _overlong(row_id: str, source: str, shape: Shape, recipe: SftRecipe) -> LeftOut:
    limit = f"max_tokens {recipe.batch.max_tokens:,}, max_patches {recipe.batch.max_patches}"
    return LeftOut(row_id, source, "overlong", f"{shape.tokens:,} tokens and {shape.patches:,} patches; {limit}.")


def _capacity(batch: Batch, recipe: SftRecipe) -> int:
    """Tokens that a micro-batch could have had for the same work: a full pack, or its padded rows."""
    return recipe.batch.max_tokens if batch.packed else batch.ids.numel()


# ---------------------------------------------------------------------------------------------------------------- model


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


# --------------------------------------------------------------------------------------------------------------- faults


def _explained(error: BaseException, batch: Batch, recipe: SftRecipe) -> BaseException:
    """Out of memory, in words; any other error as it is."""
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in text:
        return error
    size = f"{sum(batch.lengths):,} tokens of {len(batch.lengths)} samples, the longest {max(batch.lengths):,}"
    size += f", {len(batch.pixels):,} image patches" if batch.pixels is not None else ""
    advice = [] if recipe.activation_checkpointing else ["--set activation_checkpointing=true"]
    advice += ["--set precision=bf16"] if recipe.precision == "fp32" else []
    advice += [f"--set batch.max_tokens={recipe.batch.max_tokens // 2}"] if batch.packed else [
        f"--set batch.samples={max(1, recipe.batch.samples // 2)}"
    ]  # fmt: skip
    if batch.pixels is not None:
        advice.append(f"--set batch.max_patches={len(batch.pixels) // 2}")
    return WinnowError(
        f"Out of memory at a pack of {size}: rows {_some(batch.row_ids)}.\nTry one of: {'; '.join(advice)}.\n"
        f"The run goes on from its last checkpoint. ({text.splitlines()[0] if text else type(error).__name__})"
    )


def _not_finite(step: int, norm: float, losses: Sequence[tuple[Batch, torch.Tensor]]) -> WinnowError:
    """Which rows of this process made the loss no number, or were there when the gradient was none."""
    bad = []
    for batch, nll in losses:
        owners = set(batch.owner[~nll.isfinite()].tolist())
        bad += [batch.row_ids[n] for n in sorted(owners)]
    what = "The loss is not a number" if bad else f"The gradient's norm is {norm}"
    rows = bad or [row for batch, _ in losses for row in batch.row_ids]
    return WinnowError(
        f"{what} at step {step:,}; nothing was updated. Rows: {_some(rows)}.\nLook at them (`winnow why`), or lower "
        "optimizer.lr; the run goes on from its last checkpoint."
    )


def _some(rows: Sequence[str], limit: int = 12) -> str:
    return ", ".join(rows[:limit]) + (f" and {len(rows) - limit} more" if len(rows) > limit else "")


# -------------------------------------------------------------------------------------------------------------- the run


def _start(recipe: SftRecipe) -> tuple[torch.device, tuple[int, int]]:
    """The device of this process, and (rank, processes)."""
    device, (rank, processes) = open_process(recipe.precision)
    if recipe.batch.packs % processes:
        raise WinnowError(
            f"A step has {recipe.batch.packs} packs, which {processes} processes cannot share evenly.\n"
            f"Set batch.packs to a multiple of {processes}."
        )
    return device, (rank, processes)


def open_process(precision: str) -> tuple[torch.device, tuple[int, int]]:
    """The device of this process, and (rank, processes); the process group where there is need of one."""
    local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if (several or precision == "bf16") and not dist.is_initialized():
        alone = {} if several else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("nccl" if cuda else "gloo", **alone)
    return device, models.world()


def mesh_of(device: torch.device) -> Any:
    return dist.device_mesh.init_device_mesh(device.type, (models.world()[1],))


def wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def total_of(value: int, device: torch.device) -> int:
    """Over all processes."""
    if not dist.is_initialized():
        return value
    total = torch.tensor(value, device=device)
    dist.all_reduce(total)
    return int(total)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _save(
    folder: Path, step: int, trainee: models.Trainee, optimizer: Any, data: dict[str, Any], opened: Sequence[OpenData],
    processes: int, encoder: Encoder, plan: TrainingPlan, dtype: torch.dtype,
) -> Path:  # fmt: skip
    run = {"step": step, "data": data, "trained_on": [one.identity for one in opened], "processes": processes}
    return checkpoints.save(
        folder / "checkpoints", step, trainee, optimizer, run, encoder, plan.model_place,
        dtype=dtype, keep=plan.recipe.save.keep,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """`torchrun -m training.sft RECIPE [--set KEY=VALUE …] [--workspace FOLDER] [--fresh]`"""
    import argparse

    parser = argparse.ArgumentParser(prog="training.sft", description="Supervised fine-tuning; for torchrun.")
    parser.add_argument("recipe")
    parser.add_argument("--set", "-s", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--workspace", "-w")
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args(arguments)
    try:
        plan = load_sft_recipe(given.recipe, overrides=given.set, workspace=given.workspace)
        result = train(plan, workspace=given.workspace, fresh=given.fresh)
        if models.world()[0] == 0:
            print(result.folder)
    except WinnowError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    leave()


def leave() -> None:
    """Close the process group. Garbage goes first: gloo aborts now and then when sharded tensors outlive it."""
    if dist.is_initialized():
        dist.barrier()
        gc.collect()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
