"""Samples by number: tokenised once into the workspace, or on the way where a set is too large for that.

`TokenIndex` is an Arrow file that is memory-mapped: token ids, target spans and where each picture's bytes lie. Its key
is made of what decides on it (data, tokenizer with template, image sizes, revision), so a second run, another learning
rate or another packing reads what is there. `RowStream` has the same interface and keeps nothing on disk.

A row that cannot be used is never trained on and never lost: `left_out` has its reason.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from curation import store
from curation.digests import json_digest
from training.packing import Shape
from training.sources import BadRow, ByteFinder, OpenData, Picture, Row, messages_of
from training.tokens import Encoder, Sample

SLICE_ROWS = 256
POOL_ROWS = 4096
"""Below this many rows, starting processes costs more than it saves."""

SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("tokens", pa.int32()),
        ("targets", pa.int32()),
        ("patches", pa.int32()),
        ("ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),  # start, end, start, end, …
        ("images", pa.list_(pa.int32())),  # position, height, width of each, in patches
        ("pictures", pa.list_(pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]))),
    ]
)


@dataclass(frozen=True)
class LeftOut:
    """A row that is not trained on."""

    row_id: str
    source: str
    reason: str
    sentence: str


@dataclass(frozen=True)
class Named:
    """A sample with the name of its row."""

    sample: Sample
    row_id: str
    source: str


class Samples(Protocol):
    """Samples by number."""

    left_out: list[LeftOut]

    def __len__(self) -> int: ...
    def shape(self, number: int) -> Shape | None: ...
    def get(self, number: int) -> Named: ...


def encode_row(encoder: Encoder, row: Row, data: OpenData, file: int, number: int) -> Named | LeftOut:
    """The sample of one stored row, or why there is none."""
    row_id = str(row.get("row_id") or row.get("id") or f"{data.files[file].name}:{number}")
    if row.get("k") is not None:
        row_id = f"{row_id}/{row['k']}"
    source = str(row.get("source") or data.label)
    try:
        messages, pictures = messages_of(row, data.files[file].parent)
        return Named(encoder.sample(messages, pictures), row_id, source)
    except BadRow as error:
        return LeftOut(row_id, source, error.reason, error.sentence)


# -------------------------------------------------------------------------------------------------------- tokenise once


class TokenIndex:
    """A finished index, memory-mapped; picklable by its path, so that data workers share its pages."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / "samples.arrow"))).read_all()
        self._starts = np.cumsum([0, *(chunk.num_rows for chunk in self._table.to_batches())])
        self._batches = self._table.to_batches()
        self._shapes = [self._table[name].to_numpy() for name in ("tokens", "targets", "patches")]
        self.left_out = [LeftOut(**line) for line in store.read_json(folder / "left_out.json")]

    def __reduce__(self) -> Any:
        return TokenIndex, (self.folder,)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def sources(self) -> pa.ChunkedArray:
        return self._table["source"]

    @property
    def row_ids(self) -> pa.ChunkedArray:
        return self._table["row_id"]

    def shape(self, number: int) -> Shape:
        return Shape(*(int(column[number]) for column in self._shapes))

    def get(self, number: int) -> Named:
        chunk = int(np.searchsorted(self._starts, number, side="right")) - 1
        batch, at = self._batches[chunk], number - int(self._starts[chunk])
        ids, spans, images = (_values(batch[name], at) for name in ("ids", "spans", "images"))
        pictures = [
            Picture(path=_place(p["path"], self.folder), offset=p["offset"], size=p["size"])
            for p in batch["pictures"][at].as_py()
        ]
        sample = Sample(
            ids,
            [(int(start), int(end)) for start, end in spans.reshape(-1, 2)],
            [(int(start), int(height), int(width)) for start, height, width in images.reshape(-1, 3)],
            pictures,
        )
        return Named(sample, batch["row_id"][at].as_py(), batch["source"][at].as_py())


def _values(column: pa.ListArray, at: int) -> np.ndarray:
    """One entry of a column of lists of integers, without a copy."""
    start, end = column.offsets[at].as_py(), column.offsets[at + 1].as_py()
    return np.asarray(column.values.slice(start, end - start).to_numpy())


def _place(path: str, folder: Path) -> str:
    """Pictures that were copied lie beside the index; the others in the files of the data."""
    return path if "/" in path else str(folder / path)


def index_key(encoder: Encoder, data: Sequence[OpenData]) -> str:
    return json_digest([encoder.digest, [[d.label, d.identity, [str(f.absolute()) for f in d.files]] for d in data]])[
        :20
    ]


