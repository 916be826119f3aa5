"""Reinforcement learning on verifiable answers: a recipe and an RL version in, a model that answers better out.

    winnow train gspo recipes/train_tiny_gspo.yaml                     one process
    torchrun --nproc-per-node 8 -m training.gspo RECIPE [--set …]      FSDP2 over 8 GPUs, from the same file

Read it from top to bottom: open the run, then a step is collect (questions, answers, rewards, advantages), score, update,
push; each is one function. What it stands for:

- `algorithm` names the objective (training/losses.py). Denominators are those of the whole optimizer step, whatever its
  passes and processes; FSDP averages gradients, hence the factor `processes`.
- An answer that could not be judged is in no mean and no loss; it is never paid 0.
- The answers of a step are durable before anything is learned from them (training/groups.py), questions follow from a
  position, sampling from a seed of its own: a run that was killed goes on as if it had not been.
- The engine's own log-probabilities are compared with the trainer's in every step.

A run lies in <workspace>/runs/<name>: as for SFT, and rollouts/.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from curation import store
from curation.catalog import write_catalog
from curation.store import open_workspace
from schemas.errors import WinnowError
from schemas.training import GspoRecipe
from training import checkpoints, groups, models
from training.advantages import Advantages, advantages
from training.alarms import alarms
from training.batches import Batch, Collator
from training.clock import Clock, drawing_ahead, progress_of
from training.difficulty import write_difficulty
from training.faults import explained, not_finite
from training.groups import EDGES, Collected, Rollout
from training.heldout import banned_of, evaluate, reached, told_of
from training.index import LeftOut, Named
from training.losses import ALGORITHMS, Objective, Size, policy_loss, truncated_importance
from training.metrics import Log, read_lines, resident
from training.optimizing import clip_gradient, learning_rate, make_optimizer
from training.processes import TINY, command, from_first, mesh_of, open_process, seed_all, wait
from training.prompts import Prompts, open_prompts, seed_of
from training.recipe import GspoPlan, load_gspo_recipe
from training.report import write_report
from training.rewards import Answered, Rewarder
from training.rollouts import Engine, open_engine, spoken
from training.runs import Ledger, check_same_data, manifest_of, open_run
from training.sft import Result
from training.sources import BadRow, Question, open_data, questions_of
from training.tokens import Encoder, Sample


@dataclass
class Run:
    """What the phases of a step share."""

    recipe: GspoRecipe
    folder: Path
    device: torch.device
    encoder: Encoder
    prompts: Prompts
    ledger: Ledger
    policy: models.Policy
    reference: models.Policy | None
    optimizer: torch.optim.AdamW
    engine: Engine
    rewarder: Rewarder
    objective: Objective
    collate: Collator
    left_out: list[LeftOut] = field(default_factory=list)

    def encode(self, question: Question) -> Sample:
        return self.encoder.prompt(question.messages, question.pictures)


def train(plan: GspoPlan, *, workspace: Path | str | None = None, fresh: bool = False, quiet: bool = False) -> Result:
    """Run, or take up again, what a recipe describes. Raises WinnowError for what a person can put right.

    fresh   remove what an earlier run of this name left, instead of going on with it
    """
    recipe = plan.recipe
    device, (rank, processes) = open_process(recipe.precision)
    space = open_workspace(workspace)
    folder = space.root / "runs" / recipe.name
    if rank == 0:
        open_run(folder, plan, fresh)
    wait()
    found = checkpoints.complete(folder / "checkpoints")
    before = checkpoints.read_run(found[-1]) if found else None
    start, position = (before["step"], before["data"]["position"]) if before else (0, 0)

    # ----------------------------------------------------------------------------------------------------------- data
    batch = recipe.batch
    encoder = Encoder(plan.model_place, recipe.model.revision, batch.min_pixels, batch.max_pixels, keep=batch.picture_cache_mb * 2**20)  # fmt: skip
    opened = [open_data(data, plan.folder, space.root) for data in recipe.data]
    if before:
        check_same_data(before, opened, recipe.name)
    prompts, outside = open_prompts(opened, recipe.curriculum, recipe.seed)
    held_out: list[Question] = []
    if recipe.evaluation is not None:
        asked = open_data(recipe.evaluation.data, plan.folder, space.root)
        held_out = list(questions_of(asked, recipe.evaluation.limit))
        if not held_out:
            raise WinnowError("`evaluation`: none of its rows has a gold answer (reward_model.ground_truth or answer).")

    # ---------------------------------------------------------------------------------------------------------- model
    policy = _policy(plan, device, learns=True)
    reference = _policy(plan, device, learns=False) if recipe.loss.kl else None
    optimizer = make_optimizer(policy, recipe.optimizer)
    seed_all(recipe.seed + rank)
    if found:
        checkpoints.restore(found[-1], policy, optimizer)
    run = Run(
        recipe, folder, device, encoder, prompts, Ledger(folder / "ledger.jsonl"), policy, reference, optimizer,
        engine=open_engine(recipe, policy, encoder, plan.model_place, folder),  # behind the checkpoint: it takes its weights
        rewarder=Rewarder(recipe.reward, longest=recipe.rollout.max_new_tokens, truncated=recipe.rollout.truncated),
        objective=objective_of(recipe), collate=Collator(encoder, packed=True, mrope=models.is_mrope(policy.model.config)),
    )  # fmt: skip

    for one in (policy, reference):
        if one is not None and hasattr(
            one, "unshard"
        ):  # FSDP wants its first pass through the root, and generate goes to the layers
            with torch.no_grad():
                one(batch_of(run, []))

    # ----------------------------------------------------------------------------------------------------------- loop
    manifest = manifest_of(plan, opened, len(prompts), {"outside_band": outside} if outside else {}, recipe.steps, processes, "gspo") if rank == 0 else {}  # fmt: skip
    log = Log(folder, recipe.log.to, recipe.model_dump(), start=start, quiet=quiet) if rank == 0 else None
    if rank == 0:
        store.write_json(folder / "manifest.json", manifest)
    if log:
        log.say(_opening(run, start, processes))
    dtype = checkpoints.dtype_of(recipe.save, recipe.precision)
    step, checkpoint, scores, ready = start, found[-1] if found else None, before.get("evaluation", {}) if before else {}, None  # fmt: skip
    history = [one for one in read_lines(folder / "metrics.jsonl") if "loss" in one]
    line: dict[str, Any] = history[-1] if history else {"loss": math.nan}
    began = time.perf_counter()
    with drawing_ahead(recipe) as submit:
        while step <= recipe.steps:
            # Ask and save what the last step made; before the first one, what there was to begin with.
            last = step == recipe.steps or bool(before and step == start and reached(recipe.evaluation, scores))
            if recipe.evaluation and (step > start or not before) and (step % recipe.evaluation.every == 0 or last):
                scores = evaluate(policy, encoder, held_out, recipe.evaluation, step, folder)
                if log:
                    log.write({"step": step, "evaluation": scores})
                    log.say(told_of(step, scores, recipe.evaluation, recipe.steps))
                last = last or (step > 0 and reached(recipe.evaluation, scores))
            if step > start and (step % recipe.save.every == 0 or last):
                told = {"step": step, "data": {"position": position}, "processes": processes, "evaluation": scores}
                told["trained_on"] = [one.identity for one in opened]
                checkpoint = checkpoints.save(
                    folder / "checkpoints", step, policy, optimizer, told, encoder, plan.model_place, dtype=dtype,
                    keep=recipe.save.keep,
                )  # fmt: skip
                if rank == 0:
                    write_difficulty(folder, step)
                    write_report(folder)
            if last:
                break

            step += 1
            clock = Clock()
            with clock("rollout"):
                collected = ready.result() if ready else collect(run, step, position)
            position = collected.position
            ready = submit(collect, run, step + 1, position) if step < recipe.steps else None
            line = learn(run, collected, clock)
            if ready:
                with clock("rollout"):
                    ready.result()  # the engine must not draw while it takes new weights
            with clock("push"):
                run.engine.push()
            if log:
                groups.write(folder, collected)
                line = {"step": step, **line, "position": position, **clock.line(int(line["trained_tokens"])), "memory_gb": resident() / 1e9}  # fmt: skip
                history.append(line)
                line["alarms"] = alarms(history, recipe.alarms)
                log.write(line)
                for text in line["alarms"]:
                    log.say(f"step {step:,}: {text}")
                left = (time.perf_counter() - began) / (step - start) * (recipe.steps - step)
                log.progress(progress_of(line, recipe.steps, left), last=step == recipe.steps)
    run.rewarder.close()
    run.engine.close()
    if checkpoint is None:
        raise WinnowError(f"The run {recipe.name} has no step to make: `steps` is {recipe.steps}.")
    reasons = run.ledger.reasons
    if rank == 0 and log:
        counts = {**manifest["counts"], "left_out": {**manifest["counts"]["left_out"], **reasons}}
        done = {"state": "finished", "step": step, "loss": line["loss"], "evaluation": scores, "checkpoint": checkpoint.name}  # fmt: skip
        store.write_json(folder / "manifest.json", {**manifest, **done, "counts": counts})
        write_report(folder)
        write_catalog(space)
        log.close()
    wait()
    return Result(folder, checkpoint, step, line["loss"], scores, reasons)


# ------------------------------------------------------------------------------------------------ collect: ask and judge


def collect(run: Run, step: int, position: int) -> Collected:
    """The answers of a step with rewards and advantages: those of its file where there is one, else new ones.

    With `zero_variance: resample`, groups that teach nothing are made up for by other questions, in bounded rounds.
    """
    stored = groups.read(run.folder, step, run.prompts.questions, run.encode)
    if stored is not None:
        return stored
    config, rollouts, rounds, missing = run.recipe.rollout, list[Rollout](), 0, run.recipe.rollout.prompts
    seconds = {"draw": 0.0, "reward": 0.0}
    while missing and rounds < (config.max_rounds if config.zero_variance == "resample" else 1):
        chosen, position = take(run, position, missing)
        began = time.perf_counter()
        drawn = run.engine.sample([prompt for *_, prompt in chosen], seed_of(run.recipe.seed, step, rounds))
        seconds["draw"] += time.perf_counter() - began
        began = time.perf_counter()
        first = rollouts[-1].group + 1 if rollouts else 0
        rollouts += reward(run, chosen, drawn, first)
        seconds["reward"] += time.perf_counter() - began
        rounds += 1
        missing = config.prompts - weigh(run.recipe, rollouts)
    collected = Collected(step, position, rounds, rollouts, seconds)
    if models.world()[0] == 0:
        groups.write(run.folder, collected)
        run.ledger.add(run.left_out)
    run.left_out.clear()
    return collected


def take(run: Run, position: int, count: int) -> tuple[list[tuple[int, Question, Sample]], int]:
    """The next questions that can be asked, and the position behind them. Others are written into the ledger."""
    chosen: list[tuple[int, Question, Sample]] = []
    passed = 0
    while len(chosen) < count:
        number = run.prompts.at(position)
        question, position = run.prompts.questions[number], position + 1
        try:
            prompt = run.encode(question)
            for picture in prompt.pictures:
                run.encoder.pixels(picture.read())
            if len(prompt.ids) > run.recipe.rollout.max_prompt_tokens:
                raise BadRow("overlong", f"{len(prompt.ids):,} tokens; max_prompt_tokens is {run.recipe.rollout.max_prompt_tokens:,}.")  # fmt: skip
        except BadRow as error:
            run.left_out.append(LeftOut(question.row_id, question.source, error.reason, error.sentence))
            passed += 1
            if passed > len(run.prompts):
                raise WinnowError(f"No question can be asked: {error.sentence}\nAll reasons: ledger.jsonl.") from error
            continue
        chosen.append((number, question, prompt))
    return chosen, position


def reward(run: Run, chosen: Sequence[tuple[int, Question, Sample]], drawn: Sequence[Any], first: int) -> list[Rollout]:
    """Every answer with its reward by part."""
    flat = [(n, one) for n, answers in enumerate(drawn) for one in answers]
    texts = [spoken(run.encoder, one) for _, one in flat]
    asked = []
    for (n, one), text in zip(flat, texts, strict=True):
        q = chosen[n][1]
        asked.append(Answered(text, len(one.ids), one.finished, q.gold, q.choices, q.question, q.row_id, q.source))
    scored = from_first(lambda: run.rewarder(asked))
    return [
        Rollout(first + n, *chosen[n], one, text, worth)
        for (n, one), text, worth in zip(flat, texts, scored, strict=True)
    ]


def weigh(recipe: GspoRecipe, rollouts: Sequence[Rollout]) -> int:
    """Advantages, and which answers are learned from; returns how many questions have some."""
    scale: Any = recipe.loss.scale or ALGORITHMS[recipe.algorithm][1]
    wanted = {"signal", "format"} | ({"equal"} if recipe.rollout.zero_variance == "keep" else set())

    def weighed(chosen: Sequence[Rollout]) -> Advantages:
        number = {group: n for n, group in enumerate(dict.fromkeys(one.group for one in chosen))}
        rewards, exact = ([getattr(one.scored, name) for one in chosen] for name in ("reward", "accuracy"))
        numbers = [number[one.group] for one in chosen]
        return advantages(rewards, numbers, scale=scale, floor=recipe.loss.floor, accuracy=exact)

    kinds = weighed(rollouts).kinds
    good = [n for n, kind in enumerate(kinds) if kind in wanted][: recipe.rollout.prompts]
    for one in rollouts:
        one.kind, one.advantage = kinds[one.group], 0.0
        one.used = one.group in good and one.scored.reward is not None
    used = [one for one in rollouts if one.used]  # the batch's deviation is that of what is learned from
    for one, value in zip(used, weighed(used).values.tolist(), strict=True):
        one.advantage = value
    return len(good)


# ------------------------------------------------------------------------------------------ learn: score, update, figures


def learn(run: Run, collected: Collected, clock: Clock) -> dict[str, Any]:
    """The updates of a step, each on its share of the questions, and the step's figures."""
    used = [one for one in collected.rollouts if one.used]
    asked = sorted({one.group for one in used})
    cut = np.array_split(np.array(asked, int), min(run.recipe.updates, len(asked))) if asked else []
    shares = [[one for one in used if one.group in set(part.tolist())] for part in cut]
    packed = [packs(share, run.recipe.batch.max_tokens) for share in shares]
    with clock("score"):
        # The first update's own forward pass says what the log-probabilities were: nothing has moved yet.
        for share in packed[1:]:
            score(run, share)
    lr = learning_rate(run.recipe.optimizer, collected.step - 1, run.recipe.steps)
    losses, norms, spread = [], [], np.zeros(len(EDGES) + 1, int)
    with clock("train"):
        for share, rows in zip(packed, shares, strict=True):
            size = Size(len(rows), sum(len(one.drawn.ids) for one in rows), run.recipe.rollout.max_new_tokens)
            loss, norm, ratios = update(run, share, size, collected.step, lr)
            losses.append(loss)
            norms.append(norm)
            spread += ratios
    for one in collected.rollouts:
        one.old = None
    _share_figures(used)
    tokens = sum(len(one.prompt.ids) + len(one.drawn.ids) for one in used)
    return {
        "loss": float(np.mean(losses)) if losses else 0.0, "lr": lr, "grad_norm": float(np.mean(norms)) if norms else 0.0,
        "updates": len(shares), **groups.figures(collected), "ratios": spread.tolist(), "trained_tokens": tokens,
    }  # fmt: skip


