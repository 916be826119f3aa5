"""SQL over versions: a DuckDB session with views, locked so that a query can read versions and do nothing else.

`catalog.duckdb` in the workspace holds the same views for any other DuckDB client. It is derived: made again after
every build beside the old one and renamed over it, and never written by a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation import store
from curation.versions import Version, list_versions
from reports import tables
from schemas.errors import WinnowError
from schemas.sqltext import identifier, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


MEASURED = {"evaluations": ("scores", "units", "answers"), "ablations": ("cells", "effects")}
"""Folders of the workspace beside the versions whose tables can be asked too: <kind>/<name>/<id>/<table>.parquet."""
RUNS = {
    "difficulty": ("difficulty.parquet", "select * from read_parquet({})"),
    "rollouts": ("rollouts/step-*.parquet", "select * from read_parquet({})"),
    "answers": (
        "samples/step-*.parquet",
        "select regexp_extract(filename, '([0-9]+)\\.parquet$', 1)::integer as step, * exclude (filename) "
        "from read_parquet({}, filename = true)",
    ),
}
"""Tables of a training run: files in its folder runs/<name>, and the query over them. Recipes call a run `run:NAME` too."""


def version_views(version: Version) -> dict[str, str]:
    """View name -> query, for the tables of one version."""
    return tables.views(version.path, version.manifest)


def connect(views: Mapping[str, str], folders: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with views over `folders`; no other file, no network, no change of settings."""
    return tables.connect(views, folders)


def workspace_views(space: store.Workspace) -> dict[str, str]:
    """Views of all versions: `"name@id".rows`, `"name@tag".rows`, and `name.rows` for the latest; `versions`; what was
    measured: `evaluations.scores`, `evaluations.units`, `evaluations.answers`, `ablations.cells`, `ablations.effects`; and
    of each training run what it has of `"run:name".difficulty`, `.rollouts` and `.answers`."""
    views: dict[str, str] = {}
    lines = []
    for line in list_versions(space.root):
        version = Version.open(Path(line["path"]))
        schemas = [f"{line['name']}@{line['id']}", *(f"{line['name']}@{tag}" for tag in line["tags"])]
        if line["latest"]:
            schemas.append(line["name"])
        for table, query in version_views(version).items():
            views.update({f"{schema}\x00{table}": query for schema in schemas})
        tags = ", ".join(quoted(tag) for tag in line["tags"])
        lines.append(
            f"({quoted(line['name'])}, {quoted(line['id'])}, {line['rows']}, [{tags}]::varchar[], {line['latest']}, "
            f"{quoted(line['created'])}::timestamptz, {line['bytes']}, {quoted(line['path'])})"
        )
    columns = "name, id, rows, tags, latest, created, bytes, path"
    empty = "select ''::varchar, ''::varchar, 0, []::varchar[], false, now(), 0, ''::varchar where false"
    views["versions"] = f"select * from ({'values ' + ', '.join(lines) if lines else empty}) as t({columns})"
    for kind, measured in MEASURED.items():
        for table in measured:
            if any((space.root / kind).glob(f"*/*/{table}.parquet")):
                pattern = quoted(str(space.root / kind / "*" / "*" / f"{table}.parquet"))
                views[f"{kind}\x00{table}"] = f"select * from read_parquet({pattern}, union_by_name = true)"
    for folder in sorted((space.root / "runs").glob("*")):
        for table, (files, text) in RUNS.items():
            if any(folder.glob(files)):
                views[f"run:{folder.name}\x00{table}"] = text.format(quoted(str(folder / files)))
    return views


def query(workspace: Path | str | None, sql: str) -> pa.Table:
    """The result of a query over all versions of a workspace (see `workspace_views`).

    Raises WinnowError with DuckDB's own words where the query is wrong or not allowed.
    """
    import duckdb

    space = store.open_workspace(workspace, create=False)
    folders = [space.versions, *(space.root / kind for kind in (*MEASURED, "runs"))]
    with connect(workspace_views(space), folders) as connection:
        try:
            relation = connection.sql(sql)
            if relation is None:
                raise WinnowError("That statement returns no table. `winnow sql` takes one SELECT.")
            return relation.to_arrow_table()
        except duckdb.Error as error:
            hint = ""
            if isinstance(error, duckdb.CatalogException):
                hint = '\nTables are named version.table, e.g. quickstart.rows, "quickstart@TAG".ledger, "run:NAME".difficulty; `select * from versions` lists versions.'
            raise WinnowError(f"The query was not run: {error}{hint}") from error


def write_catalog(space: store.Workspace) -> Path:
    """Make catalog.duckdb anew: beside, then renamed over the old one, which readers may still have open."""
    import duckdb

    target = space.root / "catalog.duckdb"
    with store.scratch(space) as folder:
        beside = folder / "catalog.duckdb"
        with duckdb.connect(str(beside)) as connection:
            for name, text in workspace_views(space).items():
                schema, _, view = name.rpartition("\x00")
                if schema:
                    connection.execute(f"create schema if not exists {identifier(schema)}")
                connection.execute(
                    f"create view {identifier(schema) + '.' if schema else ''}{identifier(view)} as {text}"
                )
        beside.replace(target)
    store.fsync_folder(space.root)
    return target
