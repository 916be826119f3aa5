"""split: gives every row a side, train or held out, and keeps on one side what belongs together.

Rows that belong together form a group: the same question with the same pictures, the same value of a column, or a
cluster of near duplicates. A group's side follows from a draw keyed by the group itself, so with shares no row ever
changes sides because others were added. Exact numbers cannot have that property: they take the groups with the
smallest draws until the number is reached.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from curation import draws, sqlguard
from curation.digests import text_id
from curation.ids import canonical_texts, hash_texts, ids_array, ids_column
from curation.similarity.groups import components, near_texts, same_key, shared_pictures
from curation.stages.base import Context, Outcome, Rows, StageConfig, global_stage, to_json
from schemas.errors import Problem, WinnowError

NAME = re.compile(r"\w+(\.\w+)*")


class Split(StageConfig):
    """Writes the column `split`: which side each row is on."""

    stage: Literal["split"] = "split"
    splits: dict[str, int | float] = Field(
        description="Held-out parts: shares of the groups below 1 (test: 0.05), or exact numbers of rows (test: 500)."
    )
    rest: str = Field("train", description="The name of the side of all other rows.")
    by: str = Field(
        "content",
        description="What is kept whole: content (same question and pictures), or the name of a column (a null "
        "stands alone).",
    )
    near_duplicates: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Keep whole clusters of near duplicates on one side: similarity of their questions (Jaccard, "
        "5-grams of "
        "characters). Rows with pictures belong together when they have a picture in common.",
    )

    @field_validator("splits")
    @classmethod
    def _sizes(cls, splits: dict[str, int | float]) -> dict[str, int | float]:
        if not splits:
            raise ValueError("name at least one part, for example test: 0.05")
        for name, size in splits.items():
            if size <= 0 or (isinstance(size, float) and size >= 1):
                raise ValueError(f"{name}: {size} is neither a share between 0 and 1 nor a number of rows")
        if len({type(size) for size in splits.values()}) > 1:
            raise ValueError("give all parts as shares, or all as numbers of rows")
        if sum(_fraction(size) for size in splits.values()) > 1 and not all(
            isinstance(s, int) for s in splits.values()
        ):
            raise ValueError("the shares add up to more than 1")
        return splits

    @model_validator(mode="after")
    def _names(self) -> Split:
        for name in (*self.splits, self.rest):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a split: letters, digits and underscores only")
        if self.rest in self.splits:
            raise ValueError(f"{self.rest!r} is the side of all other rows; name another with `rest`")
        return self


def _fraction(size: int | float) -> Fraction:
    """The number as it is written: 0.05 is 1/20, not the nearest binary fraction."""
    return Fraction(str(size))


def reads(config: Split) -> Sequence[str]:
    content = ["question", "images"] if config.by == "content" or config.near_duplicates is not None else []
    return [*content, *([config.by] if config.by != "content" and config.by not in content else [])]


def check(config: Split, schema: pa.Schema) -> Iterable[Problem]:
    """An unknown column in `by`, or one whose values cannot be told apart."""
    if config.by == "content":
        return []
    if config.by not in schema.names:
        hint = sqlguard.nearest(config.by, ["content", *schema.names])
        return [Problem(f"by: there is no column {config.by!r} at this point of the recipe", text=config.by, hint=hint)]
    if config.by == "row_id":
        return [
            Problem(
                "by: row_id keeps nothing together; identical rows would fall on both sides",
                text="row_id",
                hint="Use by: content.",
            )
        ]
    return []


def value_keys(column: pa.ChunkedArray, row_ids: pa.ChunkedArray) -> list[str]:
    """An id of the column's value; a row without a value is a group of its own."""
    return [
        text_id("row", row_id)
        if value is None
        else text_id("value", value if isinstance(value, str) else to_json(value))
        for value, row_id in zip(column.to_pylist(), row_ids.to_pylist(), strict=True)
    ]


