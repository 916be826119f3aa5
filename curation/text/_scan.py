"""The compiled walk over a text that says which scripts and which known words it has.

One pass over UTF-8 bytes. Formulas, code, tags, addresses and LaTeX commands are stepped over; what stands between them
is counted, letter by letter for scripts and word by word (FNV-1a of lower-case code points) for languages in Latin
letters. Integers only, so the result is the same everywhere.
"""

from __future__ import annotations

import numpy as np

from curation.kernels._jit import helper, kernel
from curation.kernels._shingles import view

FNV_BASIS = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3

SCRIPTS = (
    "latin", "han", "kana", "hangul", "cyrillic", "arabic", "devanagari", "greek", "hebrew", "thai", "bengali", "tamil",
    "telugu", "gujarati", "gurmukhi", "kannada", "malayalam", "sinhala", "georgian", "armenian", "ethiopic", "khmer",
    "lao", "myanmar",
)  # fmt: skip
MARKS = ("uk", "be", "sr", "mk", "ru", "bg", "fa", "ur")
"""Letters that tell languages of one script apart."""

_LONGEST_SPAN = 4000


@helper
def _script(c):  # type: ignore[no-untyped-def]
    """Index in SCRIPTS of a code point beyond Latin, -1 where it has none."""
    if (
        0x4E00 <= c <= 0x9FFF
        or 0x3400 <= c <= 0x4DBF
        or 0x20000 <= c <= 0x3134F
        or 0xF900 <= c <= 0xFAFF
        or c == 0x3007
    ):
        return 1
    if 0x3041 <= c <= 0x30FF or 0x31F0 <= c <= 0x31FF or 0xFF66 <= c <= 0xFF9D:
        return 2 if c != 0x30FB else -1
    if 0xAC00 <= c <= 0xD7A3 or 0x1100 <= c <= 0x11FF or 0x3131 <= c <= 0x318E:
        return 3
    if 0x0400 <= c <= 0x052F:
        return 4
    if 0x0620 <= c <= 0x06FF or 0x0750 <= c <= 0x077F or 0xFB50 <= c <= 0xFDFF or 0xFE70 <= c <= 0xFEFC:
        return 5
    if 0x0900 <= c <= 0x097F:
        return 6
    if 0x0386 <= c <= 0x03FF or 0x1F00 <= c <= 0x1FFF:
        return 7
    if 0x05D0 <= c <= 0x05F2:
        return 8
    if 0x0E01 <= c <= 0x0E4E:
        return 9
    if 0x0980 <= c <= 0x0DFF:
        if c <= 0x09FF:
            return 10
        if 0x0B80 <= c <= 0x0BFF:
            return 11
        if 0x0C00 <= c <= 0x0C7F:
            return 12
        if 0x0A80 <= c <= 0x0AFF:
            return 13
        if 0x0A00 <= c <= 0x0A7F:
            return 14
        if 0x0C80 <= c <= 0x0CFF:
            return 15
        if 0x0D00 <= c <= 0x0D7F:
            return 16
        if c >= 0x0D80:
            return 17
        return -1
    if 0x10A0 <= c <= 0x10FF:
        return 18
    if 0x0531 <= c <= 0x0587:
        return 19
    if 0x1200 <= c <= 0x137F:
        return 20
    if 0x1780 <= c <= 0x17D3:
        return 21
    if 0x0E81 <= c <= 0x0EDD:
        return 22
    if 0x1000 <= c <= 0x109F:
        return 23
    return -1


@helper
def _mark(c):  # type: ignore[no-untyped-def]
    """Index in MARKS of a letter that only some languages of its script have, -1 for others."""
    if c in (0x0456, 0x0457, 0x0454, 0x0491, 0x0406, 0x0407, 0x0404, 0x0490):
        return 0
    if c in (0x045E, 0x040E):
        return 1
    if c in (0x0458, 0x0459, 0x045A, 0x045B, 0x0452, 0x045F):
        return 2
    if c in (0x0453, 0x045C, 0x0455):
        return 3
    if c in (0x044B, 0x044D, 0x0451, 0x042D):
        return 4
    if c == 0x044A:
        return 5
    if c in (0x067E, 0x0686, 0x0698, 0x06AF, 0x06CC, 0x06A9):
        return 6
    if c in (0x0679, 0x0688, 0x0691, 0x06BA, 0x06D2, 0x06C1):
        return 7
    return -1


