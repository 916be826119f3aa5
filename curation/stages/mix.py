"""mix: decides how much of each source the data holds, and which rows.

First caps, then weights and the total. Within a source rows are taken in the order of their draws, smallest first: so a
larger cap or total takes the same rows and more. All numbers are worked out in whole numbers (largest remainders), so
they add up exactly.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from curation import draws, sqlguard
from curation.stages import sql
from curation.stages.base import Context, Outcome, Rows, StageConfig, fates, global_stage, to_json
from schemas.errors import Problem, WinnowError
from schemas.rows import FATE, ROW

OTHERS = "*"
"""In weights and caps: every source that is not named."""


class Mix(StageConfig):
    """Takes rows by weight, cap and total per source; rows that are not taken are dropped with their rank."""

    stage: Literal["mix"] = "mix"
    by: str = Field("source", description="The column whose values are weighed and capped.")
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="How much of the data each source makes up, in proportion; '*' stands for all others.",
    )
    caps: dict[str, int | float] = Field(
        default_factory=dict,
        description="At most so many rows of a source, or so large a share (below 1) of its own rows; '*' for all "
        "others.",
    )
    total: int | None = Field(None, ge=0, description="How many rows the data has at most.")
    repeat: bool = Field(False, description="Whether a source with too few rows for its weight is repeated.")
    where: str | None = Field(None, description="SQL condition: only rows for which it is true are taken.")
    sql: str | None = Field(None, description="A query that returns row_id (and repeat) and so decides alone.")

    @field_validator("where")
    @classmethod
    def _condition(cls, where: str | None) -> str | None:
        if where is not None:
            sqlguard.predicate(where)
        return where

    @field_validator("sql")
    @classmethod
    def _query(cls, query: str | None) -> str | None:
        if query is None:
            return None
        query = query.strip().rstrip(";")
        if sqlguard.query(query).tables - {"rows"}:
            raise ValueError("mix sees rows only; bring what you need from traces into a column with the stage sql")
        return query

    @field_validator("weights", "caps")
    @classmethod
    def _positive(cls, sizes: dict[str, int | float]) -> dict[str, int | float]:
        for name, size in sizes.items():
            if not 0 <= size < float("inf"):
                raise ValueError(f"{name}: {size} must be 0 or more")
        return sizes

    @field_validator("caps")
    @classmethod
    def _caps(cls, caps: dict[str, int | float]) -> dict[str, int | float]:
        for name, cap in caps.items():
            if isinstance(cap, float) and cap > 1:
                raise ValueError(f"{name}: {cap} is neither a share of at most 1 nor a whole number of rows")
        return caps

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if not (self.weights or self.caps or self.sql or self.where or self.total is not None):
            raise ValueError("say what to take: weights, caps, total, where or sql")
        if self.sql and (self.weights or self.caps or self.where or self.repeat or self.total is not None):
            raise ValueError("sql decides alone: leave out weights, caps, total, where and repeat")
        if self.repeat and not self.weights:
            raise ValueError("repeat makes up for weights, and there are none")
        if self.weights and not any(self.weights.values()):
            raise ValueError("at least one weight must be more than 0")
        return self


def reads(config: Mix) -> Sequence[str]:
    if config.sql:
        return sqlguard.query(config.sql).columns(ROW.names)
    return sorted({config.by, *(sqlguard.predicate(config.where).columns if config.where else ())})


def check(config: Mix, schema: pa.Schema) -> Iterable[Problem]:
    """Unknown columns, SQL that does not bind."""
    if config.sql:
        return sql.check(sql.Sql.model_validate({"query": config.sql}), schema)
    found = []
    if config.by not in schema.names:
        found.append(
            Problem(
                f"by: there is no column {config.by!r} at this point of the recipe",
                text=config.by,
                hint=sqlguard.nearest(config.by, schema.names),
            )
        )
    if config.where:
        statement = f"select (\n{config.where}\n)::boolean as kept from rows"
        found += sqlguard.problems(
            config.where, statement, {"rows": schema}, where="where", columns=sqlguard.predicate(config.where).columns
        )
    return found


@global_stage(Mix, revision=1, reads=reads, check=check, libraries=("duckdb",))
def run(config: Mix, rows: Rows, context: Context) -> Outcome:
    if config.sql:
        return _by_query(config.sql, rows, context)
    table = rows.table([config.by]).combine_chunks()
    ids = table["row_id"].combine_chunks()
    wanted, fates_found = _where(config.where, ids, rows, context) if config.where else (np.ones(len(ids), bool), [])
    at = np.flatnonzero(wanted)
    ids = ids.take(pa.array(at))
    values = pc.fill_null(table[config.by].take(pa.array(at)).combine_chunks().cast(pa.string()), "")
    encoded = values.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    _known_names(config, names, context.name)
    plan = _planned(config, names, np.bincount(encoded.indices.to_numpy(), minlength=len(names)).tolist())
    group = encoded.indices.to_numpy().astype(np.int64)
    numbers = draws.draws(ids, context.seed, context.name)
    by_draw = draws.order(ids, numbers)
    rank = _ranks(group, by_draw)
    caps, takes = np.array([p.cap for p in plan], np.int64), np.array([p.take for p in plan], np.int64)
    over = rank > caps[group] if len(plan) else np.zeros(0, bool)
    if config.weights:
        times = (
            _times(rank, np.minimum([p.rows for p in plan], caps)[group], takes[group])
            if len(plan)
            else np.zeros(0, np.int64)
        )
        short = ~over & (times == 0)
        place, limit = rank, takes[group] if len(plan) else rank
    else:
        place = np.empty(len(ids), np.int64)
        inside = by_draw[~over[by_draw]]
        place[inside] = np.arange(1, len(inside) + 1)
        limit = np.full(len(ids), len(ids) if config.total is None else config.total)
        short = ~over & (place > limit) if len(ids) else over
        times = np.where(over | short, 0, 1)
    fates_found += [
        _fates(config, ids, values, rank, caps[group] if len(plan) else rank, over, "over_cap"),
        _fates(config, ids, values, place, limit, short, "not_sampled"),
    ]
    more = times > 1
    repeat = (
        pa.table({"row_id": ids.filter(pa.array(more)), "repeat": pa.array(times[more], pa.int32())})
        if more.any()
        else None
    )
    taken = np.bincount(group, weights=None if not len(times) else times, minlength=len(names)).astype(np.int64)
    notes = {
        "taken": dict(sorted(zip(names, taken.tolist(), strict=True))),
        "available": {p.name: p.rows for p in sorted(plan, key=lambda p: p.name)},
        "absent": sorted({*config.weights, *config.caps} - {*names, OTHERS}),
    }
    return Outcome(fates=pa.concat_tables(fates_found), repeat=repeat, notes=notes)


def _by_query(query: str, rows: Rows, context: Context) -> Outcome:
    """The query decides: what it leaves out is not sampled, `repeat` says how often a row stands in the data."""
    result = sql.answer(query, rows, context)
    ids = rows.table(["row_id"])["row_id"].combine_chunks()
    gone = ids.filter(pc.invert(pc.is_in(ids, value_set=result["row_id"])))
    sentence = f"Not sampled: the query of stage {context.name} does not return this row."
    dropped = fates(gone, reason="not_sampled", sentence=sentence, evidence={"query": query})
    return Outcome(
        fates=dropped, repeat=sql.repeats(result, context), notes={"returned": len(result), "dropped": len(gone)}
    )


def _where(where: str, ids: pa.Array, rows: Rows, context: Context) -> tuple[np.ndarray, list[pa.Table]]:
    """Which rows the condition is true for, and the fates of the others."""
    kept = sql.answer(f"select row_id from rows where (\n{where}\n)", rows, context)["row_id"]
    mask = np.asarray(pc.is_in(ids, value_set=kept))
    sentence = f"Not sampled: the condition {' '.join(where.split())} is not true for this row."
    return mask, [
        fates(ids.filter(pa.array(~mask)), reason="not_sampled", sentence=sentence, evidence={"where": where})
    ]


def _known_names(config: Mix, names: Sequence[str], stage: str) -> None:
    """A source without a weight, and a name that is most likely a slip of the pen, are errors: silence would change
    the mix."""
    for option, sizes in (("weights", config.weights), ("caps", config.caps)):
        unnamed = sorted(set(names) - set(sizes))
        for name in sorted(set(sizes) - {*names, OTHERS}):
            close = difflib.get_close_matches(name, unnamed, n=1, cutoff=0.75)
            if close:
                raise WinnowError(
                    f"Stage {stage}: {option} names {name!r}, which no row has in {config.by!r}. Did you mean "
                    f"{close[0]!r}?"
                )
        if option == "weights" and sizes and unnamed and OTHERS not in sizes:
            raise WinnowError(
                f"Stage {stage}: weights do not name {', '.join(map(repr, unnamed))}, which rows have in "
                f"{config.by!r}. Give a weight (0 takes none), "
                f"or one for all others: '{OTHERS}': 1."
            )


@dataclass(frozen=True)
class Share:
    """What is to be taken of one source."""

    name: str
    rows: int
    cap: int
    """Most of its rows that may be taken."""
    take: int
    """How many rows the data has of it, repetitions counted."""


def _planned(config: Mix, names: Sequence[str], counts: Sequence[int]) -> list[Share]:
    """How much is taken of each source: caps first, then weights within what is left."""
    caps = [_cap(config.caps.get(name, config.caps.get(OTHERS)), n) for name, n in zip(names, counts, strict=True)]
    takes = list(caps)
    if config.weights:
        # In the order of names, so that equal remainders fall the same way whatever the order of rows.
        order = sorted(range(len(names)), key=lambda i: names[i])
        weights = [_fraction(config.weights.get(names[i], config.weights.get(OTHERS, 0))) for i in order]
        quotas = allot(weights, [caps[i] for i in order], config.total, repeat=config.repeat)
        for i, quota in zip(order, quotas, strict=True):
            takes[i] = quota
    return [Share(name, n, cap, take) for name, n, cap, take in zip(names, counts, caps, takes, strict=True)]


def _fraction(size: int | float) -> Fraction:
    return Fraction(str(size))


def _cap(cap: int | float | None, rows: int) -> int:
    if cap is None:
        return rows
    return min(rows, cap if isinstance(cap, int) else int(_fraction(cap) * rows))


def allot(weights: Sequence[Fraction], available: Sequence[int], total: int | None, *, repeat: bool) -> list[int]:
    """How many rows of each source, in proportion to weights.

    Without repetition no source gives more than it has: what one cannot give, the others share by weight, so that the
    total holds as long as there are rows; without a total it is the most rows for which the weights hold exactly (but
    for rounding). With repetition the weights always hold; without a total it is the number of rows that there are.
    """
    live = [i for i, w in enumerate(weights) if w > 0 and available[i] > 0]
    quotas = [0] * len(weights)
    if not live:
        return quotas
    if total is None:
        whole = sum((weights[i] for i in live), Fraction(0))
        total = sum(available[i] for i in live) if repeat else min(int(available[i] * whole / weights[i]) for i in live)
    while live and total > 0:
        shares = largest_remainder([weights[i] for i in live], total)
        full = [] if repeat else [i for i, share in zip(live, shares, strict=True) if share >= available[i]]
        if not full:
            for i, share in zip(live, shares, strict=True):
                quotas[i] = share
            break
        for i in full:
            quotas[i] = available[i]
            total -= available[i]
        live = [i for i in live if i not in full]
    return quotas


def largest_remainder(weights: Sequence[Fraction], total: int) -> list[int]:
    """`total` cut in proportion to weights into whole numbers that add up to it (Hamilton's method); of equal
    remainders the first wins."""
    whole = sum(weights, Fraction(0))
    exact = [total * w / whole for w in weights]
    parts = [int(e) for e in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def _ranks(group: np.ndarray, by_draw: np.ndarray) -> np.ndarray:
    """The place of each row among its group's rows in the order of draws, from 1. int64 (n,)."""
    ordered = by_draw[np.argsort(group[by_draw], kind="stable")]
    sorted_group = group[ordered]
    starts = np.flatnonzero(np.r_[True, sorted_group[1:] != sorted_group[:-1]]) if len(group) else np.empty(0, np.int64)
    rank = np.empty(len(group), np.int64)
    rank[ordered] = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)])) + 1
    return rank


