"""The containment index against its definition in plain Python, and against the disguises in which items travel."""

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.kernels import containment

ITEMS = [
    "A train travels 120 miles in 2.5 hours. What is its average speed in miles per hour, to the nearest 1,000 units?",
    r"Compute \dfrac{x^2 + 3x}{x - 4} for $x = 7$, and simplify \left( \text{the result} \right) as far as you can.",
    "What is 2 + 2?",
    "Déterminez la longueur de l'hypoténuse d'un triangle rectangle dont les côtés mesurent trois et quatre mètres.",
    "如图，四边形ABCD是正方形，点E在边BC上，求角AED的度数。",
    "",
    None,
]


@pytest.fixture(scope="module")
def index() -> containment.Index:
    return containment.build(pa.array(ITEMS))


def best(index, row, **options):
    """(item, matched share, exact share) of the hits of one row, best first."""
    hits = index.search(pa.array([row]), **options).to_pylist()
    return sorted(((h["item"], h["matched"] / h["grams"], h["exact"] / h["grams"]) for h in hits), key=lambda h: -h[1])


def test_disguises_do_not_hide_an_item(index):
    for number, item in enumerate(ITEMS[:5]):
        disguises = [
            item,
            item.upper(),
            "\n   ".join(re.findall(r"\S+\s*", item)),
            f"You are a careful tutor. Think step by step. Question: {item} Give the answer in a box, please.",
            item.replace("\\dfrac", "\\frac").replace("\\left", "").replace("\\right", "").replace("$", ""),
            item.replace("1,000", "1000").replace("x^2", "x²").replace("?", " ?").replace("，", ","),
        ]
        for row in disguises:
            assert best(index, row)[0] == (number, 1.0, 1.0), row


def test_other_numbers_are_siblings_and_other_words_are_nothing(index):
    sibling = ITEMS[0].replace("120", "135").replace("2.5", "3")
    (item, matched, exact), *rest = best(index, sibling)
    assert (item, matched, rest) == (0, 1.0, []) and exact < 0.6
    assert best(index, "A train travels 120 miles north before it stops at a small station for the night.") == []
    assert best(index, "What is 2 + 3?") == [(2, 1.0, 0.0)]
    assert best(index, None) == [] and best(index, "") == []


def test_texts_of_numbers_alone_are_compared_by_their_numbers():
    index = containment.build(pa.array(["1 2 3 4 5 6 7 8 9 10 11 12"]))
    assert best(index, "21 22 23 24 25 26 27 28 29 30 31 32") == []
    assert best(index, "so 1 2 3 4 5 6 7 8 9 10 11 12") == [(0, 1.0, 1.0)]


def test_spans_cover_what_overlaps(index):
    half = ITEMS[0].index("What is")
    row = "Please read: " + ITEMS[0][:half] + " (Take your time.) " + ITEMS[0][half:]
    (hit,) = index.search(pa.array([row]), min_containment=0.2).to_pylist()
    assert len(hit["spans"]) == 2 and hit["item_tokens"] == 22 and hit["row_tokens"] == 27
    for span in hit["spans"]:
        overlap = row.encode()[span["row_start"] : span["row_end"]].decode()
        assert overlap == ITEMS[0].encode()[span["item_start"] : span["item_end"]].decode()
    assert hit["spans"][0]["row_start"] == row.index("A train")


def definition(items, rows, n, share):
    """Hits by sets of token n-grams, for plain lower-case words and integers."""
    out = set()
    for i, row in enumerate(rows):
        for j, item in enumerate(items):
            a, b = row.split(), item.split()
            width = min(n, len(b))
            if not width:
                continue

            def grams(tokens, blind, width=width):
                runs = [tokens[k : k + width] for k in range(len(tokens) - width + 1)]
                mask = lambda run: blind and 2 * sum(t.isdigit() for t in run) <= width  # noqa: E731
                return [tuple("#" if mask(run) and t.isdigit() else t for t in run) for run in runs]

            has, has_blind = set(grams(a, False)), set(grams(a, True))
            exact, blind = grams(b, False), grams(b, True)
            matched = sum(gram in has_blind for gram in blind)
            if matched >= share * len(blind):
                same = sum(x in has for x, y in zip(exact, blind, strict=True) if y in has_blind)
                out.add((i, j, len(blind), matched, same))
    return out


def test_counts_are_those_of_the_definition_whatever_the_threads():
    rng = np.random.default_rng(0)
    words = np.array([*"abcdefgh", "alpha", "beta", "12", "7", "305"])
    items = [" ".join(rng.choice(words, rng.integers(0, 14))) for _ in range(60)]
    rows = []
    for _ in range(300):
        parts = [" ".join(rng.choice(words, rng.integers(0, 9)))]
        if rng.random() < 0.7:
            item = items[rng.integers(len(items))].split()
            cut = rng.integers(0, len(item) + 1)
            parts.insert(rng.integers(2), " ".join(item[:cut]))
        rows.append(" ".join(parts))
    table = containment.build(pa.array(items), ngram=4).search(pa.array(rows), min_containment=0.5)
    names = ("row", "item", "grams", "matched", "exact")
    got = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    assert len(got) > 200 and len(set(got)) == len(got)
    assert set(got) == definition(items, rows, 4, 0.5)
    chunked = pa.chunked_array([rows[:7], rows[7:]], pa.large_string())
    again = containment.build(pa.array(items), ngram=4).search(chunked, min_containment=0.5, threads=2)
    assert again == table


def test_an_item_is_found_though_a_hundred_others_share_its_words():
    stem = "Find the area of the shaded region in the figure shown below if the side of the square is {} meters long"
    items = [stem.format(word) for word in (f"w{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(150))]
    index = containment.build(pa.array(items))
    hits = index.search(pa.array([items[77]]), min_containment=1.0)
    assert hits["item"].to_pylist() == [77]


def test_errors_say_what_to_do(index):
    with pytest.raises(ValueError, match=r"min_containment must lie in \(0, 1\]"):
        index.search(pa.array(["a"]), min_containment=50)
    with pytest.raises(ValueError, match="ngram must be 2 or more"):
        containment.build(pa.array(["a"]), ngram=1)


DATA = Path(os.environ.get("WINNOW_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real-data pack: WINNOW_DATA=/path/to/data make test")
def test_all_of_math_500_is_found_in_the_math_test_set():
    items = pq.read_table(DATA / "benchmark/math500.parquet")["question"]
    math = pq.read_table(DATA / "text/math.parquet", columns=["question", "split"])
    hits = containment.build(items).search(math.filter(pa.compute.equal(math["split"], "test"))["question"])
    exact = hits.filter(pa.compute.equal(hits["exact"], hits["grams"]))
    assert set(exact["item"].to_pylist()) == set(range(500))
    mmk12 = pq.read_table(DATA / "multimodal/mmk12.parquet", columns=["question"])["question"]
    mathverse = pq.read_table(DATA / "benchmark/mathverse_text_only.parquet", columns=["question"])["question"]
    assert containment.build(mathverse).search(mmk12).num_rows == 0, "a shared opening is no leak"
