"""Cells on a Ray cluster of this machine: the same figures as without one, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.ablation import Resources
from schemas.errors import Problem, RecipeError, WinnowError
from tests.training.test_ablation import recipe_in
from training import ablation, cells, cluster

STEPS = {"set": {"sft.steps": 40, "sft.save.every": 10, "sft.save.keep": 9}}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two machines, which are processes here."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, object_store_memory=80 << 20)
    yield made.address
    made.shutdown()


class Killer(threading.Thread):
    """Kills the worker of a cell as soon as one of the runs there has a checkpoint of step 10."""

    def __init__(self, runs: Path, titles: list[str]) -> None:
        super().__init__(daemon=True)
        self.runs, self.titles = runs, {f"ray::{title}" for title in titles}
        self.killed: str | None = None
        self.checkpoints: dict[Path, int] = {}

    def run(self) -> None:
        end = time.monotonic() + 120
        while not self.killed and time.monotonic() < end:
            found = list(self.runs.glob("*/checkpoints/step-000010"))
            for pid, title in self.workers() if found else ():
                # Stopped first: then what lies there is what the next worker finds.
                os.kill(pid, signal.SIGSTOP)
                self.checkpoints = {place: place.stat().st_mtime_ns for place in found}
                os.kill(pid, signal.SIGKILL)
                self.killed = title
                break
            time.sleep(0.02)

    def workers(self) -> list[tuple[int, str]]:
        """Processes below this one that run one of the cells."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        parents = {int(row[0]): int(row[1]) for row in rows}

        def ours(pid: int) -> bool:
            return pid == os.getpid() or (pid in parents and ours(parents[pid]))

        return [
            (int(row[0]), row[2].strip()) for row in rows
            if len(row) == 3 and row[2].strip() in self.titles and ours(int(row[0]))
        ]  # fmt: skip


@pytest.mark.ray
@pytest.mark.skipif(sys.platform == "win32", reason="processes are listed by ps")
def test_a_killed_worker_changes_nothing(address: str, tmp_path: Path) -> None:
    alone_in, there_in = tmp_path / "alone", tmp_path / "there"
    for folder in (alone_in, there_in):
        folder.mkdir()
    recipe = cells.load(recipe_in(there_in, **STEPS))
    titles = [f"{cell.label}, seed {seed}" for cell in cells.cells_of(recipe) for seed in recipe.seeds]
    killer = Killer(there_in / "w" / "runs", titles)
    killer.start()
    there = ablation.ablate(recipe, workspace=there_in / "w", on=f"ray:{address}")
    killer.join()
    assert killer.killed, "no worker was killed"
    # Whoever ran the cell again went on from the checkpoint and did not write it anew.
    assert killer.checkpoints and all(p.stat().st_mtime_ns == then for p, then in killer.checkpoints.items())
    alone = ablation.ablate(cells.load(recipe_in(alone_in, **STEPS)), workspace=alone_in / "w")
    free = ["train_seconds", "evaluation"]  # an evaluation is named by the place of its model too
    assert there.cells.drop(free).equals(alone.cells.drop(free))
    assert there.effects.equals(alone.effects)
    for run in alone.cells["run"]:
        weights = Path("w", "runs", run, "checkpoints", "step-000040", "model.safetensors")
        assert (there_in / weights).read_bytes() == (alone_in / weights).read_bytes()


@pytest.mark.ray
def test_what_a_cell_refuses_is_told_as_it_is(address: str, tmp_path: Path) -> None:
    recipe = cells.load(recipe_in(tmp_path))
    job = ablation.Job(recipe, cells.cells_of(recipe)[0], 0, None, str(tmp_path / "elsewhere"))
    said: list[str] = []
    with pytest.raises(WinnowError, match=r"sees no workspace at .*elsewhere") as caught:
        list(cluster.on_ray(
            [job], ablation.run_cell, lambda job: "one", address=address, resources=Resources(cpus=0.5), gpus=1,
            say=said.append,
        ))  # fmt: skip
    assert type(caught.value) is WinnowError and said == []


@pytest.mark.ray
def test_a_cluster_too_small_for_a_cell_is_told(address: str) -> None:
    import ray

    said: list[str] = []
    ray.init(address=address, logging_level="warning")
    try:
        cluster._warn(ray.nodes(), {"CPU": 2, "GPU": 8}, said.append)
        cluster._warn(ray.nodes(), {"CPU": 1, "GPU": 0}, said.append)
    finally:
        ray.shutdown()
    assert said == ["No machine of the cluster has 2 CPU and 8 GPU, which a cell takes: cells wait until one joins."]


@pytest.mark.ray
def test_no_cluster_at_the_address() -> None:
    with pytest.raises(WinnowError, match=r"No Ray cluster at 127\.0\.0\.1:1"):
        list(cluster.on_ray(
            [], ablation.run_cell, str, address="127.0.0.1:1", resources=Resources(), gpus=1, say=print
        ))  # fmt: skip


def test_without_ray_the_command_that_installs_it_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WinnowError, match=r"pip install 'winnow\[ray\]'"):
        ablation.ablate(cells.load(recipe_in(tmp_path)), workspace=tmp_path / "w", on="ray")
    assert not (tmp_path / "w" / "versions").exists()  # before anything was built


def test_other_places_are_refused(tmp_path: Path) -> None:
    recipe = cells.load(recipe_in(tmp_path))
    for on in ("dask", "ray:", "rays"):
        with pytest.raises(WinnowError, match=r"Say ray, or ray:ADDRESS"):
            ablation.ablate(recipe, workspace=tmp_path / "w", on=on)
    with pytest.raises(WinnowError, match="`resources` of the recipe decides"):
        ablation.ablate(recipe, workspace=tmp_path / "w", jobs=2, on="ray")
    assert not (tmp_path / "w").exists()


def test_a_recipe_error_comes_whole_from_another_process() -> None:
    import pickle

    error = RecipeError([Problem("it is wrong", file="a.yaml", line=3)], what="training recipe")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.problems == error.problems
