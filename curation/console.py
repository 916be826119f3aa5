"""What a build says while it runs. A build tells a Reporter what happens; which one decides how that looks.

- `Bars` on a terminal: a live bar per running stage with rows/s and the time left, and one line for each that is done;
- `Lines` where the output goes to a file or a pipe: the same lines, plus one every ten seconds for a long stage;
- `JsonLines` for programs: one JSON object a line;
- `Quiet`: nothing.

All of them write to standard error, so that standard output holds results alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

LINE_SECONDS = 10.0
"""How often `Lines` speaks of a stage that goes on."""


class Built(Protocol):
    """What `finished` needs to know of a version."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str: ...


class Reporter(Protocol):
    """What a build calls. Stages are called by their unique name; one may begin before another has ended."""

    def stage_started(self, name: str, kind: str, rows: int | None, parts: int) -> None:
        """A stage begins: `rows` to see (None where nobody knows yet) in `parts` pieces."""

    def advanced(self, name: str, rows: int) -> None:
        """It has seen `rows` more."""

    def status(self, name: str, text: str, facts: Mapping[str, Any]) -> None:
        """How it goes, for stages that have more to tell than rows: a line for people, and the same as facts."""

    def stage_finished(
        self, name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None
    ) -> None:
        """It is done, or was found done (`cached`, with or without a start). `seconds` None: since its start."""

    def note(self, text: str) -> None:
        """One sentence that a person should know."""

    def finished(self, version: Built) -> None:
        """The version can be seen."""

    def close(self) -> None:
        """Nothing more comes, whether the build ended or failed."""


def reporter(*, quiet: bool = False, log_json: bool = False, stream: TextIO | None = None) -> Reporter:
    """The right reporter for `stream` (standard error by default)."""
    stream = stream if stream is not None else sys.stderr
    if log_json:
        return JsonLines(stream)
    if quiet:
        return Quiet()
    return Bars(stream) if stream.isatty() else Lines(stream)


class Quiet:
    """Says nothing."""

    def stage_started(self, name: str, kind: str, rows: int | None, parts: int) -> None:
        pass

    def advanced(self, name: str, rows: int) -> None:
        pass

    def status(self, name: str, text: str, facts: Mapping[str, Any]) -> None:
        pass

    def stage_finished(
        self, name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None
    ) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finished(self, version: Built) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class _Running:
    """A stage that goes on."""

    kind: str
    rows: int | None
    started: float
    done: int = 0
    spoken: float = field(default=0.0)


class _Stages:
    """The stages that go on, by name, and how long they took."""

    def __init__(self) -> None:
        self.running: dict[str, _Running] = {}

    def start(self, name: str, kind: str, rows: int | None) -> None:
        now = time.monotonic()
        self.running[name] = _Running(kind, rows, now, spoken=now)

    def end(self, name: str, seconds: float | None) -> float | None:
        stage = self.running.pop(name, None)
        if seconds is None and stage is not None:
            return time.monotonic() - stage.started
        return seconds


