"""Stages that make questions out of what benchmarks store: for `use: [training.shaping]` in benchmark recipes.

CharXiv's descriptive questions are numbers of templates, and each chart has four of them; GPQA has a right and three
wrong answers in columns of their own, to be put in an order that depends on the question alone.
"""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pyarrow as pa

from curation.draws import draws
from curation.stages.base import Context, Outcome, StageConfig, fates, row_stage

# CharXiv's nineteen descriptive questions by number (arXiv 2406.18521, appendix), in our own words. `{}` is where.
_NOT = "If there is none, answer Not Applicable."
CHARXIV = {
    1: "{}what is the title, as it is written there? A bare letter is no title. " + _NOT,
    2: "{}what is the label of the x-axis, as it is written there? Of two x-axes take the lower. " + _NOT,
    3: "{}what is the label of the y-axis, as it is written there? Of two y-axes take the left. " + _NOT,
    4: "{}what is the leftmost labelled tick of the x-axis, as it is written there?",
    5: "{}what is the rightmost labelled tick of the x-axis, as it is written there?",
    6: "{}what is the spatially lowest labelled tick of the y-axis, as it is written there?",
    7: "{}what is the spatially highest labelled tick of the y-axis, as it is written there?",
    8: "{}what is the difference between consecutive numerical tick values of the x-axis? If they are not numbers or the "
       "difference is not constant, answer Not Applicable.",
    9: "{}what is the difference between consecutive numerical tick values of the y-axis? If they are not numbers or the "
       "difference is not constant, answer Not Applicable.",
    10: "{}how many lines are there? A dashed line counts as one. If the plot has no lines, answer Not Applicable.",
    11: "{}do any lines intersect? Answer Yes or No. If the plot has no lines, answer Not Applicable.",
    12: "{}how many discrete labels are there in the legend? " + _NOT,
    13: "{}what are the names of the labels in the legend, from top to bottom and then left to right, separated by "
        "commas? " + _NOT,
    14: "{}what is the difference between the largest and the smallest tick value of the continuous legend (colour "
        "bar)? " + _NOT,
    15: "{}what is the largest tick value of the continuous legend (colour bar)? " + _NOT,
    16: "{}what is the general trend of the data from left to right, in a few words? If it cannot be told, answer Not "
        "Applicable.",
    17: "{}what is the total number of explicitly labelled ticks on all axes, the legend left out?",
    18: "What is the layout of the subplots, as n by m (rows by columns)? A single plot is 1 by 1.",
    19: "What is the number of subplots? A single plot counts as 1.",
}  # fmt: skip


class CharxivDescriptive(StageConfig):
    """Writes the question that a template's number stands for, with the place of the subplot from meta."""

    stage: Literal["charxiv_descriptive"] = "charxiv_descriptive"


@row_stage(CharxivDescriptive, revision=1, reads=("question", "meta"), writes={"question": pa.string()})
def charxiv_descriptive(config: CharxivDescriptive, rows: pa.Table, context: Context) -> Outcome:
    texts: list[str | None] = []
    unknown = []
    for row_id, question, meta in zip(*(rows[c].to_pylist() for c in ("row_id", "question", "meta")), strict=True):
        marks = question.count("<image>")
        number = question.replace("<image>", "").strip()
        text = CHARXIV.get(int(number)) if number.isdigit() else None
        if text is None:
            unknown.append(row_id)
            texts.append(question)
            continue
        asked = text.format(_where(json.loads(meta or "{}")))
        texts.append("<image>\n" * marks + asked[0].upper() + asked[1:])
    gone = fates(unknown, reason="no_such_template", sentence="The number names none of the 19 questions.")
    return Outcome(columns=pa.table({"question": pa.array(texts, pa.string())}), fates=gone if unknown else None)


def _where(meta: dict[str, object]) -> str:
    if meta.get("subplot_loc"):
        return f"for {meta['subplot_loc']}, "
    if meta.get("subplot_row"):
        return f"for the subplot at row {meta['subplot_row']} and column {meta['subplot_col']}, "
    return "for the current plot, "


class ShuffleChoices(StageConfig):
    """Puts choices into an order that belongs to the row: the same on every machine and in every run."""

    stage: Literal["shuffle_choices"] = "shuffle_choices"


@row_stage(ShuffleChoices, revision=1, reads=("choices",), writes={"choices": pa.list_(pa.string())})
def shuffle_choices(config: ShuffleChoices, rows: pa.Table, context: Context) -> Outcome:
    lists = rows["choices"].to_pylist()
    width = max((len(one or ()) for one in lists), default=0)
    keys = np.array([draws(rows["row_id"], context.seed, context.name, i) for i in range(width)])
    shuffled = [
        one if not one else [one[i] for i in np.argsort(keys[: len(one), row], kind="stable")]
        for row, one in enumerate(lists)
    ]
    return Outcome(columns=pa.table({"choices": pa.array(shuffled, pa.list_(pa.string()))}))
