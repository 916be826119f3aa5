"""Versions: finding, opening and naming them, and the story of one row.

A version is a folder that never changes. `refs/<name>.json` beside it says which one is the latest and what the tags
name; a reference is written `name`, `name@tag` or `name@id` (an unambiguous beginning of the id will do).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import store
from schemas.errors import DamagedError, WinnowError

if TYPE_CHECKING:
    import datasets
    import duckdb
    import polars as pl
    import pyarrow as pa

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DATA_FILE = re.compile(r"(.+)-(\d+)-of-\d+(?:-[0-9a-f]{6})?\.parquet")
"""Names of data files: split and shard (curation/materialize.py)."""
TABLES = ("rows", "ledger", "decisions", "traces", "verdicts")


@dataclass(frozen=True)
class Version:
    """An immutable dataset. `rows()`, `sql()`, `dataset()` and `why()` read it."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @staticmethod
    def open(path: Path) -> Version:
        """The version in a folder. Raises DamagedError where a file of it is missing or cut."""
        manifest = store.load_entry(path)
        if manifest is None:
            raise DamagedError(
                f"The version at {path} is damaged or not a version.\n`winnow fsck` names the files; build its recipe again to make it anew."
            )
        return Version(path, manifest)

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def id(self) -> str:
        return str(self.manifest["id"])

    def __str__(self) -> str:
        return f"{self.name}@{self.id}"

    def files(self, table: str) -> list[str]:
        """The Parquet files of `decisions`, `traces`, `verdicts`, `ledger` or `data/<config>`."""
        if table == "ledger":
            return [str(self.path / "ledger.parquet")]
        return sorted(str(path) for path in (self.path / table).glob("*.parquet"))

    def rows(self) -> pl.DataFrame:
        """The rows that are in the data, with all their narrow columns (images by hash), sorted by row_id."""
        import polars as pl

        kept = pl.scan_parquet(self.files("ledger")).filter(pl.col("fate") == "kept").select("row_id")
        return (
            pl.scan_parquet(self.files("decisions"))
            .join(kept, on="row_id", how="semi", maintain_order="left")
            .collect()
        )

    def ledger(self) -> pl.DataFrame:
        """One line per input row: its fate, by which stage, why, with evidence."""
        import polars as pl

        return pl.read_parquet(self.files("ledger"))

    def traces(self) -> pl.DataFrame:
        """All traces, exported or not, with their verdicts' columns where there are any."""
        import polars as pl

        traces = pl.scan_parquet(self.files("traces")) if self.files("traces") else pl.LazyFrame()
        if self.files("verdicts"):
            verdicts = pl.scan_parquet(self.files("verdicts"))
            traces = traces.join(verdicts, on=["row_id", "k"], how="left", maintain_order="left")
        return traces.collect()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A locked-down DuckDB connection with the views rows, ledger, decisions, traces, verdicts and one for each
        config of the data (`data_sft`, …)."""
        from curation.catalog import connect, version_views

        return connect(version_views(self), [self.path])

    def sql(self, query: str) -> pl.DataFrame:
        """The result of a query over this version's tables (see `connect`)."""
        import polars as pl

        with self.connect() as connection:
            frame = pl.from_arrow(connection.sql(query).to_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def dataset(self, config: str | None = None, split: str | None = None) -> datasets.Dataset:
        """The data as a `datasets.Dataset`: of the first output and its first split, unless named."""
        import datasets

        configs = self.manifest["splits"]
        config = config or next(iter(configs))
        if config not in configs:
            raise WinnowError(f"{self} has no config {config!r}; it has {', '.join(configs)}.")
        split = split or ("train" if "train" in configs[config] else next(iter(configs[config])))
        if split not in configs[config]:
            raise WinnowError(f"Config {config} of {self} has no split {split!r}; it has {', '.join(configs[config])}.")
        files = [f for f in self.files(f"data/{config}") if Path(f).name.startswith(f"{split}-")]
        loaded = datasets.load_dataset("parquet", data_files={split: files}, split=split)
        assert isinstance(loaded, datasets.Dataset)
        return loaded

    @cached_property
    def kept(self) -> int:
        return int(self.manifest["counts"]["kept"])

    def why(self, row_id: str) -> Story:
        """The story of one input row. An unambiguous beginning of the id will do; so will upstream's own id."""
        from curation.story import tell

        return tell(self, row_id)


@dataclass(frozen=True)
class Story:
    """What became of one row: `lines` for a person, `facts` for a program."""

    lines: list[str]
    facts: dict[str, Any]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def to_dict(self) -> dict[str, Any]:
        return self.facts


# -------------------------------------------------------------------------------------------------------------- finding


def _refs(space: store.Workspace, name: str) -> dict[str, Any]:
    path = space.root / "refs" / f"{name}.json"
    refs: dict[str, Any] = store.read_json(path) if path.exists() else {"tags": {}}
    return refs


def list_manifests(space: store.Workspace, name: str) -> list[dict[str, Any]]:
    """Manifests of all versions of a name, the latest built first."""
    folder = space.versions / name
    found = [m for path in (folder.iterdir() if folder.is_dir() else ()) if (m := store.load_entry(path)) is not None]
    return sorted(found, key=lambda m: (m["run"]["created"], m["id"]), reverse=True)


def list_versions(workspace: Path | str | None = None) -> list[dict[str, Any]]:
    """All versions: name, id, rows, tags, latest, created, configs, bytes, path; by name, then newest first."""
    space = store.open_workspace(workspace, create=False)
    result = []
    for name in sorted(p.name for p in space.versions.iterdir()) if space.versions.is_dir() else ():
        refs = _refs(space, name)
        for manifest in list_manifests(space, name):
            result.append(
                {
                    "name": name,
                    "id": manifest["id"],
                    "rows": manifest["counts"]["kept"],
                    "tags": sorted(tag for tag, target in refs["tags"].items() if target == manifest["id"]),
                    "latest": refs.get("latest") == manifest["id"],
                    "created": manifest["run"]["created"],
                    "examples": manifest["counts"]["examples"],
                    "bytes": sum(record["bytes"] for record in manifest["files"].values()),
                    "path": str(space.versions / name / manifest["id"]),
                }
            )
    return result


def resolve(space: store.Workspace, reference: str) -> Path:
    """The folder of a version by `name`, `name@tag` or `name@id`. Raises WinnowError naming what there is."""
    import difflib

    name, _, which = reference.partition("@")
    names = sorted(p.name for p in space.versions.iterdir()) if space.versions.is_dir() else []
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        there = (
            f"Did you mean {near[0]}?"
            if near
            else f"There are: {', '.join(names)}."
            if names
            else "Nothing is built yet."
        )
        raise WinnowError(f"There is no version named {name!r} in {space.root}. {there}")
    refs = _refs(space, name)
    ids = sorted(p.name for p in (space.versions / name).iterdir())
    if not which:
        which = refs.get("latest") or (ids[-1] if ids else "")
    which = refs["tags"].get(which, which)
    matching = [i for i in ids if i == which] or [i for i in ids if len(which) >= 4 and i.startswith(which)]
    if len(matching) != 1:
        known = ", ".join([*refs["tags"], *ids])
        what = "is ambiguous" if matching else "is neither a tag nor an id"
        raise WinnowError(f"{which!r} {what} of {name}. Known: {known}.")
    return space.versions / name / matching[0]


def open_version(reference: str | Path, workspace: Path | str | None = None) -> Version:
    """Open `name`, `name@tag` or `name@id` of a workspace, the folder of a version, or `hub:ORG/REPO@REVISION`.

    Raises WinnowError where there is none, DamagedError where it is damaged.
    """
    if str(reference).startswith("hub:"):
        from curation.hub import open_published

        return open_published(str(reference))
    if isinstance(reference, Path) or "/" in str(reference):
        return Version.open(Path(reference))
    return Version.open(resolve(store.open_workspace(workspace, create=False), str(reference)))


def tag(reference: str, name: str, workspace: Path | str | None = None, *, move: bool = False) -> Version:
    """Give a version a tag. A tag that names another version is moved only with `move`."""
    space = store.open_workspace(workspace, create=False)
    if not TAG.fullmatch(name):
        raise WinnowError(f"{name!r} cannot be a tag: use letters, digits, '.', '_' and '-'.")
    version = open_version(reference, space.root)
    path = space.root / "refs" / f"{version.name}.json"
    with store.os_errors(space.root), store.lock(space, "commit", wait=True, what="The workspace"):
        refs = _refs(space, version.name)
        have = refs["tags"].get(name)
        if have not in (None, version.id) and not move:
            raise WinnowError(f"The tag {name} of {version.name} names {have}. Choose another, or move it with --move.")
        store.write_json(path, {**refs, "tags": {**refs["tags"], name: version.id}})
    return version


def read_columns(version: Version, table: str, row_id: str) -> list[dict[str, Any]]:
    """The lines of one row in a table of a version."""
    import pyarrow.parquet as pq

    files = version.files(table)
    if not files:
        return []
    found: pa.Table = pq.read_table(files, filters=[("row_id", "=", row_id)])
    return list(found.to_pylist())


def parse(evidence: str | None) -> Any:
    """Evidence as a value; text that is not JSON stays text."""
    if evidence is None:
        return None
    try:
        return json.loads(evidence)
    except json.JSONDecodeError:
        return evidence
