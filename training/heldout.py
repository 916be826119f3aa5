"""Periodic evaluation: held-out questions, answered greedily and judged by the checker, each answer kept in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from curation.answers import check_many
from schemas.training import Evaluation
from training import models
from training.sources import BadRow, Question
from training.tokens import Encoder, Sample

BANNED = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
"""Placeholders: a model that writes one could not be asked again with its own words."""


def evaluate(
    trainee: models.Trainee,
    encoder: Encoder,
    questions: Sequence[Question],
    config: Evaluation,
    step: int,
    folder: Path,
) -> dict[str, float]:
    """Accuracy and shares over all questions, and by source. Writes `samples/step-<n>.parquet` below `folder`.

    Every process answers its share; with FSDP all of them run the same number of forward passes.
    """
    rank, processes = models.world()
    mine = list(range(rank, len(questions), processes))
    answered: list[tuple[int, str, int, bool]] = []
    rounds = -(-len(range(0, len(questions), processes)) // config.batch_size)
    with generating(trainee):
        for n in range(rounds):
            part = mine[n * config.batch_size : (n + 1) * config.batch_size]
            said = _answers(trainee, encoder, [questions[i] for i in part] or [questions[0]], config, processes > 1)
            answered += [(i, *one) for i, one in zip(part, said, strict=False)]
    if processes > 1:
        shares: list[Any] = [None] * processes
        dist.all_gather_object(shares, answered)
        answered = [one for share in shares for one in share]
    answered.sort()
    table = _judged([questions[i] for i, *_ in answered], [one[1:] for one in answered])
    if rank == 0:
        place = folder / "samples" / f"step-{step:06d}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place.with_suffix(".part"))
        place.with_suffix(".part").rename(place)  # whoever asks in SQL meanwhile sees whole files
    states, sources = table["state"].to_pylist(), table["source"].to_pylist()
    found = {
        "accuracy": states.count("correct") / len(states),
        "finished": sum(table["finished"].to_pylist()) / len(states),
        "answered": sum(state in ("correct", "incorrect", "undecided") for state in states) / len(states),
        "tokens": sum(table["tokens"].to_pylist()) / len(states),
    }
    if len(set(sources)) > 1:
        for source in sorted(set(sources)):
            own = [state for state, name in zip(states, sources, strict=True) if name == source]
            found[f"accuracy/{source}"] = own.count("correct") / len(own)
    return found


def reached(config: Evaluation | None, scores: dict[str, float]) -> bool:
    """Whether a run with these scores is at its goal, `until`."""
    return config is not None and config.until is not None and scores.get("accuracy", 0.0) >= config.until


def told_of(step: int, scores: dict[str, float], config: Evaluation, steps: int) -> str:
    """An evaluation in one line, with what `until` makes of it."""
    line = f"step {step:,}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    if reached(config, scores) and step:
        return f"{line}; `until` {config.until} is reached"
    return f"{line}; `until` {config.until} was not reached" if config.until and step == steps else line


def _judged(questions: Sequence[Question], said: Sequence[tuple[str, int, bool]]) -> pa.Table:
    asked = pa.table(
        {
            "gold": [q.gold for q in questions],
            "response": [text for text, _, _ in said],
            "choices": pa.array([q.choices for q in questions], pa.list_(pa.string())),
            "question": pa.array([q.question for q in questions], pa.string()),
            "truncated": [not finished for _, _, finished in said],
        }
    )
    verdicts = check_many(asked)
    prompts = ["\n".join(shown(turn["content"]) for turn in q.messages) for q in questions]
    return pa.table(
        {
            "row_id": [q.row_id for q in questions],
            "source": [q.source for q in questions],
            "prompt": prompts,
            "response": asked["response"],
            "gold": asked["gold"],
            "extracted": verdicts["extracted"],
            "state": verdicts["state"],
            "tokens": [tokens for _, tokens, _ in said],
            "finished": [finished for _, _, finished in said],
        }
    )


def shown(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "<image>") for part in content)


class generating:
    """The model as generate wants it: evaluation mode, attention with masks and a cache, root weights gathered."""

    def __init__(self, trainee: models.Trainee):
        self._trainee, self._model = trainee, trainee.model

    def __enter__(self) -> None:
        parts = [self._model, models.body(self._model), models.language_model(self._model)]
        configs = [p.config for p in parts] + [self._model.config.get_text_config()]
        tower = models.vision_tower(self._model)
        configs += [tower.config] if tower is not None else []
        self._before = [(config, config._attn_implementation) for config in configs]
        for config in configs:
            config._attn_implementation = "sdpa"
        self._checkpointing = self._model.is_gradient_checkpointing
        self._model.eval()
        if hasattr(self._trainee, "unshard"):
            self._trainee.unshard()

    def __exit__(self, *_: object) -> None:
        for config, name in self._before:
            config._attn_implementation = name
        if hasattr(self._trainee, "reshard"):
            self._trainee.reshard()
        if hasattr(models.body(self._model), "rope_deltas"):
            models.body(self._model).rope_deltas = None  # what generate remembers of its last pictures
        self._model.train()


@torch.no_grad()  # type: ignore[untyped-decorator]
def _answers(
    trainee: models.Trainee, encoder: Encoder, questions: Sequence[Question], config: Evaluation, together: bool
) -> list[tuple[str, int, bool]]:
    """(text, tokens, whether it ended by itself) of each."""
    import transformers

    model = trainee.model
    prompts: list[Sample | None] = []
    pixels, grids = [], []
    for question in questions:
        try:
            sample = encoder.prompt(question.messages, question.pictures)
            made = [encoder.pixels(picture.read()) for picture in sample.pictures]
        except BadRow:
            prompts.append(None)
            continue
        prompts.append(sample)
        pixels += [patches for patches, _ in made]
        grids += [[1, *grid] for _, grid in made]
    asked = [sample for sample in prompts if sample is not None] or [Sample([encoder.pad], [], [], [])]
    inputs = generate_inputs(encoder, asked, pixels, grids)
    if together and not pixels:
        trainee.idle_image()
    ends, banned = ends_of(model, encoder), banned_of(model.config)
    plain = transformers.GenerationConfig(
        max_new_tokens=config.max_new_tokens, do_sample=False, num_beams=1, pad_token_id=encoder.pad,
        eos_token_id=sorted(ends), suppress_tokens=banned or None,
    )  # fmt: skip
    width = inputs["input_ids"].shape[1]
    out = model.generate(
        **{name: value.to(model.device) for name, value in inputs.items()}, generation_config=plain,
        synced_gpus=together,
    )  # fmt: skip
    said = []
    for tokens in out[:, width:].tolist():
        end = next((n for n, token in enumerate(tokens) if token in ends), None)
        text = encoder.tokenizer.decode(tokens[:end], skip_special_tokens=False)
        said.append((text, len(tokens) if end is None else end + 1, end is not None))
    answers = iter(said)
    return [("", 0, False) if sample is None else next(answers) for sample in prompts]


def generate_inputs(encoder: Encoder, asked: Sequence[Sample], pixels: Sequence[Any], grids: Sequence[Any]) -> Any:
    """What `generate` takes: prompts padded on the left, and the patches of all their pictures."""
    width = max(len(sample.ids) for sample in asked)
    inputs = {
        "input_ids": torch.full((len(asked), width), encoder.pad),
        "attention_mask": torch.zeros(len(asked), width).long(),
    }
    if encoder.processor is not None:
        inputs["mm_token_type_ids"] = torch.zeros(len(asked), width, dtype=torch.int32)
    for n, sample in enumerate(asked):
        start = width - len(sample.ids)
        inputs["input_ids"][n, start:] = torch.tensor(list(sample.ids))
        inputs["attention_mask"][n, start:] = 1
        for at, height, wide in sample.images:
            inputs["mm_token_type_ids"][n, start + at : start + at + height * wide // encoder.merge**2] = 1
    if pixels:
        inputs |= {"pixel_values": torch.cat(list(pixels)), "image_grid_thw": torch.tensor(grids)}
    return inputs


def ends_of(model: Any, encoder: Encoder) -> set[int]:
    """Tokens that end an answer."""
    configured = model.generation_config.eos_token_id
    return {*(configured if isinstance(configured, list) else [configured]), encoder.tokenizer.eos_token_id} - {None}


def banned_of(config: Any) -> list[int]:
    """Tokens that no answer may hold."""
    return [getattr(config, name) for name in BANNED if getattr(config, name, None) is not None]
