"""The processes of a run: torchrun's, or this one alone."""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from schemas.errors import WinnowError
from training import models

T = TypeVar("T")

TINY = 20_000_000
"""Parameters below which a CPU trains with one thread: more are many times slower, since they wait for each other."""


def open_process(precision: str) -> tuple[torch.device, tuple[int, int]]:
    """The device of this process, and (rank, processes); the process group where there is need of one."""
    local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if (several or precision == "bf16") and not dist.is_initialized():
        alone = {} if several else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("nccl" if cuda else "gloo", **alone)
    return device, models.world()


def mesh_of(device: torch.device) -> Any:
    return dist.device_mesh.init_device_mesh(device.type, (models.world()[1],))


def wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def total_of(value: int, device: torch.device) -> int:
    """Over all processes."""
    if not dist.is_initialized():
        return value
    total = torch.tensor(value, device=device)
    dist.all_reduce(total)
    return int(total)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def leave() -> None:
    """Close the process group. Garbage goes first: gloo aborts now and then when sharded tensors outlive it."""
    if dist.is_initialized():
        dist.barrier()
        gc.collect()
        dist.destroy_process_group()


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all of them."""
    if models.world()[1] == 1:
        return make()
    box: list[Any] = [make() if models.world()[0] == 0 else None]
    dist.broadcast_object_list(box, 0)
    return box[0]  # type: ignore[no-any-return]


def command(name: str, about: str, load: Any, train: Any, arguments: Sequence[str] | None) -> None:
    """A trainer as a program for torchrun: RECIPE [--set KEY=VALUE …] [--workspace FOLDER] [--fresh]."""
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument("recipe")
    parser.add_argument("--set", "-s", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--workspace", "-w")
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args(arguments)
    try:
        plan = load(given.recipe, overrides=given.set, workspace=given.workspace)
        result = train(plan, workspace=given.workspace, fresh=given.fresh)
        if models.world()[0] == 0:
            print(result.folder)
    except WinnowError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    leave()
