"""Exactness of whole runs: any split of a step, any number of processes or workers, killed and taken up again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Bench, Plan, apart, furthest, image_rows, lines, plan_in, same, text_rows, weights
from training.sft import train

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5_vl"])
def test_gradients_do_not_depend_on_the_split_of_a_step(models: Any, kind: str) -> None:
    bench = Bench(models(kind))
    rows = text_rows(9) if kind == "qwen2" else image_rows(9, every=3)
    _, whole = bench.run(bench.batch(rows))
    for cuts in ([[0, 1, 2, 3, 4, 5, 6, 7], [8]], [[8, 3], [0, 5, 1], [2, 4], [6, 7]], [[n] for n in range(9)]):
        _, split = bench.run(*[bench.batch([rows[n] for n in cut]) for cut in cuts])
        assert apart(whole, split) < 1e-6
    # The negative control: a mean of means is another gradient.
    means = [bench.run(bench.batch([rows[n]]))[1] for n in range(9)]
    assert apart(whole, {name: sum(m[name] for m in means) / 9 for name in whole}) > 1e-3


def test_recomputed_activations_change_nothing(plan: Plan, tmp_path: Path) -> None:
    rows = image_rows(12, every=2)
    found = [
        train(plan(rows, "qwen2_5_vl", name, activation_checkpointing=on), workspace=tmp_path / ".winnow", quiet=True)
        for name, on in (("without", False), ("with", True))
    ]
    assert furthest(*(weights(one.checkpoint) for one in found)) < 1e-6


def test_compiled_layers_change_nothing(plan: Plan, tmp_path: Path) -> None:
    rows = text_rows(4, longest=12)
    found = [
        train(
            plan(rows, name=name, compile=on, steps=1, batch={"packs": 1}), workspace=tmp_path / ".winnow", quiet=True
        )
        for name, on in (("eager", False), ("compiled", True))
    ]
    assert furthest(*(weights(one.checkpoint) for one in found)) < 1e-6


def test_a_run_goes_on_bit_for_bit(plan: Plan, tmp_path: Path) -> None:
    """Ten steps at once, or four and six in another folder with other workers: the same weights, metrics and rows.
    Dropout is on, so the random generators matter."""
    rows = text_rows(60)
    options: dict[str, Any] = {"steps": 10, "save": {"every": 4, "keep": 9}}
    drop = _with_dropout(plan, tmp_path)
    whole = train(drop(rows, **options), workspace=tmp_path / ".winnow", quiet=True)
    _forget_after(whole.folder, 4)
    half = train(drop(rows, **options, batch={"workers": 0}), workspace=tmp_path / ".winnow", quiet=True)
    first, again = (lines(f / "metrics.jsonl") for f in (whole.folder.with_name("kept"), half.folder))
    assert [line["loss"] for line in first] == [line["loss"] for line in again]
    assert same(weights(whole.folder.with_name("kept") / "checkpoints" / "step-000010"), weights(half.checkpoint))
    # The negative control: without the generators, dropout draws other units.
    _forget_after(half.folder, 4)
    (half.folder / "checkpoints" / "step-000004" / "trainer" / "rank-0.pt").unlink()
    other = train(drop(rows, **options), workspace=tmp_path / ".winnow", quiet=True)
    assert not same(weights(whole.folder.with_name("kept") / "checkpoints" / "step-000010"), weights(other.checkpoint))


def _with_dropout(plan: Plan, tmp_path: Path) -> Plan:
    import json

    def make(rows: list[dict], **changes: Any) -> Any:
        made = plan(rows, **changes)
        folder = tmp_path / "dropout"
        if not folder.exists():
            shutil.copytree(made.recipe.model.path, folder)
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3}))
        return plan(rows, **changes, model={"path": str(folder)})

    return make


def _forget_after(folder: Path, step: int) -> None:
    """Keep a copy of a run as `kept`, and take it back to a checkpoint."""
    if not folder.with_name("kept").exists():
        shutil.copytree(folder, folder.with_name("kept"))
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("streaming", [False, True])
def test_data_workers_change_nothing(plan: Plan, tmp_path: Path, streaming: bool) -> None:
    rows = image_rows(20, every=2)
    found = [
        train(
            plan(rows, "qwen2_5_vl", f"workers{n}", batch={"workers": n, "streaming": streaming}),
            workspace=tmp_path / ".winnow",
            quiet=True,
        )
        for n in (0, 2)
    ]
    assert same(*(weights(one.checkpoint) for one in found))


@pytest.mark.faults
@pytest.mark.parametrize("streaming", [False, True])
def test_a_killed_run_ends_as_if_it_had_not_been(plan: Plan, tmp_path: Path, streaming: bool) -> None:
    """kill -9 at any moment after the first checkpoint, and another number of data workers behind it."""
    rows = text_rows(80)
    changes: dict[str, Any] = {"steps": 40, "save": {"every": 5}, "batch": {"streaming": streaming, "workers": 1}}
    whole = train(plan(rows, name="whole", **changes), workspace=tmp_path / ".winnow", quiet=True)
    killed = plan(rows, name="killed", **changes)
    folder = tmp_path / ".winnow" / "runs" / "killed"
    command = [sys.executable, "-m", "training.sft", str(killed.path), "-w", str(tmp_path / ".winnow")]
    started = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    (folder / "checkpoints" / ".step-000099.part" / "trainer").mkdir(parents=True)  # what a death in a save leaves
    assert not (folder / "checkpoints" / "step-000040").exists(), "it was too fast to be killed"
    changes["batch"]["workers"] = 1 if streaming else 2
    again = train(plan(rows, name="killed", **changes), workspace=tmp_path / ".winnow", quiet=True)
    assert same(weights(whole.checkpoint), weights(again.checkpoint))
    losses = [[line["loss"] for line in lines(one.folder / "metrics.jsonl")] for one in (whole, again)]
    assert losses[0] == losses[1] and len(losses[0]) == 40


# ------------------------------------------------------------------------------------------------------- two processes

SHARED: dict[str, Any] = {"steps": 5, "batch": {"packs": 4, "max_tokens": 200}, "optimizer": {"clip": 0.1}}
SHORT: dict[str, Any] = {"steps": None, "epochs": 1, "batch": {"packs": 4, "max_tokens": 200}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # Ragged packs, accumulation, clipping, tied embeddings; and pictures in few packs, so that one process often has
    # none while the other has some.
    "qwen2": ("qwen2", SHARED),
    "qwen2_5_vl": ("qwen2_5_vl", SHARED),
    "qwen3_vl": ("qwen3_vl", SHARED),
    "recomputed": ("qwen2_5_vl", {**SHARED, "activation_checkpointing": True}),
    "short": ("qwen2", SHORT),  # the last step has fewer packs than there are processes
    "bf16": ("qwen2", {**SHARED, "precision": "bf16", "save": {"dtype": "float32"}}),
    "lora": ("qwen2", {**SHARED, "model": {"lora": {"rank": 4}}}),
    "asked": ("qwen2", {**SHARED, "evaluation": {"every": 5, "limit": 7, "max_new_tokens": 4, "batch_size": 2}}),
}
RUN_ALL = """
import sys
from training.recipe import load_sft_recipe
from training import sft
import torch
torch.set_num_threads(1)
for path in sys.argv[2:]:
    sft.train(load_sft_recipe(path, workspace=sys.argv[1]), workspace=sys.argv[1], quiet=True)
