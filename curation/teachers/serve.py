"""A vLLM server for a model, with settings that fit the machine: what `winnow serve-teacher` starts.

The one choice that matters on several GPUs is how many of them share a copy of the model: as few as its weights fit,
since every further copy answers as much again. The weights are to take half of the memory at most; the rest holds the
requests that are under way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curation.doctor import find_gpus
from curation.engines.local import machine_memory
from schemas.errors import WinnowError

WEIGHTS_SHARE = 0.5


@dataclass(frozen=True)
class Command:
    """What is to be run."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    """Variables beside those that there are."""
    url: str

    def text(self) -> str:
        import shlex

        return " ".join([*(f"{k}={v}" for k, v in self.environment.items()), shlex.join(self.words)])

    def recipe(self, model: str) -> str:
        """What stands in a recipe to ask it."""
        return f"teacher: {{kind: openai_server, url: {self.url}, model: {model}}}"

    def become(self) -> None:
        """Replace this process by the server. Returns never."""
        os.execvpe(self.words[0], self.words, {**os.environ, **self.environment})


def command(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tensor_parallel: int | None = None,
    data_parallel: int | None = None,
    max_model_len: int | None = None,
    rollouts: bool = False,
    further: Sequence[str] = (),
) -> Command:
    """The command that serves a model (a folder or a repo id). Raises WinnowError where vLLM is not installed.

    rollouts  for a trainer: token ids in and out, log-probabilities of what is drawn from, weights that can be replaced.
              Whoever reaches such a server can have it load any file.
    """
    import importlib.util

    from curation.teachers.vllm_offline import INSTALL

    if importlib.util.find_spec("vllm") is None:
        raise WinnowError(f"A teacher is served by vLLM, and it is not installed here.\nInstall it: {INSTALL}")
    gpus = find_gpus()
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", name]
    words += ["--served-model-name", model, "--host", host, "--port", str(port)]
    environment: dict[str, str] = {}
    if gpus:
        sharing = tensor_parallel or shared_by(weights(Path(model)), [memory(gpu) for gpu in gpus])
        copies = data_parallel or max(1, len(gpus) // sharing)
        words += ["--tensor-parallel-size", str(sharing)]
        words += ["--data-parallel-size", str(copies)] if copies > 1 else []
    else:
        # vLLM would take 4 GB for requests whatever the machine has, and compile for minutes what a CPU runs once.
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, min(16, int(machine_memory() / 4 / 2**30))))
        # Prompts are read whole: see cpu_settings of curation/teachers/vllm_offline.py.
        words += ["--enforce-eager", "--no-enable-chunked-prefill"]
    words += ["--max-model-len", str(max_model_len)] if max_model_len else []
    if rollouts:
        environment["VLLM_SERVER_DEV_MODE"] = "1"
        words += ["--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    words += ["--enable-prefix-caching", *further]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return Command(tuple(words), environment, f"http://{shown}:{port}/v1")


def weights(folder: Path) -> int | None:
    """Bytes of the weights of a model in a folder; None for a repo id, whose files nobody has seen yet."""
    if not folder.is_dir():
        return None
    return sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")) or None


def memory(gpu: str) -> int:
    """Bytes that a line of find_gpus tells, like `NVIDIA H100, 81559 MiB`."""
    amount = gpu.rpartition(",")[2].split()
    return int(amount[0]) << 20 if len(amount) == 2 and amount[0].isdigit() else 0


def shared_by(weights: int | None, memories: Sequence[int]) -> int:
    """How many of these GPUs should share one copy: a power of two, all of them where nothing is known."""
    most = 1 << (len(memories).bit_length() - 1)
    if weights is None or not min(memories):
        return most
    sharing = 1
    while sharing < most and weights > WEIGHTS_SHARE * sharing * min(memories):
        sharing *= 2
    return sharing
