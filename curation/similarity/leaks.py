"""Which rows hold a benchmark item, and how surely: words, numbers, signs, options, pictures and answers together.

Words are searched by n-grams (curation.kernels.containment) and pictures by hash; both only propose. What is proposed is
compared closely, and gets one of these kinds:

- `leak`: the row asks the item's question. It is the item by its id, where that is the row of a version; all of its words, numbers and signs are there, and its picture; or most of
  them, and the answer is the item's too.
- `sibling`: the same wording with other numbers, signs, options or another picture. A new question.
- `picture`: the row shows the item's picture and asks something else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.kernels import containment, hamming
from curation.similarity import texts
from curation.similarity.answers import Answer, agreement, answer_of
from curation.similarity.benchmarks import Items
from curation.similarity.pictures import Pictures

JOINT_RADIUS = 40
"""Bits in which hashes of one picture may differ where the text is the item's as well: room for a crop of 2 % a side."""
SHORT = 4
"""Fewer words than this are no question: they are compared as a whole only."""
GENERIC = 3
"""A text that so many items share says little by itself; their pictures or options make the question."""
LONGER = 8
"""Words by which a row that holds a short item may be longer before it is passed over."""
PROPOSED = 1024
"""Items whose pictures are near by hash and that are held against the row's text, for each picture of a row."""
NEAREST = 32
"""Of these, so many are compared closely: with the same text, and the nearest pictures under any text."""
SPANS = 8
"""Overlapping spans that evidence names."""
KINDS = ("leak", "sibling", "picture")
RULES = ("same", "whole", "inside", "words", "fuzzy", "picture", "other_picture", "options", "signs", "numbers")
"""How a match was told, the surest first."""
SEEN = ("bytes", "pixels", "looks", "near", None)
"""How a picture was told, the surest first."""


@dataclass(frozen=True)
class Side:
    """A row or an item, as they are compared."""

    compared: str
    """Its text without options."""
    full: str
    """Its text with the options that it shows."""
    options: frozenset[str] | None
    answer: Answer
    images: tuple[str, ...]

    @property
    def shows_options(self) -> bool:
        return self.full != self.compared

    @property
    def wordy(self) -> bool:
        """Whether it has words enough to be known by them; a formula alone stands in many a text."""
        return sum(len(token) > 1 and token.isalpha() for token in self.compared.split(" ")) >= SHORT


@dataclass(frozen=True)
class Match:
    """What a row has in common with an item."""

    row: int
    item: int
    kind: str
    rule: str
    closeness: float
    evidence: dict[str, Any]

    @property
    def order(self) -> tuple[int, int, float, int, int]:
        """The nearest match of a row comes first."""
        seen = SEEN.index(self.evidence.get("picture"))
        return KINDS.index(self.kind), RULES.index(self.rule), -self.closeness, seen, self.item


@dataclass(frozen=True)
class Rules:
    ngram: int
    containment: float
    fuzzy: float
    radius: int