def token_index(
    encoder: Encoder,
    data: Sequence[OpenData],
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> TokenIndex:
    """The index of `data` below `folder`, made if it is not there. Raises WinnowError for a template that will not do.

    The bytes of the index do not depend on `workers`.
    """
    place = folder / index_key(encoder, data)
    if (place / "left_out.json").is_file():
        return TokenIndex(place)
    beside = folder / f".{place.name}.{uuid.uuid4().hex[:8]}"
    beside.mkdir(parents=True)
    try:
        left_out: list[LeftOut] = []
        with pa.OSFile(str(beside / "samples.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for made, gone in _encoded(encoder, data, beside, workers):
                left_out += gone
                progress(made.num_rows + len(gone))
                if made.num_rows:
                    writer.write_batch(made)
        store.write_json(beside / "left_out.json", [asdict(one) for one in left_out])
        with contextlib.suppress(FileExistsError, OSError):  # another process was first: its index is the same
            beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return TokenIndex(place)


def _encoded(
    encoder: Encoder, data: Sequence[OpenData], beside: Path, workers: int
) -> Iterator[tuple[pa.RecordBatch, list[LeftOut]]]:
    """Row groups in their order, encoded in this process or several."""
    parts = [(n, file, group) for n, one in enumerate(data) for file, group, _ in one.groups]
    if workers <= 1 or len(parts) <= 1 or sum(one.rows for one in data) < POOL_ROWS:
        for n, file, group in parts:
            yield from _encode_group(encoder, data[n], file, group, beside)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_encode_part, encoder, data[n], file, group, beside) for n, file, group in parts]
        for future in waiting:
            yield from future.result()


def _encode_part(
    encoder: Encoder, data: OpenData, file: int, group: int, beside: Path
) -> list[tuple[pa.RecordBatch, list[LeftOut]]]:
    return list(_encode_group(encoder, data, file, group, beside))


def _encode_group(
    encoder: Encoder, data: OpenData, file: int, group: int, beside: Path
) -> Iterator[tuple[pa.RecordBatch, list[LeftOut]]]:
    table = data.read(file, group)
    before = sum(rows for f, g, rows in data.groups if f == file and g < group)
    finder = ByteFinder(data.files[file]) if "images" in table.column_names else None
    copies = _Copies(beside, f"pictures-{json_digest([str(data.files[file]), group])[:12]}.bin")
    try:
        for start in range(0, table.num_rows, SLICE_ROWS):
            rows, gone = [], []
            for offset, row in enumerate(table.slice(start, SLICE_ROWS).to_pylist()):
                named = encode_row(encoder, row, data, file, before + start + offset)
                if isinstance(named, LeftOut):
                    gone.append(named)
                else:
                    rows.append(_stored(named, finder, copies))
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA), gone
    finally:
        copies.close()
        if finder is not None:
            finder.close()


def _stored(named: Named, finder: ByteFinder | None, copies: _Copies) -> Row:
    sample = named.sample
    places = []
    for picture in sample.pictures:
        found = picture
        if picture.data is not None:
            found = (finder.find(picture.data) if finder else None) or copies.put(picture.data)
        places.append({"path": found.path, "offset": found.offset, "size": found.size})
    return {
        "row_id": named.row_id,
        "source": named.source,
        **shape_of(sample)._asdict(),
        "ids": list(sample.ids),
        "spans": [edge for span in sample.spans for edge in span],
        "images": [value for image in sample.images for value in image],
        "pictures": places,
    }


def shape_of(sample: Sample) -> Shape:
    return Shape(len(sample.ids), sample.targets, sum(height * width for _, height, width in sample.images))


class _Copies:
    """Pictures that do not lie in their file as they are (a compressed column), copied once, beside the index."""

    def __init__(self, folder: Path, name: str):
        self._path, self._name = folder / name, name
        self._file: Any = None
        self._known: dict[bytes, Picture] = {}

    def put(self, data: bytes) -> Picture:
        if data not in self._known:
            if self._file is None:
                self._file = self._path.open("wb")
            self._known[data] = Picture(path=self._name, offset=self._file.tell(), size=len(data))
            self._file.write(data)
        return self._known[data]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


# ------------------------------------------------------------------------------------------------------------- streamed


class RowStream:
    """Samples made when they are asked for; at most `held` row groups and `kept` samples are in memory."""

    def __init__(self, encoder: Encoder, data: Sequence[OpenData], *, held: int = 8, kept: int = 20_000):
        self._encoder, self._data, self._held, self._kept = encoder, list(data), held, kept
        self.groups = [(n, file, group, rows) for n, one in enumerate(data) for file, group, rows in one.groups]
        self._starts = np.cumsum([0, *(rows for *_, rows in self.groups)])
        self._tables: OrderedDict[int, tuple[pa.Table, int]] = OrderedDict()
        self._samples: OrderedDict[int, Named | LeftOut] = OrderedDict()
        self.left_out: list[LeftOut] = []

    def __reduce__(self) -> Any:
        return RowStream, (self._encoder, self._data)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _made(self, number: int) -> Named | LeftOut:
        if number in self._samples:
            return self._samples[number]
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        which, file, group, _ = self.groups[at]
        if at not in self._tables:
            before = sum(rows for n, f, g, rows in self.groups if (n, f) == (which, file) and g < group)
            self._tables[at] = self._data[which].read(file, group), before
            while len(self._tables) > self._held:
                self._tables.popitem(last=False)
        table, before = self._tables[at]
        inside = number - int(self._starts[at])
        row = table.slice(inside, 1).to_pylist()[0]
        made = encode_row(self._encoder, row, self._data[which], file, before + inside)
        if isinstance(made, LeftOut):
            self.left_out.append(made)
        self._samples[number] = made
        while len(self._samples) > self._kept:
            self._samples.popitem(last=False)
        return made

    def shape(self, number: int) -> Shape | None:
        made = self._made(number)
        return shape_of(made.sample) if isinstance(made, Named) else None

    def named(self, number: int) -> tuple[str, str]:
        """(row_id, source) of a sample that its plan has just seen."""
        made = self._samples[number]
        return made.row_id, made.source

    def get(self, number: int) -> Named:
        made = self._made(number)
        assert isinstance(made, Named)
        self.drop(number)  # it is in a pack now, and no other will ask for it
        return made

    def drop(self, number: int) -> None:
        """Forget a sample that another process trains on."""
        self._samples.pop(number, None)