def _times(rank: np.ndarray, available: np.ndarray, take: np.ndarray) -> np.ndarray:
    """How often each row stands in the data, so that the group's rows give `take` in all: evenly, the first ranks once
    more."""
    room = np.maximum(available, 1)
    times = take // room + (rank <= take % room)
    return np.where(rank <= available, times, 0)


_WHY = {
    "over_cap": "Over the cap: of {by} {value} at most {n:,} rows are kept, in the order of their draws.",
    "not_sampled": "Not sampled: {n:,} rows {of}are taken, in the order of their draws, and this one comes later.",
}


def _fates(
    config: Mix, ids: pa.Array, values: pa.Array, rank: np.ndarray, limit: np.ndarray, mask: np.ndarray, reason: str
) -> pa.Table:
    """Fates of the rows under `mask`, one sentence per group; text is joined by Arrow, since they may be millions."""
    ids, values = ids.filter(pa.array(mask)), values.filter(pa.array(mask))
    if not len(ids):
        return FATE.empty_table()
    encoded = values.dictionary_encode()
    first = np.unique(encoded.indices.to_numpy(), return_index=True)[1]
    sentences, heads, tails = [], [], []
    for value, n in zip(encoded.dictionary.to_pylist(), limit[mask][first].tolist(), strict=True):
        of = f"of {config.by} {value} " if config.weights else ""
        sentences.append(_WHY[reason].format(n=n, by=config.by, value=value, of=of))
        heads.append(f'{{"by":{to_json(config.by)},"limit":{n},"rank":')
        tails.append(f',"value":{to_json(value)}}}')
    sentence, head, tail = (pa.array(texts).take(encoded.indices) for texts in (sentences, heads, tails))
    evidence = pc.binary_join_element_wise(head, pa.array(rank[mask]).cast(pa.string()), tail, "")
    return pa.table(
        {
            "row_id": ids,
            "fate": pa.repeat(pa.scalar("dropped"), len(ids)),
            "reason": pa.repeat(pa.scalar(reason), len(ids)),
            "sentence": sentence,
            "evidence": evidence,
            "into": pa.nulls(len(ids), pa.string()),
        },
        schema=FATE,
    )
