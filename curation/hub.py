"""Versions on the Hub: publishing without a torn state, and opening what was published.

Publishing sends the blobs that the Hub does not have, then makes **one** commit and gives it a tag. Until the commit
readers see the version before; after it, the new one. Everything is decided by looking at the repo: a publisher that
was killed anywhere is run again, and sends only what is missing. A commit whose reply was lost, or that came too late
(412), is looked at first and made again only if it is not there.

`hub:ORG/REPO@REVISION` names a published version wherever a version is read.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curation import store
from curation.hubclient import Dataset, Hub, HubError
from curation.publication import LARGEST_REGULAR, Item, Publication, prepare
from curation.versions import TAG, Version, open_version
from schemas.errors import DamagedError, WinnowError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PREFIX = "hub:"
BATCH = 100
"""Blobs that one request asks about."""
SENDERS = 4
OURS = ("data/", "decisions/", "traces/", "verdicts/", "ledger.parquet")


@dataclass(frozen=True)
class Published:
    """What was done, or would be."""

    repo: str
    tag: str
    commit: str
    """"" where nothing was done (a dry run)."""
    version: str
    files: int
    bytes: int
    new: Sequence[str]
    """Files that the repo did not have as they are."""
    removed: Sequence[str]
    new_bytes: int
    """Bytes of the new files."""
    sent_bytes: int
    """Bytes of blobs that went over the wire: less where the Hub had some already."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def this_hub(**options: Any) -> Hub:
    """The Hub that `huggingface_hub` is set to (HF_ENDPOINT), with the token of this user."""
    from huggingface_hub import constants, get_token

    timeout = float(os.environ.get("WINNOW_HUB_TIMEOUT") or 60)
    return Hub(constants.ENDPOINT, get_token(), **{"timeout": timeout, **options})


def publish(
    reference: str | Version,
    repo: str,
    *,
    tag: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    traces: bool = True,
    licenses: Mapping[str, str] | None = None,
    accept: Sequence[str] = (),
    workspace: Path | str | None = None,
    hub: Hub | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Published:
    """Publish a version as a dataset repo, under `tag` (its id, if no other is given).

    First everything is checked (curation/publishcheck.py): a finding stops it before anything leaves. Publishing again
    changes nothing. `progress` is told (what, bytes done, bytes in all). Raises WinnowError where something is refused,
    here or by the Hub.
    """
    from curation.publishcheck import check, refusal

    if not REPO.fullmatch(repo):
        raise WinnowError(f"{repo!r} is no repo id. Give one as ORG/REPO.")
    version = reference if isinstance(reference, Version) else open_version(reference, workspace)
    tag = tag or version.id
    if not TAG.fullmatch(tag):
        raise WinnowError(f"{tag!r} cannot be a tag: use letters, digits, '.', '_' and '-'.")
    hub = hub or this_hub()
    publication = prepare(version, traces=traces, licenses=licenses, accepted=accept)
    progress("checking", 0, publication.bytes)
    findings = check(publication, accept=accept, secrets=[hub.token] if hub.token else [])
    if findings:
        raise refusal(version, findings)

    dataset = Dataset(hub, repo)
    info = dataset.info()
    if info is None:
        if dry_run:
            new = [item.path for item in publication.items]
            return Published(repo, tag, "", str(version), len(new), publication.bytes, new, [], publication.bytes, 0)
        if not hub.token:
            raise WinnowError("Publishing needs a token that may write.\nLog in: `hf auth login`, or set HF_TOKEN.")
        dataset.create(private)
        info = dataset.info()
        if info is None:
            raise HubError(f"The Hub made {repo}, but does not show it. Publish again in a minute.", 404)
    if private and not info.get("private"):
        raise WinnowError(
            f"{repo} is public already, and --private asks for a private one. Name another repo, or change "
            "its visibility on the Hub."
        )
    tagged = dataset.tags().get(tag)
    if tagged is not None and _change(dataset, publication, tagged).nothing:
        return Published(repo, tag, tagged, str(version), len(publication.items), publication.bytes, [], [], 0, 0)
    if tagged is not None:
        raise WinnowError(
            f"The tag {tag} of {repo} names another version already, and readers may rely on it. Choose another."
        )
    change = _change(dataset, publication, str(info["sha"]))
    summary = (str(version), len(publication.items), publication.bytes, [i.path for i in change.add], change.remove)
    new_bytes = sum(item.size for item in change.add)
    if dry_run:
        return Published(repo, tag, "", *summary, new_bytes, 0)
    sent = 0
    if change.add:
        if problems := dataset.validate_card(publication.card):
            raise WinnowError("The Hub does not take the card:\n" + "\n".join(f"  {p}" for p in problems))
        sent = _send(dataset, change.add, progress)
    commit = _commit(dataset, publication, change, f"{version}: {version.kept:,} rows")
    dataset.tag(tag, commit, f"{version}, built by Winnow")
    progress("published", publication.bytes, publication.bytes)
    return Published(repo, tag, commit, *summary, new_bytes, sent)


@dataclass(frozen=True)
class _Change:
    """What makes a commit of a repo hold a publication, and nothing else of Winnow's."""

    parent: str
    add: Sequence[Item]
    remove: Sequence[str]

    @property
    def nothing(self) -> bool:
        return not self.add and not self.remove


def _change(dataset: Dataset, publication: Publication, commit: str) -> _Change:
    tree = dataset.tree(commit)
    add = []
    for item in publication.items:
        there = tree.get(item.path)
        same = there is not None and there.size == item.size
        if same and there is not None:
            same = there.sha256 == item.sha256 if there.sha256 else there.oid == item.git_oid()
        if not same:
            add.append(item)
    wanted = {item.path for item in publication.items}
    if store.MANIFEST in tree:
        import json

        before = json.loads(dataset.read(commit, store.MANIFEST))
        if not isinstance(before, dict) or "entry_files" not in before:
            raise WinnowError(f"{dataset.repo} has a manifest.json that Winnow did not write. Name another repo.")
        remove = sorted((set(before["entry_files"]) & set(tree)) - wanted)
    else:
        foreign = [path for path in tree if path.startswith(OURS)]
        if foreign:
            raise WinnowError(
                f"{dataset.repo} holds data that Winnow did not publish ({foreign[0]}, …), and a version would mix "
                "with it. Name another repo."
            )
        remove = []
    return _Change(commit, add, remove)


def _is_large(item: Item, modes: Mapping[str, str]) -> bool:
    return item.size > 0 and (modes[item.path] == "lfs" or item.size > LARGEST_REGULAR)


def _modes(dataset: Dataset, items: Sequence[Item]) -> dict[str, str]:
    return dataset.modes([(item.path, item.size, item.head()) for item in items])


def _send(dataset: Dataset, items: Sequence[Item], progress: Callable[[str, int, int], None]) -> int:
    """Send the blobs that the Hub does not have; the bytes that went over the wire."""
    modes = _modes(dataset, items)
    large = {item.sha256: item for item in items if _is_large(item, modes)}
    total, done, wire = sum(item.size for item in large.values()), 0, 0
    lock = threading.Lock()

    def sent(count: int) -> None:
        nonlocal done, wire
        with lock:
            done += count
            wire += max(count, 0)
            progress("sending", done, total)

    blobs = list(large.values())
    with ThreadPoolExecutor(SENDERS) as pool:
        for start in range(0, len(blobs), BATCH):
            batch = blobs[start : start + BATCH]
            wanted = dataset.wanted([(item.sha256, item.size) for item in batch])
            there = sum(item.size for item in batch if item.sha256 not in wanted)
            with lock:
                done += there
                progress("sending", done, total)
            jobs = [
                pool.submit(_send_one, dataset.hub, action, large[sha256], sent) for sha256, action in wanted.items()
            ]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return wire


def _send_one(hub: Hub, action: Mapping[str, Any], item: Item, sent: Callable[[int], None]) -> None:
    if item.local is not None:
        hub.send(action, item.local, item.sha256, item.size, sent)
        return
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="winnow-") as file:
        file.write(item.data)
        file.flush()
        hub.send(action, Path(file.name), item.sha256, item.size, sent)


