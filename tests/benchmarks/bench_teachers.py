"""What asking costs: requests per second with durable writes, memory over many traces, CPU per trace, and the same beside
a bare vLLM loop.

The server (tests/teachers/loopback.py) answers at once and shares the machine's cores. CPU seconds are this process's
own, threads and all; the judge has its own process and is measured apart. The peers are a bare aiohttp loop that throws
its answers away, and `LLM.chat` on the same tiny model and prompts.

    python tests/benchmarks/bench_teachers.py [--answers 20000] [--vllm]

--answers 1000000 shows that memory stays where it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa

from curation.stages import fanout
from curation.stages.base import Context
from curation.teachers.judging import judged
from schemas.rows import ROW

ROOT = Path(__file__).resolve().parents[2]
N = 8
WORDS = 300
"""Words of an answer: 2 kB."""


def rows_of(count: int) -> pa.Table:
    columns = {field.name: pa.nulls(count, field.type) for field in ROW}
    columns["row_id"] = pa.array([f"{i:020x}" for i in range(count)])
    columns["question"] = pa.array([f"What is {i} + {i + 1}? " + "Think about it well. " * 10 for i in range(count)])
    columns["answer"] = pa.array([str(2 * i + 1) for i in range(count)])
    columns["source"] = pa.repeat(pa.scalar("made"), count)
    return pa.table(columns)


class Rows:
    """`Rows` over a count of made rows, in batches: nothing is held."""

    schema = ROW

    def __init__(self, count: int, size: int = 10_000):
        self.count, self._size = count, size

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        whole = rows_of(min(self.count, self._size))
        for start in range(0, self.count, self._size):
            block = whole.slice(0, min(self._size, self.count - start))
            # The same questions under other numbers, so that every one is asked.
            question = pa.array([f"{start} {q}" for q in block["question"].to_pylist()])
            yield block.set_column(block.schema.get_field_index("question"), "question", question)


def serve(*words: str) -> tuple[subprocess.Popen[str], int]:
    loopback = ROOT / "tests" / "teachers" / "loopback.py"
    process = subprocess.Popen([sys.executable, str(loopback), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def context_in(folder: Path, status: Any) -> Context:
    return Context(seed=0, name="bench", workspace=folder, recipe_dir=folder, scratch=folder, status=status)


def resident() -> float:
    """MB that this process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1e3


