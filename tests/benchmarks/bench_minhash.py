"""Near-duplicate texts against datasketch, rensa and Daft in the same run: speed, accuracy, growth, threads, and how far
from what the processor could do.

One configuration throughout: the defaults of `minhash.clusters` at threshold 0.8 (char-5-grams, 18 bands of 5, xxh32,
seed 1), on the corpus of text_corpus.py, with every link verified exactly. CPU time of one process on one core (pin it:
taskset -c 0), for the machine may be shared; medians of rounds in turn with the peers, the slow peers once. All sides
start from texts and use 128 permutations, the LSH peers with our bands and rows where they let one choose. They do less:
datasketch and rensa stop at candidates, Daft at signatures.

    python tests/benchmarks/bench_minhash.py [peers | bound | quality | growth | threads] [texts]
"""

import importlib.util
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import datasketch
import numba
import numpy as np
import pyarrow as pa
import text_corpus
import xxhash

from curation.kernels import minhash
from curation.kernels._text import view

NUM_PERM, THRESHOLD = 128, 0.8
BANDS, ROWS = minhash.parameters(THRESHOLD, num_perm=NUM_PERM)


PEERS = {name: importlib.util.find_spec(name) is not None for name in ("rensa", "daft")}


def cpu(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(ours: Callable[[], object], peers: dict[str, tuple[Callable[[], object], int]], count: int) -> None:
    """Medians of ours (5 rounds between those of the peers) and of each peer, in microseconds a text, and the ratio."""
    ours()
    mine, theirs = [], {name: [] for name in peers}
    for round in range(5):
        mine.append(cpu(ours))
        for name, (function, rounds) in peers.items():
            if round < rounds:
                theirs[name].append(cpu(function))
    own = statistics.median(mine)
    print(f"  ours: {own / count * 1e6:.2f} us a text")
    for name, times in theirs.items():
        taken = statistics.median(times)
        print(f"  {name}: {taken / count * 1e6:.1f} us a text, {taken / own:.2f}x ours ({len(times)} rounds)")


def chars(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(max(len(text) - 4, 1))}


def words(text: str) -> set[str]:
    parts = text.split()
    return {" ".join(parts[i : i + 3]) for i in range(max(len(parts) - 2, 1))}


def sketch(texts: list[str], shingles: Callable[[str], set[str]], hashfunc: Callable | None) -> list:
    out = []
    for text in texts:
        own = datasketch.MinHash(NUM_PERM, hashfunc=hashfunc)
        own.update_batch([shingle.encode() for shingle in shingles(text)])
        out.append(own)
    return out


def with_datasketch(texts: list[str], hashfunc: Callable | None) -> None:
    lsh = datasketch.MinHashLSH(num_perm=NUM_PERM, params=(BANDS, ROWS))
    made = sketch(texts, chars, hashfunc)
    for row, own in enumerate(made):
        lsh.insert(row, own)
    for own in made:
        lsh.query(own)


def with_rensa(texts: list[str], shingles: Callable[[str], set[str]]) -> None:
    import rensa

    keeper = rensa.RMinHashDeduplicator(THRESHOLD, NUM_PERM, True, 16, 1)
    keeper.add_pairs([(str(row), list(shingles(text))) for row, text in enumerate(texts)])


def peers(count: int) -> None:
    array = text_corpus.texts(count)
    texts = array.to_pylist()
    xxh32 = xxhash.xxh32_intdigest
    clusters = lambda **kw: minhash.clusters(array, threshold=THRESHOLD, num_perm=NUM_PERM, **kw)  # noqa: E731
    print(f"full pipeline, char-5-grams, {count:,} texts, ours {BANDS} bands of {ROWS} with exact verification")
    contenders = {
        "datasketch, xxh32": (lambda: with_datasketch(texts, xxh32), 1),
        "datasketch, default": (lambda: with_datasketch(texts, None), 1),
    }
    if PEERS["rensa"]:
        contenders["rensa deduplicator"] = (lambda: with_rensa(texts, chars), 3)
    compare(clusters, contenders, count)

    print("signatures alone, char-5-grams, 128 slots, bit-identical")
    compare(
        lambda: minhash.signatures(array),
        {"datasketch, xxh32": (lambda: sketch(texts, chars, xxh32), 1)},
        count,
    )
    print("signatures alone with SHA-1, 2,000 texts, bit-identical to datasketch's default")
    few = array[:2000]
    compare(
        lambda: minhash.signatures(few, hash="sha1"),
        {"datasketch, default": (lambda: sketch(few.to_pylist(), chars, None), 1)},
        len(few),
    )
    if PEERS["rensa"]:
        print("full pipeline, word-3-grams")
        words3 = lambda: clusters(ngram=3, unit="word")  # noqa: E731
        compare(words3, {"rensa deduplicator": (lambda: with_rensa(texts, words), 3)}, count)
        prehashed(array)
    if PEERS["daft"]:
        import daft

        print("signatures alone, word-3-grams, 128 slots")
        frame = daft.from_arrow(pa.table({"text": array})).collect()
        hashed = daft.functions.minhash(daft.col("text"), num_hashes=NUM_PERM, ngram_size=3, hash_function="xxhash32")
        compare(
            lambda: minhash.signatures(array, ngram=3, unit="word"),
            {"Daft minhash": (lambda: frame.select(hashed).collect(), 3)},
            count,
        )
    missing = [name for name, found in PEERS.items() if not found]
    if missing:
        print(f"not compared, because not installed: {', '.join(missing)} (pip install {' '.join(missing)})")


def prehashed(array: pa.Array) -> None:
    """Sketch against sketch: the same hashes of distinct shingles in, 128 slots out; and how well they estimate."""
    import rensa

    texts = array.to_pylist()
    shingles = [list(chars(text)) for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in shingles])])
    wide = np.array([xxhash.xxh32_intdigest(s.encode()) for own in shingles for s in own], np.uint64)
    narrow = wide.astype(np.uint32)
    matrix = lambda: rensa.RMinHash.digest_matrix_from_flat_token_hashes(wide, offsets, NUM_PERM, 1)  # noqa: E731
    print("signatures of hashed shingles, 128 slots")
    compare(lambda: minhash.signatures_of_hashes(narrow, offsets), {"rensa R-MinHash": (matrix, 5)}, len(texts))
    _, links = minhash.clusters(array, threshold=0.5, bands=32, rows=4)
    a, b = links["a"].to_numpy(), links["b"].to_numpy()
    for name, rows in (
        ("ours", minhash.signatures_of_hashes(narrow, offsets)),
        ("rensa R-MinHash", np.array(matrix().to_rows())),
    ):
        error = (rows[a] == rows[b]).mean(axis=1) - links["jaccard"].to_numpy()
        print(
            f"  {name}: RMSE {np.sqrt((error**2).mean()):.4f}, bias {error.mean():+.4f} on {len(a):,} pairs, J >= 0.5"
        )


