"""normalize: writes questions, answers and choices cleanly, and keeps what upstream wrote beside them.

What it does never changes what is asked or what is right. In curation/text, clean.py is for Unicode and blanks,
boilerplate.py for instructions to a model that are no part of the question, answers.py for the gold answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
import pyarrow as pa
from pydantic import Field, field_validator

from curation import sqlguard
from curation.stages.base import Context, Outcome, StageConfig, row_stage
from curation.text import boilerplate as instructions
from curation.text.answers import FORMS, Form, plain
from curation.text.clean import STEPS, Step, clean

_WRITES = {
    "question": pa.string(),
    "question_raw": pa.string(),
    "answer": pa.string(),
    "answer_raw": pa.string(),
    "choices": pa.list_(pa.string()),
}


class Normalize(StageConfig):
    """Cleans question, answer and choices. question_raw and answer_raw keep the text as it was, where it changed."""

    stage: Literal["normalize"] = "normalize"
    text: list[Step] = Field(list(STEPS), description="Cleaning of all texts: unicode, controls, newlines, blanks.")
    boilerplate: bool = Field(True, description="Whether to take instructions to a model out of questions.")
    keep: list[str] = Field(default_factory=list, description="Names of instructions that stay in.")
    remove: list[str] = Field(
        default_factory=list,
        description="Further sentences to take out: regular expressions (Rust syntax, letter case ignored).",
    )
    answers: list[Form] = Field(
        list(FORMS), description="Answer forms: fullwidth, list, math, boxed, letter, trailing, thousands, fractions."
    )

    @field_validator("keep")
    @classmethod
    def _known(cls, keep: list[str]) -> list[str]:
        for name in keep:
            if name not in instructions.NAMES:
                raise ValueError(f"there is no instruction {name!r}. {sqlguard.nearest(name, instructions.NAMES)}")
        return keep

    @field_validator("remove")
    @classmethod
    def _compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                empty = pl.Series([""]).str.contains(instructions.expression([pattern])) & pl.Series([""]).str.contains(
                    f"^(?:{pattern})$"
                )
            except pl.exceptions.ComputeError as error:
                raise ValueError(
                    f"{pattern!r} is no regular expression: {str(error).splitlines()[-1].strip()}"
                ) from error
            if empty.all():
                raise ValueError(f"{pattern!r} matches the empty text, so it would say nothing about what to take out")
        return patterns


@row_stage(Normalize, revision=2, reads=tuple(_WRITES), writes=_WRITES, libraries=("polars",))
def run(config: Normalize, rows: pa.Table, context: Context) -> Outcome:
    question, answer = _series(rows["question"]), _series(rows["answer"])
    cleaned = clean(question, config.text)
    if config.boilerplate or config.remove:
        skip = config.keep if config.boilerplate else instructions.NAMES
        cleaned = instructions.remove(cleaned, skip=skip, extra=config.remove)
    choices = _choices(rows["choices"], config.text)
    brought = _answers(clean(answer, config.text), choices, config.answers)
    changed = {"questions_changed": cleaned.ne_missing(question), "answers_changed": brought.ne_missing(answer)}
    columns = pa.table(
        {
            "question": _column(cleaned, rows["question"], changed["questions_changed"]),
            "question_raw": _raw(rows["question_raw"], question, changed["questions_changed"]),
            "answer": _column(brought, rows["answer"], changed["answers_changed"]),
            "answer_raw": _raw(rows["answer_raw"], answer, changed["answers_changed"]),
            "choices": choices.to_arrow().cast(_WRITES["choices"]) if choices is not None else rows["choices"],
        },
        schema=pa.schema(list(_WRITES.items())),
    )
    return Outcome(columns=columns, notes={name: int(mask.sum()) for name, mask in changed.items()})


def _series(column: pa.ChunkedArray) -> pl.Series:
    return pl.Series(values=column, dtype=pl.String)


def _column(texts: pl.Series, before: pa.ChunkedArray, changed: pl.Series) -> pa.Array | pa.ChunkedArray:
    return texts.to_arrow().cast(pa.string()) if changed.any() else before


def _raw(existing: pa.ChunkedArray, before: pl.Series, changed: pl.Series) -> pa.Array | pa.ChunkedArray:
    """The raw text that is known already (a source may have rewritten image marks), else the text before the change."""
    if not changed.any():
        return existing
    known = _series(existing)
    return before.zip_with(changed & known.is_null(), known).to_arrow().cast(pa.string())


def _choices(column: pa.ChunkedArray, steps: Sequence[Step]) -> pl.Series | None:
    """The choices with each text cleaned; None where there are none. Their forms stay: there is no raw copy of them."""
    if column.null_count == len(column):
        return None
    lists = pl.Series(values=column, dtype=pl.List(pl.String))
    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    cleaned = clean(flat, steps)
    if not cleaned.ne_missing(flat).any():
        return lists
    array = column.combine_chunks()
    offsets = pa.array([0], pa.int32())
    lengths = pa.array(lists.list.len().fill_null(0).cum_sum().cast(pl.Int32).to_arrow())
    offsets = pa.concat_arrays([offsets, lengths])
    rebuilt = pa.ListArray.from_arrays(offsets, cleaned.to_arrow().cast(pa.string()), mask=array.is_null())
    return pl.Series(values=rebuilt, dtype=pl.List(pl.String))


def _answers(texts: pl.Series, choices: pl.Series | None, forms: Sequence[Form]) -> pl.Series:
    """Answers in their plain form, but for those that quote one of the choices word for word: they stay equal to it."""
    brought = plain(texts, forms)
    if choices is None or not brought.ne_missing(texts).any():
        return brought
    frame = pl.DataFrame({"text": texts, "choices": choices})
    quoted = frame.select(
        pl.col("choices").list.contains(pl.col("text"), nulls_equal=False).fill_null(False)
    ).to_series()
    return brought.zip_with(~quoted, texts)
