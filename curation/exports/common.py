"""What the exports share: rows that cannot be rendered, columns kept beside, the order of examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import prompts
from curation.ids import ids_array
from schemas.errors import Problem

KEEP = ("row_id", "k", "source", "license", "language", "pass_rate")
"""Columns that stand beside an example where rows have them."""

Reason = tuple[str, str]


def sorted_rows(rows: pa.Table) -> pa.Table:
    """Rows in the order of row_id, with a split."""
    if "split" not in rows.column_names:
        rows = rows.append_column("split", pa.repeat(pa.scalar("train"), len(rows)))
    ids = ids_array(rows["row_id"])
    return rows if bool(np.all(ids[1:] >= ids[:-1])) else rows.sort_by("row_id")


def by_split(table: pa.Table) -> pa.Table:
    """Examples sorted by (row_id, k) become sorted by (split, row_id, k)."""
    if len(pc.unique(table["split"])) <= 1:
        return table
    codes = pc.rank(table["split"], tiebreaker="min").to_numpy(zero_copy_only=False)
    return table.take(pa.array(np.argsort(codes, kind="stable")))


def refuse(reasons: dict[str, Reason], row_ids: pa.Array | pa.ChunkedArray, reason: str, sentence: str) -> None:
    """Note why nothing is made of these rows; the first reason stays."""
    for row_id in row_ids.to_pylist():
        reasons.setdefault(row_id, (reason, sentence))


def rendered(rows: pa.Table, template: str, reasons: dict[str, Reason]) -> tuple[pa.Table, pa.Array]:
    """Rows that can be shown to a model, and their prompts. Those whose picture marks and pictures differ in number, or
    that have no question, are refused: a trainer would stop at them, or put pictures in the wrong place."""
    texts = prompts.render(rows, template)
    bad = prompts.disagreeing_marks(rows, texts)
    if bad.any():
        refuse(reasons, rows.filter(pa.array(bad))["row_id"], "image_marks",
               f"The prompt has another number of {prompts.IMAGE_MARK} marks than the row has images.")  # fmt: skip
    blank = prompts.blank(texts)
    if blank.any():
        refuse(reasons, rows.filter(pa.array(blank))["row_id"], "no_question", "The prompt is empty.")
    good = ~(bad | blank)
    return (rows, texts) if good.all() else (rows.filter(pa.array(good)), texts.filter(pa.array(good)))


def image_lists(rows: pa.Table) -> pa.Array:
    """list<string> of image hashes: empty, never null, where a row has none (trainers iterate over it)."""
    images = prompts.column(rows, "images")
    if pa.types.is_null(images.type):
        images = images.cast(pa.list_(pa.string()))
    return images if not images.null_count else pc.fill_null(images, pa.scalar([], pa.list_(pa.string())))


def has_images(rows: pa.Table) -> bool:
    return bool(prompts.images_per_row(rows).any())


def template_problem(text: str | None, fields: Iterable[str]) -> str | None:
    """Validator of a template in a config; raises ValueError with the fields that exist."""
    if text is not None:
        prompts.parse_template(text, tuple(fields))
    return text


def no_marks(text: str | None) -> str | None:
    """Validator of a text that is put in as it is."""
    if text is not None and prompts.IMAGE_MARK in text:
        raise ValueError(f"the system text does not write {prompts.IMAGE_MARK}: marks come with the question")
    return text


def column_problems(where: str, wanted: Iterable[str], schema: pa.Schema, known: Collection[str] = ()) -> list[Problem]:
    from curation.sqlguard import nearest

    return [
        Problem(
            f"{where}: there is no column {name!r} at this point of the recipe",
            text=name,
            hint=nearest(name, schema.names),
        )
        for name in wanted
        if name not in schema.names and name not in known
    ]


def in_blocks(
    rows: pa.Table, make: Callable[[pa.Table, int, int], Sequence[pa.Array]], names: Sequence[str]
) -> pa.Table:
    """A table made block by block of its rows: `make(block, start, length)` gives the columns `names`."""
    spans = prompts.blocks(len(rows), rows.nbytes) if len(rows) else [(0, 0)]
    pieces = [pa.table(list(make(rows.slice(a, n), a, n)), names=list(names)) for a, n in spans]
    return pa.concat_tables(pieces)
