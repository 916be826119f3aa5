"""MinHash against its references: datasketch for signatures and LSH parameters, plain Python sets for every link."""

import itertools
import mmap
import subprocess
import sys

import datasketch
import numpy as np
import pyarrow as pa
import pytest
import xxhash

from curation.kernels import minhash

TEXTS = [
    "hello world, this is a test",
    "abc",
    "",
    "é",
    "naïve café ünï çodé, 数学の問題を解く 🧮🧮🧮",
    "a\u00a0b  c\u3000d e\x1cf \u2028g\u205fh\u1680 i\x85j",
    "x" * 500,
    None,
    "\\frac{1}{2} + \\sqrt{3} " * 20,
    " \n\t ",
]


def shingles(text, n, unit):
    """The definition, in plain Python: UTF-8 bytes of every n-gram; the whole text when it is shorter than n."""
    if unit == "word":
        units, glue = (text or "").split(), " "
        return {glue.join(units[i : i + n]).encode() for i in range(max(len(units) - n + 1, 1))} if units else set()
    units = (text or "").encode() if unit == "byte" else (text or "")
    grams = {units[i : i + n] for i in range(max(len(units) - n + 1, 1))} if units else set()
    return grams if unit == "byte" else {gram.encode() for gram in grams}


@pytest.mark.parametrize("unit", ["char", "byte", "word"])
@pytest.mark.parametrize("hash", ["xxh32", "sha1"])
def test_signatures_are_datasketchs_bit_for_bit(unit, hash):
    for n, num_perm, seed in [(1, 16, 1), (5, 128, 1), (8, 77, 2), (16, 128, 3), (70, 16, 1)]:
        got = minhash.signatures(pa.array(TEXTS), ngram=n, unit=unit, hash=hash, num_perm=num_perm, seed=seed)
        assert got.dtype == np.uint32 and got.shape == (len(TEXTS), num_perm)
        for text, row in zip(TEXTS, got, strict=True):
            reference = datasketch.MinHash(num_perm, seed, hashfunc=xxhash.xxh32_intdigest if hash == "xxh32" else None)
            for shingle in shingles(text, n, unit):
                reference.update(shingle)
            np.testing.assert_array_equal(row, reference.hashvalues)


def test_hashed_sets_have_the_signature_of_their_hashes():
    sets = [[], [7], list(range(1000)), [2**32 - 1, 5, 5]]
    offsets = np.cumsum([0, *map(len, sets)])
    got = minhash.signatures_of_hashes(
        np.array([h for members in sets for h in members], np.uint32), offsets, num_perm=50
    )
    for row, members in zip(got, sets, strict=True):
        reference = datasketch.MinHash(50, hashfunc=lambda value: value)
        reference.update_batch(members) if members else None
        np.testing.assert_array_equal(row, reference.hashvalues)


def planted(rng, families=150):
    """Texts in families: a text and copies of it with a few words changed; some very short, some equal."""
    vocabulary = [f"{a}{b}" for a, b in itertools.product("bcdfgklm", ["on", "ar", "ül", "i", "x^2", "17"])]
    out = []
    for _ in range(families):
        words = list(rng.choice(vocabulary, rng.integers(1, 60)))
        out.append(" ".join(words))
        for _ in range(rng.choice([0, 0, 1, 4])):
            copy = list(words)
            for _ in range(rng.integers(0, 4)):
                copy[rng.integers(len(copy))] = rng.choice(vocabulary)
            out.append(" ".join(copy))
    return [*out, "", None, ""]


def pairs_above(texts, n, unit, numerator, denominator):
    sets = [shingles(text, n, unit) for text in texts]
    return [
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if sets[i] and sets[j] and denominator * len(sets[i] & sets[j]) >= numerator * len(sets[i] | sets[j])
    ]