def packs(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[Rollout]]:
    """Answers in packs of at most `max_tokens`, the longest first into the first that has room; as many packs as the
    processes can share evenly, empty ones at the end."""
    bins: list[list[Rollout]] = []
    room: list[int] = []
    for one in sorted(rollouts, key=lambda one: -(len(one.prompt.ids) + len(one.drawn.ids))):
        size = len(one.prompt.ids) + len(one.drawn.ids)
        at = next((n for n, left in enumerate(room) if left >= size), None)
        if at is None:
            bins.append([])
            room.append(max_tokens)
            at = len(bins) - 1
        bins[at].append(one)
        room[at] -= size
    return bins + [[]] * (-len(bins) % models.world()[1])


def score(run: Run, packed: Sequence[Sequence[Rollout]]) -> None:
    """What the trainer itself gives the tokens of these answers before the step."""
    rank, processes = models.world()
    for pack in packed[rank::processes]:
        with torch.no_grad():
            logp, _ = run.policy(batch_of(run, pack))
        for one, value in zip(pack, logp.split([len(one.drawn.ids) for one in pack]) if pack else (), strict=True):
            one.old = value


def update(run: Run, packed: Sequence[Sequence[Rollout]], size: Size, step: int, lr: float) -> tuple[float, float, Any]:
    """One optimizer step. Returns (loss, norm of the gradient, histogram of ratios over EDGES)."""
    rank, processes = models.world()
    run.optimizer.zero_grad(set_to_none=True)
    total, spread, seen_by = 0.0, np.zeros(len(EDGES) + 1, int), []
    for pack in packed[rank::processes]:
        batch = batch_of(run, pack)
        try:
            logp, entropy = run.policy(batch)
            with torch.no_grad():
                ref = run.reference(batch)[0] if run.reference is not None else None
            loss, ratios = objective(run, pack, batch, logp, entropy, ref, size)
            (loss * processes).backward()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            raise explained(error, batch, run.recipe) from error
        total += float(loss.detach())
        spread += ratios
        seen_by.append((batch, logp.detach()))
    norm = clip_gradient(run.policy, run.recipe.optimizer.clip)
    if not math.isfinite(norm) or not all(bool(logp.isfinite().all()) for _, logp in seen_by):
        raise not_finite(step, norm, seen_by)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    if processes > 1:
        sums = torch.tensor([total, *spread.tolist()], dtype=torch.float64, device=run.device)
        dist.all_reduce(sums)
        total, spread = float(sums[0]), sums[1:].long().cpu().numpy()
    return total, norm, spread


