r"""Sets of real numbers as unions of intervals: from brackets, unions, `x \in S` and chains of inequalities."""

from __future__ import annotations

from curation.answers.approximate import real_value
from curation.answers.names import name_like
from curation.answers.parser import Node
from curation.answers.tree import exact, symbols, ungroup

Interval = tuple[Node, bool, Node, bool]
INFINITY: Node = ("const", "inf")
REALS: Node = ("sym", "mathbb:R")


def in_order(found: list[Interval]) -> list[Interval] | None:
    """Intervals by their lower ends; None where an end has no value."""
    keyed = []
    for interval in found:
        key = _position(interval[0])
        if key is None:
            return found if len(found) == 1 else None
        keyed.append((key, interval))
    return [i for _, i in sorted(keyed, key=lambda pair: pair[0])]


def _position(node: Node) -> float | None:
    node = ungroup(node)
    if node == INFINITY:
        return float("inf")
    if node == ("neg", INFINITY):
        return float("-inf")
    value = exact(node)
    if value is not None:
        return float(value)
    return real_value(node)


def intervals(node: Node) -> list[Interval] | None:
    r"""A union of intervals as (low, open, high, open); from brackets, unions, `x \in S` and chains of inequalities."""
    node = ungroup(node)
    if node == REALS:
        return [(("neg", INFINITY), True, INFINITY, True)]
    op = node[0]
    if op == "brk" and len(node[3]) == 2:
        low, high = node[3]
        return [(low, node[1] == "(", high, node[2] == ")")]
    if op == "set" and node[1]:
        return [(i, False, i, False) for i in node[1]]
    if op == "cup":
        left, right = intervals(node[1]), intervals(node[2])
        return None if left is None or right is None else left + right
    if op == "list":
        parts = [intervals(i) for i in node[1]]
        return None if any(p is None for p in parts) else [i for p in parts if p for i in p]
    if op == "minus":
        return _punctured(node)
    if op != "rel":
        return None
    parts, ops = node[1][0::2], node[1][1::2]
    if ops == ("in",):
        return intervals(parts[1]) if name_like(parts[0]) or parts[0][0] == "fn" else None
    if ops == ("!=",) and name_like(parts[0]):
        minus_inf: Node = ("neg", INFINITY)
        return [(minus_inf, True, parts[1], True), (parts[1], True, INFINITY, True)]
    if len(parts) == 2 and ops[0] in ("<", "<=", ">", ">="):
        name, bound, op_ = parts[0], parts[1], ops[0]
        if not symbols(name):
            name, bound, op_ = bound, name, {"<": ">", ">": "<", "<=": ">=", ">=": "<="}[op_]
        if not name_like(name) or symbols(bound) & symbols(name):
            return None
        if name[0] == "fn":
            return _absolute(bound, op_)
        if op_ in ("<", "<="):
            return [(("neg", INFINITY), True, bound, op_ == "<")]
        return [(bound, op_ == ">", INFINITY, True)]
    if len(parts) == 3:
        low, middle, high = parts
        if all(o in (">", ">=") for o in ops):
            low, high = high, low
            ops = tuple({">": "<", ">=": "<="}[o] for o in reversed(ops))
        if all(o in ("<", "<=") for o in ops) and name_like(middle):
            if middle[0] == "fn":
                return [
                    (("neg", high), ops[1] == "<", ("neg", low), ops[0] == "<"),
                    (low, ops[0] == "<", high, ops[1] == "<"),
                ]
            return [(low, ops[0] == "<", high, ops[1] == "<")]
    return None


def _absolute(bound: Node, op: str) -> list[Interval]:
    """|x| < a and |x| > a."""
    if op in ("<", "<="):
        return [(("neg", bound), op == "<", bound, op == "<")]
    return [(("neg", INFINITY), True, ("neg", bound), op == ">"), (bound, op == ">", INFINITY, True)]


def _punctured(node: Node) -> list[Interval] | None:
    """An interval, or the reals, without finitely many points."""
    base = node[1]
    whole = intervals(base)
    if whole is None or len(whole) != 1 or node[2][0] != "set":
        return None
    holes = sorted(((_position(h), h) for h in node[2][1]), key=lambda p: p[0] if p[0] is not None else 0.0)
    if any(p is None for p, _ in holes):
        return None
    low, low_open, high, high_open = whole[0]
    found: list[Interval] = []
    for _, hole in holes:
        found.append((low, low_open, hole, True))
        low, low_open = hole, True
    return [*found, (low, low_open, high, high_open)]