@pytest.mark.parametrize(("unit", "n"), [("char", 5), ("byte", 5), ("word", 2), ("char", 12)])
def test_every_link_is_exact_and_similar_pairs_are_found(unit, n):
    texts = planted(np.random.default_rng(n))
    cluster, links = minhash.clusters(pa.array(texts), threshold=0.7, ngram=n, unit=unit, bands=32, rows=4)
    sets = [shingles(text, n, unit) for text in texts]
    for link in links.to_pylist():
        a, b = sets[link["a"]], sets[link["b"]]
        assert (link["shared"], link["union"]) == (len(a & b), len(a | b))
        assert link["jaccard"] >= 0.7 and cluster[link["a"]] == cluster[link["b"]]
    true = pairs_above(texts, n, unit, 7, 10)
    assert len(true) > 50
    assert sum(cluster[i] == cluster[j] for i, j in true) >= 0.999 * len(true)
    assert all(cluster[c] == c for c in set(cluster.tolist()))
    assert list(cluster[-3:]) == [len(texts) - 3, len(texts) - 2, len(texts) - 1], "texts without shingles stand alone"


def test_bands_that_nearly_agree_hide_no_pair():
    rng = np.random.default_rng(1)
    texts = []
    for _ in range(150):
        letters = rng.choice(list("abcd "), rng.integers(30, 80))
        texts += ["".join(letters)]
        letters[rng.integers(len(letters))] = "x"
        texts += ["".join(letters)]
    cluster, _ = minhash.clusters(pa.array(texts), threshold=0.5, bands=52, rows=3)
    true = pairs_above(texts, 5, "char", 1, 2)
    assert len(true) >= 150 and all(cluster[i] == cluster[j] for i, j in true)


def test_clusters_do_not_depend_on_row_order_threads_or_chunks():
    rng = np.random.default_rng(5)
    texts = np.array(planted(rng), dtype=object)
    ids = np.array([f"row-{xxhash.xxh64_hexdigest(str(i).encode())}" for i in range(len(texts))])

    def named(rows, array, threads):
        cluster, links = minhash.clusters(array, threshold=0.75, order=ids[rows], threads=threads)
        named_links = [(ids[rows[x["a"]]], ids[rows[x["b"]]], x["shared"], x["union"]) for x in links.to_pylist()]
        return dict(zip(ids[rows], ids[rows[cluster]], strict=True)), named_links

    rows = np.arange(len(texts))
    first = named(rows, pa.array(texts[rows], pa.string()), 1)
    shuffled = rng.permutation(rows)
    chunked = pa.chunked_array([pa.array(part, pa.large_string()) for part in np.array_split(texts[shuffled], 7)])
    assert named(shuffled, chunked, 2) == first
    assert named(shuffled, chunked, 1) == first


def test_leaders_are_similar_to_all_that_they_take():
    old, new = np.random.default_rng(8).choice(list("abcdefghijklmnopqrstuvwxyz"), (2, 300))
    chain = ["".join([*new[: 8 * step], *old[8 * step :]]) for step in range(8)]  # near the next, far from others
    texts = chain + planted(np.random.default_rng(3), 60)
    array = pa.array(texts)
    order = np.random.default_rng(4).permutation(len(texts))
    cluster, _ = minhash.clusters(array, threshold=0.8, bands=32, rows=4, order=order)
    assert len(set(cluster[:8].tolist())) == 1
    sets = [shingles(text, 5, "char") for text in texts]
    near = lambda i, j: 5 * len(sets[i] & sets[j]) >= 4 * len(sets[i] | sets[j])  # noqa: E731
    expected = np.arange(len(texts))
    for i in np.argsort(order):
        if expected[i] == i:
            for j in np.argsort(order):
                if j != i and order[j] > order[i] and expected[j] == j and cluster[i] == cluster[j] and near(i, j):
                    expected[j] = i
    for threads in (1, 2):
        leader, table = minhash.leader_clusters(array, cluster, threshold=0.8, order=order, threads=threads)
        np.testing.assert_array_equal(leader, expected)
        for row in table.to_pylist():
            a, b = sets[row["row"]], sets[row["leader"]]
            assert (row["shared"], row["union"]) == (len(a & b), len(a | b)) and row["leader"] == leader[row["row"]]
        assert set(table["row"].to_pylist()) == set(np.flatnonzero(leader != np.arange(len(texts))).tolist())


