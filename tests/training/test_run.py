"""A run as a person meets it: its folder, its faults, its report, and what it refuses to go on with."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from schemas.errors import WinnowError
from schemas.training import Optimizer
from tests.training.conftest import Plan, image_rows, lines, plan_in, text_rows
from training import sft, tiny
from training.plots import plot
from training.sft import learning_rate, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, models: Any) -> Path:
    """A run over rows of two sources, one of them too long, with an evaluation."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [{**row, "answer": str(n)} for n, row in enumerate(text_rows(30))]
    rows[4]["messages"][1]["content"] = "far too long " * 200
    rows[5]["messages"] = rows[5]["messages"][:1]
    asked = {"data": {"parquet": "run.parquet"}, "every": 2, "limit": 5, "max_new_tokens": 6, "batch_size": 2}
    plan = plan_in(folder, models)(
        rows, evaluation=asked, save={"every": 2}, log={"to": ["tensorboard"]}, optimizer={"warmup": 1}
    )
    return train(plan, workspace=folder / ".winnow", quiet=True).folder


def test_the_manifest_names_what_it_was_trained_on_and_what_was_left_out(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["state"] == "finished" and manifest["step"] == 4 and manifest["checkpoint"] == "step-000004"
    assert (
        list(manifest["data"][0]["files"]) == ["run.parquet"] and len(manifest["data"][0]["files"]["run.parquet"]) == 64
    )
    assert manifest["counts"] == {"samples": 28, "left_out": {"no_target": 1, "overlong": 1}}
    assert manifest["recipe"] == (finished / "recipe.yaml").read_text() and manifest["libraries"]["torch"]
    left = {line["row_id"]: line for line in lines(finished / "ledger.jsonl")}
    assert left["row0004"]["reason"] == "overlong" and "tokens" in left["row0004"]["sentence"]
    assert left["row0005"]["reason"] == "no_target" and len(left) == 2


def test_losses_are_told_per_source_and_add_up(finished: Path) -> None:
    steps = [line for line in lines(finished / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {name for line in steps for name in line["loss_by_source"]} == {"even", "odd"}
    for line in steps:
        losses = line["loss_by_source"].values()
        assert min(losses) - 1e-9 <= line["loss"] <= max(losses) + 1e-9
        assert line["targets"] < line["tokens"] <= 512 and 0.5 < line["fill"] <= 1 and line["memory_gb"] > 0.01
        assert line["mfu"] is None and line["tflops"] > 0


def test_answers_are_judged_and_kept_as_a_table(finished: Path) -> None:
    tables = [pq.read_table(finished / "samples" / f"step-{step:06d}.parquet").to_pylist() for step in (2, 4)]
    assert all(len(rows) == 5 for rows in tables)
    first = tables[0][0]
    assert (first["row_id"], first["prompt"], first["gold"]) == ("row0000", "Say 0.", "0") and first["tokens"] <= 6
    assert {row["state"] for row in tables[1]} <= {"correct", "incorrect", "no_answer", "truncated", "undecided"}
    told = [line["evaluation"] for line in lines(finished / "metrics.jsonl") if "evaluation" in line]
    assert len(told) == 2 and set(told[0]) >= {"accuracy", "finished", "answered", "tokens", "accuracy/even"}


def test_the_report_is_one_file_with_curves_and_answers(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.count("<polyline") >= 6 and "Loss by source" in page and "Held-out accuracy" in page
    assert "row0000" in page and "run.parquet" in page and "<script" not in page and "http" not in page


def test_tensorboard_has_the_curves(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert "loss_by_source/odd" in events.Tags()["scalars"] and "evaluation/accuracy" in events.Tags()["scalars"]


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5_vl", "qwen3_vl"])
def test_a_checkpoint_is_a_model_that_transformers_loads(plan: Plan, tmp_path: Path, kind: str) -> None:
    """Loaded by its own class, it computes what the trainer computed last; its tokenizer and its pictures' limits are
    the trained ones."""
    import transformers

    rows = text_rows(20) if kind == "qwen2" else image_rows(20)
    made = plan(rows, kind, batch={"max_pixels": 48 * 48} if kind != "qwen2" else {})
    seen: dict[str, torch.Tensor] = {}

    def watch(*arguments: Any, **options: Any) -> Path:
        seen.update({name: p.detach().clone() for name, p in arguments[2].model.named_parameters()})
        return save(*arguments, **options)

    save = sft.checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft.checkpoints, "save", watch)
        folder = train(made, workspace=tmp_path / ".winnow", quiet=True).checkpoint
    loader = transformers.AutoModelForCausalLM if kind == "qwen2" else transformers.AutoModelForImageTextToText
    model, report = loader.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(p, seen[name]) for name, p in model.named_parameters())
    again = sft.Encoder(str(folder))
    first = sft.Encoder(made.model_place, None, None, 48 * 48 if kind != "qwen2" else None)
    assert again.digest == first.digest


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_a_checkpoint_is_a_model_that_vllm_loads(plan: Plan, tmp_path: Path) -> None:
    """It answers as transformers does, token for token, without anything beside the checkpoint."""
    pytest.importorskip("vllm", reason="there is no vLLM here: python tests/vllm_environment.py")
    import transformers

    # Heads of 32: vLLM has no attention for smaller ones on a CPU.
    made = plan(text_rows(40), model={"path": str(tiny.make(tmp_path / "model", "qwen2", weights=7, hidden=128))})
    folder = train(made, workspace=tmp_path / ".winnow", quiet=True).checkpoint
    chat = [{"role": "user", "content": "Say 7."}]
    told = tmp_path / "told.json"
    code = f"""
import json
from pathlib import Path
from curation.teachers.vllm_offline import VllmOffline, open_llm
from vllm import SamplingParams
engine = {{"enforce_eager": True, "distributed_executor_backend": "uni"}}
llm = open_llm(VllmOffline(model={str(folder)!r}, dtype="float32", max_model_len=128, engine=engine), Path("."))
made = llm.chat({chat!r}, SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)[0].outputs[0]
Path({str(told)!r}).write_text(json.dumps(list(made.token_ids)))
"""
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env={**os.environ, **small, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    own = model.generate(**asked, max_new_tokens=16, do_sample=False)[0, asked["input_ids"].shape[1] :].tolist()
    assert json.loads(told.read_text()) == own


def test_kernels_that_need_a_gpu_say_so(plan: Plan, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(WinnowError, match="needs a GPU"):
        train(plan(text_rows(4), model={"kernels": "liger"}), workspace=tmp_path / ".winnow", quiet=True)


def test_a_run_is_not_done_twice_and_may_be_prolonged(plan: Plan, tmp_path: Path) -> None:
    first = train(plan(text_rows(20), optimizer={"schedule": "constant"}), workspace=tmp_path / ".winnow", quiet=True)
    before = (first.folder / "metrics.jsonl").read_text()
    again = train(plan(text_rows(20), optimizer={"schedule": "constant"}), workspace=tmp_path / ".winnow", quiet=True)
    assert again.step == 4 and (first.folder / "metrics.jsonl").read_text() == before
    longer = plan(text_rows(20), optimizer={"schedule": "constant"}, steps=7)
    assert train(longer, workspace=tmp_path / ".winnow", quiet=True).step == 7
    assert [line["step"] for line in lines(first.folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7]


def test_another_recipe_or_other_data_are_not_gone_on_with(plan: Plan, tmp_path: Path) -> None:
    train(plan(text_rows(20)), workspace=tmp_path / ".winnow", quiet=True)
    with pytest.raises(WinnowError, match=r"optimizer.lr: 0.001 -> 0.1[\s\S]*--fresh"):
        train(plan(text_rows(20), optimizer={"lr": 0.1}), workspace=tmp_path / ".winnow", quiet=True)
    with pytest.raises(WinnowError, match="is not what it was begun with"):
        train(plan(text_rows(21), steps=6), workspace=tmp_path / ".winnow", quiet=True)
    fresh = train(plan(text_rows(21), optimizer={"lr": 0.1}), workspace=tmp_path / ".winnow", quiet=True, fresh=True)
    assert fresh.step == 4


def test_only_the_newest_checkpoints_stay(plan: Plan, tmp_path: Path) -> None:
    result = train(plan(text_rows(20), save={"every": 1, "keep": 2}), workspace=tmp_path / ".winnow", quiet=True)
    assert sorted(p.name for p in (result.folder / "checkpoints").iterdir()) == ["step-000003", "step-000004"]


# --------------------------------------------------------------------------------------------------------------- faults


def test_a_loss_that_is_no_number_stops_with_the_rows_before_the_update(plan: Plan, tmp_path: Path) -> None:
    """One token's embedding is not a number; only the rows that have it are named."""
    from training import tiny

    folder = tiny.make(tmp_path / "poisoned", weights=1, hidden=32)
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Z")] = math.nan
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    rows = text_rows(12)
    rows[7]["messages"][1]["content"] = "a Z in it"
    made = plan(rows, model={"path": str(folder)}, save={"every": 1}, batch={"shuffle": False}, steps=8)
    with pytest.raises(WinnowError, match="not a number at step") as told:
        train(made, workspace=tmp_path / ".winnow", quiet=True)
    assert "row0007" in str(told.value) and "row0006" not in str(told.value)
    for checkpoint in (tmp_path / ".winnow" / "runs" / "run" / "checkpoints").glob("step-*"):
        kept = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
        assert all(p.isfinite().all() for name, p in kept.named_parameters() if "embed" not in name)


def test_a_gradient_that_is_no_number_names_the_batch(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "clip_gradient", lambda *_: math.inf)
    with pytest.raises(WinnowError, match=r"norm is inf at step 1; nothing was updated. Rows: row"):
        train(plan(text_rows(20)), workspace=tmp_path / ".winnow", quiet=True)


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5_vl"])
def test_out_of_memory_names_the_pack_and_the_setting(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def too_much(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("training.models.chunked_cross_entropy", too_much)
    rows = text_rows(20) if kind == "qwen2" else image_rows(20)
    with pytest.raises(WinnowError, match=r"Out of memory at a pack of [\d,]+ tokens") as told:
        train(plan(rows, kind), workspace=tmp_path / ".winnow", quiet=True)
    said = str(told.value)
    assert "--set batch.max_tokens=128" in said and "activation_checkpointing=true" in said and "rows " in said
    assert ("image patches" in said) == (kind != "qwen2") == ("batch.max_patches" in said)


def test_other_errors_stay_what_they_are(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("training.models.chunked_cross_entropy", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(plan(text_rows(20)), workspace=tmp_path / ".winnow", quiet=True)


def test_a_set_without_a_usable_row_is_said(plan: Plan, tmp_path: Path) -> None:
    rows = [{**row, "messages": row["messages"][:1]} for row in text_rows(3)]
    with pytest.raises(WinnowError, match="No row can be trained on: 3 no_target"):
        train(plan(rows), workspace=tmp_path / ".winnow", quiet=True)
    long = text_rows(3)
    for row in long:
        row["messages"][1]["content"] *= 500
    with pytest.raises(WinnowError, match="No sample fits into a pack"):
        train(plan(long, name="long"), workspace=tmp_path / ".winnow", quiet=True)


def test_a_damaged_checkpoint_is_named(plan: Plan, tmp_path: Path) -> None:
    first = train(plan(text_rows(20)), workspace=tmp_path / ".winnow", quiet=True)
    for part in (first.checkpoint / "trainer").glob("*.distcp"):
        part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(WinnowError, match=r"step-000004 cannot be read"):
        train(plan(text_rows(20), steps=6), workspace=tmp_path / ".winnow", quiet=True)


def test_everything_frozen_and_unknown_parts_are_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="no vision tower"):
        train(plan(text_rows(9), model={"freeze": ["vision"]}), workspace=tmp_path / ".winnow", quiet=True)


def test_frozen_parts_stay(plan: Plan, tmp_path: Path, models: Any) -> None:
    from safetensors.torch import load_file

    made = plan(image_rows(12), "qwen2_5_vl", model={"freeze": ["vision"]})
    after = load_file(train(made, workspace=tmp_path / ".winnow", quiet=True).checkpoint / "model.safetensors")
    before = load_file(models("qwen2_5_vl") / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    tower = {name for name in before if "visual" in name}
    assert {name for name in tower if "merger" in name} <= moved and not {n for n in tower if "merger" not in n} & moved


# ------------------------------------------------------------------------------------------------------------- schedule


def test_the_schedule_warms_up_and_ends_at_its_floor() -> None:
    config = Optimizer(lr=1.0, warmup=0.1, min_lr=0.1)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    linear = Optimizer(lr=1.0, warmup=4, schedule="linear")
    assert [learning_rate(linear, n, 8) for n in range(8)] == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    assert learning_rate(Optimizer(lr=2.0, warmup=0, schedule="constant"), 99, 100) == 2.0


def test_a_plot_of_one_point_and_of_values_that_are_no_numbers() -> None:
    assert "<circle" in plot("one", {"a": [(1, 2.0)]})
    assert "nan," not in plot("some", {"a": [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)]})
    assert plot("none", {"a": []}) == ""


def test_a_service_that_is_not_installed_is_named(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(WinnowError, match=r"needs wandb[\s\S]*pip install wandb"):
        train(plan(text_rows(9), log={"to": ["wandb"]}), workspace=tmp_path / ".winnow", quiet=True)


def test_the_command(plan: Plan, tmp_path: Path) -> None:
    import subprocess
    import sys

    made = plan(text_rows(20))
    winnow = [sys.executable, "-m", "curation.cli", "train", "sft", str(made.path), "-w", str(tmp_path / ".winnow")]
    root = Path(__file__).parents[2]
    checked = subprocess.run([*winnow, "--check"], capture_output=True, text=True, cwd=root)
    assert checked.returncode == 0 and "nothing is wrong" in checked.stdout
    assert not (tmp_path / ".winnow" / "runs").exists()
    wrong = subprocess.run([*winnow, "--set", "optimizer.lrr=1"], capture_output=True, text=True, cwd=root)
    assert wrong.returncode == 2 and "Did you mean `lr`?" in wrong.stderr
    done = subprocess.run([*winnow, "--set", "steps=2"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "step 2, loss" in done.stdout and "report.html" in done.stdout
    assert "20 samples" in done.stderr and "step 2 of 2" in done.stderr and "tokens/s" in done.stderr
    assert "Warning" not in done.stderr
    shutil.rmtree(tmp_path / ".winnow")
