"""From upstream records to rows: which column is the question, which the answer, and where the pictures are.

Text columns are handled whole in Arrow; Python looks at single records only where it must (boxed answers, lists of
choices, pictures). A record that cannot become a row is `Broken` with a reason; it never stops the others.

How values become text: text as it is; numbers as upstream's JSON writes them, or out of a column of numbers as short
as they can be told (whole ones without a fraction); booleans as `true` and `false`; lists and structs as JSON. Null,
NaN and blank text are missing. What cannot be UTF-8 (lone surrogates, wrong bytes) becomes U+FFFD.
"""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.images import MAX_BYTES, BadImage, ImageWriter
from curation.sources import marks
from curation.sources.base import Broken, Mapped, Raw
from curation.sources.files import json_text
from curation.sqlguard import predicate
from curation.store import FileState
from schemas.errors import SourceError
from schemas.recipe import Column, Literals, Source
from schemas.rows import MAPPED

FIELDS = ("id", "question", "answer", "solution", "license")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_LABEL = re.compile(r"\s*[(（]?([A-Za-z])\s*[).:、．。）]\s*")
IDENTITY = ("row_id", "content_id", "origin_key")


def columns_read(config: Source, names: Sequence[str]) -> list[str]:
    """Which of a file's columns the recipe reads: those of the mapping, of `where`, and of `meta`."""
    mapping = config.columns
    if mapping.meta == "rest":
        return list(names)
    wanted = {*IDENTITY} if config.version is not None else set()
    if config.where is not None:
        try:
            wanted |= set(predicate(config.where).columns)
        except ValueError as error:
            raise SourceError(f"Source {config.name}: `where: {config.where}`: {error}") from error
    for field in FIELDS:
        spec = getattr(mapping, field)
        wanted |= {field} if spec is None else set(spec.from_) if isinstance(spec, Column) else set()
    wanted |= {*(mapping.choices or ["choices"]), *(mapping.images or ["images", "image"])}
    wanted |= set(mapping.meta) if isinstance(mapping.meta, list) else set()
    folded = {name.casefold() for name in wanted}  # SQL does not tell cases apart
    heads = {name.partition(".")[0] for name in wanted}
    return [name for name in names if name in wanted or name in heads or name.casefold() in folded]


def map_records(config: Source, raw: Raw, images: ImageWriter, image_root: Path) -> Mapped:
    """Rows of some upstream records. See `curation.sources.base.Mapped`."""
    table = raw.table
    if raw.records is not None:
        table = _with_absent(config, table)
    n = len(table)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in FIELDS:
        spec = getattr(config.columns, field)
        if spec is not None:
            column = _text_column(config, spec, table)
        else:
            column = text_of(table[field]) if field in table.column_names else pa.nulls(n, pa.string())
            column = pc.utf8_trim_whitespace(column)
        bare = pc.utf8_trim_whitespace(column) if isinstance(spec, Column) and not spec.strip else column
        columns[field] = pc.if_else(pc.equal(bare, ""), pa.scalar(None, pa.string()), column)
    columns["choices"] = _choices(config, table)
    columns["meta"] = _meta(config, raw, table)
    bad: dict[int, tuple[str, str, dict[str, Any]]] = {}
    read: dict[str, FileState] = {}
    found = _images(config, table, images, raw.folder or image_root, bad, read)
    if (
        found is None
        and pc.any(pc.match_substring_regex(columns["question"], marks.MARK.pattern, ignore_case=True)).as_py()
    ):
        found = [[] for _ in range(n)]
    if found is None:
        columns["images"] = pa.ListArray.from_arrays(pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.string()))
        columns["question_raw"] = pa.nulls(n, pa.string())
    else:
        _place_marks(config, columns, found, bad)
    _require(config, columns, bad)
    result = pa.table([_flat(columns[name]) for name in MAPPED.names], schema=MAPPED)
    kept_ids = (
        table.select(IDENTITY) if set(IDENTITY) <= set(table.column_names) and config.version is not None else None
    )
    broken = [_broken(raw, at, *why) for at, why in sorted(bad.items())]
    if bad:
        keep = np.ones(n, bool)
        keep[list(bad)] = False
        mask = pa.array(keep)
        return Mapped(
            result.filter(mask),
            raw.file,
            raw.index[keep],
            broken,
            list(read.values()),
            kept_ids.filter(mask) if kept_ids is not None else None,
        )
    return Mapped(result, raw.file, raw.index, broken, list(read.values()), kept_ids)


