"""What can be asked of a parse tree without evaluating it: its symbols, its plus-minus readings, its exact value.

Also the two ways to write a tree down: `canonical`, equal for trees that differ only in order or grouping, and `latex`,
the only text that ever reaches math-verify.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from curation.answers.parser import Node

MAX_BITS = 20_000  # exact integers beyond this stay symbolic
ONE = ("num", Fraction(1))
RATIONAL = frozenset(("num", "dec", "grp", "cur", "pct", "neg", "add", "mul", "div", "pow", "fact"))
"""Operators of the trees that `exact` may have a value for."""
_LEAVES = frozenset(("num", "dec", "sym", "const"))


def children(node: Node) -> list[Node]:
    """Direct subtrees, through lists and matrix rows."""
    found: list[Node] = []
    for part in node[1:]:
        if type(part) is tuple and part:
            if type(part[0]) is str:
                found.append(part)
            else:
                for inner in part:
                    if type(inner) is tuple and inner:
                        if type(inner[0]) is str:
                            found.append(inner)
                        else:
                            found.extend(inner)
    return found


def symbols(node: Node) -> set[str]:
    """Names of the free symbols; a sum's index is bound."""
    found: set[str] = set()
    stack = [node]
    while stack:
        part = stack.pop()
        if part[0] in _LEAVES:
            if part[0] == "sym":
                found.add(part[1])
        elif part[0] == "big":
            found |= symbols(part[3]) | symbols(part[4]) | (symbols(part[5]) - {part[2]})
        else:
            if part[0] in ("call", "idx"):
                found.add(f"{part[1]}()")
            stack.extend(children(part))
    return found


def operators(node: Node) -> set[str]:
    """All operators in the tree."""
    found = set()
    stack = [node]
    while stack:
        part = stack.pop()
        found.add(part[0])
        if part[0] not in _LEAVES:
            stack.extend(children(part))
    return found


class Survey(NamedTuple):
    """What a tree is made of: its operators and the names of its free symbols."""

    operators: set[str]
    symbols: set[str]


def survey(node: Node) -> Survey:
    """`operators` and `symbols` in one walk."""
    used: set[str] = set()
    free: set[str] = set()
    stack = [node]
    while stack:
        part = stack.pop()
        op = part[0]
        used.add(op)
        if op in _LEAVES:
            if op == "sym":
                free.add(part[1])
        elif op == "big":
            return Survey(operators(node), symbols(node))  # binds a name
        else:
            if op == "call" or op == "idx":
                free.add(f"{part[1]}()")
            for child in part[1:]:
                if type(child) is tuple and child:
                    if type(child[0]) is str:
                        stack.append(child)
                    else:
                        stack.extend(children(("", child)))
    return Survey(used, free)


def has_constant(node: Node, name: str) -> bool:
    """Whether the constant is written in the tree."""
    return node == ("const", name) or any(has_constant(c, name) for c in children(node))


def ungroup(node: Node) -> Node:
    """Without brackets that only group, at the top."""
    while node[0] == "grp":
        node = node[1]
    return node


def plus_minus(node: Node) -> tuple[Node, ...]:
    """The readings of ± (all signs together): one tree without it, two with it."""
    if "pm" not in operators(node):
        return (node,)
    return (_signed(node, 1), _signed(node, -1))


def _signed(node: Node, sign: int) -> Node:
    if node[0] == "pm":
        left, right = _signed(node[1], sign), _signed(node[2], sign)
        return ("add", left, right if sign > 0 else ("neg", right))
    return tuple(_signed_part(part, sign) for part in node)


def _signed_part(part: object, sign: int) -> object:
    if isinstance(part, tuple) and part:
        if isinstance(part[0], str):
            return _signed(part, sign)
        return tuple(_signed_part(inner, sign) for inner in part)
    return part


def exact(node: Node) -> Fraction | None:
    """The rational value of a closed rational tree of bounded size, else None."""
    op = node[0]
    if op in ("num", "dec"):
        return node[1]
    if op in ("grp", "cur"):
        return exact(node[1])
    if op == "pct":
        inner = exact(node[1])
        return None if inner is None else inner / 100
    if op == "neg":
        inner = exact(node[1])
        return None if inner is None else -inner
    if op in ("add", "mul"):
        total: Fraction | None = None
        for child in node[1:]:
            inner = exact(child)
            if inner is None:
                return None
            total = inner if total is None else total + inner if op == "add" else total * inner
            if total.numerator.bit_length() + total.denominator.bit_length() > MAX_BITS:
                return None
        return total
    if op == "div":
        top, bottom = exact(node[1]), exact(node[2])
        return None if top is None or not bottom else top / bottom
    if op == "pow":
        base, power = exact(node[1]), exact(node[2])
        if base is None or power is None or power.denominator != 1:
            return None
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(power.numerator) * bits > MAX_BITS or (base == 0 and power <= 0):
            return None
        return base**power.numerator
    if op == "fact":
        inner = exact(node[1])
        if inner is None or inner.denominator != 1 or not 0 <= inner <= 500:
            return None
        value = 1
        for factor in range(2, int(inner) + 1):
            value *= factor
        return Fraction(value)
    return None


def canonical(node: Node) -> str:
    """A string equal for trees that differ only in the order of sums and products, grouping and signs."""
    op = node[0]
    if op == "sym":
        return str(node[1])
    value = exact(node) if op in RATIONAL else None
    if value is not None:
        return str(value)
    if op == "grp":
        return canonical(node[1])
    if op in ("add", "mul"):
        parts: list[str] = []
        _flatten(node, op, parts)
        return f"({('+' if op == 'add' else '*').join(sorted(parts))})"
    inside = ",".join(canonical(c) for c in children(node))
    labels = ",".join(str(p) for p in node[1:] if isinstance(p, str | int))
    if op == "rel":
        inside = " ".join(p if isinstance(p, str) else canonical(p) for p in node[1])
    return f"{op}[{labels}]({inside})"


def _flatten(node: Node, op: str, parts: list[str]) -> None:
    for child in node[1:]:
        inner = child[1] if child[0] == "grp" else child
        if inner[0] == op:
            _flatten(inner, op, parts)
        else:
            parts.append(canonical(inner))
