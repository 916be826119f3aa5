"""Calendar dates and times of day, compared by their parts and never as numbers.

`January 15, 2018` and `15 Jan 2018` are one date; `11:15 A.M.` and `11:00 A.M.` are two times. A part that one side
leaves out (the year) is open, so `May 7` meets `May 7, 2018` only where the policy of the caller says so: here the
result is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_MONTHS = {
    name: number
    for number, names in enumerate(
        [
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sept sep",
            "october oct",
            "november nov",
            "december dec",
        ],
        1,
    )
    for name in names.split()
}
_MONTH = "(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"
_DATES = [
    re.compile(rf"{_WEEKDAY}(?:on\s+)?{_MONTH}\s+{_DAY}(?:\s*,?\s*{_YEAR})?", re.IGNORECASE),
    re.compile(rf"{_WEEKDAY}(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:\s*,?\s*{_YEAR})?", re.IGNORECASE),
    re.compile(rf"{_MONTH},?\s+(?:of\s+)?{_YEAR}(?P<day>(?!.))?", re.IGNORECASE),
    re.compile(rf"{_YEAR}-(?P<month>\d{{1,2}})-(?P<day>\d{{1,2}})"),
    re.compile(rf"{_YEAR}\s*年\s*(?P<month>\d{{1,2}})\s*月(?:\s*(?P<day>\d{{1,2}})\s*[日号])?"),
]
_DIGIT = re.compile(r"\d")
_MAYBE_DATE = re.compile(r"\d.*[A-Za-z年-]|[A-Za-z].*\d", re.DOTALL)
_MAYBE_TIME = re.compile(r"\d\s*(?::|[ap]\.?\s*m|o'clock|\\text)", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?\s*(?:o'clock)?\s*(?P<half>[ap]\.?\s*m\b\.?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Date:
    year: int | None
    month: int
    day: int | None


@lru_cache(maxsize=16_384)
def parse_date(text: str) -> Date | None:
    """`text` as a date, or None where it is anything else."""
    text = text.strip().rstrip(".")
    if len(text) > 40 or not _DIGIT.search(text) or not _MAYBE_DATE.search(text):
        return None
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            parts = match.groupdict()
            month = parts["month"].lower().rstrip(".")
            number = _MONTHS.get(month) or int(month)
            day = int(parts["day"]) if parts.get("day") else None
            if 1 <= number <= 12 and (day is None or 1 <= day <= 31):
                return Date(int(parts["year"]) if parts.get("year") else None, number, day)
    return None


@lru_cache(maxsize=16_384)
def parse_time(text: str) -> tuple[int, int, int, bool] | None:
    """`text` as (hour, minute, second, whether am or pm was written), or None."""
    if len(text) > 40 or not _DIGIT.search(text) or not _MAYBE_TIME.search(text):
        return None
    match = _TIME.fullmatch(text.strip().replace("\\text{", "").replace("}", "").strip())
    if not match or not (match["minute"] or match["half"]):
        return None
    hour, minute, second = int(match["hour"]), int(match["minute"] or 0), int(match["second"] or 0)
    if minute > 59 or second > 59 or hour > 24:
        return None
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"].lower().startswith("p") else 0)
    return hour, minute, second, bool(match["half"])


def same_date(gold: str, answer: str) -> bool | None:
    """Equality of two dates; None where either is no date or a part is left out on one side."""
    a = parse_date(gold)
    b = parse_date(answer) if a else None
    if a is None or b is None:
        return None
    pairs = [(a.year, b.year), (a.month, b.month), (a.day, b.day)]
    if any(p is not None and q is not None and p != q for p, q in pairs):
        return False
    return True if all((p is None) == (q is None) for p, q in pairs) else None


def same_time(gold: str, answer: str) -> bool | None:
    """Equality of two times of day; None where either is no time. Without am/pm on one side, 12 hours apart is open."""
    a = parse_time(gold)
    b = parse_time(answer) if a else None
    if a is None or b is None or not (a[3] or b[3] or gold.count(":") + answer.count(":") == 2):
        return None
    if a[:3] == b[:3]:
        return True
    if a[3] != b[3] and (a[0] - b[0]) % 12 == 0 and a[1:3] == b[1:3]:
        return None if min(a[0], b[0]) < 12 and not (a[0] >= 13 and b[0] >= 13) else False
    return False


def find_dates(text: str) -> list[Date]:
    """All dates that stand in a text."""
    found = []
    for pattern in _DATES:
        for match in pattern.finditer(text):
            date = parse_date(match[0])
            if date:
                found.append(date)
    return found
