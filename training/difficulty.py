"""How hard each question turned out to be: difficulty.parquet of an RL run, made from the answers of its steps.

A run asks far more often than a teacher did before it, and asks the model that matters. What it found goes back to where
data is chosen: `winnow sql` joins the table as `"run:NAME".difficulty` with the rows of the version it was trained on.
Columns that the stage `difficulty` has too have its names and mean the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import store
from curation.stages.difficulty import wilson

QUESTIONS = """
with asked as (
    select row_id, source, step, count(*) as n, count(accuracy) as judged, sum(accuracy) as correct, sum(tokens) as tokens
    from read_parquet(?, union_by_name = true)
    group by row_id, source, step
)
select
    row_id,
    source,
    sum(n)::integer as n_asked,
    sum(judged)::integer as n_judged,
    coalesce(sum(correct), 0)::integer as n_correct,
    min(step)::integer as first_step,
    max(step)::integer as last_step,
    arg_min(correct / nullif(judged, 0), step) as first_pass_rate, -- of the first step at which one could be judged
    arg_max(correct / nullif(judged, 0), step) as last_pass_rate,
    sum(tokens) / sum(n) as response_tokens
from asked
group by row_id, source
order by source, row_id
"""


def write_difficulty(folder: Path, step: int) -> Path | None:
    """Make `folder`/difficulty.parquet from the answers of the steps up to `step`; None where there are none.

    One line per question (row_id, source) that was asked:
      n_asked, n_judged, n_correct                 answers; those that could be judged; those of them that were right
      pass_rate, pass_rate_low, pass_rate_high     n_correct / n_judged with its 95 % Wilson interval; null without any
      first_step, last_step                        when it was asked
      first_pass_rate, last_pass_rate              then: what the training did
      response_tokens                              mean length of its answers
    """
    import duckdb

    files = [str(place) for place in sorted((folder / "rollouts").glob("step-*.parquet")) if _step(place) <= step]
    if not files:
        return None
    with duckdb.connect() as connection:
        table = connection.sql(QUESTIONS, params=[files]).to_arrow_table()
    judged, correct = (table[name].to_numpy() for name in ("n_judged", "n_correct"))
    low, high = wilson(correct, judged)
    rates = {"pass_rate": correct / np.maximum(judged, 1), "pass_rate_low": low, "pass_rate_high": high}
    for at, (name, values) in enumerate(rates.items()):
        table = table.add_column(5 + at, name, pa.array(values, pa.float64(), mask=judged == 0))
    place = folder / "difficulty.parquet"
    beside = place.with_suffix(".part")
    pq.write_table(table, beside, compression="zstd")
    beside.rename(place)
    store.fsync_folder(folder)
    return place


def _step(place: Path) -> int:
    return int(place.stem.removeprefix("step-"))
