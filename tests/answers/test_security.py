"""No text from data is ever evaluated as code: the source has no such call, and the known attacks run nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import curation.answers
from curation.answers import check, check_many, explain

SOURCE = Path(curation.answers.__file__).parent
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "sympify",
    "parse_expr",
    "parse_latex",
    "latex2sympy",
    "__import__",
    "literal_eval",
    "S",
}
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "code", "runpy"}


def _called(node: ast.Call) -> str:
    return (
        node.func.id
        if isinstance(node.func, ast.Name)
        else node.func.attr
        if isinstance(node.func, ast.Attribute)
        else ""
    )


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda p: p.name)
def test_no_call_evaluates_text(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _called(node)
            of_re = (
                isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
            )
            assert name not in FORBIDDEN_CALLS or (name == "compile" and of_re), f"{path.name}:{node.lineno}: {name}"
            if name in ("Symbol", "Function", "Rational", "Integer", "Float"):
                assert path.name == "symbolic_worker.py", f"{path.name}:{node.lineno}: sympy outside the worker"
            if isinstance(node.func, ast.Attribute) and name == "system":
                raise AssertionError(f"{path.name}:{node.lineno}: a shell")
            assert not any(k.arg == "shell" for k in node.keywords), f"{path.name}:{node.lineno}: a shell"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name.split(".")[0] for a in node.names} | (
                {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
            )
            assert not names & FORBIDDEN_IMPORTS, f"{path.name}:{node.lineno}"
            if names & {"sympy", "math_verify"}:
                assert path.name == "symbolic_worker.py", f"{path.name}:{node.lineno}: only the worker loads sympy"


def test_the_worker_imports_nothing_of_this_project() -> None:
    tree = ast.parse((SOURCE / "symbolic_worker.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in ("curation", "schemas", "training", "reports")


def probes(target: Path) -> list[tuple[str, str]]:
    """Shapes that are known to run code in other graders; each would create `target`."""
    call = f"open('{target}','w').close()"
    system = f"__import__('os').system('touch {target}')"
    walk = (
        f"[c for c in ().__class__.__base__.__subclasses__() "
        f"if c.__name__=='catch_warnings'][0]()._module.__builtins__['open']('{target}','w')"
    )
    shapes = [
        system, call, walk, f"\\text{{{system}}}", f"\\operatorname{{{system}}}", f"x_{{{system}}}",
        f"\\{{{system}, 1\\}}", f"({system}, 1)",
        f"[{system}, 1]", f"x = {system}", f"{system}*\\pi", f"3.14*{system}", f"\\frac{{{system}}}{{2}}",
        f"\\sqrt{{{system}}}",
        f"1 if {system} else 2", f"lambda: {system}", f"\\begin{{pmatrix}}{system}\\\\1\\end{{pmatrix}}",
        f"{{{system}}}", f"`touch {target}`",
        f"$(touch {target})", f"5 {system}", f"{system} cm", f"'%s' % {system}", f"{{0.__class__}}{system}",
        f"1;{system}", f"\\input{{|touch {target}}}",
    ]  # fmt: skip
    golds = ["1", "\\pi", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "x", "(1, 2)", "\\{1, 2\\}", "x=1"]
    return [(g, s) for g in golds for s in shapes] + [(s, g) for g in golds for s in shapes]


def test_probes_run_nothing(tmp_path: Path) -> None:
    import pyarrow as pa

    target = tmp_path / "touched"
    pairs = probes(target)
    for gold, answer in pairs:
        state = check(gold, answer).state
        assert state != "correct", (gold, answer)
        check(gold, f"\\boxed{{{answer}}}")
    explain(*pairs[0])
    check_many(pa.table({"gold": [g for g, _ in pairs], "response": [a for _, a in pairs]}), workers=2)
    assert list(tmp_path.iterdir()) == []


def test_the_worker_builds_only_from_known_operators(tmp_path: Path) -> None:
    """A tree that no parser of ours makes is refused, not looked up."""
    from curation.answers import Policy, symbolic

    target = tmp_path / "touched"
    for name in ("__class__", "system", f"open('{target}','w')", "eval"):
        equal, _ = symbolic.compare_trees(("fn", name, ("sym", "x")), ("sym", "x"), Policy())
        assert equal is None
        symbolic.compare_trees(
            ("call", f"__import__('os').system('touch {target}')", ("sym", "x")), ("sym", "x"), Policy()
        )
    assert list(tmp_path.iterdir()) == []


def test_import_is_light() -> None:
    import subprocess
    import sys

    heavy = ("sympy", "mpmath", "math_verify", "numba", "torch", "pandas")
    code = f"import sys, curation.answers; print([m for m in {heavy!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
