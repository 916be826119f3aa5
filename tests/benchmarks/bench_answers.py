"""The checker against other graders, on labelled cases: accuracy by group, speed, and hostile inputs.

    python tests/benchmarks/bench_answers.py            all of it
    python tests/benchmarks/bench_answers.py --cases labelled.jsonl --no-peers

Every grader is run in this process, on the same cases, one core. Accuracy counts "correct" against the expected
verdict; no verdict is a refusal. Speed is CPU time of this process, and wall time beside it; peers
that are not installed are named.
Peers: math-verify with dollars put around bare answers ("wrapped"), math-verify as its read-me calls it ("raw"), and
TRL's accuracy reward.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa

from curation.answers import Policy, check, check_many, pool
from curation.answers.batch import SLICE_ROWS
from tests.answers.hostile import hostile_inputs
from tests.answers.labelled import GROUPS, groups_of, load, score

Decide = Callable[[dict[str, Any]], bool | None]
DECIDED = {"correct": True, "incorrect": False, "no_answer": False}


def ours(case: dict[str, Any]) -> bool | None:
    """This checker, without a hint of the kind."""
    verdict = check(case["gold"], case["prediction"], question=case["question"], golds=case.get("golds"))
    return DECIDED.get(verdict.state)


def math_verify_peer(wrapped: bool) -> Decide:
    """math-verify; wrapped puts dollars around a gold and a bare answer without them."""
    module = importlib.import_module("math_verify")

    def decide(case: dict[str, Any]) -> bool | None:
        texts = [case["gold"], case["prediction"]]
        if wrapped:
            for index in range(2 if case["form"] == "answer" else 1):
                if "$" not in texts[index] and "\\boxed" not in texts[index]:
                    texts[index] = f"${texts[index]}$"
        return bool(module.verify(module.parse(texts[0]), module.parse(texts[1])))

    return decide


def trl_peer() -> Decide:
    """TRL's accuracy reward, given the solution in dollars as its documentation shows it."""
    reward = importlib.import_module("trl.rewards").accuracy_reward

    def decide(case: dict[str, Any]) -> bool | None:
        prediction = case["prediction"] if case["form"] != "answer" else f"\\boxed{{{case['prediction']}}}"
        value = reward([[{"role": "assistant", "content": prediction}]], [case["gold"]])[0]
        return None if value is None else bool(value)

    return decide


PEERS: dict[str, Callable[[], Decide]] = {
    "math-verify wrapped": lambda: math_verify_peer(True),
    "math-verify raw": lambda: math_verify_peer(False),
    "TRL accuracy reward": trl_peer,
}


