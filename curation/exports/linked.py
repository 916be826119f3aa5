"""Images as files beside a shard, for layouts whose messages name a picture instead of holding it.

A file is named by its content, `<first 16 digits of its sha256>.<true ending>`: shards that show the same picture write
the same file, and writing it again changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import DamagedError

FOLDER = "images"
_BATCH = 16

# First bytes of the formats that image stores hold; `None` where the ending needs a second look.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (b"\x00\x00\x01\x00", "ico"),
)


def ending(data: bytes) -> str:
    """The file ending that the bytes themselves ask for; "bin" for a format that is none of the usual ones."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return "bin"


def image_name(digest: str, data: bytes) -> str:
    """`<hash16>.<true ending>`"""
    return f"{digest[:16]}.{ending(data)}"


def link_images(
    table: pa.Table, paths: Sequence[str], folder: Path, read_images: Callable[[Sequence[str]], Mapping[str, bytes]]
) -> tuple[pa.Table, dict[str, tuple[str, int]]]:
    """Write the pictures whose hashes stand at the dotted `paths` under `folder`/images, and put their names in place
    of the hashes. Returns the table and the files: relative path -> sha256, bytes."""
    arrays = {path: table[path.split(".")[0]].combine_chunks() for path in paths}
    leaves = [_leaf(arrays[path], path.split(".")[1:]) for path in paths]
    wanted = sorted({name for leaf in leaves for name in pc.unique(leaf).to_pylist() if name is not None})
    names: dict[str, str] = {}
    files: dict[str, tuple[str, int]] = {}
    for at in range(0, len(wanted), _BATCH):
        batch = wanted[at : at + _BATCH]
        found = read_images(batch)
        for digest in batch:
            if digest not in found:
                raise DamagedError(f"The image store has lost image {digest}.\nBuild again: the source is read again.")
            data = found[digest]
            names[digest] = f"{FOLDER}/{image_name(digest, data)}"
            _put(folder / names[digest], data)
            files[names[digest]] = (digest, len(data))
    for path in paths:
        column = path.split(".")[0]
        renamed = _rename(table[column].combine_chunks(), path.split(".")[1:], names)
        table = table.set_column(table.schema.get_field_index(column), column, renamed)
    return table, files


def _put(path: Path, data: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _leaf(array: pa.Array, path: Sequence[str]) -> pa.Array:
    """The values at the end of a path of struct fields, through the lists on the way."""
    if pa.types.is_list(array.type):
        return _leaf(array.flatten(), path)
    return array if not path else _leaf(pc.struct_field(array, path[0]), path[1:])


def _rename(array: pa.Array, path: Sequence[str], names: Mapping[str, str]) -> pa.Array:
    """The array with the texts at the end of `path` replaced."""
    kind = array.type
    if pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
        return pa.ListArray.from_arrays(offsets, _rename(array.flatten(), path, names), mask=array.is_null())
    if path:
        fields = [pc.struct_field(array, f.name) for f in kind]
        at = kind.get_field_index(path[0])
        fields[at] = _rename(fields[at], path[1:], names)
        return pa.StructArray.from_arrays(fields, [f.name for f in kind], mask=array.is_null())
    encoded = array.dictionary_encode()
    renamed = pa.array([names.get(value, value) for value in encoded.dictionary.to_pylist()], pa.string())
    return renamed.take(encoded.indices)


def unlink_images(table: pa.Table, paths: Sequence[str], folder: Path) -> pa.Table:
    """The way back of `link_images`: the hashes of the files that are named. Raises FileNotFoundError."""
    for path in paths:
        column, *rest = path.split(".")
        array = table[column].combine_chunks()
        names = [name for name in pc.unique(_leaf(array, rest)).to_pylist() if name is not None]
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        table = table.set_column(table.schema.get_field_index(column), column, _rename(array, rest, digests))
    return table
