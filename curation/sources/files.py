"""Parquet and JSON Lines on disk."""

from __future__ import annotations

import difflib
import glob
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.sources.base import BATCH_BYTES, Broken, Part, Raw, shown
from schemas.errors import SourceError

ENDINGS = {"parquet": (".parquet",), "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")}
LINES = 20_000
"""Lines of one table at most."""


def find_files(name: str, kind: str, places: str | Sequence[str], recipe_dir: Path) -> list[Path]:
    """Files, globs and folders as a sorted list of files. Raises SourceError where one names nothing."""
    found: list[Path] = []
    for place in [places] if isinstance(places, str) else places:
        path = recipe_dir / Path(place).expanduser()
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(
                p
                for p in path.rglob("*")
                if p.name.endswith(ENDINGS[kind]) and p.is_file() and not p.name.startswith(".")
            )
            if not inside:
                raise SourceError(
                    f"Source {name}: the folder {path} has no files ending in {' or '.join(ENDINGS[kind])}."
                )
            found += inside
        elif glob.has_magic(place):
            matching = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not matching:
                raise SourceError(f"Source {name}: no file matches {path}.")
            found += matching
        else:
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, siblings, 1)
            hint = (
                f" Did you mean {path.parent / near[0]}?"
                if near
                else ""
                if siblings
                else f" The folder {path.parent} does not exist or is empty."
            )
            raise SourceError(f"Source {name}: there is no {path}.{hint}")
    return list(dict.fromkeys(found))


class ParquetReader:
    """Row groups of Parquet files."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        recipe_dir: Path,
        limit: int | None,
        where: str | None = None,
        base: Path | None = None,
    ):
        self._name = name
        self._files = list(files)
        self._recipe_dir = base or recipe_dir
        self._limit = limit
        self._where = where
        self.image_root = self._files[0].parent

    def inputs(self) -> list[Path]:
        return self._files

    def _open(self, path: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(
                f"Source {self._name}: {path} cannot be read as Parquet ({str(error).splitlines()[0]}).\nIt may be cut "
                "short or of another format: copy or download it again, or take it out of the recipe."
            ) from error

    def schema(self) -> pa.Schema:
        schemas = [self._open(path).schema_arrow.remove_metadata() for path in self._files]
        try:
            return pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SourceError(f"Source {self._name}: its files do not have the same columns: {error}") from error

    def parts(self) -> list[Part]:
        parts: list[Part] = []
        left = self._limit
        for path in self._files:
            metadata = self._open(path).metadata
            start, first, nbytes, rows = 0, 0, 0, 0
            for group in range(metadata.num_row_groups):
                of = metadata.row_group(group)
                rows += of.num_rows
                nbytes += of.total_byte_size
                if nbytes >= 2 * BATCH_BYTES or group == metadata.num_row_groups - 1:
                    take = None if left is None else min(left, rows)
                    if take != 0:
                        parts.append(Part(str(path), start, group + 1, first, take))
                    left = None if left is None or take is None else left - take
                    start, first, nbytes, rows = group + 1, first + rows, 0, 0
        return parts

    def read(self, part: Part) -> Iterator[Raw]:
        path = Path(part.file)
        file = self._open(path)
        groups = range(part.start, part.stop)
        size = sum(file.metadata.row_group(g).total_byte_size for g in groups)
        rows = max(1, sum(file.metadata.row_group(g).num_rows for g in groups))
        batch = int(np.clip(BATCH_BYTES * rows // max(size, 1), 16, 65_536))
        label, index, left = shown(path, self._recipe_dir), part.first, part.take
        try:
            for record_batch in file.iter_batches(batch_size=batch, row_groups=list(groups)):
                table = pa.table(record_batch) if left is None else pa.table(record_batch).slice(0, left)
                numbers = np.arange(index, index + len(table), dtype=np.int64)
                index += len(table)
                left = None if left is None else left - len(table)
                yield chosen(Raw(table, label, numbers), self._where)
                if left == 0:
                    return
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(
                f"Source {self._name}: {path} is damaged after record {index:,} ({str(error).splitlines()[0]}).\nCopy or download it again, "
                "or take it out of the recipe."
            ) from error


def chosen(raw: Raw, where: str | None) -> Raw:
    """The records for which the source's `where` is true."""
    if where is None or not len(raw.table):
        return raw
    import duckdb

    narrow = raw.table.append_column("__record", pa.array(np.arange(len(raw.table))))
    with duckdb.connect(config={"threads": 1, "enable_external_access": False}) as connection:
        connection.register("records", narrow)
        try:
            keep = (
                connection.sql(f"select __record from records where ({where}) order by 1")
                .to_arrow_table()["__record"]
                .to_numpy()
            )
        except duckdb.Error as error:
            raise SourceError(f"The source's `where: {where}` cannot be run: {error}") from error
    return Raw(raw.table.take(keep), raw.file, raw.index[keep], raw.broken)


