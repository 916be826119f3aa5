"""What is looked at before a version leaves this machine.

| kind | refuses |
| --- | --- |
| licence | rows whose licence forbids passing on, or is unknown |
| card | front matter that cannot be read, or whose `data_files` are not exactly the data |
| schema | data files whose columns, features or row counts are not what the manifest says; what `datasets` cannot open |
| secret | keys and tokens in any text, in the recipe, in the metadata |
| path | absolute paths of a machine, in the same places |

Texts are scanned with RE2, about 16 MB of them at once; pictures are not read. What is found is never shown
whole, so that a report can be passed on.
"""

from __future__ import annotations

import fnmatch
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.licenses import redistribution
from curation.publication import Publication, front_matter
from curation.versions import Version
from schemas.errors import WinnowError

KINDS = ("licence", "card", "schema", "secret", "path")
ACCEPTABLE = ("secret", "path")
"""Kinds that a person may let pass after looking: text may speak of keys and paths."""
FIRST_ROWS = 2
AT_ONCE = 16 << 20
"""Bytes of text that are scanned at once."""

SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "an API key": r"\bsk-(?:proj-|ant-|or-)?[A-Za-z0-9_-]{32,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a password in an address": r"\b[a-z][a-z0-9+.-]{1,20}://[^/\s:@\"'<>]{1,64}:[^/\s:@\"'<>]{3,64}@[\w.-]+",
}
PATHS = {
    "a path of a machine": r"(?:^|[\s\"'`(=:,\[])(?:file://)?(?:/(?:home|Users|root|mnt|media|scratch|lustre|workspace|private/var|tmp)/[\w.-]+|/data/[\w.-]+/[\w./-]+|[A-Za-z]:\\\\?(?:Users|Documents)\\)",
}


@dataclass(frozen=True)
class Finding:
    """One reason not to publish."""

    kind: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}\n    {self.remedy}"


def refusal(version: Version, findings: Sequence[Finding]) -> WinnowError:
    """The error that shows findings."""
    count = "one reason" if len(findings) == 1 else f"{len(findings)} reasons"
    return WinnowError("\n".join([f"{version} was not published, for {count}:", *map(str, findings)]))


def check(publication: Publication, *, accept: Sequence[str] = (), secrets: Sequence[str] = ()) -> list[Finding]:
    """All findings. `secrets` are texts that must not occur anywhere (the token in use). Raises WinnowError for a kind
    in `accept` that cannot be accepted."""
    for kind in accept:
        if kind not in ACCEPTABLE:
            raise WinnowError(f"{kind!r} cannot be accepted. These can: {', '.join(ACCEPTABLE)}.")
    found = [*_licences(publication), *_card(publication), *_schema(publication)]
    if not any(finding.kind == "schema" for finding in found):
        found += _opened(publication)
    found += _scanned(publication, secrets)
    own = [f for f in found if f.what.startswith(_OWN_TOKEN)]
    return own + [f for f in found if f.kind not in accept and f not in own]


# ------------------------------------------------------------------------------------------------------------ licences


def _licences(publication: Publication) -> Iterator[Finding]:
    for source, names in publication.licenses.items():
        for name, rows in names.items():
            if not rows or (verdict := redistribution(name)) == "permitted":
                continue
            what = f"{rows:,} rows under {name}, which does not let them be passed on"
            if verdict == "unknown":
                what = f"{rows:,} rows" + (
                    " without a licence" if name == "unknown" else f" under {name!r}, unknown here"
                )
            remedy = (
                f"If you may pass them on, say under which licence: --license {source}=NAME (it goes into the card). "
                "Else leave the source out."
            )
            yield Finding("licence", f"source {source}", what, remedy)


# ------------------------------------------------------------------------------------------------------ card and schema


def _card(publication: Publication) -> Iterator[Finding]:
    remedy = "Build the version again: its card is made with it."
    try:
        head, _ = front_matter(publication.card)
    except WinnowError as error:
        yield Finding("card", "README.md", str(error), remedy)
        return
    data = {item.path for item in publication.items if item.path.startswith("data/") and item.path.endswith(".parquet")}
    claimed: dict[str, list[str]] = defaultdict(list)
    for config in head.get("configs", ()):
        for entry in config.get("data_files", ()):
            globs = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
            hits = {path for path in data for glob in globs if fnmatch.fnmatchcase(path, glob)}
            label = f"{config['config_name']}/{entry['split']}"
            if not hits:
                yield Finding("card", "README.md", f"no file is behind {label}", remedy)
            for path in hits:
                claimed[path].append(label)
    for path in sorted(data):
        if len(claimed[path]) != 1:
            by = " and ".join(claimed[path]) or "no config"
            yield Finding("card", "README.md", f"{path} belongs to {by}", remedy)


