"""Numeric probing: two expressions that agree to 30 digits at several random points are the same expression.

Each free symbol gets a value from a hash of its name and the point's number, so both sides meet the same numbers in
every process and on every machine. A first pass in doubles tells most pairs apart in microseconds; agreement, and
anything that cancellation could hide, is decided at 50 digits. Rational functions need neither: they are the same where
they agree at random points modulo large primes (Schwartz, "Fast probabilistic algorithms for verification of polynomial
identities", J. ACM 1980), and different where they do not. Numbers too large for that (towers of powers) are never
evaluated: they are compared by structure, and integers by residues modulo primes.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from curation.answers.evaluate import DIGITS, POINTS, Digits, Doubles, TooLarge, Undefined, symbol_residue, value_at
from curation.answers.parser import Node
from curation.answers.tree import RATIONAL, Survey, canonical, children, exact, has_constant, operators, survey, symbols

__all__ = ["TooLarge", "Undefined", "digits_value", "proportional", "residue", "same_value"]

NEAR = 1e-9
AGREE = 1e-30  # relative agreement that counts as equality at DIGITS digits
LOST = 1e-44  # what a sum with terms of size one may be wrong by
ORDINARY = 1e12  # sums with terms below this still carry 30 digits after cancelling
_PRIMES = (2_305_843_009_213_693_951, 2_305_843_009_213_693_921, 2_305_843_009_213_693_907)


def _whole_symbols(node: Node) -> set[str]:
    """Symbols that stand in the bounds of a sum: they are whole numbers."""
    found: set[str] = set()
    if node[0] == "big":
        found |= symbols(node[3]) | symbols(node[4])
    for child in children(node):
        found |= _whole_symbols(child)
    return found


def same_value(left: Node, right: Node, of: tuple[Survey, Survey] | None = None) -> bool | None:
    """Whether two expressions are equal wherever both are defined; None where probing cannot tell. `of` are both
    sides' surveys, if known."""
    if left == right:
        return True
    ours, theirs = of or (survey(left), survey(right))
    if ours.operators <= RATIONAL and theirs.operators <= RATIONAL:
        p, q = exact(left), exact(right)
        if p is not None and q is not None:
            return p == q
    used, free = ours.operators | theirs.operators, ours.symbols | theirs.symbols
    if free and used <= _RATIONAL_FUNCTION and (same := _same_modulo(left, right)) is not None:
        return same
    whole: frozenset[str] = frozenset()
    if "big" in used:
        whole = frozenset(_whole_symbols(left) | _whole_symbols(right))
    closed = not free
    complex_written = "const" in used and (has_constant(left, "i") or has_constant(right, "i"))
    agreed: list[int] = []
    for point in range(1 if closed else len(POINTS)):
        verdict = _same_at(left, right, Doubles(point, whole), Doubles(point, whole), complex_written)
        if point == 0 and (verdict is not False or "call" in used) and canonical(left) == canonical(right):
            return True  # looked at behind the doubles, which tell most pairs apart for less
        if verdict is False:
            return False
        if verdict is None:  # doubles cannot tell
            verdict = _same_in_digits(left, right, point, whole, complex_written)
            if verdict is not True:
                if verdict is False:
                    return False
                if point < 2:
                    return _same_huge(left, right)
                continue
            return True if closed else _continue(left, right, whole, complex_written)
        if verdict is True:
            agreed.append(point)
    if not agreed:
        return None
    return _same_in_digits(left, right, agreed[0], whole, complex_written)


_RATIONAL_FUNCTION = (RATIONAL - {"fact"}) | {"sym"}
LARGEST_POWER = 10_000  # far below the primes: modulo p, x^p is x


def _same_modulo(left: Node, right: Node) -> bool | None:
    """Whether two rational functions agree at random points modulo primes; None at a pole and for other powers."""
    try:
        return all(_modulo(left, at, p) == _modulo(right, at, p) for at, p in enumerate(_PRIMES[:2]))
    except ValueError:
        return None