class JsonLinesReader:
    """Lines of JSON Lines files. A line that is no JSON object is a broken record, not the end of the file."""

    def __init__(
        self,
        name: str,
        files: Sequence[Path],
        recipe_dir: Path,
        limit: int | None,
        where: str | None = None,
        image_folder: str | None = None,
    ):
        self._name = name
        self._files = list(files)
        self._recipe_dir = recipe_dir
        self._limit = limit
        self._where = where
        self.image_root = recipe_dir / image_folder if image_folder else self._files[0].parent

    def inputs(self) -> list[Path]:
        return self._files

    def _open(self, path: Path) -> IO[bytes]:
        return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]

    def schema(self) -> pa.Schema:
        names: dict[str, pa.DataType] = {}
        for path in self._files:
            with self._open(path) as file:
                for _, line in zip(range(200), file, strict=False):
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

    @staticmethod
    def _cut(path: Path, start: int, size: int) -> tuple[int, int]:
        """The end of the part that begins at byte `start`, at an end of line, and the lines in it."""
        with path.open("rb") as file:
            file.seek(start)
            block = file.read(BATCH_BYTES)
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
                    yield chosen(self._parse(lines, label, index), self._where)
                    index += len(lines)
                    left = None if left is None else left - len(lines)
        except (EOFError, gzip.BadGzipFile) as error:
            raise SourceError(
                f"Source {self._name}: {path} is a damaged gzip file ({error}).\nCopy or download it again, or take it out of the recipe."
            ) from error

    @staticmethod
    def _parse(lines: Sequence[bytes], label: str, first: int) -> Raw:
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
                    f"Line {number + 1} is not a JSON object: {problem}.",
                    {"line": shown_text},
                    line.rstrip(b"\r\n"),
                )
            )
        return Raw(records_table(records), label, np.array(numbers, np.int64), broken)


def _record(line: bytes) -> dict[str, Any] | str | None:
    """The object on a line; a text that says what is wrong with it; or None where it is JSON but no object."""
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"{error.msg} at column {error.colno}"
    except RecursionError:
        return "it is nested too deeply"
    return value if isinstance(value, dict) else None


def records_table(records: Sequence[dict[str, Any]]) -> pa.Table:
    """Records as a table of texts: texts as they are, everything else as its JSON.

    Upstream mixes types freely (`"answer": 4` in one line, `"answer": "four"` in the next), and which lines come
    together in one table must not change what a row says: so no type is ever guessed from neighbours.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = [pa.array([_json_or_null(record.get(name)) for record in records], pa.string()) for name in names]
    return pa.table(columns, names=[json_text(str(name)) for name in names])


def _json_or_null(value: Any) -> str | None:
    return None if value is None else json_text(value)


def json_text(value: Any) -> str:
    """A JSON value as text: texts as they are, others as their JSON. A lone surrogate becomes U+FFFD."""
    if isinstance(value, float) and value != value:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
