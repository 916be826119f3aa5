"""Tables for people and programs: aligned columns on a terminal, CSV, JSON, JSON Lines, Parquet.

Text in a table comes from data, so it may hold anything: control characters are shown, never sent to the terminal.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import WinnowError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "jsonl", "parquet")
ROWS_SHOWN = 100
CELL_SHOWN = 80


def format_of(given: str | None, output: Path | None) -> str:
    """The format that was asked for, or that a file's ending says. Raises WinnowError for one that there is not."""
    ending = output.suffix.lstrip(".").lower() if output is not None else ""
    chosen = given or (ending if ending in FORMATS else "table")
    if chosen not in FORMATS:
        raise WinnowError(f"There is no format {chosen!r}. There are: {', '.join(FORMATS)}.")
    if chosen == "parquet" and output is None:
        raise WinnowError("Parquet is not for the screen. Name a file: -o rows.parquet")
    if given is None and output is not None and not ending:
        raise WinnowError(f"{output} has no ending that says its format. Add --format csv, json, jsonl or parquet.")
    return chosen


def write(table: pa.Table, format: str, output: Path | None = None, *, safe_csv: bool = False) -> None:
    """Write a table to a file, or to standard output."""
    if format == "parquet":
        import pyarrow.parquet as pq

        assert output is not None
        pq.write_table(table, output, compression="zstd")
    elif output is None:
        _write_text(table, format, sys.stdout, safe_csv)
    else:
        with output.open("w", encoding="utf-8", newline="") as file:
            _write_text(table, format, file, safe_csv)


def csv_text(table: pa.Table) -> str:
    """A table as CSV for a spreadsheet: cells that it would run as formulas get a ' before them."""
    sink = io.StringIO()
    _write_text(table, "csv", sink, True)
    return sink.getvalue()


def _write_text(table: pa.Table, format: str, file: Any, safe_csv: bool) -> None:
    if format == "table":
        lines = [tuple(row.values()) for row in table.slice(0, ROWS_SHOWN).to_pylist()]
        right = tuple(f.name for f in table.schema if _is_number(f.type))
        print_table(tuple(table.column_names), lines, right=right, file=file)
        if len(table) > ROWS_SHOWN:
            more = f"… and {len(table) - ROWS_SHOWN:,} more rows; --format csv, json or -o FILE gives all"
            print(more, file=file)
    elif format == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches():
            writer.writerows([_cell(value, safe_csv) for value in row.values()] for row in batch.to_pylist())
    elif format == "jsonl":
        for batch in table.to_batches():
            for row in batch.to_pylist():
                file.write(json.dumps(plain(row), ensure_ascii=False) + "\n")
    else:
        rows = [plain(row) for row in table.to_pylist()]
        file.write(json.dumps(rows, ensure_ascii=False, indent=2) + "\n")


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def plain(value: Any) -> Any:
    """A value as JSON can hold it: bytes as base64, times as ISO 8601, numbers that are none as null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _cell(value: Any, safe: bool) -> Any:
    """A value in CSV: nested ones as JSON."""
    value = plain(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if safe and isinstance(value, str) and value.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def print_table(
    columns: Sequence[str], lines: Sequence[Sequence[Any]], *, right: Sequence[str] = (), file: Any = None
) -> None:
    """Print aligned columns. On a terminal they are fitted to its width; elsewhere nothing is cut but long cells."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = file if file is not None else sys.stdout
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        shown.add_column(Text(shortened(name)), justify="right" if name in right else "left", overflow="fold")
    for line in lines:
        shown.add_row(*(Text(shortened(value)) for value in line))
    if file.isatty():
        Console(file=file).print(shown)
        return
    wide = io.StringIO()
    Console(file=wide, width=100_000, color_system=None).print(shown)
    file.writelines(line.rstrip() + "\n" for line in wide.getvalue().splitlines())


def shortened(value: Any) -> str:
    """A value in one line, with control characters spelled out."""
    if value is None:
        return ""
    value = plain(value)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)
    flat = "".join(c if c.isprintable() else " " if c in "\n\t" else repr(c)[1:-1] for c in text)
    return flat if len(flat) <= CELL_SHOWN else flat[: CELL_SHOWN - 1] + "…"
