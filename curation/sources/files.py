"""What sources that read files share: finding them, choosing records by SQL, and JSON values as columns of text."""

from __future__ import annotations

import difflib
import glob
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.sources.base import Raw
from schemas.errors import SourceError

ENDINGS = {"parquet": (".parquet",), "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")}


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
            matching = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())  # noqa: PTH207 - absolute patterns
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
    records = None if raw.records is None else [raw.records[at] for at in keep.tolist()]
    return replace(raw, table=raw.table.take(keep), index=raw.index[keep], records=records)


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
