"""What of a version goes to the Hub: its files, a manifest and a card that are fit for strangers.

The published manifest leaves out the host's name. Tables that are withheld (`traces=False`) leave their digests by row-id
prefix in it, so that whoever has the rest can still compute the version's id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from curation import store
from curation.licenses import front_matter as license_fields
from curation.versions import Version
from schemas.errors import DamagedError, WinnowError

TRACES = ("traces", "verdicts")
LARGEST_REGULAR = 10 << 20
"""Bytes up to which a file may lie in git itself."""


@dataclass(frozen=True)
class Item:
    """One file: `local`, or `data` for those that are made for publishing."""

    path: str
    size: int
    sha256: str
    local: Path | None = None
    data: bytes = field(default=b"", repr=False)

    def head(self) -> bytes:
        """Its first 512 bytes."""
        if self.local is None:
            return self.data[:512]
        with self.local.open("rb") as file:
            return file.read(512)

    def content(self) -> bytes:
        return self.data if self.local is None else self.local.read_bytes()

    def git_oid(self) -> str:
        """Its id as a git blob."""
        content = self.content()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Publication:
    """A version as it is published."""

    version: Version
    items: Sequence[Item]
    """By path; manifest.json is the last."""
    manifest: Mapping[str, Any]
    card: str
    licenses: Mapping[str, Mapping[str, int]]
    """source -> licence -> rows, as the publisher states them"""

    @property
    def bytes(self) -> int:
        return sum(item.size for item in self.items)


def prepare(
    version: Version, *, traces: bool = True, licenses: Mapping[str, str] | None = None, accepted: Sequence[str] = ()
) -> Publication:
    """The files of a version for the Hub. `licenses` states the licence of whole sources; `accepted` names the kinds of
    findings that the publisher lets pass (curation/publishcheck.py). Raises WinnowError for a source there is not."""
    stated = dict(licenses or {})
    known = version.manifest["licenses"]
    for source in stated:
        if source not in known:
            raise WinnowError(f"{version} has no source {source!r}. It has: {', '.join(known)}.")
    of_sources = {s: {stated[s]: sum(of.values())} if s in stated else dict(of) for s, of in known.items()}
    withheld = {} if traces else _withheld(version)
    manifest = json.loads(json.dumps(dict(version.manifest)))
    manifest["run"].pop("host", None)
    published: dict[str, Any] = {}
    if stated:
        published["licenses"] = stated
    if withheld:
        published["withheld"] = withheld
    if accepted:
        published["accepted"] = sorted(set(accepted))
    if published:
        manifest["published"] = published
    gone = tuple(f"{table}/" for table in withheld)
    for listing in ("files", "entry_files"):
        manifest[listing] = {name: of for name, of in manifest[listing].items() if not name.startswith(gone or ("\0",))}

    card = _card((version.path / "README.md").read_text(encoding="utf-8"), of_sources, stated, list(withheld))
    readme = _made("README.md", card.encode())
    items = [readme]
    manifest["files"]["README.md"] = {"sha256": readme.sha256, "bytes": readme.size}
    manifest["entry_files"]["README.md"] = readme.size
    for name, size in manifest["entry_files"].items():
        if name == "README.md":
            continue
        local = version.path / name
        record = manifest["files"].get(name)
        if local.stat().st_size != size:
            raise DamagedError(
                f"{local} has {local.stat().st_size:,} bytes instead of {size:,}. Nothing was published."
            )
        sha256 = record["sha256"] if record else hashlib.sha256(local.read_bytes()).hexdigest()
        items.append(Item(name, size, sha256, local))
    items.sort(key=lambda item: item.path)
    text = json.dumps(manifest, ensure_ascii=False, sort_keys=True, indent=1) + "\n"
    items.append(_made(store.MANIFEST, text.encode()))
    return Publication(version, items, manifest, card, of_sources)


def _made(path: str, data: bytes) -> Item:
    return Item(path, len(data), hashlib.sha256(data).hexdigest(), None, data)


def _withheld(version: Version) -> dict[str, dict[str, str]]:
    """table -> row-id prefix -> digest, of traces and verdicts."""
    from curation.maintenance import table_digests

    found = {table: table_digests(version.path, table) for table in TRACES}
    return {table: {f"{prefix:02x}": d for prefix, d in of.items()} for table, of in found.items() if of}


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """The YAML on top of a card, and the text below. Raises WinnowError where there is none."""
    parts = card.split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise WinnowError("README.md does not begin with YAML between two lines of ---.")
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise WinnowError(f"The YAML on top of README.md cannot be read: {error}") from error
    if not isinstance(head, dict):
        raise WinnowError("The YAML on top of README.md is no mapping.")
    return head, parts[2]


def _card(text: str, licenses: Mapping[str, Mapping[str, int]], stated: Mapping[str, str], withheld: list[str]) -> str:
    """The card, with what was stated or withheld when it was published."""
    if not stated and not withheld:
        return text
    head, body = front_matter(text)
    if stated:
        for key in ("license", "license_name", "license_details"):
            head.pop(key, None)
        head |= license_fields({name for of in licenses.values() for name, rows in of.items() if rows})
        lines = [f"- `{source}`: {name}" for source, name in sorted(stated.items())]
        body = f"{body.rstrip()}\n\n## Licences stated by the publisher\n\n" + "\n".join(lines) + "\n"
    if withheld:
        body = f"{body.rstrip()}\n\nPublished without {' and '.join(withheld)}; their digests are in `manifest.json`.\n"
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)}---\n{body}"
