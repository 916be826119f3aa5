"""Charts: an answer as a Vega-Lite figure, drawn to SVG without a browser by vl-convert (the extra `report`).

Colours are CSS variables of the page, so that one drawing serves light and dark. They are Okabe and Ito's, which people
with any colour vision tell apart; what matters has a colour of its own everywhere (kept, correct, truncated, …). The
drawing is taken apart and put together again from a list of what may stand in it, because labels come from data.

Without vl-convert there are no drawings, and the tables say everything.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from reports.formats import heading, said, unit_beside
from reports.questions import Answer
from reports.text import harmless

WIDTH = 560
CATEGORIES = 20
"""Bars of a chart at most; the table has the rest."""
SERIES = 8
SECONDS = 60
"""That all drawings of a report may take."""
DEATHS = 3
"""Of the drawer, after which it is not tried again."""

MEANING = {
    **dict.fromkeys(("kept", "correct", "exported", "finished", "as expected"), "good"),
    **dict.fromkeys(("dropped", "incorrect", "failed", "taken out", "leak"), "bad"),
    **dict.fromkeys(("merged", "truncated", "sibling"), "part"),
    **dict.fromkeys(("quarantined", "no_answer", "picture"), "odd"),
    **dict.fromkeys(("undecided", "unparsable_gold", "checker_timeout", "checker_error", "not_exported"), "grey"),
    **dict.fromkeys(("total", "all sources"), "main"),
}
"""What a value means, for those that mean the same everywhere: names of the page's colours."""
_CYCLE = ("main", "c2", "c3", "c4", "c5", "c6", "c7", "grey")

_TAGS = {"svg", "g", "path", "line", "rect", "circle", "text", "tspan", "title"}
_ATTRIBUTES = {
    "viewBox", "class", "transform", "d", "x", "y", "x1", "x2", "y1", "y2", "r", "cx", "cy", "width", "height", "fill", "stroke",
    "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "opacity", "fill-opacity",
    "stroke-opacity", "text-anchor", "font-size", "font-weight", "dy", "dx", "pointer-events", "display",
}  # fmt: skip


@cache
def can_draw() -> bool:
    """Whether vl-convert is installed."""
    return importlib.util.find_spec("vl_convert") is not None


def draw(answers: Sequence[Answer]) -> list[str]:
    """The chart of each answer as an SVG element, or "" where a table says it better or nothing can draw."""
    specs = [specification(answer) if can_draw() else None for answer in answers]
    drawn = iter(_drawn([json.dumps(spec) for spec in specs if spec is not None]))
    svgs = ["" if spec is None else next(drawn) for spec in specs]
    return [_cleaned(svg, answer.question.title) if svg else "" for svg, answer in zip(svgs, answers, strict=True)]


