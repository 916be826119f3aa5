"""A full disk and a read-only workspace: a clear error, and nothing that was finished is lost.

The disks are real: a small tmpfs, mounted in a namespace of its own, so that no rights on the machine are needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-ec", script], capture_output=True, text=True, timeout=100
    )


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    probe = in_namespace(f"mount -t tmpfs -o size=1m none {folder}")
    if probe.returncode:
        pytest.skip(
            f"this machine lets nobody mount a tmpfs ({probe.stderr.strip()}); run it as root, or with unprivileged user namespaces on (sysctl kernel.unprivileged_userns_clone=1)"
        )
    return folder


def command(project: Path, workspace: Path) -> str:
    return (
        f"{sys.executable} -m curation.cli build {project / 'recipe.yaml'} --workspace {workspace} --workers 1 --quiet"
    )


def test_a_full_disk(project: Path, disk: Path) -> None:
    ws = disk / "ws"
    full = in_namespace(f"mount -t tmpfs -o size=200k none {disk}; {command(project, ws)}")
    assert full.returncode == 1
    assert "disk is full" in full.stderr and "same command" in full.stderr
    assert "Traceback" not in full.stderr
    # Room is made on the same disk, and the same command ends well.
    again = in_namespace(
        f"mount -t tmpfs -o size=200k none {disk}; {command(project, ws)} 2>/dev/null || mount -o remount,size=50m {disk}; {command(project, ws)}; ls {ws}/versions/demo"
    )
    assert again.returncode == 0, again.stderr
    assert len(again.stdout.split()[-1]) == 12


def test_a_read_only_workspace(project: Path, disk: Path) -> None:
    ws = disk / "ws"
    script = f"mount -t tmpfs -o size=50m none {disk}; {command(project, ws)}; mount -o remount,ro {disk}; "
    changed = command(project, ws) + " --set 'stages.filter.where=length(question) < 20'"
    result = in_namespace(script + changed)
    assert result.returncode == 1
    assert "cannot be written" in result.stderr and "Traceback" not in result.stderr
