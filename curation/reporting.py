"""Reports of versions of a workspace: what `reports` makes of a version's folder, with the pictures and benchmark items that
lie beside it.

    write(open_version("quickstart"), Path("report.html"))
    write_pair(open_version("quickstart@v1"), open_version("quickstart"), Path("both.html"))
"""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import output
from curation.images import ImageStore, as_seen
from curation.versions import Version
from reports import page, questions, samples, tables
from schemas.errors import WinnowError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from PIL import Image

NAME = "report.html"
"""Of the report in a version's folder. It is derived: no part of the id, and not among the manifest's files."""
MEMORY = 1_000_000_000
"""Bytes that questions may use at once before DuckDB spills; a process needs some more."""


@contextlib.contextmanager
def connect(version: Version) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables of a version (see reports.tables.views), and `images` where its workspace has its pictures."""
    images = images_of(version)
    with (
        tempfile.TemporaryDirectory(prefix="winnow-report-") as spill,
        tables.connect(
            tables.views(version.path, version.manifest),
            folders_of(version),
            tables={} if images is None else {"images": images},
            memory_limit=MEMORY,
            spill=Path(spill),
        ) as connection,
    ):
        yield connection


def folders_of(version: Version) -> list[Path]:
    """Where a version's files lie: in its folder, and where that has links (in the Hub client's cache it has), behind them."""
    return [
        version.path,
        *sorted({path.resolve().parent for path in version.path.rglob("*.parquet") if path.is_symlink()}),
    ]


def images_of(version: Version) -> pa.Table | None:
    """schemas.rows.IMAGE of the version's pictures, without where they lie; None where it has none."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    workspace = version.path.parents[2]
    if not (workspace / "images").is_dir():  # a version that was brought here without its workspace
        return None
    used: set[str] = set()
    for batch in ds.dataset(version.files("decisions")).to_batches(columns=["images"]):
        used.update(pc.unique(pc.list_flatten(batch["images"])).to_pylist())
    used.discard(None)  # type: ignore[arg-type]
    if not used:
        return None
    return ImageStore(workspace).info(sorted(used)).drop_columns(["pack", "offset"])


def query(version: Version, sql: str) -> pa.Table:
    """The result of a query over one version (see `connect`), as the SQL under a report's figures is written.

    Raises WinnowError with DuckDB's own words where the query is wrong or not allowed.
    """
    import duckdb

    with connect(version) as connection:
        try:
            relation = connection.sql(sql)
            if relation is None:
                raise WinnowError("That statement returns no table. A query is one SELECT.")
            return relation.to_arrow_table()
        except duckdb.Error as error:
            raise WinnowError(f"The query was not run: {error}") from error


def outside(version: Version, *, items: bool) -> page.Outside:
    """Pictures from the workspace's image store and, where `items`, texts of benchmarks from its cache."""
    workspace = version.path.parents[2]
    store = ImageStore(workspace) if (workspace / "images").is_dir() else None

    def picture(name: str) -> Image.Image | None:
        if store is None:
            return None
        try:
            return as_seen(store.read([name])[name])
        except (WinnowError, OSError, ValueError):  # a picture that is gone or damaged: fsck tells of it
            return None

    def item(benchmark: str, row_id: str) -> dict[str, Any] | None:
        from curation.similarity.benchmarks import cached_item

        return cached_item(workspace, benchmark, row_id) if row_id else None

    return page.Outside(picture, item) if items else page.Outside(picture)


def answers(version: Version, folders: Sequence[Path] = (), *, seed: int | None = None) -> page.Subject:
    """All questions answered about a version and, unless `seed` is None, rows of it drawn to look at.

    folders  further folders of .sql files
    """
    asked = questions.find(folders)
    with connect(version) as connection:
        there = questions.columns(connection)
        until = questions.sampled_until(int(version.manifest["counts"]["input"]))
        told = [questions.ask(connection, question, there, until) for question in asked]
        groups = [] if seed is None else samples.draw(connection, there, seed)
    return page.Subject(version.manifest, told, groups)


def write(
    version: Version, target: Path, folders: Sequence[Path] = (), *, seed: int = 0, items: bool = True
) -> page.Subject:
    """Write the report of a version, beside and then renamed; return what it says.

    items  whether texts of benchmark items stand beside rows that leak. False for a report that may be published.
    """
    subject = answers(version, folders, seed=seed)
    _put(target, page.page([subject], outside(version, items=items)))
    return subject


def write_pair(a: Version, b: Version, target: Path, folders: Sequence[Path] = ()) -> list[page.Subject]:
    """Write the same questions about two versions side by side."""
    subjects = [answers(version, folders) for version in (a, b)]
    _put(target, page.page(subjects))
    return subjects


def write_tables(subject: page.Subject, folder: Path, format: str = "csv") -> list[Path]:
    """Write the table of every answer to `folder` as CSV or Parquet; return the files. In CSV, cells that a spreadsheet
    would run as a formula get a ' before them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for answer in subject.answers:
        if answer.table is not None:
            paths.append(folder / f"{answer.question.name}.{format}")
            output.write(answer.table, format, paths[-1], safe_csv=True)
    return paths


def _put(target: Path, html: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.write_text(html, encoding="utf-8", errors="replace")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