def _with_absent(config: Source, table: pa.Table) -> pa.Table:
    """JSON records may lack a key: columns that the mapping names and none of these records has are null."""
    named = {*(config.columns.choices or ()), *(config.columns.images or ())}
    named |= set(config.columns.meta) if isinstance(config.columns.meta, list) else set()
    for field in FIELDS:
        spec = getattr(config.columns, field)
        named |= set(spec.from_) if isinstance(spec, Column) else set()
    for name in sorted({name if name in table.column_names else name.partition(".")[0] for name in named}):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _broken(raw: Raw, at: int, reason: str, sentence: str, evidence: dict[str, Any]) -> Broken:
    record = {name: _preview(raw.table[name][at].as_py()) for name in raw.table.column_names}
    whole = json.dumps(record, ensure_ascii=False, sort_keys=True, default=str)
    shown = {k: v if len(str(v)) <= 200 else str(v)[:199] + "…" for k, v in record.items() if v is not None}
    return Broken(
        raw.file, int(raw.index[at]), reason, sentence, {**evidence, "record": shown}, whole.encode("utf-8", "replace")
    )


def _preview(value: Any) -> Any:
    """A value that JSON can hold; bytes by their digest, since a picture does not belong in evidence."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes, sha256 {hashlib.sha256(value).hexdigest()[:16]}"
    if isinstance(value, dict):
        return {k: _preview(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_preview(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


# ---------------------------------------------------------------------------------------------------------------- text


def upstream(config: Source, table: pa.Table, name: str) -> pa.ChunkedArray:
    """An upstream column; dots reach into structs, or into objects that are held as JSON text."""
    if name in table.column_names:
        return table[name]
    head, _, rest = name.partition(".")
    if head not in table.column_names:
        raise SourceError(
            f"Source {config.name}: there is no upstream column {name!r}; there are {', '.join(table.column_names)}."
        )
    column = table[head]
    while rest and pa.types.is_struct(column.type):
        part, _, rest = rest.partition(".")
        if part not in (names := [f.name for f in column.type]):
            raise SourceError(
                f"Source {config.name}: the column {head!r} has no field {part!r}; it has {', '.join(names)}."
            )
        column = pc.struct_field(column, part)
    if not rest:
        return column
    values = [_value_text(_reach(value, rest)) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])


def text_of(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column of any type as text, by the one rule of this module."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return text_of(column.cast(kind.value_type))
    if pa.types.is_string(kind):
        return _valid_text(column)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _valid_text(column.cast(pa.string()))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()], pa.string())
    return pa.array([_value_text(value) for value in column.to_pylist()], pa.string())


def _valid_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The column, with what is not UTF-8 replaced. Parquet files do hold such text, and Arrow believes them."""
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        values = column.cast(pa.binary()).to_pylist()
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in values], pa.string())


def _value_text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict | bool) else str(value)


def _text_column(config: Source, spec: Column | Literals, table: pa.Table) -> pa.Array | pa.ChunkedArray:
    n = len(table)
    if isinstance(spec, Literals):
        return pa.repeat(pa.scalar(spec.value, pa.string()), n)
    parts = [text_of(upstream(config, table, name)) for name in spec.from_]
    text = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, spec.join, null_handling="skip")
    if len(parts) > 1:
        missing = pc.is_null(parts[0])
        for part in parts[1:]:
            missing = pc.and_(missing, pc.is_null(part))
        text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    if spec.after is not None or spec.before is not None or spec.boxed:
        cut = [None if value is None else _cut(value, spec) for value in text.to_pylist()]
        text = pa.array(cut, pa.string())
    return pc.utf8_trim_whitespace(text) if spec.strip else text


def _cut(text: str, spec: Column) -> str | None:
    if spec.after is not None:
        _, mark, text = text.rpartition(spec.after)
        if not mark:
            return None
    if spec.before is not None:
        text = text.partition(spec.before)[0]
    return last_boxed(text) if spec.boxed else text


def last_boxed(text: str) -> str | None:
    r"""The content of the last balanced \boxed{…} or \fbox{…}, or None."""
    end = len(text)
    while (start := max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))) >= 0:
        at = start + (6 if text.startswith("\\boxed", start) else 5)
        while at < len(text) and text[at].isspace():
            at += 1
        if at < len(text) and text[at] == "{":
            depth = 0
            for i in range(at, min(len(text), at + 20_000)):
                if text[i] in "{}" and text[i - 1] != "\\":
                    depth += 1 if text[i] == "{" else -1
                    if depth == 0:
                        return text[at + 1 : i].strip()
        end = start
    return None


# ------------------------------------------------------------------------------------------------------------- choices


