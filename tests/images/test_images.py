"""The image store: what enters, what it says of a picture, and what happens when files are cut, lost or doubled."""

from __future__ import annotations

import hashlib
import io
import itertools
import multiprocessing
import os
import signal
import struct
import time
import zlib
from pathlib import Path

import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.images import BadImage, ImageStore, ImageWriter, difference_hash, inspect
from schemas.errors import DamagedError
from schemas.rows import IMAGE


def picture(
    seed: int = 0, size: tuple[int, int] = (60, 40), mode: str = "RGB", kind: str = "PNG", **options: object
) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to nothing inside."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------------------- what it is


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_the_format_is_told_from_the_bytes(kind: str) -> None:
    facts = inspect(picture(kind=kind))
    assert (facts["format"], facts["width"], facts["height"]) == (kind, 60, 40)
    assert facts["frames"] == 1 and facts["orientation"] == 1 and not facts["tiny"]


def test_what_is_recorded(tmp_path: Path) -> None:
    assert inspect(picture(mode="RGBA"))["alpha"]
    assert not inspect(picture())["alpha"]
    clear = io.BytesIO()
    Image.new("P", (30, 30)).save(clear, "PNG", transparency=0)
    assert inspect(clear.getvalue())["alpha"]
    assert inspect(picture(size=(27, 500)))["tiny"]
    assert not inspect(picture(size=(28, 28)))["tiny"]
    exif = Image.Exif()
    exif[0x0112] = 6
    assert inspect(picture(kind="JPEG", exif=exif))["orientation"] == 6
    exif[0x0112] = 77
    assert inspect(picture(kind="JPEG", exif=exif))["orientation"] == 1
    frames = [Image.new("L", (40, 40), shade) for shade in (0, 100, 200)]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    assert inspect(moving.getvalue())["frames"] == 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize(
    "size", [(17, 16), (60, 40), (5, 5), (13, 3), (7, 28), (170, 339), (40, 400), (1001, 37), (1, 1)]
)
def test_difference_hash_is_imagehash(mode: str, size: tuple[int, int]) -> None:
    if mode == "I;16":
        values = np.random.default_rng(1).integers(0, 65536, (size[1], size[0]), dtype=np.uint16)
        image = Image.fromarray(values)
    else:
        image = Image.open(io.BytesIO(picture(3, size))).convert(mode)
    assert difference_hash(image) == str(imagehash.dhash(image, hash_size=16))


