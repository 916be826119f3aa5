"""MinHash signatures, and the band keys and sketches that are cut from them.

Permutations are datasketch's "affine32" scheme: one fmix32 of the shingle hash, then a * h + b modulo 2**32 for
each slot, and the minimum over all shingles. Slots come in blocks of 32 (`fold`): callers pad a and b.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import helper, kernel
from ._sha1 import sha1_hashes, sha1_schedule
from ._shingles import fmix32, shingle_hashes, view
from ._text import workspace
from ._vector import SLOTS, fold

EMPTY = np.uint32(0xFFFFFFFF)
_KEY1, _KEY2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_KEY3 = np.uint64(0x94D049BB133111EB)


@helper
def _minima(hashes, count, a, b, padded, out):
    """Minimum of a * h + b over hashes[:count], for every slot; EMPTY without hashes."""
    padded[:] = EMPTY
    for slot in range(0, len(padded), SLOTS):
        fold(hashes, count, a, b, padded, slot)
    for slot in range(len(out)):
        out[slot] = padded[slot]


@kernel
def signature_rows(address, length, n, unit, a, b, longest, out):
    """Signatures of texts by xxh32 into out, uint32 (rows, slots)."""
    hashes, padded, room = np.empty(longest + 16, np.uint32), np.empty(len(a), np.uint32), workspace(longest)
    for row in range(len(address)):
        count = shingle_hashes(view(address[row], length[row]), n, unit, room, hashes)
        _minima(hashes, count, a, b, padded, out[row])


@kernel
def sha1_signature_rows(address, length, n, unit, a, b, longest, out):
    """Signatures of texts by SHA-1 into out, uint32 (rows, slots)."""
    hashes, padded, room = np.empty(longest + 16, np.uint32), np.empty(len(a), np.uint32), workspace(longest)
    schedule = sha1_schedule()
    for row in range(len(address)):
        count = sha1_hashes(view(address[row], length[row]), n, unit, room, schedule, hashes)
        for i in range(count):
            hashes[i] = fmix32(hashes[i])
        _minima(hashes, count, a, b, padded, out[row])


@kernel
def prehashed_rows(hashes, offsets, a, b, out):
    """Signatures of sets of 32-bit hashes: set i is hashes[offsets[i]:offsets[i + 1]]."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    buffer, padded = np.empty(longest, np.uint32), np.empty(len(a), np.uint32)
    for row in range(len(offsets) - 1):
        own = hashes[offsets[row] : offsets[row + 1]]
        for i in range(len(own)):
            buffer[i] = fmix32(own[i])
        _minima(buffer, len(own), a, b, padded, out[row])


@kernel
def cut(signatures, bands, rows, keys, sketches, marks):
    """Band keys, uint64 (bands, n), and sketches, the low byte of each slot, uint8 (n, slots).

    `marks`, uint32 (n, bands), are the high halves of the keys, where one text's lie together.

    A text without shingles gets the key 0 in every band, which no other text has.
    """
    for row in range(signatures.shape[0]):
        signature = signatures[row]
        sketch, mark = sketches[row], marks[row]
        empty = np.uint32(0)
        for s in range(len(signature)):
            sketch[s] = np.uint8(signature[s])
            empty |= ~signature[s]
        for band in range(bands):
            key = _KEY1 * np.uint64(band + 1)
            last = band * rows + rows - 1
            for s in range(band * rows, last, 2):
                key = (key ^ (np.uint64(signature[s]) | (np.uint64(signature[s + 1]) << np.uint64(32)))) * _KEY2
                key ^= key >> np.uint64(32)
            if rows & 1:
                key = (key ^ np.uint64(signature[last])) * _KEY2
                key ^= key >> np.uint64(29)
            key *= _KEY3
            key ^= key >> np.uint64(31)
            key = max(key, np.uint64(1)) if empty else np.uint64(0)
            keys[band, row] = key
            mark[band] = np.uint32(key >> np.uint64(32))
