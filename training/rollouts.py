"""Answers of the policy to its questions, by transformers' generate, by a vLLM engine in this process, or by vLLM servers
(training/rollout_servers.py).

Sampling and scoring are one distribution: the whole vocabulary at the recipe's temperature, without top-k (generate's
default is 50) or top-p, and without the placeholders of pictures, which the trainer masks too. The sampled ids are
kept as they are, and what counts as generated is told by lengths, never by token values.

What is drawn follows from the seed of its step alone, so a run can be taken up again anywhere, and more processes draw
the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from curation.images import as_seen
from schemas.errors import WinnowError
from schemas.training import GspoRecipe, Rollouts
from training import models, weights
from training.heldout import banned_of, ends_of, generate_inputs, generating
from training.prompts import seed_of
from training.tokens import Encoder, Sample


@dataclass(frozen=True)
class Drawn:
    """One answer: its token ids with the one that ends it, the engine's log-probabilities of them, and whether it
    ended by itself."""

    ids: list[int]
    logp: list[float]
    finished: bool


class Engine(Protocol):
    """What draws answers."""

    def sample(self, prompts: Sequence[Sample], seed: int) -> list[list[Drawn]]:
        """n answers to each prompt, in order. Every process calls it, with all the prompts, and gets all answers."""
        ...

    def push(self) -> None:
        """Take over the policy's weights as they are now. Every process calls it."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def open_engine(recipe: GspoRecipe, policy: models.Policy, encoder: Encoder, place: str, folder: Path) -> Engine:
    """The engine that the recipe names, for a run that lies in `folder`. Raises WinnowError."""
    if recipe.rollout.engine == "vllm":
        return VllmEngine(recipe, policy, encoder, place)
    if recipe.rollout.engine == "vllm_server":
        from training.rollout_servers import ServerEngine

        return ServerEngine(recipe, policy, encoder, place, folder)
    return TransformersEngine(recipe.rollout, policy, encoder)


def spoken(encoder: Encoder, drawn: Drawn) -> str:
    """The text of an answer, without the token that ends it."""
    ids = drawn.ids[:-1] if drawn.finished else drawn.ids
    return str(encoder.tokenizer.decode(ids, skip_special_tokens=False))


def sampling(config: Rollouts, policy: models.Policy, encoder: Encoder, seed: int) -> dict[str, Any]:
    """What vLLM is asked for, by the names of its SamplingParams: the distribution that the trainer scores."""
    return {
        "n": config.n, "temperature": config.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
        "repetition_penalty": 1.0, "max_tokens": config.max_new_tokens, "logprobs": 0, "detokenize": False,
        "stop_token_ids": sorted(ends_of(policy.model, encoder)), "seed": seed % 2**31,
        "logit_bias": dict.fromkeys(banned_of(policy.model.config), BANNED_BIAS) or None,
    }  # fmt: skip


BANNED_BIAS = -100.0
"""vLLM's least: it makes a placeholder e^-100 times as likely."""
SHORT = 24
"""Tokens of an answer by which an engine is checked."""


