"""Numeric probing: two expressions that agree to 30 digits at several random points are the same expression.

Each free symbol gets a value from a hash of its name and the point's number, so both sides meet the same numbers in
every process and on every machine. A first pass in doubles tells most pairs apart in microseconds; agreement, and
anything that cancellation could hide, is decided at 50 digits. Numbers too large for that (towers of powers) are never
evaluated: they are compared by structure, and integers by residues modulo primes.
"""

from __future__ import annotations

import cmath
import hashlib
import math
import threading
from fractions import Fraction
from functools import lru_cache
from typing import Any

from curation.answers.parser import Node
from curation.answers.tree import canonical, children, exact, has_imaginary, operators, symbols

Complex = complex | float
POINTS = (1, 1, -1)  # the sign of every symbol at each point
NEAR = 1e-9
DIGITS = 50
AGREE = 1e-30  # relative agreement that counts as equality at DIGITS digits
LOST = 1e-44  # what a sum with terms of size one may be wrong by
ORDINARY = 1e12  # sums with terms below this still carry 30 digits after cancelling
MAX_STEPS = 20_000
_PRIMES = (2_305_843_009_213_693_951, 2_305_843_009_213_693_921, 2_305_843_009_213_693_907)


class Undefined(Exception):
    """The expression has no value here (a pole, a word, an operator without a number)."""


class TooLarge(Exception):
    """The value is beyond what may be computed; its structure must decide."""


