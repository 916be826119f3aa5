"""What is printed: progress in its four forms, and tables of values that come from data."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curation import output
from curation.console import (
    Bars,
    JsonLines,
    Lines,
    Quiet,
    Reporter,
    duration,
    progress_line,
    reporter,
    size,
    stage_line,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(said: Reporter) -> None:
    """What a build tells: one stage that runs, one that is cached, a remark."""
    said.stage_started("normalize", kind="normalize", rows=1000, parts=2)
    said.advanced("normalize", 600)
    said.advanced("normalize", 400)
    said.stage_finished("normalize", cached=False, rows_in=1000, kept=990, dropped=10, seconds=0.5)
    said.stage_finished("[red]odd[/red]", cached=True, rows_in=990, kept=990, dropped=0, seconds=None)
    said.note("a remark")
    said.close()


def test_the_stream_decides_how_progress_looks() -> None:
    assert isinstance(reporter(stream=Terminal()), Bars)
    assert isinstance(reporter(stream=io.StringIO()), Lines)
    assert isinstance(reporter(stream=Terminal(), quiet=True), Quiet)
    assert isinstance(reporter(stream=Terminal(), log_json=True), JsonLines)


@pytest.mark.parametrize("kind", [Lines, Bars])
def test_every_finished_stage_has_its_line(kind: Any) -> None:
    stream = Terminal() if kind is Bars else io.StringIO()
    play(kind(stream))
    text = stream.getvalue()
    assert "990 kept" in text and "10 dropped" in text and "2,000 rows/s" in text
    assert "[red]odd[/red]" in text and "cached" in text and "a remark" in text


def test_a_long_stage_speaks_now_and_then() -> None:
    stream = io.StringIO()
    play(Lines(stream, every=0))
    assert stream.getvalue().startswith("normalize: 600 of 1,000 rows")


def test_json_lines_are_one_object_each() -> None:
    stream = io.StringIO()
    play(JsonLines(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e["event"] for e in events] == [
        "stage_started",
        "advanced",
        "advanced",
        "stage_finished",
        "stage_finished",
        "note",
    ]
    assert events[3]["seconds"] == 0.5 and events[4]["seconds"] is None


def test_lines_and_numbers() -> None:
    assert "cached" in stage_line("a", True, 1, 1, 0, None)
    assert progress_line("a", 50, 100, 1.0) == "a: 50 of 100 rows, 50 rows/s, 1 s left"
    assert progress_line("a", 50, None, 1.0) == "a: 50 rows, 50 rows/s"
    assert [duration(s) for s in (0, 59.6, 3599, 7260)] == ["0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min"]
    assert [size(n) for n in (0, 999, 1000, 1.5e9, 2e15)] == ["0 B", "999 B", "1.0 kB", "1.5 GB", "2000.0 TB"]


ODD = pa.table(
    {
        "text": ["=1+1", "\x1b[31mred\x1b[0m", "a\nb", None, "x" * 500],
        "number": [1.5, float("nan"), float("inf"), None, -2.0],
        "bytes": pa.array([b"\x00\xff", None, b"", b"a", b"b"], pa.binary()),
        "list": pa.array([[{"a": 1}], None, [], [{"a": None}], []]),
    }
)


def written(format: str, **options: Any) -> str:
    stream = io.StringIO()
    output._write_text(ODD, format, stream, options.get("safe_csv", False))
    return stream.getvalue()


def test_a_table_sends_no_control_characters_to_the_terminal() -> None:
    text = written("table")
    assert "\x1b" not in text and "\\x1b[31mred" in text and "a b" in text and "…" in text
    assert len(text.splitlines()) == 6


def test_json_has_no_values_that_json_has_not() -> None:
    rows = json.loads(written("json"), parse_constant=lambda name: pytest.fail(name))
    assert rows == [json.loads(line) for line in written("jsonl").splitlines()]
    assert rows[1]["number"] is None and rows[0]["bytes"] == "AP8=" and rows[0]["list"] == [{"a": 1}]


def test_csv_formulas_are_neutralised_only_when_asked() -> None:
    assert written("csv").splitlines()[1].startswith("=1+1,")
    assert written("csv", safe_csv=True).splitlines()[1].startswith("'=1+1,")
    assert written("csv", safe_csv=True).rstrip().splitlines()[-1].split(",")[1] == "-2.0"


def test_long_tables_are_cut_on_the_screen_only() -> None:
    stream = io.StringIO()
    output._write_text(pa.table({"n": range(150)}), "table", stream, False)
    assert "50 more rows" in stream.getvalue()


@pytest.mark.parametrize(
    ("given", "file", "format"),
    [(None, None, "table"), ("csv", None, "csv"), (None, "a.csv", "csv"), (None, "a.parquet", "parquet"),
     ("json", "a.txt", "json"), (None, "a.txt", "table")],
)  # fmt: skip
def test_the_format_is_asked_for_or_the_files_ending(given: str | None, file: str | None, format: str) -> None:
    assert output.format_of(given, Path(file) if file else None) == format
