"""JSON Lines: one object a line, plain or compressed.

A line that is no object is a broken record, not the end of the file. What is said of it never tells where it stood:
the number of the line is kept beside, so that cutting or sorting the file changes no version.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from curation.sources.base import BATCH_BYTES, Broken, Part, Raw, shown
from curation.sources.files import chosen, records_table
from schemas.errors import SourceError

LINES = 20_000
"""Lines of one table at most."""
PICTURED_BYTES = 1 << 20
"""Bytes of lines in a part where each may name picture files, which are far larger than the lines."""
SAMPLE = 1_000
"""Lines of each file that are read to learn its keys."""


class JsonLinesReader:
    """Lines of JSON Lines files. A line that is no JSON object is a broken record, not the end of the file."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        recipe_dir: Path,
        limit: int | None,
        where: str | None = None,
        *,
        image_folder: str | None = None,
        pictured: bool = False,
    ):
        self._name = name
        self._files = list(files)
        self._recipe_dir = recipe_dir
        self._limit = limit
        self._where = where
        self._part_bytes = PICTURED_BYTES if pictured else BATCH_BYTES
        self._own_folder = image_folder is None
        self.image_root = recipe_dir / (image_folder or "")

    def inputs(self) -> list[Path]:
        return self._files

    def _open(self, path: Path) -> IO[bytes]:
        return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]

    def schema(self) -> pa.Schema:
        names: dict[str, pa.DataType] = {}
        for path in self._files:
            with self._open(path) as file:
                for number, line in zip(range(SAMPLE), file, strict=False):
                    if number == 0 and line.lstrip().startswith(b"["):
                        raise SourceError(
                            f"Source {self._name}: {path} is one JSON array, not JSON Lines.\nMake lines of it: "
                            f"`jq -c '.[]' {path.name} > {path.stem}.jsonl`, and name that file in the recipe."
                        )
                    record = _record(line)
                    if isinstance(record, dict):
                        names.update(dict.fromkeys(map(str, record), pa.string()))
        return pa.schema(list(names.items()))

    def parts(self) -> list[Part]:
        parts, left = [], self._limit
        for path in self._files:
            if left == 0:
                break
            if left is not None or path.name.endswith(".gz"):
                # A compressed file cannot be entered in the middle.
                parts.append(Part(str(path), 0, -1, 0, left))
                if left is not None:
                    with self._open(path) as file:
                        left -= min(left, sum(1 for _ in zip(range(left), file, strict=False)))
                continue
            size, start, first = path.stat().st_size, 0, 0
            while start < size or not size:
                stop, lines = self._cut(path, start, size)
                parts.append(Part(str(path), start, stop, first))
                start, first = stop, first + lines
                if not size:
                    break
        return parts

    def _cut(self, path: Path, start: int, size: int) -> tuple[int, int]:
        """The end of the part that begins at byte `start`, at an end of line, and the lines in it."""
        with path.open("rb") as file:
            file.seek(start)
            block = file.read(self._part_bytes)
            lines = block.count(b"\n")
            if start + len(block) >= size:
                return size, lines
            rest = file.readline()
            return start + len(block) + len(rest), lines + 1 if rest.endswith(b"\n") else lines

    def read(self, part: Part) -> Iterator[Raw]:
        path = Path(part.file)
        label = shown(path, self._recipe_dir)
        index, left = part.first, part.take
        try:
            with self._open(path) as file:
                file.seek(part.start)
                while (part.stop < 0 or file.tell() < part.stop) and left != 0:
                    wanted = LINES if left is None else min(LINES, left)
                    lines: list[bytes] = []
                    nbytes = 0
                    while len(lines) < wanted and nbytes < BATCH_BYTES and (part.stop < 0 or file.tell() < part.stop):
                        line = file.readline()
                        if not line:
                            break
                        lines.append(line)
                        nbytes += len(line)
                    if not lines:
                        return
                    yield chosen(self._parse(lines, label, index, path.parent), self._where)
                    index += len(lines)
                    left = None if left is None else left - len(lines)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(
                f"Source {self._name}: {path} is a damaged gzip file ({error}).\nCopy or download it "
                "again, or take it out of the recipe."
            ) from error

    def _parse(self, lines: Sequence[bytes], label: str, first: int, folder: Path) -> Raw:
        records: list[dict[str, Any]] = []
        numbers: list[int] = []
        broken: list[Broken] = []
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            record = _record(line)
            if isinstance(record, dict):
                records.append(record)
                numbers.append(number)
                continue
            problem = record if isinstance(record, str) else "it is no JSON object"
            shown_text = line[:200].decode("utf-8", "replace").rstrip("\n")
            broken.append(
                Broken(
                    label,
                    number,
                    "bad_json",
                    f"The line is not a JSON object: {problem}.",
                    {"line": shown_text},
                    line.rstrip(b"\r\n"),
                )
            )
        index = np.array(numbers, np.int64)
        return Raw(records_table(records), label, index, broken, records, folder if self._own_folder else None)


def _record(line: bytes) -> dict[str, Any] | str | None:
    """The object on a line; a text that says what is wrong with it; or None where it is JSON but no object."""
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"{error.msg} at column {error.colno}"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError:
        return "a number in it has too many digits"
    return value if isinstance(value, dict) else None
