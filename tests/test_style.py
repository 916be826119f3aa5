"""The whole tree is clean: linter, formatter, type checker, and the house's rule of who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("schemas", "reports", "curation", "training")
HEAVY = {"torch", "vllm", "ray"}
MAY_BE_HEAVY = ("training/", "curation/teachers/", "curation/engines/ray.py")


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=lambda c: " ".join(c)
)
def test_tools_are_content(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def modules() -> list[Path]:
    return sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def imported(path: Path, *, at_import_time: bool) -> set[str]:
    """Modules that a file imports: everywhere, or only in its top level (type checking left out)."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)) or (
                at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ):
                continue
            else:
                for name in ("body", "orelse", "finalbody"):
                    visit(getattr(node, name, []))
                for handler in getattr(node, "handlers", []):
                    visit(handler.body)

    visit(ast.parse(path.read_text()).body)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    package = name.split("/")[0]
    above = ORDER[ORDER.index(package) + 1 :]
    # The command line stands on top of everything, wherever its files lie.
    if not name.startswith(("curation/cli.py", "curation/commands/", "curation/chain.py")):
        upwards = {module for module in imported(path, at_import_time=False) if module.split(".")[0] in above}
        assert not upwards, f"{name} imports {upwards}"
    if name.startswith(("curation/kernels/", "curation/answers/")):
        forbidden = {
            m
            for m in imported(path, at_import_time=False)
            if m.startswith(("curation.stages", "curation.store", "curation.builder"))
        }
        assert not forbidden, f"{name} imports {forbidden}"
    if not name.startswith(MAY_BE_HEAVY):
        heavy = {module for module in imported(path, at_import_time=True) if module.split(".")[0] in HEAVY}
        assert not heavy, f"{name} imports {heavy} at import time"
