"""Which texts contain which of a set of reference texts: word n-grams, an inverted index, and spans as evidence.

Made for decontamination: the items of a benchmark are indexed once, rows stream past. An item counts as contained by
the share of its n-grams that stand in the row, so a question inside a long prompt is found, and a long row is no
more suspect than a short one. Case, white space, punctuation, accents and LaTeX spellings do not count; numbers do:
every hit says how much was found with the numbers as they are (`exact`) and with all taken as equal (`matched`).
exact < matched means the same wording with other numbers: a sibling, not a leak.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pyarrow as pa

from ._memory import texts
from ._spread import spread

_BLOCK = 8_192
_COMMON = 64  # grams of more items than this find no candidates, unless they are among the rarest of their item
_RARE = 8
# fmt: off
_IGNORED = [
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "text", "textbf", "textit", "mathrm", "mathbf",
    "mathit", "mbox", "hbox", "displaystyle", "textstyle", "operatorname", "quad", "qquad", "boxed",
]
# fmt: on
_SAME = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge", "neq": "ne", "to": "rightarrow"}


@dataclass(frozen=True)
class Index:
    """Reference texts, ready to be searched for. Made by `build`; holds hashes and positions, no text."""

    ngram: int
    tokens: np.ndarray  # int32 (items,): tokens of each item
    grams: tuple[np.ndarray, ...] = field(repr=False)
    lookup: tuple[np.ndarray | int, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def search(self, array: pa.Array | pa.ChunkedArray, *, min_containment: float = 0.5, threads: int = 1) -> pa.Table:
        """Rows that contain at least `min_containment` of an item's n-grams, one row of the table for each pair.

        Columns: `row`, `item` (indices); `grams` (n-grams of the item), `matched` (of those, found in the row with all
        numbers taken as equal), `exact` (found as they are); `row_tokens`, `item_tokens`; `spans`, a list of
        {row_start, row_end, item_start, item_end}, byte offsets of the runs that overlap. Sorted by row and item.

        An item of fewer than `ngram` tokens is one n-gram, the whole of it, and is found wherever it stands in a row:
        compare item_tokens with row_tokens before calling such a hit a leak. Null texts match nothing.
        """
        if not 0 < min_containment <= 1:
            raise ValueError(f"min_containment must lie in (0, 1], got {min_containment}")
        if threads < 1:
            raise ValueError(f"threads must be 1 or more, got {threads}")
        from ._containment import search_rows

        located = texts(array)
        share = Fraction(str(min_containment)).limit_denominator(1_000_000)

        def block(start: int) -> tuple[np.ndarray, np.ndarray]:
            address, length = located.address[start : start + _BLOCK], located.length[start : start + _BLOCK]
            longest = max(int(length.max(initial=0)), 0)
            found: tuple[np.ndarray, np.ndarray] = search_rows(
                address, length, start, self.ngram, share.numerator, share.denominator, *_tables(), longest,
                *self.grams, *self.lookup,
            )  # fmt: skip
            return found

        parts = spread(block, range(0, len(located), _BLOCK), threads)
        hits = np.concatenate([np.empty((0, 7), np.int64), *(hits for hits, _ in parts)])
        spans = np.concatenate([np.empty((0, 4), np.int32), *(spans for _, spans in parts)])
        names = ("row_start", "row_end", "item_start", "item_end")
        flat = pa.StructArray.from_arrays([pa.array(np.ascontiguousarray(column)) for column in spans.T], names)
        ends = np.concatenate([[0], np.cumsum(hits[:, 6])]).astype(np.int32)
        columns = [np.ascontiguousarray(column) for column in hits.T]
        table = dict(zip(("row", "item", "grams", "matched", "exact", "row_tokens"), columns[:6], strict=True))
        return pa.table(
            {**table, "item_tokens": self.tokens[hits[:, 1]], "spans": pa.ListArray.from_arrays(pa.array(ends), flat)}
        )


def build(array: pa.Array | pa.ChunkedArray, *, ngram: int = 8) -> Index:
    """Index reference texts by their word n-grams. About 40 bytes a word; 20,000 questions take well under a second."""
    if ngram < 2:
        raise ValueError(f"ngram must be 2 or more, got {ngram}")
    from . import _containment

    located = texts(array)
    *grams, tokens = _containment.item_grams(located.address, located.length, ngram, *_tables(), located.longest)
    offsets, _, blind, _, _, widths = grams
    item = np.repeat(np.arange(len(located), dtype=np.int32), np.diff(offsets))
    keys, inverse = np.unique(blind, return_inverse=True)
    pairs = np.unique(np.stack([inverse, item], axis=1), axis=0) if len(item) else np.empty((0, 2), np.int64)
    spread_over = np.bincount(pairs[:, 0], minlength=len(keys))  # number of items that have each gram
    by_item = pairs[np.lexsort((pairs[:, 0], spread_over[pairs[:, 0]], pairs[:, 1]))]
    begin = np.searchsorted(by_item[:, 1], by_item[:, 1])
    posted = by_item[(np.arange(len(by_item)) - begin < _RARE) | (spread_over[by_item[:, 0]] <= _COMMON)]
    posted = posted[np.lexsort((posted[:, 1], posted[:, 0]))]
    used, counts = np.unique(posted[:, 0], return_counts=True)
    keys = keys[used]
    starts = np.concatenate([[0], np.cumsum(counts)])
    bits = max(len(keys).bit_length() + 3, 10)
    bitmap = np.zeros(1 << (bits - 3), np.uint8)
    _containment.fill_filter(keys, bitmap, bits)
    directory_bits = max(len(keys).bit_length() - 1, 1)
    edges = np.arange(1, 1 << directory_bits, dtype=np.uint64) << np.uint64(64 - directory_bits)
    directory = np.concatenate([[0], np.searchsorted(keys, edges), [len(keys)]])
    short = np.unique(widths[widths > 0]).astype(np.int64)
    postings = posted[:, 1].astype(np.int32)
    lookup = (short, keys, starts, postings, bitmap, bits, directory, directory_bits)
    return Index(ngram, tokens, tuple(grams), lookup)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Folding and class of every code point of the basic plane, and what becomes of LaTeX commands.

    A code point folds to the first of its compatibility decomposition in lower case (é to e, full-width A to a,
    superscript 2 to 2); marks that only modify are skipped; ideographs, kana and hangul are tokens of their own.
    """
    from . import _containment as kernels

    fold = np.arange(65_536, dtype=np.uint16)
    kind = np.zeros(65_536, np.uint8)
    for point in range(65_536):
        if 0xD800 <= point < 0xE000:
            continue
        base = unicodedata.normalize("NFKD", chr(point).lower())[:1].lower()[:1]
        if not base or ord(base) > 0xFFFF:
            continue
        fold[point] = ord(base)
        category = unicodedata.category(base)
        if category in ("Mn", "Me", "Cf"):
            kind[point] = kernels.SKIP
        elif category == "Nd":
            kind[point] = kernels.DIGIT
            fold[point] = ord("0") + unicodedata.decimal(base)
        elif ord(base) >= 0x2E80 and category in ("Lo", "Lm"):
            kind[point] = kernels.SINGLE
        elif category[0] == "L":
            kind[point] = kernels.LETTER
    hashed = {
        word: int(kernels.token_hash(np.frombuffer(word.lower().encode(), np.uint8))) for word in [*_IGNORED, *_SAME]
    }
    become = {hashed[word]: 0 for word in _IGNORED}
    for word, other in _SAME.items():
        become[hashed[word]] = int(kernels.token_hash(np.frombuffer(other.encode(), np.uint8)))
    commands = np.array(sorted(become), np.uint64)
    return fold, kind, commands, np.array([become[h] for h in sorted(become)], np.uint64)