@dataclass
class Target:
    """The items of all benchmarks, ready to be searched for."""

    items: Items
    rules: Rules
    pictures: Pictures
    sides: list[Side] = field(init=False)

    def __post_init__(self) -> None:
        table = self.items.table
        stems, self.sides = sides(table)
        # Items with one text are searched for once.
        keys = [side.compared for side in self.sides]
        self.of_text: dict[str, list[int]] = defaultdict(list)
        for item, key in enumerate(keys):
            self.of_text[key].append(item)
        firsts = [members[0] for key, members in self.of_text.items() if key]
        self.searched = np.array(firsts, np.int64)
        self.index = containment.build(searchable(stems.take(pa.array(self.searched))), ngram=self.rules.ngram)
        pictured = [(item, image) for item, side in enumerate(self.sides) for image in side.images]
        self.picture_item = np.array([item for item, _ in pictured], np.int64)
        self.picture_hash = pa.array([self.pictures.dhash(image) for _, image in pictured], pa.string())
        self.picture_name = [image for _, image in pictured]
        of_versions = zip(table["benchmark"].to_pylist(), table["row_id"].to_pylist(), strict=True)
        self.of_id = {row: item for item, (name, row) in enumerate(of_versions) if name in self.items.versions}

    # ----------------------------------------------------------------------------------------------------------- search

    def search(self, rows: pa.Table, threads: int = 1) -> list[Match]:
        """Matches of a batch of rows (row_id, question, choices, answer, images), the nearest of each row first."""
        proposed = self._by_text(rows, threads)
        by_picture = self._by_picture(rows, threads)
        wanted = sorted({*(row for row, _ in proposed), *by_picture})
        same = self._by_id(rows)
        if not wanted:
            return same
        few = rows.take(pa.array(wanted))
        _, compared = sides(few)
        place = {row: at for at, row in enumerate(wanted)}
        found, known = same, {(match.row, match.item) for match in same}
        for (row, first), hit in proposed.items():
            side = compared[place[row]]
            for item in self._meant(first, side, by_picture.get(row, {})):
                if (row, item) in known:
                    continue
                match = self._text_match(row, item, side, hit, by_picture.get(row, {}).get(item))
                if match is not None:
                    found.append(match)
        leaked = {(m.row, m.item) for m in found}
        for row, items in by_picture.items():
            for item, distance in sorted(items.items(), key=lambda of: of[::-1])[:NEAREST]:
                if (row, item) not in leaked:
                    match = self._picture_match(row, item, compared[place[row]], distance)
                    if match is not None:
                        found.append(match)
        return sorted(found, key=lambda m: (m.row, m.order))

    def _by_id(self, rows: pa.Table) -> list[Match]:
        if not self.of_id or "row_id" not in rows.column_names:
            return []
        items = [self.of_id.get(row_id) for row_id in rows["row_id"].to_pylist()]
        return [Match(row, item, "leak", "same", 1.0, {}) for row, item in enumerate(items) if item is not None]

    def _by_text(self, rows: pa.Table, threads: int) -> dict[tuple[int, int], dict[str, Any]]:
        """(row, first item with a text) -> hit of the index, where it is worth a closer look."""
        if not len(self.searched):
            return {}
        hits = self.index.search(searchable(rows["question"]), min_containment=self.rules.fuzzy, threads=threads)
        short = hits["grams"].to_numpy() == 1
        longer = hits["row_tokens"].to_numpy() - hits["item_tokens"].to_numpy()
        near = ~short | (longer <= LONGER) | (hits["item_tokens"].to_numpy() >= SHORT)
        hits = hits.filter(pa.array(near))
        items = self.searched[hits["item"].to_numpy()].tolist()
        return {(hit["row"], item): hit for hit, item in zip(hits.to_pylist(), items, strict=True)}

    def _by_picture(self, rows: pa.Table, threads: int) -> dict[int, dict[int, int]]:
        """row -> item -> Hamming distance, for rows with a picture within the radius of one of the item's."""
        images = rows["images"].combine_chunks()
        flat = pc.list_flatten(images)
        if not len(self.picture_item) or not len(flat):
            return {}
        hashes = pa.array([self.pictures.dhash(name) for name in flat.to_pylist()], pa.string())
        parents = pc.list_parent_indices(images).to_numpy()
        # The kernel lets the first of several items with one hash stand for all of them.
        same: dict[str, list[int]] = defaultdict(list)
        for at, dhash in enumerate(self.picture_hash.to_pylist()):
            if dhash is not None:
                same[dhash].append(at)
        pairs = hamming.matches(hashes, self.picture_hash, radius=self.rules.radius, threads=threads)
        row, against, distance = (pairs[name].to_numpy() for name in ("row", "against", "distance"))
        order = np.lexsort((against, distance, row))
        row, against, distance = row[order], against[order], distance[order]
        nearest = np.arange(len(row)) - np.searchsorted(row, row) < PROPOSED
        found: dict[int, dict[int, int]] = defaultdict(dict)
        for one, of, apart in zip(
            parents[row[nearest]].tolist(), against[nearest].tolist(), distance[nearest].tolist(), strict=True
        ):
            for at in same[self.picture_hash[of].as_py()][:PROPOSED]:
                item = int(self.picture_item[at])
                found[one][item] = min(apart, found[one].get(item, 256))
        return dict(found)

    def _meant(self, first: int, side: Side, near: dict[int, int]) -> Sequence[int]:
        """Which of the items that share a text a row is compared with: those whose picture it shows, the likeliest
        first; else the first."""
        members = self.of_text[self.sides[first].compared]
        if len(members) == 1:
            return members
        shown = [item for item in members if item in near or self.sides[item].images == side.images != ()]
        if shown:
            return sorted(shown, key=lambda item: (*self._unlikely(side, item), near.get(item, 0), item))[:NEAREST]
        alike = [item for item in members if agreement(side.answer, self.sides[item].answer) in ("equal", "compatible")]
        return (alike or members)[:1]

    def _unlikely(self, side: Side, item: int) -> tuple[bool, bool, bool]:
        """What speaks against the item, of those that share a text: other bytes, other options, another answer."""
        other = self.sides[item]
        agrees = agreement(side.answer, other.answer) in ("equal", "compatible")
        return other.images != side.images, side.options != other.options, not agrees

    # ------------------------------------------------------------------------------------------------------- comparison

    def _text_match(self, row: int, item: int, side: Side, hit: dict[str, Any], distance: int | None) -> Match | None:
        other = self.sides[item]
        level = self._level(side, other, hit)
        if level is None:
            return None
        said = agreement(side.answer, other.answer)
        same_answer = said in ("equal", "compatible")
        generic = len(self.of_text[other.compared]) >= GENERIC or hit["item_tokens"] < SHORT
        long = hit["item_tokens"] >= self.rules.ngram
        short = not long or not other.wordy
        long_enough = hit["item_tokens"] >= 2 * self.rules.ngram or side.compared == other.compared
        evidence: dict[str, Any] = {
            "grams": hit["grams"], "matched": hit["matched"], "exact": hit["exact"], "answers": said,
            "spans": [[s["row_start"], s["row_end"], s["item_start"], s["item_end"]] for s in hit["spans"][:SPANS]],
        }  # fmt: skip
        pictured = self._pictures(side, other, evidence, distance, same_answer)
        kind, rule = "leak", level
        if level in ("numbers", "signs"):
            kind = "sibling"
        elif level == "fuzzy" and not (same_answer and side.answer.tells):
            kind = "sibling"  # other words may be another name or another question: only the answer could tell
        elif level == "inside" and short and not pictured and not (same_answer and (long or side.answer.tells)):
            return None  # a few words that stand in many a text
        elif level == "inside" and said == "incompatible" and not long_enough:
            kind, rule = "sibling", "fuzzy"  # a longer question that begins like this one
        # A row that shows the item's text with its options has them, whatever was read from it.
        shown = other.shows_options and f" {other.full} " in f" {side.full} "
        if kind == "leak" and not shown and _other_options(side, other) and (generic or not same_answer):
            kind, rule = "sibling", "options"
        if other.images and not pictured and side.images:
            # Another picture: the same words ask another question, unless the words alone are the question.
            if not (same_answer and side.answer.tells and not generic and not short):
                kind, rule = "sibling", "other_picture"
        elif other.images and not pictured and (generic or short) and kind == "leak":
            return None  # the picture is the question, and the row has none
        return Match(row, item, kind, rule, hit["exact"] / hit["grams"], evidence)

    def _level(self, side: Side, other: Side, hit: dict[str, Any]) -> str | None:
        """How much of the item's text a row has: whole, inside, words, fuzzy; numbers or signs where those differ."""
        if side.compared == other.compared and not _other_options(side, other):
            return "whole"
        if side.full == other.full and other.shows_options:
            return "whole"
        short = hit["item_tokens"] < self.rules.ngram
        if f" {other.full} " in f" {side.full} " or f" {other.compared} " in f" {side.compared} ":
            return "inside" if hit["item_tokens"] >= SHORT else None
        if hit["exact"] < hit["matched"]:
            return "numbers" if hit["matched"] >= self.rules.fuzzy * hit["grams"] and not short else None
        if short:
            return None
        if not _numbers_in(other.compared, side.compared):
            return "numbers"
        if hit["exact"] < self.rules.containment * hit["grams"]:
            return "fuzzy"
        complete = hit["exact"] == hit["grams"]
        if agreement(side.answer, other.answer) != "incompatible":
            return "words"
        # All words stand in the row, and the answers differ: its signs do, or the few words that make the question.
        return "words" if complete and _signs_in(other.compared, side.compared) else "signs" if complete else "fuzzy"

    def _pictures(
        self, side: Side, other: Side, evidence: dict[str, Any], distance: int | None, same_answer: bool
    ) -> bool:
        """Whether the row shows the item's pictures; how is noted in the evidence."""
        apart = self.pictures.distance(side.images, other.images)
        apart = distance if apart is None else apart
        if apart is None or apart > JOINT_RADIUS:
            return False
        same = self.pictures.same(side.images, other.images)
        if same is None and not same_answer:
            return False
        evidence["picture"] = same.how if same is not None else "near"
        evidence["picture_distance"] = apart
        return True

    def _picture_match(self, row: int, item: int, side: Side, distance: int) -> Match | None:
        """The item's picture under another question, if it looks the same and not only has a near hash."""
        other = self.sides[item]
        pairs = [(a, b) for a in side.images for b in other.images]
        found = [same for a, b in pairs if (same := self.pictures.same([a], [b])) is not None]
        if not found:
            return None
        best = min(found, key=lambda s: (("bytes", "pixels", "looks").index(s.how), s.difference))
        evidence = {"picture": best.how, "picture_distance": distance, "answers": agreement(side.answer, other.answer)}
        if not side.compared and not other.compared:
            return Match(row, item, "leak", "picture", 1 - distance / 256, evidence)  # the question is in the picture
        return Match(row, item, "picture", "picture", 1 - distance / 256, evidence)