def asked_ids(sample: Sample, encoder: Encoder) -> list[int]:
    """A prompt as vLLM takes it: one placeholder for each picture, which it expands itself."""
    kept = np.ones(len(sample.ids), bool)
    for at, height, width in sample.images:
        kept[at + 1 : at + height * width // encoder.merge**2] = False
    return [int(token) for token in np.asarray(sample.ids)[kept]]


def check_prompt(sample: Sample, seen: Sequence[int]) -> None:
    """Raises WinnowError where vLLM's prompt is not the trainer's."""
    if list(seen) != list(sample.ids):
        raise WinnowError(
            f"vLLM saw a prompt of {len(seen)} tokens where the trainer has {len(sample.ids)}: they size pictures "
            "differently. Set batch.max_pixels as the model's own."
        )


# --------------------------------------------------------------------------------------------------------- transformers


class _Recorder:
    """Log-probabilities of what generate takes. It sees the scores before generate divides them by the temperature."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._scores: Tensor | None = None
        self.taken: list[Tensor] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.end(ids)
        self._scores = (scores.float() / self._temperature).log_softmax(-1)
        return scores

    def end(self, ids: Tensor) -> None:
        """The newest token was drawn from the scores before."""
        if self._scores is not None:
            self.taken.append(self._scores.gather(1, ids[:, -1:])[:, 0])
        self._scores = None


class TransformersEngine:
    """generate, in chunks of `at_once` prompts; each chunk has a seed of its own, and processes share the chunks."""

    def __init__(self, config: Rollouts, policy: models.Policy, encoder: Encoder):
        self._config, self._policy, self._encoder = config, policy, encoder

    def push(self) -> None:
        """It draws from the policy itself."""

    def close(self) -> None:
        """It holds nothing."""

    def sample(self, prompts: Sequence[Sample], seed: int) -> list[list[Drawn]]:
        rank, processes = models.world()
        size = self._config.at_once
        chunks = [prompts[n : n + size] for n in range(0, len(prompts), size)]
        mine: dict[int, list[list[Drawn]]] = {}
        with generating(self._policy), torch.no_grad():
            for n in range(rank, -(-len(chunks) // processes) * processes, processes):
                # A process whose share has run out draws along: the layers are gathered by all.
                drawn = self._chunk(chunks[min(n, len(chunks) - 1)], seed_of(seed, n), processes > 1)
                if n < len(chunks):
                    mine[n] = drawn
        if processes > 1:
            shares: list[Any] = [None] * processes
            torch.distributed.all_gather_object(shares, mine)
            mine = {n: drawn for share in shares for n, drawn in share.items()}
        return [group for n in range(len(chunks)) for group in mine[n]]

    def _chunk(self, prompts: Sequence[Sample], seed: int, together: bool) -> list[list[Drawn]]:
        import transformers

        model, encoder, config = self._policy.model, self._encoder, self._config
        made = [encoder.pixels(picture.read()) for sample in prompts for picture in sample.pictures]
        inputs = generate_inputs(encoder, prompts, [p for p, _ in made], [[1, *grid] for _, grid in made])
        if together and not made:
            self._policy.idle_image()
        ends = ends_of(model, encoder)
        settings = transformers.GenerationConfig(
            max_new_tokens=config.max_new_tokens, do_sample=True, temperature=config.temperature, top_k=0, top_p=1.0,
            num_return_sequences=config.n, pad_token_id=encoder.pad, eos_token_id=sorted(ends),
            suppress_tokens=banned_of(model.config) or None,
        )  # fmt: skip
        torch.manual_seed(seed)
        recorder = _Recorder(config.temperature)
        out = model.generate(
            **{name: value.to(model.device) for name, value in inputs.items()}, generation_config=settings,
            logits_processor=transformers.LogitsProcessorList([recorder]), synced_gpus=together,
        )  # fmt: skip
        recorder.end(out)
        width = inputs["input_ids"].shape[1]
        logs = torch.stack(recorder.taken, 1).tolist()
        drawn = []
        for ids, logp in zip(out[:, width:].tolist(), logs, strict=True):
            end = next((n + 1 for n, token in enumerate(ids) if token in ends), None)
            drawn.append(Drawn(ids[:end], logp[: end or len(ids)], end is not None))
        return [drawn[n : n + config.n] for n in range(0, len(drawn), config.n)]


# ----------------------------------------------------------------------------------------------------------------- vLLM


class VllmEngine:
    """vLLM's engine in this process, so that weights are handed over as tensors, by their names.

    With `sleep` it gives up weights and cache behind every drawing, and the GPU is the trainer's. It wakes in the order
    that makes sense: the place of its weights, the policy's weights, then the cache. Nothing is ever drawn from what
    lies in that place before: awake means pushed.
    """

    def __init__(self, recipe: GspoRecipe, policy: models.Policy, encoder: Encoder, place: str):
        if models.world()[1] > 1:
            raise WinnowError("`rollout.engine: vllm` runs with one process; take vllm_server with torchrun.")
        if recipe.rollout.sleep and policy.model.device.type != "cuda":
            raise WinnowError("`rollout.sleep` needs a GPU: on a CPU vLLM says that it sleeps and keeps its memory.")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from curation.teachers.vllm_offline import VllmOffline, open_llm

        config = self._config = recipe.rollout
        self._policy, self._encoder = policy, encoder
        settings = {
            "model": place,
            "revision": recipe.model.revision,
            "dtype": "bfloat16" if recipe.precision == "bf16" else "float32",
            "max_model_len": config.max_prompt_tokens + config.max_new_tokens,
            "gpu_memory_utilization": config.memory,
            "engine": {
                "logprobs_mode": "processed_logprobs", "generation_config": "vllm", "seed": recipe.seed % 2**31,
                **({"enable_sleep_mode": True} if config.sleep else {}),
                # A CPU compiles for longer than it then saves.
                **({"enforce_eager": True} if policy.model.device.type == "cpu" else {}),
            },
        }  # fmt: skip
        self.llm = open_llm(VllmOffline.model_validate(settings), Path())
        self._bound, self._asleep = recipe.alarms.mismatch, False
        self._seen = weights.plain_prompt(encoder)
        weights.prove(self, policy, encoder, self._seen, self._bound)
        self._rest()

    def push(self) -> None:
        if not self._config.sleep:  # else it is done when it wakes
            self.load()
            weights.check(self, self._policy, self._encoder, self._seen, self._bound)

    def load(self) -> None:
        self.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(weights.weights_of(self._policy).items())}
        )
        # All that was computed with the old ones is forgotten, on both sides: pictures too.
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_prefix_cache()

    def _wake(self) -> None:
        if self._asleep:
            self.llm.wake_up(tags=["weights"])
            self.load()
            self.llm.wake_up(tags=["kv_cache"])
            self._asleep = False
            weights.check(self, self._policy, self._encoder, self._seen, self._bound)

    def _rest(self) -> None:
        if self._config.sleep:
            self.llm.sleep(level=2)
            self._asleep = True

    def probe(self, prompt: Sample) -> list[Drawn]:
        return self._draw([prompt], 0, n=1, max_tokens=SHORT)[0]

    def sample(self, prompts: Sequence[Sample], seed: int) -> list[list[Drawn]]:
        self._wake()
        groups = self._draw(prompts, seed)
        self._seen = next((prompt for prompt in prompts if prompt.images), prompts[0])
        self._rest()
        return groups

    def _draw(self, prompts: Sequence[Sample], seed: int, **changed: int) -> list[list[Drawn]]:
        import vllm

        ends = ends_of(self._policy.model, self._encoder)
        asked = [self._asked(sample) for sample in prompts]
        settings = [
            vllm.SamplingParams(**sampling(self._config, self._policy, self._encoder, seed_of(seed, n)) | changed)
            for n in range(len(prompts))
        ]
        groups = []
        for sample, found in zip(prompts, self.llm.generate(asked, settings, use_tqdm=False), strict=True):
            check_prompt(sample, found.prompt_token_ids)
            group = []
            for one in sorted(found.outputs, key=lambda output: output.index):
                ids = list(one.token_ids)
                logp = [step[token].logprob for token, step in zip(ids, one.logprobs, strict=True)]
                group.append(Drawn(ids, logp, bool(ids) and ids[-1] in ends))
            groups.append(group)
        return groups

    def _asked(self, sample: Sample) -> dict[str, Any]:
        asked: dict[str, Any] = {"prompt_token_ids": asked_ids(sample, self._encoder)}
        if sample.pictures:
            asked["multi_modal_data"] = {"image": [as_seen(picture.read()) for picture in sample.pictures]}
        return asked

    def close(self) -> None:
        core = getattr(getattr(self.llm, "llm_engine", None), "engine_core", None)
        del self.llm
        if core is not None:
            core.shutdown()
