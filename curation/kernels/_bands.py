"""Where band keys and sketches lie while texts are clustered: in memory, or in one temporary file.

Keys are written band by band and read one band at a time; sketches are mapped, so that the system keeps the pages
that are in use. The file has no name once it is open: nothing is left behind, however the process ends.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np


class BandStore:
    """Band keys, band by band, sketches, and marks of the keys, text by text: in memory, or in a temporary file that is gone at the end."""

    def __init__(self, scratch: str | Path | None, bands: int, slots: int, count: int) -> None:
        self.bands, self.slots, self.count = bands, slots, count
        self._file = None if scratch is None else tempfile.TemporaryFile(dir=scratch, prefix="winnow-bands-")  # noqa: SIM115
        if self._file is None or count == 0:
            self._keys = np.empty((bands, count), np.uint64)
            self.sketches = np.empty((count, slots), np.uint8)
            self.marks = np.empty((count, bands), np.uint32)
        else:
            self._file.truncate(count * (12 * bands + slots))
            self.sketches = self._map(np.uint8, count * bands * 12, (count, slots))
            self.marks = self._map(np.uint32, count * bands * 8, (count, bands))

    def _map(self, kind: type, offset: int, shape: tuple[int, int]) -> np.ndarray:
        assert self._file is not None
        return np.memmap(self._file, kind, "r+", offset=offset, shape=shape).view(np.ndarray)

    def __enter__(self) -> BandStore:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, start: int, keys: np.ndarray) -> None:
        """Keys, uint64 (bands, m), of the texts from `start` on."""
        if self._file is None or self.count == 0:
            self._keys[:, start : start + keys.shape[1]] = keys
            return
        for band in range(self.bands):
            os.pwrite(self._file.fileno(), keys[band].tobytes(), (band * self.count + start) * 8)

    def keys(self, band: int) -> np.ndarray:
        """The keys of one band, uint64 (count,)."""
        if self._file is None or self.count == 0:
            return self._keys[band]
        keys = np.empty(self.count, np.uint64)
        into, at = keys.data.cast("B"), 0
        while at < len(into):  # a call may read less than all; threads read at once, so there is no position to share
            at += os.preadv(self._file.fileno(), [into[at:]], band * self.count * 8 + at)
        return keys