sft.leave()
"""


def case(name: str, plan: Plan, run: str) -> Any:
    kind, changes = CASES[name]
    rows = text_rows(11 if name == "short" else 40) if kind == "qwen2" else image_rows(40, every=7)
    if "evaluation" in changes:
        rows = [{**row, "answer": row["messages"][1]["content"]} for row in rows]
        changes = {**changes, "evaluation": {**changes["evaluation"], "data": {"parquet": f"{run}.parquet"}}}
    return plan(rows, kind, run, **changes)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, models: Any) -> Path:
    """All cases with FSDP2 over two gloo processes, in one launch. Results are judged, not the exit code: gloo now and
    then aborts while it closes."""
    folder = tmp_path_factory.mktemp("both")
    plan = plan_in(folder, models)
    paths = [str(case(name, plan, f"two-{name.replace('_', '-')}").path) for name in CASES]
    script = folder / "run_all.py"
    script.write_text(RUN_ALL)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_port()),
        str(script), str(folder / ".winnow"), *paths,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    unfinished = [p for p in paths if not (folder / ".winnow" / "runs" / Path(p).stem / "report.html").exists()]
    assert not unfinished, done.stderr[-4000:]
    return folder


def _port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("bf16", "lora")])
def test_two_processes_with_fsdp_train_as_one(both: Path, plan: Plan, tmp_path: Path, name: str) -> None:
    one = train(case(name, plan, "one"), workspace=tmp_path / ".winnow", quiet=True)
    two = both / ".winnow" / "runs" / f"two-{name.replace('_', '-')}"
    assert furthest(weights(one.checkpoint), weights(two / "checkpoints" / one.checkpoint.name)) < 1e-5
    mine, theirs = (lines(folder / "metrics.jsonl") for folder in (one.folder, two))
    for a, b in zip(mine, theirs, strict=True):
        if "loss" not in a:
            continue
        assert abs(a["loss"] - b["loss"]) < 1e-5 and abs(a["grad_norm"] - b["grad_norm"]) < 1e-4
        assert (a["tokens"], a["targets"], a["samples"]) == (b["tokens"], b["targets"], b["samples"])
        assert a["loss_by_source"] == pytest.approx(b["loss_by_source"], abs=1e-5)


def test_a_short_last_step_loses_no_sample(both: Path) -> None:
    assert sum(line["samples"] for line in lines(both / ".winnow" / "runs" / "two-short" / "metrics.jsonl")) == 11


def test_what_two_processes_saved_one_takes_up(both: Path, models: Any) -> None:
    """The sharded state knows no number of processes."""
    kind, changes = CASES["qwen2_5_vl"]
    longer = plan_in(both, models)(image_rows(40, every=7), kind, "two-qwen2-5-vl", **{**changes, "steps": 6})
    result = train(longer, workspace=both / ".winnow", quiet=True)
    assert result.checkpoint.name == "step-000006"
    assert [line["step"] for line in lines(result.folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_two_processes_answer_as_one(both: Path, plan: Plan, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    one = train(case("asked", plan, "one"), workspace=tmp_path / ".winnow", quiet=True)
    two = both / ".winnow" / "runs" / "two-asked"
    mine, theirs = (pq.read_table(f / "samples" / "step-000005.parquet").to_pylist() for f in (one.folder, two))
    assert len(mine) == 7 and [row["response"] for row in mine] == [row["response"] for row in theirs]


def test_bfloat16_keeps_weights_in_float32_and_stays_near(both: Path) -> None:
    runs = both / ".winnow" / "runs"
    ours = weights(runs / "two-bf16" / "checkpoints" / "step-000005")
    assert all(tensor.dtype == torch.float32 for tensor in ours.values())
    full, half = (
        [line["loss"] for line in lines(runs / f"two-{name}" / "metrics.jsonl")] for name in ("qwen2", "bf16")
    )
    assert half == pytest.approx(full, abs=0.02) and half != full
    assert any((tensor.bfloat16().float() != tensor).any() for tensor in ours.values())


def test_adapters_are_trained_alone_and_load_with_peft(both: Path, models: Any) -> None:
    import peft
    import transformers

    folder = both / ".winnow" / "runs" / "two-lora"
    base = transformers.AutoModelForCausalLM.from_pretrained(models("qwen2"))
    adapted = peft.PeftModel.from_pretrained(base, folder / "checkpoints" / "step-000005")
    changed = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert changed and all(p.abs().max() > 0 for p in changed)
    assert not (folder / "checkpoints" / "step-000005" / "model.safetensors").exists()
    losses = [line["loss"] for line in lines(folder / "metrics.jsonl")]
    assert losses[0] == pytest.approx(lines(folder.with_name("two-qwen2") / "metrics.jsonl")[0]["loss"], abs=1e-5)