class Lines:
    """Plain lines, for a file or a pipe."""

    def __init__(self, stream: TextIO, every: float = LINE_SECONDS):
        self._stream, self._every = stream, every
        self._stages = _Stages()

    def stage_started(self, name: str, kind: str, rows: int | None, parts: int) -> None:
        self._stages.start(name, kind, rows)

    def advanced(self, name: str, rows: int) -> None:
        stage = self._stages.running.get(name)
        if stage is None:
            return
        stage.done += rows
        now = time.monotonic()
        if now - stage.spoken >= self._every:
            stage.spoken = now
            self._print(progress_line(name, stage.done, stage.rows, now - stage.started))

    def status(self, name: str, text: str, facts: Mapping[str, Any]) -> None:
        stage = self._stages.running.get(name)
        now = time.monotonic()
        if stage is not None and now - stage.spoken >= self._every:
            stage.spoken = now
            self._print(f"{name}: {text}")

    def stage_finished(
        self, name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None
    ) -> None:
        self._print(stage_line(name, cached, rows_in, kept, dropped, self._stages.end(name, seconds)))

    def note(self, text: str) -> None:
        self._print(text)

    def finished(self, version: Built) -> None:
        pass

    def close(self) -> None:
        pass

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bars:
    """Live bars on a terminal. The bar starts with the first stage, so a build that fails at once shows none."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._stages = _Stages()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def _bars(self) -> Progress:
        if self._progress is None:
            self._progress = _progress(self._stream)
            self._progress.start()
        return self._progress

    def stage_started(self, name: str, kind: str, rows: int | None, parts: int) -> None:
        self._stages.start(name, kind, rows)
        self._tasks[name] = self._bars().add_task(name, total=rows, status=None)

    def advanced(self, name: str, rows: int) -> None:
        if name in self._tasks:
            task = self._bars().tasks[self._bars().task_ids.index(self._tasks[name])]
            done = task.completed if task.fields["status"] is None else 0  # what was told before was another count
            self._bars().update(self._tasks[name], completed=done + rows, status=None)

    def status(self, name: str, text: str, facts: Mapping[str, Any]) -> None:
        if name in self._tasks:
            self._bars().update(self._tasks[name], completed=facts.get("rows"), status=text)

    def stage_finished(
        self, name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None
    ) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars().remove_task(task)
            self._bars().refresh()  # otherwise the next line is printed above the bar that has just gone
        self.note(stage_line(name, cached, rows_in, kept, dropped, self._stages.end(name, seconds)))

    def note(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def finished(self, version: Built) -> None:
        self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _progress(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rows(ProgressColumn):
        """Rows done of all and per second, or what the stage itself says."""

        def render(self, task: Task) -> Text:
            if task.fields["status"] is not None:
                return Text(task.fields["status"])
            total = "" if task.total is None else f" of {int(task.total):,}"
            rate = "" if not task.speed else f", {int(task.speed):,} rows/s"
            return Text(f"{int(task.completed):,}{total} rows{rate}")

    return Progress(
        TextColumn("{task.description:<20}", markup=False),
        BarColumn(bar_width=24),
        Rows(),
        TimeRemainingColumn(compact=True),
        console=Console(file=stream),
        transient=True,
    )


class JsonLines:
    """One JSON object a line: `event`, `time` (seconds since the epoch) and what the event says."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._stages = _Stages()

    def stage_started(self, name: str, kind: str, rows: int | None, parts: int) -> None:
        self._stages.start(name, kind, rows)
        self._write("stage_started", stage=name, kind=kind, rows=rows, parts=parts)

    def advanced(self, name: str, rows: int) -> None:
        self._write("advanced", stage=name, rows=rows)

    def status(self, name: str, text: str, facts: Mapping[str, Any]) -> None:
        self._write("status", stage=name, text=text, **facts)

    def stage_finished(
        self, name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None
    ) -> None:
        taken = self._stages.end(name, seconds)
        self._write(
            "stage_finished",
            stage=name,
            cached=cached,
            rows_in=rows_in,
            kept=kept,
            dropped=dropped,
            seconds=None if taken is None else round(taken, 3),
        )

    def note(self, text: str) -> None:
        self._write("note", text=text)

    def finished(self, version: Built) -> None:
        self._write("finished", name=version.name, id=version.id)

    def close(self) -> None:
        pass

    def _write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "time": round(time.time(), 3), **fields}
        print(json.dumps(line, ensure_ascii=False), file=self._stream, flush=True)


def stage_line(name: str, cached: bool, rows_in: int, kept: int, dropped: int, seconds: float | None) -> str:
    """`normalize      1,000 rows    980 kept     20 dropped     0.4 s   2,500 rows/s`."""
    line = f"{name:<20} {rows_in:>9,} rows {kept:>9,} kept {dropped:>9,} dropped"
    if cached:
        return f"{line}    cached"
    if seconds is None:
        return line
    rate = f" {int(rows_in / seconds):>11,} rows/s" if seconds > 0 else ""
    return f"{line} {seconds:>7.1f} s{rate}"


def progress_line(name: str, done: int, rows: int | None, seconds: float) -> str:
    """`normalize: 120,000 of 1,000,000 rows, 60,000 rows/s, 15 s left`."""
    rate = done / seconds if seconds > 0 else 0.0
    line = f"{name}: {done:,}{'' if rows is None else f' of {rows:,}'} rows, {int(rate):,} rows/s"
    if rows is None or rate == 0:
        return line
    return f"{line}, {duration((rows - done) / rate)} left"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 7 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """`512 B`, `3.4 kB`, `1.2 GB`: powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{int(count)} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def amount(count: float) -> str:
    """`840`, `12.5 k`, `3.1 M`, `2.0 G`: for estimates."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.1f}{unit}" if unit else f"{round(count)}"
        count /= 1000
    return f"{count:.1f} G"
