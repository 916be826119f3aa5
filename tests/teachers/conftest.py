"""Rows to ask about, a context to ask in, and teachers to ask."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from curation.stages import fanout
from curation.stages.base import Context
from schemas.rows import ROW, TRACE

LOOPBACK = Path(__file__).parent / "loopback.py"


@pytest.fixture
def rows_of() -> Callable[..., pa.Table]:
    """rows_of(records) -> canonical rows with ids 000…, 001… in order."""

    def make(records: Sequence[dict]) -> pa.Table:
        filled = [{"row_id": f"{i:05x}" + "0" * 15, "source": "made", **record} for i, record in enumerate(records)]
        return pa.Table.from_pylist(filled, schema=ROW)

    return make


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def make(**more: Any) -> Context:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return Context(
            **{
                "seed": 0,
                "name": "stage",
                "workspace": tmp_path / "ws",
                "recipe_dir": tmp_path,
                "scratch": scratch,
                **more,
            }
        )

    return make


class OneTable:
    """`Rows` over one table, in batches."""

    def __init__(self, table: pa.Table, size: int = 700):
        self._table, self._size = table, size
        self.schema, self.count = table.schema, len(table)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for start in range(0, len(self._table), self._size):
            yield self._table.slice(start, self._size)


@dataclass
class Result:
    """What a fan-out said of some rows."""

    traces: list[dict]
    table: pa.Table
    notes: dict
    prepared: dict
    fates: pa.Table | None
    again: bool


def outcome_of(outcome: Any, prepared: dict) -> Result:
    pieces = list(outcome.traces) if outcome.traces is not None else []
    table = pa.concat_tables(pieces) if pieces else TRACE.empty_table()
    fates = outcome.fates() if callable(outcome.fates) else outcome.fates
    notes = outcome.notes() if callable(outcome.notes) else dict(outcome.notes)
    again = outcome.again() if callable(outcome.again) else outcome.again
    return Result(table.to_pylist(), table, notes, prepared, fates, again)


@pytest.fixture
def fan_out(context: Callable[..., Context]) -> Callable[..., Result]:
    """fan_out(rows, teacher, n=2, …) -> Result: what a build does, on one table."""

    def run(rows: pa.Table, teacher: dict, *, into: Context | None = None, **options: Any) -> Result:
        config = fanout.Fanout(teacher=teacher, **options)
        space = into or context()
        prepared = dict(fanout.prepare(config, OneTable(rows), space))
        return outcome_of(fanout.run(config, rows, space), prepared)

    return run


@dataclass
class Server:
    """A running loopback teacher."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def teacher(self) -> dict:
        return {"kind": "openai_server", "url": self.url, "model": "tiny"}

    def asked(self) -> list[tuple[str, int, int]]:
        """(prompt, seed, max_tokens) of every answer that it was asked for, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(name, int(seed), int(limit)) for name, seed, limit in (line.split() for line in lines)]

    def counts(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/counts", timeout=10) as response:
            return json.load(response)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """loopback(faults=0.2, …) starts a teacher in a process of its own; see loopback.py."""
    started: list[Server] = []

    def start(log: str = "asked.log", **options: Any) -> Server:
        words = [sys.executable, str(LOOPBACK), "--log", str(tmp_path / log)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        server = Server(process, int(process.stdout.readline()), tmp_path / log)
        started.append(server)
        return server

    yield start
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            server.kill()


@pytest.fixture(scope="session")
def lab() -> Any:
    """What test modules cannot import from here."""
    return SimpleNamespace(OneTable=OneTable, outcome_of=outcome_of, Server=Server)
