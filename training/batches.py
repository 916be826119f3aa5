"""From a pack of samples to the tensors of one forward pass, and the loader that makes them ahead of time.

A packed batch is one row of tokens, the samples one after the other; `lengths` says where each ends, and positions
begin again with each. Without packing every sample is a row, padded on the right: under a causal mask no real token
sees padding, so no mask is needed. What is a target is told by spans, never by token values.

Data workers hold no state: a pack names its samples, any worker can make it, and it comes in the order of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.index import LeftOut, Named, RowStream, Samples
from training.packing import Pack, Packer
from training.sources import BadRow
from training.tokens import Encoder


@dataclass
class Batch:
    """The tensors of one micro-batch. B is 1 where samples are packed, L the longest row, N the number of targets.

    ids        [B, L] token ids
    positions  [B, L], or [4, B, L] for M-RoPE: the position in the sample, then time, height and width
    at         [N] where in the flat B·L the hidden state is that predicts each target
    targets    [N] token ids
    owner      [N] which sample of the batch a target belongs to
    pixels     [patches, dim] of all pictures in their order, or None
    grids      [pictures, 3] their patches in time, height and width
    """

    ids: Tensor
    positions: Tensor
    at: Tensor
    targets: Tensor
    owner: Tensor
    pixels: Tensor | None
    grids: Tensor | None
    lengths: list[int]
    packed: bool
    row_ids: list[str]
    sources: list[str]
    left_out: list[LeftOut] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    def to(self, device: Any) -> Batch:
        moved = {
            f.name: value.to(device, non_blocking=True) if isinstance(value := getattr(self, f.name), Tensor) else value
            for f in fields(self)
        }
        return Batch(**moved)

    def pin_memory(self) -> Batch:
        pinned = {
            f.name: value.pin_memory() if isinstance(value := getattr(self, f.name), Tensor) else value
            for f in fields(self)
        }
        return Batch(**pinned)


class Collator:
    """Makes a batch of samples. `mrope` for models whose positions have time, height and width."""

    def __init__(self, encoder: Encoder, *, packed: bool, mrope: bool):
        self._encoder, self._packed, self._mrope = encoder, packed, mrope

    def __call__(self, samples: Sequence[Named], state: dict[str, Any]) -> Batch:
        """A picture that cannot be decoded costs its sample, and the batch says so in `left_out`."""
        good: list[Named] = []
        gone: list[LeftOut] = []
        pixels: list[Tensor] = []
        for named in samples:
            try:
                made = [self._pixels(named, n) for n in range(len(named.sample.pictures))]
            except BadRow as error:
                gone.append(LeftOut(named.row_id, named.source, error.reason, error.sentence))
                continue
            good.append(named)
            pixels += made
        grids = [[1, height, width] for named in good for _, height, width in named.sample.images]
        lengths = [len(named.sample.ids) for named in good] or [1]  # a batch that lost all its samples: one idle token
        rows = [(named.sample.ids, self._positions(named)) for named in good] or [([0], self._text_positions(1))]
        width = sum(lengths) if self._packed else max(lengths)
        starts = np.cumsum([0, *lengths[:-1]]) if self._packed else np.arange(len(lengths)) * width
        shape = (1, width) if self._packed else (len(rows), width)
        ids = np.zeros(shape[0] * width, np.int64)
        positions = np.zeros((4 if self._mrope else 1, shape[0] * width), np.int64)
        at, targets, owner = [], [], []
        for n, ((tokens, places), start) in enumerate(zip(rows, starts, strict=True)):
            ids[start : start + len(tokens)] = tokens
            positions[:, start : start + len(tokens)] = places
            for begin, end in good[n].sample.spans if good else ():
                at.append(np.arange(begin - 1, end - 1) + start)
                targets.append(np.asarray(tokens[begin:end], np.int64))
                owner.append(np.full(end - begin, n, np.int64))
        return Batch(
            ids=torch.from_numpy(ids.reshape(shape)),
            positions=torch.from_numpy(positions.reshape(-1, *shape) if self._mrope else positions.reshape(shape)),
            at=_joined(at),
            targets=_joined(targets),
            owner=_joined(owner),
            pixels=torch.cat(pixels) if pixels else None,
            grids=torch.tensor(grids) if grids else None,
            lengths=lengths,
            packed=self._packed,
            row_ids=[named.row_id for named in good],
            sources=[named.source for named in good],
            left_out=gone,
            state=state,
        )

    def _pixels(self, named: Named, n: int) -> Tensor:
        picture, (_, height, width) = named.sample.pictures[n], named.sample.images[n]
        patches, grid = self._encoder.pixels(picture.read())
        if grid != (height, width):
            raise BadRow("image_changed", f"A picture has {grid} patches, and had {(height, width)} when it was read.")
        return patches

    def _positions(self, named: Named) -> np.ndarray:
        length, images = len(named.sample.ids), named.sample.images
        if not self._mrope:
            return self._text_positions(length)
        return mrope_positions(length, images, self._encoder.merge)

    def _text_positions(self, length: int) -> np.ndarray:
        return np.broadcast_to(np.arange(length), (4 if self._mrope else 1, length))


def _joined(pieces: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces)) if pieces else torch.zeros(0, dtype=torch.long)


def mrope_positions(length: int, images: Sequence[tuple[int, int, int]], merge: int) -> np.ndarray:
    """Positions of one sample, [4, length]: in the text, then time, height and width (Qwen2-VL, arXiv 2409.12191, §2.1).

    Text counts up in all three; a picture of h · w merged patches holds time still and counts rows and columns from
    where the text stood; the text goes on behind the larger side.
    """
    out = np.empty((4, length), np.int64)
    out[0] = np.arange(length)
    done = position = 0
    for at, height, width in images:
        rows, columns = height // merge, width // merge
        out[1:, done:at] = position + np.arange(at - done)
        position += at - done
        end = at + rows * columns
        out[1, at:end] = position
        out[2, at:end] = position + np.repeat(np.arange(rows), columns)
        out[3, at:end] = position + np.tile(np.arange(columns), rows)
        done, position = end, position + max(rows, columns)
    out[1:, done:] = position + np.arange(length - done)
    return out


# --------------------------------------------------------------------------------------------------------------- loader


class _ByPack(torch.utils.data.Dataset):  # type: ignore[misc]
    def __init__(self, samples: Samples, collate: Collator):
        self._samples, self._collate = samples, collate

    def __getitem__(self, pack: Pack) -> Batch:
        return self._collate([self._samples.get(n) for n in pack.samples], pack.state)


class _Streamed(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Plan and samples in one process, since the plan needs the lengths that tokenising gives."""

    def __init__(self, samples: RowStream, packs: Iterable[Pack], collate: Collator):
        self._samples, self._packs, self._collate = samples, packs, collate

    def __iter__(self) -> Iterator[Batch]:
        for pack in self._packs:
            named = [self._samples.get(n) for n in pack.samples]
            batch = self._collate(named, pack.state)
            batch.left_out += self._samples.left_out
            self._samples.left_out = []
            yield batch


