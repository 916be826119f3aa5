"""The `openai_server` teacher: any server that speaks OpenAI's chat protocol, or several of them.

Requests go to the endpoint with the most room (curation/teachers/limits.py). What fails is tried again after a pause
that doubles; an endpoint that does not answer is taken out, and asked now and then whether it is back. A vLLM server
draws the n answers of a row in one request, each with its own seed, so a row's pictures are sent once. Of other servers
it is not known how they seed several answers: they are asked for one at a time, unless the recipe says otherwise.

The connections live in a thread of their own, so that they go on while answers are made durable.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from curation.teachers.base import REJECTED, Answer, Asked, ReadImages, Request, Sampling, content_parts, failed
from curation.teachers.limits import Limit
from curation.teachers.pictures import BadPictureError, data_url
from schemas.errors import WinnowError
from schemas.recipe import Strings

if TYPE_CHECKING:
    import aiohttp

INSTALL = "pip install 'winnow[server]'"
AHEAD = 1000
"""Answers that may wait for the store before no more are asked for."""
DEAD_AFTER = 3
"""Failures of an endpoint in a row after which it is taken out."""
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


@dataclass
class _Endpoint:
    url: str
    limit: Limit
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    dead_since: float | None = None
    last_error: str = ""
    engine: str = ""
    """Who serves, as its list of models says: vllm, sglang, or something else."""

    @property
    def room(self) -> float:
        return 1 - self.in_flight / self.limit.value


@dataclass(order=True)
class _Later:
    """A request that waits for its next try."""

    due: float
    number: int
    request: Request = field(compare=False)
    tries: int = field(compare=False, default=0)


class _TryAgain(Exception):
    """A try that failed."""

    def __init__(
        self, why: str, *, after: float | None = None, overload: bool = False, refused: bool = False, gone: bool = False
    ):
        super().__init__(why)
        self.after = after
        self.overload = overload
        """It may have been too much for the server."""
        self.refused = refused
        """The server is there, and said so."""
        self.gone = gone
        """Nobody listens."""


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
        self._config, self._read_images = config, read_images
        self.model, self.revision = config.identity(Path())
        self._key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        if config.api_key_env and not self._key:
            raise WinnowError(
                f"The environment variable {config.api_key_env} is not set; the teacher's api_key_env names it."
            )
        self._endpoints = [
            _Endpoint(url.rstrip("/"), Limit(config.concurrency), dead_since=time.monotonic()) for url in config.url
        ]
        self._gives_one = False  # seen to answer with one choice whatever n says

    def load(self) -> Mapping[str, float]:
        alive = [e for e in self._endpoints if e.dead_since is None]
        return {"in_flight": sum(e.in_flight for e in alive), "limit": sum(e.limit.value for e in alive)}

    def close(self) -> None:
        pass

    def ask(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Answer]:
        run = _Run(self, iter(requests), sampling)
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

    def body(self, endpoint: _Endpoint, request: Request, sampling: Sampling) -> bytes:
        """What is posted. Raises BadPictureError."""
        config = self._config
        asked: dict[str, Any] = {
            "model": config.model,
            "messages": self._messages(request),
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

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        found = self._read_images(sorted(set(request.images))) if request.images else {}
        urls = iter([data_url(found[name], self._config.max_pixels) for name in request.images])
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

    def at_once(self, endpoint: _Endpoint, wants: int) -> int:
        """How many of the wants of a row one request asks for."""
        if self._gives_one:
            return 1
        return self._config.answers_per_request or (wants if endpoint.engine == "vllm" else 1)

    def answers(self, request: Request, payload: bytes) -> tuple[list[Answer], list[int]]:
        """The answers in a response, and the positions of the wants that it leaves out. Raises _TryAgain where it is
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
                    counted = len(choices) == 1 and (self._gives_one or self._config.answers_per_request in (None, 1))
                    alone = usage.get("completion_tokens") if counted else None
                    found[index] = _answer(request, index, choice, prompt_tokens, alone)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _TryAgain(f"no chat response ({type(error).__name__}: {error}): {payload[:200]!r}") from error
        if not found:
            raise _TryAgain(f"a response without answers: {payload[:200]!r}")
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


