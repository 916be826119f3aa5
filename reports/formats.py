"""Values as people read them: grouped digits, shares in per cent, bytes and seconds in units that fit."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

TOLD = ("%", "bytes", "s")
"""Units that stand beside each value, and need not stand in the heading."""


def said(value: Any, unit: str = "") -> str:
    """A value of a column whose unit is known; text stays as it is, lists and objects become JSON."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, int | float):
        return number(value, unit)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def number(value: float, unit: str = "") -> str:
    """`12,345`, `0.123`, `12.3 %`, `4.2 MB`, `1 h 5 min`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "—"
    if unit == "%":
        return per_cent(value)
    if unit == "bytes":
        return size(value)
    if unit == "s":
        return duration(value)
    if isinstance(value, int) or value.is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `16 h 40 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def per_cent(value: float) -> str:
    """A share. What is neither nothing nor all is never shown as 0 % or 100 %."""
    for digits in (1, 2, 3):
        text = f"{100 * value:.{digits}f}"
        if (float(text) not in (0.0, 100.0)) or value in (0, 1):
            break
    return text.rstrip("0").rstrip(".") + " %" if "." in text else text + " %"


def size(count: float) -> str:
    """Bytes in powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def heading(column: str) -> str:
    """A column's name as a heading: `kept_share` is `kept share`."""
    return column.replace("_", " ")


def unit_beside(column: str, unit: str) -> str:
    """What a heading says of the unit: nothing where each value or the column's name says it."""
    return "" if unit in TOLD or heading(column).endswith(unit) else unit