@numba.njit
def _squares(count):
    x = np.uint64(count)
    for _ in range(count):
        x *= x
        x *= x
        x *= x
        x *= x
        x *= x
        x *= x
        x *= x
        x *= x
    return x


def port_bound(slots: int) -> tuple[float, str]:
    """Cycles a shingle that vector units need for hashing and `slots` permutations, and what is assumed of them."""
    cpuinfo = Path("/proc/cpuinfo")
    info = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    lanes = 16 if " avx512dq " in info else 8 if " avx2 " in info else 4
    units, product = (4, 1) if "AuthenticAMD" in info else (2 if lanes == 16 else 3, 2)
    # a product, a sum and a minimum a slot; the hash of a 5-gram is 9 products and 21 other operations
    cycles = slots / lanes * (product + 2) / units + (9 * product + 21) / lanes / units
    return cycles, f"{lanes} lanes, {units} vector operations a cycle, of which a product counts for {product}"


def bound(count: int) -> None:
    """Signatures against what the ports allow, and the whole pipeline against signatures that reach it."""
    array = text_corpus.texts(count)
    part = array[:2_000]
    sizes = np.diff(np.frombuffer(array.buffers()[1], np.int64))
    shingles, few = int((sizes - 4).sum()), int((sizes[: len(part)] - 4).sum())
    minhash.signatures(part)
    minhash.clusters(part)
    _squares(1)
    # quiet moments of a shared core: the best of many short rounds, of the clock as of the kernel
    clock = 24 * 20_000 / min(cpu(lambda: _squares(20_000)) for _ in range(100)) / 1e9
    taken = min(cpu(lambda: minhash.signatures(part)) for _ in range(100)) / few * 1e9
    cycles, assumed = port_bound(NUM_PERM)
    least = cycles / clock
    print(f"  {assumed}; {clock:.2f} GHz, by a chain of products of 3 cycles")
    print(f"  signatures, 128 slots: {taken:.2f} ns a shingle; bound {least:.2f} ns, so {least / taken:.0%} of it")
    whole = min(cpu(lambda: minhash.clusters(array)) for _ in range(3)) / shingles * 1e9
    own = port_bound(96)[0] / clock
    print(
        f"  end to end at {count:,}: {whole:.2f} ns a shingle, {whole / least:.2f}x the bound of 128 slots,"
        f" {whole / own:.2f}x that of the 96 which clusters computes"
    )