def _drawn(specs: list[str]) -> list[str]:
    """The SVG of each specification. One that the drawer dies of, or does not finish, is ""."""
    drawn: list[str] = []
    for _ in range(DEATHS):
        todo = specs[len(drawn) :]
        if not todo:
            break
        words = [sys.executable, str(Path(__file__).with_name("drawing.py"))]
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            said, _ = child.communicate("".join(f"{spec}\n" for spec in todo), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            said, _ = child.communicate()
        drawn += [json.loads(line) for line in said.splitlines() if line.endswith('"')]
        if len(drawn) < len(specs):
            drawn.append("")
    return [*drawn, *[""] * (len(specs) - len(drawn))]


def specification(answer: Answer) -> dict[str, Any] | None:
    """The Vega-Lite figure of an answer, or None where it has none."""
    question = answer.question
    if answer.empty or answer.table is None or question.chart not in _SPECS:
        return None
    lines = [{k: _plain(v) for k, v in line.items()} for line in answer.table.to_pylist()]
    if (
        question.chart == "bars"
        and len({line[question.roles["y"]] for line in lines}) < 2
        and "color" not in question.roles
    ):
        return None  # one bar says nothing
    spec = _SPECS[question.chart](lines, question.roles, question.units)
    if spec is None:
        return None
    config = {
        "background": None,
        "view": {"stroke": None},
        "font": "sans-serif",
        "axis": {
            "labelColor": "var(--text)", "titleColor": "var(--soft)", "titleFontWeight": "normal", "gridColor": "var(--line)",
            "domainColor": "var(--line)", "tickColor": "var(--line)", "labelLimit": 170, "labelFontSize": 12, "titleFontSize": 12, "labelPadding": 7,
        },
        "legend": {"labelColor": "var(--text)", "orient": "top", "title": None, "labelFontSize": 12, "symbolType": "square"},
        "text": {"color": "var(--text)", "fontSize": 12},
    }  # fmt: skip
    schema = "https://vega.github.io/schema/vega-lite/v5.json"
    return {"$schema": schema, "config": config, "data": {"values": spec.pop("values")}, **spec}


# ------------------------------------------------------------------------------------------------------------- the kinds


def _bars(lines: list[dict[str, Any]], roles: Mapping[str, str], units: Mapping[str, str]) -> dict[str, Any]:
    y, x, color = roles["y"], roles["x"], roles.get("color")
    lines, names = _first(lines, y, CATEGORIES)
    lines, encoding = _coloured(lines, color)
    base = {
        "y": {"field": y, "type": "nominal", "sort": names, "title": None, "axis": {"ticks": False, "domain": False}},
        "x": {**_amount(x, units, lines), "stack": "zero"} if color else _amount(x, units, lines),
    }
    bars: dict[str, Any] = {"mark": {"type": "bar", "height": {"band": 0.72}}, "encoding": {**base, **encoding}}
    values = [
        {**line, "_said": _hover(line, (y, color, x), units), "_end": said(line[x], units.get(x, ""))} for line in lines
    ]
    bars["encoding"]["description"] = {"field": "_said"}
    layer = [bars]
    if not color:
        text: dict[str, Any] = {
            "mark": {"type": "text", "align": "left", "dx": 5},
            "encoding": {**base, "text": {"field": "_end"}},
        }
        layer.append(text)
    elif (order := _order(lines, color)) is not None:
        bars["encoding"]["order"] = order
    return {"width": WIDTH, "height": {"step": 26}, "layer": layer, "values": values}


def _columns(lines: list[dict[str, Any]], roles: Mapping[str, str], units: Mapping[str, str]) -> dict[str, Any]:
    x, y, color = roles["x"], roles["y"], roles.get("color")
    lines, names = _first(lines, x, 40)
    lines, encoding = _coloured(lines, color)
    values = [{**line, "_said": _hover(line, (x, color, y), units)} for line in lines]
    encoding |= {
        "x": {"field": x, "type": "ordinal", "sort": names, "title": _title(x, units), "axis": {"labelAngle": -35 if max(map(len, map(str, names))) > 7 else 0}},
        "y": _amount(y, units, lines),
        "description": {"field": "_said"},
    }  # fmt: skip
    mark = {"type": "bar", "width": {"band": 0.86}}
    return {"width": WIDTH, "height": 200, "mark": mark, "encoding": encoding, "values": values}


def _line(lines: list[dict[str, Any]], roles: Mapping[str, str], units: Mapping[str, str]) -> dict[str, Any] | None:
    x, y, color = roles["x"], roles["y"], roles.get("color")
    if len({line[x] for line in lines}) < 2:
        return None
    if color:
        lines, _ = _first(lines, color, SERIES)
    lines, encoding = _coloured(lines, color)
    values = [{**line, "_said": _hover(line, (color, x, y), units)} for line in lines]
    whole = all(isinstance(line[x], int) for line in lines)
    ticks = sorted({line[x] for line in lines}) if whole and len({line[x] for line in lines}) <= 20 else None
    axis = {"format": ",d" if whole else ",~f", **({"values": ticks} if ticks else {})}
    encoding |= {
        "x": {"field": x, "type": "quantitative", "title": _title(x, units), "scale": {"zero": False}, "axis": axis},
        "y": {**_amount(y, units, lines, zero=False), "scale": {"zero": False}},
        "description": {"field": "_said"},
    }
    mark = {"type": "line", "point": {"size": 40}, "strokeWidth": 2}
    return {"width": WIDTH, "height": 220, "mark": mark, "encoding": encoding, "values": values}


def _range(lines: list[dict[str, Any]], roles: Mapping[str, str], units: Mapping[str, str]) -> dict[str, Any]:
    y, low, mid, high = (roles[role] for role in ("y", "low", "mid", "high"))
    lines, names = _first([line for line in lines if line[mid] is not None], y, CATEGORIES)
    values = [{**line, "_said": _hover(line, (y, low, mid, high), units)} for line in lines]
    place = {"field": y, "type": "nominal", "sort": names, "title": None, "axis": {"ticks": False, "domain": False}}
    title = f"{_title(mid, units)}; the bar goes from {heading(low)} to {heading(high)}"
    bar = {
        "mark": {"type": "bar", "height": 8, "color": "var(--main)", "opacity": 0.35, "cornerRadius": 4},
        "encoding": {"y": place, "x": {**_amount(low, units, lines), "title": title}, "x2": {"field": high}, "description": {"field": "_said"}},
    }  # fmt: skip
    dot = {
        "mark": {"type": "circle", "size": 90, "color": "var(--main)", "opacity": 1},
        "encoding": {"y": place, "x": {"field": mid, "type": "quantitative"}, "description": {"field": "_said"}},
    }
    return {"width": WIDTH, "height": {"step": 28}, "layer": [bar, dot], "values": values}


def _heat(lines: list[dict[str, Any]], roles: Mapping[str, str], units: Mapping[str, str]) -> dict[str, Any] | None:
    x, y, value = roles["x"], roles["y"], roles["value"]
    lines, across = _first(lines, x, 16)
    lines, down = _first(lines, y, 16)
    if len(across) * len(down) < 2:
        return None
    values = [{**line, "_said": _hover(line, (y, x, value), units), "_in": said(line[value])} for line in lines]
    base = {
        "x": {"field": x, "type": "nominal", "sort": across, "title": heading(x), "axis": {"labelAngle": -35}},
        "y": {"field": y, "type": "nominal", "sort": down, "title": heading(y)},
    }
    rect = {
        "mark": {"type": "rect", "color": "var(--main)"},
        "encoding": {**base, "opacity": {"field": value, "type": "quantitative", "scale": {"range": [0.12, 0.75]}, "legend": None}, "description": {"field": "_said"}},
    }  # fmt: skip
    text = {"mark": "text", "encoding": {**base, "text": {"field": "_in"}}}
    return {"width": {"step": 64}, "height": {"step": 30}, "layer": [rect, text], "values": values}


def _waterfall(lines: list[dict[str, Any]], roles: Mapping[str, str], units: Mapping[str, str]) -> dict[str, Any]:
    y, before, after, color = (roles[role] for role in ("y", "from", "to", "color"))
    lines, names = _first(lines, y, CATEGORIES)
    values = []
    for line in lines:
        ends = sorted((line[before], line[after]))
        change = line[after] - line[before]
        label = said(change) if change >= 0 else f"−{said(-change)}"
        values.append({**line, "_low": ends[0], "_high": ends[1], "_end": label, "_said": f"{line[y]}: {label}"})
    place = {"field": y, "type": "nominal", "sort": names, "title": None, "axis": {"ticks": False, "domain": False}}
    _, encoding = _coloured(values, color)
    encoding["color"]["legend"] = None
    bars = {
        "mark": {"type": "bar", "height": {"band": 0.72}},
        "encoding": {"y": place, "x": {**_amount("_high", {}, values), "field": "_low", "title": units.get(after)}, "x2": {"field": "_high"}, "description": {"field": "_said"}, **encoding},
    }  # fmt: skip
    text = {
        "mark": {"type": "text", "align": "left", "dx": 5},
        "encoding": {"y": place, "x": {"field": "_high", "type": "quantitative"}, "text": {"field": "_end"}},
    }
    return {"width": WIDTH, "height": {"step": 28}, "layer": [bars, text], "values": values}


_SPECS = {
    "bars": _bars,
    "columns": _columns,
    "line": _line,
    "range": _range,
    "heat": _heat,
    "waterfall": _waterfall,
}


# ---------------------------------------------------------------------------------------------------------- their pieces


def _plain(value: Any) -> Any:
    """A value as a figure can hold it: an SVG has no control characters, and a label needs no hundred letters."""
    if isinstance(value, str):
        return shortened(harmless(value))
    return float(value) if isinstance(value, Decimal) else value


def shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _first(lines: list[dict[str, Any]], column: str, most: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """The lines of the first `most` values of a column, and these values in order."""
    names = list(dict.fromkeys(line[column] for line in lines))[:most]
    return [line for line in lines if line[column] in names], names


def _coloured(lines: list[dict[str, Any]], column: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines with at most SERIES values of the colour's column, the others together, and the encoding of it."""
    if column is None:
        return lines, {"color": {"value": "var(--main)"}}
    names = list(dict.fromkeys(line[column] for line in lines))
    if len(names) > SERIES:
        names = [*names[: SERIES - 1], "others"]
        lines = [line if line[column] in names else {**line, column: "others"} for line in lines]
    free = [c for c in _CYCLE if c not in {MEANING.get(name) for name in names}]
    colours = [MEANING.get(str(name)) or (free.pop(0) if free else "grey") for name in names]
    if len(set(colours)) < len(colours) and len(names) <= SERIES:  # two meanings that share a colour, side by side
        colours = list(_CYCLE[: len(names)])
    scale = {"domain": names, "range": [f"var(--{c})" for c in colours]}
    return lines, {"color": {"field": column, "type": "nominal", "scale": scale}}


def _order(lines: list[dict[str, Any]], column: str) -> dict[str, Any] | None:
    """Stacks are piled in the order of the lines."""
    names = list(dict.fromkeys(line[column] for line in lines))
    for line in lines:
        line["_place"] = names.index(line[column])
    return {"field": "_place", "type": "quantitative"}


def _amount(
    column: str, units: Mapping[str, str], lines: Sequence[Mapping[str, Any]], *, zero: bool = True
) -> dict[str, Any]:
    """A column along an axis, which begins at 0 if `zero`: shares in per cent, counts without fractions, large ones as
    10k and 2M."""
    values = [abs(line[column]) for line in lines if isinstance(line[column], int | float)]
    most = max(values, default=0)
    axis: dict[str, Any] = {"tickCount": 6}
    if units.get(column) == "%":
        axis["format"] = ".0%" if most - (0 if zero else min(values, default=0)) >= 0.05 else ".1%"
    elif most >= 10_000:  # not as `format`, which gives all labels of an axis one prefix: 0 would be 0M
        axis["labelExpr"] = "format(datum.value, '~s')"
    else:
        axis["format"] = ",~f"
    if units.get(column) != "%" and all(isinstance(value, int) for value in values):
        axis["tickMinStep"] = 1
    return {"field": column, "type": "quantitative", "title": _title(column, units), "axis": axis}


def _title(column: str, units: Mapping[str, str]) -> str:
    unit = unit_beside(column, units.get(column, ""))
    return f"{heading(column)} ({unit})" if unit else heading(column)


def _hover(line: Mapping[str, Any], columns: Sequence[str | None], units: Mapping[str, str]) -> str:
    return ", ".join(f"{heading(c)} {said(line[c], units.get(c, ''))}" for c in columns if c is not None)


def _cleaned(svg: str, title: str) -> str:
    """The drawing with nothing in it but shapes and text; what a mark stands for becomes its tooltip."""
    root = ET.fromstring(svg)
    _clean(root)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", f"Chart: {title}. The table below it has the numbers.")
    root.set("style", f"max-width:{root.get('viewBox', '0 0 640 0').split()[2]}px")
    return ET.tostring(root, encoding="unicode")


def _clean(element: ET.Element) -> None:
    element.tag = element.tag.rpartition("}")[2]
    label = element.get("aria-label")
    is_mark = "mark" in (element.get("aria-roledescription") or "") or element.get("role") == "graphics-symbol"
    for name in list(element.attrib):
        if name not in _ATTRIBUTES:
            del element.attrib[name]
    for child in list(element):
        if child.tag.rpartition("}")[2] not in _TAGS:
            element.remove(child)
        else:
            _clean(child)
    if label and is_mark and element.tag in ("path", "rect", "circle"):
        title = ET.Element("title")
        title.text = label
        element.insert(0, title)