def _group_keys(config: Split, rows: Rows, context: Context) -> pa.Array:
    """The key of each row's group, in the order of the rows."""
    found: list[pa.Array] = []
    contents: list[pa.Array] = []
    for batch in rows.batches():
        if config.by == "content" or config.near_duplicates is not None:
            # What makes two rows the same to a model, whatever the order of their choices.
            contents.append(hash_texts(canonical_texts(batch, ["question", "images"])))
        if config.by != "content":
            found.append(pa.array(value_keys(batch[config.by], batch["row_id"]), pa.string()))
    keys = pa.concat_arrays(found or contents)
    if config.near_duplicates is None:
        return keys
    named, same = ids_array(keys), ids_array(pa.concat_arrays(contents))
    links = [
        same_key(named),
        same_key(same),
        shared_pictures(rows.table(["images"])["images"]),
        _alike(rows, same, config.near_duplicates, context.workers),
    ]
    group = components(len(keys), links)
    # The least key of its members names a group, so the name does not hang on where rows stand.
    by_group = np.lexsort((named, group))
    first = np.r_[True, group[by_group][1:] != group[by_group][:-1]]
    least = np.empty(len(keys), "S20")
    least[group[by_group[first]]] = named[by_group[first]]
    return ids_column(least[group])


def _alike(rows: Rows, contents: np.ndarray, threshold: float, workers: int) -> np.ndarray:
    """Pairs of rows without pictures whose questions are near duplicates."""
    table = rows.table(["question", "images"])
    plain = np.flatnonzero(pc.equal(pc.fill_null(pc.list_value_length(table["images"]), 0), 0))
    questions = table["question"].take(pa.array(plain))
    first, cluster = near_texts(questions, contents[plain], threshold, threads=workers)
    return np.stack([plain[first], plain[first[cluster]]], axis=1).astype(np.int64)


@global_stage(Split, revision=1, reads=reads, writes={"split": pa.string()}, check=check)
def run(config: Split, rows: Rows, context: Context) -> Outcome:
    keys = _group_keys(config, rows, context)
    encoded = keys.dictionary_encode()
    group = encoded.indices.to_numpy()
    sizes = np.bincount(group, minlength=len(encoded.dictionary))
    numbers = draws.draws(encoded.dictionary, context.seed, context.name)
    if all(isinstance(size, int) for size in config.splits.values()):
        side = by_number(config, encoded.dictionary, numbers, sizes, context.name)
    else:
        side = by_share(config, numbers)
    names = pa.array([config.rest, *config.splits])
    split = names.take(pa.array(side[group]))
    columns = pa.table({"row_id": rows.table(["row_id"])["row_id"].combine_chunks(), "split": split})
    counts = np.bincount(side[group], minlength=len(names))
    notes: dict[str, Any] = {
        "rows": dict(zip(names.to_pylist(), counts.tolist(), strict=True)),
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
    }
    return Outcome(columns=columns, notes=notes)


def by_share(config: Split, numbers: np.ndarray) -> np.ndarray:
    """The side of each group, 0 for the rest: where its draw lies among the shares laid end to end."""
    side = np.zeros(len(numbers), np.int64)
    edge = Fraction(0)
    edges = [edge := edge + _fraction(size) for size in config.splits.values()]
    for number in range(len(edges), 0, -1):
        side[draws.below(numbers, edges[number - 1])] = number
    return side


def by_number(config: Split, keys: pa.Array, numbers: np.ndarray, sizes: np.ndarray, name: str) -> np.ndarray:
    """The side of each group, 0 for the rest: groups in the order of their draws go to the first part that has room
    for the whole of them, until every part has its number."""
    side = np.zeros(len(sizes), np.int64)
    room: Mapping[str, int] = {part: int(size) for part, size in config.splits.items()}
    left = dict(room)
    for at in draws.order(keys, numbers).tolist():
        fits = next((p for p, part in enumerate(left, 1) if sizes[at] <= left[part]), None)
        if fits is not None:
            side[at] = fits
            left[list(left)[fits - 1]] -= int(sizes[at])
        if not any(left.values()):
            break
    for part, missing in left.items():
        if missing:
            raise WinnowError(
                f"Stage {name}: {part} was to have {room[part]:,} rows, and {missing:,} are missing: there are "
                f"{int(sizes.sum()):,} rows in "
                f"{len(sizes):,} groups that are kept whole, the largest of {int(sizes.max()):,}. Ask for fewer "
                "rows, use a share, or "
                "keep less together (by, near_duplicates)."
            )
    return side
