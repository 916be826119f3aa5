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
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa

from curation.answers import Policy, check, check_many
from tests.answers.hostile import hostile_inputs
from tests.answers.labelled import GROUPS, load, score

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


def speed(cases: list[dict[str, Any]], graders: dict[str, Decide], sample: int, peer_sample: int) -> None:
    """Cases per second of CPU time on a mixed sample, with latencies of ours by wall clock."""
    chosen = random.Random(7).sample(cases, min(sample, len(cases)))
    print(f"\nspeed on {len(chosen)} mixed cases")
    check("w(12.5-w)=25", "2w+50/w=25")  # starts the symbolic process: once per process, not per case
    for label, policy in (("all layers", Policy()), ("before sympy", Policy(symbolic=False))):
        clear_caches()
        latencies = []
        began = time.process_time()
        for case in chosen:
            start = time.perf_counter()
            check(case["gold"], case["prediction"], question=case["question"], golds=case.get("golds"), policy=policy)
            latencies.append(time.perf_counter() - start)
        seconds = time.process_time() - began
        latencies.sort()
        p99 = latencies[int(0.99 * len(latencies))]
        print(f"ours, {label:<22} {len(chosen) / seconds:>9.0f}/s of CPU, {len(chosen) / sum(latencies):>8.0f}/s wall, "
              f"median {1e3 * statistics.median(latencies):.3f} ms, p99 {1e3 * p99:.2f} ms")  # fmt: skip
    for name, decide in graders.items():
        if name == "ours":
            continue
        few = chosen[:peer_sample]
        began = time.process_time()
        for case in few:
            quietly(decide, case)
        print(f"{name:<28} {len(few) / (time.process_time() - began):>9.0f}/s of CPU")


def workers(cases: list[dict[str, Any]]) -> None:
    """One worker process against two, on the same table, both warm."""
    rows = cases * 4
    table = pa.table({"gold": [c["gold"] for c in rows], "response": [c["prediction"] for c in rows]})
    times = {}
    for count in (2, 1):
        check_many(table.slice(0, 2048), workers=count)
        clear_caches()
        began = time.perf_counter()
        check_many(table, workers=count)
        times[count] = time.perf_counter() - began
    gain = times[1] / times[2]
    print(f"\n{len(rows)} rows: one process {times[1]:.1f} s, two {times[2]:.1f} s, {gain:.2f} times as fast "
          f"({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})")  # fmt: skip


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
    parser.add_argument("--peer-sample", type=int, default=400)
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
    speed(cases, graders, options.sample, options.peer_sample)
    workers(cases)
    accuracy(cases, graders)


if __name__ == "__main__":
    main()
