"""Questions about a version: one .sql file each, found by looking into a folder.

A file opens with comments that say what it answers and how to show it; a file without them is a question too, shown as a
table under its name.

    -- title: Rows by source and fate
    -- answers: What does each source bring, and what becomes of it?
    -- section: What is in it
    -- order: 200                              place within the report
    -- chart: bars y=source x=rows color=fate  table (the default), numbers, bars, columns, line, range, heat, waterfall
    -- units: rows=rows share=%                of columns; %, bytes and s are formatted as such
    -- needs: traces.text, verdicts            tables or columns without which it is left out
    -- card: yes                               also in the dataset card

A chart draws the columns that it names; the table under it shows all. `$sampled_until` stands for the row_id under which
texts are read where a version is too large to read all: ids are hashes, so rows below one are a fair sample.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import WinnowError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

CHARTS = {
    "table": (),
    "numbers": (),
    "bars": ("y", "x"),
    "columns": ("x", "y"),
    "line": ("x", "y"),
    "range": ("y", "low", "mid", "high"),
    "heat": ("x", "y", "value"),
    "waterfall": ("y", "from", "to", "color"),
}
"""Kind of chart -> the roles that columns must be given."""
ROWS_SAMPLED = 20_000
"""Input rows, about, whose texts `$sampled_until` leaves to be read."""


@dataclass(frozen=True)
class Question:
    """One .sql file."""

    name: str
    sql: str
    title: str
    answers: str = ""
    section: str = "More questions"
    order: int = 10_000
    chart: str = "table"
    roles: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    card: bool = False


@dataclass(frozen=True)
class Answer:
    """What a question gave. Without a table, `missing` says what the version lacks, or `error` what DuckDB said."""

    question: Question
    sql: str
    """As it was run."""
    table: pa.Table | None
    seconds: float = 0.0
    missing: str = ""
    error: str = ""

    @property
    def empty(self) -> bool:
        return self.table is None or not len(self.table)


def find(folders: Sequence[Path] = ()) -> list[Question]:
    """The questions that come with Winnow, and those of further folders; one of the same name takes its place.

    Raises WinnowError for a folder without .sql files, and for a header that says something wrong.
    """
    own = resources.files("reports").joinpath("sql")
    texts = {
        entry.name.removesuffix(".sql"): (entry.read_text(encoding="utf-8"), f"reports/sql/{entry.name}")
        for entry in own.iterdir()
        if entry.name.endswith(".sql")
    }
    for folder in folders:
        found = sorted(folder.glob("*.sql")) if folder.is_dir() else []
        if not found:
            raise WinnowError(f"{folder} has no .sql files. A question is one file there; docs/reports.md shows one.")
        texts |= {path.stem: (path.read_text(encoding="utf-8"), str(path)) for path in found}
    return sorted((parse(name, *text) for name, text in texts.items()), key=lambda q: (q.order, q.name))


def parse(name: str, text: str, where: str = "") -> Question:
    """A question from its file. Raises WinnowError naming the line that is wrong."""
    said: dict[str, str] = {}
    lines = text.strip().splitlines()
    heads = 0
    for line in lines:
        match = re.fullmatch(r"--\s*([a-z]+):\s*(.*?)\s*", line)
        if match is None or match[1] not in ("title", "answers", "section", "order", "chart", "units", "needs", "card"):
            break
        said[match[1]] = match[2]
        heads += 1
    body = "\n".join(lines[heads:]).strip().removesuffix(";")

    def wrong(key: str, what: str) -> WinnowError:
        return WinnowError(f"{where or name}: `-- {key}: {said[key]}` {what}")

    if not body:
        raise WinnowError(f"{where or name}: there is no query.")
    chart, *roles = said.get("chart", "table").split()
    if chart not in CHARTS:
        raise wrong("chart", f"is no chart. There are: {', '.join(CHARTS)}.")
    given = dict(role.partition("=")[::2] for role in roles)
    if lacking := [role for role in CHARTS[chart] if not given.get(role)]:
        raise wrong("chart", f"does not say which column is {' and which is '.join(lacking)}.")
    if not said.get("order", "0").isdigit():
        raise wrong("order", "is no number.")
    return Question(
        name,
        body,
        said.get("title") or name.replace("_", " "),
        said.get("answers", ""),
        said.get("section", "More questions"),
        int(said.get("order", 10_000)),
        chart,
        given,
        dict(unit.partition("=")[::2] for unit in re.findall(r"\S+", said.get("units", ""))),
        tuple(re.findall(r"[^,\s]+", said.get("needs", ""))),
        said.get("card", "no") == "yes",
    )


def columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """table -> its columns."""
    found: dict[str, set[str]] = {}
    lines = connection.execute("select table_name, column_name from duckdb_columns() where not internal").fetchall()
    for table, column in lines:
        found.setdefault(table, set()).add(column)
    return found


def sampled_until(rows: int, sampled: int = ROWS_SAMPLED) -> str:
    """The row_id under which about `sampled` of so many rows lie; 'g', above all, where there are no more."""
    if rows <= sampled:
        return "g"
    return f"{int(16**6 * sampled / rows):06x}"


def ask(
    connection: duckdb.DuckDBPyConnection, question: Question, there: Mapping[str, set[str]], until: str = "g"
) -> Answer:
    """Run one question. What is wrong with it is told in the answer, so that one bad file does not cost the others.

    there   tables and their columns (see `columns`)
    until   what `$sampled_until` stands for
    """
    import duckdb

    sql = question.sql.replace("$sampled_until", until)
    for need in question.needs:
        table, _, column = need.partition(".")
        if table not in there:
            return Answer(question, sql, None, missing=f"no {table}")
        if column and column not in there[table]:
            return Answer(question, sql, None, missing=f"no column {column} of {table}")
    started = time.perf_counter()
    try:
        relation = connection.sql(sql)
        if relation is None:
            return Answer(question, sql, None, error="It returns no table: a question is one SELECT.")
        table = relation.to_arrow_table()
    except duckdb.Error as error:
        return Answer(question, sql, None, error=str(error))
    named = {name for name in question.roles.values() if name}
    if unknown := sorted(named - set(table.column_names)):
        return Answer(question, sql, None, error=f"The chart names {unknown[0]!r}, which the query does not return.")
    return Answer(question, sql, table, time.perf_counter() - started)
