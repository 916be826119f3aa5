"""A version's folder as tables of DuckDB: its Parquet files, and the parts of its manifest that people ask about.

Every table is a view whose text stands for itself, so that the same views serve reports, `winnow sql` and catalog.duckdb.
A table of which the version has no file is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from schemas.sqltext import identifier, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_MANIFEST = {
    "stages": ("position bigint", "name varchar", "kind varchar", "rows_in bigint", "rows_out bigint", "notes json"),
    "sources": ("source varchar", "files bigint", "bytes bigint", "read bigint", "expected bigint"),
    "expectations": (
        "what varchar",
        "expected bigint",
        "within double",
        "found bigint",
        "agrees boolean",
        "because varchar",
    ),
    "examples": ("config varchar", "export varchar", "split varchar", "examples bigint"),
}
"""Tables made of the manifest. `sources.expected` is the recipe's `expect`; `stages.notes` is what the stage tells."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a version. Raises OSError or ValueError where it is not one."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def files(folder: Path, table: str) -> list[str]:
    """The Parquet files of `ledger`, `decisions`, `traces`, `verdicts` or `data/<config>`."""
    if table == "ledger":
        return [str(folder / "ledger.parquet")]
    return sorted(str(path) for path in (folder / table).glob("*.parquet"))


def views(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """View name -> query, for everything that a version holds:

    - ledger: one fate per input row; decisions: narrow columns of all of them; rows: those that are in the data
    - traces, verdicts; data_<config> for each output, with its split
    - stages, sources, examples: of the manifest; expectations where its recipe states some
    """
    made: dict[str, str] = {}
    for table in ("ledger", "decisions", "traces", "verdicts"):
        if found := files(folder, table):
            made[table] = f"select * from read_parquet([{', '.join(map(quoted, found))}])"
    kept = f"select row_id from ({made['ledger']}) where fate = 'kept'"
    made["rows"] = f"select * from ({made['decisions']}) where row_id in ({kept})"
    for config in manifest["splits"]:
        if found := files(folder, f"data/{config}"):
            # The split stands in the file name, as on the Hub.
            split = "regexp_extract(filename, '([^/]+)-\\d+-of-\\d+(-[0-9a-f]{6})?\\.parquet$', 1) as split"
            listed = ", ".join(map(quoted, found))
            made[f"data_{config}"] = (
                f"select * exclude (filename), {split} from read_parquet([{listed}], filename = true)"
            )
    for name, lines in _of_manifest(manifest).items():
        made[name] = _values(_MANIFEST[name], lines)
    return made


def _of_manifest(manifest: Mapping[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    counts = manifest["counts"]["sources"]
    recipe = yaml.safe_load(manifest["recipe"]) or {}
    expected = {s.get("name"): s.get("expect") for s in recipe.get("sources") or () if isinstance(s, dict)}
    exports = {output["name"]: output["export"] for output in manifest["outputs"]}
    stages = [
        (at, s["name"], s["kind"], s["rows_in"], s["rows_out"], json.dumps(s.get("notes") or {}))
        for at, s in enumerate(manifest["stages"])
    ]
    sources = [
        (name, len(of), sum(f.get("bytes") or 0 for f in of), sum(counts.get(name, {}).values()), expected.get(name))
        for name, of in manifest["inputs"].items()
    ]
    examples = [
        (c, exports.get(c), split, n) for c, splits in manifest["splits"].items() for split, n in splits.items()
    ]
    tables: dict[str, list[tuple[Any, ...]]] = {"stages": stages, "sources": sources, "examples": examples}
    if stated := manifest.get("expected"):
        fields = ("what", "expected", "within", "found", "agrees", "because")
        tables["expectations"] = [tuple(line[name] for name in fields) for line in stated]
    return tables


def _values(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A query that gives these lines; `columns` are names with their types."""
    names = [column.partition(" ")[0] for column in columns]
    kinds = [column.partition(" ")[2] for column in columns]
    said = [
        ", ".join(
            f"{quoted(v) if isinstance(v, str) else 'null' if v is None else v}::{k}"
            for v, k in zip(line, kinds, strict=True)
        )
        for line in lines
    ]
    if not said:
        return "select " + ", ".join(f"null::{k} as {n}" for n, k in zip(names, kinds, strict=True)) + " where false"
    return f"select * from (values {', '.join(f'({line})' for line in said)}) as t({', '.join(names)})"


def connect(
    made: Mapping[str, str],
    folders: Sequence[Path],
    *,
    tables: Mapping[str, pa.Table] | None = None,
    memory_limit: int | None = None,
    threads: int | None = None,
    spill: Path | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with views over `folders`; no other file, no network, no change of settings.

    made          view name, or schema + NUL + view name -> query
    tables        further tables, by name
    memory_limit  bytes; what does not fit spills to `spill`, or fails where there is none
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute("set enable_progress_bar = false")
    if memory_limit is not None:
        connection.execute(f"set memory_limit = '{memory_limit}B'")
        connection.execute(f"set temp_directory = {quoted(str(spill) if spill is not None else '')}")
    if threads is not None:
        connection.execute(f"set threads = {threads}")
    for name, table in (tables or {}).items():
        connection.register(name, table)
    connection.execute(f"set allowed_directories = [{', '.join(quoted(f'{folder}/') for folder in folders)}]")
    connection.execute("set enable_external_access = false")
    for name, query in made.items():
        schema, _, view = name.rpartition("\x00")
        if schema:
            connection.execute(f"create schema if not exists {identifier(schema)}")
        connection.execute(f"create view {identifier(schema) + '.' if schema else ''}{identifier(view)} as {query}")
    connection.execute("set lock_configuration = true")
    return connection