def test_difference_hash_of_a_picture_of_many_blocks() -> None:
    image = Image.effect_mandelbrot((3000, 2500), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    assert difference_hash(image) == str(imagehash.dhash(image, hash_size=16))


def test_difference_hash_of_real_pictures(data_dir: Path) -> None:
    seen = 0
    for name in ("multimodal/mmk12", "multimodal/theoremqa", "multimodal/gaokao_mm", "benchmark/mathv_testmini"):
        for pictures in pq.read_table(data_dir / f"{name}.parquet", columns=["images"])["images"].to_pylist():
            for each in pictures or ():
                image = Image.open(io.BytesIO(each["bytes"]))
                assert inspect(each["bytes"])["dhash"] == str(imagehash.dhash(image, hash_size=16))
                seen += 1
    assert seen > 1000


# ---------------------------------------------------------------------------------------------- what is bad

WHOLE = picture(kind="JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image_empty"),
        (b"GIF89a" + b"\0" * 40, "image_"),
        (b"no picture at all", "image_format"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "image_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "image_format"),
        (WHOLE[: len(WHOLE) // 2], "image_broken"),
        (picture()[:200], "image_broken"),
        (png_header(12_000, 12_000), "image_bomb"),
        (png_header(200_000, 200_000), "image_bomb"),
        (png_header(50, 50), "image_broken"),
        (b"\x89PNG\r\n\x1a\n", "image_"),
        (bytes(range(256)) * 40, "image_format"),
    ],
)
def test_bad_pictures_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        with pytest.raises(BadImage) as refused:
            writer.add(data, "x.png")
        assert refused.value.reason.startswith(reason)
        assert refused.value.sentence.endswith(".")
        good = writer.add(picture())
    assert list(ImageStore(tmp_path).read([good])) == [good]


def test_every_truncation_is_refused_or_whole(tmp_path: Path) -> None:
    """A cut at any place ends in BadImage, never in another exception."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = picture(kind=kind, size=(30, 30))
        for end in range(0, len(data) - 64, 37):
            try:
                inspect(data[:end])
            except BadImage as error:
                assert error.reason.startswith("image_")


# ---------------------------------------------------------------------------------------------- the store


def test_a_picture_is_stored_once(tmp_path: Path) -> None:
    one, two = picture(1), picture(2)
    with ImageWriter(tmp_path) as writer:
        names = [writer.add(one), writer.add(two), writer.add(one)]
    assert names == [hashlib.sha256(data).hexdigest() for data in (one, two, one)]
    with ImageWriter(tmp_path) as again:
        again.add(two)
        again.add(three := picture(3))
    store = ImageStore(tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "images").glob("*.pack")) == sum(map(len, (one, two, three)))
    assert len(store.packs()) == 2 and sorted(again.packs_used()) == store.packs()
    assert store.has_packs(store.packs()) and not store.has_packs(["gone.pack"])
    assert store.read(names) == {names[0]: one, names[1]: two}
    index = store.index()
    assert index.schema.equals(IMAGE) and len(index) == 3
    assert index["hash"].to_pylist() == sorted(index["hash"].to_pylist())
    assert store.info([names[1]])["bytes"].to_pylist() == [len(two)]
    assert store.verify() == []


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        name = writer.add(picture(1))
        assert not ImageStore(tmp_path).has([name])
    assert ImageStore(tmp_path).has([name])
    with pytest.raises(RuntimeError), ImageWriter(tmp_path) as writer:
        writer.add(picture(2))
        raise RuntimeError
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_a_pack_is_closed_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.images.PACK_BYTES", 10_000)
    with ImageWriter(tmp_path) as writer:
        names = [writer.add(picture(seed)) for seed in range(6)]
    store = ImageStore(tmp_path)
    assert len(store.packs()) > 1
    assert [hashlib.sha256(data).hexdigest() for data in store.read(names).values()] == names


def _write_until_killed(folder: str) -> None:
    with ImageWriter(Path(folder)) as writer:
        for seed in range(100_000):
            writer.add(picture(seed))


def test_what_a_killed_writer_leaves_is_ignored_and_removed(tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        name = writer.add(picture(1))
    process = multiprocessing.get_context("spawn").Process(target=_write_until_killed, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 50_000 for p in (tmp_path / "images").glob("*.pack")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = ImageStore(tmp_path)
    assert store.index()["hash"].to_pylist() == [name] and store.verify() == []
    assert store.remove({name}, dry_run=True) > 0
    assert store.remove({name}) > 0
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert store.remove({name}) == 0


def _write_some(folder: str, first: int) -> None:
    with ImageWriter(Path(folder)) as writer:
        for seed in range(first, first + 40):
            writer.add(picture(seed))


def test_two_writers_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_some, args=(str(tmp_path), first)) for first in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = ImageStore(tmp_path)
    wanted = [hashlib.sha256(picture(seed)).hexdigest() for seed in range(60)]
    assert store.index()["hash"].to_pylist() == sorted(wanted)
    assert list(store.read(wanted)) and store.verify() == []


def test_removing_keeps_what_is_named(tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        names = [writer.add(picture(seed)) for seed in range(4)]
    with ImageWriter(tmp_path) as writer:
        other = writer.add(picture(9))
    store = ImageStore(tmp_path)
    sizes = dict(zip(store.index()["hash"].to_pylist(), store.index()["bytes"].to_pylist(), strict=True))
    store.read(names)
    assert store.remove({names[2]}) == sum(sizes.values()) - sizes[names[2]]
    assert set(store.read([names[2]])) == {names[2]}
    assert store.has([names[2]]) and not store.has([names[0]]) and not store.has([other])
    assert store.verify() == []
    with pytest.raises(DamagedError, match="not in the image store"):
        store.read([names[0]])


def test_damage_is_named(tmp_path: Path) -> None:
    with ImageWriter(tmp_path) as writer:
        name = writer.add(picture(1))
        writer.add(picture(2))
    store = ImageStore(tmp_path)
    pack = tmp_path / "images" / store.packs()[0]
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    assert [damage.file for damage in store.verify()] == [pack.name]
    with pytest.raises(DamagedError, match=f"{pack.name} is damaged.*\n.*build again"):
        store.read([name])
    pack.write_bytes(data[:50])
    assert len(store.verify()) == 2
    pack.unlink()
    assert [damage.what for damage in store.verify()] == ["is missing"]
    with pytest.raises(DamagedError, match="it is gone"):
        store.read([name])
    assert not store.has_packs(store.packs())


def test_a_person_sees_it_upright_and_on_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = io.BytesIO()
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(clear, "PNG")
    deep = io.BytesIO()
    Image.fromarray(np.full((30, 30), 0x8000, np.uint16)).save(deep, "PNG")
    with ImageWriter(tmp_path) as writer:
        turned = writer.add(picture(size=(60, 40), kind="JPEG", exif=exif))
        empty = writer.add(clear.getvalue())
        sixteen = writer.add(deep.getvalue())
    store = ImageStore(tmp_path)
    assert store.open(turned).size == (40, 60)
    assert store.open(empty).getpixel((3, 3)) == (255, 255, 255)
    assert store.open(sixteen).getpixel((3, 3)) == (128, 128, 128)


def test_a_hash_that_ends_in_zeros_is_found(tmp_path: Path) -> None:
    """One picture in 256 has such a hash, and numpy strips zero bytes from the end of fixed-length texts."""
    base = Image.new("RGB", (2, 2))
    for n in itertools.count():
        base.putpixel((0, 0), (n & 255, n >> 8 & 255, 7))
        sink = io.BytesIO()
        base.save(sink, "PNG")
        if hashlib.sha256(sink.getvalue()).digest()[-1] == 0:
            break
    with ImageWriter(tmp_path) as writer:
        name = writer.add(sink.getvalue())
    assert ImageStore(tmp_path).read([name]) == {name: sink.getvalue()}
    assert ImageStore(tmp_path).has([name])