def _schema(publication: Publication) -> Iterator[Finding]:
    import datasets

    remedy = "`winnow fsck` says whether a file is damaged; else build the version again."
    rows: dict[str, int] = defaultdict(int)
    first: dict[str, tuple[str, Any]] = {}
    for item in publication.items:
        if item.local is None or not item.path.endswith(".parquet"):
            continue
        try:
            metadata = pq.read_metadata(item.local)
        except (pa.ArrowInvalid, OSError) as error:
            yield Finding("schema", item.path, f"cannot be read: {str(error).splitlines()[0]}", remedy)
            continue
        record = publication.manifest["files"].get(item.path, {})
        if metadata.num_rows != record.get("rows"):
            said = f"has {metadata.num_rows:,} rows; the manifest says {record.get('rows')}"
            yield Finding("schema", item.path, said, remedy)
        if not item.path.startswith("data/"):
            continue
        config = item.path.split("/")[1]
        rows[config] += metadata.num_rows
        try:
            features = datasets.Features.from_arrow_schema(pq.read_schema(item.local))
        except (ValueError, TypeError, KeyError) as error:
            yield Finding("schema", item.path, f"its features cannot be read: {error}", remedy)
            continue
        name, same = first.setdefault(config, (item.path, features))
        if features != same:
            yield Finding("schema", item.path, f"has other features than {name}", remedy)
    for config, splits in publication.manifest["splits"].items():
        if rows[config] != sum(splits.values()):
            said = f"{rows[config]:,} examples in the files; the manifest says {sum(splits.values()):,}"
            yield Finding("schema", f"data/{config}", said, remedy)


def _opened(publication: Publication) -> Iterator[Finding]:
    """Open the first rows of each config and split with `datasets`, as a reader will, and decode them.

    They are put into a file of their own with the schema and the metadata of the smallest data file: a loader takes in
    whole row groups, of which a few at once are a lot of memory.
    """
    import datasets

    sizes = {item.path: item.size for item in publication.items}
    for config, splits in publication.manifest["splits"].items():
        for split in splits:
            names = [n for n in sizes if n.startswith(f"data/{config}/{split}-") and n.endswith(".parquet")]
            if not names:
                continue  # the card's check has said so
            smallest = min(names, key=lambda name: (sizes[name], name))
            try:
                with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
                    probe = Path(folder) / Path(smallest).name
                    _first_rows(publication.version.path / smallest, probe)
                    stream = datasets.load_dataset(
                        "parquet", data_files={split: str(probe)}, split=split, streaming=True
                    )
                    for _ in stream:
                        pass
            except Exception as error:  # whatever it says, a reader would meet it too
                said = f"`datasets` cannot read it: {type(error).__name__}: {str(error).splitlines()[0]}"
                yield Finding("schema", smallest, said, "Build the version again.")


def _first_rows(path: Path, target: Path) -> None:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        schema = file.schema_arrow
        batch = next(file.iter_batches(batch_size=FIRST_ROWS, use_threads=False), None)
        table = schema.empty_table() if batch is None else pa.Table.from_batches([batch])
    pq.write_table(table.replace_schema_metadata(schema.metadata), target)
    del table, batch
    pa.default_memory_pool().release_unused()


# ---------------------------------------------------------------------------------------------------- secrets and paths

_OWN_TOKEN = "your own token"


def _patterns(secrets: Sequence[str]) -> list[tuple[str, str, str]]:
    """(kind, what, regular expression)"""
    own = [("secret", _OWN_TOKEN, re.escape(text)) for text in secrets if len(text) >= 8]
    return [*own, *(("secret", w, p) for w, p in SECRETS.items()), *(("path", w, p) for w, p in PATHS.items())]


def _scanned(publication: Publication, secrets: Sequence[str]) -> Iterator[Finding]:
    patterns = _patterns(secrets)
    scan = _Scan(patterns)
    for item in publication.items:
        if item.local is None or item.path.endswith((".md", ".json", ".html", ".txt")):
            if item.path.endswith(".parquet"):
                continue
            scan.text(item.path, item.content().decode(errors="replace"))
        elif item.path.endswith(".parquet"):
            scan.parquet(item.path, item.local)
    yield from scan.findings()


