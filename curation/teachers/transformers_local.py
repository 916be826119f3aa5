"""The `transformers_local` teacher: a model on this machine, asked through transformers' generate.

It is the teacher that needs nothing but torch: slow beside vLLM, right for small models, smoke tests and CPUs. Every
answer has a random generator of its own, seeded by its key: what a batch holds beside it, and in which order answers
come, changes no draw. Sampling adds Gumbel noise to the log-probabilities and takes the largest, which draws exactly
from the softmax (E. J. Gumbel, 1954).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from curation import prompts
from curation.teachers.base import Answer, Asked, ReadImages, Request, Sampling
from schemas.errors import WinnowError
from schemas.recipe import PathOrName

INSTALL = "pip install 'winnow[train]'"


class TransformersLocal(Asked):
    """A model from a folder or the Hub, run here with transformers."""

    kind: Literal["transformers_local"] = "transformers_local"
    model: PathOrName = Field(description="Folder of a model, or its repo id.")
    revision: str | None = Field(None, description="Commit or tag of a repo id.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    batch_size: int = Field(8, ge=1, description="Answers that are generated together.")

    def open(self, read_images: ReadImages, recipe_dir: Path) -> LocalModel:
        return LocalModel(self, read_images, recipe_dir)

    def identity(self, recipe_dir: Path) -> tuple[str, str] | None:
        folder = recipe_dir / self.model
        return (self.model, _state_of(folder)) if folder.is_dir() else None


class LocalModel:
    """A loaded model; curation.teachers.base.Teacher."""

    name = "transformers_local"

    def __init__(self, config: TransformersLocal, read_images: ReadImages, recipe_dir: Path):
        folder = recipe_dir / config.model
        place = str(folder) if folder.is_dir() else config.model
        self._config = config
        self._read_images = read_images
        self._loaded = _load(place, config.revision, config.dtype, config.device)
        self.model = config.model
        self.revision = _state_of(folder) if folder.is_dir() else str(self._loaded.revision or config.revision or "")

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answer]:
        # Answers of like length together: less padding.
        ordered = sorted(requests, key=lambda r: (bool(r.images), sum(len(m.content) for m in r.messages), r.key))
        size = self._config.batch_size
        at = 0
        while at < len(ordered):
            batch = ordered[at : at + size]
            if bool(batch[0].images) != bool(
                batch[-1].images
            ):  # processors want pictures in all of a batch, or in none
                batch = [r for r in batch if not r.images]
            at += len(batch)
            yield from self._batch(batch, sampling)

    def _batch(self, batch: Sequence[Request], sampling: Sampling) -> Iterator[Answer]:
        import torch

        try:
            inputs = self._inputs(batch)
            with torch.inference_mode():
                output = self._loaded.model.generate(
                    **inputs,
                    generation_config=self._plain(sampling.max_tokens),
                    logits_processor=_processors([r.seed for r in batch], sampling),
                )
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                yield self._failed(batch[0], sampling, f"out of memory: {str(error).splitlines()[0]}")
                return
            torch.cuda.empty_cache()
            half = len(batch) // 2
            yield from self._batch(batch[:half], sampling)
            yield from self._batch(batch[half:], sampling)
            return
        start = inputs["input_ids"].shape[1]
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        for request, tokens, asked in zip(batch, output[:, start:].tolist(), prompt_tokens, strict=True):
            end = next((i for i, token in enumerate(tokens) if token in self._loaded.eos), None)
            text = self._loaded.tokenizer.decode(tokens[:end], skip_special_tokens=False)
            yield Answer(
                request.key,
                request.attempt,
                text,
                "truncated" if end is None else "finished",
                "length" if end is None else "stop",
                sampling.max_tokens,
                prompt_tokens=asked,
                output_tokens=len(tokens) if end is None else end + 1,
            )

    def _plain(self, max_tokens: int) -> Any:
        """Settings of generate that leave every choice to our processors. A model brings settings of its own (top_k 50,
        a repetition penalty), which would shape answers without being in their key."""
        import transformers

        return transformers.GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            top_k=0,
            repetition_penalty=1.0,
            pad_token_id=self._loaded.pad,
            eos_token_id=sorted(self._loaded.eos),
        )

    @staticmethod
    def _failed(request: Request, sampling: Sampling, why: str) -> Answer:
        return Answer(request.key, request.attempt, None, "failed", why, sampling.max_tokens)

    def _inputs(self, batch: Sequence[Request]) -> dict[str, Any]:
        """Tokens (and pixels) of a batch, padded on the left."""
        from PIL import Image

        found = self._read_images(sorted({name for request in batch for name in request.images}))
        conversations = []
        for request in batch:
            images = iter([Image.open(io.BytesIO(found[name])).convert("RGB") for name in request.images])
            conversations.append(
                [{"role": m.role, "content": self._content(m.role, m.content, images)} for m in request.messages]
            )
        talker = self._loaded.processor or self._loaded.tokenizer
        options = {"padding": True, "padding_side": "left"}
        encoded = talker.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            **({"processor_kwargs": options} if self._loaded.processor else options),
        )  # fmt: skip
        return {name: value.to(self._loaded.model.device) for name, value in encoded.items()}

    def _content(self, role: str, text: str, images: Iterator[Any]) -> Any:
        if self._loaded.processor is None:
            return text
        if role != "user":
            return [{"type": "text", "text": text}]
        parts: list[dict[str, Any]] = []
        for i, piece in enumerate(text.split(prompts.IMAGE_MARK)):
            if i:
                parts.append({"type": "image", "image": next(images)})
            if piece:
                parts.append({"type": "text", "text": piece})
        return parts


class _Loaded:
    def __init__(self, model: Any, tokenizer: Any, processor: Any, revision: str | None):
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.revision = revision
        configured = model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        self.eos = {token for token in (*listed, tokenizer.eos_token_id) if token is not None}
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.eos)


@lru_cache(maxsize=1)
def _load(place: str, revision: str | None, dtype: str, device: str) -> _Loaded:
    """The model and what turns text and pictures into its inputs; once per process."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise WinnowError(
            f"The teacher transformers_local needs torch and transformers, and {error.name} is not here.\n"
            f"Install them: {INSTALL}"
        ) from error
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        config = transformers.AutoConfig.from_pretrained(place, revision=revision)
        sees = hasattr(config, "vision_config")
        loader = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        model = loader.from_pretrained(place, revision=revision, dtype=dtype).to(where).eval()
        processor = transformers.AutoProcessor.from_pretrained(place, revision=revision) if sees else None
        tokenizer = (
            processor.tokenizer if processor else transformers.AutoTokenizer.from_pretrained(place, revision=revision)
        )
    except (OSError, ValueError, ImportError) as error:
        raise WinnowError(f"The model {place} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
        raise WinnowError(f"The model {place} has no chat template; take its chat (Instruct) variant.")
    loaded = _Loaded(model, tokenizer, processor, getattr(config, "_commit_hash", None))
    if not loaded.eos:
        raise WinnowError(
            f"The model {place} names no end-of-text token, so no answer could be told from a truncated one."
        )
    return loaded


@lru_cache(maxsize=4)
def _state_of(folder: Path) -> str:
    """What tells two states of a local model apart: names, sizes and bytes of its files."""
    from curation.digests import file_digest, json_digest

    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return json_digest([[p.name, file_digest(p)] for p in files])[:12]


def _processors(seeds: Sequence[int], sampling: Sampling) -> Any:
    """Temperature, top-k, top-p and min-p in transformers' own order, then the draw of each answer."""
    import torch
    import transformers

    chain = transformers.LogitsProcessorList()
    if sampling.temperature == 0:
        return chain
    if sampling.temperature != 1:
        chain.append(transformers.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(transformers.MinPLogitsWarper(sampling.min_p))
    # Drawn on the CPU, so that an answer's draws are the same on every device.
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(input_ids: Any, scores: Any) -> Any:
        size = scores.shape[-1]
        noise = torch.stack([torch.empty(size, dtype=torch.float64).exponential_(generator=g) for g in generators])
        return scores.double() - noise.log().to(scores.device)

    chain.append(draw)
    return chain
