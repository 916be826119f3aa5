"""The `transformers_local` teacher: a model on this machine, asked through transformers' generate.

It is the teacher that needs nothing but torch: slow beside vLLM, right for small models, smoke tests and CPUs. Every
answer has a random generator of its own, seeded by its key: what a batch holds beside it, and in which order answers
come, changes no draw. Sampling adds Gumbel noise to the log-probabilities and takes the largest, which draws exactly
from the softmax (E. J. Gumbel, 1954).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from curation.teachers import local, pictures
from curation.teachers.base import (
    REJECTED,
    Answer,
    Asked,
    Message,
    ReadImages,
    Request,
    Sampling,
    content_parts,
    failed,
    scored,
)
from curation.teachers.pictures import BadPictureError
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
        state = local.state_of(self.model, self.revision, recipe_dir)
        return None if state is None else (self.model, state)

    def files(self, recipe_dir: Path) -> Sequence[Path]:
        return local.model_files(self.model, recipe_dir)

    def tokenizer(self, recipe_dir: Path) -> str | None:
        return local.place_of(self.model, recipe_dir)


class LocalModel:
    """A loaded model; curation.teachers.base.Teacher."""

    name = "transformers_local"

    def __init__(self, config: TransformersLocal, read_images: ReadImages, recipe_dir: Path):
        self._config = config
        self._read_images = read_images
        self._loaded = _load(local.place_of(config.model, recipe_dir), config.revision, config.dtype, config.device)
        self.model = config.model
        self.revision = local.state_of(config.model, config.revision, recipe_dir) or str(config.revision or "")
        self._in_flight = 0

    def load(self) -> Mapping[str, float]:
        return {"in_flight": self._in_flight}

    def close(self) -> None:
        _load.cache_clear()

    def ask(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Answer]:
        single: Iterator[Request] = (r.part(i, i + 1) for r in requests for i in range(len(r.wants)))
        if (first := next(single, None)) is None:
            return
        single = itertools.chain([first], single)
        if first.given is not None:
            for request in single:
                yield from self._score(request)
            return
        # Of some batches at a time, answers of like length together: less padding. Processors want pictures in all of a
        # batch or in none, and one limit serves all of it.
        while window := list(itertools.islice(single, 16 * self._config.batch_size)):

            def alike(r: Request) -> tuple[bool, int]:
                return bool(r.images), r.max_tokens

            window.sort(key=lambda r: (*alike(r), sum(len(m.content) for m in r.messages), r.wants[0].key))
            for _, group in itertools.groupby(window, alike):
                of_kind = list(group)
                for at in range(0, len(of_kind), self._config.batch_size):
                    batch = of_kind[at : at + self._config.batch_size]
                    self._in_flight = len(batch)
                    yield from self._batch(batch, sampling)
        self._in_flight = 0

    def _batch(self, batch: Sequence[Request], sampling: Sampling) -> Iterator[Answer]:
        import torch

        try:
            inputs = self._inputs(batch)
            with torch.inference_mode():
                made = self._loaded.model.generate(
                    **inputs,
                    generation_config=self._plain(batch[0].max_tokens),
                    logits_processor=_processors([r.seed for r in batch], sampling),
                    return_dict_in_generate=True,
                    output_logits=sampling.logprobs,
                )
        except BadPictureError as error:
            if len(batch) == 1:
                yield from failed(batch[0], f"{REJECTED}{error}")
            else:
                for request in batch:
                    yield from self._batch([request], sampling)
            return
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                yield from failed(batch[0], f"out of memory: {str(error).splitlines()[0]}")
                return
            torch.cuda.empty_cache()
            half = len(batch) // 2
            yield from self._batch(batch[:half], sampling)
            yield from self._batch(batch[half:], sampling)
            return
        output = made.sequences
        start = inputs["input_ids"].shape[1]
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        for i, (request, tokens) in enumerate(zip(batch, output[:, start:].tolist(), strict=True)):
            end = next((j for j, token in enumerate(tokens) if token in self._loaded.eos), None)
            count = len(tokens) if end is None else end + 1
            yield Answer(
                request.wants[0].key,
                request.wants[0].attempt,
                self._loaded.tokenizer.decode(tokens[:end], skip_special_tokens=False),
                "truncated" if end is None else "finished",
                "length" if end is None else "stop",
                request.max_tokens,
                prompt_tokens=prompt_tokens[i],
                output_tokens=count,
                logprobs=_logprobs(made.logits, i, tokens[:count]) if sampling.logprobs else None,
            )

    def _score(self, request: Request) -> Iterator[Answer]:
        """One at a time: what else a batch holds would change the last digits. Logits are made for the answer alone."""
        import torch

        assert request.given is not None
        answer = self._loaded.tokenizer(request.given, add_special_tokens=False)["input_ids"]
        try:
            inputs = self._inputs([request])
            begin = inputs["input_ids"].shape[1]
            for name, value in inputs.items():
                if value.shape[:2] == (1, begin):  # of tokens: ids, a mask of ones, and types, 0 for text
                    more = {"input_ids": answer, "attention_mask": [1] * len(answer)}.get(name, [0] * len(answer))
                    inputs[name] = torch.cat([value, value.new_tensor([more])], dim=1)
            with torch.inference_mode():
                logits = self._loaded.model(**inputs, logits_to_keep=len(answer) + 1, use_cache=False).logits[0]
                said = [
                    float(line.float().log_softmax(-1)[token]) for line, token in zip(logits[-len(answer) - 1 : -1], answer, strict=True)
                ]  # fmt: skip
        except BadPictureError as error:
            yield from failed(request, f"{REJECTED}{error}")
        except torch.OutOfMemoryError as error:
            yield from failed(request, f"out of memory: {str(error).splitlines()[0]}")
        else:
            yield scored(request, said, begin)

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

    def _inputs(self, batch: Sequence[Request]) -> dict[str, Any]:
        """Tokens (and pixels) of a batch, padded on the left."""
        found = self._read_images(sorted({name for request in batch for name in request.images}))
        conversations = []
        for request in batch:
            images = iter([pictures.opened(found[name], None) for name in request.images])
            conversations.append([{"role": m.role, "content": self._content(m, images)} for m in request.messages])
        talker = self._loaded.processor or self._loaded.tokenizer
        options = {"padding": True, "padding_side": "left"}
        encoded = talker.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            **({"processor_kwargs": options} if self._loaded.processor else options),
        )  # fmt: skip
        return {name: value.to(self._loaded.model.device) for name, value in encoded.items()}

    def _content(self, message: Message, images: Iterator[Any]) -> Any:
        if self._loaded.processor is None:
            return message.content
        return [
            {"type": "text", "text": part} if kind == "text" else {"type": "image", "image": part}
            for kind, part in content_parts(message, images)
        ]


class _Loaded:
    def __init__(self, model: Any, tokenizer: Any, processor: Any):
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
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
    # Answers go on where a prompt ends, so padding stands in front. A tokenizer of its own takes the side from nowhere else:
    # its chat template passes no `padding_side` on.
    tokenizer.padding_side = "left"
    loaded = _Loaded(model, tokenizer, processor)
    if not loaded.eos:
        raise WinnowError(
            f"The model {place} names no end-of-text token, so no answer could be told from a truncated one."
        )
    return loaded


def _logprobs(logits: Sequence[Any], row: int, tokens: Sequence[int]) -> list[float]:
    """Log-probability of each token under the model itself, before temperature and truncation."""
    return [float(logits[i][row].float().log_softmax(-1)[token]) for i, token in enumerate(tokens)]


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
