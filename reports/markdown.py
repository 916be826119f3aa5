"""Answers as Markdown: tables that GitHub and the Hub show, with nothing in them that either would take for markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports import formats
from reports.questions import Answer

LINES = 30
CELL = 120


def section(answer: Answer, level: int = 2) -> str:
    """Heading, what is asked, and the table. "" for an answer without lines."""
    if answer.empty:
        return ""
    question = answer.question
    head = f"{'#' * level} {question.title}"
    return "\n\n".join(part for part in (head, question.answers, table(answer)) if part)


def table(answer: Answer, leave_out: Sequence[str] = ()) -> str:
    """The first lines of an answer as a table; numbers stand on the right."""
    assert answer.table is not None
    names = [name for name in answer.table.column_names if name not in leave_out]
    units = answer.question.units
    heads = [formats.heading(n) + (f" ({u})" if (u := formats.unit_beside(n, units.get(n, ""))) else "") for n in names]
    numeric = [
        str(answer.table.schema.field(n).type).startswith(("int", "uint", "float", "double", "decimal")) for n in names
    ]
    lines = [heads, ["---:" if right else "---" for right in numeric]]
    for line in answer.table.slice(0, LINES).to_pylist():
        lines.append([cell(formats.said(line[name], units.get(name, ""))) for name in names])
    made = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = len(answer.table) - LINES
    return made if more <= 0 else f"{made}\n\nand {more:,} more lines."


def cell(text: str) -> str:
    """Text from data in a cell: one line, shortened, with the characters that mean something escaped."""
    flat = " ".join(text.split())
    flat = flat if len(flat) <= CELL else flat[: CELL - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]<>|$~])", r"\\\1", flat).replace("\\<", "&lt;").replace("\\>", "&gt;")
