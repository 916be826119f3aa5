"""The workspace: where everything that a build makes lies, and how it gets there without ever being half there.

    .winnow/
      stages/<kind>/<key>/     cached results of stages, one directory per stage and partition
      partial/<key>/           finished pieces of a stage that was interrupted
      images/                  the image store (curation/images.py)
      traces/                  what teachers said (curation/teachers)
      versions/<name>/<id>/    finished versions; refs/<name>.json says which is the latest and what the tags name
      builds/<key>.json        which version a finished build ended in
      locks/  tmp/             who works here now; scratch folders, removed when their owner is gone

Whatever is written goes to tmp/ first, is fsynced and then renamed: a directory counts only with its manifest, which
names its files and their sizes. Nothing here needs a server; locks are `flock`, which the kernel frees when a process
dies however it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from curation.digests import file_digest
from schemas.errors import BusyError, WinnowError

FORMAT = 1
MANIFEST = "manifest.json"


def default_workspace() -> Path:
    """`WINNOW_WORKSPACE`, or `.winnow` in the current folder."""
    return Path(os.environ.get("WINNOW_WORKSPACE") or ".winnow")


@dataclass(frozen=True)
class Workspace:
    """The paths of one workspace. Make it with `open_workspace`."""

    root: Path

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def versions(self) -> Path:
        return self.root / "versions"

    @property
    def builds(self) -> Path:
        return self.root / "builds"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    def entry(self, kind: str, key: str) -> Path:
        return self.stages / kind / key


def open_workspace(path: Path | str | None = None, *, create: bool = True) -> Workspace:
    """The workspace at `path` (by default `default_workspace()`), made if it is not there.

    Raises WinnowError where it cannot be made or written, or was written by a newer Winnow.
    """
    workspace = Workspace(Path(path).absolute() if path else default_workspace().absolute())
    mark = workspace.root / "workspace.json"
    if not mark.exists():
        if not create:
            raise WinnowError(
                f"There is no workspace at {workspace.root}.\nBuild something first (`winnow build RECIPE`), or name "
                "another with --workspace or WINNOW_WORKSPACE."
            )
        with os_errors(workspace.root):
            for folder in (workspace.stages, workspace.partial, workspace.versions, workspace.builds, workspace.tmp):
                folder.mkdir(parents=True, exist_ok=True)
            (workspace.root / "locks").mkdir(exist_ok=True)
            (workspace.root / "refs").mkdir(exist_ok=True)
            write_json(mark, {"format": FORMAT})
    found = read_json(mark).get("format")
    if found != FORMAT:
        raise WinnowError(
            f"The workspace {workspace.root} has format {found}; this Winnow writes format {FORMAT}.\n"
            "Use the Winnow that made it, or name another workspace with --workspace."
        )
    return workspace


@contextlib.contextmanager
def os_errors(where: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder and the like into an error that says what to do."""
    try:
        yield
    except WinnowError:
        raise
    except Exception as error:
        raise explained(error, where) from error


def explained(error: BaseException, where: Path) -> BaseException:
    """A WinnowError for what the machine refuses (disk, rights, files); any other error as it is.

    Arrow, DuckDB and polars each have their own types for these, so the message decides where there is no errno.
    """
    code = getattr(error, "errno", None)
    text = str(error)
    kept = "What was finished is kept: the same command goes on from there."
    if code == errno.ENOSPC or "No space left on device" in text or "Errno 28" in text:
        return WinnowError(f"The disk is full: {where}.\nFree some space (`winnow gc` shows what can go). {kept}")
    if code == errno.EDQUOT:
        return WinnowError(
            f"The disk quota is used up: {where}.\nFree some space (`winnow gc` shows what can go). {kept}"
        )
    if code in (errno.EROFS, errno.EACCES, errno.EPERM) or "Read-only file system" in text:
        return WinnowError(
            f"The workspace cannot be written: {getattr(error, 'filename', None) or where}: {os.strerror(code or errno.EROFS)}.\n"
            f"Change its permissions, or name another with --workspace. {kept}"
        )
    if code == errno.EMFILE:
        return WinnowError(f"Too many open files.\nRaise the limit (`ulimit -n 4096`). {kept}")
    return error


