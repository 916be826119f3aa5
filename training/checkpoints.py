"""Checkpoints: a folder that transformers and vLLM load, and inside it all that a run needs to go on bit for bit.

    checkpoints/step-000500/
      config.json  model.safetensors  tokenizer…  preprocessor…    the model in Hugging Face format (or its adapter)
      trainer/     float32 weights and optimizer in torch's distributed format, which any number of processes can read;
                   run.json: step and data position; rank-<n>.pt: random generators of each process

A checkpoint is written beside, fsynced and renamed: what a killed process leaves is never taken for one.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from curation import store
from schemas.errors import WinnowError
from schemas.training import Saving
from training.models import Trainee, world
from training.tokens import Encoder

COPIED = (
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "chat_template.jinja",
    "chat_template.json", "generation_config.json",
)  # fmt: skip


def save(
    folder: Path, step: int, trainee: Trainee, optimizer: Any, run: dict[str, Any], encoder: Encoder, place: str, *,
    dtype: torch.dtype, keep: int,
) -> Path:  # fmt: skip
    """Write step `step` below `folder`, and remove what is older than the newest `keep`. Called by every process."""
    rank, _ = world()
    target, beside = folder / f"step-{step:06d}", folder / f".step-{step:06d}.part"
    if rank == 0:
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "trainer").mkdir(parents=True)
    _wait()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process: as meant
        dcp.save(_state(trainee, optimizer), checkpoint_id=beside / "trainer", no_dist=not dist.is_initialized())
    torch.save(_generators(), beside / "trainer" / f"rank-{rank}.pt")
    full = get_model_state_dict(trainee, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        export(beside, trainee.model, {k.removeprefix("model."): v for k, v in full.items()}, encoder, place, dtype)
        store.write_json(beside / "trainer" / "run.json", run)
    _wait()
    if rank == 0:
        store.fsync_tree(beside)
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        store.fsync_folder(folder)
        for old in complete(folder)[:-keep]:
            shutil.rmtree(old)
    _wait()
    return target


def dtype_of(saving: Saving, precision: str) -> torch.dtype:
    """Of the exported weights."""
    half = saving.dtype == "bfloat16" or (saving.dtype == "as_trained" and precision == "bf16")
    return torch.bfloat16 if half else torch.float32


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / "trainer").is_dir())


def read_run(checkpoint: Path) -> dict[str, Any]:
    return dict(store.read_json(checkpoint / "trainer" / "run.json"))


def restore(checkpoint: Path, trainee: Trainee, optimizer: Any) -> bool:
    """Weights, optimizer and random generators as they were. False where this process has no generators there, because
    the run had fewer processes: dropout then draws anew."""
    state = _state(trainee, optimizer)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(state, checkpoint_id=checkpoint / "trainer", no_dist=not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise WinnowError(
            f"The checkpoint {checkpoint} cannot be read: {str(error).splitlines()[0]}\n"
            "Remove its folder: the run goes on from the one before."
        ) from error
    set_state_dict(
        trainee, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=_OWN
    )
    mine = checkpoint / "trainer" / f"rank-{world()[0]}.pt"
    if not mine.exists():
        return False
    _set_generators(torch.load(mine, weights_only=True))
    return True


_OWN = StateDictOptions(ignore_frozen_params=True, strict=False)


def _state(trainee: Trainee, optimizer: Any) -> dict[str, Any]:
    model, optim = get_state_dict(trainee, optimizer, options=_OWN)
    return {"model": model, "optimizer": optim}


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _generators() -> dict[str, Any]:
    kind, words, at, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(words).tolist(), at, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_generators(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, np.array(words, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def export(folder: Path, model: Any, weights: dict[str, Any], encoder: Encoder, place: str, dtype: torch.dtype) -> None:
    """Write a model in Hugging Face format: weights (or the adapter), config, tokenizer and image processor."""
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    adapter = model.__dict__.get("adapter")
    if adapter is not None:
        prefix = "base_model.model."
        adapter.save_pretrained(folder, state_dict={prefix + name: tensor for name, tensor in weights.items()})
    else:
        if model.config.get_text_config().tie_word_embeddings or model.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        kept = model.config.dtype
        model.config.dtype = dtype
        model.save_pretrained(folder, state_dict=weights)
        model.config.dtype = kept
    encoder.tokenizer.save_pretrained(folder)
    for name in COPIED:
        if (Path(place) / name).is_file() and not (folder / name).exists():
            shutil.copyfile(Path(place) / name, folder / name)
    if encoder.processor is not None:
        _write_sizes(folder, encoder)


def _write_sizes(folder: Path, encoder: Encoder) -> None:
    """The limits on pictures that training used, where whoever loads the model will look for them."""
    assert encoder.processor is not None
    whole = folder / "processor_config.json"
    known = json.loads(whole.read_text()) if whole.is_file() else {}
    if "image_processor" in known:
        known["image_processor"]["size"] = dict(encoder.processor.size)
        whole.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    else:
        encoder.processor.save_pretrained(folder)
