"""The image store: every picture once, by the hash of its bytes.

Bytes lie in append-only *packs* under `images/`; beside each pack a Parquet index says what is in it and where. A pack
belongs to the one process that wrote it and counts once its index is there, which happens by rename after both are on
disk: a pack without an index is what a killed process left, and nothing reads it.

A picture enters only if it can be decoded to its last pixel. Endings of file names are not believed: the format is
told from the bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import sys
import uuid
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.store import fsync_folder
from schemas.errors import DamagedError
from schemas.rows import IMAGE

if TYPE_CHECKING:
    from types import TracebackType

    from PIL import Image

MAX_PIXELS = 100_000_000
"""More than this is refused by its header, before a byte is decoded (a 100-megapixel picture takes 400 MB)."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
"""What is decoded. Others are refused: Pillow reads some of them by running other programs."""
TINY = 28
"""Side in pixels under which a picture says little to a vision model (one patch of Qwen2.5-VL)."""
MAX_BYTES = 256 << 20
"""A picture file that is larger than this is not read."""
PACK_BYTES = 1 << 30


class BadImage(Exception):
    """A picture that cannot be used: a reason code and a sentence for the person who looks for the row."""

    def __init__(self, reason: str, sentence: str):
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


# ------------------------------------------------------------------------------------------------------------- decoding