def write_json(path: Path, value: Any) -> None:
    """Replace a small JSON file in one step."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, sort_keys=True, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    fsync_folder(path.parent)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(path: Path) -> None:
    """Make every file and folder under `path` durable. Hard links of durable files cost nothing again."""
    for folder, _, names in os.walk(path):
        for name in names:
            handle = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_folder(Path(folder))


@contextlib.contextmanager
def scratch(workspace: Workspace) -> Iterator[Path]:
    """A folder of our own under tmp/, removed at the end. The lock beside it, made before the folder and removed after
    it, tells others that the owner is alive: so a folder without a held lock is garbage, whenever its owner died."""
    folder = workspace.tmp / uuid.uuid4().hex
    with os_errors(workspace.root):
        workspace.tmp.mkdir(parents=True, exist_ok=True)
        lock = _scratch_lock(folder.with_suffix(".lock"))
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
        lock.close()


def _scratch_lock(path: Path) -> IO[str]:
    """The lock file, held. Between making and locking it another process may have taken it for a dead one's."""
    while True:
        lock = path.open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()


def stale_scratch(workspace: Workspace) -> list[Path]:
    """What lies in tmp/ and has no living owner: folders, and locks that nobody holds."""
    stale = []
    for path in sorted(workspace.tmp.iterdir()) if workspace.tmp.is_dir() else ():
        try:
            with path.with_suffix(".lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stale.append(path)
        except BlockingIOError:
            continue
        except FileNotFoundError:
            if path.exists():
                stale.append(path)
    return stale


def commit(folder: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest (with the files and their sizes), make it all durable, and rename it into place.

    If `target` is there already, another process made the same thing: ours is dropped and theirs counts.
    """
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(
        json.dumps({**manifest, "entry_files": files}, ensure_ascii=False, sort_keys=True, indent=1) + "\n",
        encoding="utf-8",
    )
    fsync_tree(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(folder)
    else:
        fsync_folder(target.parent)


def load_entry(path: Path) -> dict[str, Any] | None:
    """The manifest of a committed directory, or None where there is none or a file of it is missing or cut."""
    try:
        manifest: dict[str, Any] = read_json(path / MANIFEST)
        for name, size in manifest["entry_files"].items():
            if (path / name).stat().st_size != size:
                return None
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError):
        return None
    return manifest


def discard(workspace: Workspace, path: Path) -> None:
    """Take a file or a folder out of sight in one step, then remove it. Others may be doing the same."""
    if path.exists():
        with scratch(workspace) as folder, contextlib.suppress(FileNotFoundError):
            path.rename(folder / "gone")


@contextlib.contextmanager
def lock(workspace: Workspace, name: str, *, wait: bool, what: str, shared: bool = False) -> Iterator[None]:
    """Hold `locks/<name>`, alone or together with other `shared` holders.

    The process id and host of a lone holder stand in the file, for the message to others.
    """
    path = workspace.root / "locks" / f"{name}.lock"
    with os_errors(workspace.root):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(f"{what} is busy: {holder} is at work there. Try again when it is done.") from None
        file.seek(0)
        file.truncate()
        if not shared:
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
    finally:
        file.close()


@dataclass(frozen=True)
class FileState:
    """A file as it was when it was read. `sha256` is None for a file that was not there."""

    path: str
    size: int
    mtime_ns: int
    sha256: str | None


class FileDigests:
    """sha256 of input files, remembered by (path, size, mtime): an unchanged file is not read again.

    A file that changed within the last two seconds is never remembered, since a second change could leave size and
    time stamp as they are.
    """

    def __init__(self, workspace: Workspace):
        self._path = workspace.root / "digests.json"
        self._known: dict[str, list[Any]] = read_json(self._path) if self._path.exists() else {}
        self._changed = False

    def digest(self, path: Path) -> FileState:
        name = str(path.absolute())
        try:
            status = path.stat()
        except FileNotFoundError:
            return FileState(name, 0, 0, None)
        known = self._known.get(name)
        if known and known[:2] == [status.st_size, status.st_mtime_ns]:
            return FileState(name, status.st_size, status.st_mtime_ns, known[2])
        sha256 = file_digest(path)
        self.remember(FileState(name, status.st_size, status.st_mtime_ns, sha256))
        return FileState(name, status.st_size, status.st_mtime_ns, sha256)

    def remember(self, state: FileState) -> None:
        if state.sha256 is not None and time.time_ns() - state.mtime_ns > 2_000_000_000:
            self._known[state.path] = [state.size, state.mtime_ns, state.sha256]
            self._changed = True

    def unchanged(self, states: Sequence[FileState]) -> bool:
        """Whether files are still what they were: by stat where that suffices, else by their bytes."""
        for state in states:
            try:
                status = Path(state.path).stat()
            except FileNotFoundError:
                if state.sha256 is None:
                    continue
                return False
            if (status.st_size, status.st_mtime_ns) == (state.size, state.mtime_ns):
                continue
            if status.st_size != state.size or self.digest(Path(state.path)).sha256 != state.sha256:
                return False
        return True

    def save(self) -> None:
        if self._changed:
            write_json(self._path, self._known)
            self._changed = False
