"""The workspace: nothing half-written counts, locks are freed by death, and the machine's refusals are explained."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curation import store
from schemas.errors import BusyError, WinnowError


@pytest.fixture
def space(tmp_path: Path) -> store.Workspace:
    return store.open_workspace(tmp_path / "ws")


def test_a_directory_counts_only_with_its_manifest(space: store.Workspace) -> None:
    target = space.entry("normalize", "k1")
    with store.scratch(space) as folder:
        building = folder / "entry"
        building.mkdir()
        (building / "a.bin").write_bytes(b"12345")
        assert store.load_entry(target) is None
        store.commit(building, target, {"rows": 3})
    assert store.load_entry(target) is not None
    assert store.load_entry(target)["rows"] == 3  # type: ignore[index]
    assert not list(space.tmp.iterdir())


@pytest.mark.parametrize("damage", ["missing", "cut", "manifest"])
def test_a_damaged_directory_does_not_count(space: store.Workspace, damage: str) -> None:
    target = space.entry("normalize", "k1")
    with store.scratch(space) as folder:
        (folder / "entry").mkdir()
        (folder / "entry" / "a.bin").write_bytes(b"12345")
        store.commit(folder / "entry", target, {})
    if damage == "missing":
        (target / "a.bin").unlink()
    elif damage == "cut":
        (target / "a.bin").write_bytes(b"123")
    else:
        (target / store.MANIFEST).write_text('{"entry_fil')
    assert store.load_entry(target) is None
    store.discard(space, target)
    assert not target.exists()


def test_the_first_of_two_equal_results_counts(space: store.Workspace) -> None:
    target = space.entry("normalize", "k1")
    with store.scratch(space) as folder:
        for word in ("first", "second"):
            (folder / word).mkdir()
            store.commit(folder / word, target, {"by": word})
    assert store.load_entry(target)["by"] == "first"  # type: ignore[index]


HOLD = """
import sys, time
from pathlib import Path
from curation import store
space = store.open_workspace(sys.argv[1])
with store.lock(space, "build-x", wait=True, what="x"), store.scratch(space):
    print("held", flush=True)
    time.sleep(60)
"""


def test_locks_and_scratch_of_a_killed_process_are_free(space: store.Workspace) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(space.root)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(BusyError, match=rf"process {holder.pid} on"),
        store.lock(space, "build-x", wait=False, what="The build"),
    ):
        pass
    assert store.stale_scratch(space) == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.lock(space, "build-x", wait=False, what="The build"):
        stale = store.stale_scratch(space)
        assert [path.suffix for path in stale] == ["", ".lock"]
        for path in stale:
            store.discard(space, path)
    assert not list(space.tmp.iterdir())


def test_whatever_a_dying_process_leaves_in_tmp_is_garbage(space: store.Workspace) -> None:
    """A folder whose lock is gone already, a lock whose folder is not there yet, a file: each is a moment of dying."""
    (space.tmp / "half" / "removed").mkdir(parents=True)
    (space.tmp / "unused.lock").touch()
    (space.tmp / "catalog.duckdb").write_bytes(b"half")
    with store.scratch(space) as mine:
        stale = store.stale_scratch(space)
        assert [path.name for path in stale] == ["catalog.duckdb", "half", "unused.lock"]
        for path in stale:
            store.discard(space, path)
        assert sorted(space.tmp.iterdir()) == [mine, mine.with_suffix(".lock")]
    assert not list(space.tmp.iterdir())


def test_builds_share_the_workspace_and_gc_does_not(space: store.Workspace) -> None:
    with (
        store.lock(space, "workspace", wait=False, what="w", shared=True),
        store.lock(space, "workspace", wait=False, what="w", shared=True),
        pytest.raises(BusyError),
        store.lock(space, "workspace", wait=False, what="The workspace"),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("IO Error: could not write: No space left on device"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/ws"), "cannot be written: /data/ws"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit"),
    ],
)
def test_what_the_machine_refuses_is_explained(error: BaseException, words: str) -> None:
    explained = store.explained(error, Path("/data/ws"))
    assert isinstance(explained, WinnowError)
    assert words in str(explained)
    assert "same command" in str(explained)


def test_other_errors_stay_what_they_are() -> None:
    error = KeyError("x")
    assert store.explained(error, Path("/ws")) is error


def test_a_workspace_of_a_newer_format_is_refused(space: store.Workspace) -> None:
    (space.root / "workspace.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(WinnowError, match="format 99"):
        store.open_workspace(space.root)


def test_no_workspace_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="winnow build"):
        store.open_workspace(tmp_path / "none", create=False)


def test_file_digests_are_remembered_by_stat_and_checked_by_bytes(space: store.Workspace, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"abc")
    old = time.time_ns() - 10_000_000_000
    os.utime(path, ns=(old, old))
    digests = store.FileDigests(space)
    state = digests.digest(path)
    digests.save()
    assert store.FileDigests(space).digest(path) == state
    assert digests.unchanged([state])
    os.utime(path, ns=(old + 5, old + 5))
    assert digests.unchanged([state]), "touched, but the same bytes"
    path.write_bytes(b"abd")
    assert not digests.unchanged([state])
    path.unlink()
    assert not digests.unchanged([state])
    gone = digests.digest(path)
    assert gone.sha256 is None and digests.unchanged([gone])


def test_a_file_that_changed_just_now_is_not_remembered(space: store.Workspace, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"abc")
    digests = store.FileDigests(space)
    stamp = path.stat().st_mtime_ns
    first = digests.digest(path)
    path.write_bytes(b"xyz")
    os.utime(path, ns=(stamp, stamp))
    assert digests.digest(path).sha256 != first.sha256