@helper
def _decode(data, i, n):  # type: ignore[no-untyped-def]
    """The code point at byte i of UTF-8 text, and its length in bytes."""
    b = data[i]
    if b < 0x80:
        return np.int64(b), 1
    if b < 0xE0 and i + 1 < n:
        return (np.int64(b & 0x1F) << 6) | np.int64(data[i + 1] & 0x3F), 2
    if b < 0xF0 and i + 2 < n:
        return (np.int64(b & 0x0F) << 12) | (np.int64(data[i + 1] & 0x3F) << 6) | np.int64(data[i + 2] & 0x3F), 3
    if i + 3 < n:
        high = (np.int64(b & 0x07) << 18) | (np.int64(data[i + 1] & 0x3F) << 12)
        return high | (np.int64(data[i + 2] & 0x3F) << 6) | np.int64(data[i + 3] & 0x3F), 4
    return np.int64(0xFFFD), 1


@helper
def _lower(c):  # type: ignore[no-untyped-def]
    """Lower case of Latin letters: ASCII, Latin-1, Extended-A, the horned letters and those of Vietnamese."""
    if 0x41 <= c <= 0x5A or (0xC0 <= c <= 0xDE and c != 0xD7):
        return c + 32
    if c == 0x130:
        return np.int64(0x69)
    if 0x100 <= c <= 0x137 or 0x14A <= c <= 0x177 or 0x1E00 <= c <= 0x1EFF or c == 0x1A0 or 0x218 <= c <= 0x21B:
        return c | 1
    if ((0x139 <= c <= 0x148 or 0x179 <= c <= 0x17E) and c % 2 == 1) or c == 0x1AF:
        return c + 1
    return c


@helper
def _latin(c):  # type: ignore[no-untyped-def]
    if c < 0x80:
        return 0x41 <= c <= 0x5A or 0x61 <= c <= 0x7A
    return (0xC0 <= c <= 0x24F and c != 0xD7 and c != 0xF7) or 0x1E00 <= c <= 0x1EFF


@helper
def _until(data, i, n, first, second):  # type: ignore[no-untyped-def]
    """The byte behind the next `first` (followed by `second`, where that is not 0), or -1 where there is none near."""
    stop = min(n, i + _LONGEST_SPAN)
    for j in range(i, stop):
        if data[j] == first and (second == 0 or (j + 1 < n and data[j + 1] == second)):
            return j + (1 if second == 0 else 2)
    return -1


@helper
def _digit(b):  # type: ignore[no-untyped-def]
    return 0x30 <= b <= 0x39


@helper
def _skip(data, i, n):  # type: ignore[no-untyped-def]
    r"""The byte behind a formula, code, tag or command that begins at i; i where none does."""
    b = data[i]
    after = data[i + 1] if i + 1 < n else 0
    end = -1
    if b == 0x24:  # $
        if after == 0x24:
            end = _until(data, i + 2, n, 0x24, 0x24)
        else:
            end = _until(data, i + 1, n, 0x24, 0)
            # $5 and $7 are prices, and what stands between them is text.
            if end > 0 and _digit(after) and end < n and _digit(data[end]):
                end = -1
    elif b == 0x5C:  # backslash
        if after == 0x28:
            end = _until(data, i + 2, n, 0x5C, 0x29)
        elif after == 0x5B:
            end = _until(data, i + 2, n, 0x5C, 0x5D)
        elif _latin(np.int64(after)):
            end = i + 1
            while end < n and _latin(np.int64(data[end])):
                end += 1
        else:
            end = i + 2
    elif b == 0x60:  # `
        if after == 0x60 and i + 2 < n and data[i + 2] == 0x60:
            end = _until(data, i + 3, n, 0x60, 0x60)
        else:
            end = _until(data, i + 1, n, 0x60, 0)
    elif b == 0x5B and i + 4 < n and data[i + 1] == 0x61 and data[i + 2] == 0x73 and data[i + 3] == 0x79:  # [asy]
        end = _until(data, i + 4, n, 0x5B, 0x2F)
    elif b == 0x3C and (after == 0x2F or _latin(np.int64(after))):  # <
        close = _until(data, i + 1, min(n, i + 200), 0x3E, 0)
        end = close
    return min(end, n) if end > 0 else i


