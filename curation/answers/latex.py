r"""Render a tree as LaTeX: the only text that reaches math-verify, made of
commands that stand in this file and of names that the parser read.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from curation.answers.parser import Node

_OPERATORS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", "in": r"\in", "~": r"\approx", "==": "="}
_NAME = re.compile(r"([A-Za-z]+)(?:_([A-Za-z0-9]+))?")


class NoLatex(Exception):
    """The tree holds something that is not rendered (words, limits)."""


def latex(node: Node) -> str:
    """LaTeX of a tree, fully bracketed. Raises NoLatex."""
    op = node[0]
    if op in ("num", "dec"):
        return _number(node[1])
    if op == "sym":
        return _name(node[1])
    if op == "const":
        return {"pi": r"\pi", "e": "e", "i": "i", "inf": r"\infty"}[node[1]]
    if op in ("grp", "cur"):
        return rf"\left({latex(node[1])}\right)"
    if op == "neg":
        return rf"-\left({latex(node[1])}\right)"
    if op == "add":
        return "+".join(rf"\left({latex(c)}\right)" for c in node[1:])
    if op == "mul":
        return r"\cdot ".join(rf"\left({latex(c)}\right)" for c in node[1:])
    if op == "div":
        return rf"\frac{{{latex(node[1])}}}{{{latex(node[2])}}}"
    if op == "pow":
        return rf"\left({latex(node[1])}\right)^{{{latex(node[2])}}}"
    if op == "root":
        return rf"\sqrt[{latex(node[2])}]{{{latex(node[1])}}}"
    if op == "fact":
        return rf"\left({latex(node[1])}\right)!"
    if op == "fn":
        return _function(node)
    if op in ("list", "set"):
        inside = ", ".join(latex(i) for i in node[1])
        return inside if op == "list" else rf"\{{{inside}\}}"
    if op == "brk":
        return rf"\left{node[1]}{', '.join(latex(i) for i in node[3])}\right{node[2]}"
    if op == "cup":
        return rf"{latex(node[1])} \cup {latex(node[2])}"
    if op == "matrix":
        rows = r" \\ ".join(" & ".join(latex(c) for c in r) for r in node[1])
        return rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}"
    if op == "rel":
        return " ".join(_OPERATORS.get(p, p) if isinstance(p, str) else latex(p) for p in node[1])
    raise NoLatex(op)


def _number(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _name(name: str) -> str:
    match = _NAME.fullmatch(name)
    if not match:
        raise NoLatex(name)
    head = match[1] if len(match[1]) == 1 else "\\" + match[1]
    return f"{head}_{{{match[2]}}}" if match[2] else head


def _function(node: Node) -> str:
    name, args = node[1], [latex(a) for a in node[2:]]
    plain: dict[str, Any] = {"abs": r"\left|{}\right|", "floor": r"\lfloor {} \rfloor", "ceil": r"\lceil {} \rceil"}
    if name in plain:
        return str(plain[name]).format(args[0])
    if name == "logb":
        return rf"\log_{{{args[0]}}}\left({args[1]}\right)"
    if name == "binom":
        return rf"\binom{{{args[0]}}}{{{args[1]}}}"
    if name in (
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "ln",
        "log",
        "exp",
    ):
        return rf"\{name}\left({', '.join(args)}\right)"
    raise NoLatex(name)
