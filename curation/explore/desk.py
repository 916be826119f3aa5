"""What the pages of `winnow explore` ask of one version: pages of rows, one row, SQL. Read-only, each with a time limit.

A filter is a condition as after WHERE (judged by curation.sqlguard, so it is one expression over columns and nothing else).
It is asked of the one table that has all columns that it names, and joins tables only where it must; ids are then looked up.
Pages go by row_id, never by offset, so the last page costs what the first does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from curation import sqlguard
from curation.sqltree import statement
from curation.versions import Version
from reports import questions, samples, tables
from schemas.errors import WinnowError
from schemas.rows import ID_DIGITS
from schemas.sqltext import identifier, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

ROWS = 20
"""Of a page."""
TRACES = 256
"""Of one row that are shown."""
LINES = 1000
"""Of a result in SQL that are shown."""
COUNT_SECONDS = 0.3
"""That counting all matches may take; a page does not wait longer for it."""
MEMORY = 2_000_000_000


class TooLong(WinnowError):
    """A query reached its time limit."""


@dataclass(frozen=True)
class Page:
    """Rows that fit a filter."""

    samples: list[samples.Sample]
    after: str | None
    """The row_id after which the next page begins; None on the last one."""
    total: int | None
    """How many fit in all, where that is known in time."""
    seconds: float


@dataclass
class Desk:
    """One version, open for questions. Safe to use from several threads."""

    version: Version
    seconds: float = 10.0
    there: dict[str, set[str]] = field(init=False)
    _connection: duckdb.DuckDBPyConnection = field(init=False)

    def __post_init__(self) -> None:
        from curation.reporting import folders_of, images_of

        version = self.version
        images = images_of(version)
        self._connection = tables.connect(
            tables.views(version.path, version.manifest),
            folders_of(version),
            tables={} if images is None else {"images": images},
            memory_limit=MEMORY,
        )
        self.there = questions.columns(self._connection)

    def close(self) -> None:
        self._connection.close()

    def columns(self) -> dict[str, list[str]]:
        """table -> its columns, sorted: what a filter may name."""
        return {table: sorted(of) for table, of in sorted(self.there.items())}

    # ------------------------------------------------------------------------------------------------------------ pages

    def page(self, where: str = "", traces: str = "", after: str = "") -> Page:
        """A page of rows.

        where   a condition over the columns of decisions and ledger; "" for all rows
        traces  a condition over the columns of traces and verdicts, which a trace of the row must fit
        after   the last row_id of the page before
        Raises WinnowError where a condition is wrong, TooLong where it takes too long.
        """
        started = time.perf_counter()
        query = self._matching(where, traces)
        beyond = f"where row_id > {quoted(after)}" if after else ""
        listed = f"select row_id from ({query}) {beyond} order by row_id limit {ROWS + 1}"
        ids = self._run(lambda cursor: [line[0] for line in cursor.execute(listed).fetchall()], self.seconds)
        more = len(ids) > ROWS
        counted: list[int] = [] if more or after else [len(ids)]
        # A filter that few rows fit has been answered in full; only one that many fit is counted by a pass of its own.
        counting = None if counted else threading.Thread(target=self._count, args=(query, counted))
        if counting is not None:
            counting.start()
        narrow = {table: of for table, of in self.there.items() if table != "traces"}
        left = max(0.1, self.seconds - (time.perf_counter() - started))
        found = self._run(lambda cursor: samples.read(cursor, narrow, ids[:ROWS]), left)
        if counting is not None:
            counting.join(COUNT_SECONDS)
        return Page(
            [found[row_id] for row_id in ids[:ROWS]],
            ids[ROWS - 1] if more else None,
            counted[0] if counted else None,
            time.perf_counter() - started,
        )

    def _count(self, query: str, counted: list[int]) -> None:
        try:
            lines = self._run(
                lambda cursor: cursor.execute(f"select count(*) from ({query})").fetchall(), COUNT_SECONDS
            )
            counted.append(int(lines[0][0]))
        except WinnowError:
            return  # the page itself tells what is wrong with the query, and does without the number where it takes long

    def _matching(self, where: str, traces: str) -> str:
        """A query for the row_ids that fit."""
        query = "select row_id from ledger"
        if where.strip():
            query = self._of_tables(where, "ledger", "decisions", "row_id", "filter")
        if traces.strip():
            if "traces" not in self.there:
                raise WinnowError(f"{self.version} has no traces.")
            fitting = self._of_tables(traces, "verdicts", "traces", "row_id, k", "filter of traces")
            query = f"select row_id from ({query}) where row_id in (select row_id from ({fitting}))"
        return query

    def _of_tables(self, condition: str, first: str, second: str, key: str, what: str) -> str:
        try:
            named = set(sqlguard.predicate(condition).columns)
        except ValueError as error:
            raise WinnowError(f"The {what} is wrong: {error}") from error
        known = {table: self.there.get(table, set()) for table in (first, second)}
        if unknown := sorted(named - known[first] - known[second]):
            raise WinnowError(
                f"The {what} names {unknown[0]!r}, which is no column. {sqlguard.nearest(unknown[0], sorted(known[first] | known[second]))}"
            )
        for table in (first, second):
            if named <= known[table]:
                return f"select row_id from {table} where (\n{condition}\n)"
        own = sorted((named - known[first]) | set(key.split(", ")))
        joined = f"(select * from {first}) join (select {', '.join(map(identifier, own))} from {second}) using ({key})"
        return f"select row_id from {joined} where (\n{condition}\n)"

    # -------------------------------------------------------------------------------------------------- one row, and SQL

    def row(self, row_id: str) -> samples.Sample | None:
        """All that the version knows of a row (or of the one row whose id begins so), and of what it was merged into."""

        def read(cursor: duckdb.DuckDBPyConnection) -> samples.Sample | None:
            wanted = [row_id]
            if len(row_id) < ID_DIGITS:
                begins = f"select row_id from ledger where starts_with(row_id, {quoted(row_id)}) limit 2"
                wanted = [line[0] for line in cursor.execute(begins).fetchall()]
            if len(wanted) != 1:
                return None
            found = samples.read(cursor, self.there, wanted, TRACES)
            sample = found.get(wanted[0])
            if sample is None or not sample.fate["into"]:
                return sample
            return samples.beside(sample, samples.read(cursor, self.there, [sample.fate["into"]]))

        return self._run(read, self.seconds)

    def sql(self, query: str, most: int | None = LINES) -> tuple[pa.Table, float]:
        """The first lines of one SELECT (all, where `most` is None) and the seconds that it took."""
        try:
            statement(query)
        except ValueError as error:
            raise WinnowError(f"The query is wrong: {error}") from error
        started = time.perf_counter()

        def read(cursor: duckdb.DuckDBPyConnection) -> pa.Table:
            relation = cursor.sql(query)
            return (relation if most is None else relation.limit(most + 1)).to_arrow_table()

        return self._run(read, self.seconds), time.perf_counter() - started

    def _run(self, read: Callable[[duckdb.DuckDBPyConnection], T], seconds: float) -> T:
        """Run something on a cursor of its own, and interrupt it when its time is over."""
        import duckdb

        cursor = self._connection.cursor()
        over = threading.Event()

        def stop() -> None:
            over.set()
            cursor.interrupt()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            return read(cursor)
        except duckdb.Error as error:
            if over.is_set():
                raise TooLong(
                    f"It took more than {seconds:g} s and was stopped. Give it less to read, or --time-limit."
                ) from error
            raise WinnowError(f"The query was not run: {error}") from error
        finally:
            timer.cancel()
            cursor.close()


@dataclass
class Desks:
    """The versions of a workspace, each opened when it is first asked for."""

    workspace: Path | None
    seconds: float
    open: dict[str, Desk] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def versions(self) -> list[Mapping[str, Any]]:
        from curation.versions import list_versions

        return list(list_versions(self.workspace))

    def get(self, name: str, version_id: str) -> Desk:
        """Raises WinnowError where there is no such version."""
        from curation.versions import open_version

        reference = f"{name}@{version_id}"
        with self._lock:
            if reference not in self.open:
                self.open[reference] = Desk(open_version(reference, self.workspace), self.seconds)
            return self.open[reference]

    def close(self) -> None:
        for desk in self.open.values():
            desk.close()
