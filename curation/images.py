"""The image store: every picture once, by the hash of its bytes.

Bytes lie in append-only *packs* under `images/`; beside each pack a Parquet index says what is in it and where. A pack
belongs to the one process that wrote it and counts once its index is there, which happens by rename after both are on
disk: a pack without an index is what a killed process left, and nothing reads it.

A picture enters only if it can be decoded to its last pixel. Endings of file names are not believed: the format is
told from the bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
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
"""More than this is refused by its header, before a byte is decoded (a 100-megapixel picture takes 300 MB)."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is decoded. Others are refused: Pillow reads some of them by running other programs."""
TINY = 28
"""Side in pixels under which a picture says little to a vision model (one patch of Qwen2.5-VL)."""
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
    pillow = _pillow()
    if not data:
        raise BadImage("image_empty", "The picture has no bytes.")
    try:
        image = pillow.open(io.BytesIO(data), formats=[f for f in FORMATS if f in pillow.OPEN])
    except pillow.DecompressionBombError as error:
        raise BadImage("image_bomb", f"The picture is too large to be decoded: {_first_line(error)}.") from error
    except pillow.UnidentifiedImageError:
        raise BadImage(
            "image_format", f"The bytes are no picture that can be read (they begin with {data[:8]!r})."
        ) from None
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
        orientation = int(image.getexif().get(0x0112, 1)) if kind in ("JPEG", "PNG", "WEBP", "TIFF", "MPO") else 1
    except Exception:  # broken EXIF is common, and says nothing about the pixels
        orientation = 1
    try:
        frames = int(getattr(image, "n_frames", 1))
        image.load()
        digest = difference_hash(image)
    except Exception as error:
        raise BadImage("image_broken", f"The picture cannot be decoded to its end: {_first_line(error)}.") from error
    return {
        "bytes": len(data),
        "format": kind,
        "width": width,
        "height": height,
        "mode": mode,
        "frames": frames,
        "orientation": orientation if 1 <= orientation <= 8 else 1,
        "alpha": mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
        "tiny": min(width, height) < TINY,
        "dhash": digest,
    }


@functools.cache
def _pillow() -> Any:
    """PIL.Image, told not to warn of what is checked here: large pictures, and palettes with transparency."""
    from PIL import Image

    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", message="Palette images with Transparency", module="PIL")
    return Image


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def difference_hash(image: Image.Image, size: int = 16) -> str:
    """Hex of the size x size difference hash: is a pixel brighter than its left neighbour, on a (size + 1) x size grey
    thumbnail. The same bits as `imagehash.dhash(image, hash_size=size)`."""
    small = image.convert("L").resize((size + 1, size), _pillow().Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.int16)
    return np.packbits(pixels[:, 1:] > pixels[:, :-1]).tobytes().hex()


# -------------------------------------------------------------------------------------------------------------- writing


class ImageWriter:
    """Adds pictures to the store of a workspace. A context manager: what was added can be seen once it ends well."""

    def __init__(self, workspace: Path):
        self._folder = workspace / "images"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known = dict(_places(self._folder))
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


def _places(folder: Path) -> Iterable[tuple[str, str]]:
    """(hash, pack) of every visible picture; where two writers stored one at the same time, the first pack counts."""
    for index in reversed(_indexes(folder)):
        table = pq.read_table(index, columns=["hash", "pack"])
        yield from zip(table["hash"].to_pylist(), table["pack"].to_pylist(), strict=True)


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
        self._seen: frozenset[str] = frozenset()
        self._where: dict[str, tuple[str, int, int]] = {}

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
        self._refresh()
        return all(name in self._where for name in hashes)

    def _refresh(self) -> None:
        names = frozenset(path.name for path in _indexes(self._folder))
        if names == self._seen:
            return
        for name in sorted(names - self._seen, reverse=True):
            table = pq.read_table(self._folder / name, columns=["hash", "pack", "offset", "bytes"])
            for row in zip(*(table[c].to_pylist() for c in ("hash", "pack", "offset", "bytes")), strict=True):
                self._where[row[0]] = row[1:]
        self._seen = names

    def read(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """hash -> bytes. Raises DamagedError for a picture that is not there or whose bytes are not the ones it names."""
        self._refresh()
        found: dict[str, bytes] = {}
        by_pack: dict[str, list[tuple[int, int, str]]] = {}
        for name in dict.fromkeys(hashes):
            place = self._where.get(name)
            if place is None:
                raise DamagedError(
                    f"The picture {name[:16]}… is not in the image store {self._folder}.\nRemove the cached source (`winnow "
                    "gc`, or the stages/source folder of the workspace) and build again: it is read anew from its source."
                )
            by_pack.setdefault(place[0], []).append((place[1], place[2], name))
        for pack, places in by_pack.items():
            try:
                with (self._folder / pack).open("rb", buffering=0) as file:
                    for offset, size, name in sorted(places):
                        data = os.pread(file.fileno(), size, offset)
                        if hashlib.sha256(data).hexdigest() != name:
                            raise DamagedError(self._damaged(pack, f"the picture {name[:16]}… has other bytes"))
                        found[name] = data
            except FileNotFoundError:
                raise DamagedError(self._damaged(pack, "it is gone")) from None
        return found

    def _damaged(self, pack: str, what: str) -> str:
        return (
            f"The image pack {self._folder / pack} is damaged: {what}.\nRemove it and its .index.parquet, and build again: "
            "its pictures are read anew from their source."
        )

    def open(self, name: str) -> Image.Image:
        """A picture as a person sees it: RGB, turned by its EXIF orientation, on white where it is transparent."""
        from PIL import Image, ImageOps

        image = Image.open(io.BytesIO(self.read([name])[name]))
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            ground = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
        return image.convert("RGB")

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
