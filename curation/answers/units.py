r"""Quantities: a number with a unit of measure, a currency, or the noun of what is counted.

`split_quantity("864\mbox{ inches}^2")` gives the number's text and a Unit of dimension length^2 with its exact factor
to SI. Known units convert (5 cm is 50 mm) and never mix (5 cm is not 5 m). A word that is no unit ("apples", "sets",
"square units") is a noun: it says what is counted and has no dimension. Celsius and Fahrenheit are units of their own,
not converted: a difference and a reading convert differently and an answer does not say which it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from curation.answers.gate import names

Dimension = tuple[tuple[str, int], ...]

_PREFIXES = {
    "n": (-9, "nano"), "u": (-6, "micro"), "µ": (-6, "micro"), "μ": (-6, "micro"), "m": (-3, "milli"),
    "c": (-2, "centi"), "d": (-1, "deci"), "k": (3, "kilo"), "M": (6, "mega"), "G": (9, "giga"), "T": (12, "tera"),
    "h": (2, "hecto"), "p": (-12, "pico"),
}  # fmt: skip
# symbol, names, dimension, factor to SI
_PREFIXED: list[tuple[str, tuple[str, ...], str, Any]] = [
    ("m", ("meter", "metre"), "m", 1), ("g", ("gram", "gramme"), "kg", Fraction(1, 1000)),
    ("s", ("second", "sec"), "s", 1), ("L", ("liter", "litre"), "m3", Fraction(1, 1000)),
    ("l", (), "m3", Fraction(1, 1000)), ("Pa", ("pascal",), "kg m-1 s-2", 1), ("J", ("joule",), "kg m2 s-2", 1),
    ("W", ("watt",), "kg m2 s-3", 1), ("V", ("volt",), "kg m2 s-3 A-1", 1), ("A", ("ampere", "amp"), "A", 1),
    ("Hz", ("hertz",), "s-1", 1), ("N", ("newton",), "kg m s-2", 1), ("mol", ("mole",), "mol", 1),
    ("eV", ("electronvolt", "electron volt"), "kg m2 s-2", Fraction("1.602176634e-19")),
    ("B", ("byte",), "bit", 8), ("bit", ("bit",), "bit", 1), ("C", ("coulomb",), "A s", 1),
    ("T", ("tesla",), "kg s-2 A-1", 1), ("F", ("farad",), "A2 s4 kg-1 m-2", 1),
    ("cal", ("calorie",), "kg m2 s-2", Fraction("4.184")), ("ohm", ("ohm",), "kg m2 s-3 A-2", 1),
    ("K", ("kelvin",), "K", 1),
]  # fmt: skip
_PLAIN: dict[str, tuple[str, Any]] = {
    "in": ("m", "0.0254"), "inch": ("m", "0.0254"), "inches": ("m", "0.0254"), "ft": ("m", "0.3048"),
    "foot": ("m", "0.3048"), "feet": ("m", "0.3048"), "yd": ("m", "0.9144"), "yard": ("m", "0.9144"),
    "mi": ("m", "1609.344"), "mile": ("m", "1609.344"), "min": ("s", 60), "minute": ("s", 60), "h": ("s", 3600),
    "hr": ("s", 3600), "hour": ("s", 3600), "day": ("s", 86_400), "week": ("s", 604_800),
    "fortnight": ("s", 1_209_600), "month": ("month", 1), "year": ("month", 12), "yr": ("month", 12),
    "decade": ("month", 120), "century": ("month", 1200), "centuries": ("month", 1200), "lb": ("kg", "0.45359237"),
    "lbs": ("kg", "0.45359237"), "pound": ("kg", "0.45359237"), "oz": ("kg", "0.028349523125"),
    "ounce": ("kg", "0.028349523125"), "ton": ("kg", 1000), "tonne": ("kg", 1000), "t": ("kg", 1000),
    "acre": ("m2", "4046.8564224"), "hectare": ("m2", 10_000), "ha": ("m2", 10_000),
    "gallon": ("m3", "0.003785411784"), "gal": ("m3", "0.003785411784"), "quart": ("m3", "0.000946352946"),
    "pint": ("m3", "0.000473176473"), "cup": ("m3", "0.0002365882365"), "mph": ("m s-1", "0.44704"),
    "kph": ("m s-1", Fraction(5, 18)), "rpm": ("rev s-1", Fraction(1, 60)), "atm": ("kg m-1 s-2", 101_325),
    "bar": ("kg m-1 s-2", 100_000), "mmHg": ("kg m-1 s-2", "133.322387415"), "dollar": ("USD", 1),
    "dollars": ("USD", 1), "USD": ("USD", 1), "cent": ("USD", "0.01"), "cents": ("USD", "0.01"),
    "¢": ("USD", "0.01"), "euro": ("EUR", 1), "EUR": ("EUR", 1), "€": ("EUR", 1), "£": ("GBP", 1),
    "GBP": ("GBP", 1), "yuan": ("CNY", 1), "CNY": ("CNY", 1), "RMB": ("CNY", 1), "¥": ("CNY", 1), "元": ("CNY", 1),
    "yen": ("JPY", 1), "rupee": ("INR", 1), "$": ("USD", 1), "degree": ("deg", 1), "deg": ("deg", 1),
    "°": ("deg", 1), "^\\circ": ("deg", 1), "radian": ("rad", 1), "rad": ("rad", 1), "°C": ("celsius", 1),
    "^\\circ C": ("celsius", 1), "degrees Celsius": ("celsius", 1), "°F": ("fahrenheit", 1),
    "^\\circ F": ("fahrenheit", 1), "厘米": ("m", "0.01"), "米": ("m", 1), "千米": ("m", 1000), "公里": ("m", 1000),
    "毫米": ("m", "0.001"), "分米": ("m", "0.1"), "克": ("kg", "0.001"), "千克": ("kg", 1), "公斤": ("kg", 1),
    "吨": ("kg", 1000), "秒": ("s", 1), "分钟": ("s", 60), "小时": ("s", 3600), "天": ("s", 86_400), "度": ("deg", 1),
    "升": ("m3", "0.001"), "毫升": ("m3", "0.000001"), "平方米": ("m2", 1), "平方厘米": ("m2", "0.0001"),
    "Å": ("m", "1e-10"), "angstrom": ("m", "1e-10"), "Ω": ("kg m2 s-3 A-2", 1),
    "knot": ("m s-1", Fraction(1852, 3600)),
}  # fmt: skip
# One letter is a unit only where it stands apart from the number or inside \text.
_CONJUNCTIONS = names("and or but if is are not than then where when for the")
_MONEY = frozenset(("USD", "EUR", "GBP", "CNY", "JPY", "INR"))


@dataclass(frozen=True, slots=True)
class Unit:
    """A dimension with its factor to SI, or a noun (dimension empty) that only says what is counted."""

    dimension: Dimension
    factor: Fraction
    text: str

    @property
    def is_noun(self) -> bool:
        return not self.dimension

    @property
    def is_money(self) -> bool:
        return any(name in _MONEY for name, _ in self.dimension)


def _dimension(text: str) -> Dimension:
    parts = []
    for item in text.split():
        match = re.fullmatch(r"([A-Za-z]+)(-?\d+)?", item)
        assert match, text
        parts.append((match[1], int(match[2] or 1)))
    return tuple(sorted(parts))


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[Dimension, Fraction]]:
    table: dict[str, tuple[Dimension, Fraction]] = {}
    for symbol, written, dimension, factor in _PREFIXED:
        dims, size = _dimension(dimension), Fraction(factor)
        for prefix, (power, word) in _PREFIXES.items():
            scaled = size * Fraction(10) ** power
            table.setdefault(prefix + symbol, (dims, scaled))
            for name in written:
                table.setdefault(word + name, (dims, scaled))
        table[symbol] = (dims, size)
        for name in written:
            table[name] = (dims, size)
    for name, (dimension, factor) in _PLAIN.items():
        table[name] = (_dimension(dimension), Fraction(factor))
    for name in ("cc", "mL", "ml"):
        table[name] = (_dimension("m3"), Fraction(1, 1_000_000))
    return table


def _one(word: str) -> tuple[Dimension, Fraction] | None:
    table = _table()
    for form in (word, word.rstrip("."), word.lower() if len(word) > 2 else word):
        if form in table:
            return table[form]
        if len(form) > 3 and form.endswith("s") and form[:-1] in table:
            return table[form[:-1]]
        if len(form) > 4 and form.endswith("es") and form[:-2] in table:
            return table[form[:-2]]
    return None


_UNITS = re.compile(r"units?\s*\^?\s*\{?[23]\}?")  # of length, squared or cubed
_SQUARE = re.compile(r"\b(square|cubic)(?=[a-z]{2})")  # a space lost on the way
_POWER_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_UNIT_TOKEN = re.compile(
    r"(\^\{?\\circ\}?\s*[CF]?\b|°[CF]?|[A-Za-zµμΩÅ]+\.?|[€£¥$¢]|[一-鿿]+)|\^?\{?\(?(-?\d)\)?\}?|(/|per\b)|(\\cdot|\*|\\times|-)|\s+"
)


@lru_cache(maxsize=8_192)
def parse_unit(text: str) -> Unit | None:
    """A unit's text as a Unit; a noun where words are no unit; None where it is neither (symbols, long prose)."""
    text = _SQUARE.sub(r"\1 ", text.strip().strip(".,"))
    if not text or len(text) > 48:
        return None
    whole = _one(text)
    if whole:
        return Unit(whole[0], whole[1], text)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    sign, pending, at = 1, 1, 0
    last: tuple[Dimension, Fraction] | None = None
    words: list[str] = []
    unknown = 0
    while at < len(text):
        match = _UNIT_TOKEN.match(text, at)
        if not match:
            return None
        at = match.end()
        word, power, over, _times = match.groups()
        if over or (word and word == "per"):
            sign, last = -1, None
        elif power and last:
            extra = int(power) - 1
            for name, exponent in last[0]:
                powers[name] = powers.get(name, 0) + exponent * extra * sign
            factor *= last[1] ** (extra * sign)
        elif word:
            words.append(word)
            if word.lower() in _POWER_WORDS:
                exponent = _POWER_WORDS[word.lower()]
                if word.lower().endswith("ed") and last:
                    for name, size in last[0]:
                        powers[name] = powers.get(name, 0) + size * (exponent - 1) * sign
                    factor *= last[1] ** ((exponent - 1) * sign)
                else:
                    pending = exponent
                continue
            last = _one(re.sub(r"\{?\\circ\}?", "\\\\circ", word).replace("^\\circC", "^\\circ C"))
            if last is None:
                unknown += 1
                continue
            for name, exponent in last[0]:
                powers[name] = powers.get(name, 0) + exponent * pending * sign
            factor *= last[1] ** (pending * sign)
            if pending > 1:
                last = None
            pending = 1
    dimension = tuple(sorted((n, p) for n, p in powers.items() if p))
    if unknown or not dimension:
        noun = (not re.search(r"\d", text) or bool(_UNITS.fullmatch(text))) and not _CONJUNCTIONS.intersection(
            w.lower() for w in words
        )
        noun = (
            noun
            and all(
                len(w) > 2 or w.lower() in ("of", "in", "a", "an", "to", "sq", "cu") or _is_chinese(w) for w in words
            )
            and bool(words)
        )
        return Unit((), Fraction(1), " ".join(words).lower()) if noun and len(words) <= 6 else None
    return Unit(dimension, factor, text)


