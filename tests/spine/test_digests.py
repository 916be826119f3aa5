"""Digests are over logical values: no matter how Arrow holds them, and never the same for different values."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.digests import PREFIXES, column_digest, prefix_bounds, prefix_digests, table_digest, text_id
from curation.ids import canonical_texts, hash_texts, ids_array, ids_column

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=12)


@given(TEXTS, st.integers(0, 12))
def test_chunks_slices_and_dictionaries_do_not_matter(values: list[str | None], cut: int) -> None:
    whole = pa.array(values, pa.string())
    cut = min(cut, len(values))
    padded = pa.array(["x", None, *values, "y"], pa.string()).slice(2, len(values))
    same = [
        padded,
        pa.chunked_array([whole.slice(0, cut), whole.slice(cut)], pa.string()),
        whole.cast(pa.large_string()),
        whole.dictionary_encode(),
    ]
    assert {column_digest(array) for array in same} == {column_digest(whole)}


@given(TEXTS, TEXTS)
def test_different_texts_have_different_digests(a: list[str | None], b: list[str | None]) -> None:
    same = column_digest(pa.array(a, pa.string())) == column_digest(pa.array(b, pa.string()))
    assert same == (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([["a", "b"]], [["a"], ["b"]]),
        ([["ab"]], [["a", "b"]]),
        ([[]], [None]),
        ([[None]], [[]]),
        ([["", "a"]], [["a", ""]]),
    ],
)
def test_lists_are_told_apart(a: list[object], b: list[object]) -> None:
    kind = pa.list_(pa.string())
    assert column_digest(pa.array(a, kind)) != column_digest(pa.array(b, kind))


def test_what_lies_under_a_null_does_not_matter() -> None:
    values = pa.py_buffer(np.array([1, 77, 3], "<i4").tobytes())
    mask = pa.py_buffer(bytes([0b101]))
    hidden = pa.Array.from_buffers(pa.int32(), 3, [mask, values])
    assert column_digest(hidden) == column_digest(pa.array([1, None, 3], pa.int32()))


def test_minus_zero_and_nan_have_one_form() -> None:
    assert column_digest(pa.array([0.0, float("nan")])) == column_digest(pa.array([-0.0, -float("nan")]))


def test_a_map_has_no_canonical_form() -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        column_digest(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())))


def test_table_digest_does_not_depend_on_the_order_of_columns() -> None:
    a = pa.table({"x": [1, 2], "y": ["a", None]})
    assert table_digest(a) == table_digest(a.select(["y", "x"]))
    assert table_digest(a) != table_digest(a.rename_columns(["y", "x"]))


def test_prefix_groups_cover_a_sorted_table() -> None:
    ids = sorted(text_id("row", str(i)) for i in range(2000))
    table = pa.table({"row_id": ids, "n": range(2000)})
    bounds = prefix_bounds(table["row_id"])
    assert bounds[0] == 0 and bounds[-1] == 2000 and np.all(np.diff(bounds) >= 0)
    whole = prefix_digests(table, 0, PREFIXES)
    halves = {**prefix_digests(table, 0, 128), **prefix_digests(table, 128, PREFIXES)}
    assert whole == halves
    changed = table.set_column(1, "n", pa.array([*range(1999), -1]))
    differing = [p for p, d in prefix_digests(changed, 0, PREFIXES).items() if whole[p] != d]
    assert differing == [int(ids[-1][:2], 16)]


KINDS = st.sampled_from(
    [
        (pa.string(), st.text(max_size=4)),
        (pa.large_binary(), st.binary(max_size=4)),
        (pa.int32(), st.integers(-9, 9)),
        (pa.float64(), st.floats()),
        (pa.bool_(), st.booleans()),
        (pa.null(), st.none()),
        (pa.list_(pa.string()), st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=3)),
        (
            pa.struct([("a", pa.int64()), ("b", pa.list_(pa.bool_()))]),
            st.fixed_dictionaries({"a": st.one_of(st.none(), st.integers(0, 3)), "b": st.lists(st.booleans())}),
        ),
    ]
)


@given(st.data(), KINDS, st.integers(1, 30))
def test_a_prefix_group_has_the_digest_of_its_rows_alone(data: st.DataObject, kind: tuple, n: int) -> None:  # type: ignore[type-arg]
    """Ranges of one column are hashed without cutting it, and must come out as if it had been cut."""
    values = data.draw(st.lists(st.one_of(st.none(), kind[1]), min_size=n, max_size=n))
    ids = sorted(f"{data.draw(st.integers(0, 3)):02x}{i:018d}" for i in range(n))
    table = pa.table({"row_id": ids, "x": pa.array(values, kind[0])})
    groups = {int(prefix, 16): [i for i in ids if i[:2] == prefix] for prefix in {i[:2] for i in ids}}
    start = 0
    want = {}
    for prefix, of in sorted(groups.items()):
        want[prefix] = table_digest(pa.table(table.slice(start, len(of)).to_pydict(), schema=table.schema))
        start += len(of)
    assert prefix_digests(table, 0, PREFIXES) == want


def test_text_id_tells_parts_apart() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", None), ("ab", "c", ""), (None, "abc")]
    assert len({text_id(*p) for p in parts}) == len(parts)
    assert text_id("a") == hashlib.sha256(b"1:a").hexdigest()[:20]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text(max_size=4)), st.one_of(st.none(), st.lists(st.text(max_size=3), max_size=3))
        ),
        min_size=2,
        max_size=20,
    )
)
def test_canonical_texts_tell_rows_apart(rows: list[tuple[str | None, list[str] | None]]) -> None:
    table = pa.table(
        {"q": pa.array([r[0] for r in rows], pa.string()), "c": pa.array([r[1] for r in rows], pa.list_(pa.string()))}
    )
    texts = canonical_texts(table, ["q", "c"]).to_pylist()
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (texts[i] == texts[j]) == (a == b)


def test_hash_texts_is_sha256() -> None:
    texts = pa.array(["skipped", "a", "", "ü" * 100]).slice(1)
    want = [hashlib.sha256(t.encode()).hexdigest()[:20] for t in ("a", "", "ü" * 100)]
    assert hash_texts(texts).to_pylist() == want


def test_ids_go_to_numpy_and_back() -> None:
    ids = [text_id(str(i)) for i in range(7)]
    array = pa.array(["0" * 20, *ids]).slice(1)
    assert ids_column(ids_array(array)).to_pylist() == ids
    with pytest.raises(ValueError, match="20 hex digits"):
        ids_array(pa.array(["short"]))


def test_names_of_list_items_do_not_matter() -> None:
    a = pa.array([["x"]], pa.list_(pa.field("item", pa.string())))
    b = pa.array([["x"]], pa.list_(pa.field("element", pa.string(), nullable=False)))
    assert column_digest(a) == column_digest(b)