@numba.njit
def _shingle_sets(address, length):
    """Distinct byte 5-grams of every text, sorted: (offsets, the five bytes as one number)."""
    offsets = np.zeros(len(address) + 1, np.int64)
    out = np.empty(length.sum(), np.uint64)
    for row in range(len(address)):
        text = view(address[row], length[row])
        own = np.zeros(max(len(text) - 4, 0), np.uint64)
        for i in range(len(own)):
            for k in range(5):
                own[i] = (own[i] << np.uint64(8)) | np.uint64(text[i + k])
        own.sort()
        at = offsets[row]
        for k in range(len(own)):
            if k == 0 or own[k] != own[k - 1]:
                out[at] = own[k]
                at += 1
        offsets[row + 1] = at
    return offsets, out[: offsets[-1]]


@numba.njit
def _exact_join(offsets, ranks, by_size, vocabulary, num, den):
    """All pairs with |A & B| / |A | B| >= num / den, by prefix filter (Bayardo et al., WWW 2007) and exact merges.

    `ranks` are the shingles of each text as ascending ranks, rarest first. Texts come in order of size.
    """
    heads = np.full(vocabulary, -1, np.int64)
    chained = np.empty(len(ranks), np.int64)
    owner = np.empty(len(ranks), np.int32)
    used = 0
    seen = np.full(len(by_size), -1, np.int64)
    pairs = np.empty((1024, 2), np.int64)
    found = merges = 0
    for i in range(len(by_size)):
        a = ranks[offsets[by_size[i]] : offsets[by_size[i] + 1]]
        prefix = len(a) - (num * len(a) + den - 1) // den + 1
        for k in range(prefix):
            place = heads[a[k]]
            while place >= 0:
                j = owner[place]
                place = chained[place]
                if seen[j] == i:
                    continue
                seen[j] = i
                b = ranks[offsets[by_size[j]] : offsets[by_size[j] + 1]]
                if len(b) * den < num * len(a):
                    continue
                merges += 1
                need = (num * (len(a) + len(b)) + num + den - 1) // (num + den)
                x = y = shared = 0
                while x < len(a) and y < len(b) and shared + min(len(a) - x, len(b) - y) >= need:
                    shared += a[x] == b[y]
                    step = a[x] <= b[y]
                    y += a[x] >= b[y]
                    x += step
                if shared * den >= num * (len(a) + len(b) - shared):
                    if found == len(pairs):
                        larger = np.empty((2 * found, 2), np.int64)
                        larger[:found] = pairs
                        pairs = larger
                    pairs[found, 0], pairs[found, 1] = by_size[i], by_size[j]
                    found += 1
        for k in range(prefix):
            owner[used] = i
            chained[used] = heads[a[k]]
            heads[a[k]] = used
            used += 1
    return pairs[:found].copy(), merges