def objective(
    run: Run, pack: Sequence[Rollout], batch: Batch, logp: Tensor, entropy: Tensor, ref: Tensor | None, size: Size
) -> tuple[Tensor, Any]:
    """The pack's share of the step's loss. Each answer's figures are left with it."""
    if not pack:
        return logp.sum() * 0.0, np.zeros(len(EDGES) + 1, int)
    lengths = [len(one.drawn.ids) for one in pack]

    def rows(flat: Tensor) -> Tensor:  # [tokens of the pack] -> [answers, longest], 0 behind the end
        return torch.nn.utils.rnn.pad_sequence(flat.split(lengths), batch_first=True)

    config, mask = run.objective, rows(torch.ones_like(logp))
    old = torch.cat([one.old for one in pack]) if pack[0].old is not None else logp.detach()
    drawn = torch.tensor([value for one in pack for value in one.drawn.logp], dtype=logp.dtype, device=logp.device)
    cap = run.recipe.loss.importance_cap
    weights = rows(truncated_importance(old, drawn, cap)) if cap is not None else None
    loss, seen = policy_loss(
        rows(logp), rows(old), torch.tensor([one.advantage for one in pack], dtype=logp.dtype, device=logp.device),
        mask, config, size, ref_logp=None if ref is None else rows(ref), weights=weights,
    )  # fmt: skip
    ratio = seen["ratio"].expand_as(mask)
    values = {"logp": rows(old), "entropy": rows(entropy), "mismatch": rows((old - drawn).abs()), "ratio": ratio,
              "clipped": seen["clipped"].expand_as(mask)}  # fmt: skip
    if "kl" in seen:
        values["kl"] = seen["kl"]
    means = {name: ((v * mask).sum(-1) / mask.sum(-1)).tolist() for name, v in values.items()}
    for n, one in enumerate(pack):
        one.figures = {name: means[name][n] for name in means}
    which = seen["ratio"] if seen["ratio"].shape[1] == 1 else seen["ratio"][mask.bool()]
    off = which.flatten().double().cpu().numpy() - 1
    off = np.where(off < 0, off / max(config.clip_low, 1e-9), off / max(config.clip_high, 1e-9))
    return loss, np.bincount(np.searchsorted(EDGES, off), minlength=len(EDGES) + 1)