# The index takes a LaTeX command for a word. Those that stand for a sign are blanked, and Greek letters become letters,
# so that another author's Unicode is the same; marks of pictures go, too. Every text keeps its length, and spans their
# places. Commands that others write out (\\angle) stay, and so do those that only begin like one of these.
_SIGNS = [
    "circ", "degree", "times", "cdot", "cdots", "ldots", "dots", "div", "le", "leq", "leqslant", "ge", "geq",
    "geqslant", "ne", "neq", "pm", "mp", "infty", "sqrt", "cap", "cup", "in", "lt", "gt", "mid", "to", "rightarrow",
    "approx", "equiv", "cong", "sim", "quad", "qquad",
]  # fmt: skip
_OTHERS = [
    "left", "leftarrow", "leftrightarrow", "int", "inf", "top", "neg", "newline", "nearrow", "multicolumn",
    "multirow", "pmod", "pmatrix", "middle", "circle", "simeq",
]  # fmt: skip


@cache
def _replaced() -> tuple[list[str], list[str]]:
    """What is replaced and by what: the longest first, each of the length of the other in bytes."""
    become = {f"\\{name}": f"\\{name}" for name in _OTHERS}
    become |= {f"\\{name}": " " * (len(name) + 1) for name in _SIGNS}
    become |= {f"\\{name}": f"{letter}{' ' * (len(name) - 1)}" for name, letter in texts.GREEK.items()}
    become |= {mark: " " * len(mark) for mark in ("<image>", *(f"<image{n}>" for n in range(10)))}
    order = sorted(become, key=lambda name: (-len(name), name))
    return order, [become[name] for name in order]