def quality(count: int) -> None:
    array = text_corpus.texts(count)
    offsets = np.frombuffer(array.buffers()[1], np.int64)
    address = (array.buffers()[2].address + offsets[:-1]).astype(np.uint64)
    length = np.diff(offsets)
    starts, ids = _shingle_sets(address, length)
    names, inverse, frequency = np.unique(ids, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), np.int32)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(names))
    ranks = rank[inverse]
    texts_of = np.repeat(np.arange(count), np.diff(starts))
    ranks = ranks[np.lexsort((ranks, texts_of))]
    begin = time.process_time()
    pairs, merges = _exact_join(starts, ranks, np.argsort(np.diff(starts), kind="stable"), len(names), 4, 5)
    taken = time.process_time() - begin
    print(f"exact truth at {count:,}: {len(pairs):,} pairs >= 0.8, {merges / 1e6:.0f} M merges, {taken:.0f} s of CPU")
    parent = np.arange(count)
    for a, b in pairs:
        while parent[a] != a:
            a = parent[a]
        while parent[b] != b:
            b = parent[b]
        parent[max(a, b)] = min(a, b)
    true_removed = int((parent != np.arange(count)).sum())
    for bands, rows in dict.fromkeys([(BANDS, ROWS), (16, 5), (32, 4), (16, 8)]):
        minhash.clusters(array[:100], bands=bands, rows=rows)
        ids_, links = None, None
        times = []
        for _ in range(3):
            start = time.process_time()
            ids_, links = minhash.clusters(array, threshold=THRESHOLD, bands=bands, rows=rows)
            times.append(time.process_time() - start)
        recall = (ids_[pairs[:, 0]] == ids_[pairs[:, 1]]).mean()
        true = set(map(tuple, np.sort(pairs, axis=1).tolist()))
        made = np.sort(np.stack([links["a"].to_numpy(), links["b"].to_numpy()], axis=1), axis=1)
        precision = np.mean([tuple(pair) in true for pair in made.tolist()])
        removed = int((ids_ != np.arange(count)).sum())
        print(
            f"  {bands} x {rows}: recall {recall:.5f}, precision of links {precision:.5f}, removed {removed:,} of"
            f" {true_removed:,}, {statistics.median(times) / count * 1e6:.2f} us a text"
        )
    sample = pairs[np.unique(pairs[:, 1], return_index=True)[1]]  # one pair a text, or large families would decide
    signatures = minhash.signatures(array)
    estimate = (signatures[sample[:, 0]] == signatures[sample[:, 1]]).mean(axis=1)
    shared, union = minhash.jaccard(array, sample[:, 0], sample[:, 1])
    error = estimate - shared / union
    print(f"  estimate of J from 128 slots: RMSE {np.sqrt((error**2).mean()):.4f}, bias {error.mean():+.4f}")


def growth(count: int) -> None:
    sizes = [count // 10, count // 2, count]
    array = text_corpus.texts(count)
    minhash.clusters(array[:100])
    times = {}
    for size in sizes:
        times[size] = statistics.median([cpu(lambda part=array[:size]: minhash.clusters(part)) for _ in range(3)])
        print(f"  {size:,} texts: {times[size]:.2f} s of CPU, {times[size] / size * 1e6:.2f} us a text")
    exponent = math.log(times[sizes[2]] / times[sizes[0]]) / math.log(10)
    print(f"  exponent {sizes[0]:,} -> {sizes[2]:,}: {exponent:.3f}")


def threads(count: int) -> None:
    """Two threads against one by the clock, which says nothing on a busy machine; and by CPU time: what cannot be shared,
    and the tasks of a run for two threads dealt to two, each to the one that is free first."""
    array = text_corpus.texts(count)
    minhash.clusters(array[:100], threads=2)
    wall: dict[int, list[float]] = {1: [], 2: []}
    one, two = [], []
    for _ in range(5):
        for number in wall:
            start = time.perf_counter()
            own = cpu(lambda number=number: minhash.clusters(array, threads=number))
            wall[number].append(time.perf_counter() - start)
            if number == 1:
                one.append(own)
        two.append(_dealt(array))
    ratio, load = min(wall[1]) / min(wall[2]), os.getloadavg()[0]
    print(
        f"  two threads by the clock: {ratio:.2f}x one (best of 5; load average {load:.1f} on {os.cpu_count()} cores)"
    )
    print(f"  by CPU time, dealt to two: {statistics.median(one) / statistics.median(two):.2f}x one (medians of 5)")


def _dealt(array: pa.Array) -> float:
    """Seconds that clusters(threads=2) would take on two idle cores: its tasks run one by one and are timed."""
    spread, saved = minhash.spread, 0.0

    def timed(function, items, threads):  # type: ignore[no-untyped-def]
        nonlocal saved
        busy, results = [0.0] * threads, []
        for item in items:
            start = time.process_time()
            results.append(function(item))
            busy[busy.index(min(busy))] += time.process_time() - start
        saved += sum(busy) - max(busy)
        return results

    minhash.spread = timed
    try:
        return cpu(lambda: minhash.clusters(array, threads=2)) - saved
    finally:
        minhash.spread = spread


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(f"{BANDS} bands of {ROWS}, threshold {THRESHOLD}, {NUM_PERM} permutations; {numba.get_num_threads()} cores")
    for name, function, default in (
        ("peers", peers, 20_000),
        ("bound", bound, 1_000_000),
        ("quality", quality, 200_000),
        ("growth", growth, 1_000_000),
        ("threads", threads, 200_000),
    ):
        if wanted in (name, "all"):
            print(f"== {name}")
            function(size or default)
