"""A small grey picture of a large one, bit for bit as Pillow's `convert("L").resize(size, LANCZOS)` makes it.

A perceptual hash needs 17 x 16 grey pixels, and Pillow takes longer to make them than to decode a JPEG. The work is one
weighted sum per thumbnail column and picture row, in 22-bit fixed point as Pillow does it: here grey is computed row by
row into a buffer that stays in the cache, and the sums run over it in vector registers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from curation.kernels._jit import helper, kernel

_BITS = 22
"""Pillow's resampling weights are integers of 1 / 2^22."""


@helper
def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


@lru_cache(maxsize=1024)  # their sines cost as much as a small picture
@kernel
def _weights(size: int, out: int):  # type: ignore[no-untyped-def]
    """First pixel, number of pixels and their weights for each of `out` thumbnail pixels along a side of `size`."""
    scale = size / out
    stretch = max(scale, 1.0)
    support = 3.0 * stretch
    starts = np.empty(out, np.int64)
    counts = np.empty(out, np.int64)
    weights = np.zeros((out, math.ceil(support) * 2 + 1), np.int32)
    raw = np.empty(weights.shape[1], np.float64)
    for i in range(out):
        center = (i + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), size) - first
        total = 0.0
        for j in range(count):
            x = (j + first - center + 0.5) * (1.0 / stretch)
            raw[j] = _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0
            total += raw[j]
        for j in range(count):
            value = raw[j] / total * (1 << _BITS)
            weights[i, j] = int(value - 0.5) if value < 0 else int(value + 0.5)
        starts[i], counts[i] = first, count
    return starts, counts, weights


@helper
def _clipped(total: int) -> int:
    return min(max(total >> _BITS, 0), 255)


@helper
def _dot(values, weights, count):  # type: ignore[no-untyped-def]
    total = np.int32(1 << (_BITS - 1))
    for j in range(count):
        total = np.int32(total + np.int32(values[j]) * weights[j])
    return total


@helper
def _grey(line, grey, colour):  # type: ignore[no-untyped-def]
    """ITU-R 601 luma of one row, in Pillow's 16-bit fixed point; a grey row is copied."""
    if colour:
        for x in range(len(grey)):
            pixel = np.uint32(line[x])
            red, green, blue = (
                pixel & np.uint32(255),
                (pixel >> np.uint32(8)) & np.uint32(255),
                (pixel >> np.uint32(16)) & np.uint32(255),
            )
            luma = red * np.uint32(19595) + green * np.uint32(38470) + blue * np.uint32(7471) + np.uint32(0x8000)
            grey[x] = np.int32(luma >> np.uint32(16))
    else:
        for x in range(len(grey)):
            grey[x] = line[x]


def thumbnail(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width) uint8 grey thumbnail of an (H, W) picture: uint8 grey, or uint32 with red in the lowest byte,
    then green and blue, as Pillow holds RGB and RGBA on a little-endian machine."""
    rows, columns = pixels.shape
    return _shrunk(pixels, width, height, *_weights(columns, width), *_weights(rows, height))


@kernel
def _shrunk(pixels, width, height, x_starts, x_counts, x_weights, y_starts, y_counts, y_weights):  # type: ignore[no-untyped-def]
    rows, columns = pixels.shape
    colour = pixels.itemsize == 4
    result = np.empty((height, width), np.uint8)
    grey = np.empty(columns, np.int32)
    # Pillow rounds between its two passes, so their order shows: rows go first where far more of them are taken away.
    if rows > height and rows - height > (columns - width) * 2:
        sums = np.full((height, columns), 1 << (_BITS - 1), np.int32)
        for y in range(rows):
            _grey(pixels[y], grey, colour)
            for i in range(height):
                at = y - y_starts[i]
                if 0 <= at < y_counts[i]:
                    weight = y_weights[i, at]
                    line = sums[i]
                    for x in range(columns):
                        line[x] += np.int32(grey[x] * weight)
        for i in range(height):
            for x in range(columns):
                grey[x] = _clipped(sums[i, x])
            for x in range(width):
                result[i, x] = _clipped(_dot(grey[x_starts[x] :], x_weights[x], x_counts[x]))
        return result
    narrow = np.empty((width, rows), np.int32)
    for y in range(rows):
        _grey(pixels[y], grey, colour)
        for x in range(width):
            narrow[x, y] = _clipped(_dot(grey[x_starts[x] :], x_weights[x], x_counts[x]))
    for i in range(height):
        for x in range(width):
            result[i, x] = _clipped(_dot(narrow[x, y_starts[i] :], y_weights[i], y_counts[i]))
    return result
