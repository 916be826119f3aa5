"""mix: decides how much of each source the data holds, and which rows.

First caps, then floors, then weights and the total or the token budget. Within a source rows are taken in the order of
their draws, smallest first, those that a floor asks for before all others: so a larger cap or total takes the same rows and
more. All numbers are worked out in whole numbers (largest remainders), so they add up exactly. What cannot be had is said in
the stage's notes (`impossible`) and at the end of the build.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from curation import draws, sqlguard
from curation.mixture import OTHERS, Mixture, cap_of, inside, ranks
from curation.stages import sql
from curation.stages.base import Context, Outcome, Rows, StageConfig, fates, global_stage, to_json
from schemas.errors import Problem, WinnowError
from schemas.rows import FATE, ROW

MODALITY = "modality"
"""A column that nobody needs to make: `image` where a row has pictures, else `text`."""


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
    floors: dict[str, dict[str, int]] = Field(
        default_factory=dict,
        description="Column -> value -> at least so many rows, taken before all others: {license: {MIT: 1000}}. "
        "`modality` (image, text) may be named like a column.",
    )
    repeats: dict[str, int] = Field(
        default_factory=dict, description="How often each row of a source stands in the data: {tiny: 3}."
    )
    total: int | None = Field(None, ge=0, description="How many rows the data has at most.")
    tokens: int | None = Field(None, ge=0, description="How many tokens it has at most, by `tokens_from`.")
    tokens_from: str = Field("n_tokens", description="The column with each row's tokens.")
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

    @field_validator("repeats")
    @classmethod
    def _times(cls, repeats: dict[str, int]) -> dict[str, int]:
        for name, times in repeats.items():
            if times < 1:
                raise ValueError(f"{name}: {times} must be 1 or more; a cap of 0 leaves a source out")
        return repeats

    @field_validator("floors")
    @classmethod
    def _floors(cls, floors: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for of in floors.values():
            cls._positive(dict(of))
        return floors

    @field_validator("caps")
    @classmethod
    def _caps(cls, caps: dict[str, int | float]) -> dict[str, int | float]:
        for name, cap in caps.items():
            if isinstance(cap, float) and cap > 1:
                raise ValueError(f"{name}: {cap} is neither a share of at most 1 nor a whole number of rows")
        return caps

    @model_validator(mode="after")
    def _something(self) -> Mix:
        limits = self.total is not None or self.tokens is not None
        if not (self.weights or self.caps or self.sql or self.where or self.repeats or limits):
            raise ValueError("say what to take: weights, caps, total, tokens, repeats, where or sql")
        if self.sql and (
            self.weights or self.caps or self.floors or self.where or self.repeat or self.repeats or limits
        ):
            raise ValueError("sql decides alone: leave out weights, caps, floors, total, tokens, where and repeats")
        if self.floors and not (self.weights or limits):
            raise ValueError("without weights, total or tokens all rows are taken: floors have nothing to say")
        if self.total is not None and self.tokens is not None:
            raise ValueError("say total or tokens, not both")
        if self.repeats and self.weights:
            raise ValueError(
                "weights decide how often rows stand in the data: leave out repeats, or write repeat: true"
            )
        if self.repeat and not self.weights:
            raise ValueError("repeat makes up for weights, and there are none")
        if self.weights and not any(self.weights.values()):
            raise ValueError("at least one weight must be more than 0")
        return self


def reads(config: Mix) -> Sequence[str]:
    if config.sql:
        return sqlguard.query(config.sql).columns(ROW.names)
    named = {config.by, *config.floors, *(sqlguard.predicate(config.where).columns if config.where else ())}
    named |= {config.tokens_from} if config.tokens is not None else set()
    return sorted({"images" if name == MODALITY else name for name in named})


def check(config: Mix, schema: pa.Schema) -> Iterable[Problem]:
    """Unknown columns, SQL that does not bind."""
    if config.sql:
        return sql.check(sql.Sql.model_validate({"query": config.sql}), schema)
    wanted = [("by", config.by), *(("floors", name) for name in config.floors)]
    wanted += [("tokens_from", config.tokens_from)] if config.tokens is not None else []
    found = [
        Problem(
            f"{option}: there is no column {name!r} at this point of the recipe",
            text=name,
            hint=sqlguard.nearest(name, schema.names),
        )
        for option, name in wanted
        if name not in schema.names and name != MODALITY
    ]
    if config.tokens is not None and config.tokens_from in schema.names:
        kind = schema.field(config.tokens_from).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            found.append(
                Problem(f"tokens_from: {config.tokens_from} holds {kind}, not numbers", text=config.tokens_from)
            )
    if config.where:
        statement = f"select (\n{config.where}\n)::boolean as kept from rows"
        found += sqlguard.problems(
            config.where, statement, {"rows": schema}, where="where", columns=sqlguard.predicate(config.where).columns
        )
    return found


@global_stage(Mix, revision=2, reads=reads, check=check, libraries=("duckdb",))
def run(config: Mix, rows: Rows, context: Context) -> Outcome:
    if config.sql:
        return _by_query(config.sql, rows, context)
    table = rows.table([name for name in reads(config) if name != "row_id"])
    ids = table["row_id"].combine_chunks()
    wanted, fates_found = _where(config.where, ids, rows, context) if config.where else (np.ones(len(ids), bool), [])
    table = table.filter(pa.array(wanted)).combine_chunks()
    ids = table["row_id"].combine_chunks()
    values = _values(table, config.by)
    encoded = values.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    group = encoded.indices.to_numpy().astype(np.int64)
    _known_names(config, names, context.name)

    rows_of = np.bincount(group, minlength=len(names))
    caps = np.array([cap_of(config.caps.get(n, config.caps.get(OTHERS)), int(c)) for n, c in zip(names, rows_of, strict=True)], np.int64)  # fmt: skip
    by_draw = draws.order(ids, draws.draws(ids, context.seed, context.name))
    rank = ranks(group, by_draw)
    over = rank > caps[group]
    required, impossible = _required(config, table, by_draw[~over[by_draw]])
    # Rows that a floor asks for come first; of these and of the others, the smaller draw.
    by_draw = np.concatenate([by_draw[required[by_draw]], by_draw[~required[by_draw]]])
    rank = np.where(over, rank, inside(group, by_draw, over))
    tokens = _tokens(table, config) if config.tokens is not None else None

    mixture = Mixture(
        names,
        config.weights,
        config.repeat,
        config.repeats,
        group,
        caps,
        by_draw,
        rank,
        over,
        np.bincount(group[required], minlength=len(names)),
    )
    total = config.total if tokens is None else mixture.fitting(tokens, config.tokens or 0)
    times, place, limit = mixture.times(total)
    impossible += mixture.impossible(config.total, config.by)
    short = ~over & (times == 0)
    fates_found += [
        _fates(config, ids, values, rank, caps[group], over, "over_cap"),
        _fates(config, ids, values, place, limit, short, "not_sampled"),
    ]
    more = times > 1
    repeat = (
        pa.table({"row_id": ids.filter(pa.array(more)), "repeat": pa.array(times[more], pa.int32())})
        if more.any()
        else None
    )
    taken = np.bincount(group, weights=times, minlength=len(names)).astype(np.int64)
    notes = {
        "taken": dict(sorted(zip(names, taken.tolist(), strict=True))),
        "available": dict(sorted(zip(names, rows_of.tolist(), strict=True))),
        "absent": sorted({*config.weights, *config.caps, *config.repeats} - {*names, OTHERS}),
        **({"tokens": int((tokens * times).sum())} if tokens is not None else {}),
        **({"impossible": impossible} if impossible else {}),
    }
    return Outcome(fates=pa.concat_tables(fates_found), repeat=repeat, notes=notes)


def _values(table: pa.Table, name: str) -> pa.Array:
    """A column as text; null is ''."""
    if name == MODALITY and MODALITY not in table.column_names:
        seen = pc.greater(pc.fill_null(pc.list_value_length(table["images"]), 0), 0)
        return pc.if_else(seen, "image", "text").combine_chunks()
    return pc.fill_null(table[name].combine_chunks().cast(pa.string()), "")


def _tokens(table: pa.Table, config: Mix) -> np.ndarray:
    """int64 (n,); fractions are rounded up."""
    column = table[config.tokens_from]
    if column.null_count:
        raise WinnowError(
            f"mix: {column.null_count:,} rows have no {config.tokens_from}, so a budget of tokens cannot be kept.\n"
            "Set `tokenizer` of the recipe, or name another column in `tokens_from`."
        )
    return np.ceil(column.to_numpy()).astype(np.int64)


def _required(config: Mix, table: pa.Table, by_draw: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which rows the floors ask for, and what they ask for in vain. For each value the rows with the smallest draws, where
    those that another floor asked for already count."""
    required, impossible = np.zeros(len(table), bool), []
    for column, floors in config.floors.items():
        values = _values(table, column)
        for value, least in floors.items():
            of = by_draw[np.asarray(pc.equal(values, value))[by_draw]]
            if len(of) < least:
                impossible.append(f"floors: {column} {value} has {len(of):,} rows, {least:,} asked")
            missing = least - int(required[of].sum())
            if missing > 0:
                required[of[~required[of]][:missing]] = True
    return required, impossible


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
