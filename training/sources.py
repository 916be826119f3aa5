"""Where training rows come from: the Parquet files of a version, of a Hub dataset, or of a folder.

A row is a dictionary as it is stored; what a layout means by it is read here too: `messages_of` for the layouts that
`sft` exports, `question_of` for those with a gold answer. Pictures are never decoded here, and where their bytes lie
uncompressed in the file, training reads them there: `ByteFinder` finds the place.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.digests import file_digest
from curation.prompts import IMAGE_MARK
from curation.recipe.wording import did_you_mean
from curation.sources.files import find_files
from curation.sources.hub import open_hub
from curation.sources.parquet import ParquetReader
from curation.versions import open_version
from schemas.errors import WinnowError
from schemas.recipe import Source
from schemas.training import Data

Row = dict[str, Any]
TRAINED = ("messages", "images", "source", "row_id", "id", "k")
"""Columns that training reads, where they are there."""
ASKED = ("prompt", "reward_model", "extra_info", "data_source", "answer", "choices", "pass_rate", *TRAINED)


class BadRow(Exception):
    """A row that cannot be used: a reason code and a sentence for the ledger of the run."""

    def __init__(self, reason: str, sentence: str):
        super().__init__(sentence)
        self.reason, self.sentence = reason, sentence


@dataclass(frozen=True)
class OpenData:
    """One entry of `data`, opened. `groups` are (file, row group, rows), in order."""

    label: str
    files: tuple[Path, ...]
    groups: tuple[tuple[int, int, int], ...]
    identity: dict[str, Any] = field(compare=False)
    """For the run's manifest: the version's id, or the digests of the files."""
    columns: tuple[str, ...]

    @property
    def rows(self) -> int:
        return sum(rows for _, _, rows in self.groups)

    def read(self, file: int, group: int, columns: Sequence[str] = TRAINED) -> pa.Table:
        """One row group of a file, with those of `columns` that are there."""
        with pq.ParquetFile(self.files[file], memory_map=True) as opened:
            there = [name for name in columns if name in opened.schema_arrow.names]
            return opened.read_row_group(group, columns=there)


def open_data(data: Data, folder: Path, workspace: Path | str | None) -> OpenData:
    """Find the files of one entry. Raises WinnowError that says what there is instead."""
    identity: dict[str, Any]
    if data.version is not None:
        version = open_version(data.version, workspace)
        splits = version.manifest["splits"]
        config = data.config or ("sft" if "sft" in splits else next(iter(splits)))
        if config not in splits:
            hint = did_you_mean(config, splits) or f"It has: {', '.join(splits)}."
            raise WinnowError(f"{version} has no output `{config}`. {hint}")
        if data.split not in splits[config]:
            hint = did_you_mean(data.split, splits[config]) or f"It has: {', '.join(splits[config])}."
            raise WinnowError(f"Output {config} of {version} has no split `{data.split}`. {hint}")
        files = [Path(f) for f in version.files(f"data/{config}") if Path(f).name.startswith(f"{data.split}-")]
        identity = {"version": version.name, "id": version.id, "config": config, "split": data.split}
        label = version.name
    elif data.hub is not None:
        label = data.hub.partition("@")[0]
        reader = open_hub(
            Source.model_validate({"hub": data.hub, "config": data.config, "split": data.split}),
            label,
            folder,
            limit=None,
        )
        if not isinstance(reader, ParquetReader):
            raise WinnowError(f"{data.hub} has no Parquet files.\nBuild a version from it, and train on that.")
        files = reader.inputs()
        identity = {"hub": data.hub, "files": {f.name: file_digest(f) for f in files}}
    else:
        files = find_files("data", "parquet", data.parquet or "", folder)
        label = files[0].stem
        identity = {"files": {f.name: file_digest(f) for f in files}}
    groups, names = [], set()
    for number, file in enumerate(files):
        try:
            metadata = pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise WinnowError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}.") from error
        names |= set(metadata.schema.to_arrow_schema().names)
        groups += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
    if not names & {"messages", "prompt"}:
        raise WinnowError(
            f"There is no column `messages` in {files[0].name}; it has {', '.join(sorted(names))}.\n"
            "Training reads the layout of the output `sft` (docs/exports.md): take `config: sft` of a version."
        )
    return OpenData(data.source or label, tuple(files), tuple(groups), identity, tuple(sorted(names)))


# -------------------------------------------------------------------------------------------------------------- layouts


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture: in hand, or in a file from `offset` on."""

    data: bytes | None = None
    path: str | None = None
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Raises BadRow where the file is not there."""
        if self.data is not None:
            return self.data
        try:
            with Path(self.path or "").open("rb", buffering=0) as file:
                file.seek(self.offset)
                return file.read(self.size) if self.size >= 0 else file.readall()
        except OSError as error:
            raise BadRow("image_missing", f"A picture cannot be read: {error.strerror}: {self.path}") from error


def messages_of(row: Row, folder: Path) -> tuple[list[Row], list[Picture]]:
    """The conversation of a row in the layouts `messages` and `openai`, with its pictures in the order of their parts.

    Contents come back as text, or as lists of parts {type: text, text} and {type: image}. Raises BadRow.
    """
    turns = row.get("messages") or row.get("prompt")
    if not isinstance(turns, list) or not turns:
        raise BadRow("no_messages", "The row has no conversation.")
    pictures = [_picture(image, folder) for image in row.get("images") or []]
    named: list[Picture] = []  # the layout openai: parts name their pictures
    messages = []
    for turn in turns:
        role, content = turn.get("role"), turn.get("content")
        if role not in ("system", "user", "assistant", "tool") or content is None:
            raise BadRow("bad_messages", f"A turn has the role {role!r} and a content of {type(content).__name__}.")
        if isinstance(content, str):
            content = _marked(content) if pictures else content
        else:
            content = [_part(part, named, folder) for part in content]
        messages.append({"role": role, "content": content})
    shown = sum(part["type"] == "image" for m in messages if isinstance(m["content"], list) for part in m["content"])
    pictures = pictures or named
    if shown != len(pictures):
        raise BadRow("image_marks", f"The conversation shows {shown} pictures, and the row has {len(pictures)}.")
    return messages, pictures


def _marked(text: str) -> list[Row] | str:
    """Text in which `<image>` stands for the next picture, as parts."""
    if IMAGE_MARK not in text:
        return text
    parts: list[Row] = []
    for n, piece in enumerate(text.split(IMAGE_MARK)):
        parts += [{"type": "image"}] if n else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def _part(part: Row, named: list[Picture], folder: Path) -> Row:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part.get("text") or ""}
    if kind == "image":
        return {"type": "image"}
    if kind == "image_url":
        named.append(Picture(path=str(folder / ((part.get("image_url") or {}).get("url") or ""))))
        return {"type": "image"}
    raise BadRow("bad_messages", f"A part of the type {kind!r} cannot be trained on; there are text and image.")


def _picture(image: Any, folder: Path) -> Picture:
    if isinstance(image, dict) and image.get("bytes") is not None:
        return Picture(data=image["bytes"])
    path = image.get("path") if isinstance(image, dict) else image
    if not path:
        raise BadRow("image_missing", "A picture of the row has neither bytes nor a path.")
    return Picture(path=str(folder / path))


@dataclass(frozen=True)
class Question:
    """A held-out question: the conversation up to the answer, and what the checker needs."""

    row_id: str
    source: str
    messages: list[Row]
    pictures: list[Picture]
    gold: str
    choices: list[str] | None
    question: str | None
    pass_rate: float | None = None
    file: int = 0
    """Which file of its data it stands in."""


def questions_of(data: OpenData, limit: int) -> Iterator[Question]:
    """The first `limit` rows with a gold answer, or all with -1. Rows that cannot be asked are passed over."""
    given = 0
    for file, group, _ in data.groups:
        for row in data.read(file, group, ASKED).to_pylist():
            extra = row.get("extra_info") or {}
            gold = (row.get("reward_model") or {}).get("ground_truth") or row.get("answer")
            try:
                messages, pictures = messages_of(row, data.files[file].parent)
            except BadRow:
                continue
            while messages and messages[-1]["role"] == "assistant":
                messages = messages[:-1]
            if gold is None or not messages:
                continue
            choices = extra.get("choices") or row.get("choices") or None
            name = str(row.get("row_id") or extra.get("row_id") or row.get("id") or f"{data.files[file].stem}:{given}")
            source = str(row.get("source") or row.get("data_source") or data.label)
            rate = row.get("pass_rate")
            rate = extra.get("pass_rate") if rate is None else rate
            yield Question(name, source, messages, pictures, str(gold), choices, extra.get("question"), rate, file)
            given += 1
            if given == limit:
                return


# ---------------------------------------------------------------------------------------------------- pictures in place


class ByteFinder:
    """Where bytes that were read from a file lie in it, if they lie there as they are.

    Winnow and `datasets` do not compress picture columns, so a picture can be read again by one `pread`, without its
    row group and without a second copy. Pictures are looked for in the order in which they lie: each search goes on
    from the last find, and starts over once.
    """

    def __init__(self, path: Path):
        self.path = str(path)
        self._file = path.open("rb")
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        self._misses = 0

    def find(self, data: bytes) -> Picture | None:
        """The picture by its place; None where the file does not hold these bytes as they are."""
        if self._misses >= 8:  # a compressed column: every further search would read the file for nothing
            return None
        found = self._map.find(data, self._at)
        if found < 0 and self._at:
            found = self._map.find(data, 0, self._at + len(data))
        if found < 0:
            self._misses += 1
            return None
        self._misses, self._at = 0, found
        return Picture(path=self.path, offset=found, size=len(data))

    def close(self) -> None:
        self._map.close()
        self._file.close()
