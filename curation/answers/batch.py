"""Check a table: one verdict row per input row, in the same order, with any number of worker processes.

Rows are dealt in fixed slices and put back in order, so the verdicts are the same for any number of workers.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from curation.answers import pool
from curation.answers.cache import VerdictCache
from curation.answers.check import check
from curation.answers.judge import Judge
from curation.answers.judging import judge_open
from curation.answers.policy import Policy
from schemas.verdicts import verdict_table

SLICE_ROWS = 256
COLUMNS = ("gold", "response", "kind", "choices", "question", "golds", "truncated")


def check_many(
    table: pa.Table,
    *,
    policy: Policy | None = None,
    workers: int = 1,
    judge: Judge | None = None,
    cache: Path | str | None = None,
) -> pa.Table:
    """Verdicts (VERDICT_SCHEMA) for every row of `table`, in order.

    table    columns gold and response; optional kind, choices (list<string>), question, golds (list<string>),
             truncated (bool); others are ignored
    workers  processes; 1 works in this one
    judge    asked for the rows that the rules leave undecided
    cache    a file that keeps what symbolic work found
    Raises ValueError where gold or response is missing.
    """
    missing = [name for name in ("gold", "response") if name not in table.column_names]
    if missing:
        raise ValueError(f"check_many needs the columns gold and response; missing: {', '.join(missing)}")
    policy = policy or Policy()
    rows = table.select([c for c in COLUMNS if c in table.column_names])
    kept = VerdictCache(cache) if cache else None
    if workers <= 1 or rows.num_rows <= SLICE_ROWS:
        verdicts = check_slice(rows, policy, kept)
    else:
        slices = [rows.slice(at, SLICE_ROWS) for at in range(0, rows.num_rows, SLICE_ROWS)]
        fields, path = asdict(policy), str(cache) if cache else None
        code = f"from curation.answers.batch import serve; serve({fields!r}, {path!r})"
        parts = pool.map_slices(code, slices, workers, lambda part: check_slice(part, policy, kept))
        verdicts = pa.concat_tables(parts).combine_chunks()
    return judge_open(rows, verdicts, judge) if judge else verdicts


def check_slice(rows: pa.Table, policy: Policy, cache: VerdictCache | None = None) -> pa.Table:
    """Verdicts of a slice, in this process."""
    columns = [rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows for name in COLUMNS]
    return verdict_table(
        [
            check(
                gold, response, kind=kind, choices=choices, question=question, golds=golds, truncated=bool(truncated),
                policy=policy, cache=cache,
            )
            for gold, response, kind, choices, question, golds, truncated in zip(*columns, strict=True)
        ]
    )  # fmt: skip


def serve(fields: dict[str, object], cache: str | None) -> None:
    """What a worker process runs: slices of rows in, verdicts out."""
    policy = Policy(**fields)  # type: ignore[arg-type]
    kept = VerdictCache(cache) if cache else None
    pool.serve(lambda rows: check_slice(rows, policy, kept))
