"""What every part of the parser needs: reading tokens with a depth limit, and building leaves and products.

Points, sets and relations are not added or multiplied: side by side they are something else, so building such a node
raises NotMath.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

from curation.answers.gate import MAX_NESTING
from curation.answers.lexer import NotMath, Token

Node = tuple[Any, ...]

CALLS = frozenset(("f", "g", "h", "F", "G", "H", "phi", "Phi", "psi", "Psi", "varphi"))
END: Token = ("end", "")
WORD_SEPARATORS = frozenset(("and", "or"))


class Reader:
    """A list of tokens, a position in it, and how deep and inside how many bars the parser stands."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    def peek(self) -> Token:
        try:
            return self.tokens[self.at]
        except IndexError:
            return END

    def take(self, kind: str, value: str | None = None) -> bool:
        if self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token[0] == kind and (value is None or token[1] == value):
                self.at += 1
                return True
        return False

    def expect(self, value: str) -> None:
        if not self.take("op", value):
            raise NotMath(f"expected {value}, found {self.peek()[1]!r}")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise NotMath("nested too deep")

    # -- lists and relations -------------------------------------------------------------------------------------


@lru_cache(maxsize=8_192)
def number(text: str) -> Node:
    """A number token as an exact leaf; decimals remember their places."""
    if text.isdigit() and len(text) <= 2000:
        return ("num", Fraction(int(text)))
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > 2000 or (exponent and abs(int(exponent)) > 4000):
        raise NotMath("a number with too many digits")
    value = Fraction(mantissa if not mantissa.startswith(".") else "0" + mantissa)
    places = len(mantissa.partition(".")[2])
    if exponent:
        value = value * Fraction(10) ** int(exponent)
        places -= int(exponent)
    return ("dec", value, places) if "." in mantissa or exponent else ("num", value)


_NO_ARITHMETIC = frozenset(("brk", "list", "set", "rel", "cup", "cap", "minus", "ratio", "cases"))


def arithmetic(*nodes: Node) -> None:
    """Points, sets and relations are not added or multiplied: side by side they are something else."""
    if any(n[0] in _NO_ARITHMETIC for n in nodes):
        raise NotMath("arithmetic with points or sets")


def negated(node: Node) -> Node:
    """Minus a value."""
    arithmetic(node)
    return ("neg", node)


def multiplied(left: Node, right: Node) -> Node:
    """A product, flat."""
    arithmetic(left, right)
    return (*left, right) if left[0] == "mul" else ("mul", left, right)


def proper(node: Node) -> bool:
    """A fraction of whole numbers below one: what can follow the whole part of a mixed number."""
    if node[0] != "div" or node[1][0] != "num" or node[2][0] != "num":
        return False
    return 0 < node[1][1] < node[2][1]


def letter(char: str) -> Node:
    """A single letter: i and e are constants, the rest symbols."""
    if char in ("i", "e"):
        return ("const", char)
    return ("sym", char)


def primed(node: Node, count: int) -> Node:
    """A symbol with primes."""
    if node[0] == "sym":
        return ("sym", node[1] + "'" * count)
    raise NotMath("a prime on something without a name")
