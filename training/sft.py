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

import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curation import store
from curation.store import open_workspace
from schemas.errors import WinnowError
from schemas.training import SftRecipe
from training import checkpoints, models
from training.batches import Batch, Collator, Share, load
from training.faults import explained, not_finite
from training.heldout import evaluate, reached, told_of
from training.index import LeftOut, RowStream, Samples, TokenIndex, token_index
from training.metrics import Log, Meter, line_of, progress_of
from training.optimizing import clip_gradient, learning_rate, make_optimizer
from training.packing import Order, Packer, Shape
from training.processes import TINY, command, mesh_of, open_process, seed_all, total_of, wait
from training.recipe import TrainingPlan, load_sft_recipe
from training.report import write_report
from training.runs import Ledger, check_same_data, manifest_of, open_run, opening
from training.sources import OpenData, Question, open_data, questions_of
from training.tokens import Encoder


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
    dtype = checkpoints.dtype_of(recipe.save, recipe.precision)

    # ----------------------------------------------------------------------------------------------------------- loop
    manifest = manifest_of(plan, opened, len(samples), ledger.reasons, steps, processes) if rank == 0 else {}
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
    state, loss, checkpoint = before["data"] if before else {}, math.nan, found[-1] if found else None
    scores = before.get("evaluation", {}) if before else {}
    done = reached(recipe.evaluation, scores)
    if recipe.evaluation is not None and recipe.evaluation.first and not before:
        with torch.no_grad():
            trainee(collate([], {}).to(device), 0.0)  # FSDP wants its first pass through the root
        scores = evaluate(trainee, encoder, questions, recipe.evaluation, 0, folder)
        if log:
            log.write({"step": 0, "evaluation": scores})
    meter, step, began = Meter(), start, time.perf_counter()
    while step < steps and not done:
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
                raise explained(error, batch, recipe) from error
            losses.append((batch, nll))
            meter.add(batch, nll, capacity=_capacity(batch, recipe), flops=models.step_flops(model, batch))

        # Update, unless something is no number.
        norm = clip_gradient(trainee, recipe.optimizer.clip)
        if not math.isfinite(norm) or not all(bool(nll.isfinite().all()) for _, nll in losses):
            raise not_finite(step, norm, losses)
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
                log.progress(progress_of(line, steps, left), last=step == steps)
        if recipe.evaluation is not None and (step % recipe.evaluation.every == 0 or step == steps):
            scores = evaluate(trainee, encoder, questions, recipe.evaluation, step, folder)
            if log:
                log.write({"step": step, "evaluation": scores})
                log.say(told_of(step, scores, recipe.evaluation, steps))
            done = reached(recipe.evaluation, scores)
            meter.began = time.perf_counter()
        if step % recipe.save.every == 0 or step == steps or done:
            checkpoint = _save(folder, step, trainee, optimizer, state, opened, scores, processes, encoder, plan, dtype)
            if rank == 0:
                write_report(folder)
            meter.began = time.perf_counter()
    if checkpoint is None or checkpoint.name != f"step-{step:06d}":  # the data ended before the steps did
        checkpoint = _save(folder, step, trainee, optimizer, state, opened, scores, processes, encoder, plan, dtype)
    if rank == 0 and log:
        counts = {**manifest["counts"], "left_out": ledger.reasons}
        ended = {"state": "finished", "step": step, "loss": loss, "evaluation": scores, "checkpoint": checkpoint.name}
        store.write_json(folder / "manifest.json", {**manifest, **ended, "counts": counts})
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


def _save(
    folder: Path, step: int, trainee: models.Trainee, optimizer: Any, data: dict[str, Any], opened: Sequence[OpenData],
    scores: dict[str, float], processes: int, encoder: Encoder, plan: TrainingPlan, dtype: torch.dtype,
) -> Path:  # fmt: skip
    run = {"step": step, "data": data, "trained_on": [one.identity for one in opened], "processes": processes}
    run["evaluation"] = scores  # the newest: a run that had reached its `until` is not gone on with
    return checkpoints.save(
        folder / "checkpoints", step, trainee, optimizer, run, encoder, plan.model_place,
        dtype=dtype, keep=plan.recipe.save.keep,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """`torchrun -m training.sft RECIPE [--set KEY=VALUE …] [--workspace FOLDER] [--fresh]`"""
    command("training.sft", "Supervised fine-tuning; for torchrun.", load_sft_recipe, train, arguments)


if __name__ == "__main__":
    main()
