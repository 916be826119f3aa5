"""diversity: the answers of a row that differ most, and the questions that together cover all.

**Answers.** Of a row's correct traces those are taken whose *steps* differ most: the sequence of numbers, operators and
LaTeX commands, so that the same computation told in other words is no other path. Sketches are MinHash over pairs of
steps (triples of words, where asked for); the two most different come first, then again and again the one farthest from
those that are taken. The choice is written to the column `chosen_k`, which exports follow.

**Questions.** Those rows are kept that cover the others best (`curation.kernels.coverage`), within each source or
other stratum. Vectors are 1-bit MinHash signatures (Li and König, "b-Bit minwise hashing", WWW 2010), whose dot products
estimate the Jaccard similarity of the texts' character 5-grams, beside the difference hashes of the pictures; or a
column of numbers that the recipe brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation import draws
from curation.ids import ids_array, pair_keys
from curation.kernels import coverage, minhash
from curation.mixture import largest_remainder
from curation.stages.base import Context, Needs, Outcome, Rows, StageConfig, fates, global_stage
from schemas.errors import Problem, WinnowError
from schemas.rows import CHOSEN_K, FATE

STEP = r"\\[A-Za-z]+|\d+(?:[.,]\d+)*|[-+*/=^<>≤≥×÷·]"
FEW_STEPS = 6
"""An answer with fewer steps is compared by its words."""
SLOTS = 64
BITS = 256
SAMPLE = 2000
"""Rows over which coverage is estimated for the notes."""


class Answers(BaseModel):
    """Which answers of a row are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    take: int = Field(ge=1, description="Answers per row at most.")
    of: Literal["correct", "finished"] = Field("correct", description="Which answers compete.")
    by: Literal["steps", "words"] = Field(
        "steps", description="Answers differ by their numbers, operators and commands, or by their words."
    )