def _modulo(node: Node, point: int, prime: int) -> int:
    """The value of a rational function at a point modulo `prime`. Raises ValueError where it has none."""
    op = node[0]
    if op == "sym":
        return symbol_residue(node[1], point)
    if op == "num" or op == "dec":
        value: Fraction = node[1]
        bottom = value.denominator
        return value.numerator * pow(bottom, -1, prime) % prime if bottom != 1 else value.numerator % prime
    if op == "neg":
        return -_modulo(node[1], point, prime) % prime
    if op == "add":
        return sum(_modulo(child, point, prime) for child in node[1:]) % prime
    if op == "mul":
        product = 1
        for child in node[1:]:
            product = product * _modulo(child, point, prime) % prime
        return product
    if op == "div":
        return _modulo(node[1], point, prime) * pow(_modulo(node[2], point, prime), -1, prime) % prime
    if op == "pct":
        return _modulo(node[1], point, prime) * pow(100, -1, prime) % prime
    if op == "pow":
        base, power = _modulo(node[1], point, prime), exact(node[2])
        if power is None or power.denominator != 1 or abs(power) > LARGEST_POWER or (base == 0 and power <= 0):
            raise ValueError("no power of a rational function")
        return pow(base, power.numerator, prime)
    return _modulo(node[1], point, prime)  # brackets, a currency


def _continue(left: Node, right: Node, whole: frozenset[str], complex_written: bool) -> bool | None:
    """All points at full precision."""
    votes = [_same_in_digits(left, right, point, whole, complex_written) for point in range(len(POINTS))]
    if False in votes:
        return False
    return True if True in votes else None


def _off_domain(point: int, a: Any, b: Any, complex_written: bool) -> bool:
    """At negative points a root or logarithm may leave the reals: such a point says nothing."""
    if POINTS[point] > 0 or complex_written:
        return False
    return _imaginary(a) or _imaginary(b)


def _imaginary(value: Any) -> bool:
    return abs(getattr(value, "imag", 0)) > 1e-12 * (abs(value) + 1e-300)


def _same_at(left: Node, right: Node, one: Doubles, two: Doubles, complex_written: bool) -> bool | None:
    """In doubles: False is certain, True means near, None means that doubles cannot tell."""
    try:
        a, b = value_at(left, one), value_at(right, two)
    except (Undefined, TooLarge):
        return None
    if _off_domain(one.point, a, b, complex_written):
        return None
    if not (one.finite(a) and two.finite(b)):
        return bool(a == b) if not isinstance(a, complex) and not isinstance(b, complex) else None
    gap = abs(a - b)
    size = max(abs(a), abs(b))
    if gap <= NEAR * size or size == 0:
        return True
    if gap <= 1e-11 * max(one.peak, two.peak):
        return None
    return False


def _same_in_digits(left: Node, right: Node, point: int, whole: frozenset[str], complex_written: bool) -> bool | None:
    one, two = Digits(point, whole), Digits(point, whole)
    try:
        a, b = value_at(left, one), value_at(right, two)
    except Undefined:
        return None
    except TooLarge:
        return _one_too_large(left, right, point, whole)
    if _off_domain(point, a, b, complex_written) or not (one.finite(a) and two.finite(b)):
        return None
    gap, size = abs(a - b), max(abs(a), abs(b))
    peak = max(one.peak, two.peak)
    if gap > AGREE * size + LOST * peak:
        return False
    if size > 10**DIGITS or (peak > ORDINARY and LOST * peak > 1e-20 * size):
        return None  # too large for the digits to see a difference
    return True


def _one_too_large(left: Node, right: Node, point: int, whole: frozenset[str]) -> bool | None:
    """A tower that cannot be computed is not a number that can."""
    sizes = []
    for node in (left, right):
        try:
            value_at(node, Digits(point, whole))
            sizes.append(False)
        except TooLarge:
            sizes.append(True)
        except Undefined:
            return None
    return False if sizes[0] != sizes[1] else None


def _same_huge(left: Node, right: Node) -> bool | None:
    """Huge integers: residues modulo three primes of 61 bits."""
    residues = [(residue(left, p), residue(right, p)) for p in _PRIMES]
    if any(a is None or b is None for a, b in residues):
        return None
    return all(a == b for a, b in residues)


