"""The symbolic layer's client: hands two trees to a worker process, waits a bounded time, kills what overstays.

One nursery process per Python process imports sympy and math-verify once; workers are forks of it, made when needed.
Each worker has one item in flight. A deadline is kept by the waiting side: on time-out the worker is killed and the
verdict is `checker_timeout`. No signal handler and no alarm is involved, so it works from any thread.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from curation.answers.cache import VerdictCache
from curation.answers.latex import NoLatex, latex
from curation.answers.outcome import Outcome
from curation.answers.parser import Node
from curation.answers.policy import Policy
from curation.answers.tree import has_constant, operators, symbols
from schemas.verdicts import State

ANSWER_S = 10.0  # the nursery only forks and kills
START_S = 60.0  # a cold import of sympy on a loaded machine
WORKER = Path(__file__).with_name("symbolic_worker.py")


class SymbolicTimeout(Exception):
    """The comparison was killed at its deadline."""


class SymbolicFailure(Exception):
    """The worker died or could not be started."""


@dataclass
class _Worker:
    pid: int
    stream: socket.socket


class _Nursery:
    """The process that forks workers, with the idle ones. One per process; remade after a fork of ours."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.idle: list[tuple[Policy, _Worker]] = []
        here, there = socket.socketpair()
        self.control = here
        here.settimeout(START_S)
        environment = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if k in os.environ}
        environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(WORKER), str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        there.close()
        self.replies = here.makefile("rb")

    def ask(self, request: dict[str, Any], handle: int | None = None) -> dict[str, Any]:
        message = json.dumps(request).encode()
        with self.lock:
            try:
                socket.send_fds(self.control, [message], [handle] if handle is not None else [])
                reply = self.replies.readline()
                self.control.settimeout(ANSWER_S)  # it is up: from now on it answers at once or is replaced
            except OSError:
                reply = b""
        if not reply:
            self.process.kill()
            self.process.wait()
            raise SymbolicFailure("the symbolic nursery ended")
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def worker(self, policy: Policy) -> _Worker:
        with self.lock:
            for index, (made_for, worker) in enumerate(self.idle):
                if made_for == policy:
                    del self.idle[index]
                    return worker
        here, there = socket.socketpair()
        request = {"do": "fork", "memory": policy.memory_mb << 20, "cpu": policy.deadline_s * 2}
        pid = self.ask(request, there.fileno())["pid"]
        there.close()
        return _Worker(pid, here)

    def give_back(self, policy: Policy, worker: _Worker) -> None:
        with self.lock:
            self.idle.append((policy, worker))

    def kill(self, worker: _Worker) -> None:
        worker.stream.close()
        with contextlib.suppress(SymbolicFailure):  # a nursery that ends takes its workers with it
            self.ask({"do": "kill", "pid": worker.pid})

    def close(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.wait()


_nursery: _Nursery | None = None
_nursery_lock = threading.Lock()


def _get_nursery() -> _Nursery:
    global _nursery
    with _nursery_lock:
        if _nursery is None or _nursery.owner != os.getpid() or _nursery.process.poll() is not None:
            _nursery = _Nursery()
        return _nursery


def close() -> None:
    """End the symbolic processes of this process; the next comparison starts new ones."""
    global _nursery
    with _nursery_lock:
        if _nursery is not None and _nursery.owner == os.getpid():
            _nursery.close()
        _nursery = None


atexit.register(close)


def _plain(node: Any) -> Any:
    """A tree as JSON: fractions as text."""
    if isinstance(node, tuple):
        return [_plain(p) for p in node]
    return str(node) if isinstance(node, Fraction) else node


_NOT_FOR_MATH_VERIFY = frozenset(("brk", "list", "set", "cup", "cap", "minus", "ratio", "cases", "call", "idx", "big"))


def _fit_for_math_verify(gold: Node, answer: Node) -> bool:
    """Whether math-verify's yes may count: one kind of thing, the same symbols, no points, sets or infinity.

    Outside these it is known to accept by one matching part.
    """
    used = operators(gold) | operators(answer)
    if used & _NOT_FOR_MATH_VERIFY or ("rel" in used and not gold[0] == answer[0] == "rel"):
        return False
    return symbols(gold) == symbols(answer) and not any(has_constant(n, "inf") for n in (gold, answer))


def compare_trees(gold: Node, answer: Node, policy: Policy) -> tuple[bool | None, str]:
    """Ask a worker. Raises SymbolicTimeout after policy.deadline_s, SymbolicFailure where the worker dies."""
    rendered = ["", ""]
    if _fit_for_math_verify(gold, answer):
        with contextlib.suppress(NoLatex):
            rendered = [latex(gold), latex(answer)]
    message = json.dumps([_plain(gold), _plain(answer), *rendered]).encode() + b"\n"
    try:
        nursery = _get_nursery()
        worker = nursery.worker(policy)
    except SymbolicFailure:  # once more, with a new nursery
        nursery = _get_nursery()
        worker = nursery.worker(policy)
    deadline = time.monotonic() + policy.deadline_s
    try:
        worker.stream.settimeout(policy.deadline_s)
        worker.stream.sendall(message)
        reply = b""
        while not reply.endswith(b"\n"):
            worker.stream.settimeout(max(0.001, deadline - time.monotonic()))
            piece = worker.stream.recv(65_536)
            if not piece:
                raise SymbolicFailure("the symbolic worker ended (memory or CPU limit)")
            reply += piece
    except TimeoutError:
        nursery.kill(worker)
        raise SymbolicTimeout from None
    except (OSError, SymbolicFailure) as error:
        nursery.kill(worker)
        raise SymbolicFailure(str(error)) from None
    nursery.give_back(policy, worker)
    answer_ = json.loads(reply)
    return answer_["equal"], answer_["by"]


@lru_cache(maxsize=16_384)
def _asked(gold: Node, answer: Node, policy: Policy) -> tuple[bool | None, str, State | None]:
    """(equal, by, state): a pair is asked once per process, also where it was killed."""
    try:
        equal, by = compare_trees(gold, answer, policy)
    except SymbolicTimeout:
        return None, f"killed after {policy.deadline_s:g} s", "checker_timeout"
    except SymbolicFailure as error:
        return None, str(error), "checker_error"
    return equal, by, None


def decide(outcome: Outcome, policy: Policy, cache: VerdictCache | None = None) -> Outcome:
    """The outcome of an open comparison after asking the symbolic layer."""
    assert outcome.trees
    key = VerdictCache.key("symbolic", outcome.gold or "", outcome.answer or "", repr(outcome.trees), policy.key())
    kept = cache.get(key) if cache is not None else None
    if kept is not None:
        equal, by, state = kept["equal"], kept["by"], None
    else:
        equal, by, state = _asked(*outcome.trees, policy)
        if cache is not None and not state:
            cache.put(key, {"equal": equal, "by": by})
    if state:
        return outcome._replace(method="symbolic", reason=by, state=state, trees=None)
    if equal is None:
        return outcome._replace(reason="neither probing nor symbolic work can tell", trees=None)
    return outcome._replace(
        equal=equal, method="symbolic", reason=f"{'equal' if equal else 'different'} by {by}", trees=None
    )
