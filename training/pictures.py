"""Pictures that were decoded once: the newest, by the content of their bytes, up to so many bytes of patches.

In RL a picture is looked at by every answer to its question and in every pass of a step. Decoding and cutting it into
patches is a function of its bytes and of the encoder alone, so what is kept is what would be made again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

Patches = tuple[Any, tuple[int, int]]
"""A tensor [patches, values] that nobody may write to, and its grid."""


class PictureCache:
    """`cache(data, make)` is `make(data)`. Errors are not kept. Threads may share it: answers are drawn ahead in one."""

    def __init__(self, limit: int):
        self._limit, self._lock = limit, threading.Lock()
        self._kept: OrderedDict[bytes, Patches] = OrderedDict()  # the one used longest ago first
        self.bytes = 0

    def __call__(self, data: bytes, make: Callable[[bytes], Patches]) -> Patches:
        if not self._limit:
            return make(data)
        key = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make(data)
        with self._lock:
            if key not in self._kept and made[0].nbytes <= self._limit:
                self._kept[key] = made
                self.bytes += made[0].nbytes
                while self.bytes > self._limit:
                    self.bytes -= self._kept.popitem(last=False)[1][0].nbytes
        return made