@lru_cache(maxsize=8_192)
def unit_hash(name: str, point: int) -> float:
    """A number in [0, 1) that depends on `name` and `point` alone."""
    digest = hashlib.blake2b(f"{name}\x00{point}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


class _Doubles:
    """Evaluation in IEEE doubles, complex where roots and powers leave the reals."""

    def __init__(self, point: int, whole: frozenset[str]) -> None:
        self.point, self.whole, self.bound = point, whole, {}  # type: tuple[int, frozenset[str], dict[str, Any]]
        self.peak = 0.0  # the largest term of any sum: what cancellation can lose digits of
        self.steps = 0

    def number(self, value: Fraction) -> Any:
        try:
            return float(value)
        except OverflowError:
            raise TooLarge from None

    def symbol(self, name: str) -> Any:
        if name in self.bound:
            return self.bound[name]
        head, _, index = name.partition("_")
        if index in self.bound:
            return self.call(head, [self.bound[index]])
        share = unit_hash(name, self.point)
        if name in self.whole:
            return self.number(Fraction(3 + int(share * 5)))
        return self.number(Fraction(POINTS[self.point]) * (Fraction(1, 2) + 2 * Fraction(share)))

    def call(self, name: str, args: list[Any]) -> Any:
        """An unknown function: a fixed number for each name and arguments."""
        key = f"{name}({','.join(f'{complex(a):.9g}' for a in args)})"
        return self.number(Fraction(1, 2) + 2 * Fraction(unit_hash(key, self.point)))

    def constant(self, name: str) -> Any:
        return {"pi": math.pi, "e": math.e, "i": 1j, "inf": math.inf}[name]

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if isinstance(exponent, complex) or exponent <= 0:
                raise Undefined
            return 0.0
        if isinstance(base, complex) or isinstance(exponent, complex):
            return complex(base) ** exponent
        if base < 0 and exponent != int(exponent):
            return complex(base) ** exponent
        return base**exponent

    def root(self, base: Any, index: Any) -> Any:
        if not isinstance(base, complex) and base < 0 and index % 2 == 1:
            return -((-base) ** (1 / index))
        return self.power(base, 1 / index)

    def gamma(self, value: Any) -> Any:
        if isinstance(value, complex):
            raise Undefined
        return math.gamma(value)

    def function(self, name: str, x: Any) -> Any:
        module: Any = cmath if isinstance(x, complex) else math
        if name in ("ln", "log", "log10") and not isinstance(x, complex) and x < 0:
            module = cmath
        if name == "log":
            name = "ln"
        if name in ("arcsin", "arccos") and not isinstance(x, complex) and abs(x) > 1:
            module = cmath
        return _named(module, name, x, math.pi)

    def observe(self, value: Any) -> Any:
        size = abs(value)
        if size > self.peak:
            if size == math.inf or size != size:
                if size == math.inf and not isinstance(value, complex):
                    return value
                raise Undefined
            self.peak = size
        elif size != size:
            raise Undefined
        return value

    def finite(self, value: Any) -> bool:
        return not (cmath.isnan(value) or cmath.isinf(value))


_contexts = threading.local()


def _context() -> Any:
    """This thread's mpmath context: its functions change the precision while they run."""
    context = getattr(_contexts, "mp", None)
    if context is None:
        from mpmath import mp

        context = mp.clone()
        context.dps = DIGITS
        _contexts.mp = context
    return context


class _Digits(_Doubles):
    """Evaluation with mpmath at DIGITS decimal digits; magnitudes are bounded before every power."""

    def __init__(self, point: int, whole: frozenset[str]) -> None:
        super().__init__(point, whole)
        self.mp = _context()
        self.peak = self.mp.mpf(0)

    def number(self, value: Fraction) -> Any:
        return self.mp.mpf(value.numerator) / value.denominator

    def constant(self, name: str) -> Any:
        return {"pi": +self.mp.pi, "e": +self.mp.e, "i": self.mp.mpc(0, 1), "inf": self.mp.inf}[name]

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if self.mp.im(exponent) != 0 or exponent <= 0:
                raise Undefined
            return self.mp.mpf(0)
        if self.mp.mag(exponent) > 48 or (self.mp.mag(base) or 0) > 2**48:
            raise TooLarge
        if self.mp.isint(exponent) and abs(exponent) < 10_000:
            return base ** int(exponent)
        return self.mp.exp(exponent * self.mp.log(base)) if base > 0 else self.mp.power(base, exponent)

    def root(self, base: Any, index: Any) -> Any:
        if self.mp.im(base) == 0 and base < 0 and index % 2 == 1:
            return -self.mp.power(-base, 1 / index)
        return self.power(base, 1 / index)

    def gamma(self, value: Any) -> Any:
        if self.mp.mag(value) > 40:
            raise TooLarge
        return self.mp.gamma(value)

    def function(self, name: str, x: Any) -> Any:
        if name == "exp" and self.mp.mag(x) > 48:
            raise TooLarge
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and self.mp.mag(x) > 100:
            raise TooLarge
        if name == "log":
            name = "ln"
        return _named(self.mp, name, x, self.mp.pi)

    def finite(self, value: Any) -> bool:
        return bool(self.mp.isfinite(value))


_DIRECT = {"exp", "sin", "cos", "tan", "sinh", "cosh", "tanh"}
_INVERSE = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_PERIODIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
_RECIPROCAL = {"cot": "tan", "sec": "cos", "csc": "sin", "coth": "tanh", "sech": "cosh", "csch": "sinh"}


def _named(module: Any, name: str, x: Any, pi: Any) -> Any:
    if name in _DIRECT:
        return getattr(module, name)(x)
    if name == "ln":
        return module.log(x)
    if name == "log10":
        return module.log10(x)
    if name in _RECIPROCAL:
        below = getattr(module, _RECIPROCAL[name])(x)
        if below == 0:
            raise Undefined
        return 1 / below
    if name in _INVERSE:
        return getattr(module, _INVERSE[name])(x)
    if name == "arccot":
        return pi / 2 - module.atan(x)
    raise Undefined


def evaluate(node: Node, field: _Doubles) -> Any:
    """The value of `node` in `field`. Raises Undefined or TooLarge."""
    op = node[0]
    field.steps += 1
    if field.steps > MAX_STEPS:
        raise TooLarge
    if op in ("num", "dec"):
        return field.number(node[1])
    if op == "sym":
        return field.symbol(node[1])
    if op == "const":
        return field.constant(node[1])
    if op in ("grp", "cur"):
        return evaluate(node[1], field)
    if op == "neg":
        return -evaluate(node[1], field)
    if op == "add":
        total = field.observe(evaluate(node[1], field))
        for child in node[2:]:
            total = total + field.observe(evaluate(child, field))
        return total
    if op == "mul":
        total = evaluate(node[1], field)
        for child in node[2:]:
            total = total * evaluate(child, field)
        return total
    if op == "div":
        top, bottom = evaluate(node[1], field), evaluate(node[2], field)
        if bottom == 0:
            raise Undefined
        return top / bottom
    if op == "pow":
        return field.power(evaluate(node[1], field), evaluate(node[2], field))
    if op == "root":
        return field.root(evaluate(node[1], field), evaluate(node[2], field))
    if op == "pct":
        return evaluate(node[1], field) / 100
    if op == "deg":
        return evaluate(node[1], field) * field.constant("pi") / 180
    if op == "fact":
        return field.gamma(evaluate(node[1], field) + 1)
    if op == "call":
        return field.call(node[1], [evaluate(a, field) for a in node[2:]])
    if op == "idx":
        return field.call(node[1], [evaluate(node[2], field)])
    if op == "fn":
        return _function(node, field)
    if op == "big":
        return _big(node, field)
    raise Undefined


def _function(node: Node, field: _Doubles) -> Any:
    name = node[1]
    args = [evaluate(a, field) for a in node[2:]]
    if name == "abs":
        return abs(args[0])
    if name == "logb":
        below = field.function("ln", args[0])
        if below == 0 or args[1] == 0:
            raise Undefined
        return field.function("ln", args[1]) / below
    if name == "binom":
        n, k = args
        return field.gamma(n + 1) / (field.gamma(k + 1) * field.gamma(n - k + 1))
    if name in ("floor", "ceil") and not isinstance(args[0], complex):
        return field.number(Fraction(math.floor(args[0]) if name == "floor" else math.ceil(args[0])))
    if name in ("max", "min") and len(args) > 1:
        return max(args) if name == "max" else min(args)
    if name in ("gcd", "lcm", "mod") and len(args) == 2 and all(a == int(a) and abs(a) < 1e15 for a in args):
        a, b = int(args[0]), int(args[1])
        if name == "mod" and b == 0:
            raise Undefined
        return field.number(Fraction({"gcd": math.gcd, "lcm": math.lcm, "mod": lambda p, q: p % q}[name](a, b)))
    if name in _PERIODIC:
        field.observe(args[0])  # the absolute error of its argument is that of its value
    if len(args) != 1 or (name in ("ln", "log", "log10") and args[0] == 0):
        raise Undefined
    return field.function(name, args[0])


def _big(node: Node, field: _Doubles) -> Any:
    """A sum or product over at most 200 terms."""
    _, name, variable, low, high, body = node
    first, last = evaluate(low, field), evaluate(high, field)
    if isinstance(first, complex) or isinstance(last, complex) or first != int(first) or last != int(last):
        raise Undefined
    if last - first > 200:
        raise TooLarge
    outer = field.bound
    total = field.number(Fraction(0 if name == "sum" else 1))
    for index in range(int(first), int(last) + 1):
        field.bound = {**outer, variable: field.number(Fraction(index))}
        value = field.observe(evaluate(body, field))
        total = total + value if name == "sum" else total * value
    field.bound = outer
    return total


def value_at(node: Node, field: _Doubles) -> Any:
    """`evaluate` with arithmetic failures as Undefined or TooLarge."""
    try:
        value = evaluate(node, field)
    except OverflowError:
        raise TooLarge from None
    except (ZeroDivisionError, ValueError, TypeError, AttributeError, RecursionError):
        raise Undefined from None
    if value != value:
        raise Undefined
    return value


def _whole_symbols(node: Node) -> frozenset[str]:
    """Symbols that stand in the bounds of a sum: they are whole numbers."""
    found: frozenset[str] = frozenset()
    if node[0] == "big":
        found |= symbols(node[3]) | symbols(node[4])
    for child in children(node):
        found |= _whole_symbols(child)
    return found


def same_value(left: Node, right: Node) -> bool | None:
    """Whether two expressions are equal wherever both are defined; None where probing cannot tell."""
    if left == right:
        return True
    p, q = exact(left), exact(right)
    if p is not None and q is not None:
        return p == q
    if canonical(left) == canonical(right):
        return True
    whole = frozenset()  # type: frozenset[str]
    if "big" in operators(left) or "big" in operators(right):
        whole = _whole_symbols(left) | _whole_symbols(right)
    closed = not symbols(left) and not symbols(right)
    complex_written = has_imaginary(left) or has_imaginary(right)
    agreed: list[int] = []
    for point in range(1 if closed else len(POINTS)):
        verdict = _same_at(left, right, _Doubles(point, whole), _Doubles(point, whole), complex_written)
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


def _same_at(left: Node, right: Node, one: _Doubles, two: _Doubles, complex_written: bool) -> bool | None:
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
    one, two = _Digits(point, whole), _Digits(point, whole)
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
            value_at(node, _Digits(point, whole))
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
    """The real value of a closed expression, to DIGITS digits. Raises Undefined (also where it is not real), TooLarge."""
    field = _Digits(0, frozenset())
    value = value_at(node, field)
    if _imaginary(value) or not field.finite(value):
        raise Undefined
    value = field.mp.re(value)
    if value != 0 and abs(field.mp.mag(value)) > 4_000:
        raise TooLarge
    sign, mantissa, exponent, _ = value._mpf_
    size = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if sign else size


def proportional(left: Node, right: Node) -> int | None:
    """Whether left is a constant multiple of right: the constant's sign (1, -1), 0 where it is none, None where open."""
    if canonical(left) == canonical(right):
        return 1
    free = symbols(left)
    closed = not free and not symbols(right)
    ratios = []
    for point in range(1 if closed else 3):
        one, two = _Digits(point, frozenset()), _Digits(point, frozenset())
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