def _commit(dataset: Dataset, publication: Publication, change: _Change, message: str) -> str:
    """Make the commit; its id, or that of the commit that holds the publication already."""
    number = 0
    while not change.nothing:
        number += 1
        modes = _modes(dataset, change.add)
        try:
            return dataset.commit(_operations(change, modes), change.parent, message)
        except HubError as error:
            if not error.may_pass or number >= dataset.hub.tries:
                raise
            dataset.hub.pause(number, error)
        # It may have been made and its reply lost; or somebody else has committed since.
        info = dataset.info()
        if info is None:
            raise HubError(f"{dataset.repo} is gone.", 404)
        change = _change(dataset, publication, str(info["sha"]))
        if change.add:
            _send(dataset, change.add, lambda what, done, total: None)
    return change.parent


def _operations(change: _Change, modes: Mapping[str, str]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for item in change.add:
        if _is_large(item, modes):
            value = {"path": item.path, "algo": "sha256", "oid": item.sha256, "size": item.size}
            lines.append({"key": "lfsFile", "value": value})
        else:
            content = base64.b64encode(item.content()).decode()
            lines.append({"key": "file", "value": {"path": item.path, "content": content, "encoding": "base64"}})
    return lines + [{"key": "deletedFile", "value": {"path": path}} for path in change.remove]


# ------------------------------------------------------------------------------------------------------------- opening


def is_published(reference: object) -> bool:
    """Whether a reference names a version on the Hub."""
    return str(reference).startswith(PREFIX)


def open_published(reference: str, *, data: bool = False) -> Version:
    """Open `hub:ORG/REPO@REVISION`: its tables are fetched into the Hub client's cache; with `data`, all files.

    Raises WinnowError where there is no such repo or revision, or it holds no version.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repo, _, revision = reference.removeprefix(PREFIX).partition("@")
    if not REPO.fullmatch(repo):
        raise WinnowError(f"{reference!r} is no repo. Write hub:ORG/REPO@REVISION.")
    narrow = [store.MANIFEST, "README.md", "ledger.parquet", "report.html"]
    narrow += [f"{table}/*" for table in ("decisions", "traces", "verdicts")]
    try:
        folder = HfApi(endpoint=constants.ENDPOINT).snapshot_download(
            repo, repo_type="dataset", revision=revision or "main", allow_patterns=None if data else narrow
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WinnowError(f"{reference} cannot be had: {said}") from error
    path = Path(folder)
    if not (path / store.MANIFEST).exists():
        raise WinnowError(
            f"{reference} holds no Winnow version: it has no manifest.json. As a source of rows any dataset will do "
            f"(hub: {repo}@{revision or 'main'})."
        )
    manifest = store.read_json(path / store.MANIFEST)
    for name in manifest["entry_files"]:
        if (data or not name.startswith("data/")) and not (path / name).exists():
            raise DamagedError(f"{reference} lacks {name}, which its manifest names.")
    return Version(path, manifest)
