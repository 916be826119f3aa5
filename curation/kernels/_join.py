"""From band keys to verified links.

A bucket is the set of texts that share one band's key. Within it pairs are tried in canonical order, and only when
nothing joins the two yet; the sketch (one byte a slot) rejects most false candidates before any text is read; then
the Jaccard similarity of the two shingle sets is counted exactly. Every bucket is worked on alone, against the
components as they were before its band, so buckets can be spread over threads and the links stay the same.
"""

import numpy as np

from ._jit import helper, kernel
from ._sets import fill, probe, table_size
from ._shingles import identity64, shingle_identities, view

SMALL_BUCKET = 128  # up to this size all pairs of a bucket may be compared
LEADERS = 64  # above it, this many leaders are compared with all members


@kernel
def whole_keys(address, length, keys):
    """A 64-bit key of each whole text, 0 for the empty and the null."""
    for i in range(len(address)):
        keys[i] = np.uint64(0)
        if length[i] > 0:
            keys[i] = max(identity64(view(address[i], length[i])), np.uint64(1))


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
    """Sort rows by (key, canonical order) and mark the runs of equal keys.

    `order` lists the rows in canonical order. Fills ids (n,) and returns the number of buckets with at least two
    rows; bucket i is ids[bounds[i, 0]:bounds[i, 1]]. Key 0 is in no bucket. A stable partition by the leading
    bits, then each part is sorted by itself: parts fit the first-level cache.
    """
    n = len(order)
    bits = 1
    while (n >> bits) > 256 and bits < 16:
        bits += 1
    shift = np.uint64(64 - bits)
    ends = np.zeros((1 << bits) + 1, np.int64)
    for i in range(n):
        ends[(keys[i] >> shift) + 1] += 1
    for i in range(1 << bits):
        ends[i + 1] += ends[i]
    at = ends[:-1].copy()
    sorted_keys = np.empty(n, np.uint64)
    for i in range(n):
        row = order[i]
        part = keys[row] >> shift
        ids[at[part]] = row
        sorted_keys[at[part]] = keys[row]
        at[part] += 1
    buckets = 0
    for part in range(1 << bits):
        low, high = ends[part], ends[part + 1]
        if high - low < 2:
            continue
        _sort_part(sorted_keys[low:high], ids[low:high])
        i = low
        while i < high:
            j = i + 1
            while j < high and sorted_keys[j] == sorted_keys[i]:
                j += 1
            if j - i > 1 and sorted_keys[i] != 0:
                bounds[buckets, 0] = i
                bounds[buckets, 1] = j
                buckets += 1
            i = j
    return buckets


@helper
def _sort_part(keys, ids):
    """Stable sort by key: insertion while short, else a merge sort by numpy's argsort."""
    n = len(keys)
    if n > 1024:
        permutation = np.argsort(keys, kind="mergesort")
        keys[:] = keys[permutation]
        ids[:] = ids[permutation]
        return
    for i in range(1, n):
        key, row = keys[i], ids[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            ids[j] = ids[j - 1]
            j -= 1
        keys[j] = key
        ids[j] = row


@helper
def _agreement(a, b):
    same = 0
    for s in range(len(a)):
        same += a[s] == b[s]
    return same


@helper
def _met_before(a, b, band, rows, skip):
    """Whether an earlier band put both texts in one bucket where all pairs were compared."""
    for earlier in range(band):
        if (skip >> np.uint64(earlier & 63)) & np.uint64(1):
            continue
        low = earlier * rows
        same = True
        for s in range(low, low + rows):
            if a[s] != b[s]:
                same = False
                break
        if same:
            return True
    return False


@helper
def _among(value, values):
    found = False
    for i in range(len(values)):
        found |= values[i] == value
    return found


@kernel
def join_buckets(
    ids, bounds, first, last, root, sketches, band, rows, overfull, enough, address, length, n, unit, num, den, longest
):
    """Verified links of the buckets first..last of one band, int64 (links, 4): row, row, shared, union.

    The first row of a link comes earlier in canonical order. `root` names the component of each row so far, and
    `overfull` has a bit for each band in which a row's bucket was too large for all pairs. A pair is read only when
    `enough` bytes of the sketches agree; it is a link when shared / union >= num / den.
    """
    links = np.empty((1024, 4), np.int64)
    found = 0
    capacity_bits = table_size(longest + 1, num, den)
    table = np.empty(1 << capacity_bits, np.uint64)
    stamps = np.zeros(1 << capacity_bits, np.uint32)
    hits = np.zeros(1 << capacity_bits, np.uint32)
    stamp = np.uint32(0)
    starts = np.empty(longest + 2, np.int32)
    scratch = np.empty(longest + 1, np.uint8)
    leader_ids = np.empty(longest + 1, np.uint64)
    other_ids = np.empty(longest + 1, np.uint64)
    largest = 0
    for bucket in range(first, last):
        largest = max(largest, bounds[bucket, 1] - bounds[bucket, 0])
    label = np.empty(largest, np.int64)
    led = np.empty(LEADERS, np.int64)
    for bucket in range(first, last):
        members = ids[bounds[bucket, 0] : bounds[bucket, 1]]
        size = len(members)
        giant = size > SMALL_BUCKET
        for i in range(size):
            label[i] = root[members[i]]
        leaders = 0
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
            distinct = 0
            bits = 0
            leader_stamp = np.uint32(0)
            for j in range(i + 1, size):
                if label[j] == label[i]:
                    continue
                b = members[j]
                if _agreement(sketches[a], sketches[b]) < enough:
                    continue
                if _met_before(sketches[a], sketches[b], band, rows, overfull[a]):
                    continue
                if not filled:
                    text = view(address[a], max(length[a], 0))
                    count = shingle_identities(text, n, unit, scratch, starts, leader_ids)
                    bits = table_size(count, num, den)
                    stamp += np.uint32(1)
                    leader_stamp = stamp
                    distinct = fill(leader_ids[:count], bits, stamp, table, stamps)
                    filled = True
                text = view(address[b], max(length[b], 0))
                count = shingle_identities(text, n, unit, scratch, starts, other_ids)
                stamp += np.uint32(1)
                most = distinct * (den - num) // num
                shared, misses = probe(other_ids[:count], bits, leader_stamp, stamp, table, stamps, hits, most)
                union = distinct + misses
                if misses > most or shared * den < num * union:
                    continue
                label[j] = label[i]
                if found == len(links):
                    larger = np.empty((2 * found, 4), np.int64)
                    larger[:found] = links
                    links = larger
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