def ask(port: int, answers: int, n: int) -> tuple[float, float]:
    """(requests per second, CPU ms per answer) of a fan-out."""
    memory: list[tuple[int, float]] = []
    config = fanout.Fanout(
        teacher={"kind": "openai_server", "url": f"http://127.0.0.1:{port}/v1", "model": "tiny"}, n=n
    )
    with tempfile.TemporaryDirectory() as name:
        context = context_in(Path(name), lambda text, facts: memory.append((facts["answers"], resident())))
        wall, cpu = time.perf_counter(), time.process_time()
        fanout.prepare(config, Rows(answers // n), context)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tenth = next((mb for done, mb in memory if done >= answers / 10), memory[0][1])
    print(
        f"n={n}: {answers:,} answers, {answers // n / wall:,.0f} requests/s, {answers / wall:,.0f} answers/s durable; {cpu / answers * 1e3:.3f} ms of"
        f" CPU an answer; {tenth:.0f} MB after a tenth, {memory[-1][1]:.0f} MB at the end"
    )
    return answers // n / wall, cpu / answers * 1e3


def bare(port: int, requests: int) -> float:
    """CPU ms per request of a loop that only posts."""
    import aiohttp

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            todo = iter(range(requests))

            async def one() -> None:
                for i in todo:
                    body = {
                        "model": "tiny",
                        "messages": [{"role": "user", "content": f"What is {i} + 1?"}],
                        "seed": i,
                        "max_tokens": 4096,
                    }
                    async with session.post(
                        f"http://127.0.0.1:{port}/v1/chat/completions", data=json.dumps(body)
                    ) as answer:
                        json.loads(await answer.read())

            await asyncio.gather(*(one() for _ in range(32)))

    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"bare aiohttp loop: {requests / wall:,.0f} requests/s, {cpu / requests * 1e3:.3f} ms of CPU a request")
    return cpu / requests * 1e3


def after(count: int) -> None:
    """Joining what is stored to rows, and judging it: CPU ms per trace. The store is filled by a server first."""
    process, port = serve("--length", str(WORDS))
    rows = rows_of(count // N)
    config = fanout.Fanout(
        teacher={"kind": "openai_server", "url": f"http://127.0.0.1:{port}/v1", "model": "tiny"}, n=N
    )

    class One:
        schema, count = ROW, len(rows)

        @staticmethod
        def batches(columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
            yield rows

    with tempfile.TemporaryDirectory() as name:
        context = context_in(Path(name), lambda text, facts: None)
        fanout.prepare(config, One(), context)
        process.kill()
        process.wait()
        cpu = time.process_time()
        traces = pa.concat_tables(list(fanout.run(config, rows, context).traces))
        join = (time.process_time() - cpu) / len(traces) * 1e3
    golds = [(row["answer"], None, row["question"]) for row in rows.to_pylist() for _ in range(N)]
    texts = traces["text"].to_pylist()
    judged(golds[:64], texts[:64], [False] * 64, config.wish.policy)
    cpu = time.process_time()
    judged(golds, texts, [False] * len(texts), config.wish.policy)
    check = (time.process_time() - cpu) / len(traces) * 1e3
    print(f"joined to rows: {join:.3f} ms of CPU a trace; verified: {check:.3f} ms")


def vllm(rows: int) -> None:
    """The same prompts through the stage and through a bare `LLM.chat`, in this process, engine and all."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    sys.path.insert(0, str(ROOT / "tests" / "teachers"))
    import tiny_models
    from vllm import SamplingParams

    from curation.teachers.asking import Gathering
    from curation.teachers.meter import Meter
    from curation.teachers.store import TraceStore

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_models.text(folder / "model")
        engine = {"distributed_executor_backend": "uni", "enforce_eager": True}
        teacher = {"kind": "vllm_offline", "model": "model", "dtype": "float32", "max_model_len": 512, "engine": engine}
        config = fanout.Fanout(teacher=teacher, n=N, max_tokens=64)
        context = context_in(folder, lambda text, facts: None)
        opened = config.teacher.open(lambda names: {}, folder)
        prompts = [[{"role": "user", "content": q}] for q in rows_of(rows)["question"].to_pylist()]
        ours, loop = [], []
        for turn in range(3):
            parameters = [SamplingParams(n=N, seed=turn * 10_000 + i, max_tokens=64) for i in range(rows)]
            cpu = time.process_time()
            made = opened.llm.chat(prompts, parameters, use_tqdm=False)
            loop.append(time.process_time() - cpu)
            assert len(made) == rows
            wish = config.model_copy(update={"seed": turn}).wish
            cpu = time.process_time()
            with TraceStore(folder / "traces") as store:
                meter = Meter("bench", rows, folder / "throughput", context.status, opened.load)
                Gathering(wish, opened, Rows(rows), store, meter).run()
            ours.append(time.process_time() - cpu)
        mine, theirs = sorted(ours)[1], sorted(loop)[1]
        print(
            f"vLLM, {rows * N:,} answers of at most 64 tokens: bare loop {theirs:.1f} s of CPU, fan-out {mine:.1f} s:"
            f" {(mine - theirs) / (rows * N) * 1e3:+.3f} ms an answer"
        )
        opened.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=20_000)
    parser.add_argument("--vllm", action="store_true")
    options = parser.parse_args()
    if options.vllm:
        vllm(250)
        return
    process, port = serve("--length", str(WORDS))
    floor = bare(port, 4000)
    ask(port, min(options.answers, 8000), 1)
    ask(port, options.answers, N)
    process.kill()
    process.wait()
    print(f"of which the HTTP client alone: {floor:.3f} ms a request")
    after(8000)
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    subprocess.run([sys.executable, __file__, "--vllm"], check=False)


if __name__ == "__main__":
    main()
