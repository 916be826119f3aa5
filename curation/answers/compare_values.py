"""Compare two values: plain numbers as exact rationals, quantities by their units, everything else as trees."""

from __future__ import annotations

import re
from dataclasses import replace

from curation.answers import approximate, structure
from curation.answers.numbers import Number, parse_number
from curation.answers.outcome import Outcome
from curation.answers.parser import Node, parse
from curation.answers.policy import Policy
from curation.answers.tree import exact
from curation.answers.units import Unit, split_quantity

_LEADING_ZERO = re.compile(r",0\d")  # the groups of one number, not the members of a list
_GROUPED_COMMA = re.compile(r"-?\d{1,3}(?:\.\d{3})+,\d+")
_DECIMAL_COMMA = re.compile(r"-?\d+,(?:\d{1,2}|\d{4,})")


def numbers(a: Number, b: Number, policy: Policy) -> Outcome:
    """Two plain numbers: exact rationals, then rounding and the percent sign."""
    if policy.lowest_terms and not b.reduced:
        return Outcome(False, "number", "the fraction is not in lowest terms")
    if a.currency and b.currency and a.currency != b.currency:
        return Outcome(False, "number", f"{a.currency} and {b.currency} measure different things")
    p = a.value / 100 if a.percent else a.value
    q = b.value / 100 if b.percent else b.value
    if p.numerator == q.numerator and p.denominator == q.denominator:
        return Outcome(True, "number", "equal rationals")
    if a.percent != b.percent and policy.percent_sign_optional and a.value == b.value and abs(a.value) >= 1:
        return Outcome(True, "number", "equal but for a percent sign")
    if a.places is None and (b.places is None or approximate.finite_decimal(a.value)):
        return Outcome(False, "number", "different rationals")  # an exact gold that no decimal rounds
    same = approximate.same(_leaf(a), _leaf(b), policy)
    return Outcome(bool(same), "number", "equal when rounded" if same else "different values")


def _leaf(n: Number) -> Node:
    node: Node = ("num", n.value) if n.places is None else ("dec", n.value, n.places)
    return ("pct", node) if n.percent else node


def quantities(left: str, right: str, policy: Policy) -> Outcome:
    """Numbers with units: convert, or refuse to mix; then the values as trees."""
    body, unit = split_quantity(left)
    other_body, other_unit = split_quantity(right)
    if unit is None and other_unit is None:
        return _trees(left, right, policy)
    if unit is not None and other_unit is not None and not unit.is_noun and not other_unit.is_noun:
        return _converted(body, unit, other_body, other_unit, policy)
    if (
        unit is not None
        and other_unit is not None
        and unit.text != other_unit.text
        and not _same_noun(unit, other_unit)
    ):
        same = _trees(body, other_body, policy)
        return same if same.equal is False else Outcome(None, "none", f"{unit.text} against {other_unit.text}")
    outcome = _trees(body, other_body, policy)
    if outcome.equal is None and outcome.trees is None:
        whole = _trees(left, right, policy)  # what looked like a unit may be a symbol
        return whole if whole.equal is not None else outcome
    if outcome.equal is False and (unit is None) != (other_unit is None):
        # 90 degrees against pi/2: the side without a unit is in radians.
        p, q, strict = parse(body), parse(other_body), replace(policy, missing_unit="refuse")
        named = unit or other_unit
        degrees = named is not None and named.dimension == _DEGREES
        if degrees and p and q:
            one: Node = ("deg", p) if unit else p
            two: Node = q if unit else ("deg", q)
            if structure.equal(one, two, strict):
                return Outcome(True, "number", "degrees and radians")
    if outcome.equal and policy.missing_unit == "refuse" and (unit is None) != (other_unit is None):
        named = unit or other_unit
        if named and not named.is_noun:
            return Outcome(False, "number", f"the unit {named.text} is missing on one side")
    return outcome


_DEGREES = (("deg", 1),)


def two_nouns(left: str, right: str) -> bool:
    """Whether both sides count something, and not the same: `100 apples` against `100 oranges`."""
    unit, other = split_quantity(left)[1], split_quantity(right)[1]
    nouns = unit is not None and other is not None and unit.is_noun and other.is_noun
    return nouns and not _same_noun(unit, other)  # type: ignore[arg-type]


def _same_noun(a: Unit, b: Unit) -> bool:
    words, others = set(a.text.lower().split()), set(b.text.lower().split())
    stems = [{w.rstrip("s") for w in group} for group in (words, others)]
    return stems[0] <= stems[1] or stems[1] <= stems[0]


def _converted(body: str, unit: Unit, other_body: str, other_unit: Unit, policy: Policy) -> Outcome:
    if unit.dimension != other_unit.dimension:
        if {unit.dimension, other_unit.dimension} != {_DEGREES, (("rad", 1),)}:
            return Outcome(False, "number", f"{unit.text} and {other_unit.text} measure different things")
        degrees, radians = (body, other_body) if unit.dimension == _DEGREES else (other_body, body)
        p, q = parse(degrees), parse(radians)
        same = structure.equal(("deg", p), q, policy) if p and q else None
        return Outcome(same, "number", "degrees and radians")
    if unit.factor == other_unit.factor:
        return _trees(body, other_body, policy)
    p, q = parse(body), parse(other_body)
    if p is None or q is None:
        return Outcome(None, "none", "no value before the unit")
    scaled: Node = ("mul", ("num", other_unit.factor / unit.factor), q)
    same = structure.equal(p, scaled, policy)
    if same is False:
        same = approximate.same(p, scaled, policy)
    return Outcome(same, "number", f"{other_unit.text} converted to {unit.text}")


def _trees(left: str, right: str, policy: Policy) -> Outcome:
    a, b = parse_number(left), parse_number(right)
    if a and b:
        return numbers(a, b, policy)
    gold, answer = parse(left), parse(right)
    if answer is None and gold is not None and gold[0] != "rel" and right.count("=") == 1:
        answer = parse(right.partition("=")[2].strip())  # words on the left: `circumference = 6 pi`
    if gold is None or answer is None:
        return Outcome(None, "none", "not an expression")
    same = structure.equal(gold, answer, policy)
    if same is not True:
        for reading in _readings(left, right, gold, answer, policy):
            if structure.equal(*reading, policy):
                same = True
                break
    if same is None:
        return Outcome(None, "none", "probing cannot tell", trees=(gold, answer))
    return Outcome(same, "number", "equal values" if same else "different values or structure")


def _readings(left: str, right: str, gold: Node, answer: Node, policy: Policy) -> list[tuple[Node, Node]]:
    """Other readings of the same characters: `100,200` as a list, `2,74` as a decimal, `42!` as an exclamation."""
    found = []
    if policy.decimal_comma and ("," in left or "," in right):
        for one, two in ((left, right), (right, left)):
            if _DECIMAL_COMMA.fullmatch(one) and parse_number(two):
                point = parse(one.replace(",", "."))
                assert point
                found.append((point, answer) if one is left else (gold, point))
            if _GROUPED_COMMA.fullmatch(one) and parse_number(two):
                point = parse(one.replace(".", "").replace(",", "."))
                assert point
                found.append((point, answer) if one is left else (gold, point))
    if right.endswith("!") and "!" not in left and (calm := parse(right[:-1])) is not None and exact(calm) is not None:
        found.append((gold, calm))
    if ("," in left or "," in right) and not (_LEADING_ZERO.search(left) or _LEADING_ZERO.search(right)):
        lists = parse(left, False), parse(right, False)
        if lists[0] is not None and lists[1] is not None and lists != (gold, answer):
            found.append((lists[0], lists[1]))
    return found
