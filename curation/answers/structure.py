r"""Equality of two trees by what they are: values, lists, points, sets, intervals, relations, matrices.

The gold decides the reading. A list without brackets or in braces is a set, round brackets keep their order, `(a, b)`
is an interval where its partner is one. Equations are equal when one is a constant multiple of the other, inequalities
when the constant has the right sign, and `x \in (0, 1)` is `0 < x < 1`. Returns True, False or None (open).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from curation.answers import approximate
from curation.answers.intervals import INFINITY, REALS, in_order, intervals
from curation.answers.names import assigned, items_of, name_like
from curation.answers.parser import Node
from curation.answers.policy import Policy
from curation.answers.probe import proportional, same_value
from curation.answers.tree import exact, operators, plus_minus, survey, symbols, ungroup

_CONTAINERS = {"list", "brk", "set", "matrix", "cases", "cup", "cap", "minus", "rel", "ratio"}


def equal(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """Whether `answer` is `gold` under `policy`."""
    gold, answer = _sum_of_matrices(ungroup(gold)), _sum_of_matrices(ungroup(answer))
    if gold == answer:
        return True
    gold, answer = _meet(gold, answer, policy)
    if gold == answer:
        return True
    left = gold[0] if gold[0] in _CONTAINERS else "value"
    right = answer[0] if answer[0] in _CONTAINERS else "value"
    if left == "rel" or right == "rel":
        return _with_relation(gold, answer, policy)
    if "ratio" in (left, right):
        return _ratio(gold, answer, policy)
    if left == right == "value":
        if "base" in (_unsigned(gold)[0], _unsigned(answer)[0]):
            return _bases(gold, answer, policy)
        ours, theirs = survey(gold), survey(answer)
        if "pm" in ours.operators or "pm" in theirs.operators:
            return _unordered(plus_minus(gold), plus_minus(answer), policy)
        return approximate.same(gold, answer, policy, (ours, theirs))
    if left == "matrix" or right == "matrix" or "cases" in (left, right):
        return _matrix(gold, answer, policy)
    if (gold == REALS) != (answer == REALS) and {left, right} & {"brk", "cup", "minus"}:
        return _interval_sets(gold, answer, policy)
    if (
        "value" in (left, right)
        and {left, right} & {"cup", "minus"}
        and not symbols(gold if left == "value" else answer)
    ):
        return False  # one number is no union of intervals
    if {left, right} & {"cup", "cap", "minus"} or (left == right == "brk" and _mixed_brackets(gold, answer)):
        return _interval_sets(gold, answer, policy)
    if left == "value" or right == "value":
        return _one_and_many(gold, answer, policy)
    return _collections(gold, answer, policy)


def _meet(gold: Node, answer: Node, policy: Policy) -> tuple[Node, Node]:
    """Drop what one side merely names: `x = 2` against `2`, `y = 2x + 1` against `2x + 1`, chains `a = b = c`."""
    if gold[0] == "rel" and answer[0] == "rel":
        if len(gold[1]) > 3 and len(answer[1]) > 3:
            ours, theirs = assigned(gold), assigned(answer)
            if ours is not None and theirs is not None and gold[1][0] == answer[1][0]:
                return ours, theirs
        return _last_link(gold, answer), _last_link(answer, gold)
    if gold[0] == "rel" and policy.assignment_optional:
        value = assigned(gold)
        if value is not None and not (answer[0] in _CONTAINERS and value[0] not in _CONTAINERS and answer[0] != "list"):
            gold = ungroup(value)
    if answer[0] == "rel" and policy.assignment_optional:
        value = assigned(answer)
        if value is not None:
            answer = ungroup(value)
    return gold, answer


def _last_link(node: Node, other: Node) -> Node:
    """`x = 5 + 5 = 10` as `x = 10` where the partner has two sides only."""
    parts = node[1]
    if len(parts) > 3 and len(other[1]) == 3 and all(op in ("=", "~") for op in parts[1::2]):
        end = len(parts)
        while end > 3 and parts[end - 2] == "~":
            end -= 2
        return ("rel", (parts[0], "=", parts[end - 1]))
    return node


def _expanded(items: Sequence[Node]) -> tuple[Node, ...]:
    """Items with each ± replaced by its two readings."""
    return tuple(
        reading
        for item in items
        for reading in (plus_minus(item) if item[0] not in _CONTAINERS or "pm" in operators(item) else (item,))
    )


def _ordered(gold: Sequence[Node], answer: Sequence[Node], policy: Policy) -> bool | None:
    if len(gold) != len(answer):
        return False
    verdict: bool | None = True
    for g, a in zip(gold, answer, strict=True):
        same = equal(g, a, policy)
        if same is False:
            return False
        if same is None:
            verdict = None
    return verdict


def _unordered(gold: Sequence[Node], answer: Sequence[Node], policy: Policy) -> bool | None:
    """Equality of members in any order, each as often as it is written."""
    gold, answer = _expanded(gold), _expanded(answer)
    if all(m[0] == "brk" for m in (*gold, *answer)):
        gold, answer = _distinct(gold), _distinct(answer)  # points are a set
    if len(gold) != len(answer) or len(gold) > 64:
        return False if len(gold) != len(answer) else None
    rest = list(answer)
    open_ = False
    for g in gold:
        for index, a in enumerate(rest):
            same = equal(g, a, policy)
            if same:
                del rest[index]
                break
            open_ = open_ or same is None
        else:
            return None if open_ else False
    return True


def _distinct(items: Sequence[Node]) -> tuple[Node, ...]:
    """Members of a set in braces: written twice they count once."""
    return tuple(dict.fromkeys(_expanded(items)))


def _collections(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """Lists, points, sets against each other."""
    left, right = gold[0], answer[0]
    ours, theirs = items_of(gold), items_of(answer)
    if left == right == "brk":
        if (gold[1], gold[2]) != (answer[1], answer[2]):
            return False
        return _ordered(ours, theirs, policy)
    if (left == "brk" and right == "list") or (left == "list" and right == "brk"):
        bracketed = gold if left == "brk" else answer
        # A list of one point against the point; `[2, 3]` against `2, 3`; `x = 1, y = 2` against `(1, 2)`.
        if bracketed[1] + bracketed[2] == "[]":
            return _ordered(ours, theirs, policy)
        flat = theirs if left == "brk" else ours
        if all(_is_assignment(i) for i in flat):
            return _ordered(_values(ours), _values(theirs), policy)
        return False
    if left == right == "list":
        if _named(ours) and _named(theirs):
            return _unordered(ours, theirs, policy)
        if _named(ours) != _named(theirs):
            return _ordered(_values(ours), _values(theirs), policy)
        if not policy.unordered_lists:
            return _ordered(ours, theirs, policy)
        return _unordered(ours, theirs, policy)
    if "brk" in (left, right):
        bracketed = gold if left == "brk" else answer
        if bracketed[1] + bracketed[2] == "[]":
            return _unordered(ours, theirs, policy)
        if len(ours) == len(theirs) == 1:
            return equal(ours[0], theirs[0], policy)
        return False
    if left == right == "set":
        ours, theirs = _distinct(ours), _distinct(theirs)
    return _unordered(ours, theirs, policy)


def _is_assignment(node: Node) -> bool:
    return node[0] == "rel" and len(node[1]) == 3 and node[1][1] == "=" and name_like(node[1][0])


def _same_name(one: Node, other: Node) -> bool:
    """One name, or y and the function's value: `y = 2x` is `f(x) = 2x`."""
    if one == other:
        return True
    call, name = (one, other) if one[0] == "call" else (other, one)
    return name == ("sym", "y") and call[0] == "call" and call[2:] == (("sym", "x"),)


