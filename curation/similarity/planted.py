"""Altered copies of benchmark items, to measure what the search finds; and texts that are no copies, to count alarms.

Copies go through the same search as rows, as a batch of their own, and are never among the rows. Every draw is keyed by
the recipe's seed, the stage's name and the item, so the same items are altered in the same way on any machine.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.images import ImageStore
from curation.similarity import texts
from curation.similarity.benchmarks import Items
from curation.similarity.texts import stem_and_options

TEXT_KINDS = ("verbatim", "re-wrapped", "re-cased", "latex", "embedded", "options_shuffled")
IMAGE_KINDS = ("image_re-encoded", "image_resized", "image_cropped")
MOST_PIXELS = 1_000_000
"""Larger pictures are shrunk before they are altered: it is the alteration that is measured, not the encoder's speed."""

_LEAD = (
    "Read the following task with care and write down every step before you give the result. "
    "Somebody sent it to us last week and would like to have it checked.\n\n"
)
_TAIL = "\n\nExplain how you found it, check the result once more, and finish with a short sentence that states it."


@dataclass(frozen=True)
class Planted:
    """Rows to search for: what was altered, and of which item."""

    rows: pa.Table
    kinds: list[str]
    items: list[int]
    images: dict[str, bytes]
    """Altered pictures by hash: they are in no store."""


Draw = Callable[[str, int], np.random.Generator]