def clear_caches() -> None:
    """Forget every remembered text, so that a run pays for all its work."""
    for name, module in list(sys.modules.items()):
        if name.startswith("curation.answers"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def quietly(decide: Decide, case: dict[str, Any]) -> bool | None:
    """A peer's exception is no verdict."""
    try:
        return decide(case)
    except Exception:
        return None


def accuracy(cases: list[dict[str, Any]], graders: dict[str, Decide]) -> None:
    """Accuracy, false accepts and false refusals of every grader in every group."""
    tables = {name: score(cases, lambda c, d=decide: quietly(d, c)) for name, decide in graders.items()}  # type: ignore[misc]
    for group in GROUPS:
        print(f"\n{group:<34} cases accuracy  false accepts  false refusals")
        for name, table in tables.items():
            if group in table:
                print(table[group].line(name))
    fresh = {g: s.unargued_accepts for g, s in tables["ours"].items() if g != "text" and s.unargued_accepts}
    print(f"\nfalse accepts of ours that are not argued to be label errors: {fresh or 'none'}")
    if "text" in tables["ours"]:
        found = tables["ours"]["text"]
        print(f"\ntext without a judge: {100 * found.decided / found.cases:.1f} % decided, "
              f"{100 * found.decided_right / found.decided:.1f} % of those right")  # fmt: skip


def timed(cases: list[dict[str, Any]], decide: Callable[[dict[str, Any]], object]) -> tuple[float, list[float]]:
    """(cases per second of CPU, CPU seconds of each case); every remembered text is forgotten first."""
    clear_caches()
    each = []
    began = time.process_time()
    for case in cases:
        start = time.thread_time()
        decide(case)
        each.append(time.thread_time() - start)
    return len(cases) / (time.process_time() - began), sorted(each)


def speed(cases: list[dict[str, Any]], graders: dict[str, Decide], sample: int, peer_sample: int, rounds: int) -> None:
    """Cases per second of CPU time on mixed samples, every round with the peers in turn; medians of the rounds.

    A ratio to a peer in the same round says more than a rate: the machine's other work slows both.
    """
    check("w(12.5-w)=25", "2w+50/w=25")  # starts the symbolic process: once per process, not per case
    closed = [c for c in cases if "text" not in groups_of(c)]
    samples = {"values, expressions, letters": closed, "the same with open text": cases}
    for name, of in (("bare answers", "bare"), ("whole replies", "replies"), ("multiple choice", "choice")):
        samples[name] = [c for c in closed if of in groups_of(c)]
    samples["suites of graders, school"] = [c for c in closed if {"suites", "school"} & set(groups_of(c))]
    for label, group in samples.items():
        chosen = random.Random(7).sample(group, min(sample, len(group)))
        rates: dict[str, list[float]] = {}
        each: dict[str, list[float]] = {}
        for _ in range(rounds):
            for layer, policy in (("all layers", Policy()), ("before sympy", Policy(symbolic=False))):
                rate, each[layer] = timed(chosen, lambda c, p=policy: with_policy(c, p))  # type: ignore[misc]
                rates.setdefault(f"ours, {layer}", []).append(rate)
            for name, decide in graders.items() if group is closed else ():
                if name != "ours":
                    rate, _ = timed(chosen[:peer_sample], lambda c, d=decide: quietly(d, c))  # type: ignore[misc]
                    rates.setdefault(name, []).append(rate)
        print(f"\nspeed on {len(chosen)} cases: {label}; medians of {rounds} rounds, load {os.getloadavg()[0]:.1f}")
        for name, found in rates.items():
            ratio = statistics.median(a / b for a, b in zip(rates["ours, before sympy"], found, strict=True))
            print(f"{name:<24} {statistics.median(found):>8.0f}/s of CPU   before sympy is {ratio:>6.1f} times that")
        for layer, seconds in each.items():
            print(f"ours, {layer:<18} median {1e3 * statistics.median(seconds):.3f} ms, "
                  f"p99 {1e3 * seconds[int(0.99 * len(seconds))]:.2f} ms of CPU")  # fmt: skip


def with_policy(case: dict[str, Any], policy: Policy) -> object:
    """Ours under a policy."""
    return check(case["gold"], case["prediction"], question=case["question"], golds=case.get("golds"), policy=policy)


def workers(cases: list[dict[str, Any]]) -> None:
    """One process against two workers on distinct rows, fresh caches on both sides.

    On a machine that others use, wall time says little: the second figure is what two free cores would give, the one
    process's CPU time over half of what workers and parent used together.
    """
    table = pa.table({"gold": [c["gold"] for c in cases], "response": [c["prediction"] for c in cases]})
    clear_caches()
    wall, own = time.perf_counter(), time.process_time()
    check_many(table)
    one_wall, one_cpu = time.perf_counter() - wall, time.process_time() - own
    # Starts them, and the symbolic process of each: once per process.
    hard = pa.table({"gold": ["w(12.5-w)=25"], "response": ["2w+50/w=25"]})
    check_many(pa.concat_tables([hard] * 2 * SLICE_ROWS), workers=2)
    before = worker_seconds()
    wall, own = time.perf_counter(), time.process_time()
    check_many(table, workers=2)
    two_wall, parent = time.perf_counter() - wall, time.process_time() - own
    busy = [after - start for after, start in zip(worker_seconds(), before, strict=True)]
    path = (sum(busy) + parent) / 2
    print(f"\n{table.num_rows} rows: one process {one_wall:.2f} s wall, two workers {two_wall:.2f} s wall, "
          f"{one_wall / two_wall:.2f} times as fast ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}); CPU: one "
          f"{one_cpu:.2f} s, workers {' and '.join(f'{b:.2f}' for b in busy)} s, parent {parent:.2f} s: "
          f"{one_cpu / path:.2f} times as fast on two free cores")  # fmt: skip
    print(f"two processes that only count are {ceiling():.2f} times as fast as one here: no two workers can be faster")


def ceiling() -> float:
    """How much more two processes do than one, on a loop of arithmetic: below 2 where the cores are one core's threads."""
    loop = [sys.executable, "-c", "x = 0\nfor i in range(20_000_000): x += i * i"]

    def wall(processes: int) -> float:
        began = time.perf_counter()
        started = [subprocess.Popen(loop) for _ in range(processes)]
        for process in started:
            process.wait()
        return time.perf_counter() - began

    return statistics.median(2 * wall(1) / wall(2) for _ in range(3))


def worker_seconds() -> list[float]:
    """CPU seconds of every idle worker process, by process id."""
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = []
    for process in sorted((p for group in pool._idle.values() for p in group), key=lambda p: p.pid):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds.append((int(fields[11]) + int(fields[12])) / ticks)
    return seconds


def hostile() -> None:
    """The longest of the hostile inputs."""
    check("w(12.5-w)=25", "2w+50/w=25")
    times = []
    for name, gold, response in hostile_inputs():
        began = time.perf_counter()
        state = check(gold, response).state
        times.append((time.perf_counter() - began, name, state))
    times.sort(reverse=True)
    print(f"\n{len(times)} hostile inputs; the longest:")
    for seconds, name, state in times[:6]:
        print(f"  {seconds:.2f} s  {name} ({state})")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("WINNOW_DATA") or beside)
    parser.add_argument("--cases", type=Path, default=folder / "answers" / "labelled_dev.jsonl")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--sample", type=int, default=3000)
    parser.add_argument("--peer-sample", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    graders: dict[str, Decide] = {"ours": ours}
    for name, make in PEERS.items() if not options.no_peers else ():
        try:
            graders[name] = make()
        except ImportError as error:
            print(f"{name}: not installed ({error.name}), left out")
    hostile()
    if not options.cases.is_file():
        print(f"no labelled cases at {options.cases}: give --cases or set WINNOW_DATA")
        return
    cases = load(options.cases)
    speed(cases, graders, options.sample, options.peer_sample, options.rounds)
    workers(cases)
    accuracy(cases, graders)


if __name__ == "__main__":
    main()