def _named(items: Sequence[Node]) -> bool:
    """Several names with a value each; one name for all (`x = 1, x = 2`) is a list of values."""
    if not all(_is_assignment(i) for i in items):
        return False
    return len({i[1][0] for i in items}) > 1 or len(items) == 1


def _values(items: Sequence[Node]) -> tuple[Node, ...]:
    return tuple(i[1][2] if _is_assignment(i) else i for i in items)


def _one_and_many(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """A value against a container: equal only where the container holds exactly that value."""
    many, one = (gold, answer) if gold[0] in _CONTAINERS else (answer, gold)
    items = _expanded(items_of(many))
    readings = plus_minus(one)
    if len(readings) == 2 and many[0] in ("list", "set"):
        return _unordered(items, readings, policy)
    if len(items) == 1 and many[0] in ("set", "list", "brk") and not (many[0] == "brk" and many[1] + many[2] != "[]"):
        return equal(gold if one is gold else items[0], items[0] if one is gold else answer, policy)
    return False


def _bases(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """Numbers in a base: by their digits; the base may be left out (`12_5` -> `12`). One value in two bases is open."""
    if (gold[0] == "neg") != (answer[0] == "neg"):
        return False
    gold, answer = _unsigned(gold), _unsigned(answer)
    if gold[0] == answer[0] == "base" and gold[2] == answer[2]:
        return bool(gold[1] == answer[1])
    values = []
    for node in (gold, answer):
        if node[0] != "base":
            values.append(exact(node))
        elif 1 < node[2] <= 36 and all(int(digit) < node[2] for digit in node[1]):
            values.append(Fraction(int(node[1], node[2])))
        else:
            return None
    written, plain = (gold, answer) if gold[0] == "base" else (answer, gold)
    if plain[0] != "base" and exact(plain) == int(written[1]) and policy.missing_unit == "accept":
        return True
    return None if values[0] == values[1] else False


def _unsigned(node: Node) -> Node:
    return ungroup(node[1]) if node[0] == "neg" else node


def _ratio(gold: Node, answer: Node, policy: Policy) -> bool | None:
    """`3:4` is `6:8` and 3/4."""

    def parts(node: Node) -> tuple[Node, ...]:
        if node[0] == "ratio":
            return tuple(node[1])
        return (node[1], node[2]) if node[0] == "div" else (node, ("num", Fraction(1)))

    ours, theirs = parts(gold), parts(answer)
    if len(ours) != len(theirs) or (len(ours) > 2 and "ratio" not in (gold[0], answer[0])):
        return False
    if any(exact(n) == 0 for n in (*ours, *theirs)):
        return _ordered(ours, theirs, Policy())  # a score such as 8:0 is no quotient
    results = [same_value(("mul", ours[0], theirs[k]), ("mul", ours[k], theirs[0])) for k in range(1, len(ours))]
    return False if False in results else None if None in results else True


def _matrix(gold: Node, answer: Node, policy: Policy) -> bool | None:
    ours, theirs = _rows(gold), _rows(answer)
    if ours is None or theirs is None:
        cells = [cell for row in ours or theirs or () for cell in row]
        value = answer if theirs is None else gold
        if len(cells) == 1:
            return equal(cells[0], value, policy) if theirs is None else equal(value, cells[0], policy)
        return False if gold[0] == answer[0] or not symbols(value) else None
    if len(ours) != len(theirs):
        flat = [r[0] for r in ours] if all(len(r) == 1 for r in ours) else None
        flat_other = [r[0] for r in theirs] if all(len(r) == 1 for r in theirs) else None
        if flat and len(theirs) == 1:
            return _ordered(flat, theirs[0], policy)
        if flat_other and len(ours) == 1:
            return _ordered(ours[0], flat_other, policy)
        return False
    results = [_ordered(g, a, policy) for g, a in zip(ours, theirs, strict=True)]
    return False if False in results else None if None in results else True


def _sum_of_matrices(node: Node) -> Node:
    """Sums, negatives and scalar multiples of matrices as one matrix; anything else as it is."""
    if node[0] == "neg":
        inner = _sum_of_matrices(node[1])
        return ("matrix", tuple(tuple(("neg", c) for c in r) for r in inner[1])) if inner[0] == "matrix" else node
    if node[0] == "mul" and len(node) == 3 and node[2][0] == "matrix" and "matrix" not in operators(node[1]):
        return ("matrix", tuple(tuple(("mul", node[1], c) for c in r) for r in node[2][1]))
    if node[0] == "add":
        parts = [_sum_of_matrices(p) for p in node[1:]]
        shapes = {(len(p[1]), len(p[1][0])) if p[0] == "matrix" else None for p in parts}
        if len(shapes) == 1 and None not in shapes:
            rows = zip(*(p[1] for p in parts), strict=True)
            return ("matrix", tuple(tuple(("add", *cells) for cells in zip(*r, strict=True)) for r in rows))
    return node


def _rows(node: Node) -> tuple[tuple[Node, ...], ...] | None:
    """Rows of a matrix; a vector in brackets is one row; nested square brackets are a matrix."""
    if node[0] in ("matrix", "cases"):
        return node[1]
    if node[0] == "brk":
        if all(i[0] == "brk" for i in node[3]):
            return tuple(i[3] for i in node[3])
        return (node[3],)
    return None


# -- relations and intervals ----------------------------------------------------------------------------------------


def _with_relation(gold: Node, answer: Node, policy: Policy) -> bool | None:
    if gold[0] == answer[0] == "rel":
        return _relations(gold, answer, policy)
    for one, other in ((gold, answer), (answer, gold)):
        if one[0] == "rel" and other[0] in ("brk", "cup", "cap", "minus", "list", "set"):
            if other[0] == "list" and not all(i[0] == "rel" for i in other[1]):
                return False
            return _interval_sets(gold, answer, policy)
    return False


def _relations(gold: Node, answer: Node, policy: Policy) -> bool | None:
    ours, theirs = gold[1], answer[1]
    if ours[1] == theirs[1] == "in" and len(ours) == len(theirs) == 3:
        if name_like(ours[0]) and name_like(theirs[0]) and not same_value(ours[0], theirs[0]):
            return False
        return equal(ours[2], theirs[2], policy) if equal(ours[0], theirs[0], policy) else False
    if "in" in (ours[1], theirs[1]):
        return _interval_sets(gold, answer, policy)
    if len(ours) == len(theirs) == 3:
        op, other = ours[1].replace("==", "="), theirs[1].replace("==", "=")
        p, q = _difference(ours), _difference(theirs)
        if (op in "=~") != (other in "=~") or (op == "!=") != (other == "!="):
            return False
        if _is_assignment(gold) and _is_assignment(answer) and _same_name(ours[0], theirs[0]):
            same = equal(ours[2], theirs[2], policy)
            if same is not None:
                return same
        ratio = proportional(p, q)
        if op in ("=", "~", "!="):
            # One variable: the solutions may still agree, which is a question for the symbolic layer.
            return True if ratio else None if ratio is None or _univariate(p, q) else False
        if ratio is None:
            return None
        if ratio == 0:
            return _interval_sets(gold, answer, policy)
        flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
        return (op == other) if ratio > 0 else (flipped[op] == other)
    if len(ours) == len(theirs):
        if ours[1::2] == theirs[1::2] and _ordered(ours[0::2], theirs[0::2], policy):
            return True
        flipped_ops = tuple({"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(op, op) for op in reversed(theirs[1::2]))
        if ours[1::2] == flipped_ops and _ordered(ours[0::2], tuple(reversed(theirs[0::2])), policy):
            return True
    return _interval_sets(gold, answer, policy)


def _univariate(p: Node, q: Node) -> bool:
    return symbols(p) == symbols(q) and len(symbols(p)) == 1


def _difference(parts: tuple) -> Node:  # type: ignore[type-arg]
    return ("add", parts[0], ("neg", parts[2]))


def _mixed_brackets(gold: Node, answer: Node) -> bool:
    """Two-member brackets of which one can only be an interval: `[0, 1)` against `(0, 1)`."""
    return len(gold[3]) == len(answer[3]) == 2 and any(
        n[1] + n[2] in ("[)", "(]") or INFINITY in operators_consts(n) for n in (gold, answer)
    )


def operators_consts(node: Node) -> set[Node]:
    """The constants among a bracket's members, signs removed."""
    return {m[1] if m[0] == "neg" else m for m in (ungroup(i) for i in node[3])}


def _interval_sets(gold: Node, answer: Node, policy: Policy) -> bool | None:
    if "rel" in operators(gold) and "rel" in operators(answer) and symbols(gold) != symbols(answer):
        return False  # statements about different names
    ours, theirs = intervals(gold), intervals(answer)
    if ours is None or theirs is None:
        if gold[0] == answer[0] in ("cup", "minus", "cap"):
            results = [equal(g, a, policy) for g, a in zip(gold[1:], answer[1:], strict=True)]
            return True if all(results) else None
        return None
    if len(ours) != len(theirs):
        return False
    ours, theirs = in_order(ours), in_order(theirs)
    if ours is None or theirs is None:
        return None
    verdict: bool | None = True
    for (a, a_open, b, b_open), (c, c_open, d, d_open) in zip(ours, theirs, strict=True):
        low, high = _same_end(a, c, policy), _same_end(b, d, policy)
        if low is False or high is False or a_open != c_open or b_open != d_open:
            return False
        if low is None or high is None:
            verdict = None
    return verdict


def _same_end(a: Node, b: Node, policy: Policy) -> bool | None:
    infinite = [ungroup(n[1] if n[0] == "neg" else n) == INFINITY for n in (a, b)]
    if any(infinite):
        return all(infinite) and (a[0] == "neg") == (b[0] == "neg")
    return approximate.same(a, b, policy)
