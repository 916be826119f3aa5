"""Which row of several that are the same stays: a policy of criteria, then the content's hash, never the position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.ids import ids_array

Criterion = Literal["answered", "verified", "license", "image", "solution", "longest", "source"]
POLICY: tuple[Criterion, ...] = ("answered", "verified", "license", "image", "solution", "longest", "source")

LICENSES = (
    ("cc0", "pddl", "unlicense", "public-domain", "0bsd"),
    ("mit", "apache", "bsd", "isc", "cc-by-1", "cc-by-2", "cc-by-3", "cc-by-4", "odc-by", "cdla-permissive"),
    ("cc-by-sa", "odbl", "mpl", "lgpl", "gpl", "agpl", "cdla-sharing"),
    ("cc-by-nd", "cc-by-nc"),
)
"""Beginnings of SPDX names, from the freest: public domain, attribution, share-alike, no derivatives or commerce.
A licence that is none of these comes after them, and an unknown one last."""


def license_rank(name: str | None) -> int:
    """0 for the freest licence."""
    if name is None:
        return len(LICENSES) + 1
    plain = name.strip().lower()
    return next((rank for rank, names in enumerate(LICENSES) if plain.startswith(names)), len(LICENSES))


class Preference:
    """Collects what the criteria look at, batch by batch, and ranks all rows."""

    def __init__(self, policy: Sequence[Criterion], sources: Sequence[str] = ()):
        self._policy = policy
        self._sources = {name: rank for rank, name in enumerate(sources)}
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in policy}
        self._content: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def add(self, rows: pa.Table, pixels: np.ndarray) -> None:
        """Rows with the columns that the policy reads; `pixels` of their pictures, int64 (rows,)."""
        for name in self._policy:
            self._values[name].append(np.asarray(self._value(name, rows, pixels), np.int64))
        self._content.append(ids_array(rows["content_id"]))
        self._rows.append(ids_array(rows["row_id"]))

    def _value(self, name: Criterion, rows: pa.Table, pixels: np.ndarray) -> np.ndarray | pa.Array:
        """One number a row; the smallest is best."""
        if name in ("answered", "solution"):
            text = rows["answer" if name == "answered" else "solution"]
            return pc.equal(pc.fill_null(pc.utf8_length(text), 0), 0).cast(pa.int64())
        if name == "verified":
            if "n_correct" not in rows.column_names:
                return np.zeros(len(rows), np.int64)
            return pc.less_equal(pc.fill_null(rows["n_correct"], 0), 0).cast(pa.int64())
        if name == "image":
            return -pixels
        if name == "longest":
            size = [pc.fill_null(pc.utf8_length(rows[column]), 0) for column in ("question", "solution")]
            return -np.asarray(pc.add(*size).to_numpy(), np.int64)
        column, rank = (rows["license"], license_rank) if name == "license" else (rows["source"], self._source)
        encoded = column.combine_chunks().dictionary_encode()
        ranks = np.array([*(rank(value) for value in encoded.dictionary.to_pylist()), rank(None)], np.int64)
        return ranks[pc.fill_null(encoded.indices, len(ranks) - 1).to_numpy()]

    def _source(self, name: str | None) -> int:
        return self._sources.get(name or "", len(self._sources))

    def rank(self) -> np.ndarray:
        """The place of each row in the order of preference, int64 (rows,): 0 stays before all others."""
        self._joined = [np.concatenate(self._values[name]) for name in self._policy]
        keys = [np.concatenate(self._rows), np.concatenate(self._content), *reversed(self._joined)]
        order = np.lexsort(keys)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def because(self, kept: int, other: int) -> str:
        """The criterion by which one row was kept rather than the other; `content` where none told them apart."""
        for name, values in zip(self._policy, self._joined, strict=True):
            if values[kept] != values[other]:
                return name
        return "content"
