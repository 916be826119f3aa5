"""Looking after a workspace: finding damage (`fsck`) and removing what nothing needs (`gc`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import materialize, store
from curation.digests import PREFIXES, prefix_digests
from curation.exports.linked import unlink_images
from curation.hub import is_published, open_published
from curation.images import ImageStore
from curation.versions import DATA_FILE, list_manifests
from schemas.errors import WinnowError


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was written."""

    version: str
    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.version}: {self.file}: {self.what}\n    {self.remedy}"


# ----------------------------------------------------------------------------------------------------------------- fsck


def fsck(
    name: str | None = None, workspace: Path | str | None = None, *, progress: Callable[[str], None] = lambda text: None
) -> list[Damage]:
    """Recompute every hash of the versions of `name` (or of all), and of the image store; return what is damaged.

    Each file's sha256 is compared with the manifest, and each version's id is computed again from its rows. A published
    version (`hub:ORG/REPO@REVISION`) is fetched whole for it.
    """
    if name is not None and is_published(name):
        progress(name)
        fetch = "Fetch it again (remove it from the Hub client's cache); if it is the same then, publish it anew."
        return fsck_version(open_published(name, data=True).path, name, fetch)
    space = store.open_workspace(workspace, create=False)
    names = [name.partition("@")[0]] if name else sorted(p.name for p in space.versions.iterdir())
    which = name.partition("@")[2] if name else ""
    damage: list[Damage] = []
    for version_name in names:
        folder = space.versions / version_name
        if not folder.is_dir():
            raise WinnowError(f"There is no version named {version_name!r} in {space.root}.")
        refs_path = space.root / "refs" / f"{version_name}.json"
        tags = store.read_json(refs_path)["tags"] if refs_path.exists() else {}
        for path in sorted(folder.iterdir()):
            if which and not path.name.startswith(tags.get(which, which)):
                continue
            progress(f"{version_name}@{path.name}")
            damage += fsck_version(path)
    if name is None:
        progress("image store")
        damage += [
            Damage(
                "image store",
                d.file,
                d.what,
                "Remove the file and build again: the pictures are read from their source.",
            )
            for d in ImageStore(space.root).verify()
        ]
    return damage


def fsck_version(path: Path, label: str = "", remedy: str = "") -> list[Damage]:
    """What is damaged in one version's folder."""
    label = label or f"{path.parent.name}@{path.name}"
    rebuild = remedy or "Remove the folder and build the recipe again: the same rows give the same id."
    try:
        manifest = store.read_json(path / store.MANIFEST)
    except (OSError, ValueError) as error:
        return [Damage(label, store.MANIFEST, f"cannot be read: {error}", rebuild)]
    damage = []
    for name, record in manifest["files"].items():
        file = path / name
        if not file.exists():
            damage.append(Damage(label, name, "is missing", rebuild))
        elif file.stat().st_size != record["bytes"]:
            damage.append(
                Damage(label, name, f"has {file.stat().st_size:,} bytes instead of {record['bytes']:,}", rebuild)
            )
        elif materialize.file_record(file)["sha256"] != record["sha256"]:
            damage.append(Damage(label, name, "has other bytes than were written (sha256 differs)", rebuild))
    if not damage and (found := logical_id(path, manifest)) != manifest["id"]:
        damage.append(
            Damage(label, store.MANIFEST, f"the rows give the id {found}, the manifest says {manifest['id']}", rebuild)
        )
    return damage


def logical_id(path: Path, manifest: Mapping[str, Any]) -> str:
    """The id of a version, computed from the rows in its files. Tables that were withheld from a published version
    count with the digests in its manifest."""
    digests: dict[str, dict[int, str]] = {}
    ledger = pq.read_table(path / "ledger.parquet").drop_columns(["file", "index"])
    digests["ledger"] = prefix_digests(ledger, 0, PREFIXES)
    for table in ("decisions", "traces", "verdicts"):
        digests[table] = table_digests(path, table)
    for table, of in manifest.get("published", {}).get("withheld", {}).items():
        digests[table] = {int(prefix, 16): digest for prefix, digest in of.items()}
    for config in manifest["splits"]:
        shards: dict[str, list[Path]] = {}
        for file in sorted((path / "data" / config).glob("*.parquet")):
            match = DATA_FILE.fullmatch(file.name)
            assert match, file
            shards.setdefault(match[2], []).append(file)
        for files in shards.values():
            rows = pa.concat_tables([_narrow(file, _linked_columns(manifest, config, file)) for file in files])
            order = [("row_id", "ascending"), *([("k", "ascending")] if "k" in rows.column_names else [])]
            digests.setdefault(f"data/{config}", {}).update(prefix_digests(rows.sort_by(order), 0, PREFIXES))
    return materialize.version_id(digests)


def table_digests(path: Path, table: str) -> dict[int, str]:
    """Digest by row-id prefix of the rows of `decisions`, `traces` or `verdicts` of the version in a folder."""
    digests: dict[int, str] = {}
    for file in sorted((path / table).glob("*.parquet")):
        rows = pq.read_table(file)
        if table == "verdicts":
            rows = rows.drop_columns(["seconds"])
        digests.update(prefix_digests(rows, 0, PREFIXES))
    return digests