def test_jaccard_counts_any_pairs():
    texts = planted(np.random.default_rng(9), 40)
    left, right = np.random.default_rng(1).integers(0, len(texts), (2, 500))
    for unit, n in (("char", 5), ("char", 9), ("word", 1)):
        shared, union = minhash.jaccard(pa.array(texts), left, right, ngram=n, unit=unit)
        sets = [shingles(text, n, unit) for text in texts]
        assert shared.tolist() == [len(sets[i] & sets[j]) for i, j in zip(left, right, strict=True)]
        assert union.tolist() == [len(sets[i] | sets[j]) for i, j in zip(left, right, strict=True)]


def test_a_giant_bucket_is_joined_with_bounded_work():
    words = np.random.default_rng(2).choice([f"w{i}" for i in range(400)], 120)
    texts = []
    for i in range(1_500):
        copy = words.copy()
        copy[i % 120] = f"number{i}"
        texts.append(" ".join(copy))
    cluster, links = minhash.clusters(pa.array(texts), threshold=0.8)
    assert len(set(cluster.tolist())) == 1 and links.num_rows < 2 * len(texts)


def test_bands_on_disk_give_the_same_and_leave_nothing_behind(tmp_path):
    array = pa.array(planted(np.random.default_rng(6)))
    cluster, links = minhash.clusters(array, threads=2)
    on_disk, disk_links = minhash.clusters(array, threads=2, scratch=tmp_path)
    np.testing.assert_array_equal(on_disk, cluster)
    assert disk_links == links and links.num_rows > 50 and list(tmp_path.iterdir()) == []
    assert minhash.clusters(array[:0], scratch=tmp_path)[1].num_rows == 0


def test_parameters_with_weights_are_datasketchs():
    for threshold in (0.3, 0.5, 0.8, 0.95):
        for weights in ((0.5, 0.5), (0.1, 0.9)):
            reference = datasketch.MinHashLSH(threshold, num_perm=64, weights=weights)
            assert minhash.parameters(threshold, num_perm=64, weights=weights) == (reference.b, reference.r)


def test_parameters_keep_the_recall_asked_for():
    assert minhash.parameters(0.8) == (18, 5)
    for threshold in (0.4, 0.6, 0.8, 0.95, 1.0):
        for recall in (0.9, 0.999):
            bands, rows = minhash.parameters(threshold, num_perm=256, recall=recall)
            assert 1 - (1 - threshold**rows) ** bands >= recall and bands * rows <= 256


def test_slices_and_nulls_are_read_in_place():
    array = pa.array(["skip me", *TEXTS])
    np.testing.assert_array_equal(minhash.signatures(array[1:]), minhash.signatures(pa.array(TEXTS)))
    assert minhash.signatures(pa.array([], pa.string())).shape == (0, 128)
    assert minhash.signatures(pa.array([None], pa.string())).min() == 0xFFFFFFFF


def test_words_are_cut_where_python_cuts_them():
    rng = np.random.default_rng(11)
    spaces = [chr(point) for point in range(0x110000) if chr(point).isspace()]
    letters = ["a", "bc", "é", "数学", "🧮", "\u2010", "\u200b", "\u00a1", "\ue000", "x" * 30, "\x00", "\x1b"]
    texts = ["".join(rng.choice(spaces + 4 * letters + 8 * [" "], size)) for size in rng.integers(1, 150, 300)]
    texts += [" " * k + "a b" + "c" * size + " d" + " " * k for k in (0, 1) for size in range(120)]
    texts += ["x" * size + space + "y" for size in range(58, 68) for space in spaces]
    for n in (1, 3):
        got = minhash.signatures(pa.array(texts), ngram=n, unit="word", num_perm=4)
        for text, row in zip(texts, got, strict=True):
            reference = datasketch.MinHash(4, hashfunc=xxhash.xxh32_intdigest)
            for shingle in shingles(text, n, "word"):
                reference.update(shingle)
            np.testing.assert_array_equal(row, reference.hashvalues, err_msg=repr(text))


def test_every_length_is_hashed_in_full():
    text = "".join(np.random.default_rng(12).choice(list("abcdefgh é"), 300))
    texts = [text[:size] for size in range(1, 300)]
    for unit, n in (("byte", 3), ("char", 5), ("char", 1), ("word", 2), ("char", 400)):
        got = minhash.signatures(pa.array(texts), ngram=n, unit=unit, num_perm=8)
        for row, own in zip(got, texts, strict=True):
            reference = datasketch.MinHash(8, hashfunc=xxhash.xxh32_intdigest)
            for shingle in shingles(own, n, unit):
                reference.update(shingle)
            np.testing.assert_array_equal(row, reference.hashvalues)