def searchable(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Texts as the index of words reads them."""
    import polars as pl

    series = pl.Series("text", pl.from_arrow(column))
    series = series.str.replace_many(*_replaced(), leftmost=True)
    # \frac12 is two numbers
    series = series.str.replace_all(r"\\frac(\d)(\d)", "frac${1} ${2}")
    series = series.str.replace_all(r"\\[dtc]frac(\d)(\d)", " frac${1} ${2}")
    return series.to_arrow().cast(pa.large_string())


def sides(table: pa.Table) -> tuple[pa.Array, list[Side]]:
    """The questions without the options that they show, and every row as it is compared."""
    stems, shown = texts.stems(table)
    compared = texts.compared(stems).to_pylist()
    whole = compared if not shown else texts.compared(table["question"]).to_pylist()
    listed = [
        tuple(o or "" for o in choices or ()) or shown.get(row, ())
        for row, choices in enumerate(table["choices"].to_pylist())
    ]
    said = texts.compared(pa.array([option for options in listed for option in options], pa.string())).to_pylist()
    found, used = [], 0
    for text, full, options, gold, images in zip(
        compared, whole, listed, table["answer"].to_pylist(), table["images"].to_pylist(), strict=True
    ):
        own = frozenset(said[used : used + len(options)]) if options else None
        used += len(options)
        found.append(Side(text, full, own, answer_of(gold, options), tuple(images or ())))
    return stems, found


def _other_options(side: Side, other: Side) -> bool:
    """Whether both have options and most of them differ."""
    if not side.options or not other.options:
        return False
    return 2 * len(side.options & other.options) < len(other.options)


def _numbers_in(item: str, row: str) -> bool:
    """Whether each number of the item stands in the row as often."""
    of_row = Counter(token for token in row.split(" ") if token[:1].isdigit())
    return all(of_row[token] >= n for token, n in Counter(t for t in item.split(" ") if t[:1].isdigit()).items())


def _signs_in(item: str, row: str) -> bool:
    """Whether the item's signs stand in the row in their order, among others perhaps."""
    signs = iter([token for token in row.split(" ") if not token[:1].isalnum()])
    return all(token in signs for token in item.split(" ") if token and not token[:1].isalnum())
