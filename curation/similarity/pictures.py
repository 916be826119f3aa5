"""Whether two rows show the same pictures.

Hashes only propose. Two pictures are the same when their bytes are, when their pixels are, or when they look the same:
shrunk to 64 by 64 cells in colour, no cell differs by more than `CELL` of 255 and all together by no more than `MEAN`.
A picture that was saved as JPEG or shrunk to half its size passes; one more number in a figure, or another colour of
one shape, does not (measured on six sets of figures; see docs/dedup.md).
"""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.images import ImageStore, inspect

SIDE, CELL, MEAN = 64, 32, 2.0
"""Cells on a side; how much one of them, and all on average, may differ (of 255)."""
KEPT_GRIDS = 4096
"""Shrunk pictures that are held at a time (12 KB each)."""


@dataclass(frozen=True, slots=True)
class Sameness:
    """How two pictures go together: `bytes`, `pixels` or `looks`, and the largest difference of a cell."""

    how: str
    difference: int = 0


class Pictures:
    """The pictures of some rows: their hashes and sizes, and comparisons of two of them, decoded when needed."""

    def __init__(self, workspace: Path, hashes: Iterable[str]):
        self._store = ImageStore(workspace)
        wanted = sorted(set(hashes))
        facts = self._store.info(wanted) if wanted else None
        columns = [facts[name].to_pylist() for name in ("hash", "dhash", "width", "height")] if facts else [[]] * 4
        self._facts = {h: (d, w, t) for h, d, w, t in zip(*columns, strict=True)}
        self._grids: OrderedDict[str, tuple[np.ndarray, ...]] = OrderedDict()
        self._same: dict[tuple[str, str], Sameness | None] = {}
        self._bytes: Mapping[str, bytes] = {}

    @classmethod
    def with_bytes(cls, known: Pictures, more: Mapping[str, bytes]) -> Pictures:
        """The same pictures and some that are in no store, by hash."""
        made = cls.__new__(cls)
        made._store, made._grids, made._same = known._store, OrderedDict(), {}
        facts = {name: inspect(data) for name, data in more.items()}
        made._facts = known._facts | {n: (f["dhash"], f["width"], f["height"]) for n, f in facts.items()}
        made._bytes = more
        return made

    def _read(self, name: str) -> bytes:
        return self._bytes[name] if name in self._bytes else self._store.read([name])[name]

    def dhash(self, name: str) -> str | None:
        """The picture's difference hash, None where the store does not know it."""
        found = self._facts.get(name)
        return found[0] if found else None

    def pixels(self, names: Sequence[str]) -> int:
        """Pixels of some pictures together."""
        return sum(self._facts[n][1] * self._facts[n][2] for n in names if n in self._facts)

    def distance(self, left: Sequence[str], right: Sequence[str]) -> int | None:
        """The largest Hamming distance between hashes of pictures that stand in the same place; None where their
        numbers differ or one is not known."""
        hashes = [(self.dhash(a), self.dhash(b)) for a, b in zip(left, right, strict=False)]
        if len(left) != len(right) or not hashes or any(None in pair for pair in hashes):
            return None
        return max((int(a or "", 16) ^ int(b or "", 16)).bit_count() for a, b in hashes)

    def same(self, left: Sequence[str], right: Sequence[str]) -> Sameness | None:
        """How two lists of pictures are the same, picture by picture, or None where they are not."""
        if len(left) != len(right):
            return None
        worst = Sameness("bytes")
        for a, b in zip(left, right, strict=True):
            found = self._one(a, b)
            if found is None:
                return None
            worst = max(worst, found, key=lambda s: (("bytes", "pixels", "looks").index(s.how), s.difference))
        return worst

    def grey(self, name: str, side: int) -> np.ndarray:
        """float64 (side, side): the picture's cells in grey."""
        grid = self._grid(name)[0].astype(np.float64).mean(axis=2)
        step = SIDE // side
        return grid.reshape(side, step, side, step).mean(axis=(1, 3))

    def _one(self, left: str, right: str) -> Sameness | None:
        if left == right:
            return Sameness("bytes")
        key = (min(left, right), max(left, right))
        if key not in self._same:
            self._same[key] = self._compared(*key)
        return self._same[key]

    def _compared(self, left: str, right: str) -> Sameness | None:
        known, other = self._facts.get(left), self._facts.get(right)
        if known is None or other is None:
            return None
        if known == other and self._decoded_alike(left, right):
            return Sameness("pixels")
        # A transparent ground may have been filled with white or with what lies under it.
        least: tuple[int, float] | None = None
        for a in self._grid(left):
            for b in self._grid(right):
                apart = np.abs(a - b)
                found = int(apart.max()), float(apart.sum(dtype=np.int64)) / apart.size
                least = found if least is None else min(least, found)
        if least is None or least[0] > CELL or least[1] > MEAN:
            return None
        return Sameness("looks", least[0])

    def _decoded_alike(self, left: str, right: str) -> bool:
        return np.array_equal(_decoded(self._read(left)), _decoded(self._read(right)))

    def _grid(self, name: str) -> tuple[np.ndarray, ...]:
        """int16 (64, 64, 3), once or, where the picture has transparent parts, on white and as it is below them."""
        if name in self._grids:
            self._grids.move_to_end(name)
            return self._grids[name]
        pixels = _decoded(self._read(name))
        grids = [_shrunk(pixels[..., :3])]
        if pixels[..., 3].min() < 255:
            alpha = pixels[..., 3:].astype(np.uint32)
            white = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
            grids.append(_shrunk(white.astype(np.uint8)))
        self._grids[name] = tuple(grids)
        if len(self._grids) > KEPT_GRIDS:
            self._grids.popitem(last=False)
        return self._grids[name]


def _decoded(data: bytes) -> np.ndarray:
    """uint8 (height, width, 4)"""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the store took, it has remarked on
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(pixels)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.int16)


def near_pairs(hashes: Sequence[str], radius: int, threads: int = 1) -> np.ndarray:
    """Pairs (i, j), i < j, of hashes within the radius, int64 (n, 2): all against all where that is quicker."""
    if len(hashes) < 2:
        return np.empty((0, 2), np.int64)
    if len(hashes) <= 1024:
        codes = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, 4)
        found = []
        for i in range(len(codes) - 1):
            apart = np.bitwise_count(codes[i + 1 :] ^ codes[i]).sum(axis=1)
            j = np.flatnonzero(apart <= radius) + i + 1
            found.append(np.stack([np.full(len(j), i), j], axis=1))
        return np.concatenate(found).astype(np.int64)
    from curation.kernels import hamming

    table = hamming.pairs(pa.array(hashes), radius=radius, threads=threads)
    return np.stack([table["a"].to_numpy(), table["b"].to_numpy()], axis=1)
