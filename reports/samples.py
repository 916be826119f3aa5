"""Rows to look at: drawn at random from every source and every reason for which rows left, with all that a version knows.

A draw is seeded. Ids are hashes of content, so the rows that follow a seeded point in the order of ids are a fair sample of
any group; the groups' rows then lie close together in the files, and a version of any size is sampled in seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.sqltext import quoted

if TYPE_CHECKING:
    import duckdb

GROUPS = 24
"""Sources, and reasons, that are sampled: the largest."""
TRACES = 8
"""Traces that are shown of a row; the page says how many more there are."""


@dataclass(frozen=True)
class Sample:
    """One row. `other` is what stands beside it: the row it was merged into, or the item of a benchmark."""

    row_id: str
    fate: Mapping[str, Any]
    """Its line of the ledger, the evidence as a value."""
    row: Mapping[str, Any] | None
    """Its line of decisions; None for a record that never became a row."""
    traces: Sequence[Mapping[str, Any]] = ()
    """By k, each with its `verdict` (a line of verdicts) or None."""
    more_traces: int = 0
    other: Sample | None = None
    item: Mapping[str, Any] | None = None
    """`benchmark` and `item`, with `question`, `choices` and `answer` where the caller knows them."""


@dataclass(frozen=True)
class Group:
    """Samples that have something in common."""

    kind: str
    """source, fate, doubt, overlap"""
    title: str
    rows: int
    """How many there are of which these are a sample."""
    samples: Sequence[Sample] = field(default_factory=tuple)


def draw(connection: duckdb.DuckDBPyConnection, there: Mapping[str, set[str]], seed: int = 0) -> list[Group]:
    """Groups of samples of a version whose tables are `there` (see questions.columns)."""
    start = hashlib.sha256(f"samples {seed}".encode()).hexdigest()[:20]
    picked = _picked(connection, there, start)
    ids = {row_id for *_, found in picked for row_id in found}
    found = read(connection, there, ids)
    others = {s.fate["into"] for s in found.values() if s.fate["into"]} - set(found)
    found |= read(connection, there, others)
    return [
        Group(kind, title, rows, [beside(found[row_id], found) for row_id in of if row_id in found])
        for kind, title, rows, of in picked
    ]


def _picked(
    connection: duckdb.DuckDBPyConnection, there: Mapping[str, set[str]], start: str
) -> list[tuple[str, str, int, list[str]]]:
    """(kind, title, how many there are, row_ids of a few) of each group."""

    def few(table: str, where: str, by: str, most: int) -> list[tuple[Any, ...]]:
        return connection.execute(
            f"select {by}, count(*) as n, list_concat(coalesce(min(row_id, {most}) filter (where row_id >= {quoted(start)}), []), "
            f"min(row_id, {most}))[:{most}] from {table} where {where} group by {by} order by n desc, {by} limit {GROUPS}"
        ).fetchall()

    picked = []
    kept = few("ledger", "fate = 'kept'", "source", 6)
    for source, n, ids in kept:
        picked.append(("source", str(source), n, ids[: max(2, 40 // len(kept))]))
    for stage, fate, reason, n, ids in few("ledger", "fate <> 'kept'", "stage, fate, reason", 4):
        picked.append(("fate", f"{stage}: {fate}, {reason}", n, ids))
    columns = there.get("decisions", set())
    if "label_problem" in columns:
        for problem, n, ids in few("decisions", "label_problem is not null", "label_problem", 4):
            picked.append(("doubt", f"doubtful label: {problem}", n, ids))
    if "label_conflict" in columns:
        clashes = few("decisions", "label_conflict is not null", "label_conflict", 4)
        if clashes:
            ids = [row_id for *_, of in clashes[:5] for row_id in of]
            picked.append(("doubt", "one question, several answers", sum(n for _, n, _ in clashes), ids))
    if "benchmark_overlap" in columns:
        for kind, n, ids in few("decisions", "benchmark_overlap is not null", "benchmark_overlap ->> '$.kind'", 4):
            picked.append(("overlap", f"kept, and near a benchmark: {kind}", n, ids))
    return [(kind, title, n, list(dict.fromkeys(ids))) for kind, title, n, ids in picked]


def beside(sample: Sample, found: Mapping[str, Sample]) -> Sample:
    """A sample with the row that it was merged into at its side, where that is found."""
    into = sample.fate["into"]
    if not into or into not in found:
        return sample
    return Sample(sample.row_id, sample.fate, sample.row, sample.traces, sample.more_traces, found[into], sample.item)


def read(
    connection: duckdb.DuckDBPyConnection, there: Mapping[str, set[str]], row_ids: Iterable[str], most: int = TRACES
) -> dict[str, Sample]:
    """row_id -> all that a version knows of these rows, with at most so many traces. Ids that it has not are left out."""
    wanted = ", ".join(quoted(row_id) for row_id in sorted(row_ids))
    if not wanted:
        return {}

    def lines(table: str, columns: str = "*", rest: str = "") -> list[dict[str, Any]]:
        if table not in there:
            return []
        query = f"select {columns} from {table} where row_id in ({wanted}) {rest}"
        found: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
        return found

    rows = {line["row_id"]: line for line in lines("decisions")}
    verdicts = {(line["row_id"], line["k"]): line for line in lines("verdicts")}
    narrow = "* exclude (logprobs)" if "logprobs" in there.get("traces", ()) else "*"
    traces: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines("traces", narrow), key=lambda t: (t["row_id"], t["k"])):
        traces.setdefault(line["row_id"], []).append({**line, "verdict": verdicts.get((line["row_id"], line["k"]))})
    made = {}
    for fate in lines("ledger", "*", "order by row_id"):
        row_id = fate["row_id"]
        row = rows.get(row_id)
        fate = {**fate, "evidence": value(fate["evidence"])}
        overlap = fate["evidence"] or value((row or {}).get("benchmark_overlap"))
        item = overlap if isinstance(overlap, dict) and "benchmark" in overlap else None
        of = traces.get(row_id, [])
        made[row_id] = Sample(row_id, fate, row, of[:most], max(0, len(of) - most), None, item)
    return made


def value(evidence: str | None) -> Any:
    """Evidence as a value; text that is not JSON stays text."""
    try:
        return None if evidence is None else json.loads(evidence)
    except ValueError:
        return evidence