def residue(node: Node, prime: int) -> int | None:
    """The value of an integer tree modulo `prime`; None for what is not such a tree."""
    op = node[0]
    value = exact(node)
    if value is not None:
        if value.denominator % prime == 0:
            return None
        return value.numerator * pow(value.denominator, -1, prime) % prime
    if op == "grp":
        return residue(node[1], prime)
    if op == "neg":
        inner = residue(node[1], prime)
        return None if inner is None else -inner % prime
    if op in ("add", "mul"):
        total = 0 if op == "add" else 1
        for child in node[1:]:
            inner = residue(child, prime)
            if inner is None:
                return None
            total = (total + inner if op == "add" else total * inner) % prime
        return total
    if op == "div":
        top, bottom = residue(node[1], prime), residue(node[2], prime)
        return None if top is None or not bottom else top * pow(bottom, -1, prime) % prime
    if op == "pow":
        base, power = residue(node[1], prime), exact(node[2])
        if not base or power is None or power.denominator != 1:
            return None
        return pow(base, power.numerator, prime)
    if op == "fact":
        inner_value = exact(node[1])
        if inner_value is None or inner_value.denominator != 1 or not 0 <= inner_value <= 100_000:
            return None
        total = 1
        for factor in range(2, int(inner_value) + 1):
            total = total * factor % prime
        return total
    return None


def digits_value(node: Node) -> Fraction:
    """The real value of a closed expression to DIGITS digits.

    Raises Undefined (also where it is not real) and TooLarge.
    """
    field = Digits(0, frozenset())
    value = value_at(node, field)
    if _imaginary(value) or not field.finite(value):
        raise Undefined
    value = field.mp.re(value)
    if value != 0 and abs(field.mp.mag(value)) > 4_000:
        raise TooLarge
    sign, mantissa, exponent, _ = value._mpf_
    size = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if sign else size


def _ratio_modulo(left: Node, right: Node) -> int | None:
    """`proportional` for rational functions; None where that needs digits."""
    if not operators(left) | operators(right) <= _RATIONAL_FUNCTION:
        return None
    prime = _PRIMES[0]
    try:
        ratios = {_modulo(left, at, prime) * pow(_modulo(right, at, prime), -1, prime) % prime for at in (0, 1)}
        if len(ratios) > 1:
            return 0
        one, two = Doubles(0, frozenset()), Doubles(0, frozenset())
        a, b = value_at(left, one), value_at(right, two)
    except (ValueError, TooLarge, Undefined):
        return None
    if isinstance(a, complex) or isinstance(b, complex) or not (one.finite(a) and two.finite(b)):
        return None
    if abs(a) <= 1e-6 * one.peak or abs(b) <= 1e-6 * two.peak or not a or not b:
        return None  # the doubles may have the wrong sign
    return 1 if (a > 0) == (b > 0) else -1


def _apart(left: Node, right: Node) -> bool:
    """Whether the ratio of two expressions differs from point to point beyond what doubles can lose."""
    ratios = []
    for point in (0, 1):
        one, two = Doubles(point, frozenset()), Doubles(point, frozenset())
        try:
            a, b = value_at(left, one), value_at(right, two)
        except (TooLarge, Undefined):
            return False
        if isinstance(a, complex) or isinstance(b, complex) or not (one.finite(a) and two.finite(b)):
            return False
        if abs(a) <= 1e-6 * one.peak or abs(b) <= 1e-6 * two.peak or not a or not b:
            return False
        ratios.append(a / b)
    return abs(ratios[0] - ratios[1]) > 1e-6 * max(map(abs, ratios))


def proportional(left: Node, right: Node) -> int | None:
    """Whether left is a constant multiple of right.

    Returns the constant's sign (1, -1), 0 where there is none, None where that is open.
    """
    if canonical(left) == canonical(right):
        return 1
    free = symbols(left)
    closed = not free and not symbols(right)
    if not closed and (sign := _ratio_modulo(left, right)) is not None:
        return sign
    if not closed and _apart(left, right):
        return 0
    ratios = []
    for point in range(1 if closed else 3):
        one, two = Digits(point, frozenset()), Digits(point, frozenset())
        try:
            a, b = value_at(left, one), value_at(right, two)
        except TooLarge:
            return None
        except Undefined:
            continue
        zero_a, zero_b = abs(a) <= LOST * one.peak, abs(b) <= LOST * two.peak
        if zero_a or zero_b:
            if zero_a != zero_b:
                return 0
            continue
        ratios.append(a / b)
    if not ratios:
        return None if not closed else 1
    if len(ratios) < 2 and not closed:
        return None
    first = ratios[0]
    if any(abs(r - first) > 1e-25 * abs(first) for r in ratios):
        return 0
    if _imaginary(first):
        return 0
    return 1 if first.real > 0 else -1
