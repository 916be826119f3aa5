"""rl: one prompt per row with its gold answer, in the columns that verl's RL dataset reads.

    data_source, prompt [{role, content}], images, ability, reward_model {ground_truth, style}, extra_info, pass_rate

`content` is one string in which `<image>` marks where the pictures stand: verl splits it there and takes the pictures
from `images` in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from curation import prompts
from curation.exports.base import Examples, Export, OutputConfig, register
from curation.exports.common import (
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
from schemas.rows import ID_DIGITS

INDEX_DIGITS = 15
"""Hex digits of row_id that make extra_info.index: 60 bits, so that it fits a signed 64-bit integer."""


class RlConfig(OutputConfig):
    """Prompts with gold answers for RL, in the layout of verl: one example per row that has an answer."""

    export: Literal["rl"] = "rl"
    prompt: str = Field(
        prompts.PROMPT,
        description="Template of the user's turn: {question}, {stem}, {choices}, {source}, {language}. After a fanout, "
        "by default what the teacher was asked with.",
    )
    system: str | None = Field(None, description="Text of a system turn; after a fanout, by default the teacher's.")
    style: str = Field("rule", description="reward_model.style: how the trainer should score.")
    ability: str = Field("reasoning", description="The text of the column `ability`.")
    images: Literal["auto", "yes", "no"] = Field(
        "auto", description="Whether there is a column of images; auto: where any row of the dataset has one."
    )
    keep: list[str] = Field(default_factory=list, description="Further columns of rows to write beside.")

    @field_validator("prompt")
    @classmethod
    def _fields(cls, text: str) -> str | None:
        return template_problem(text, prompts.PROMPT_FIELDS)

    @field_validator("system")
    @classmethod
    def _no_marks(cls, text: str | None) -> str | None:
        return no_marks(text)


def settle(config: RlConfig, has_pictures: bool) -> RlConfig:
    return config.model_copy(update={"images": "yes" if has_pictures else "no"}) if config.images == "auto" else config


def build(config: RlConfig, rows: pa.Table, traces: pa.Table | None, verdicts: pa.Table | None) -> Examples:
    config = settle(config, has_images(rows))
    reasons: dict[str, tuple[str, str]] = {}
    rows = sorted_rows(rows)
    missing = prompts.blank(prompts.column(rows, "answer"))
    if missing.any():
        why = "The row has no gold answer, and a reward needs one."
        refuse(reasons, rows.filter(pa.array(missing))["row_id"], "no_gold", why)
        rows = rows.filter(pa.array(~missing))
    rows, texts = rendered(rows, config.prompt, reasons)
    beside = _beside(config, rows.schema)
    pictures = ["images"] if config.images == "yes" else []
    names = [
        "row_id",
        "k",
        "split",
        "data_source",
        "prompt",
        *pictures,
        "ability",
        "reward_model",
        "extra_info",
        *beside,
    ]

    def make(block: pa.Table, start: int, length: int) -> list[pa.Array]:
        turns = [("user", texts.slice(start, length))]
        if config.system is not None:
            turns.insert(0, ("system", pa.repeat(pa.scalar(config.system), length)))
        answer = prompts.column(block, "answer")
        constant = {name: pa.repeat(pa.scalar(getattr(config, name)), length) for name in ("style", "ability")}
        columns = [
            block["row_id"],
            pa.nulls(length, pa.int32()),
            block["split"],
            block["source"],
            prompts.conversations(turns),
        ]
        if config.images == "yes":
            columns.append(image_lists(block))
        columns += [
            constant["ability"],
            pa.StructArray.from_arrays([answer, constant["style"]], ["ground_truth", "style"]),
            _extra_info(block, answer),
        ]
        return [*columns, *(block[name] for name in beside)]

    return Examples(by_split(in_blocks(rows, make, names)), reasons)


def _beside(config: RlConfig, schema: pa.Schema) -> list[str]:
    own = {"row_id", "k", "split", "data_source", "prompt", "images", "ability", "reward_model", "extra_info"}
    usual = [name for name in ("license", "language", "pass_rate") if name in schema.names]
    return [*usual, *(name for name in config.keep if name not in own and name not in usual)]


def _extra_info(rows: pa.Table, answer: pa.Array) -> pa.Array:
    fields: dict[str, pa.Array] = {
        "index": pa.array(row_index(rows["row_id"])),
        "question": prompts.column(rows, "question"),
        "split": prompts.column(rows, "split"),
        "answer": answer,
        "row_id": prompts.column(rows, "row_id"),
    }
    if "choices" in rows.column_names:
        fields["choices"] = prompts.column(rows, "choices").cast(pa.list_(pa.string()))
    return pa.StructArray.from_arrays(list(fields.values()), list(fields))


def row_index(row_ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int64[rows]: the first 60 bits of each row_id: a number per row that no re-ordering changes."""
    digits = ids_array(row_ids).view(np.uint8).reshape(len(row_ids), ID_DIGITS)[:, :INDEX_DIGITS].astype(np.int64)
    values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
    index = np.zeros(len(row_ids), np.int64)
    for place in range(INDEX_DIGITS):
        index = index << 4 | values[:, place]
    return index


def check(config: RlConfig, schema: pa.Schema) -> list[Problem]:
    return column_problems("keep", config.keep, schema)


def features(config: RlConfig, schema: pa.Schema) -> Mapping[str, Any]:
    return features_of(schema, images=images(config), leave_out=("k",))


def images(config: RlConfig) -> Sequence[str]:
    return ("images",) if config.images != "no" else ()


def reads(config: RlConfig) -> Sequence[str]:
    return ("question", "choices", "images", "answer", "source", *config.keep)


register(
    Export(
        "rl",
        RlConfig,
        revision=1,
        build=build,
        reads=reads,
        needs=lambda config: "rows",
        features=features,
        images=images,
        check=check,
        settle=settle,
        of_traces=lambda config: True,
    )
)
