"""The one decorator for compiled kernels, and where their machine code is kept.

numba invalidates a cached function when its own file changes, not when a helper in another file does. So the cache
directory is named by a digest of every kernel source: a changed helper means a fresh directory. It lies in the
user's cache, never beside the source, so that read-only installs work; where no directory can be written at all,
kernels compile in memory.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np


@cache
def _cache_directory() -> str:
    """A writable directory for this revision of the kernels, or "" when there is none."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    spare = Path(tempfile.gettempdir()) / f"winnow-{os.getuid()}"
    chosen = [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else []
    for root in [*chosen, home / "winnow", spare]:
        path = root / f"kernels-{digest.hexdigest()[:12]}"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(path, os.W_OK):
            return str(path)
    return ""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first call, without the GIL; integer kernels only, so no fastmath is ever needed."""
    directory = _cache_directory()
    previous, numba.config.CACHE_DIR = numba.config.CACHE_DIR, directory
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=bool(directory))(function)
    finally:
        numba.config.CACHE_DIR = previous


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that only kernels call: compiled into them, so it needs no cache entry of its own."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def melted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A helper that runs once a text: melted into what calls it, for a call passes each array as seven arguments."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A small helper that is compiled only as a part of what calls it, so that it costs no compilation of its own."""
    return numba.njit(inline="always")(function)


@inlined
def copy(source, target):  # type: ignore[no-untyped-def]
    """Copy an array to the head of another. `target[:n] = source` would compile a second of code for its error message."""
    for i in range(len(source)):
        target[i] = source[i]


@helper
def grown(rows):  # type: ignore[no-untyped-def]
    """A two-dimensional array of twice the length that begins with these rows."""
    larger = np.empty((2 * rows.shape[0], rows.shape[1]), rows.dtype)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            larger[i, j] = rows[i, j]
    return larger