def batch_of(run: Run, pack: Sequence[Rollout]) -> Batch:
    """Prompts with their answers as one packed row; the answers' tokens are its targets."""
    named = []
    for one in pack:
        start, ids = len(one.prompt.ids), [*one.prompt.ids, *one.drawn.ids]
        named.append(Named(replace(one.prompt, ids=ids, spans=[(start, len(ids))]), one.question.row_id, one.question.source))  # fmt: skip
    batch = run.collate(named, {})
    if batch.left_out:  # its pictures were decoded when it was asked
        raise WinnowError(f"A picture of row {batch.left_out[0].row_id} changed under the run: {batch.left_out[0].sentence}")  # fmt: skip
    return batch.to(run.device)


# -------------------------------------------------------------------------------------------------------------- the run


def objective_of(recipe: GspoRecipe) -> Objective:
    """What the algorithm's name fixes, with the parts that the recipe sets."""
    loss, (named, _) = recipe.loss, ALGORITHMS[recipe.algorithm]
    given = {key: getattr(loss, key) for key in ("ratio", "aggregation", "clip_low", "clip_high")}
    return replace(named, kl=loss.kl, **{key: value for key, value in given.items() if value is not None})


def _policy(plan: GspoPlan, device: torch.device, *, learns: bool) -> models.Policy:
    recipe = plan.recipe
    model = models.load_model(plan.model_place, recipe.model, seed=recipe.seed, device=device)
    if device.type == "cpu" and sum(p.numel() for p in model.parameters()) < TINY:
        torch.set_num_threads(1)
    models.without_dropout(model)
    if recipe.activation_checkpointing and learns:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = models.Policy(
        model, chunk=recipe.loss_chunk, varlen=recipe.model.attention == "varlen",
        temperature=recipe.rollout.temperature, banned=banned_of(model.config),
    )  # fmt: skip
    if not learns:
        policy.requires_grad_(False)
    if models.world()[1] > 1 or recipe.precision == "bf16":
        models.shard(policy, precision=recipe.precision, mesh=mesh_of(device))
    return policy


def _share_figures(used: Sequence[Rollout]) -> None:
    """Every process learned from a share of the answers; all get to know all figures."""
    if models.world()[1] == 1:
        return
    shares: list[Any] = [None] * models.world()[1]
    dist.all_gather_object(shares, {n: one.figures for n, one in enumerate(used) if one.figures})
    for share in shares:
        for n, found in share.items():
            used[n].figures = found


def _opening(run: Run, start: int, processes: int) -> str:
    """What a person should know before the first step."""
    recipe, config = run.recipe, run.recipe.rollout
    weights = sum(p.numel() for p in run.policy.parameters())
    return (
        f"{recipe.name}: {recipe.algorithm}, {weights:,} parameters, {recipe.precision}, {processes} process(es)\n"
        f"  {len(run.prompts):,} questions; {recipe.steps:,} steps of {config.prompts} x {config.n} answers by "
        f"{config.engine}, {recipe.updates} update(s) each" + (f"; goes on behind step {start:,}" if start else "")
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """`torchrun -m training.gspo RECIPE [--set KEY=VALUE …] [--workspace FOLDER] [--fresh]`"""
    command("training.gspo", "Reinforcement learning; for torchrun.", load_gspo_recipe, train, arguments)


if __name__ == "__main__":
    main()
