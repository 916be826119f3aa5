"""Kernels of the containment index: tokens, n-grams of tokens, the inverted index and the search of rows.

A token is a word, a number, or one ideograph, hashed after folding. Prefix sums of a polynomial hash give the hash of
any run of tokens in constant time. Each run has two: one with its numbers, and a blind one in which every number
is the same token; the blind one finds candidates, the other says whether the numbers agree.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import grown, helper, kernel
from ._sets import fill, locate, table_bits
from ._shingles import view

BREAK, LETTER, DIGIT, SINGLE, SKIP = 0, 1, 2, 3, 4
NUMBER = np.uint64(0x6E756D626572)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_TOKEN1, _TOKEN2 = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@helper
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


@helper
def _decode(text, i):
    """Code point at byte i and its length; what is beyond the basic plane counts as U+FFFD."""
    c = np.int64(text[i])
    if c < 0x80:
        return c, 1
    if c < 0xE0 and i + 1 < len(text):
        return ((c & 0x1F) << 6) | (np.int64(text[i + 1]) & 0x3F), 2
    if c < 0xF0 and i + 2 < len(text):
        return ((c & 0xF) << 12) | ((np.int64(text[i + 1]) & 0x3F) << 6) | (np.int64(text[i + 2]) & 0x3F), 3
    return 0xFFFD, min(4, len(text) - i)


@helper
def _group_of_thousands(text, i):
    """Whether the comma at i stands before exactly three digits, as in 12,000."""
    if i + 3 >= len(text):
        return False
    for k in range(1, 4):
        if text[i + k] < 48 or text[i + k] > 57:
            return False
    return i + 4 >= len(text) or text[i + 4] < 48 or text[i + 4] > 57


@helper
def tokenize(text, fold, kind, commands, replaced, exact, blind, numbers, begins, ends):
    """Tokens of a text: prefix hashes exact and blind (count + 1), and the bytes begins[k]:ends[k] of each.

    `fold` and `kind` give the folded code point and its class; a LaTeX command whose hash is in `commands` becomes
    the token `replaced` (0: no token at all). `numbers` counts the numbers so far, as the prefixes do. Returns the
    number of tokens.
    """
    count = 0
    i = 0
    exact[0] = blind[0] = np.uint64(0)
    numbers[0] = 0
    while i < len(text):
        point, step = _decode(text, i)
        what = kind[point]
        if what in (BREAK, SKIP):
            i += step
            continue
        begin = i
        command = begin > 0 and text[begin - 1] == 92
        h = (_TOKEN1 ^ np.uint64(fold[point])) * _TOKEN2
        i += step
        if what != SINGLE:
            while i < len(text):
                point, step = _decode(text, i)
                if kind[point] == what:
                    h = (h ^ np.uint64(fold[point])) * _TOKEN2
                elif what == DIGIT and point == 46 and i + 1 < len(text) and 48 <= text[i + 1] <= 57:
                    h = (h ^ np.uint64(46)) * _TOKEN2
                elif kind[point] != SKIP and not (what == DIGIT and point == 44 and _group_of_thousands(text, i)):
                    break
                i += step
        token = _mix(h)
        if command and what == LETTER:
            for k in range(len(commands)):
                if commands[k] == token:
                    token = replaced[k]
                    break
            if token == 0:
                continue
        exact[count + 1] = exact[count] * _BASE + token
        blind[count + 1] = blind[count] * _BASE + (NUMBER if what == DIGIT else token)
        numbers[count + 1] = numbers[count] + (what == DIGIT)
        begins[count] = begin
        ends[count] = i
        count += 1
    return count


@kernel
def token_hash(word):
    """The hash that `tokenize` gives a word of ASCII letters."""
    h = _TOKEN1
    for i in range(len(word)):
        h = (h ^ np.uint64(word[i])) * _TOKEN2
    return _mix(h)


@helper
def _gram(prefix, begin, width, power):
    return _mix((prefix[begin + width] - prefix[begin] * power) ^ np.uint64(width))


@helper
def _blind_gram(exact, blind, numbers, begin, width, power):
    """The hash that takes numbers as equal, unless most tokens are numbers: then they are all there is to compare."""
    if 2 * (numbers[begin + width] - numbers[begin]) > width:
        return _gram(exact, begin, width, power)
    return _gram(blind, begin, width, power)


@helper
def _power(width):
    power = np.uint64(1)
    for _ in range(width):
        power *= _BASE
    return power


@kernel
def item_grams(address, length, n, fold, kind, commands, replaced, longest):
    """n-grams of every item in a row: (offsets, exact, blind, begins, ends, widths, tokens).

    The grams of item i are offsets[i]:offsets[i + 1]; a gram covers the bytes begins:ends. An item with fewer than n
    tokens has one gram, the whole of it; widths[i] is its number of tokens, else n. tokens[i] counts all.
    """
    exact, blind = np.empty(longest + 2, np.uint64), np.empty(longest + 2, np.uint64)
    numbers = np.empty(longest + 2, np.int32)
    begins, ends = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    offsets = np.zeros(len(address) + 1, np.int64)
    widths, tokens = np.zeros(len(address), np.int32), np.zeros(len(address), np.int32)
    total = 0
    for i in range(len(address)):
        total += max(length[i], 0)
    all_exact, all_blind = np.empty(total, np.uint64), np.empty(total, np.uint64)
    all_begins, all_ends = np.empty(total, np.int32), np.empty(total, np.int32)
    at = 0
    for i in range(len(address)):
        text = view(address[i], max(length[i], 0))
        count = tokenize(text, fold, kind, commands, replaced, exact, blind, numbers, begins, ends)
        width = min(n, count)
        power = _power(width)
        for k in range(count - width + 1 if count else 0):
            all_exact[at] = _gram(exact, k, width, power)
            all_blind[at] = _blind_gram(exact, blind, numbers, k, width, power)
            all_begins[at] = begins[k]
            all_ends[at] = ends[k + width - 1]
            at += 1
        offsets[i + 1] = at
        widths[i] = width
        tokens[i] = count
    return (
        offsets,
        all_exact[:at].copy(),
        all_blind[:at].copy(),
        all_begins[:at].copy(),
        all_ends[:at].copy(),
        widths,
        tokens,
    )


@kernel
def fill_filter(keys, bitmap, bits):
    """Set one bit for each key in a bitmap of 2**bits bits."""
    for i in range(len(keys)):
        place = keys[i] >> np.uint64(64 - bits)
        bitmap[place >> np.uint64(3)] |= np.uint8(1 << (place & np.uint64(7)))


@helper
def _posted(key, bitmap, bits, keys, starts, directory, directory_bits):
    """Place of a key among the sorted keys of the index, or -1; a bitmap turns most absent ones away."""
    place = key >> np.uint64(64 - bits)
    if not (bitmap[place >> np.uint64(3)] >> np.uint8(place & np.uint64(7))) & np.uint8(1):
        return -1
    bucket = np.int64(key >> np.uint64(64 - directory_bits))
    for k in range(directory[bucket], directory[bucket + 1]):
        if keys[k] == key:
            return k
    return -1


@helper
def _sort(values):
    for i in range(1, len(values)):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@kernel
def search_rows(
    address, length, first_row, n, num, den, fold, kind, commands, replaced, longest,
    offsets, exact_grams, blind_grams, begins_of, ends_of, widths, short_widths,
    keys, starts, postings, bitmap, bits, directory, directory_bits,
):  # fmt: skip
    """Items of the index that the rows contain: (hits, spans).

    hits, int64 (m, 7): row, item, grams of the item, blind grams found, exact grams found, tokens of the row, spans.
    spans, int32 (s, 4): the bytes begin, end of the row and of the item that overlap, in order of the hits.
    An item is a hit when found / grams >= num / den, counted blind.
    """
    exact, blind = np.empty(longest + 2, np.uint64), np.empty(longest + 2, np.uint64)
    numbers = np.empty(longest + 2, np.int32)
    begins, ends = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    row_exact, row_blind = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    repeats = np.empty((longest + 1, 2), np.int32)
    exact_table = np.zeros(1 << table_bits(longest + 1, 1, 1), np.uint64)
    blind_table = np.zeros(1 << table_bits(longest + 1, 1, 1), np.uint64)
    seen = np.full(len(widths), -1, np.int64)
    candidates = np.empty(len(widths), np.int32)
    hits = np.empty((256, 7), np.int64)
    spans = np.empty((256, 4), np.int32)
    found = laid = 0
    for row in range(len(address)):
        text = view(address[row], max(length[row], 0))
        count = tokenize(text, fold, kind, commands, replaced, exact, blind, numbers, begins, ends)
        waiting = 0
        for w in range(len(short_widths)):
            width = short_widths[w]
            power = _power(width)
            for k in range(count - width + 1):
                place = _posted(
                    _blind_gram(exact, blind, numbers, k, width, power),
                    bitmap,
                    bits,
                    keys,
                    starts,
                    directory,
                    directory_bits,
                )
                if place >= 0:
                    for p in range(starts[place], starts[place + 1]):
                        if seen[postings[p]] != row:
                            seen[postings[p]] = row
                            candidates[waiting] = postings[p]
                            waiting += 1
        _sort(candidates[:waiting])
        filled_width = -1
        stamp = np.uint64(row + 1)
        table_size = 0
        grams = 0
        for c in range(waiting):
            item = candidates[c]
            width = widths[item]
            if width != filled_width:
                # short items come with widths of their own; all others share one table of the row
                filled_width = width
                power = _power(width)
                grams = count - width + 1
                for k in range(grams):
                    row_exact[k] = _gram(exact, k, width, power)
                    row_blind[k] = _blind_gram(exact, blind, numbers, k, width, power)
                table_size = table_bits(grams, 1, 1)
                exact_table[: 1 << table_size] = np.uint64(0)
                blind_table[: 1 << table_size] = np.uint64(0)
                fill(row_exact[:grams], table_size, stamp, exact_table, repeats)
                fill(row_blind[:grams], table_size, stamp, blind_table, repeats)
            total = offsets[item + 1] - offsets[item]
            same = alike = 0
            for g in range(offsets[item], offsets[item + 1]):
                if locate(blind_grams[g], row_blind, table_size, stamp, blind_table) >= 0:
                    alike += 1
                    same += locate(exact_grams[g], row_exact, table_size, stamp, exact_table) >= 0
            if alike * den < num * total:
                continue
            if found == len(hits):
                hits = grown(hits)
            before = laid
            last = -2
            for g in range(offsets[item], offsets[item + 1]):
                at = locate(exact_grams[g], row_exact, table_size, stamp, exact_table)
                if at < 0:
                    at = locate(blind_grams[g], row_blind, table_size, stamp, blind_table)
                if at < 0:
                    last = -2
                    continue
                if at == last + 1:
                    spans[laid - 1, 1] = ends[at + width - 1]
                    spans[laid - 1, 3] = ends_of[g]
                else:
                    if laid == len(spans):
                        spans = grown(spans)
                    spans[laid, 0] = begins[at]
                    spans[laid, 1] = ends[at + width - 1]
                    spans[laid, 2] = begins_of[g]
                    spans[laid, 3] = ends_of[g]
                    laid += 1
                last = at
            hits[found, 0] = first_row + row
            hits[found, 1] = item
            hits[found, 2] = total
            hits[found, 3] = alike
            hits[found, 4] = same
            hits[found, 5] = count
            hits[found, 6] = laid - before
            found += 1
    return hits[:found].copy(), spans[:laid].copy()