@helper
def _add(scores, mask, weight):  # type: ignore[no-untyped-def]
    for language in range(len(scores)):
        if (mask >> np.uint64(language)) & np.uint64(1):
            scores[language] += weight


@helper
def _greek(data, i, n, scripts):  # type: ignore[no-untyped-def]
    """Step over Greek letters; three or more in a row are a word, fewer are symbols."""
    letters = 0
    while i < n:
        c, size = _decode(data, i, n)
        if _script(c) != 7:
            break
        letters += 1
        i += size
    if letters >= 3:
        scripts[7] += letters
    return i


@kernel
def scan(address, length, keys, masks, weights, letter_masks, letter_weights, scripts, marks, scores):  # type: ignore[no-untyped-def]
    """Count scripts, telling letters and language scores of texts.

    address, length   texts as `curation.kernels._memory.Texts` has them
    keys, masks, weights   open-addressed table of words: FNV-1a (0 is empty), bit set of languages, weight
    letter_masks, letter_weights   the same for code points below 0x250
    scripts, marks, scores   int32 (n, …), filled
    """
    slots = np.uint64(len(keys) - 1)
    for row in range(len(address)):
        n = np.int64(length[row])
        if n <= 0:
            continue
        data = view(address[row], n)
        i = np.int64(0)
        while i < n:
            b = data[i]
            if b == 0x24 or b == 0x5C or b == 0x60 or b == 0x3C or b == 0x5B:
                j = _skip(data, i, n)
                i = j if j > i else i + 1
                continue
            c, size = _decode(data, i, n)
            if not _latin(c):
                if c >= 0x80:
                    if c < 0x250 and letter_masks[c]:
                        _add(scores[row], letter_masks[c], letter_weights[c])
                    kind = _script(c)
                    if kind == 7:
                        i = _greek(data, i, n, scripts[row])
                        continue
                    if kind >= 0:
                        scripts[row, kind] += 1
                        told = _mark(c)
                        if told >= 0:
                            marks[row, told] += 1
                i += size
                continue
            before = data[i - 1] if i > 0 else np.uint8(0x20)
            value = np.uint64(FNV_BASIS)
            letters = 0
            upper = 0
            hint = np.uint64(0)
            hint_weight = 0
            while i < n:
                c, size = _decode(data, i, n)
                if not _latin(c):
                    break
                small = _lower(c)
                upper += small != c
                if 0x80 <= small < 0x250 and letter_masks[small] and letter_weights[small] > hint_weight:
                    hint = letter_masks[small]
                    hint_weight = letter_weights[small]
                elif 0x1EA0 <= small <= 0x1EF9:
                    hint = letter_masks[0x111]  # as d with stroke: Vietnamese
                    hint_weight = letter_weights[0x111]
                value = (value ^ np.uint64(small)) * np.uint64(FNV_PRIME)
                letters += 1
                i += size
            follows = data[i] if i < n else np.uint8(0x20)
            if follows == 0x3A and i + 2 < n and data[i + 1] == 0x2F and data[i + 2] == 0x2F:  # an address
                while i < n and data[i] > 0x20:
                    i += 1
                continue
            # x_1, f(x), a.b, 2ab and n= are formulas or code that nobody marked.
            part = _digit(before) or before == 0x5F or before == 0x5E or before == 0x3D or before == 0x2B
            part = part or _digit(follows) or follows == 0x5F or follows == 0x5E or follows == 0x28 or follows == 0x3D
            part = (
                part
                or follows == 0x5B
                or (before == 0x2E and i - letters > 1 and data[i - letters - 2] > 0x20 and letters < 8)
            )
            if letters < 2 or part:
                continue
            word = upper < letters or letters > 4  # ABC and PQRS are names of points, unless they are known words
            if hint_weight:
                _add(scores[row], hint, hint_weight)
            slot = value & slots
            while keys[slot] != 0:
                if keys[slot] == value:
                    _add(scores[row], masks[slot], weights[slot])
                    word = True
                    break
                slot = (slot + np.uint64(1)) & slots
            if word:
                scripts[row, 0] += letters