def _linked_columns(manifest: Mapping[str, Any], config: str, file: Path) -> Sequence[str]:
    """Columns of a data file that name pictures beside it."""
    columns: Sequence[str] = manifest["files"][f"data/{config}/{file.name}"].get("linked_columns", ())
    return columns


def _narrow(file: Path, linked: Sequence[str]) -> pa.Table:
    """A data file as it was before pictures came in: each by the hash of its bytes, and the split as a column."""
    match = DATA_FILE.fullmatch(file.name)
    assert match, file
    split = match[1]
    pieces = []
    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            for name in table.column_names:
                if _is_image(table.schema.field(name).type):
                    at = table.schema.get_field_index(name)
                    table = table.set_column(at, name, _hashes(table[name]))
            pieces.append(table.append_column("split", pa.repeat(pa.scalar(split), len(table))))
    table = pa.concat_tables(pieces).replace_schema_metadata(None)
    return unlink_images(table, linked, file.parent) if linked else table


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and [f.name for f in kind] == ["bytes", "path"]


def _hashes(column: pa.ChunkedArray) -> pa.Array:
    def name(image: dict[str, Any] | None) -> str | None:
        return None if image is None else hashlib.sha256(image["bytes"]).hexdigest()

    values = column.to_pylist()
    if pa.types.is_list(column.type):
        return pa.array([None if v is None else [name(image) for image in v] for v in values], pa.list_(pa.string()))
    return pa.array([name(image) for image in values], pa.string())


# ------------------------------------------------------------------------------------------------------------------- gc


@dataclass(frozen=True)
class GcReport:
    """What `gc` removes, or would remove."""

    items: list[dict[str, Any]]
    """what, path, bytes, why"""
    done: bool

    @property
    def bytes(self) -> int:
        return sum(item["bytes"] for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": self.bytes}


def gc(workspace: Path | str | None = None, dry_run: bool = True, *, versions: bool = False) -> GcReport:
    """Remove what no version needs: cached results, interrupted work, scratch folders, pictures that nothing names.

    With `versions`, versions that are neither tagged nor the latest of their name go too. Traces stay always: they
    are what cannot be had again for free. Raises BusyError while a build runs.
    """
    space = store.open_workspace(workspace, create=False)
    with store.os_errors(space.root), store.lock(space, "workspace", wait=False, what="The workspace"):
        items = list(_garbage(space, versions))
        kept_versions = {item["path"] for item in items if item["what"] == "version"}
        used = _used_images(space, {Path(item["path"]) for item in items})
        freed = ImageStore(space.root).remove(used, dry_run=dry_run)
        if freed:
            items.append(
                {
                    "what": "pictures",
                    "path": str(space.root / "images"),
                    "bytes": freed,
                    "why": "no cached source and no version names them",
                }
            )
        if not dry_run:
            for item in items:
                path = Path(item["path"])
                if item["what"] == "pictures":
                    continue
                store.discard(space, path)
            if kept_versions:
                _forget_versions(space)
    return GcReport(items, not dry_run)


def _garbage(space: store.Workspace, versions: bool) -> Iterator[dict[str, Any]]:
    def item(what: str, path: Path, why: str) -> dict[str, Any]:
        return {"what": what, "path": str(path), "bytes": _size(path), "why": why}

    needed: set[tuple[str, str]] = set()
    for folder in sorted(space.versions.iterdir()):
        refs_path = space.root / "refs" / f"{folder.name}.json"
        refs = store.read_json(refs_path) if refs_path.exists() else {"tags": {}}
        named = {refs.get("latest"), *refs["tags"].values()}
        whole = {m["id"]: m for m in list_manifests(space, folder.name)}
        for path in sorted(folder.iterdir()):
            if path.name not in whole:
                yield item("version", path, "it is damaged (see winnow fsck)")
            elif versions and path.name not in named:
                yield item("version", path, "it is neither tagged nor the latest of its name")
            else:
                needed |= {(stage["kind"], key) for stage in whole[path.name]["stages"] for key in stage["keys"]}
    for kind in sorted(space.stages.iterdir()):
        for entry in sorted(kind.iterdir()):
            if (kind.name, entry.name) not in needed:
                yield item("cached stage", entry, "no version was made from it")
    for entry in sorted(space.partial.iterdir()):
        yield item("interrupted work", entry, "its build did not end; building again would start it anew")
    for path in store.stale_scratch(space):
        yield item("scratch", path, "its owner is gone")


def _used_images(space: store.Workspace, gone: set[Path]) -> set[str]:
    used: set[str] = set()
    files = [
        f for entry in (space.stages / "source").glob("*") if entry not in gone for f in entry.glob("rows-*.parquet")
    ]
    files += [
        f for folder in space.versions.glob("*/*") if folder not in gone for f in folder.glob("decisions/*.parquet")
    ]
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["images"]):
            used.update(batch.column(0).flatten().drop_null().unique().to_pylist())
    return used


def _forget_versions(space: store.Workspace) -> None:
    """Build records of versions that are gone."""
    for path in space.builds.glob("*.json"):
        record = store.read_json(path)
        if not (space.versions / record["name"] / record["id"]).exists():
            path.unlink()


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    # A file with other links frees nothing when this one goes.
    return sum(s.st_size for p in path.rglob("*") if p.is_file() and (s := p.stat()).st_nlink == 1)