def draws(seed: int, name: str, items: Items) -> Draw:
    """A generator for a purpose and an item."""
    ids = items.table["row_id"].to_pylist()

    def draw(purpose: str, item: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{seed}:{name}:{purpose}:{ids[item]}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    return draw


def sampled(items: Items, most: int, draw: Draw, *, pictured: bool = False) -> list[int]:
    """At most so many items of each benchmark: those with the smallest draws."""
    chosen: list[int] = []
    names = items.table["benchmark"].to_pylist()
    shows = [bool(images) for images in items.table["images"].to_pylist()]
    for name in dict.fromkeys(names):
        members = [i for i, own in enumerate(names) if own == name and (shows[i] or not pictured)]
        if len(members) > most:
            members = sorted(sorted(members, key=lambda i: float(draw("sample", i).random()))[:most])
        chosen += members
    return chosen


def copies(items: Items, chosen: Sequence[int], draw: Draw) -> Planted:
    """The chosen items, once for each way of altering their text that changes it."""
    lines: list[dict[str, Any]] = []
    kinds: list[str] = []
    of: list[int] = []
    for item, row in zip(chosen, items.table.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True):
        if not (row["question"] or "").strip():
            continue
        for kind in TEXT_KINDS:
            altered = _altered(kind, row, draw(kind, item))
            if altered is not None and (kind == "verbatim" or altered != row):
                lines.append(altered)
                kinds.append(kind)
                of.append(item)
    return Planted(_table(items, lines), kinds, of, {})


def _altered(kind: str, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    question = row["question"]
    if kind == "verbatim":
        return row
    if kind == "re-wrapped":
        return {**row, "question": re.sub(r"\s+", lambda m: (" ", "\n", "  ", "\n\n")[rng.integers(4)], question)}
    if kind == "re-cased":
        # LaTeX commands are case-sensitive, so nobody re-cases them.
        pieces = re.split(r"(\\[A-Za-z]+|<image\d*>)", question)
        return {**row, "question": "".join(p if i % 2 else p.upper() for i, p in enumerate(pieces))}
    if kind == "latex":
        return {**row, "question": respelt_latex(question)}
    if kind == "embedded":
        return {**row, "question": f"{_LEAD}{question}{_TAIL}"}
    return _shuffled(row, rng)


def respelt_latex(text: str) -> str:
    """The same formulas as another author would write them."""
    text = re.sub(r"\\[dt]?frac(?![a-z])", lambda m: r"\frac" if m[0] != r"\frac" else r"\dfrac", text)
    text = re.sub(r"\\le(?![a-z])", r"\\leq", text)
    text = re.sub(r"\\ge(?![a-z])", r"\\geq", text)
    text = re.sub(r"\\left(?![a-z])|\\right(?![a-z])", "", text)
    text = re.sub(r"\^(\d)(?!\d)", r"^{\1}", text)
    text = re.sub(r"_(\d)(?!\d)", r"_{\1}", text)
    text = re.sub(r"(?<![\\$])\$(?!\$)([^$]+)\$(?!\$)", r"\\(\1\\)", text)
    return re.sub(r"\^\{\\circ\}|\^\\circ(?![a-z])", "°", text)


def _shuffled(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    """The options in another order, and the letter of the answer with them; None where there are fewer than two."""
    choices = row["choices"]
    stem, options = stem_and_options(row["question"], choices)
    if len(options) < 2 or len(set(options)) < len(options):
        return None
    order = rng.permutation(len(options))
    if (order == np.arange(len(options))).all():
        order = order[::-1]
    letter = (row["answer"] or "").strip("()[]. ").upper()
    answer = row["answer"]
    if len(letter) == 1 and 0 <= ord(letter) - 65 < len(options):
        answer = chr(65 + int(np.flatnonzero(order == ord(letter) - 65)[0]))
    moved = [options[i] for i in order]
    if choices:
        return {**row, "choices": moved, "answer": answer}
    lines = "\n".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(moved))
    return {**row, "question": f"{stem}\n{lines}", "answer": answer}


def pictured_copies(items: Items, chosen: Sequence[int], store: ImageStore) -> Planted:
    """The chosen items with their pictures altered."""
    lines, kinds, of = [], [], []
    images: dict[str, bytes] = {}
    for item, row in zip(chosen, items.table.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True):
        held = store.read(row["images"])
        for kind in IMAGE_KINDS:
            made = [_picture(kind, held[name]) for name in row["images"]]
            names = [hashlib.sha256(data).hexdigest() for data in made]
            images.update(zip(names, made, strict=True))
            lines.append({**row, "images": names})
            kinds.append(kind)
            of.append(item)
    return Planted(_table(items, lines), kinds, of, images)


def _picture(kind: str, data: bytes) -> bytes:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.has_transparency_data:
            ground = Image.new("RGBA", image.size, "white")
            ground.alpha_composite(image.convert("RGBA"))
            image = ground
        image = image.convert("RGB")
    if image.width * image.height > MOST_PIXELS:
        image.thumbnail((1000, 1000))
    width, height = image.size
    sink = io.BytesIO()
    if kind == "image_re-encoded":
        image.save(sink, "JPEG", quality=75)
    elif kind == "image_resized":
        small = (max(1, width // 2), max(1, height // 2))
        image.resize(small, Image.Resampling.LANCZOS).save(sink, "PNG", compress_level=1)
    else:
        left, top = width // 100, height // 100
        image.crop((left, top, width - left, height - top)).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def control(items: Items, chosen: Sequence[int], draw: Draw) -> Planted:
    """Texts that are no copies of any item though they have its words: the beginning of one with the end of another,
    and items whose numbers are others."""
    rows = items.table.take(pa.array(chosen, pa.int64())).to_pylist()
    stems = [stem_and_options(row["question"] or "", row["choices"])[0] for row in rows]
    made: list[tuple[str, int, dict[str, Any]]] = []
    for at, (item, row, stem) in enumerate(zip(chosen, rows, stems, strict=True)):
        rng = draw("control", item)
        words = stem.split()
        other = stems[(at + 1 + int(rng.integers(max(len(rows) - 1, 1)))) % len(rows)].split()
        if len(words) >= 8 and len(other) >= 8 and other != words:
            mixed = " ".join([*words[: len(words) // 2], *other[len(other) // 2 :]])
            made.append(("recombined", item, {**row, "question": mixed, "answer": None, "images": [], "choices": None}))
        if re.search(r"\d", stem):
            changed = _renumbered(stem, rng)
            made.append(("other_numbers", item, {**row, "question": changed, "answer": None}))
    # Variants of one template are items as well: what has become another item is no control.
    known = set(texts.compared(items.table["question"]).to_pylist())
    said = texts.compared(pa.array([row["question"] for _, _, row in made], pa.string())).to_pylist()
    made = [line for line, text in zip(made, said, strict=True) if text not in known]
    return Planted(_table(items, [row for _, _, row in made]), [k for k, _, _ in made], [i for _, i, _ in made], {})


def _renumbered(text: str, rng: np.random.Generator) -> str:
    return re.sub(r"\d+", lambda m: str(int(m[0][:9]) + 1 + int(rng.integers(7))), text)


def _table(items: Items, lines: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(lines, schema=items.table.schema)