def _choices(config: Source, table: pa.Table) -> pa.Array:
    n = len(table)
    names = config.columns.choices
    if names is None:
        if "choices" not in table.column_names:
            return pa.nulls(n, pa.list_(pa.string()))
        names = ["choices"]
    columns = [upstream(config, table, name) for name in names]
    if pa.types.is_null(columns[0].type) or (len(columns) == 1 and columns[0].null_count == n):
        return pa.nulls(n, pa.list_(pa.string()))
    if len(columns) == 1:
        return pa.array([_options(value) for value in columns[0].to_pylist()], pa.list_(pa.string()))
    texts = [text_of(column).to_pylist() for column in columns]
    rows = [_options([text for text in row if text]) for row in zip(*texts, strict=True)]
    return pa.array(rows, pa.list_(pa.string()))


def _options(value: Any) -> list[str] | None:
    """Options in the order of their letters, without the letters. An empty list means that there are none."""
    if isinstance(value, str):
        value = _listed(value)
    if isinstance(value, dict):
        labels = value.get("label", value.get("labels"))
        texts = value.get("text", value.get("texts"))
        if isinstance(texts, list):
            value = (
                [t for _, t in sorted(zip(labels, texts, strict=True), key=lambda p: (len(str(p[0])), str(p[0])))]
                if isinstance(labels, list) and len(labels) == len(texts)
                else texts
            )
        else:
            value = [value[key] for key in sorted(value)]
    if not isinstance(value, list):
        return None
    options = [text if (text := _value_text(option)) is not None else "" for option in value]
    letters = [chr(65 + i) for i in range(len(options))]
    while len(options) > 1:  # AQuA has "A)A)59"
        labels = {m.group(1).upper(): o[m.end() :].strip() for o in options if (m := _LABEL.match(o))}
        if sorted(labels) != letters or not all(labels.values()):
            break
        options = [labels[letter] for letter in letters]
    return options if any(options) else None


def _listed(text: str) -> Any:
    """A list that stands in a text: JSON, Python's way of writing one, or one option a line."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    if text.lstrip().startswith(("[", "(")) and len(text) < 100_000:
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return list(ast.literal_eval(text.strip()))
    return [line for line in text.splitlines() if line.strip()]


# -------------------------------------------------------------------------------------------------------------- images


def _images(
    config: Source,
    table: pa.Table,
    writer: ImageWriter,
    root: Path,
    bad: dict[int, tuple[str, str, dict[str, Any]]],
    read: dict[str, FileState],
) -> list[list[str]] | None:
    """Hashes of each record's pictures, or None where the source has no picture column."""
    names = config.columns.images
    if names is None:
        names = [name for name in ("images", "image") if name in table.column_names][:1]
    if not names:
        return None
    root = root.resolve()
    columns = [upstream(config, table, name) for name in names]
    found: list[list[str]] = []
    for at in range(len(table)):
        hashes: list[str] = []
        for column in columns:
            for number, value in enumerate(_pictures(column[at].as_py())):
                try:
                    data, name = _bytes_of(value, root, read)
                    hashes.append(writer.add(data, name))
                except BadImage as error:
                    bad.setdefault(at, (error.reason, error.sentence, {"image": number}))
        found.append(hashes)
    return found


def _pictures(value: Any) -> list[Any]:
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return [v for v in value if v is not None] if isinstance(value, list) else [value]


def _bytes_of(value: Any, root: Path, read: dict[str, FileState]) -> tuple[bytes, str]:
    """The bytes of one picture and its upstream name. Raises BadImage."""
    if isinstance(value, bytes):
        return value, ""
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path") or value.get("url")
        if isinstance(data, bytes):
            return data, str(path or "")
        if isinstance(data, str):
            return _base64(data), str(path or "")
        if isinstance(path, str) and path:
            return _bytes_of(path, root, read)
        raise BadImage("image_missing", "The picture has neither bytes nor a path.")
    if not isinstance(value, str):
        raise BadImage(
            "image_missing", f"A picture must be bytes, a path or base64 text; this is {type(value).__name__}."
        )
    if match := _DATA_URL.match(value):
        return _base64(value[match.end() :]), ""
    if len(value) > 1024 and re.fullmatch(r"[A-Za-z0-9+/=\s]+", value):
        return _base64(value), ""
    return _file(value, root, read), value


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise BadImage("image_broken", f"The picture's base64 text cannot be decoded: {error}.") from error


