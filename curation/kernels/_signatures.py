"""MinHash signatures, and the band keys and sketches that are cut from them.

Permutations are datasketch's "affine32" scheme: one fmix32 of the shingle hash, then a * h + b modulo 2**32 for
each slot, and the minimum over all shingles. Eight hashes are held in scalars while the inner loop runs over the
slots: each slot is then loaded and stored once for eight products, and the loop becomes plain vector code.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import helper, kernel
from ._sha1 import LANES
from ._shingles import fmix32, shingle_hashes, view

EMPTY = np.uint32(0xFFFFFFFF)
_KEY1, _KEY2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_KEY3 = np.uint64(0x94D049BB133111EB)


@helper
def _fold(hashes, count, a, b, out):
    """Minimum of a * h + b over hashes[:count], for every slot. `hashes` needs 7 places more than count."""
    out[:] = EMPTY
    if count == 0:
        return
    hashes[count : count + 7] = hashes[0]  # repeats change no minimum, so the loop needs no remainder
    for i in range(0, count, 8):
        h0, h1, h2, h3 = hashes[i], hashes[i + 1], hashes[i + 2], hashes[i + 3]
        h4, h5, h6, h7 = hashes[i + 4], hashes[i + 5], hashes[i + 6], hashes[i + 7]
        for s in range(len(out)):
            m, c = a[s], b[s]
            low = min(np.uint32(np.uint32(m * h0) + c), np.uint32(np.uint32(m * h1) + c))
            low = min(low, min(np.uint32(np.uint32(m * h2) + c), np.uint32(np.uint32(m * h3) + c)))
            low = min(low, min(np.uint32(np.uint32(m * h4) + c), np.uint32(np.uint32(m * h5) + c)))
            low = min(low, min(np.uint32(np.uint32(m * h6) + c), np.uint32(np.uint32(m * h7) + c)))
            out[s] = min(out[s], low)


@kernel
def signature_rows(address, length, n, unit, hash_kind, a, b, longest, out):
    """Signatures of texts into out, uint32 (rows, slots)."""
    hashes = np.empty(longest + 9, np.uint32)
    starts = np.empty(longest + 2, np.int32)
    scratch = np.empty(longest + 1, np.uint8)
    sha = np.empty((90, LANES), np.uint32)
    for row in range(len(address)):
        text = view(address[row], max(length[row], 0))
        count = shingle_hashes(text, n, unit, hash_kind, scratch, starts, sha, hashes)
        _fold(hashes, count, a, b, out[row])


@kernel
def prehashed_rows(hashes, offsets, a, b, out):
    """Signatures of sets of 32-bit hashes: set i is hashes[offsets[i]:offsets[i + 1]]."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    buffer = np.empty(longest + 7, np.uint32)
    for row in range(len(offsets) - 1):
        count = offsets[row + 1] - offsets[row]
        own = hashes[offsets[row] : offsets[row + 1]]
        for i in range(count):
            buffer[i] = fmix32(own[i])
        _fold(buffer, count, a, b, out[row])


@kernel
def cut(signatures, bands, rows, keys, sketches, marks):
    """Band keys, uint64 (bands, n), and sketches, the low byte of each slot, uint8 (n, bands * rows).

    `marks`, uint32 (n, bands), are the high halves of the keys, where one text's lie together.

    A text without shingles gets the key 0 in every band, which no other text has.
    """
    for row in range(signatures.shape[0]):
        signature = signatures[row]
        sketch = sketches[row]
        for s in range(bands * rows):
            sketch[s] = np.uint8(signature[s])
        empty = True
        for s in range(len(signature)):
            if signature[s] != EMPTY:
                empty = False
        for band in range(bands):
            key = _KEY1 * np.uint64(band + 1)
            for s in range(band * rows, band * rows + rows):
                key = (key ^ np.uint64(signature[s])) * _KEY2
                key ^= key >> np.uint64(29)
            key = (key ^ (key >> np.uint64(32))) * _KEY3
            key ^= key >> np.uint64(31)
            keys[band, row] = np.uint64(0) if empty else max(key, np.uint64(1))
            marks[row, band] = np.uint32(key >> np.uint64(32))
