"""How kernels see a text: its bytes, the words of 32 bits at every byte, and where its units begin.

Units are bytes, code points, or words as `str.split()` gives them. White space is found 64 bytes at a time; beyond
ASCII only the bytes that can begin a white space are looked at one by one.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._jit import helper, inlined, melted
from ._vector import LANES, byte_classes, copy16, trailing_zeros, words16

BYTE, CHAR, WORD = 0, 1, 2
_SPACE = np.uint8(32)
_ONE = np.uint64(1)


@intrinsic
def _pointer(typingctx, address):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), codegen


@inlined
def view(address, length):
    """The text at an address, as a byte array that copies nothing; no text (a null) has no bytes."""
    return carray(_pointer(address), (max(length, 0),), np.uint8)


@helper
def workspace(longest):
    """Buffers for texts of up to `longest` bytes, used again for each: (scratch, starts, edges, words, block)."""
    scratch = np.empty(longest + 33, np.uint8)
    starts, edges = np.empty(longest + LANES + 2, np.int32), np.empty(longest + 3, np.int32)
    return scratch, starts, edges, np.empty(longest + 32, np.uint32), np.empty(64, np.uint8)


@inlined
def spread_words(text, room):
    """words[i] = the four bytes from i on, little endian, with zeros beyond the end, for 8 places past it as well."""
    words, block = room[3], room[4]
    n = len(text)
    if n < 16:
        for i in range(16):
            block[i] = text[i] if i < n else 0
        words16(block, 0, words, 0)
    else:
        for at in range(0, n - 15, 13):
            words16(text, at, words, at)
        words16(text, n - 16, words, n - 16)
    for i in range(n, n + 8):
        words[i] = 0


@inlined
def is_ascii(text):
    high = np.uint8(0)
    for i in range(len(text)):
        high |= text[i]
    return high < 128


@melted
def units(text, unit, room):
    """Cut a text into bytes, code points or words.

    Returns (bytes, count): unit i is bytes[starts[i]:starts[i + 1] - gap] of the workspace's `starts`, where gap is 1
    for words (the space that joins them), else 0. The last start is repeated, for kernels that read ahead.
    """
    starts = room[1]
    data, count = text, 0
    if unit == BYTE:
        count = len(text)
        for i in range(count + 1):
            starts[i] = i
    elif unit == CHAR:
        for i in range(len(text)):
            starts[count] = i
            count += (text[i] & 0xC0) != 0x80
        starts[count] = len(text)
    else:
        count = _single_spaces(text, room)
        if count < 0:
            data, count = _joined(text, room)
    for lane in range(1, LANES + 1):
        starts[count + lane] = starts[count]
    return data, count


@inlined
def _classes(text, at, block):
    """The byte classes of text[at:at + 64]; bits beyond the end are 0."""
    n = len(text)
    if at + 64 <= n:
        return byte_classes(text, at)
    beyond = np.uint64(at + 64 - n)
    if n >= 64:
        blank, other, lead = byte_classes(text, n - 64)
    else:
        for i in range(64):
            block[i] = text[i + n - 64] if i + n >= 64 else 0
        blank, other, lead = byte_classes(block, 0)
    return blank >> beyond, other >> beyond, lead >> beyond


@inlined
def _single_spaces(text, room):
    """Word starts of a text whose words are joined by one space each, as most are: it needs no copy. Else -1."""
    starts, block = room[1], room[4]
    n = len(text)
    if n == 0 or text[0] == _SPACE or text[n - 1] == _SPACE:
        return -1
    starts[0] = 0
    count = np.uint64(0)
    before = np.uint64(0)
    for at in range(0, n, 64):
        blank, other, lead = _classes(text, at, block)
        if other | lead | (blank & ((blank << _ONE) | before)):
            return -1
        before = blank >> np.uint64(63)
        while blank:
            count += _ONE
            starts[count] = at + 1 + trailing_zeros(blank)
            blank &= blank - _ONE
    starts[count + _ONE] = n + 1
    return np.int64(count) + 1


@helper
def _joined(text, room):
    """The words of any text, joined by one space each in `scratch`, and how many they are; fills `starts`."""
    scratch, starts, edges, _, block = room
    n = len(text)
    turns = 0
    before = _ONE
    spill = np.uint64(0)
    for at in range(0, n, 64):
        blank, other, lead = _classes(text, at, block)
        space = blank | other | spill
        spill = np.uint64(0)
        while lead:
            i = trailing_zeros(lead)
            lead &= lead - _ONE
            size = _space_length(text, at + i)
            if size:
                run = (_ONE << np.uint64(size)) - _ONE
                space |= run << np.uint64(i)
                if i + size > 64:
                    spill = run >> np.uint64(64 - i)
        if n - at < 64:
            space |= ~np.uint64(0) << np.uint64(n - at)
        turn = space ^ ((space << _ONE) | before)
        before = space >> np.uint64(63)
        while turn:
            edges[turns] = at + trailing_zeros(turn)
            turn &= turn - _ONE
            turns += 1
    if turns & 1:
        edges[turns] = n
    count = (turns + 1) // 2
    to = 0
    for word in range(count):
        starts[word] = to
        begin, end = edges[2 * word], edges[2 * word + 1]
        i = begin
        while i < end and i + 16 <= n:
            copy16(text, i, scratch, to + i - begin)
            i += 16
        while i < end:
            scratch[to + i - begin] = text[i]
            i += 1
        to += end - begin + 1
        scratch[to - 1] = _SPACE
    starts[count] = to
    return scratch[:to], count


@helper
def _space_length(v, i):
    """How many bytes of white space beyond ASCII start at i, 0 to 3, by the definition of `str.isspace`."""
    c = v[i]
    if c == 0xC2 and i + 1 < len(v):
        return 2 if v[i + 1] == 0x85 or v[i + 1] == 0xA0 else 0
    if i + 2 < len(v):
        d, e = v[i + 1], v[i + 2]
        if c == 0xE1:
            return 3 if d == 0x9A and e == 0x80 else 0
        if c == 0xE2 and d == 0x80:
            return 3 if 0x80 <= e <= 0x8A or e == 0xA8 or e == 0xA9 or e == 0xAF else 0
        if c == 0xE2:
            return 3 if d == 0x81 and e == 0x9F else 0
        if c == 0xE3:
            return 3 if d == 0x80 and e == 0x80 else 0
    return 0