def inspect(data: bytes) -> dict[str, Any]:
    """Decode a picture fully and say what it is: the columns of schemas.rows.IMAGE but for where it lies.

    Raises BadImage with one of the reasons image_empty, image_format, image_bomb, image_broken.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadImage("image_empty", "The picture has no bytes.")
    with warnings.catch_warnings():
        # Pillow remarks on odd but readable files; on stderr of a worker that helps nobody.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=_formats())
        except UnidentifiedImageError:
            raise BadImage("image_format", _no_picture(data)) from None
        except Image.DecompressionBombError:
            raise BadImage("image_bomb", f"The picture's header says more than {MAX_PIXELS:,} pixels.") from None
        except Exception as error:
            raise BadImage("image_broken", f"The picture's header cannot be read: {_first_line(error)}.") from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImage(
                "image_bomb", f"The picture says that it has {width:,} x {height:,} pixels; {MAX_PIXELS:,} are allowed."
            )
        if not width or not height:
            raise BadImage("image_empty", f"The picture has {width} x {height} pixels.")
        mode, kind = image.mode, image.format or ""
        try:
            frames = int(getattr(image, "n_frames", 1))
            image.load()
            digest = difference_hash(image)
        except Exception as error:
            raise BadImage(
                "image_broken", f"The picture cannot be decoded to its end: {_first_line(error)}."
            ) from error
        return {
            "bytes": len(data),
            "format": kind,
            "width": width,
            "height": height,
            "mode": mode,
            "frames": frames,
            "orientation": _orientation(image),
            "alpha": image.has_transparency_data,
            "tiny": min(width, height) < TINY,
            "dhash": digest,
        }


def as_seen(data: bytes) -> Image.Image:
    """A picture as a person sees it: RGB, turned by its EXIF orientation, on white where it is transparent.

    Raises what Pillow raises for bytes that are no picture."""
    from PIL import Image, ImageOps

    image: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


@functools.cache
def _formats() -> list[str]:
    """FORMATS that this build of Pillow knows."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF is common, and says nothing about the pixels
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _no_picture(data: bytes) -> str:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or b"<svg" in head:
        return "The bytes are an SVG drawing, which may carry scripts: draw it to PNG first."
    if head.startswith((b"<!doctype html", b"<html")):
        return "The bytes are a web page, perhaps what a failed download left: fetch the picture again."
    return f"The bytes are no picture that can be read (they begin with {data[:8]!r})."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def difference_hash(image: Image.Image) -> str:
    """Hex of the 256-bit difference hash: is a pixel brighter than its left neighbour, on a 17 x 16 grey thumbnail.
    The same bits as `imagehash.dhash(image, hash_size=16)`; the picture must be loaded."""
    from curation.kernels.thumbnail import thumbnail

    small = thumbnail(_pixels(image), 17, 16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def _pixels(image: Image.Image) -> np.ndarray:
    """(height, width) uint8 grey or uint32 RGB pixels, without a copy where Pillow holds them in one block."""
    if image.mode in ("RGB", "RGBA", "RGBX") and sys.byteorder == "little":
        with contextlib.suppress(ValueError):  # a picture of several blocks
            pixels = pa.array(image).values.buffers()[1]  # type: ignore[call-overload]
            return np.frombuffer(pixels, np.uint32, image.width * image.height).reshape(image.height, image.width)
    return np.asarray(image if image.mode == "L" else image.convert("L"))


# -------------------------------------------------------------------------------------------------------------- writing


class ImageWriter:
    """Adds pictures to the store of a workspace. A context manager: what was added can be seen once it ends well."""

    def __init__(self, workspace: Path):
        self._folder = workspace / "images"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._places = _places(self._folder)
        self._places.refresh()
        self._known: dict[str, str] = {}
        self._rows: list[dict[str, Any]] = []
        self._used: set[str] = set()
        self._file: BinaryIO | None = None
        self._name = ""
        self._offset = 0

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        elif self._file is not None:
            self._file.close()
            (self._folder / self._name).unlink()
            self._file = None

    def add(self, data: bytes, name: str = "") -> str:
        """Store one picture and return its hash. Raises BadImage; `name` is only for people."""
        digest = hashlib.sha256(data).hexdigest()
        pack = self._known.get(digest)
        if pack is None and (place := self._places.find(digest)) is not None:
            pack = place[0]
        if pack is None:
            facts = inspect(data)
            if self._file is None:
                self._name = f"{uuid.uuid4().hex}.pack"
                self._file = (self._folder / self._name).open("wb")
                self._offset = 0
            self._file.write(data)
            self._rows.append({"hash": digest, **facts, "pack": self._name, "offset": self._offset})
            self._offset += len(data)
            self._known[digest] = pack = self._name
            if self._offset >= PACK_BYTES:
                self._close()
        self._used.add(pack)
        return digest

    def packs_used(self) -> list[str]:
        """Packs in which the pictures that were added lie, written by us or found."""
        return sorted(self._used)

    def _close(self) -> None:
        """Make the current pack durable, then visible."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        _write_index(self._folder, self._name, self._rows)
        self._rows = []


def _write_index(folder: Path, pack: str, rows: Sequence[dict[str, Any]]) -> None:
    beside = folder / f".{pack}.index"
    pq.write_table(pa.Table.from_pylist(list(rows), schema=IMAGE), beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.rename(folder / f"{pack}.index.parquet")
    fsync_folder(folder)


def _indexes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.index.parquet"))


class _Places:
    """Where every visible picture lies, 52 bytes for each: a sorted array of hashes and beside it pack, offset, size.

    Where two writers stored one picture at the same time, the pack whose name comes first counts.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._names: list[str] = []
        self._sort([])

    def refresh(self) -> None:
        """Take in packs that came, forget those that went."""
        names = [path.name for path in _indexes(self._folder)]
        if names == self._names:
            return
        known = {name: np.flatnonzero(self._pack == i) for i, name in enumerate(self._names)}
        parts = []
        for name in names:
            at = known.get(name)
            if at is not None:
                parts.append((self._hash[at], self._offset[at], self._size[at]))
                continue
            table = pq.read_table(self._folder / name, columns=["hash", "offset", "bytes"])
            digests = bytes.fromhex("".join(table["hash"].to_pylist()))
            parts.append((np.frombuffer(digests, "S32"), table["offset"].to_numpy(), table["bytes"].to_numpy()))
        self._names = names
        self._sort(parts)

    def _sort(self, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        hashes = np.concatenate([np.empty(0, "S32"), *(part[0] for part in parts)])
        order = np.argsort(hashes, kind="stable")
        self._hash = hashes[order]
        self._offset = np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)])[order]
        self._size = np.concatenate([np.empty(0, np.int64), *(part[2] for part in parts)])[order]
        self._pack = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part[0]) for part in parts])[order]

    def find(self, name: str) -> tuple[str, int, int] | None:
        """(pack, offset, size) of a picture, or None."""
        try:
            digest = bytes.fromhex(name)
        except ValueError:
            return None
        at = int(np.searchsorted(self._hash, np.bytes_(digest)))
        # numpy leaves out the zero bytes at the end of a single value, so whole bytes are compared.
        if at == len(self._hash) or self._hash[at : at + 1].tobytes() != digest:
            return None
        pack = self._names[self._pack[at]].removesuffix(".index.parquet")
        return pack, int(self._offset[at]), int(self._size[at])


@functools.cache
def _places(folder: Path) -> _Places:
    """One per folder and process: workers open the store for every part of a source."""
    return _Places(folder)


# -------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class DamagedPack:
    """A file of the store that is not as it was written."""

    file: str
    what: str


