"""From band keys to verified links.

A bucket is the set of texts that share one band's key. Within it pairs are tried in canonical order, and only when
nothing joins the two yet; the sketch (one byte a slot) rejects most false candidates before any text is read; then
the Jaccard similarity of the two shingle sets is counted exactly. Every bucket is worked on alone, against the
components as they were before its band, so buckets can be spread over threads and the links stay the same.
"""
# mypy: disallow-untyped-defs=False, disable-error-code=assignment

import numpy as np

from ._jit import copy, grown, helper, kernel
from ._sets import fill, most_misses, probe, table_bits
from ._shingles import shingle_identities, text64, view
from ._text import workspace
from ._vector import equal_bytes

SMALL_BUCKET = 128  # up to this size all pairs of a bucket may be compared
LEADERS = 64  # above it, this many leaders are compared with all members
KEPT = 1 << 21  # shingles kept of a bucket's texts, so that each is cut once: 16 MB at most


@kernel
def whole_keys(address, length, keys):
    """A 64-bit key of each whole text, 0 for the empty and the null."""
    for i in range(len(address)):
        keys[i] = np.uint64(0)
        if length[i] > 0:
            keys[i] = max(text64(view(address[i], length[i])), np.uint64(1))


@kernel
def equal_texts(ids, bounds, address, length, first):
    """first[i] = the earliest member of the bucket whose bytes equal those of row i, for the rows in buckets."""
    for bucket in range(len(bounds)):
        members = ids[bounds[bucket, 0] : bounds[bucket, 1]]
        for j in range(1, len(members)):
            b = members[j]
            for i in range(j):
                a = members[i]
                same = first[a] == a and length[a] == length[b]
                if same and _equal(view(address[a], length[a]), view(address[b], length[b])):
                    first[b] = a
                    break


@helper
def _equal(a, b):
    equal = True
    for i in range(len(a)):
        equal &= a[i] == b[i]
    return equal


