"""Rows that belong together: by a key, by a picture in common, by texts that are nearly the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def components(n: int, links: Iterable[np.ndarray]) -> np.ndarray:
    """Connected components of n nodes under links (m, 2): the least node of each node's component, int64 (n,)."""
    parent = list(range(n))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for pairs in links:
        for a, b in pairs[pairs[:, 0] != pairs[:, 1]].tolist():
            first, second = root(a), root(b)
            if first != second:
                parent[max(first, second)] = min(first, second)
    return np.fromiter((root(node) for node in range(n)), np.int64, n)


def same_key(keys: np.ndarray) -> np.ndarray:
    """Pairs (row, first row with the same key), int64 (n, 2)."""
    _, first, code = np.unique(keys, return_index=True, return_inverse=True)
    return np.stack([np.arange(len(keys)), first[code]], axis=1)


def shared_pictures(images: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Pairs of a row and the first row that shows the same picture, int64 (n, 2)."""
    images = images.combine_chunks() if isinstance(images, pa.ChunkedArray) else images
    parents = pc.list_parent_indices(images).to_numpy()
    hashes = pc.list_flatten(images)
    if not len(hashes):
        return np.empty((0, 2), np.int64)
    code = hashes.dictionary_encode()
    code = code.combine_chunks().indices.to_numpy() if isinstance(code, pa.ChunkedArray) else code.indices.to_numpy()
    _, first = np.unique(code, return_index=True)
    return np.stack([parents, parents[first[code]]], axis=1).astype(np.int64)


def near_texts(
    texts: pa.Array | pa.ChunkedArray,
    keys: np.ndarray,
    threshold: float,
    *,
    threads: int,
    order: np.ndarray | None = None,
    scratch: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose texts are chained by near duplicates (Jaccard of 5-grams of characters at or above the threshold).

    keys    one for each row: rows with one key have one text, and each is compared once
    order   the canonical order of keys in what the kernel does (rank of preference); by default the keys themselves
    Returns the first row of each distinct key (int64), and for each of those the place of its cluster's head among
    them. How rows stand makes no difference.
    """
    from curation.kernels import minhash

    distinct, first = np.unique(keys, return_index=True)
    if len(first) < 2:
        return first, np.arange(len(first))
    ranks = distinct if order is None else order[first]
    cluster, _ = minhash.clusters(
        texts.take(pa.array(first)), threshold=threshold, order=ranks, threads=threads, scratch=scratch
    )
    return first, cluster
