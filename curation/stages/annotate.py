"""annotate: the language and length of every question, made once and early, for whatever comes after.

Builds put this stage in front of the recipe's own, with what the recipe says under `language` and `tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field

from curation.stages.base import Context, Outcome, StageConfig, row_stage

_WRITES = {"language": pa.string(), "n_tokens": pa.int32()}


class Annotate(StageConfig):
    """Writes language (ISO 639-1, or und) and n_tokens (null without a tokenizer) of the question."""

    stage: Literal["annotate"] = "annotate"
    language: Literal["auto", "none"] = Field("auto", description="Whether to fill the language column.")
    tokenizer: str | None = Field(None, description="tokenizer.json, a folder with one, or a repo id in the Hub cache.")


def inputs(config: Annotate, folder: Path, workspace: Path) -> Sequence[Path]:
    """The tokenizer's file: its bytes shape the counts."""
    if config.tokenizer is None:
        return ()
    from curation.text import tokens

    return (tokens.find(config.tokenizer, folder),)


@row_stage(Annotate, revision=1, reads=("question",), writes=_WRITES, inputs=inputs, libraries=("tokenizers",))
def run(config: Annotate, rows: pa.Table, context: Context) -> Outcome:
    question = rows["question"]
    language = n_tokens = None
    if config.language == "auto":
        from curation.text.language import languages

        language = languages(question)
    if config.tokenizer is not None:
        from curation.text import tokens

        n_tokens = tokens.counts(question, tokens.find(config.tokenizer, context.recipe_dir))
    columns = {
        "language": pa.nulls(len(rows), pa.string()) if language is None else language,
        "n_tokens": pa.nulls(len(rows), pa.int32()) if n_tokens is None else n_tokens,
    }
    return Outcome(columns=pa.table(columns, schema=pa.schema(list(_WRITES.items()))))
