"""Every hostile input ends, in the main thread and in others, and the next item is judged as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import threading
import time

import pytest

from curation.answers import Policy, check, symbolic
from tests.answers.hostile import hostile_inputs

LIMIT_S = 6.0  # generous: a shared test machine; the benchmark measures the real figures
PATIENT = Policy(deadline_s=20.0)  # where the deadline is not what is tested
CASES = hostile_inputs()


def test_there_are_many() -> None:
    assert len(CASES) >= 71


@pytest.mark.parametrize(("name", "gold", "response"), CASES, ids=[c[0] for c in CASES])
def test_hostile_input_ends(name: str, gold: str, response: str) -> None:
    began = time.process_time()
    verdict = check(gold, response)
    assert time.process_time() - began < LIMIT_S
    invisible = name in ("null bytes", "zero width", "right to left")  # marks that a reader does not see
    assert (verdict.state == "correct") is (invisible and gold == response.strip("\x00\u200b\u202e")), name
    assert verdict.state != "checker_error", verdict.evidence
    assert check("1/2", "The answer is 0.5").state == "correct"


def test_memory_stays_bounded() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, gold, response in CASES:
        check(gold, response)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 512


def test_from_threads() -> None:
    results: dict[int, list[str]] = {}

    def work(number: int) -> None:
        states = [check(gold, response).state for _, gold, response in CASES[number::4]]
        results[number] = [*states, check("w(12.5-w)=25", "2w+50/w=25", policy=PATIENT).state]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(t.is_alive() for t in threads)
    assert all(states[-1] == "correct" and "checker_error" not in states for states in results.values())


def test_from_asyncio() -> None:
    async def both() -> list[str]:
        pairs = [("9^{9^9}", "7"), ("w(12.5-w)=25", "2w+50/w=25"), ("1/2", "0.5")]
        verdicts = await asyncio.gather(*(asyncio.to_thread(check, g, a, policy=PATIENT) for g, a in pairs))
        return [v.state for v in verdicts]

    assert asyncio.run(both()) == ["incorrect", "correct", "correct"]


def test_a_comparison_is_killed_at_its_deadline_and_the_next_is_not_touched() -> None:
    slow = (("rel", (_polynomial(23), "=", ("num", 0))), ("rel", (_polynomial(29), "=", ("num", 0))))
    policy = Policy(deadline_s=0.05)
    with pytest.raises(symbolic.SymbolicTimeout):
        symbolic.compare_trees(*slow, policy)
    assert check("w(12.5-w)=25", "2w+50/w=25", policy=PATIENT).state == "correct"


def _polynomial(degree: int) -> tuple:
    """An equation without a closed solution: sin(x^n) + x^n + x + 1."""
    x = ("sym", "x")
    power = ("pow", x, ("num", degree))
    return (
        "add",
        ("fn", "sin", power),
        power,
        ("mul", x, ("fn", "exp", x)),
        ("fn", "cos", ("fn", "tan", power)),
        ("num", 1),
    )


def test_a_worker_beyond_its_memory_ends_alone() -> None:
    from fractions import Fraction

    term = ("add", *[("sym", f"x{i}") for i in range(40)], ("num", Fraction(1)))
    big = ("pow", term, ("num", Fraction(60)))
    policy = Policy(deadline_s=3.0, memory_mb=24)
    with contextlib.suppress(symbolic.SymbolicTimeout, symbolic.SymbolicFailure):
        symbolic.compare_trees(("fn", "floor", big), ("fn", "floor", ("add", big, ("num", Fraction(1)))), policy)
    assert symbolic.compare_trees(("sym", "x"), ("sym", "x"), policy) == (True, "sympy")


def test_a_forked_process_gets_its_own_workers() -> None:
    assert check("w(12.5-w)=25", "2w+50/w=25", policy=PATIENT).state == "correct"
    code = (
        "import os; from curation.answers import check, symbolic\n"
        "first = check('w(12.5-w)=25', '2w+50/w=25').state\n"
        "pid = os.fork(); symbolic._asked.cache_clear(); again = check('w(12.5-w)=25', '2w+50/w=25').state\n"
        "symbolic.close()\n"
        "if pid == 0: os._exit(0 if again == 'correct' else 1)\n"
        "print(first, again, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == ["correct", "correct", "0"]


def test_a_dead_nursery_is_replaced() -> None:
    assert check("w(12.5-w)=25", "2w+50/w=25", policy=PATIENT).state == "correct"
    process = symbolic._get_nursery().process
    process.kill()
    process.wait()
    symbolic._asked.cache_clear()
    assert check("w(12.5-w)=25", "2w+50/w=25", policy=PATIENT).state == "correct"
