"""Fan-outs that are killed, and disks that fill up: the same version in the end, and nothing durable is asked again.

The teacher is a real server in a process of its own (tests/teachers/loopback.py) whose answers are a pure function of
the prompt and the seed; it notes every answer that it is asked for."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation import fsck, list_versions
from curation.teachers.store import TraceStore

pytestmark = pytest.mark.faults
N, ROWS = 8, 60


@pytest.fixture
def asking(project: Path, edit: Callable[..., None]) -> Callable[[Any], None]:
    """asking(server) makes the recipe ask it: eight answers of the 60 questions of the text source."""

    def change(server: Any) -> None:
        def how(recipe: dict[str, Any]) -> None:
            recipe["sources"] = recipe["sources"][:1]
            recipe["outputs"] = [{"export": "sft"}]
            (fanout,) = (s for s in recipe["stages"] if s["stage"] == "fanout")
            recipe["stages"] = [{"stage": "normalize"}, fanout, {"stage": "verify"}]
            fanout.update(n=N, teacher={**server.teacher, "concurrency": 4, "answers_per_request": 2})

        edit(how)

    return change


def build(project: Path, workspace: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "curation.cli", "build", str(project / "recipe.yaml"), "--workspace", str(workspace)]
    return subprocess.Popen([*words, "--workers", "1", "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()


def durable(workspace: Path) -> set[str]:
    """The answers that a store has, each by the hash of its text."""
    texts = TraceStore(workspace / "traces").records()["text"].to_pylist()
    return {hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts if text is not None}


def the_id(workspace: Path) -> str:
    (line,) = list_versions(workspace)
    return str(line["id"])


@pytest.mark.timeout(1500)
def test_fifty_kills_cost_only_what_was_in_flight(
    project: Path, tmp_path: Path, loopback: Callable[..., Any], asking: Callable[[Any], None]
) -> None:
    server = loopback(delay=0.03)
    asking(server)
    finished(build(project, tmp_path / "whole"))
    want = the_id(tmp_path / "whole")
    assert len(set(server.asked())) == len(server.asked()) == N * ROWS

    chance = random.Random(5)
    kills = trial = 0
    while kills < 50:
        workspace = tmp_path / f"killed-{trial}"
        trial += 1
        for _ in range(8):
            before, there = len(server.asked()), durable(workspace)
            process = build(project, workspace)
            # Some die at any moment, most while answers come in.
            enough = before + chance.randrange(1, 120)
            deadline = time.monotonic() + (chance.uniform(0.5, 6) if chance.random() < 0.2 else 60)
            while process.poll() is None and time.monotonic() < deadline and len(server.asked()) < enough:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
            done = process.poll() is not None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += not done
            asked = server.said()[before:]
            assert not there & set(asked), "an answer that was durable was asked for again"
            lost = len(set(asked) - durable(workspace))
            # In flight, and what came within the last second and was not flushed yet (64 answers at most).
            assert lost <= 4 * 2 + 64
            if done or kills == 50:
                break
        before, there = len(server.asked()), durable(workspace)
        finished(build(project, workspace))
        assert not there & set(server.said()[before:])
        assert the_id(workspace) == want
        assert fsck(workspace=workspace) == []


@pytest.mark.timeout(300)
def test_two_builds_share_the_store(
    project: Path, tmp_path: Path, loopback: Callable[..., Any], asking: Callable[[Any], None]
) -> None:
    """Two recipes that ask the same at the same time: both end well, with the same traces."""
    server = loopback(delay=0.01)
    asking(server)
    recipe = yaml.safe_load((project / "recipe.yaml").read_text())
    (project / "other.yaml").write_text(yaml.safe_dump({**recipe, "name": "other"}))
    first = build(project, tmp_path / "ws")
    words = [
        sys.executable,
        "-m",
        "curation.cli",
        "build",
        str(project / "other.yaml"),
        "--workspace",
        str(tmp_path / "ws"),
    ]
    second = subprocess.Popen([*words, "--workers", "1", "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finished(first)
    finished(second)
    assert len({line["id"] for line in list_versions(tmp_path / "ws")}) in (1, 2)
    assert len(durable(tmp_path / "ws")) == N * ROWS


@pytest.mark.timeout(300)
def test_a_full_disk_loses_nothing_that_was_durable(
    project: Path, tmp_path: Path, loopback: Callable[..., Any], asking: Callable[[Any], None]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def inside(script: str) -> subprocess.CompletedProcess[str]:
        words = ["unshare", "--mount", "--map-root-user", "sh", "-ec", script]
        return subprocess.run(words, capture_output=True, text=True, timeout=250)

    probe = inside(f"mount -t tmpfs -o size=1m none {disk}")
    if probe.returncode:
        pytest.skip(f"this machine lets nobody mount a tmpfs ({probe.stderr.strip()}); run it as root")
    server = loopback()
    asking(server)
    command = (
        f"{sys.executable} -m curation.cli build {project / 'recipe.yaml'} --workspace {disk}/ws --workers 1 --quiet"
    )
    # Room for the sources and some of the answers; then more room, and the same command.
    result = inside(
        f"mount -t tmpfs -o size=300k none {disk}; {command} 2>{tmp_path}/full.txt && exit 9; wc -l < {server.log} > {tmp_path}/asked.txt; "
        f"mount -o remount,size=50m {disk}; {command}; ls {disk}/ws/versions/demo"
    )
    assert result.returncode == 0, result.stderr
    said = (tmp_path / "full.txt").read_text()
    assert "disk is full" in said and "Traceback" not in said
    asked = int((tmp_path / "asked.txt").read_text())
    assert asked > 0
    finished(build(project, tmp_path / "whole"))
    assert result.stdout.split()[-1] == the_id(tmp_path / "whole")
