"""The `openai_server` teacher: any server that speaks OpenAI's chat protocol, or several of them.

Requests go to the endpoint with the most room (curation/teachers/dispatch.py, limits.py). What fails is tried again after a pause
that doubles; an endpoint that does not answer is taken out, and asked now and then whether it is back. A vLLM server
draws the n answers of a row in one request, each with its own seed, so a row's pictures are sent once. Of other servers
it is not known how they seed several answers: they are asked for one at a time, unless the recipe says otherwise.

The connections live in a thread of their own, so that they go on while answers are made durable.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from curation.teachers.base import REJECTED, Answer, Asked, ReadImages, Request, Sampling, content_parts
from curation.teachers.dispatch import Endpoint, Run, TryAgain
from curation.teachers.limits import Limit
from curation.teachers.pictures import data_url
from schemas.errors import WinnowError
from schemas.recipe import Strings

INSTALL = "pip install 'winnow[server]'"
_FINISH = {"stop": "finished", "length": "truncated", "tool_calls": "finished"}
_ENGINES = ("vllm", "sglang")
"""Servers that say so in their list of models, and that take the samplers' further parameters."""


class OpenAIServer(Asked):
    """A model behind one or more endpoints of OpenAI's chat protocol: `vllm serve`, SGLang, a hosted API."""

    kind: Literal["openai_server"] = "openai_server"
    url: Strings = Field(description="Base URL, like http://localhost:8000/v1, or a list of them.", min_length=1)
    model: str = Field(description="Name of the model, as the server calls it.")
    revision: str = Field("", description="State of the model, for the key: a server does not tell it.")
    api_key_env: str | None = Field(None, description="Environment variable with the API key.")
    concurrency: int = Field(
        512, ge=1, description="Requests in flight per endpoint at most; fewer where it is slower."
    )
    timeout: float = Field(3600, gt=0, description="Seconds that one request may take.")
    tries: int = Field(8, ge=1, description="Tries of a request, with pauses that double, before it has failed.")
    patience: float = Field(600, ge=0, description="Seconds without any endpoint after which the build stops.")
    answers_per_request: int | None = Field(
        None, ge=1, description="Answers of a row per request; by default all of a vLLM server, one of others."
    )
    max_pixels: int | None = Field(None, ge=1, description="Pictures with more pixels are made smaller; by default none.")  # fmt: skip
    extra: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of every request, like {chat_template_kwargs: {…}}."
    )

    def open(self, read_images: ReadImages, recipe_dir: Path) -> Server:
        return Server(self, read_images)

    def identity(self, recipe_dir: Path) -> tuple[str, str]:
        from curation.digests import json_digest

        shaping = {"extra": self.extra, "max_pixels": self.max_pixels}
        own = "" if not self.extra and self.max_pixels is None else "+" + json_digest(shaping)[:12]
        return self.model, self.revision + own