class Share:
    """The packs of one process: of every `world` packs the one at `rank`. `passed` is told of the others' samples."""

    def __init__(self, packer: Packer, rank: int, world: int, passed: Callable[[int], None] = lambda number: None):
        self._packer, self._rank, self._world, self._passed = packer, rank, world, passed

    def __iter__(self) -> Iterator[Pack]:
        row: list[Pack] = []
        for pack in self._packer:
            if len(row) != self._rank:
                for number in pack.samples:
                    self._passed(number)
            row.append(pack)
            if len(row) == self._world:
                # The state is that behind the whole row: all processes stop and go on together.
                yield Pack(row[self._rank].samples, row[-1].state)
                row = []
        if row:
            own = row[self._rank].samples if self._rank < len(row) else ()
            yield Pack(own, row[-1].state)


def load(samples: Samples, packs: Iterable[Pack], collate: Collator, *, workers: int, pin: bool) -> Iterator[Batch]:
    """Batches in the order of `packs`, made ahead by `workers` processes (0: in this one, when asked for).

    The loader draws from a generator of its own: it must not move the one that dropout draws from.
    """
    options: dict[str, Any] = {
        "batch_size": None,
        "pin_memory": pin,
        "generator": torch.Generator(),
        "prefetch_factor": 2 if workers else None,
    }
    if isinstance(samples, RowStream):
        dataset = _Streamed(samples, packs, collate)
        yield from torch.utils.data.DataLoader(dataset, num_workers=min(workers, 1), **options)
    else:
        dataset = _ByPack(samples, collate)
        yield from torch.utils.data.DataLoader(dataset, sampler=packs, num_workers=workers, **options)
