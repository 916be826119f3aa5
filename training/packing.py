"""Which samples share a pack: a deterministic stream whose whole state fits in a checkpoint.

Samples come in the order of an epoch's permutation (or of the data), and each goes into the first open bin that has
room for it. When no bin has, the oldest one is closed and becomes the next pack, so none waits for long. With 16 open
bins that comes within a percent of packing with all samples at hand, and costs microseconds per sample. Epochs follow each
other without a seam: a bin may hold the end of one and the beginning of the next.

Every process plans the same stream and takes its share of each step, so the packs of a step do not depend on how many
processes or data workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import WinnowError

WINDOW = 4
"""Row groups among which a streamed set is shuffled: so many are in memory at once."""


class Shape(NamedTuple):
    """How large a sample is."""

    tokens: int
    targets: int
    patches: int


@dataclass
class Bin:
    """Samples that will share a pack."""

    samples: list[int] = field(default_factory=list)
    tokens: int = 0
    patches: int = 0


@dataclass(frozen=True)
class Pack:
    """Samples of one micro-batch, and where the stream stands behind it."""

    samples: tuple[int, ...]
    state: dict[str, Any] = field(compare=False, repr=False)


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: argsort of the raw words of a Philox stream keyed by (seed, epoch), which no version of
    numpy changes."""
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")


def block_permutation(blocks: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch of a streamed set: its blocks (row groups) in an order of their own, and the rows of
    `WINDOW` neighbours mixed."""
    starts = np.cumsum([0, *blocks])
    order = permutation(len(blocks), seed, epoch)
    windows = []
    for n, at in enumerate(range(0, len(blocks), WINDOW)):
        rows = np.concatenate([np.arange(starts[b], starts[b + 1]) for b in order[at : at + WINDOW]])
        windows.append(rows[permutation(len(rows), seed, (epoch << 32) + n + 1)])
    return np.concatenate(windows)


class Order:
    """Sample numbers without end, or for some epochs; (epoch, at) is where it stands.

    blocks  rows of each row group, for sets that are read group by group
    """

    def __init__(
        self, count: int, *, seed: int, shuffle: bool, epochs: float | None = None, blocks: Sequence[int] | None = None
    ):
        self._count, self._seed, self._shuffle, self._blocks = count, seed, shuffle, blocks
        self._last = None if epochs is None else round(epochs * count)
        self.epoch, self.at = 0, 0
        self._order: np.ndarray | None = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self.at == self._count:
            self.epoch, self.at, self._order = self.epoch + 1, 0, None
        if self._last is not None and self.epoch * self._count + self.at >= self._last:
            raise StopIteration
        if self._order is None:
            self._order = self._numbers()
        self.at += 1
        return int(self._order[self.at - 1])

    def _numbers(self) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._count)
        if self._blocks is not None:
            return block_permutation(self._blocks, self._seed, self.epoch)
        return permutation(self._count, self._seed, self.epoch)

    def seek(self, epoch: int, at: int) -> None:
        self.epoch, self.at, self._order = epoch, at, None


class Packer:
    """The stream of packs. Iterate it; `Pack.state` is what `resume` takes.

    shapes    sample number -> how large it is, None for a row that cannot be used
    fixed     a pack of so many samples, whatever their length (no packing)
    too_large told of samples that no pack can hold; they are passed over
    """

    def __init__(
        self,
        order: Order,
        shapes: Callable[[int], Shape | None],
        *,
        max_tokens: int,
        max_patches: int | None = None,
        open_bins: int = 16,
        fixed: int | None = None,
        too_large: Callable[[int, Shape], None] = lambda number, shape: None,
    ):
        self._order, self._shapes, self._too_large = order, shapes, too_large
        self._max_tokens, self._max_patches = max_tokens, max_patches
        self._open, self._fixed = 1 if fixed else open_bins, fixed
        self._bins: list[Bin] = []

    def resume(self, state: dict[str, Any]) -> None:
        self._order.seek(state["epoch"], state["at"])
        self._bins = [Bin(list(samples), tokens, patches) for samples, tokens, patches in state["bins"]]

    def __iter__(self) -> Iterator[Pack]:
        empty_since = self._order.epoch
        for sample in self._order:
            shape = self._shapes(sample)
            if shape is None or self.holds_not(shape):
                if shape is not None:
                    self._too_large(sample, shape)
                if self._order.epoch > empty_since + 1:
                    raise WinnowError(
                        f"No sample fits into a pack of {self._max_tokens:,} tokens.\nRaise batch.max_tokens"
                        + (" or batch.max_patches." if self._max_patches is not None else ".")
                    )
                continue
            empty_since = self._order.epoch
            closed = self._add(sample, shape)
            if closed is not None:
                yield self._pack(closed)
        while self._bins:
            yield self._pack(self._bins.pop(0))

    def holds_not(self, shape: Shape) -> bool:
        """Whether no pack can hold a sample."""
        return shape.tokens > self._max_tokens or (self._max_patches is not None and shape.patches > self._max_patches)

    def _pack(self, closed: Bin) -> Pack:
        bins = [[list(b.samples), b.tokens, b.patches] for b in self._bins]
        return Pack(tuple(closed.samples), {"epoch": self._order.epoch, "at": self._order.at, "bins": bins})

    def _add(self, sample: int, shape: Shape) -> Bin | None:
        """Put a sample into a bin; the bin that had to be closed for it, if any."""
        closed = None
        place = next((b for b in self._bins if self._fits(b, shape)), None)
        if place is None:
            if len(self._bins) == self._open:
                closed = self._bins.pop(0)
            place = Bin()
            self._bins.append(place)
        place.samples.append(sample)
        place.tokens += shape.tokens
        place.patches += shape.patches
        return closed

    def _fits(self, place: Bin, shape: Shape) -> bool:
        if self._max_patches is not None and place.patches + shape.patches > self._max_patches:
            return False
        if self._fixed is not None:
            return len(place.samples) < self._fixed
        return place.tokens + shape.tokens <= self._max_tokens
