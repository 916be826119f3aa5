"""Evaluate a tree at a point: in doubles for speed, in mpmath at 50 digits for certainty.

Each free symbol gets a value from a hash of its name and the point's number, so both sides of a comparison meet the
same numbers in every process and on every machine. Work is bounded: by steps, by the magnitude of exponents, by the
number of terms of a sum. What is beyond the bounds raises TooLarge and is compared by structure instead.
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

POINTS = (1, 1, -1)  # the sign of every symbol at each point
DIGITS = 50
MAX_STEPS = 20_000


class Undefined(Exception):
    """The expression has no value here (a pole, a word, an operator without a number)."""


class TooLarge(Exception):
    """The value is beyond what may be computed; its structure must decide."""


@lru_cache(maxsize=8_192)
def symbol_value(name: str, point: int, whole: bool) -> Fraction:
    """What a symbol stands for at a point; a whole number in the bounds of a sum."""
    share = unit_hash(name, point)
    if whole:
        return Fraction(3 + int(share * 5))
    return Fraction(POINTS[point]) * (Fraction(1, 2) + 2 * Fraction(share))


@lru_cache(maxsize=8_192)
def symbol_residue(name: str, point: int) -> int:
    """What a symbol stands for at a point of arithmetic modulo a prime: 56 bits, not zero."""
    return int(unit_hash(name, point) * 2**56) + 2


@lru_cache(maxsize=8_192)
def unit_hash(name: str, point: int) -> float:
    """A number in [0, 1) that depends on `name` and `point` alone."""
    digest = hashlib.blake2b(f"{name}\x00{point}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


_CONSTANTS = {"pi": math.pi, "e": math.e, "i": 1j, "inf": math.inf}


class Doubles:
    """Evaluation in IEEE doubles, complex where roots and powers leave the reals."""

    def __init__(self, point: int, whole: frozenset[str]) -> None:
        self.point, self.whole, self.bound = point, whole, {}  # type: tuple[int, frozenset[str], dict[str, Any]]
        self.peak = 0.0  # the largest term of any sum: what cancellation can lose digits of
        self.steps = 0

    def number(self, value: Fraction) -> Any:
        try:
            return value.numerator / value.denominator  # float(value), without its detour
        except OverflowError:
            raise TooLarge from None

    def symbol(self, name: str) -> Any:
        if name in self.bound:
            return self.bound[name]
        head, _, index = name.partition("_")
        if index in self.bound:
            return self.call(head, [self.bound[index]])
        return self.number(symbol_value(name, self.point, name in self.whole))

    def call(self, name: str, args: list[Any]) -> Any:
        """An unknown function: a fixed number for each name and arguments."""
        key = f"{name}({','.join(f'{complex(a):.9g}' for a in args)})"
        return self.number(Fraction(1, 2) + 2 * Fraction(unit_hash(key, self.point)))

    def constant(self, name: str) -> Any:
        return _CONSTANTS[name]

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


class Digits(Doubles):
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
        if exponent == 0.5 and base > 0:
            return self.mp.sqrt(base)
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


def evaluate(node: Node, field: Doubles) -> Any:
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


def _function(node: Node, field: Doubles) -> Any:
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


def _big(node: Node, field: Doubles) -> Any:
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


def value_at(node: Node, field: Doubles) -> Any:
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