class Questions(BaseModel):
    """Which questions are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    take: int | float = Field(gt=0, description="How many rows stay, or what share of them (below 1).")
    by: str | None = Field(
        "source", description="Column whose values each keep their share of the rows; null looks at all together."
    )
    method: Literal["facility_location", "k_center"] = Field(
        "facility_location",
        description="facility_location: every row has a similar one among those kept; k_center: none is far from all.",
    )
    embedding: str = Field(
        "text", description="'text' (with pictures where there are any), or a column of lists of numbers, equally long."
    )


class Diversity(StageConfig):
    """Takes the most different correct answers of each row (`answers`), the questions that cover all others
    (`questions`), or both. Answers that are not taken are not exported: not_diverse."""

    stage: Literal["diversity"] = "diversity"
    answers: Answers | None = Field(None, description="Take the most different answers of each row.")
    questions: Questions | None = Field(None, description="Keep the questions that cover all others.")

    @model_validator(mode="after")
    def _something(self) -> Diversity:
        if self.answers is None and self.questions is None:
            raise ValueError("say what to choose: answers: {take: 4}, or questions: {take: 10000}")
        return self


def reads(config: Diversity) -> Sequence[str]:
    if config.questions is None:
        return ()
    of = ["question", "images"] if config.questions.embedding == "text" else [config.questions.embedding]
    return [*of, *([config.questions.by] if config.questions.by else [])]


def writes(config: Diversity) -> Mapping[str, pa.DataType]:
    return {CHOSEN_K: pa.list_(pa.int32())} if config.answers else {}


def needs(config: Diversity) -> Needs:
    if config.answers is None:
        return "rows"
    return "verdicts" if config.answers.of == "correct" else "traces"


def check(config: Diversity, schema: pa.Schema) -> Iterable[Problem]:
    column = config.questions.embedding if config.questions else "text"
    found = _vectors(schema)
    if column == "text" or column in found or column not in schema.names:  # what is not there is said by reads
        return []
    message = f"questions.embedding: `{column}` is {schema.field(column).type}, and vectors are lists of numbers"
    hint = f"There is {', '.join(found)}." if found else "Leave it out to use the text."
    return [Problem(message, text=column, hint=hint)]


def _vectors(schema: pa.Schema) -> list[str]:
    """Columns that could hold vectors."""
    return [
        f.name
        for f in schema
        if pa.types.is_list(f.type)
        and (pa.types.is_floating(f.type.value_type) or pa.types.is_integer(f.type.value_type))
    ]


@global_stage(Diversity, revision=1, reads=reads, writes=writes, needs=needs, check=check, libraries=("polars",))
def run(config: Diversity, rows: Rows, context: Context) -> Outcome:
    notes: dict[str, Any] = {}
    columns = gone = None
    if config.questions is not None:
        gone, notes["questions"] = _questions(config.questions, rows, context)
    if config.answers is not None:
        columns, notes["answers"] = _answers(config.answers, rows, context)
    return Outcome(columns=columns, fates=gone, notes=notes)


# -------------------------------------------------------------------------------------------------------------- answers


def _answers(config: Answers, rows: Rows, context: Context) -> tuple[pa.Table, dict[str, Any]]:
    judged = rows.verdicts(["k", "state"]) if config.of == "correct" else None
    tables, counts = [], {"answers": 0, "taken": 0, "rows_with_more": 0}
    for batch, traces in zip(rows.batches(["row_id"]), rows.traces(["k", "finish", "text"]), strict=True):
        if judged is not None:
            verdicts = next(iter(judged))
            right = verdicts.filter(pc.equal(verdicts["state"], "correct"))
            traces = traces.filter(pa.array(np.isin(pair_keys(traces), pair_keys(right))))
        else:
            traces = traces.filter(pc.equal(traces["finish"], "finished"))
        own = ids_array(batch["row_id"])
        order = np.argsort(own, kind="stable")
        at = np.searchsorted(own, ids_array(traces["row_id"]), sorter=order)
        starts = np.searchsorted(at, np.arange(len(own) + 1))
        picked = coverage.most_different(_sketches(config, traces["text"], context), starts, config.take)
        before = np.concatenate([[0], np.cumsum(picked)])
        chosen = pa.ListArray.from_arrays(
            pa.array(before[starts], pa.int32()), traces["k"].combine_chunks().filter(pa.array(picked)).cast(pa.int32())
        )
        counts["answers"] += len(traces)
        counts["taken"] += int(picked.sum())
        counts["rows_with_more"] += int((np.diff(starts) > config.take).sum())
        tables.append(pa.table({"row_id": batch["row_id"].combine_chunks().take(pa.array(order)), CHOSEN_K: chosen}))
        context.progress(len(batch))
    return pa.concat_tables(tables), counts


def _sketches(config: Answers, texts: pa.ChunkedArray, context: Context) -> np.ndarray:
    """MinHash sketches of answers, uint32 (n, SLOTS)."""
    if config.by == "words":
        return minhash.signatures(texts, unit="word", ngram=3, num_perm=SLOTS, threads=context.workers)
    steps = pl.Series(pl.from_arrow(texts)).str.extract_all(STEP)
    plain = pc.fill_null(pa.array(steps.list.len().to_numpy() < FEW_STEPS), True)
    joined = steps.list.join(" ").to_arrow().cast(pa.large_string())
    shown = pc.if_else(plain, texts.cast(pa.large_string()).combine_chunks(), joined)
    return minhash.signatures(shown, unit="word", ngram=2, num_perm=SLOTS, threads=context.workers)


# ------------------------------------------------------------------------------------------------------------ questions


def _questions(config: Questions, rows: Rows, context: Context) -> tuple[pa.Table, dict[str, Any]]:
    vectors = _embedded(config, rows, context)
    ids = rows.table(["row_id"])["row_id"].combine_chunks()
    rank = np.empty(len(ids), np.int64)
    rank[draws.order(ids, draws.draws(ids, context.seed, context.name))] = np.arange(len(ids))
    by = (
        rows.table([config.by])[config.by].cast(pa.string())
        if config.by
        else pa.chunked_array([pa.repeat("", len(ids))])
    )
    encoded = pc.fill_null(by, "").combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    sizes = np.bincount(encoded.indices.to_numpy(), minlength=len(names)).tolist()
    total = min(
        config.take
        if isinstance(config.take, int) and config.take >= 1
        else int(Fraction(str(config.take)) * len(ids)),
        len(ids),
    )
    # In the order of names, so that equal remainders fall the same way whatever the order of rows.
    in_order = sorted(range(len(names)), key=lambda i: names[i])
    quota = dict(zip(in_order, largest_remainder([Fraction(sizes[i]) for i in in_order], total), strict=True))
    stays = np.zeros(len(ids), bool)
    tables, notes = [FATE.empty_table()], {}
    for i in in_order:
        here = np.flatnonzero(encoded.indices.to_numpy() == i)
        own, own_rank = vectors[here], rank[here]
        chosen = coverage.select(own, quota[i], rank=own_rank, method=config.method, threads=context.workers)
        stays[here[chosen]] = True
        left = np.setdiff1d(np.arange(len(here)), chosen)
        of = f" of {config.by} {names[i]}" if config.by else ""
        sentence = f"The {quota[i]:,} questions that are taken{of} cover it: {config.method.replace('_', ' ')} did not choose it."
        evidence = {"by": config.by, "value": names[i], "taken": quota[i], "rows": sizes[i], "method": config.method}
        tables.append(fates(ids.take(pa.array(here[left])), reason="not_diverse", sentence=sentence, evidence=evidence))
        notes[names[i] or "all"] = {"rows": sizes[i], "taken": quota[i], **_coverage(own, own_rank, chosen, context)}
    return pa.concat_tables(tables), notes


def _coverage(vectors: np.ndarray, rank: np.ndarray, chosen: np.ndarray, context: Context) -> dict[str, float]:
    """The mean similarity of rows to the nearest one that is taken, over a drawn sample; and by chance."""
    if not len(chosen):
        return {}
    drawn = np.argsort(rank, kind="stable")
    # The sample is drawn from the other end than the rows that chance would take.
    sample = drawn[::-1][:SAMPLE]
    found = {"coverage": chosen, "coverage_by_chance": drawn[: len(chosen)]}
    return {
        name: round(coverage.covered(vectors, rows, of=sample, threads=context.workers), 6)
        for name, rows in found.items()
    }


def _embedded(config: Questions, rows: Rows, context: Context) -> np.ndarray:
    """int16 (rows, dimensions), see coverage.quantise."""
    if config.embedding != "text":
        column = rows.table([config.embedding])[config.embedding].combine_chunks()
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise WinnowError(
                f"Stage {context.name}: the vectors in {config.embedding!r} must all be there and equally long; "
                f"there are the lengths {sorted(str(x) for x in lengths)[:5]}."
            )
        try:
            return coverage.quantise(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), lengths[0]))
        except ValueError as error:
            raise WinnowError(f"Stage {context.name}: {config.embedding!r}: {error}") from error
    blocks = []
    for batch in rows.batches(["question"]):
        sketches = minhash.signatures(batch["question"], num_perm=BITS, threads=context.workers)
        blocks.append((sketches & 1).astype(np.int8) * 2 - 1)
        context.progress(len(batch))
    text = np.concatenate(blocks)
    pictures = _pictures(rows, context)
    return coverage.quantise(text if pictures is None else np.hstack([text, pictures]))


def _pictures(rows: Rows, context: Context) -> np.ndarray | None:
    """The sum over each row's pictures of their difference hashes as +1 and -1, int8 (rows, BITS), scaled to at most
    one; None where no row has a picture."""
    from curation.images import ImageStore

    lists = rows.table(["images"])["images"].combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    names = pc.list_flatten(lists).dictionary_encode()
    if not len(names):
        return None
    known = ImageStore(context.workspace).index().select(["hash", "dhash"])
    at = pc.index_in(names.dictionary, value_set=known["hash"].combine_chunks())
    hashes = known["dhash"].combine_chunks().take(at)
    bits = np.zeros((len(hashes), BITS), np.int8)
    for i, text in enumerate(hashes.to_pylist()):
        if text is not None:
            bits[i] = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).astype(np.int8) * 2 - 1
    out = np.zeros((len(lists), BITS), np.int32)
    np.add.at(out, np.repeat(np.arange(len(lists)), sizes), bits[names.indices.to_numpy()])
    return np.sign(out).astype(np.int8)