class ImageStore:
    """Reads the pictures of a workspace."""

    def __init__(self, workspace: Path):
        self._folder = workspace / "images"
        self._places = _places(self._folder)

    def index(self) -> pa.Table:
        """schemas.rows.IMAGE of every picture, each once, sorted by hash."""
        tables = [pq.read_table(path) for path in _indexes(self._folder)]
        if not tables:
            return IMAGE.empty_table()
        whole = pa.concat_tables(tables).sort_by([("hash", "ascending"), ("pack", "ascending")])
        hashes = whole["hash"].to_numpy(zero_copy_only=False)
        first = np.ones(len(hashes), bool)
        first[1:] = hashes[1:] != hashes[:-1]
        return whole.filter(pa.array(first))

    def info(self, hashes: Sequence[str]) -> pa.Table:
        """The index lines of some pictures, sorted by hash."""
        table = self.index()
        return table.filter(pc.is_in(table["hash"], pa.array(hashes, pa.string())))

    def packs(self) -> list[str]:
        return [path.name.removesuffix(".index.parquet") for path in _indexes(self._folder)]

    def has_packs(self, names: Iterable[str]) -> bool:
        return all(
            (self._folder / name).exists() and (self._folder / f"{name}.index.parquet").exists() for name in names
        )

    def has(self, hashes: Iterable[str]) -> bool:
        """Whether every one of these pictures is there."""
        self._places.refresh()
        return all(self._places.find(name) is not None for name in hashes)

    def read(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """hash -> bytes. Raises DamagedError for a picture that is not there, or has other bytes than it should."""
        wanted = list(dict.fromkeys(hashes))
        places = [self._places.find(name) for name in wanted]
        if None in places or any(not (self._folder / pack).exists() for pack in {p[0] for p in places if p}):
            self._places.refresh()
            places = [self._places.find(name) for name in wanted]
        by_pack: dict[str, list[tuple[int, int, str]]] = {}
        for name, place in zip(wanted, places, strict=True):
            if place is None:
                raise DamagedError(
                    f"The picture {name[:16]}… is not in the image store {self._folder}.\nRemove the cached source "
                    "(`winnow gc`, or the stages/source folder of the workspace) and build again: it is read anew."
                )
            by_pack.setdefault(place[0], []).append((place[1], place[2], name))
        found: dict[str, bytes] = {}
        for pack, inside in by_pack.items():
            try:
                with (self._folder / pack).open("rb", buffering=0) as file:
                    for offset, size, name in sorted(inside):
                        data = os.pread(file.fileno(), size, offset)
                        if hashlib.sha256(data).hexdigest() != name:
                            raise DamagedError(self._damaged(pack, f"the picture {name[:16]}… has other bytes"))
                        found[name] = data
            except FileNotFoundError:
                raise DamagedError(self._damaged(pack, "it is gone")) from None
        return found

    def _damaged(self, pack: str, what: str) -> str:
        return (
            f"The image pack {self._folder / pack} is damaged: {what}.\nRemove it and its .index.parquet, and build "
            "again: its pictures are read anew from their source."
        )

    def open(self, name: str) -> Image.Image:
        """A picture as a person sees it: RGB, turned by its EXIF orientation, on white where it is transparent."""
        return as_seen(self.read([name])[name])

    def verify(self) -> list[DamagedPack]:
        """Recompute the hash of every picture; what is missing, cut or changed."""
        damaged = []
        for path in _indexes(self._folder):
            pack = self._folder / path.name.removesuffix(".index.parquet")
            try:
                table = pq.read_table(path, columns=["hash", "offset", "bytes"])
            except (pa.ArrowInvalid, OSError) as error:
                damaged.append(DamagedPack(path.name, f"the index cannot be read: {error}"))
                continue
            if not pack.exists():
                damaged.append(DamagedPack(pack.name, "is missing"))
                continue
            with pack.open("rb") as file:
                for row in table.to_pylist():
                    data = os.pread(file.fileno(), row["bytes"], row["offset"])
                    if hashlib.sha256(data).hexdigest() != row["hash"]:
                        damaged.append(
                            DamagedPack(
                                pack.name, f"the picture {row['hash'][:16]}… at byte {row['offset']:,} has other bytes"
                            )
                        )
        return damaged

    def remove(self, keep: set[str], *, dry_run: bool = False) -> int:
        """Remove every picture that is not in `keep`, and packs that a killed process left. Returns the bytes freed.

        A pack of which only a part is kept is written anew, so cached sources that name the old pack look for their
        pictures by hash. The caller makes sure that nobody writes meanwhile.
        """
        freed = 0
        visible = set(self.packs())
        for stray in self._folder.glob("*.pack") if self._folder.is_dir() else ():
            if stray.name not in visible:
                freed += stray.stat().st_size
                if not dry_run:
                    stray.unlink()
        for name in sorted(visible):
            rows = pq.read_table(self._folder / f"{name}.index.parquet").to_pylist()
            staying = [row for row in rows if row["hash"] in keep]
            going = sum(row["bytes"] for row in rows) - sum(row["bytes"] for row in staying)
            freed += going
            if not going or dry_run:
                continue
            if staying:
                self._rewrite(name, staying)
            (self._folder / f"{name}.index.parquet").unlink()
            (self._folder / name).unlink(missing_ok=True)
        return freed

    def _rewrite(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        fresh = f"{uuid.uuid4().hex}.pack"
        moved = []
        with (self._folder / name).open("rb") as old, (self._folder / fresh).open("wb") as new:
            for row in rows:
                moved.append({**row, "pack": fresh, "offset": new.tell()})
                new.write(os.pread(old.fileno(), row["bytes"], row["offset"]))
            new.flush()
            os.fsync(new.fileno())
        _write_index(self._folder, fresh, moved)
