"""Answers by vLLM servers over HTTP: token ids go there and come back, pictures go as PNG.

A step's weights are written into the run's folder, whole or not at all, and each server reads them from there. It is told
a name for them that no other push ever had, and each answer names the weights that drew it: an answer of others, of a
server that was started anew and has only what it began with, is thrown away and drawn again.

A question is one request, its answers come together, and they are entered under the question's number. So a server that
dies takes with it what it had not yet said, its questions go to whichever server asks for the next one, and nothing is
missing or counted twice. A server of ours is started again; another's is waited for, `rollout.patience` at most.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from curation import store
from curation.images import as_seen
from schemas.errors import WinnowError
from schemas.training import GspoRecipe
from training import models, weights
from training.heldout import ends_of
from training.processes import from_first
from training.prompts import seed_of
from training.rollouts import SHORT, Drawn, asked_ids, check_prompt, sampling
from training.tokens import Encoder, Sample

AT_ONCE = 256
"""Questions that one server has at once."""
TRIES = 5
"""Of a question: one on which servers die would be asked forever."""
STARTS = 3
"""Of a server of ours without ever an answer."""
GIVEN_UP = 30.0
"""Seconds in which a server that was waited for in vain is not asked."""
LOG = "rollout_server.log"
SECONDS = 3600.0
"""That one request may take."""
LEASH = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os.killpg(0, 9)), daemon=True).start()
sys.argv[0] = sys.argv.pop(1)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module until its standard input is closed, as it is when the run ends, however it ends."""
START = "Start it with `winnow serve-teacher MODEL --rollouts`, with vLLM 0.32 or newer."


class Gone(Exception):
    """A server does not answer, or not as one that works; what it was asked can be asked again."""


class AbsentError(WinnowError):
    """A server that was waited for in vain. Another may go on."""


