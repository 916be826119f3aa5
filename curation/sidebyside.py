"""The traces of one row, side by side: what each teacher said, what the checker made of it, and the row's pictures."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.images import ImageStore
from curation.story import find, given_traces
from curation.versions import Version, read_columns

COLUMN = 44
"""Characters that a trace needs beside others."""
SHOWN = 14
"""Lines of a text that are shown without --full: two thirds of them from its end, where the answer is."""


@dataclass(frozen=True)
class Traces:
    """A row, its traces with their verdicts, and the files of its pictures."""

    row: dict[str, Any]
    traces: list[dict[str, Any]]
    """Each with its `verdict`, or None."""
    images: list[Path]
    into: str | None = None
    """The row that took the traces in a merge."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "traces": self.traces,
            "into": self.into,
            "images": [str(path) for path in self.images],
        }

    def text(self, *, full: bool = False, width: int | None = None) -> str:
        """For a terminal of so many columns (its own by default)."""
        width = width or shutil.get_terminal_size((100, 24)).columns
        lines = [f"Row {self.row['row_id']}", ""]
        for name in ("question", "choices", "answer"):
            value = self.row[name]
            if value is None or value == []:
                continue
            said = " | ".join(value) if isinstance(value, list) else value
            wrapped = [piece for line in _safe(said).splitlines() for piece in textwrap.wrap(line, width - 12) or [""]]
            lines += [f"  {name if i == 0 else '':<9} {piece}" for i, piece in enumerate(wrapped)]
        lines += [f"  {'picture':<9} {path.resolve().as_uri()}" for path in self.images]
        if not self.traces and self.into:
            return "\n".join([*lines, "", f"Its traces went to the row it was merged into: {self.into}"])
        if not self.traces:
            return "\n".join([*lines, "", "No teacher answered this row."])
        beside = max(1, min(len(self.traces), (width + 2) // (COLUMN + 2)))
        column = (width + 2) // beside - 2
        for start in range(0, len(self.traces), beside):
            group = [_column(trace, column, full) for trace in self.traces[start : start + beside]]
            height = max(len(lines) for lines in group)
            padded = [block + [""] * (height - len(block)) for block in group]
            lines += [
                "",
                *("  ".join(f"{cell:<{column}}" for cell in row).rstrip() for row in zip(*padded, strict=True)),
            ]
        return "\n".join(lines)


def _safe(text: str) -> str:
    """Text from data for a terminal: control characters are spelled out, never sent."""
    return "".join(c if c.isprintable() or c == "\n" else "    " if c == "\t" else repr(c)[1:-1] for c in text)


def look(version: Version, wanted: str, folder: Path | None = None) -> Traces:
    """The traces of one row of a version. Its pictures are written to `folder`, by default into the workspace, where
    they can be removed at any time. Raises WinnowError where there is no such row."""
    row_id = find(version, wanted)
    row = next(iter(read_columns(version, "decisions", row_id)), None) or {"row_id": row_id, "question": None, "choices": None, "answer": None, "images": []}  # fmt: skip
    verdicts = {v["k"]: v for v in read_columns(version, "verdicts", row_id)}
    traces = sorted(read_columns(version, "traces", row_id), key=lambda t: t["k"])
    for trace in traces:
        trace["verdict"] = verdicts.get(trace["k"])
    workspace = version.path.parents[2]
    fate = read_columns(version, "ledger", row_id)[0]
    into = fate["into"] if given_traces(version, fate) else None
    return Traces(row, traces, _pictures(workspace, row["images"] or (), folder or workspace / "pictures"), into)


def _pictures(workspace: Path, hashes: Sequence[str], folder: Path) -> list[Path]:
    """The pictures as files, named by their hash."""
    if not hashes or not (workspace / "images").is_dir():  # a version that was brought here without its workspace
        return []
    store = ImageStore(workspace)
    kinds = {line["hash"]: line["format"].lower() for line in store.info(sorted(set(hashes))).to_pylist()}
    paths = []
    for name, data in store.read(hashes).items():
        path = folder / f"{name[:16]}.{ {'jpeg': 'jpg'}.get(kinds[name], kinds[name]) }"
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(data)
        paths.append(path)
    return paths


def _column(trace: dict[str, Any], width: int, full: bool) -> list[str]:
    """One trace as lines of at most `width` characters."""
    verdict = trace["verdict"]
    word = "not judged" if verdict is None else verdict["state"]
    tokens = f", {trace['output_tokens']:,} tokens" if trace["output_tokens"] is not None else ""
    head = [f"k={trace['k']}  {word}", f"{trace['stage']}: {trace['model']}", f"{trace['finish']}{tokens}"]
    if verdict is not None and verdict["extracted"] is not None:
        head.append(f"read {' '.join(_safe(verdict['extracted']).split())} by {verdict['rule']}, {verdict['method']}")
    head += [f"{name}: {trace[name]}" for name in ("malformed", "repair") if trace[name]]
    if trace.get("origin_row"):
        head.append(f"of {trace['origin_row']}")
    if trace["finish"] == "failed":
        head.append(_safe(trace["finish_reason"] or ""))
    fate = trace["fate"] if trace["fate"] == "exported" else f"not exported: {trace['fate_reason']}"
    body = [
        piece
        for line in _safe(trace["text"] or "").splitlines()
        for piece in textwrap.wrap(line, width, replace_whitespace=False, drop_whitespace=True) or [""]
    ]
    if not full and len(body) > SHOWN:
        first = SHOWN // 3
        hidden = len(body) - SHOWN + 1
        body = [*body[:first], f"… {hidden:,} lines …", *body[-(SHOWN - first - 1) :]]
    top = [piece for line in [*head, fate] for piece in textwrap.wrap(line, width) or [""]]
    return [*top, "─" * width, *body]