def test_long_texts_beside_short_ones():
    rng = np.random.default_rng(13)
    words = rng.choice([f"w{i}é" for i in range(2_000)], 160_000)
    edited = words.copy()
    edited[:: len(words) // 50] = "changed"
    texts = ["short", " ".join(words), "a", " ".join(edited), None, " ".join(words), ""]
    assert len(texts[1].encode()) > 1_000_000
    for unit, n in (("char", 5), ("word", 3)):
        cluster, links = minhash.clusters(pa.array(texts), unit=unit, ngram=n, threads=2)
        assert cluster.tolist() == [0, 1, 2, 1, 4, 1, 6]
        sets = [shingles(text, n, unit) for text in texts]
        for link in links.to_pylist():
            a, b = sets[link["a"]], sets[link["b"]]
            assert (link["shared"], link["union"]) == (len(a & b), len(a | b))


def test_every_layout_of_arrow_gives_the_same():
    plain = pa.array(TEXTS)
    want, (cluster, links) = minhash.signatures(plain), minhash.clusters(plain)
    layouts = {
        "large": plain.cast(pa.large_string()),
        "view": plain.cast(pa.string_view()),
        "dictionary": plain.dictionary_encode(),
        "binary": plain.cast(pa.binary()),
        "chunks": pa.chunked_array([plain[:1], plain[1:1], plain[1:4], plain[4:]]),
        "view in chunks": pa.chunked_array([plain[:3].cast(pa.string_view()), plain[3:].cast(pa.string_view())]),
        "slice": pa.concat_arrays([pa.array(["before", None]), plain, pa.array(["after"])])[2:-1],
    }
    for name, array in layouts.items():
        np.testing.assert_array_equal(minhash.signatures(array), want, err_msg=name)
        got, made = minhash.clusters(array, threads=64)
        assert got.tolist() == cluster.tolist() and made == links, name


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.null()])
def test_nothing_gives_nothing(kind):
    for array in (pa.array([], kind), pa.chunked_array([], kind), pa.nulls(3, kind), pa.nulls(3, kind)[1:]):
        n = len(array)
        assert (minhash.signatures(array, threads=4) == 0xFFFFFFFF).all()
        cluster, links = minhash.clusters(array, threads=4)
        assert cluster.tolist() == list(range(n)) and links.num_rows == 0
        leader, merged = minhash.leader_clusters(array, cluster, threads=4)
        assert leader.tolist() == list(range(n)) and merged.num_rows == 0
    assert [len(part) for part in minhash.jaccard(pa.array([], kind), np.array([]), np.array([]))] == [0, 0]


def test_offsets_beyond_two_gibibytes():
    far = 2**31 + 100
    memory = mmap.mmap(-1, far + 4096)  # no page of it exists before it is written to
    memory[far : far + 22] = b"hello world, far away!"
    data = pa.py_buffer(memory)
    array = pa.LargeStringArray.from_buffers(2, pa.py_buffer(np.array([far, far + 11, far + 22])), data)
    np.testing.assert_array_equal(
        minhash.signatures(array), minhash.signatures(pa.array(["hello world", ", far away!"]))
    )
    whole = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, far])), data)
    with pytest.raises(ValueError, match="too long"):
        minhash.signatures(whole)


def test_errors_say_what_to_do():
    with pytest.raises(TypeError, match=r"wrap lists as pa.array"):
        minhash.signatures(["a"])
    with pytest.raises(ValueError, match="unit must be one of byte, char, word"):
        minhash.signatures(pa.array(["a"]), unit="token")
    with pytest.raises(ValueError, match="order must be distinct: rows 0 and 1"):
        minhash.clusters(pa.array(["a", "b"]), order=np.array([7, 7]))
    with pytest.raises(ValueError, match="raise num_perm"):
        minhash.parameters(0.2, num_perm=2)


def test_importing_kernels_does_not_import_numba():
    code = "import sys, curation.kernels.minhash; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
