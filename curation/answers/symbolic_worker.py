"""The symbolic worker: sympy and math-verify behind a socket, in a process that can be killed at any moment.

Run by path in isolated mode, it imports nothing of this project. The first process (the nursery) imports the libraries
once and then only forks: each child serves one connection with limits on memory and CPU time, and its parent kills it
by request. A comparison is a JSON line `[gold tree, answer tree, gold LaTeX, answer LaTeX]`; the reply is
`{"equal": true | false | null, "by": ...}`.

Trees are nested lists of our own parser. sympy objects are built from them by constructors, never from text; the LaTeX
was rendered from the same trees.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import sympy as sp

FUNCTIONS = {
    "sin": sp.sin, "cos": sp.cos, "tan": sp.tan, "cot": sp.cot, "sec": sp.sec, "csc": sp.csc, "arcsin": sp.asin,
    "arccos": sp.acos, "arctan": sp.atan, "arccot": sp.acot, "sinh": sp.sinh, "cosh": sp.cosh, "tanh": sp.tanh,
    "exp": sp.exp, "ln": sp.log, "log": sp.log, "abs": sp.Abs, "floor": sp.floor, "ceil": sp.ceiling,
    "binom": sp.binomial, "gcd": sp.gcd, "lcm": sp.lcm, "max": sp.Max, "min": sp.Min, "mod": sp.Mod,
}  # fmt: skip
CONSTANTS = {"pi": sp.pi, "e": sp.E, "i": sp.I, "inf": sp.oo}
RELATIONS = {"=": sp.Eq, "<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge, "!=": sp.Ne}
_X = ["sym", "x"]
WARMING = (
    ["rel", [["mul", _X, ["add", ["num", "5/2"], ["neg", _X]]], "=", ["num", "1"]]],
    ["rel", [["add", ["mul", ["num", "2"], _X], ["div", ["num", "2"], _X]], "=", ["num", "5"]]],
)
MAX_EXPONENT = 2_000


class Unbuildable(Exception):
    """The tree has a part without a sympy counterpart, or one too large to evaluate."""


def build(node: Any) -> Any:
    """A sympy object from a tree, by constructors."""
    op = node[0]
    if op in ("num", "dec"):
        value = Fraction(node[1])
        return sp.Rational(value.numerator, value.denominator)
    if op == "sym":
        return sp.Symbol(node[1], real=True)
    if op == "const":
        return CONSTANTS[node[1]]
    if op in ("grp", "cur"):
        return build(node[1])
    if op == "neg":
        return -build(node[1])
    if op == "add":
        return sp.Add(*[build(c) for c in node[1:]])
    if op == "mul":
        return sp.Mul(*[build(c) for c in node[1:]])
    if op == "div":
        return build(node[1]) / build(node[2])
    if op == "pow":
        base, power = build(node[1]), build(node[2])
        if power.is_number and abs(power) > MAX_EXPONENT:
            raise Unbuildable
        return sp.Pow(base, power)
    if op == "root":
        return sp.root(build(node[1]), build(node[2]))
    if op == "pct":
        return build(node[1]) / 100
    if op == "deg":
        return build(node[1]) * sp.pi / 180
    if op == "fact":
        inner = build(node[1])
        if inner.is_number and inner > MAX_EXPONENT:
            raise Unbuildable
        return sp.factorial(inner)
    if op == "call":
        return sp.Function(node[1])(*[build(a) for a in node[2:]])
    if op == "fn":
        name, args = node[1], [build(a) for a in node[2:]]
        if name == "logb":
            return sp.log(args[1], args[0])
        if name == "log10":
            return sp.log(args[0], 10)
        if name in FUNCTIONS:
            return FUNCTIONS[name](*args)
    if op == "big":
        _, name, variable, low, high, body = node
        index = sp.Symbol(variable, real=True)
        return (sp.Sum if name == "sum" else sp.Product)(build(body), (index, build(low), build(high)))
    if op == "rel" and len(node[1]) == 3 and node[1][1] in RELATIONS:
        return RELATIONS[node[1][1]](build(node[1][0]), build(node[1][2]), evaluate=False)
    raise Unbuildable(op)


def same(gold: Any, answer: Any) -> tuple[bool | None, str]:
    """Whether two trees are equal by sympy: simplification for values, solution sets for relations in one variable."""
    left, right = build(gold), build(answer)
    relations = isinstance(left, sp.core.relational.Relational), isinstance(right, sp.core.relational.Relational)
    if all(relations):
        free = left.free_symbols | right.free_symbols
        if len(free) != 1:
            return None, "sympy"
        variable = free.pop()
        sets = [sp.solveset(r, variable, sp.S.Reals) for r in (left, right)]
        if any(s.has(sp.ConditionSet) or isinstance(s, sp.ConditionSet) for s in sets):
            return None, "sympy"
        if sets[0] == sets[1]:
            # Two empty sets say that neither holds, not that they are the same statement.
            return (None if sets[0] is sp.S.EmptySet else True), "sympy solution sets"
        if all(isinstance(s, sp.FiniteSet) for s in sets):
            return False, "sympy solution sets"
        return sets[0].symmetric_difference(sets[1]) == sp.S.EmptySet, "sympy solution sets"
    if any(relations):
        return None, "sympy"
    difference = left - right
    equal = difference.equals(0)
    if equal is None:
        simple = sp.simplify(difference)
        equal = True if simple == 0 else None
    return equal, "sympy"


def math_verify(gold: str, answer: str) -> bool | None:
    """math-verify on LaTeX that our own trees rendered; only its yes counts, and only as a last resort."""
    from math_verify import parse, verify

    parsed = [parse(f"${text}$", parsing_timeout=None) for text in (gold, answer)]
    if not all(parsed):
        return None
    return True if verify(parsed[0], parsed[1], timeout_seconds=None) else None


def serve(connection: socket.socket, memory: int, cpu: float) -> None:
    """Answer one request after another until the connection closes."""
    with connection.makefile("rwb") as stream:
        for line in stream:
            used = resource.getrusage(resource.RUSAGE_SELF)
            seconds = int(used.ru_utime + used.ru_stime + cpu) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
            gold, answer, gold_latex, answer_latex = json.loads(line)
            equal, by = None, "sympy"
            with contextlib.suppress(Exception):
                equal, by = same(gold, answer)
            if equal is None and gold_latex and answer_latex:
                with contextlib.suppress(Exception):
                    equal, by = math_verify(gold_latex, answer_latex), "math-verify"
            stream.write(json.dumps({"equal": equal, "by": by}).encode() + b"\n")
            stream.flush()


def child(connection: socket.socket, control: socket.socket, memory: int, cpu: float) -> None:
    """A forked server: its own process group, limits, and no way back to the nursery."""
    control.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the address space of this process is not known, and the deadline alone holds
        own = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + memory, own + memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(connection, memory, cpu)


def nursery(control: socket.socket) -> None:
    """Fork a server for every connection handed over; kill one on request; end when the parent goes."""
    with contextlib.suppress(Exception):  # what the first comparison would load and cache, every fork inherits
        same(*WARMING)
        math_verify("x", "x")
    children: set[int] = set()
    dying: set[int] = set()
    while True:
        try:
            message, handles, _, _ = socket.recv_fds(control, 256, 1)
        except OSError:
            break
        if not message:
            break
        for pid in tuple(dying):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    dying.discard(pid)
        request = json.loads(message)
        if request["do"] == "fork":
            connection = socket.socket(fileno=handles[0])
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    child(connection, control, request["memory"], request["cpu"])
                    status = 0
                finally:
                    os._exit(status)
            connection.close()
            children.add(pid)
            control.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        elif request["pid"] in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(request["pid"], signal.SIGKILL)
            children.discard(request["pid"])
            dying.add(request["pid"])  # reaped later: a killed process may take its time, and nobody waits for it here
            control.sendall(b'{"pid": 0}\n')
        else:
            control.sendall(b'{"pid": 0}\n')
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nursery(socket.socket(fileno=int(sys.argv[1])))