class _Run:
    """One `ask`: an event loop in a thread of its own."""

    def __init__(self, server: Server, requests: Iterator[Request], sampling: Sampling):
        self._server, self._config = server, server._config
        self._requests, self._sampling = requests, sampling
        self._endpoints = server._endpoints
        self.said: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        self._later: list[_Later] = []
        self._numbers = itertools.count()
        self._stopping = False
        self._chance = random.Random(0)

    def start(self) -> None:
        """The thread's work. Ends with None in the queue, or with what went wrong."""
        try:
            asyncio.run(self._main())
            self.said.put(None)
        except BaseException as error:  # raised to whom it concerns, in the other thread
            self.said.put(error)

    def stop(self) -> None:
        self._stopping = True

    async def _main(self) -> None:
        import aiohttp

        headers = {"Content-Type": "application/json"}
        if self._server._key:
            headers["Authorization"] = f"Bearer {self._server._key}"
        self._changed = asyncio.Event()
        limit = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=self._config.timeout, sock_connect=min(20.0, self._config.timeout))
        async with aiohttp.ClientSession(connector=limit, headers=headers, timeout=timeout) as session:
            self._session = session
            watch = asyncio.create_task(self._revive())
            running: set[asyncio.Task[None]] = set()
            try:
                await self._dispatch(running)
            finally:
                watch.cancel()
                for task in running:
                    task.cancel()
                await asyncio.gather(watch, *running, return_exceptions=True)

    async def _dispatch(self, running: set[asyncio.Task[None]]) -> None:
        """Give requests to endpoints while there are any."""
        exhausted = False
        while not self._stopping:
            self._changed.clear()
            for task in [task for task in running if task.done()]:
                running.discard(task)
                task.result()  # raises what nobody expected
            now = time.monotonic()
            due = bool(self._later) and self._later[0].due <= now
            endpoint = self._with_room() if self.said.qsize() < AHEAD else None
            if endpoint is None or not (due or (not exhausted and len(self._later) < AHEAD)):
                if exhausted and not running and not self._later:
                    return
                self._lose_patience(now)
                await self._wait(min(1.0, max(0.01, self._later[0].due - now)) if self._later else 1.0)
                continue
            if due:
                item = heapq.heappop(self._later)
            else:
                request = next(self._requests, None)
                if request is None:
                    exhausted = True
                    continue
                for part in self._parts(endpoint, request):
                    heapq.heappush(self._later, _Later(now, next(self._numbers), part))
                item = heapq.heappop(self._later)
            endpoint.in_flight += 1
            running.add(asyncio.create_task(self._one(endpoint, item)))

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), 0.02 if self.said.qsize() >= AHEAD else seconds)
        except TimeoutError:
            return

    def _parts(self, endpoint: _Endpoint, request: Request) -> Iterator[Request]:
        size = self._server.at_once(endpoint, len(request.wants))
        for start in range(0, len(request.wants), size):
            yield request.part(start, min(start + size, len(request.wants)))

    def _with_room(self) -> _Endpoint | None:
        able = [e for e in self._endpoints if e.dead_since is None and e.in_flight < e.limit.value]
        return max(able, key=lambda e: e.room) if able else None

    def _lose_patience(self, now: float) -> None:
        dead = [e for e in self._endpoints if e.dead_since is not None]
        if len(dead) == len(self._endpoints) and all(now - (e.dead_since or now) > self._config.patience for e in dead):
            what = "\n".join(f"  {e.url}: {e.last_error or 'no answer'}" for e in dead)
            raise WinnowError(
                f"No endpoint of the teacher answers:\n{what}\nStart one (`winnow serve-teacher MODEL` does), or mend "
                "`url`. What was answered is kept: the same command goes on from there."
            )

    # ------------------------------------------------------------------------------------------------------- requests

    async def _one(self, endpoint: _Endpoint, item: _Later) -> None:
        request = item.request
        full = endpoint.in_flight >= endpoint.limit.value
        began = time.monotonic()
        try:
            answers, left = await self._post(endpoint, request)
        except _TryAgain as error:
            self._again(endpoint, item, error)
        except BadPictureError as error:
            self._say(failed(request, f"{REJECTED}{error}"))
        else:
            endpoint.failures = 0
            tokens = sum(a.output_tokens or 0 for a in answers)
            endpoint.limit.done(time.monotonic() - began, tokens or len(answers), full=full)
            self._say(answers)
            if left:
                self._server._gives_one = True
                for position in left:
                    part = request.part(position, position + 1)
                    heapq.heappush(self._later, _Later(began, next(self._numbers), part, item.tries))
        finally:
            endpoint.in_flight -= 1
            self._changed.set()

    def _say(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.said.put(answer)

    async def _post(self, endpoint: _Endpoint, request: Request) -> tuple[Sequence[Answer], list[int]]:
        import aiohttp

        body = self._server.body(endpoint, request, self._sampling)
        try:
            async with self._session.post(f"{endpoint.url}/chat/completions", data=body) as response:
                payload = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _TryAgain(str(error), gone=True) from error
        except TimeoutError as error:
            raise _TryAgain(f"no answer within {self._config.timeout:g} s", overload=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        if response.status == 200:
            return self._server.answers(request, payload)
        said = payload[:300].decode("utf-8", "replace").strip()
        words = f"{response.status} {response.reason}: {said}"
        if response.status in (401, 403):
            raise WinnowError(f"The teacher {endpoint.url} lets nobody in ({words}).\nName the key with api_key_env.")
        if response.status == 404:
            raise WinnowError(f"The teacher {endpoint.url} does not know {self._config.model!r} ({words}).")
        if response.status in (400, 413, 415, 422):
            return list(failed(request, f"{REJECTED}{words}")), []
        busy = response.status in (429, 503)
        raise _TryAgain(words, after=_retry_after(response), overload=busy, refused=busy)

    def _again(self, endpoint: _Endpoint, item: _Later, error: _TryAgain) -> None:
        """What becomes of a try that failed, and of the endpoint."""
        endpoint.last_error = str(error)
        if error.overload:
            endpoint.limit.overloaded()
        if not error.refused:
            endpoint.failures += 1
            if error.gone or endpoint.failures >= DEAD_AFTER * endpoint.limit.value:
                endpoint.dead_since = endpoint.dead_since or time.monotonic()
        # An endpoint that is gone is no fault of the request.
        tries = item.tries if error.gone else item.tries + 1
        if tries >= self._config.tries:
            self._say(failed(item.request, f"{error} ({tries} tries)"))
            return
        pause = 0.05 if error.gone else min(60.0, 0.25 * 2**tries) * self._chance.uniform(0.5, 1.0)
        due = time.monotonic() + max(pause, error.after or 0.0)
        heapq.heappush(self._later, _Later(due, next(self._numbers), item.request, tries))

    # ------------------------------------------------------------------------------------------------------ endpoints

    async def _revive(self) -> None:
        """Ask endpoints that are out whether they are there (again)."""
        pause = 0.2
        while True:
            dead = [e for e in self._endpoints if e.dead_since is not None]
            await asyncio.gather(*(self._look(e) for e in dead))
            pause = 0.2 if any(e.dead_since is None for e in dead) or not dead else min(pause * 1.5, 15.0)
            await asyncio.sleep(pause)

    async def _look(self, endpoint: _Endpoint) -> None:
        """Whether an endpoint is there, and who it is. Some serve chat but no list of models: any answer will do."""
        import aiohttp

        try:
            timeout = aiohttp.ClientTimeout(total=10)
            async with self._session.get(f"{endpoint.url}/models", timeout=timeout) as response:
                payload = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            endpoint.last_error = str(error) or type(error).__name__
            return
        if response.status in (502, 503, 504):
            endpoint.last_error = f"{response.status} {response.reason}"
            return
        if response.status == 200:
            try:
                listed = {str(m["id"]): str(m.get("owned_by", "")) for m in json.loads(payload)["data"]}
            except (ValueError, KeyError, TypeError):
                listed = {}
            endpoint.engine = listed.get(self._config.model, "")
            if listed and self._config.model not in listed and endpoint.engine == "":
                known = ", ".join(sorted(listed)[:10])
                endpoint.last_error = f"it serves {known}, not {self._config.model}"
                self.said.put(WinnowError(f"The teacher {endpoint.url} does not serve {self._config.model!r}; it serves {known}."))  # fmt: skip
                self._stopping = True
        endpoint.dead_since, endpoint.failures = None, 0
        self._changed.set()


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that a Retry-After header asks for; dates are not read."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), 600.0) if text.replace(".", "", 1).isdigit() else None