def _is_chinese(word: str) -> bool:
    return "\u4e00" <= word[0] <= "\u9fff"


_TEXT_COMMAND = re.compile(
    r"\\(?:text|mathrm|textnormal|textrm|mbox|rm|mathit|operatorname|textbf|mathbf|hbox|unit)\s*\{([^{}]*)\}"
)
_BOUNDARY = re.compile(
    r"(?:(?<=[\d)\]}!])|(?<=\\pi)|(?<=[a-z])(?=\s*\x01))[\s~]*(?=\^\{?\\circ\}?|[\x01A-Za-zµμΩÅ€£¥¢°一-鿿])"
)
_WORD = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log|exp|and\b)[A-Za-z]{3,}")
_GLUED = re.compile(r"[A-Za-zµμΩÅ]{2,}\.?(?:\^?\{?[23]\}?)?(?:/[A-Za-z]+(?:\^?\{?[23]\}?)?)?|[^\x00-\x7f].*")
_UNIT_TEXT = re.compile(r"(?:\^\{?\\circ\}?|[A-Za-zµμΩÅ€£¥¢°一-鿿\s./^\-\d*{}()\x01]|\\cdot|\\times|\\ )+")
_OHM = re.compile(r"(?<=[\dkM~, ])\\Omega")
_COMPOUND = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+\.?|[一-鿿]+)\s*(?:,|and)?")
_PREFIX_MONEY = re.compile(r"([-+]?)\s*(?:US|AU|CA|HK|NZ)?(\\?\$|€|£|¥|￥|Rs\.?|USD|EUR)\s*(?=[\d.\\-])")


