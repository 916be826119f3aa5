"""What a run says of itself: metrics.jsonl, a progress line, TensorBoard and others, and the figures between.

Losses are kept per source of the mixture, since that is what a change to the data moves. Sums stay on the device until
a line is written: reading them every step would make the device wait.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor

from curation.console import duration
from schemas.errors import WinnowError
from training.batches import Batch

LINE_SECONDS = 10.0
"""How often a progress line is written where nobody watches a terminal."""


@dataclass
class Meter:
    """Sums over the steps since the last line, of this process."""

    tokens: int = 0
    targets: int = 0
    samples: int = 0
    capacity: int = 0
    flops: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    _losses: list[tuple[list[str], Tensor, Tensor]] = field(default_factory=list)

    def add(self, batch: Batch, nll: Tensor, *, capacity: int, flops: float) -> None:
        """One micro-batch: nll of its targets [N], and how many tokens would have fitted."""
        self.tokens += sum(batch.lengths) if batch.row_ids else 0
        self.targets += len(batch.targets)
        self.samples += len(batch.row_ids)
        self.capacity += capacity
        self.flops += flops
        count = max(1, len(batch.sources))
        sums = torch.zeros(count, dtype=torch.float64, device=nll.device).index_add_(0, batch.owner, nll.double())
        sizes = torch.bincount(batch.owner, minlength=count)
        self._losses.append((batch.sources, sums, sizes))

    def total(self) -> dict[str, Any]:
        """Sums over all processes: of this dataclass, `seconds` and `sources` -> (nll, targets)."""
        by_source: dict[str, list[float]] = {}
        for sources, sums, sizes in self._losses:
            for source, nll, size in zip(sources, sums.tolist(), sizes.tolist(), strict=False):
                held = by_source.setdefault(source, [0.0, 0])
                held[0] += nll
                held[1] += size
        own = {
            "tokens": self.tokens, "targets": self.targets, "samples": self.samples, "capacity": self.capacity,
            "flops": self.flops, "sources": by_source, "seconds": time.perf_counter() - self.began,
            "memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        }  # fmt: skip
        if not dist.is_initialized():
            return own
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, own)
        merged: dict[str, list[float]] = {}
        for one in gathered:
            for source, (nll, size) in one["sources"].items():
                held = merged.setdefault(source, [0.0, 0])
                held[0] += nll
                held[1] += size
        added = {
            key: sum(one[key] for one in gathered) for key in ("tokens", "targets", "samples", "capacity", "flops")
        }
        most = {key: max(one[key] for one in gathered) for key in ("seconds", "memory")}
        return {**added, **most, "sources": merged}


def line_of(
    total: Mapping[str, Any], *, step: int, lr: float, norm: float, processes: int, peak: float | None
) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    seconds = max(total["seconds"], 1e-9)
    sources = {name: nll / size for name, (nll, size) in sorted(total["sources"].items()) if size}
    nll, size = (sum(held[n] for held in total["sources"].values()) for n in (0, 1))
    return {
        "step": step,
        "loss": nll / max(size, 1),
        "lr": lr,
        "grad_norm": norm,
        "tokens": total["tokens"],
        "targets": total["targets"],
        "samples": total["samples"],
        "fill": total["tokens"] / max(total["capacity"], 1),
        "tokens_per_second": total["tokens"] / seconds,
        "tflops": total["flops"] / seconds / 1e12,
        "mfu": None if peak is None else total["flops"] / seconds / (peak * processes),
        "memory_gb": total["memory"] / 1e9 or resident() / 1e9,
        "seconds": seconds,
        "loss_by_source": sources,
    }


def progress_of(line: Mapping[str, Any], steps: int, left: float) -> str:
    """`step 120 of 4,300  loss 0.8123  lr 4.9e-05  12,300 tokens/s  fill 99.8 %  2 h 3 min left`"""
    mfu = "" if line["mfu"] is None else f"  MFU {100 * line['mfu']:.1f} %"
    return (
        f"step {line['step']:,} of {steps:,}  loss {line['loss']:.4f}  lr {line['lr']:.1e}  "
        f"{line['tokens_per_second']:,.0f} tokens/s  fill {100 * line['fill']:.1f} %{mfu}  {duration(left)} left"
    )


def resident() -> int:
    """Bytes that this process holds in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# -------------------------------------------------------------------------------------------------------------- writers


class Log:
    """Writes lines to metrics.jsonl and wherever else the recipe says. Only the first process has one."""

    def __init__(self, folder: Path, to: Sequence[str], config: Mapping[str, Any], *, start: int, quiet: bool = False):
        self._path = folder / "metrics.jsonl"
        self._stream: TextIO | None = None if quiet else sys.stderr
        self._spoken = 0.0
        # What a killed run wrote behind its last checkpoint will be written again.
        kept = [line for line in read_lines(self._path) if line["step"] <= start]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._others = [_writer(name, folder, config, start) for name in to]

    def write(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        flat = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
        for key, value in line.items():  # figures by source, held-out figures, seconds by phase
            if isinstance(value, dict):
                flat |= {f"{key}/{name}": one for name, one in value.items() if isinstance(one, int | float)}
        for writer in self._others:
            writer(flat, line["step"])

    def progress(self, text: str, *, last: bool) -> None:
        """A line that is written over the one before on a terminal, and now and then elsewhere."""
        if self._stream is None:
            return
        now, watched = time.monotonic(), self._stream.isatty()
        if not (last or watched or now - self._spoken >= LINE_SECONDS):
            return
        self._spoken = now
        end = "\n" if last or not watched else ""
        print(f"\r\x1b[2K{text}" if watched else text, end=end, file=self._stream, flush=True)

    def say(self, text: str) -> None:
        if self._stream is not None:
            print(f"\r\x1b[2K{text}" if self._stream.isatty() else text, file=self._stream, flush=True)

    def close(self) -> None:
        for writer in self._others:
            writer(None, 0)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a torn last one is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _writer(name: str, folder: Path, config: Mapping[str, Any], start: int) -> Any:
    """A function (figures, step), or (None, _) at the end."""
    try:
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(folder / "tensorboard", purge_step=start + 1)
            return lambda flat, step: board.close() if flat is None else _to_board(board, flat, step)
        if name == "wandb":
            import wandb as service
        else:
            import trackio as service
    except ImportError as error:
        raise WinnowError(
            f"`log: {{to: [{name}]}}` needs {error.name}.\nInstall it (pip install {name}), or leave it out."
        ) from error
    service.init(project="winnow", name=str(config["name"]), config=dict(config), resume="allow")
    return lambda flat, step: service.finish() if flat is None else service.log(flat, step=step)


def _to_board(board: Any, flat: Mapping[str, Any], step: int) -> None:
    for name, value in flat.items():
        board.add_scalar(name, value, step)