class Server:
    """Endpoints under way; curation.teachers.base.Teacher."""

    name = "openai_server"

    def __init__(self, config: OpenAIServer, read_images: ReadImages):
        try:
            import aiohttp  # noqa: F401
        except ImportError as error:
            raise WinnowError(
                f"The teacher openai_server needs aiohttp, and it is not here.\nInstall it: {INSTALL}"
            ) from error
        self.config, self._read_images = config, read_images
        self.model, self.revision = config.identity(Path())
        self.key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        if config.api_key_env and not self.key:
            raise WinnowError(
                f"The environment variable {config.api_key_env} is not set; the teacher's api_key_env names it."
            )
        self.endpoints = [
            Endpoint(url.rstrip("/"), Limit(config.concurrency), dead_since=time.monotonic()) for url in config.url
        ]
        self.sent_again = 0
        self.gives_one = False  # seen to answer with one choice whatever n says

    def load(self) -> Mapping[str, float]:
        alive = [e for e in self.endpoints if e.dead_since is None]
        return {
            "in_flight": sum(e.in_flight for e in alive),
            "limit": sum(e.limit.value for e in alive),
            "sent_again": self.sent_again,
        }

    def close(self) -> None:
        pass

    def ask(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Answer]:
        run = Run(self, iter(requests), sampling)
        thread = threading.Thread(target=run.start, daemon=True, name="openai_server")
        thread.start()
        try:
            while (said := run.said.get()) is not None:
                if isinstance(said, BaseException):
                    raise said
                yield said
        finally:
            run.stop()
            thread.join()

    # ------------------------------------------------------------------------------------------------------- protocol

    def body(self, endpoint: Endpoint, request: Request, sampling: Sampling) -> bytes:
        """What is posted. Raises BadPictureError."""
        config = self.config
        asked: dict[str, Any] = {
            "model": config.model,
            "messages": self.messages(request),
            "n": len(request.wants),
            "seed": request.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": request.max_tokens,
        }
        if endpoint.engine in _ENGINES or sampling.top_k:
            asked["top_k"] = sampling.top_k or -1
        if endpoint.engine in _ENGINES or sampling.min_p:
            asked["min_p"] = sampling.min_p
        if endpoint.engine in _ENGINES:
            # What a model's generation_config brings must not shape answers: it is in no key.
            asked["repetition_penalty"] = 1.0
        if endpoint.engine == "vllm":
            asked["return_token_ids"] = True  # the only way to learn how long each of several answers is
        if sampling.logprobs:
            asked["logprobs"] = True
        return json.dumps({**asked, **config.extra}).encode()

    def messages(self, request: Request) -> list[dict[str, Any]]:
        found = self._read_images(sorted(set(request.images))) if request.images else {}
        urls = iter([data_url(found[name], self.config.max_pixels) for name in request.images])
        said: list[dict[str, Any]] = []
        for message in request.messages:
            content: Any = message.content
            if request.images and message.role == "user":
                content = [
                    {"type": "text", "text": part} if kind == "text" else {"type": "image_url", "image_url": {"url": part}}
                    for kind, part in content_parts(message, urls)
                ]  # fmt: skip
            said.append({"role": message.role, "content": content})
        return said

    def at_once(self, endpoint: Endpoint, wants: int) -> int:
        """How many of the wants of a row one request asks for."""
        if self.gives_one:
            return 1
        return self.config.answers_per_request or (wants if endpoint.engine == "vllm" else 1)

    def answers(self, request: Request, payload: bytes) -> tuple[list[Answer], list[int]]:
        """The answers in a response, and the positions of the wants that it leaves out. Raises TryAgain where it is
        no chat response."""
        try:
            said = json.loads(payload)
            choices, usage = said["choices"], said.get("usage") or {}
            prompt_tokens = usage.get("prompt_tokens")
            found: dict[int, Answer] = {}
            for place, choice in enumerate(choices):
                index = choice.get("index", place)
                if 0 <= index < len(request.wants):
                    # A count must not depend on how many answers happened to be asked for together.
                    counted = len(choices) == 1 and (self.gives_one or self.config.answers_per_request in (None, 1))
                    alone = usage.get("completion_tokens") if counted else None
                    found[index] = _answer(request, index, choice, prompt_tokens, alone)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TryAgain(f"no chat response ({type(error).__name__}: {error}): {payload[:200]!r}") from error
        if not found:
            raise TryAgain(f"a response without answers: {payload[:200]!r}")
        return list(found.values()), [i for i in range(len(request.wants)) if i not in found]


def _answer(request: Request, index: int, choice: Mapping[str, Any], asked: int | None, alone: int | None) -> Answer:
    want, message = request.wants[index], choice["message"]
    text = message.get("content")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    reason = str(choice.get("finish_reason") or "stop")
    finish: Any = _FINISH.get(reason, "failed")
    if text is None and not reasoning:
        finish, reason = "failed", REJECTED + f"no text ({reason})"
    elif finish == "failed":
        reason = (REJECTED if reason == "content_filter" else "") + reason
    tokens = choice.get("token_ids")
    probabilities = (choice.get("logprobs") or {}).get("content")
    return Answer(
        want.key,
        want.attempt,
        None if finish == "failed" else text or "",
        finish,
        reason,
        request.max_tokens,
        prompt_tokens=asked,
        output_tokens=len(tokens) if tokens is not None else alone,
        reasoning=reasoning,
        logprobs=[float(token["logprob"]) for token in probabilities] if probabilities else None,
    )
