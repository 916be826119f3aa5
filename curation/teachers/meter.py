"""How a fan-out goes: counts, the line that tells them, and a log of throughput that stays.

The log is `<workspace>/throughput/<stage>-<what is asked>-<time>.parquet`, a row every few seconds:

    winnow sql "select * from read_parquet('.winnow/throughput/*.parquet')"   -- or any Parquet reader

The manifest of a version keeps a shortened copy of it, of all runs that asked the same, so that what a fan-out cost
and how fast it went can be reported when the workspace is gone. It is no part of an id.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.console import duration
from curation.teachers.base import Answer

TICK_SECONDS = 2.0
SAVE_SECONDS = 30.0

LOG = pa.schema(
    [
        ("at", pa.timestamp("ms", "UTC")),
        ("stage", pa.string()),
        ("seconds", pa.float64()),  # since the stage began
        ("rows", pa.int64()),  # rows looked at so far
        ("reused", pa.int64()),  # answers that were in the store
        ("requests", pa.int64()),  # prompts given to the teacher; one may ask for several answers
        ("answers", pa.int64()),  # answers that came
        ("again", pa.int64()),  # of these, asked for again; and requests sent again after an error
        ("truncated", pa.int64()),
        ("failed", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("judged", pa.int64()),
        ("correct", pa.int64()),
        ("in_flight", pa.int64()),  # requests
        ("limit", pa.int64()),  # requests that the teacher allows itself now, null where it does not say
    ]
)
KEPT = 100
"""Lines of the logs that a manifest keeps."""
IN_MANIFEST = ("seconds", "reused", "requests", "answers", "again", "truncated", "failed", "prompt_tokens", "output_tokens", "in_flight")  # fmt: skip
Said = Callable[[str, Mapping[str, Any]], None]


class Meter:
    """Counts of one fan-out. `tick` is cheap and may be called for every answer."""

    def __init__(
        self,
        stage: str,
        rows: int,
        folder: Path,
        said: Said,
        load: Callable[[], Mapping[str, float]],
        asks: str = "",
    ):
        """`asks` is a digest of what is asked; runs that have it in common are told of together."""
        self._stage, self._total, self._said, self._load = stage, rows, said, load
        self._folder = folder
        self._started = self._ticked = self._saved = time.monotonic()
        self._same = f"{stage}-{asks}-"
        self._name = f"{self._same}{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}.parquet"
        self._lines: list[dict[str, Any]] = []
        self._before = (self._started, 0, 0)
        self._lock = threading.Lock()
        self.rows = self.reused = self.requests = self.answers = self.again = self.truncated = self.failed = 0
        self.prompt_tokens = self.output_tokens = self.judged = self.correct = 0

    def answered(self, answer: Answer, *, new_prompt: bool) -> None:
        """An answer came; `new_prompt`: the first of those to its prompt, which is read once for all of them."""
        self.answers += 1
        self.again += answer.attempt > 0
        self.truncated += answer.finish == "truncated"
        self.failed += answer.finish == "failed"
        self.prompt_tokens += (answer.prompt_tokens or 0) if new_prompt else 0
        self.output_tokens += answer.output_tokens or 0
        self.tick()

    def verdict(self, state: str) -> None:
        """From the judge's thread."""
        with self._lock:
            self.judged += 1
            self.correct += state == "correct"

    def tick(self, *, last: bool = False) -> None:
        """Tell and log, if it is time."""
        now = time.monotonic()
        if now - self._ticked < TICK_SECONDS and not last:
            return
        self._ticked = now
        facts = self._facts(now)
        self._lines.append({"at": datetime.now(UTC), "stage": self._stage, **facts})
        self._said(self._text(now, facts), facts)
        if last or now - self._saved >= SAVE_SECONDS:
            self._saved = now
            self._save()

    def notes(self) -> dict[str, Any]:
        """What the manifest should know of this run; no part of an id."""
        return {
            "asked": self.answers,
            "reused": self.reused,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "throughput": self._throughput(),
        }

    def _throughput(self) -> dict[str, list[float]]:
        """The logs of this run and of earlier ones that asked the same, as columns: `run`, from 0, and IN_MANIFEST. Counts
        begin at 0 in every run; the last line of each is there, and of the others as many as fit in KEPT."""
        paths = sorted(path for path in self._folder.glob("*.parquet") if path.name.startswith(self._same))
        logs = [pq.read_table(path) for path in paths]
        logs = [log for log in logs if len(log)][-KEPT // 2 :]
        room = max(1, KEPT // max(1, len(logs)))
        kept: dict[str, list[float]] = {name: [] for name in ("run", *IN_MANIFEST)}
        for run, log in enumerate(logs):
            steps = min(room, len(log))
            lines = log.take([len(log) * (step + 1) // steps - 1 for step in range(steps)])
            kept["run"] += [run] * steps
            for name in IN_MANIFEST:
                kept[name] += lines[name].to_pylist()
        return kept

    def _facts(self, now: float) -> dict[str, Any]:
        load = self._load()
        counts = ("rows", "reused", "requests", "answers", "truncated", "failed", "prompt_tokens", "output_tokens", "judged", "correct")  # fmt: skip
        facts = {name: getattr(self, name) for name in counts}
        limit = load.get("limit")
        return {
            "seconds": round(now - self._started, 3),
            **facts,
            "again": self.again + int(load.get("sent_again", 0)),
            "in_flight": int(load.get("in_flight", 0)),
            "limit": None if limit is None else int(limit),
        }

    def _text(self, now: float, facts: Mapping[str, Any]) -> str:
        since, tokens_in, tokens_out = self._before
        span = max(now - since, 1e-9)
        self._before = (now, self.prompt_tokens, self.output_tokens)
        parts = [f"{self.answers:,} answers"]
        if self.reused:
            parts[0] += f" and {self.reused:,} from the store"
        parts.append(f"{self.rows:,} of {self._total:,} rows")
        rate_in, rate_out = (self.prompt_tokens - tokens_in) / span, (self.output_tokens - tokens_out) / span
        parts.append(f"{rate_out:,.0f} tokens/s out, {rate_in:,.0f} in")
        parts.append(f"{facts['in_flight']:,} in flight")
        if self.answers:
            parts.append(f"{self.truncated / self.answers:.0%} truncated")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.judged:
            parts.append(f"{self.correct / self.judged:.0%} of {self.judged:,} correct so far")
        if 0 < self.rows < self._total:
            parts.append(f"{duration((now - self._started) * (self._total - self.rows) / self.rows)} left")
        return "; ".join(parts)

    def _save(self) -> None:
        """Replace the log; it is no part of what is made, so nothing waits for the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / f".{self._name}"
        pq.write_table(pa.Table.from_pylist(self._lines, schema=LOG), beside)
        beside.replace(self._folder / self._name)
