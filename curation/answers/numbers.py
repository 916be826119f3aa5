r"""Plain numbers as exact rationals: the cheapest tier that knows that 0.50 is 1/2.

`parse_number` reads what needs no grammar: integers, thousands separators, decimals, powers of ten, a/b,
\frac{a}{b}, mixed numbers, a percent sign, currency. It returns None for everything else; the parser has the rest.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from curation.answers.gate import MAX_DIGITS

_PLAIN = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<currency>\\?\$|€|£|¥|￥)\s*(?P<sign2>[-+]?))?"
    r"(?P<whole>\d{1,3}(?:(?:,|\{,\}|,\\!|\\,|,?[ ](?=\d{3}\b))\d{3})+(?![\d,])|\d*)(?P<frac>\.\d*)?"
    r"(?:\s*(?:[eE]|(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*))\s*(?P<brace>[{(])?\s*(?P<exp>[-+]?\d{1,4})\s*(?(brace)[)}]))?"
    r"\s*(?P<percent>\\?%|percent|per cent|pct|percentage)?"
)
_DIGIT = re.compile(r"\d")
_NO_DIGITS = re.compile(r"\D")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:\.\d{3}){2,}")  # 1.234.567, as half of the world groups
_NO_NUMBER = re.compile(r"[=<>|&_;:!?]|[A-Za-z]{11}")
_RATIO = re.compile(r"([-+]?\s*\d+)\s*/\s*([-+]?\d+)")
_FRAC = re.compile(r"([-+]?)\s*(\d*)\s*\\[dtc]?frac\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))")
_MIXED = re.compile(r"([-+]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)")


class Number(NamedTuple):
    """An exact value with how it was written: decimal places (None for integers and fractions) and a percent sign."""

    value: Fraction
    places: int | None = None
    percent: bool = False
    currency: str = ""
    digits: int = 0  # significant digits as written, for decimals
    reduced: bool = True


def significant_digits(mantissa: str) -> int:
    """Significant digits of a decimal mantissa: `0.0500` has three."""
    digits = mantissa.replace(".", "").lstrip("0")
    return len(digits)


@lru_cache(maxsize=32_768)
def parse_number(text: str) -> Number | None:
    """`text` (already in ASCII math) as an exact number, or None. Linear; at most MAX_DIGITS digits."""
    text = text.strip()
    if text.isdigit() and text.isascii() and len(text) <= MAX_DIGITS:
        return Number(Fraction(int(text)), digits=significant_digits(text))
    if len(text) > MAX_DIGITS or not _DIGIT.search(text) or _NO_NUMBER.search(text):
        return None
    if text.count(".") > 1 and _GROUPED.fullmatch(text):
        text = text.replace(".", "")
    match = _PLAIN.fullmatch(text)
    if match:
        sign, currency, sign2, whole, frac, _, exp, percent = match.groups()
        if whole and not whole.isdigit():
            whole = _NO_DIGITS.sub("", whole)
        frac = frac[1:] if frac else ""
        if not whole and not frac:
            return None
        exponent = int(exp) if exp else 0
        if abs(exponent) > 4000:
            return None
        mantissa = int((whole or "0") + frac)
        if (sign == "-") != (sign2 == "-"):
            mantissa = -mantissa
        shift = exponent - len(frac)
        value = Fraction(mantissa * 10**shift) if shift >= 0 else Fraction(mantissa, 10**-shift)
        currency = currency.lstrip("\\") if currency else ""
        return Number(value, -shift if frac else None, bool(percent), currency, significant_digits(whole + "." + frac))
    match = _RATIO.fullmatch(text)
    if match:
        top, bottom = int(match[1].replace(" ", "")), int(match[2])
        return _fraction(top, bottom, 1)
    match = _FRAC.fullmatch(text)
    if match:
        top, bottom = int(match[3] or match[4]), int(match[5] or match[6])
        return _fraction(top, bottom, -1 if match[1] == "-" else 1, int(match[2]) if match[2] else 0)
    match = _MIXED.fullmatch(text)
    if match:
        return _fraction(int(match[3]), int(match[4]), -1 if match[1] == "-" else 1, int(match[2]))
    return None


_SMALL = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_TEXT = re.compile(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}")
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6}
_HAN = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10_000}


def number_in_words(text: str) -> str:
    """A whole number written out in English or Chinese, in digits: `twenty-five` is 25, `十二` 12; else the empty text."""
    if held := _TEXT.fullmatch(text):
        text = held[1]
    if len(text) > 80 or text.startswith("-") or not (words := text.lower().replace("-", " ").strip(" .").split()):
        return ""
    if len(words) == 1 and not text.isascii():
        return _han(words[0])
    total = group = 0
    for word in words:
        if word in _SMALL:
            group += _SMALL[word]
        elif word == "hundred" and group:
            group *= 100
        elif word in _LARGE and group:
            total, group = total + group * _LARGE[word], 0
        elif word != "and":
            return ""
    return str(total + group) if words[0] != "and" else ""


def _han(text: str) -> str:
    if all(char in _HAN for char in text):
        return "".join(str(_HAN[char]) for char in text)
    total = group = digit = 0
    for char in text:
        if char in _HAN:
            digit = _HAN[char]
        elif char == "万":
            total, group, digit = (total + group + digit) * 10_000, 0, 0
        elif char in _HAN_UNITS:
            group, digit = group + (digit or 1) * _HAN_UNITS[char], 0
        else:
            return ""
    return str(total + group + digit)


def _fraction(top: int, bottom: int, sign: int, whole: int = 0) -> Number | None:
    if bottom == 0:
        return None
    value = Fraction(top, bottom)
    return Number(sign * (whole + value), reduced=value.denominator == abs(bottom))
