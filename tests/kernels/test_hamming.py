"""The Hamming search against comparing all pairs, on hashes that imagehash itself made."""

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from curation.kernels import hamming


def figure(rng: np.random.Generator) -> Image.Image:
    """A line drawing on white, as in a geometry problem: most of the picture is blank."""
    image = Image.new("L", (96, 80), 255)
    draw = ImageDraw.Draw(image)
    corners = [tuple(map(int, rng.integers(8, 72, 2))) for _ in range(rng.integers(3, 7))]
    draw.polygon(corners, outline=0)
    for _ in range(rng.integers(0, 4)):
        draw.line([*map(int, rng.integers(8, 72, 4))], fill=0, width=2)
    return image


@pytest.fixture(scope="module")
def hashes() -> list[str | None]:
    rng = np.random.default_rng(0)
    figures = [figure(rng) for _ in range(350)]
    altered = [image.resize((300, 250)).crop((2, 2, 297, 248)) for image in figures[:60]]
    out = [str(imagehash.dhash(image, hash_size=16)) for image in [*figures, *altered, *figures[:5]]]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(out[:40])), np.uint8).reshape(40, 32), axis=1)
    for count, row in zip(range(1, 41), bits, strict=True):  # neighbours at every distance from 1 to 40
        row[rng.choice(256, count, replace=False)] ^= 1
    return [*out, None, *(np.packbits(row).tobytes().hex() for row in bits), None]


def distances(left, right):
    """Every distance by definition, int64 (len(left), len(right)); null is far from all."""
    parse = lambda h: np.unpackbits(np.frombuffer(bytes.fromhex(h or "0" * 64), np.uint8))  # noqa: E731
    a, b = np.array([parse(h) for h in left]), np.array([parse(h) for h in right])
    out = (a[:, None, :] != b[None, :, :]).sum(axis=2)
    out[[h is None for h in left], :] = 999
    out[:, [h is None for h in right]] = 999
    return out


@pytest.mark.parametrize("radius", [0, 7, 15, 24, 31, 40])
def test_pairs_are_all_pairs_within_the_radius(hashes, radius):
    table = hamming.pairs(pa.array(hashes), radius=radius)
    assert hamming.pairs(pa.chunked_array([hashes[:100], hashes[100:]]), radius=radius, threads=2) == table
    truth = distances(hashes, hashes)
    first = {h: i for i, h in reversed(list(enumerate(hashes)))}
    expected = {
        (i, j, int(truth[i, j]))
        for i, j in zip(*np.nonzero(truth <= radius), strict=True)
        if i < j and first[hashes[i]] == i and (hashes[i] == hashes[j] or first[hashes[j]] == j)
    }
    got = list(zip(*(table[name].to_pylist() for name in ("a", "b", "distance")), strict=True))
    assert len(got) == len(set(got)) and set(got) == expected
    assert len(got) >= 5


@pytest.mark.parametrize("radius", [10, 24, 33])
def test_matches_against_another_set(hashes, radius):
    rows, against = hashes[:300], hashes[250:]
    truth = distances(rows, against)
    first = {h: i for i, h in reversed(list(enumerate(against)))}
    expected = {
        (i, j, int(truth[i, j])) for i, j in zip(*np.nonzero(truth <= radius), strict=True) if first[against[j]] == j
    }
    table = hamming.matches(pa.array(rows), pa.array(against), radius=radius, threads=2)
    got = list(zip(*(table[name].to_pylist() for name in ("row", "against", "distance")), strict=True))
    assert len(got) == len(set(got)) and set(got) == expected


def test_empty_sets_and_bad_hashes():
    assert hamming.pairs(pa.array([], pa.string())).num_rows == 0
    assert hamming.pairs(pa.array([None, None], pa.string())).num_rows == 0
    with pytest.raises(ValueError, match="row 1: a picture hash has 64 hex digits, this one has 4"):
        hamming.pairs(pa.array(["0" * 64, "abcd"]))
    with pytest.raises(ValueError, match=r"radius must lie in 0\.\.47"):
        hamming.pairs(pa.array(["0" * 64]), radius=64)
