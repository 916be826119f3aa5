"""sft: one conversation per chosen trace, or per row from its own solution.

The layout `messages` is the Hub's conversational form. A text-only dataset has contents of plain text and no images
column; as soon as any row has a picture, contents are lists of parts and pictures stand in `images`, so that TRL reads
either without code. The layout `openai` is the one in which OpenMMReasoner published: contents are parts, and pictures
are files that the parts name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation import prompts, sqlguard
from curation.exports.base import Examples, Export, OutputConfig, register
from curation.exports.choose import chosen_traces, is_word
from curation.exports.common import (
    KEEP,
    by_split,
    column_problems,
    has_images,
    image_lists,
    in_blocks,
    no_marks,
    refuse,
    rendered,
    sorted_rows,
    template_problem,
)
from curation.exports.features import features_of
from curation.ids import ids_array
from schemas.errors import Problem
from schemas.rows import CHOSEN_K, TRACE
from schemas.verdicts import VERDICT_SCHEMA

URL = "messages.content.image_url.url"


class SftConfig(OutputConfig):
    """Conversations for supervised fine-tuning: one example per chosen trace."""

    export: Literal["sft"] = "sft"
    responses: Literal["traces", "solution"] = Field(
        "traces", description="What the assistant says: traces of a teacher, or the row's own solution."
    )
    traces: str = Field(
        "correct",
        description="Which traces: correct, finished, all (whatever has text), or a SQL condition over the columns of "
        "traces and verdicts: state = 'correct' and output_tokens < 4000.",
    )
    max_per_row: int | None = Field(None, ge=1, description="At most so many traces of one row, the first by k.")
    prompt: str = Field(
        prompts.PROMPT,
        description="Template of the user's turn: {question}, {stem}, {choices}, {source}, {language}. With traces, by "
        "default what the teacher was asked with.",
    )
    response: str = Field(
        prompts.RESPONSE, description="Template of the assistant's turn: {response}, {answer}, {extracted}."
    )
    system: str | None = Field(None, description="Text of a system turn; with traces, by default the teacher's.")
    content: Literal["auto", "string", "parts"] = Field(
        "auto",
        description="Contents as text or as lists of parts; auto: parts where any row of the dataset has an image.",
    )
    layout: Literal["messages", "openai"] = Field(
        "messages",
        description="messages: the Hub's and TRL's form; openai: id and parts with image_url, pictures as files.",
    )
    keep: list[str] = Field(
        default_factory=lambda: list(KEEP), description="Columns of rows and traces that stand beside."
    )

    @field_validator("prompt")
    @classmethod
    def _prompt_fields(cls, text: str) -> str | None:
        return template_problem(text, prompts.PROMPT_FIELDS)

    @field_validator("response")
    @classmethod
    def _response_fields(cls, text: str) -> str | None:
        return template_problem(text, prompts.RESPONSE_FIELDS)

    @field_validator("system")
    @classmethod
    def _no_marks(cls, text: str | None) -> str | None:
        return no_marks(text)

    @field_validator("traces")
    @classmethod
    def _repeatable(cls, text: str) -> str:
        if not is_word(text):
            sqlguard.predicate(text)
        return text


def settle(config: SftConfig, has_pictures: bool) -> SftConfig:
    """`auto` decided: `parts` goes with an images column, `string` with none."""
    return (
        config.model_copy(update={"content": "parts" if has_pictures else "string"})
        if config.content == "auto"
        else config
    )


def build(config: SftConfig, rows: pa.Table, traces: pa.Table | None, verdicts: pa.Table | None) -> Examples:
    config = settle(config, has_images(rows))
    reasons: dict[str, tuple[str, str]] = {}
    rows, texts = rendered(sorted_rows(rows), config.prompt, reasons)
    if config.content == "string" and config.layout == "messages" and has_images(rows):
        raise ValueError("content: string has no place for pictures; leave it out, or write content: parts")
    if config.responses == "solution":
        said, trace_reasons = _solutions(rows, reasons), None
    else:
        said, trace_reasons = _responses(config, rows, traces, verdicts, reasons)
    openai, parts = config.layout == "openai", config.content == "parts"
    shape = ["id", "messages"] if openai else ["messages", "images"] if parts else ["messages"]
    there = {*rows.column_names, *said.column_names} - {"row_id", "k", "split", *shape}
    names = [name for name in dict.fromkeys(config.keep) if name in there]
    wanted = {"row_id", "split", "answer", "images", *(set(names) - set(said.column_names))}
    beside = rows.select([name for name in rows.column_names if name in wanted])

    def make(block: pa.Table, start: int, length: int) -> list[pa.Array]:
        at = prompts.column(block, "at").to_numpy()
        here, asked = _at(beside, at), _at(texts, at)
        fields = {"response": prompts.column(block, "response"), "extracted": prompts.column(block, "extracted")}
        if "{answer}" in config.response:
            fields["answer"] = prompts.column(here, "answer")
        template = prompts.parse_template(config.response, tuple(prompts.RESPONSE_FIELDS))
        turns = [("user", asked), ("assistant", prompts.fill(template, fields, length))]
        if config.system is not None:
            turns.insert(0, ("system", pa.repeat(pa.scalar(config.system), length)))
        row_id, k = prompts.column(here, "row_id"), prompts.column(block, "k")
        columns = [row_id, k, here["split"]]
        if openai:
            messages = prompts.conversations(turns, content="openai")
            columns += [_example_ids(row_id, k), prompts.with_urls(messages, image_lists(here).flatten())]
        else:
            columns.append(prompts.conversations(turns, content="parts" if parts else "string"))
            columns += [image_lists(here)] if parts else []
        return [*columns, *(block[n] if n in block.column_names else here[n] for n in names)]

    return Examples(by_split(in_blocks(said, make, ["row_id", "k", "split", *shape, *names])), reasons, trace_reasons)


def _at(values: pa.Table | pa.Array, at: np.ndarray) -> Any:
    """The values at these positions; a slice where they follow one another, which copies nothing."""
    if len(at) and at[-1] - at[0] == len(at) - 1 and bool(np.all(np.diff(at) == 1)):
        return values.slice(int(at[0]), len(at))
    return values.take(pa.array(at))


def _example_ids(row_id: pa.Array, k: pa.Array) -> pa.Array:
    """`<row_id>-<k>`, or the row_id where there is no k."""
    return pc.if_else(
        pc.is_null(k), row_id, pc.binary_join_element_wise(row_id, k.cast(pa.string()), "-", null_handling="replace")
    )


def _solutions(rows: pa.Table, reasons: dict[str, tuple[str, str]]) -> pa.Table:
    solution = prompts.column(rows, "solution")
    blank = prompts.blank(solution)
    refuse(
        reasons, rows.filter(pa.array(blank))["row_id"], "no_solution", "The row has no worked solution to learn from."
    )
    at = np.flatnonzero(~blank)
    return pa.table(
        {
            "at": pa.array(at),
            "k": pa.nulls(len(at), pa.int32()),
            "response": solution if len(at) == len(rows) else solution.take(pa.array(at)),
            "extracted": pa.nulls(len(at), pa.string()),
        }
    )


def _responses(
    config: SftConfig,
    rows: pa.Table,
    traces: pa.Table | None,
    verdicts: pa.Table | None,
    reasons: dict[str, tuple[str, str]],
) -> tuple[pa.Table, pa.Table]:
    """The chosen traces with `at`, the position of their row; and why the others are not chosen."""
    own = ids_array(rows["row_id"])
    picked = rows[CHOSEN_K] if CHOSEN_K in rows.column_names else None
    chosen, others, held = chosen_traces(config.traces, config.max_per_row, own, traces, verdicts, picked)
    without = np.ones(len(rows), bool)
    without[chosen["at"].to_numpy()] = False
    if without.any():
        untaught = rows.filter(pa.array(without & ~held))["row_id"]
        refuse(reasons, untaught, "no_trace", "No teacher answered the row.")
        what = {"correct": "correct", "finished": "finished", "all": "usable"}.get(config.traces, "chosen")
        refuse(
            reasons,
            rows.filter(pa.array(without & held))["row_id"],
            "no_chosen_trace",
            f"None of the row's traces is {what}.",
        )
    return chosen, others


def check(config: SftConfig, schema: pa.Schema) -> list[Problem]:
    known = {*KEEP, *TRACE.names, *VERDICT_SCHEMA.names}
    problems = column_problems("keep", config.keep, schema, known)
    if not is_word(config.traces):
        tables = {"rows": pa.schema([*TRACE, *VERDICT_SCHEMA])}
        sql = f"select (\n{config.traces}\n)::boolean from rows"
        problems += sqlguard.problems(
            config.traces, sql, tables, where="traces", columns=sqlguard.predicate(config.traces).columns
        )
    return problems


def needs(config: SftConfig) -> str:
    if config.responses == "solution":
        return "rows"
    judged = set(VERDICT_SCHEMA.names)
    if config.traces == "correct" or "{extracted}" in config.response or judged & set(config.keep):
        return "verdicts"
    named = () if is_word(config.traces) else sqlguard.predicate(config.traces).columns
    return "verdicts" if judged & set(named) else "traces"


def features(config: SftConfig, schema: pa.Schema) -> Mapping[str, Any]:
    leave_out = ("k",) if config.responses == "solution" else ()
    return features_of(schema, images=images(config), leave_out=leave_out)


def images(config: SftConfig) -> Sequence[str]:
    return ("images",) if config.content == "parts" and config.layout == "messages" else ()


def linked(config: SftConfig) -> Sequence[str]:
    return (URL,) if config.layout == "openai" else ()


def reads(config: SftConfig) -> Sequence[str]:
    solution = ["solution"] if config.responses == "solution" else []
    answer = ["answer"] if "{answer}" in config.response else []
    return ("question", "choices", "images", "source", *solution, *answer)


register(
    Export(
        "sft",
        SftConfig,
        revision=1,
        build=build,
        reads=reads,
        needs=needs,
        features=features,
        images=images,
        check=check,
        settle=settle,
        of_traces=lambda config: config.responses == "traces",
        linked=linked,
    )
)