class _Scan:
    """Counts what is found by (pattern, place), with the first example of each."""

    def __init__(self, patterns: Sequence[tuple[str, str, str]]):
        every = "|".join(f"(?:{pattern})" for _, _, pattern in patterns)
        # To RE2 letters and spaces are ASCII: it shall let pass any others, for `re` to decide.
        self.any = every.replace(r"[\w", r"[\w[:^ascii:]").replace(r"|[\s", r"|[\s[:^ascii:]")
        self.compiled = [(kind, what, re.compile(pattern)) for kind, what, pattern in patterns]
        self.hits: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        self.waiting: list[tuple[str, pa.Array, pa.Array | None, pa.ChunkedArray | None]] = []
        """(place, texts, row of each text, id of each row), not matched yet"""
        self.size = 0

    def text(self, where: str, text: str) -> None:
        self._add(where, pa.array([text]))

    def parquet(self, where: str, path: Path) -> None:
        with pq.ParquetFile(path, memory_map=True) as file:
            for key, value in (file.metadata.metadata or {}).items():
                self.text(f"{where}, metadata", f"{key.decode(errors='replace')} {value.decode(errors='replace')}")
            schema = file.schema_arrow
            leaves = {f.name: list(_text_leaves(f.name, f.type)) for f in schema}
            columns = [name for name, of in leaves.items() if of]
            wanted = [leaf for of in leaves.values() for leaf in of]
            keyed = ["row_id"] if "row_id" in schema.names else []
            for groups in _together(file.metadata, set(wanted)) if wanted else ():
                table = file.read_row_groups(groups, columns=list(dict.fromkeys([*keyed, *wanted])))
                for name in columns:
                    texts, rows = _flat(table[name].combine_chunks())
                    self._add(f"{where}, column {name}", texts, rows, table["row_id"] if keyed else None)

    def _add(
        self, where: str, texts: pa.Array, rows: pa.Array | None = None, row_ids: pa.ChunkedArray | None = None
    ) -> None:
        self.waiting.append((where, texts.cast(pa.large_string()), rows, row_ids))
        self.size += texts.nbytes
        if self.size >= AT_ONCE:
            self._match()

    def _match(self) -> None:
        """Match the waiting texts, of many row groups and files at once: the expression is compiled at every call."""
        waiting, self.waiting, self.size = self.waiting, [], 0
        if not waiting:
            return
        ends = np.cumsum([len(texts) for _, texts, _, _ in waiting])
        every = pa.concat_arrays([texts for _, texts, _, _ in waiting])
        hit = pc.indices_nonzero(pc.fill_null(pc.match_substring_regex(every, self.any), False))
        for at in hit.to_pylist():
            number = int(np.searchsorted(ends, at, side="right"))
            where, texts, rows, row_ids = waiting[number]
            label = ""
            if rows is not None:
                row = rows[at - int(ends[number]) + len(texts)].as_py()
                label = f"row {row if row_ids is None else row_ids[row]}: "
            text = every[at].as_py()
            for kind, what, pattern in self.compiled:
                for match in pattern.finditer(text):
                    self.hits[kind, what, where].append(f"{label}{_masked(kind, match.group())}")

    def findings(self) -> Iterator[Finding]:
        self._match()
        for (kind, what, where), hits in self.hits.items():
            more = f" and {len(hits) - 1:,} more" if len(hits) > 1 else ""
            remedy = (
                f"Take it out (a `filter` or `sql` stage, or the recipe). If it is meant to be there: --accept {kind}"
            )
            if what == _OWN_TOKEN:
                remedy = "Take it out of the data, and make a new token: this one is known to whoever has the data."
            yield Finding(kind, where, f"{what} ({hits[0]}{more})", remedy)


def _masked(kind: str, text: str) -> str:
    text = text.strip()
    return f"{text[:6]}… of {len(text)} characters" if kind == "secret" else text[:60]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text_leaves(name: str, kind: pa.DataType) -> Iterator[str]:
    """Parquet paths of the text leaves of a column. Ids and hashes of our own are no text."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _text_leaves(f"{name}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for inner in kind:
            yield from _text_leaves(f"{name}.{inner.name}", inner.type)
    elif _is_text(kind) and name not in ("row_id", "content_id"):
        yield name


def _together(metadata: pq.FileMetaData, leaves: set[str]) -> Iterator[list[int]]:
    """Row groups to be read at once: until their `leaves` hold AT_ONCE bytes."""
    groups, size = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = (group.column(i) for i in range(group.num_columns))
        groups.append(number)
        size += sum(part.total_uncompressed_size for part in parts if part.path_in_schema in leaves)
        if size >= AT_ONCE:
            yield groups
            groups, size = [], 0
    if groups:
        yield groups


def _flat(array: pa.Array, rows: pa.Array | None = None) -> tuple[pa.Array, pa.Array]:
    """All texts in a nested array, and the row that each belongs to."""
    kind = array.type
    rows = pa.array(np.arange(len(array))) if rows is None else rows
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _flat(pc.list_flatten(array), rows.take(pc.list_parent_indices(array)))
    if pa.types.is_struct(kind):
        parts = [_flat(pc.struct_field(array, i), rows) for i in range(kind.num_fields)]
        return (
            pa.concat_arrays([texts.cast(pa.large_string()) for texts, _ in parts]),
            pa.concat_arrays([r for _, r in parts]),
        )
    return (array if _is_text(kind) else pa.array([], pa.string())), (rows if _is_text(kind) else rows.slice(0, 0))


def describe(findings: Sequence[Finding]) -> list[Mapping[str, str]]:
    """For a program."""
    return [json.loads(json.dumps(vars(finding))) for finding in findings]
