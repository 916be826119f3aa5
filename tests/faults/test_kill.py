"""A build that is killed anywhere, as often as you like, ends in the same version."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curation import fsck, gc, list_versions

pytestmark = pytest.mark.faults


def winnow(*words: str) -> list[str]:
    return [sys.executable, "-m", "curation.cli", *words]


def build(project: Path, workspace: Path, workers: int = 1) -> subprocess.Popen[bytes]:
    recipe = str(project / "recipe.yaml")
    command = winnow("build", recipe, "--workspace", str(workspace), "--workers", str(workers), "--quiet")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def ids(workspace: Path) -> set[str]:
    return {line["id"] for line in list_versions(workspace)}


@pytest.mark.timeout(600)
def test_thirty_kills_and_the_same_id(project: Path, tmp_path: Path) -> None:
    for name in ("warm", "whole"):  # the first build of a machine compiles kernels: its time says nothing
        started = time.monotonic()
        first = build(project, tmp_path / name)
        _, errors = first.communicate(timeout=200)
        seconds = time.monotonic() - started
        assert first.returncode == 0, errors.decode()
    (want,) = ids(tmp_path / "whole")

    chance = random.Random(11)
    kills = 0
    while kills < 30:
        workspace = tmp_path / f"killed-{kills}"
        for _ in range(5):
            process = build(project, workspace, workers=1 + kills % 5 // 4)
            try:
                process.wait(timeout=chance.uniform(0.25, 0.95) * seconds)
            except subprocess.TimeoutExpired:
                # The main process alone: its workers must notice by themselves, and do no harm meanwhile.
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
            else:
                assert process.returncode == 0
                break
        last = build(project, workspace)
        _, errors = last.communicate(timeout=120)
        assert last.returncode == 0, errors.decode()
        assert ids(workspace) == {want}
        assert fsck(workspace=workspace) == []
        gc(workspace, dry_run=False)
        leftover = [p.name for p in (workspace / "tmp").iterdir()]
        assert leftover == [], "gc removes what dead processes left"
        shutil.rmtree(workspace)


@pytest.mark.timeout(120)
def test_workers_end_with_their_parent(project: Path, tmp_path: Path) -> None:
    process = build(project, tmp_path / "ws", workers=2)
    time.sleep(2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        table = subprocess.run(["ps", "-eo", "pid,sess,args"], capture_output=True, text=True, check=True).stdout
        alive = [line for line in table.splitlines() if line.split()[1] == str(process.pid)]
        if not alive:
            return
        time.sleep(0.3)
    pytest.fail(f"workers outlived their parent: {alive}")


@pytest.mark.timeout(120)
def test_two_builds_at_once(project: Path, tmp_path: Path) -> None:
    other = project / "other.yaml"
    other.write_text((project / "recipe.yaml").read_text().replace("name: demo", "name: second", 1))
    ws = tmp_path / "ws"
    processes = [build(project, ws), build(project, ws)]
    processes.append(
        subprocess.Popen(
            winnow("build", str(other), "--workspace", str(ws), "--quiet"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    names = sorted(line["name"] for line in list_versions(ws))
    assert names == ["demo", "second"]
    assert fsck(workspace=ws) == []


@pytest.mark.timeout(120)
def test_an_interrupt_says_that_the_build_resumes(project: Path, tmp_path: Path) -> None:
    process = build(project, tmp_path / "ws")
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("the build was done before it could be interrupted: make the project larger")
    assert "same command" in errors.decode()
    assert "Traceback" not in errors.decode()