def _file(name: str, root: Path, read: dict[str, FileState]) -> bytes:
    """A picture file, which may not lie outside the image folder however its name is written."""
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        raise BadImage("image_missing", f"Pictures are not fetched: download {name[:200]} and name the file.")
    try:
        path = (root / name).resolve()
        # In the Hub's cache a snapshot's files are links to its blobs.
        allowed = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
        outside = Path(name).is_absolute() or not any(path.is_relative_to(folder) for folder in allowed)
    except (OSError, ValueError) as error:
        raise BadImage("image_path", f"The picture's path cannot be used: {error}.") from error
    if outside:
        raise BadImage("image_path", f"The picture's path leaves the image folder: {name[:200]}.")
    try:
        status = path.stat()
        if not path.is_file():
            raise BadImage("image_missing", f"The picture is no file: {name[:200]}.")
        if status.st_size > MAX_BYTES:
            raise BadImage("image_bomb", f"The picture's file has {status.st_size:,} bytes; {MAX_BYTES:,} are allowed.")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        read[str(path)] = FileState(str(path), 0, 0, None)
        raise BadImage("image_missing", f"The picture's file is not there: {name[:200]}.") from None
    except OSError as error:
        raise BadImage(
            "image_missing", f"The picture's file cannot be read: {name[:200]}: {error.strerror}."
        ) from error
    read[str(path)] = FileState(str(path), status.st_size, status.st_mtime_ns, hashlib.sha256(data).hexdigest())
    return data


def _place_marks(
    config: Source, columns: dict[str, Any], found: Sequence[list[str]], bad: dict[int, tuple[str, str, dict[str, Any]]]
) -> None:
    """Canonical marks in questions and, where they stand there, in choices; images in the order of their marks."""
    questions, raws, choices, ordered = [], [], [], []
    rows = zip(columns["question"].to_pylist(), columns["choices"].to_pylist(), found, strict=True)
    for at, (question, options, hashes) in enumerate(rows):
        texts, order = [question, *(options or ())], list(range(len(hashes)))
        if question is not None and at not in bad and (hashes or any("<" in t or "[" in t for t in texts)):
            try:
                texts, order = marks.place(texts, len(hashes), config.image_marks)
            except marks.MarksDisagree as error:
                bad[at] = ("image_marks", str(error), {"images": len(hashes)})
        questions.append(texts[0])
        raws.append(question if texts[0] != question else None)
        choices.append(texts[1:] or None)
        ordered.append([hashes[i] for i in order] if at not in bad else hashes)
    columns["question"] = pa.array(questions, pa.string())
    columns["question_raw"] = pa.array(raws, pa.string())
    columns["choices"] = pa.array(choices, pa.list_(pa.string()))
    columns["images"] = pa.array(ordered, pa.list_(pa.string()))


# ---------------------------------------------------------------------------------------------------------------- rest


def _meta(config: Source, raw: Raw, table: pa.Table) -> pa.Array:
    """A JSON object for each record: the columns that the recipe keeps, without nulls and without bytes."""
    n = len(table)
    if config.columns.meta == "none":
        return pa.nulls(n, pa.string())
    wanted = config.columns.meta if isinstance(config.columns.meta, list) else _rest(config, table)
    last = [name.rpartition(".")[2] if name not in table.column_names else name for name in wanted]
    keys = [name if last.count(key) > 1 else key for name, key in zip(wanted, last, strict=True)]
    values = []
    for name in wanted:
        if raw.records is not None:
            values.append([_reach(record, name) for record in raw.records])
        else:
            values.append(upstream(config, table, name).to_pylist())
    lines = []
    for row in zip(*values, strict=True) if values else [()] * n:
        kept = {key: _preview(value) for key, value in zip(keys, row, strict=True) if value is not None}
        lines.append(json_text({key: value for key, value in kept.items() if value is not None}))
    return pa.array(lines, pa.string())


def _rest(config: Source, table: pa.Table) -> list[str]:
    """Columns that no field is made of; bytes are left out."""
    used = {*IDENTITY, *(config.columns.images or ("images", "image")), *(config.columns.choices or ("choices",))}
    for field in FIELDS:
        spec = getattr(config.columns, field)
        used |= {name.partition(".")[0] for name in spec.from_} if isinstance(spec, Column) else {field}
    return [f.name for f in table.schema if f.name not in used and "binary" not in str(f.type)]


def _reach(value: Any, name: str) -> Any:
    """What stands in a record under a name, or under a path with dots."""
    if isinstance(value, dict) and name in value:
        return value[name]
    for key in name.split("."):
        if isinstance(value, str):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(value)
        if isinstance(value, list):
            value = value[int(key)] if key.isdecimal() and int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _require(config: Source, columns: dict[str, Any], bad: dict[int, tuple[str, str, dict[str, Any]]]) -> None:
    for field in config.require:
        column = columns[field]
        if field in ("images", "choices"):
            empty = pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0)
        else:
            empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(column, ""))), 0)
        for at in np.flatnonzero(np.asarray(empty)).tolist():
            bad.setdefault(at, (f"no_{field}", f"The record has no {field}.", {}))