class Server:
    """One server, and what weights it has. Threads share it."""

    def __init__(self, url: str, start: Callable[[], tuple[subprocess.Popen[bytes], str]] | None = None):
        self.url, self._start = url.rstrip("/").removesuffix("/v1"), start
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._loaded = ""
        self._loads = 0
        self._missed: float | None = None  # since when
        self._given_up = 0.0  # until when
        self._starts = 0

    def post(self, route: str, body: Any = None) -> Any:
        """The answer's JSON. Raises Gone, and WinnowError for what asking again would not mend."""
        request = urllib.request.Request(
            self.url + route, data=json.dumps(body or {}).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            if error.code in (403, 404, 405):
                raise WinnowError(
                    f"The server {self.url} does not offer {route} ({error.code}): {said}\n{START}"
                ) from error
            if error.code < 500 and error.code not in (408, 429):
                raise WinnowError(f"The server {self.url} refuses {route} ({error.code}): {said}") from error
            raise Gone(f"{error.code}: {said}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
            raise Gone(f"{type(error).__name__}: {error}") from error

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                return int(answer.status) == 200
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def ready(self, folder: Path, patience: float, needed: Callable[[], bool]) -> int:
        """See to it that it answers and has the weights of this folder, whose name is theirs. Returns how many times it
        took weights: what `lost` wants to know. Returns early where it is no longer needed; raises AbsentError where it
        does not come back within `patience` seconds of when it was first missed."""
        with self._lock:
            last = ""
            while self._loaded != folder.name and needed():
                self._missed = self._missed or time.monotonic()
                if time.monotonic() >= self._given_up:  # else another thread has just waited in vain
                    self._keep_alive()
                    try:
                        if self.healthy():
                            self._take(folder)
                            break
                    except Gone as error:
                        last = f"\nIts last word: {error}"
                if time.monotonic() - self._missed > patience:
                    if time.monotonic() >= self._given_up:
                        self._given_up = time.monotonic() + GIVEN_UP
                    raise AbsentError(f"The server {self.url} did not answer within {patience:,.0f} s (rollout.patience).{last}\n{START}")  # fmt: skip
                time.sleep(0.5)
            return self._loads

    def _take(self, folder: Path) -> None:
        """Weights are not changed under requests, and what was computed with the old ones is forgotten."""
        self.post("/pause?mode=abort")
        self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        if not self.post("/reset_prefix_cache")["success"]:
            raise Gone("its prefix cache is in use")
        self.post("/update_weight_version", {"new_version": folder.name})
        self.post("/resume")
        self._loaded, self._missed, self._given_up, self._starts = folder.name, None, 0.0, 0
        self._loads += 1

    def lost(self, loads: int) -> None:
        """It failed a request that was made behind so many loads; others may have brought it back since."""
        with self._lock:
            if loads == self._loads:
                self._loaded = ""

    def _keep_alive(self) -> None:
        if self._start is None or (self.process is not None and self.process.poll() is None):
            return
        self.end()
        if self._starts >= STARTS:
            raise AbsentError(f"The run's vLLM server ended {STARTS} times before it answered: see {LOG} in the run's folder.")  # fmt: skip
        self._starts += 1
        self.process, self.url = self._start()

    def end(self) -> None:
        """Of a server of ours: it and what it started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # all of it ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None


class Questions:
    """Numbers of questions that wait for whoever is free; one that failed waits again."""

    def __init__(self, count: int):
        self._waiting, self._left, self._tries = deque(range(count)), count, [0] * count
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """The next one; None when all have their answers, or nobody is to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self.unanswered())
            return self._waiting.popleft() if self.unanswered() else None

    def unanswered(self) -> bool:
        return self._left > 0

    def answered(self) -> None:
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def again(self, number: int, why: Exception) -> None:
        with self._changed:
            self._tries[number] += 1
            self._waiting.appendleft(number)
            self._changed.notify_all()
            if self._tries[number] >= TRIES:
                raise WinnowError(f"A question failed {TRIES} times at vLLM servers. The last time: {why}") from why

    def stop(self) -> None:
        with self._changed:
            self._left = 0
            self._changed.notify_all()


class ServerEngine:
    """training.rollouts.Engine. The first process speaks with the servers; all get what they say."""

    def __init__(self, recipe: GspoRecipe, policy: models.Policy, encoder: Encoder, place: str, folder: Path):
        self._recipe, self._config, self._policy, self._encoder = recipe, recipe.rollout, policy, encoder
        self._folder, self._log, self._place = folder.absolute() / "rollout_weights", folder / LOG, place
        self.servers = [Server(url) for url in self._config.servers] or [Server("", self._start)]
        self._current = self._folder / "none"
        self._bound, self._seen = recipe.alarms.mismatch, weights.plain_prompt(encoder)
        if models.world()[0] == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        atexit.register(self.close)
        weights.prove(self, policy, encoder, self._seen, self._bound)

    def _start(self) -> tuple[subprocess.Popen[bytes], str]:
        """A server of our own at a port that is free."""
        from curation.teachers.serve import command

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        dtype = "bfloat16" if self._recipe.precision == "bf16" else "float32"
        further = ["--dtype", dtype, "--seed", str(self._recipe.seed % 2**31)]
        further += ["--gpu-memory-utilization", str(self._config.memory)] if self._config.memory else []
        further += ["--revision", self._recipe.model.revision] if self._recipe.model.revision else []
        made = command(
            self._place, port=port, max_model_len=self._config.max_prompt_tokens + self._config.max_new_tokens,
            further=further, rollouts=True,
        )  # fmt: skip
        environment = {**os.environ, **made.environment, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)  # torchrun's are the trainer's
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", LEASH, *made.words[2:]], env=environment, stdin=subprocess.PIPE, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return process, made.url.removesuffix("/v1")

    # -------------------------------------------------------------------------------------------------------- weights

    def push(self) -> None:
        self.load()
        weights.check(self, self._policy, self._encoder, self._seen, self._bound)

    def load(self) -> None:
        full = weights.weights_of(self._policy)
        if models.world()[0] == 0:
            before, self._current = self._current, self._write(full)
            shutil.rmtree(before, ignore_errors=True)

    def _write(self, full: dict[str, torch.Tensor]) -> Path:
        """A folder that is there with all of the weights, or not at all. Tensors that share memory are written twice."""
        from safetensors.torch import save_file

        target = self._folder / uuid.uuid4().hex
        beside = target.with_suffix(".part")
        beside.mkdir()
        dtype = torch.bfloat16 if self._recipe.precision == "bf16" else torch.float32
        kept = {name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
                for name, value in full.items()}  # fmt: skip
        save_file({name: value.clone().contiguous() for name, value in kept.items()}, beside / "model.safetensors")
        store.fsync_tree(beside)  # another machine may read it
        beside.rename(target)
        return target

    # ------------------------------------------------------------------------------------------------------- sampling

    def probe(self, prompt: Sample) -> list[Drawn]:
        """By each server that answers; one that does not is waited for where there is no other."""

        def each() -> list[Drawn]:
            body = self._body(prompt, 0, n=1, max_tokens=SHORT)
            there = [server for server in self.servers if server.healthy()] or self.servers
            with ThreadPoolExecutor(len(there)) as pool:
                return [group[0][0] for group in pool.map(lambda server: self._ask([body], [prompt], [server]), there)]

        return from_first(each)

    def sample(self, prompts: Sequence[Sample], seed: int) -> list[list[Drawn]]:
        self._seen = next((prompt for prompt in prompts if prompt.images), prompts[0])
        return from_first(lambda: self._ask([self._body(prompt, seed_of(seed, n)) for n, prompt in enumerate(prompts)], prompts, self.servers))  # fmt: skip

    def _body(self, prompt: Sample, seed: int, **changed: int) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "token_ids": asked_ids(prompt, self._encoder),
            "sampling_params": sampling(self._config, self._policy, self._encoder, seed) | changed,
            "return_token_ids": True,
        }
        if prompt.pictures:
            asked["content_parts"] = [{"type": "image_url", "url": _png(picture.read())} for picture in prompt.pictures]
        return asked

    def _ask(self, bodies: Sequence[Any], prompts: Sequence[Sample], servers: Sequence[Server]) -> list[list[Drawn]]:
        """The answers to each question, by whichever server is free."""
        questions, found = Questions(len(bodies)), dict[int, list[Drawn]]()
        absent, refused = list[BaseException](), list[BaseException]()

        def work(server: Server) -> None:
            try:
                while True:
                    loads = server.ready(self._current, self._config.patience, questions.unanswered)
                    if (number := questions.take()) is None:
                        return
                    try:
                        found[number] = self._answers(server, bodies[number], prompts[number])
                    except Gone as error:
                        server.lost(loads)
                        questions.again(number, error)
                    else:
                        questions.answered()
            except AbsentError as error:
                absent.append(error)
            except BaseException as error:  # no server could do it
                refused.append(error)
                questions.stop()

        threads = [threading.Thread(target=work, args=(server,), daemon=True)
                   for server in servers for _ in range(min(AT_ONCE, len(bodies)))]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(found) < len(bodies):
            raise (refused or absent)[0]
        return [found[n] for n in range(len(bodies))]

    def _answers(self, server: Server, body: dict[str, Any], prompt: Sample) -> list[Drawn]:
        said = server.post("/inference/v1/generate", body)
        check_prompt(prompt, said.get("prompt_token_ids") or [])
        ends, group = ends_of(self._policy.model, self._encoder), []
        for choice in sorted(said["choices"], key=lambda choice: choice["index"]):
            if choice["finish_reason"] not in ("stop", "length"):
                raise Gone(f"an answer ended by {choice['finish_reason']}")
            if {span["version"] for span in choice.get("weight_versions") or ()} != {self._current.name}:
                raise Gone("an answer was drawn from other weights than those of the step")
            ids = choice["token_ids"]
            logp = [token["logprob"] for token in choice["logprobs"]["content"]]
            group.append(Drawn(ids, logp, bool(ids) and ids[-1] in ends))
        if len(group) != body["sampling_params"]["n"]:
            raise Gone(f"{len(group)} answers instead of {body['sampling_params']['n']}")
        return group

    def close(self) -> None:
        atexit.unregister(self.close)
        if models.world()[0] == 0:
            for server in self.servers:
                server.end()
            shutil.rmtree(self._folder, ignore_errors=True)


def _png(data: bytes) -> str:
    """The picture as the trainer sees it, turned and on white, without loss."""
    sink = io.BytesIO()
    as_seen(data).save(sink, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
