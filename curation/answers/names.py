"""What merely names a value: `x` in `x = 2`, `f(x)` in `f(x) = x + 1`, `AB` in `AB = 5`."""

from __future__ import annotations

from curation.answers.parser import Node
from curation.answers.tree import symbols, ungroup


def name_like(node: Node) -> bool:
    """A lone name: a symbol, a call such as f(x), a subscripted symbol, letters of a segment (AB), a tuple of names."""
    node = ungroup(node)
    if node[0] in ("sym", "idx", "call") or node in (("const", "e"), ("const", "i")):
        return True
    if node[0] == "div" and node[1][0] == node[2][0] == "mul":  # dy/dx
        return all(len(p) == 3 and p[1] == ("sym", "d") and name_like(p[2]) for p in node[1:])
    if node[0] == "mul":
        return len(node) <= 5 and all(p[0] == "sym" and len(p[1]) == 1 and p[1].isupper() for p in node[1:])
    if node[0] == "brk":
        return all(name_like(p) for p in node[3])
    return node[0] == "fn" and node[1] in ("abs", "deg") and name_like(node[2])


def assigned(node: Node) -> Node | None:
    """The value that a relation gives to a name or a closed expression, or None where it is a real equation."""
    parts, ops = node[1][0::2], node[1][1::2]
    if ops == ("in",):
        return parts[1] if name_like(parts[0]) else None
    if any(op not in ("=", "~") for op in ops):
        return None
    end = len(parts) - 1
    while end > 1 and ops[end - 1] == "~":
        end -= 1
    value = parts[end]
    if name_like(parts[0]) or (not symbols(parts[0]) and not symbols(value)):
        return value
    if len(parts) == 2 and name_like(parts[1]) and not symbols(parts[0]):
        return parts[0]
    if len(parts) == 2 and parts[0][0] in ("list", "set") and all(name_like(p) for p in items_of(parts[0])):
        return value
    if parts[0][0] == "opaque" and not symbols(value):
        return value
    if len(parts) > 2 and not symbols(value) and all(op == "=" for op in ops):
        return value
    return None


def items_of(node: Node) -> tuple[Node, ...]:
    """The members of a container; a value is its own only member."""
    if node[0] == "brk":
        return node[3]
    if node[0] in ("list", "set"):
        return node[1]
    return (node,)
