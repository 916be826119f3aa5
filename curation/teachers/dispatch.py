"""Giving requests to endpoints: as many at once as each has room for, again where they fail, elsewhere where one dies.

This is the half of the `openai_server` teacher that knows time and failure; what is said on the wire is in
curation/teachers/openai_server.py.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import queue
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from curation.teachers import given
from curation.teachers.base import REJECTED, Answer, Request, Sampling, failed
from curation.teachers.limits import Limit
from curation.teachers.pictures import BadPictureError
from schemas.errors import WinnowError

if TYPE_CHECKING:
    import aiohttp

    from curation.teachers.openai_server import Server

AHEAD = 1000
"""Answers that may wait for the store before no more are asked for."""
DEAD_AFTER = 3
"""Failures of an endpoint in a row after which it is taken out."""


@dataclass
class Endpoint:
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
class Later:
    """A request that waits for its next try."""

    due: float
    number: int
    request: Request = field(compare=False)
    tries: int = field(compare=False, default=0)


class TryAgain(Exception):
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


class RefusedError(Exception):
    """A request is at fault: another try would meet the same."""


class Run:
    """One `ask`: an event loop in a thread of its own."""

    def __init__(self, server: Server, requests: Iterator[Request], sampling: Sampling):
        self._server, self._config = server, server.config
        self._requests, self._sampling = requests, sampling
        self._endpoints = server.endpoints
        self.said: queue.SimpleQueue[Answer | BaseException | None] = queue.SimpleQueue()
        self._later: list[Later] = []
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
        if self._server.key:
            headers["Authorization"] = f"Bearer {self._server.key}"
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
                    heapq.heappush(self._later, Later(now, next(self._numbers), part))
                item = heapq.heappop(self._later)
            endpoint.in_flight += 1
            running.add(asyncio.create_task(self._one(endpoint, item)))

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), 0.02 if self.said.qsize() >= AHEAD else seconds)
        except TimeoutError:
            return

    def _parts(self, endpoint: Endpoint, request: Request) -> Iterator[Request]:
        size = self._server.at_once(endpoint, len(request.wants))
        for start in range(0, len(request.wants), size):
            yield request.part(start, min(start + size, len(request.wants)))

    def _with_room(self) -> Endpoint | None:
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

    async def _one(self, endpoint: Endpoint, item: Later) -> None:
        request = item.request
        full = endpoint.in_flight >= endpoint.limit.value
        try:
            answers, left = await self._post(endpoint, request)
        except TryAgain as error:
            self._again(endpoint, item, error)
        except (BadPictureError, RefusedError) as error:
            self._say(failed(request, f"{REJECTED}{error}"))
        else:
            endpoint.failures = 0
            endpoint.limit.done(sum(a.output_tokens or 0 for a in answers) or len(answers), full=full)
            self._say(answers)
            if left:
                self._server.gives_one = True
                for position in left:
                    part = request.part(position, position + 1)
                    heapq.heappush(self._later, Later(time.monotonic(), next(self._numbers), part, item.tries))
        finally:
            endpoint.in_flight -= 1
            self._changed.set()

    def _say(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self.said.put(answer)

    async def _post(self, endpoint: Endpoint, request: Request) -> tuple[Sequence[Answer], list[int]]:
        if request.given is not None:
            return [await given.score(self._server, endpoint, request, self.send)], []
        body = self._server.body(endpoint, request, self._sampling)
        return self._server.answers(request, await self.send(endpoint, f"{endpoint.url}/chat/completions", body))

    async def send(self, endpoint: Endpoint, url: str, body: bytes) -> bytes:
        """What is answered to a POST. Raises TryAgain, RefusedError, and WinnowError for what no other request would mend."""
        import aiohttp

        try:
            async with self._session.post(url, data=body) as response:
                payload = await response.read()
        except aiohttp.ClientConnectorError as error:
            raise TryAgain(str(error), gone=True) from error
        except TimeoutError as error:
            raise TryAgain(f"no answer within {self._config.timeout:g} s", overload=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise TryAgain(f"{type(error).__name__}: {error}") from error
        if response.status == 200:
            return payload
        said = payload[:300].decode("utf-8", "replace").strip()
        words = f"{response.status} {response.reason}: {said}"
        if response.status in (401, 403):
            raise WinnowError(f"The teacher {endpoint.url} lets nobody in ({words}).\nName the key with api_key_env.")
        if response.status == 404:
            raise WinnowError(f"The teacher {endpoint.url} does not know {self._config.model!r} ({words}).")
        if response.status in (400, 413, 415, 422):
            raise RefusedError(words)
        busy = response.status in (429, 503)
        raise TryAgain(words, after=_retry_after(response), overload=busy, refused=busy)

    def _again(self, endpoint: Endpoint, item: Later, error: TryAgain) -> None:
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
        self._server.sent_again += 1
        pause = 0.05 if error.gone else min(60.0, 0.25 * 2**tries) * self._chance.uniform(0.5, 1.0)
        due = time.monotonic() + max(pause, error.after or 0.0)
        heapq.heappush(self._later, Later(due, next(self._numbers), item.request, tries))

    # ------------------------------------------------------------------------------------------------------ endpoints

    async def _revive(self) -> None:
        """Ask endpoints that are out whether they are there (again)."""
        pause = 0.2
        while True:
            dead = [e for e in self._endpoints if e.dead_since is not None]
            await asyncio.gather(*(self._look(e) for e in dead))
            pause = 0.2 if any(e.dead_since is None for e in dead) or not dead else min(pause * 1.5, 15.0)
            await asyncio.sleep(pause)

    async def _look(self, endpoint: Endpoint) -> None:
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
