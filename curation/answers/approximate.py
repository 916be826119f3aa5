"""Equality of two single values: exact first, then the written rules for rounding, percent and degrees.

A decimal gold of some precision is a rounded value: 3.1416 is met by 3.14159 and by pi, never by 3.142. An exact gold
without a finite decimal (2/3, sqrt 2) is met by its decimal if that is rounded correctly to enough digits. Integers and
finite exact values are exact. The direction matters: an answer may know more than the gold, not less.
"""

from __future__ import annotations

from fractions import Fraction

from curation.answers.parser import Node
from curation.answers.policy import Policy
from curation.answers.probe import TooLarge, Undefined, digits_value, same_value
from curation.answers.tree import Survey, exact, survey, symbols, ungroup

FLOAT_DIGITS = 10  # a decimal of so many digits is the output of a program
FLOAT_ERROR = Fraction(1, 10**9)


def same(gold: Node, answer: Node, policy: Policy, of: tuple[Survey, Survey] | None = None) -> bool | None:
    """Whether one value meets another under the policy's conventions. `of` are both sides' surveys, if known."""
    gold, answer = ungroup(gold), ungroup(answer)
    of = of or (survey(gold), survey(answer))
    result = _with_rounding(gold, answer, policy, of)
    if result is True:
        return True
    ours, theirs = of[0].operators, of[1].operators
    if ("pct" in ours) != ("pct" in theirs):
        bare_gold, bare_answer = _without(gold, "pct"), _without(answer, "pct")
        if policy.percent_sign_optional and _at_least_one(bare_gold):
            other = _with_rounding(bare_gold, bare_answer, policy)
            result = other if other else result
    if result is not True and ("deg" in ours) != ("deg" in theirs):
        other = _with_rounding(_without(gold, "deg"), _without(answer, "deg"), policy)
        result = other if other and policy.missing_unit == "accept" else result
    return result


def _without(node: Node, op: str) -> Node:
    """The node without a percent or degree sign at its top (under a minus too)."""
    if node[0] == op:
        return node[1]
    if node[0] in ("neg", "grp", "cur"):
        return (node[0], _without(node[1], op))
    return node


def _at_least_one(node: Node) -> bool:
    value = exact(node)
    return value is not None and abs(value) >= 1


def _with_rounding(gold: Node, answer: Node, policy: Policy, of: tuple[Survey, Survey] | None = None) -> bool | None:
    of = of or (survey(gold), survey(answer))
    result = same_value(gold, answer, of)
    if result is not False or of[0].symbols or of[1].symbols:
        return result
    written_gold, written_answer = _decimal(gold), _decimal(answer)
    if written_gold is not None:
        value, places, digits = written_gold
        number = _real(answer) if policy.tolerance else None
        if number is not None and abs(number - value) <= Fraction(policy.tolerance) * abs(value):
            return True
        if not policy.gold_rounding_digits or digits < policy.gold_rounding_digits:
            return result
        if written_answer is not None and written_answer[1] <= places:
            return result
        if written_answer is None and (exact_answer := exact(answer)) is not None and exact_answer.denominator == 1:
            return result
        number = _real(answer)
        return True if number is not None and _rounds_to(number, value, places) else result
    if written_answer is not None and policy.answer_rounding_digits:
        value, places, digits = written_answer
        if digits < policy.answer_rounding_digits or places < 1:
            return result
        exact_gold = exact(gold)
        if exact_gold is not None and finite_decimal(exact_gold):
            return result
        number = _real(gold)
        if number is None:
            return result
        if digits >= FLOAT_DIGITS and abs(number - value) <= FLOAT_ERROR * abs(number):
            return True  # computed in floating point
        return True if _rounds_to(number, value, places) else result
    return result


def _decimal(node: Node) -> tuple[Fraction, int, int] | None:
    """A value written as a decimal: (value, decimal places, significant digits)."""
    sign, scale, shift = 1, Fraction(1), 0
    node = ungroup(node)
    while node[0] in ("neg", "grp", "cur", "pct", "deg"):
        if node[0] == "neg":
            sign = -sign
        if node[0] == "pct":
            scale, shift = scale / 100, shift + 2
        node = node[1]
    if node[0] == "mul" and node[1][0] == "dec" and len(node) == 3 and node[2][0] == "pow":
        power = exact(node[2])
        base = exact(node[2][1])
        if power and base == 10:
            exponent = len(str(power.numerator)) - len(str(power.denominator))
            scale, shift = scale * power, shift - exponent
            node = node[1]
    if node[0] != "dec":
        return None
    value, places = node[1], node[2]
    digits = len(str(abs(int(value * Fraction(10) ** places)))) if value else 1
    return sign * value * scale, places + shift, digits


def finite_decimal(value: Fraction) -> bool:
    """Whether a rational has a decimal that ends."""
    bottom = value.denominator
    for factor in (2, 5):
        while bottom % factor == 0:
            bottom //= factor
    return bottom == 1


def _real(node: Node) -> Fraction | None:
    """The real value of a closed expression as a rational of 50 digits."""
    value = exact(node)
    if value is not None:
        return value
    try:
        return digits_value(node)
    except (Undefined, TooLarge):
        return None


def real_value(node: Node) -> float | None:
    """The real value of a closed expression in double precision, or None."""
    if symbols(node):
        return None
    value = _real(node)
    return None if value is None else float(value)


def _rounds_to(number: Fraction, value: Fraction, places: int) -> bool:
    """Whether `number`, rounded to `places` decimals, is `value`; both ways of rounding a half count."""
    if abs(places) > 1000:
        return False
    return abs(number - value) * 2 <= Fraction(1) / Fraction(10) ** places