@lru_cache(maxsize=16_384)
def split_quantity(text: str) -> tuple[str, Unit | None]:
    """The number's text and its unit (None without one) of a normal form. A long text is no quantity."""
    if len(text) > 300:
        return text, None
    if "\\Omega" in text:
        text = _OHM.sub("Ω", text)
    money = _PREFIX_MONEY.match(text)
    if money:
        sign = {"$": "$", "\\$": "$", "Rs": "rupee", "Rs.": "rupee", "￥": "¥"}.get(money[2], money[2])
        rest, unit = split_quantity(text[money.end() :])
        found = _one(sign)
        assert found
        if unit is None or unit.is_noun or unit.dimension[0][0] in _MONEY:
            scale = Fraction(1)
            if unit and unit.text in ("million", "billion", "thousand"):
                scale = Fraction({"thousand": 10**3, "million": 10**6, "billion": 10**9}[unit.text])
            return money[1] + rest, Unit(found[0], found[1] * scale, sign)
    marked = _TEXT_COMMAND.sub(lambda m: " \x01" + m[1].replace("~", " ") + " ", text) if "\\" in text else text
    compound = _compound(marked)
    if compound:
        return compound
    for tries, boundary in enumerate(_BOUNDARY.finditer(marked)):
        written = marked[boundary.end() :]
        if tries == 8 or "\x01" in marked[: boundary.start()]:
            break
        if not _UNIT_TEXT.fullmatch(written):
            continue
        in_text = "\x01" in written
        clean = re.sub(r"\s+", " ", written.replace("\x01", " ").replace("\\ ", " ")).strip()
        apart = in_text or boundary.end() > boundary.start() or not clean[:1].isascii() or clean.startswith("^")
        if not apart and not _GLUED.fullmatch(clean):
            continue  # `5m` and `6C-5A` are products of symbols, `5cm` and `30km/h` are quantities
        unit = parse_unit(clean)
        if unit and not (unit.is_noun and not apart) and not _WORD.search(marked[: boundary.start()]):
            return marked[: boundary.start()].strip(), unit
    return text, None


def _compound(text: str) -> tuple[str, Unit] | None:
    """`3 hours 20 minutes`, `5 ft 3 in`: a sum of two or more quantities of one dimension."""
    parts: list[tuple[Fraction, Unit]] = []
    at = 0
    while at < len(text):
        match = _COMPOUND.match(text, at)
        if not match:
            return None
        unit = parse_unit(match[2])
        if unit is None or unit.is_noun:
            return None
        parts.append((Fraction(match[1]), unit))
        at = match.end()
    if len(parts) < 2 or len({u.dimension for _, u in parts}) != 1:
        return None
    least = min(parts, key=lambda p: p[1].factor)[1]
    total = sum((v * u.factor for v, u in parts), Fraction(0)) / least.factor
    return (str(total) if total.denominator == 1 else f"{total.numerator}/{total.denominator}"), least