@kernel
def group(keys, order, ids, bounds):
    """Sort the rows whose key is not alone by (key, canonical order) and mark the runs of equal keys.

    `order` lists the rows in canonical order. Fills ids, int32 (n,), from its head, and returns the number of buckets
    with two rows or more; bucket i is ids[bounds[i, 0]:bounds[i, 1]]. Key 0 is in no bucket. Most keys stand alone: two
    bitmaps of eight bits a key (seen, and seen again) turn nearly all of them away. Two stable partitions by leading
    bits, the second within the cache, leave about eight rows a part, and an insertion sort ends it.
    """
    n = len(order)
    log2_words = 1
    while (1 << log2_words) * 8 < n:
        log2_words += 1
    shift = np.uint64(58 - log2_words)
    seen, again = np.zeros(1 << log2_words, np.uint64), np.zeros(1 << log2_words, np.uint64)
    for i in range(n):
        place = keys[i] >> shift
        bit = np.uint64(1) << (place & np.uint64(63))
        word = place >> np.uint64(6)
        before = seen[word]
        again[word] |= before & bit
        seen[word] = before | bit
    fine_keys, coarse_ids = np.empty(n, np.uint64), np.empty(n, np.int32)
    shared = 0
    for i in range(n):
        row = order[i]
        key = keys[row]
        place = key >> shift
        fine_keys[shared] = key
        ids[shared] = row
        shared += np.int64((again[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1)) & (key != 0)
    coarse_keys = np.empty(shared, np.uint64)
    bits = 0
    while bits < 22 and (shared >> bits) > 8:
        bits += 1
    high = bits // 2
    low = bits - high
    coarse = np.zeros((1 << high) + 1, np.int64)
    mask = np.uint64((1 << high) - 1)
    _partition(fine_keys[:shared], ids[:shared], np.uint64(64 - high), mask, coarse, coarse_keys, coarse_ids)
    fine = np.zeros((1 << low) + 1, np.int64)
    shift, mask = np.uint64(64 - bits), np.uint64((1 << low) - 1)
    buckets = 0
    for part in range(1 << high):
        a, b = coarse[part], coarse[part + 1]
        _partition(coarse_keys[a:b], coarse_ids[a:b], shift, mask, fine, fine_keys[a:b], ids[a:b])
        for k in range(1 << low):
            _sort_part(fine_keys[a + fine[k] : a + fine[k + 1]], ids[a + fine[k] : a + fine[k + 1]])
        i = a
        while i < b:
            j = i + 1
            while j < b and fine_keys[j] == fine_keys[i]:
                j += 1
            if j - i > 1:
                bounds[buckets, 0] = i
                bounds[buckets, 1] = j
                buckets += 1
            i = j
    return buckets


@helper
def _partition(keys, ids, shift, mask, ends, out_keys, out_ids):
    """Stable partition by (key >> shift) & mask; part p lies in ends[p]:ends[p + 1]."""
    parts = len(ends) - 1
    ends[:] = 0
    if parts == 1:
        copy(keys, out_keys)
        copy(ids, out_ids)
        ends[1] = len(keys)
        return
    for i in range(len(keys)):
        ends[np.int64((keys[i] >> shift) & mask) + 1] += 1
    for part in range(parts):
        ends[part + 1] += ends[part]
    for i in range(len(keys)):
        part = np.int64((keys[i] >> shift) & mask)
        out_keys[ends[part]] = keys[i]
        out_ids[ends[part]] = ids[i]
        ends[part] += 1
    for part in range(parts, 0, -1):
        ends[part] = ends[part - 1]
    ends[0] = 0


@helper
def _sort_part(keys, ids):
    """Stable insertion sort: parts are short, and in a longer one nearly all keys are equal."""
    for i in range(1, len(keys)):
        key, row = keys[i], ids[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            ids[j] = ids[j - 1]
            j -= 1
        keys[j] = key
        ids[j] = row


@helper
def _met_before(a, b, band, skip):
    """Whether an earlier band put both texts in one bucket where all pairs were compared. a, b: marks of their keys.

    The sketches would not do: near duplicates that differ in one slot of a band often agree in its low byte.
    """
    earlier = 0
    while earlier < band and (a[earlier] != b[earlier] or (skip >> np.uint64(earlier & 63)) & np.uint64(1)):
        earlier += 1
    return earlier < band


@helper
def _among(value, values):
    found = False
    for i in range(len(values)):
        found |= values[i] == value
    return found


@kernel
def join_buckets(
    ids, bounds, first, last, root, sketches, marks, band, overfull, enough, address, length, n, unit, num, den
):
    """Verified links of the buckets first..last of one band, int64 (links, 4): row, row, shared, union.

    The first row of a link comes earlier in canonical order. `root` names the component of each row so far, and
    `overfull` has a bit for each band in which a row's bucket was too large for all pairs. A pair is read only when
    `enough` bytes of the sketches agree; it is a link when shared / union >= num / den.
    """
    links = np.empty((1024, 4), np.int64)
    found = 0
    largest = longest = 0
    for bucket in range(first, last):
        largest = max(largest, bounds[bucket, 1] - bounds[bucket, 0])
        for i in range(bounds[bucket, 0], bounds[bucket, 1]):
            longest = max(longest, length[ids[i]])
    table = np.zeros(1 << table_bits(longest + 1, num, den), np.uint64)
    repeats, covered = np.empty((longest + 1, 2), np.int32), np.empty(longest + 1, np.uint8)
    stamp = np.uint64(0)
    room = workspace(longest)
    leader_ids = np.empty(longest + 1, np.uint64)
    kept = np.empty(max(KEPT, longest + 1), np.uint64)
    label = np.empty(largest, np.int64)
    begin, end = np.empty(largest, np.int64), np.empty(largest, np.int64)  # of each member's shingles in `kept`
    led = np.empty(LEADERS, np.int64)
    for bucket in range(first, last):
        members = ids[bounds[bucket, 0] : bounds[bucket, 1]]
        size = len(members)
        giant = size > SMALL_BUCKET
        for i in range(size):
            label[i] = root[members[i]]
            begin[i] = -1
        leaders = 0
        used = 0
        for i in range(size - 1):
            a = members[i]
            if giant:
                if _among(label[i], led[:leaders]):
                    continue  # it is joined to an earlier leader
                if leaders == LEADERS:
                    break
                led[leaders] = label[i]
                leaders += 1
            filled = False
            distinct = own_count = bits = 0
            leader_stamp = np.uint64(0)
            for j in range(i + 1, size):
                if label[j] == label[i]:
                    continue
                b = members[j]
                if equal_bytes(sketches, a, b) < enough:
                    continue
                if _met_before(marks[a], marks[b], band, overfull[a]):
                    continue
                for k in (i, j):
                    if begin[k] < 0:
                        row = members[k]
                        if used + length[row] > len(kept):
                            used = 0
                            begin[:size] = -1
                        text = view(address[row], length[row])
                        count = shingle_identities(text, n, unit, room, kept[used:])
                        begin[k], end[k] = used, used + count
                        used += count
                    if k == i and not filled:
                        own_count = end[i] - begin[i]
                        copy(kept[begin[i] : end[i]], leader_ids)
                        bits = table_bits(own_count, num, den)
                        stamp += np.uint64(1)
                        leader_stamp = stamp
                        distinct = fill(leader_ids[:own_count], bits, stamp, table, repeats)
                        filled = True
                stamp += np.uint64(1)
                most = most_misses(distinct, end[j] - begin[j], num, den)
                shared, misses = probe(
                    kept[begin[j] : end[j]],
                    leader_ids[:own_count], distinct, bits, leader_stamp, stamp, table, repeats, covered, most,
                )  # fmt: skip
                union = distinct + misses
                if misses > most or shared * den < num * union:
                    continue
                label[j] = label[i]
                if found == len(links):
                    links = grown(links)
                links[found, 0] = a
                links[found, 1] = b
                links[found, 2] = shared
                links[found, 3] = union
                found += 1
    return links[:found].copy()


@kernel
def mark_overfull(ids, bounds, band, overfull):
    """Set the band's bit for every row of a bucket that is too large for all pairs (bands 64 apart share one)."""
    for bucket in range(len(bounds)):
        if bounds[bucket, 1] - bounds[bucket, 0] > SMALL_BUCKET:
            for i in range(bounds[bucket, 0], bounds[bucket, 1]):
                overfull[ids[i]] |= np.uint64(1) << np.uint64(band & 63)


@kernel
def unite(links, root, rank):
    """Join the components of linked rows, in place: root[i] is the row of lowest rank in the component of row i."""
    for k in range(len(links)):
        a, b = links[k, 0], links[k, 1]
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        while root[b] != b:
            root[b] = root[root[b]]
            b = root[b]
        if rank[a] < rank[b]:
            root[b] = a
        elif a != b:
            root[a] = b
    for i in range(len(root)):
        top = root[i]
        while root[top] != top:
            top = root[top]
        root[i] = top
