"""Figures of reports as SVG: curves, areas on top of each other, bars. Text in, text out; every name is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 56, 24
POINTS = 400
"""Of a curve at most; more lines are averaged."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#475569", "#9a3412")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2rem auto;padding:0 1rem;color:#1e293b}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{border-bottom:1px solid #e2e8f0;padding:4px 8px;
text-align:left;vertical-align:top}pre{white-space:pre-wrap;margin:0;max-height:12em;overflow:auto}
pre,td{overflow-wrap:anywhere}.plots{display:flex;flex-wrap:wrap;gap:1rem 2rem}figure{margin:0;max-width:100%}
figcaption{font-weight:600}.correct{background:#ecfdf5}
figcaption small{font-weight:400;color:#475569}svg{max-width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:#475569}
"""


def plot(title: str, curves: Mapping[str, Points], note: str = "") -> str:
    """Curves over steps as an SVG figure; the vertical axis holds all finite values."""
    curves = {name: _thinned(points) for name, points in curves.items()}
    curves = {name: points for name, points in curves.items() if points}
    points = [point for line in curves.values() for point in line]
    if not points:
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    if low == high:
        low, high = low - abs(low) * 0.1, high + abs(high) * 0.1 or 1.0
    axes = _Axes(min(x for x, _ in points), max(x for x, _ in points), low, high)
    drawn = [axes.drawn()]
    for n, line in enumerate(curves.values()):
        colour = COLOURS[n % len(COLOURS)]
        path = " ".join(axes.at(x, y) for x, y in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(line) == 1:
            across, height = axes.at(*line[0]).split(",")
            drawn.append(f'<circle cx="{across}" cy="{height}" r="3" fill="{colour}"/>')
    return _figure(title, drawn, _key(list(curves)) if len(curves) > 1 else "", note)


def areas(title: str, parts: Mapping[str, Points], note: str = "", colours: Mapping[str, str] | None = None) -> str:
    """Parts of a whole over steps, one upon the other. A part that lacks a step is 0 there; one that is always 0 is left
    out. `colours`: of parts that have one of their own, by name."""
    parts = {name: points for name, points in parts.items() if any(y for _, y in points)}
    steps = sorted({x for points in parts.values() for x, _ in points})
    if not steps:
        return ""
    known = [dict(points) for points in parts.values()]
    layers = [_thinned([(x, one.get(x, 0.0)) for x in steps]) for one in known]
    across = [x for x, _ in layers[0]]
    if len(across) == 1:  # an area needs two sides
        across, layers = [across[0], across[0] + 1], [[*layer, *layer] for layer in layers]
    below = [0.0] * len(across)
    free = iter(COLOURS * len(parts))
    inks = [(colours or {}).get(name) or next(free) for name in parts]
    axes = _Axes(across[0], across[-1], 0.0, max(sum(y for _, y in column) for column in zip(*layers, strict=True)))
    drawn = []
    for ink, layer in zip(inks, layers, strict=True):
        above = [low + y for low, (_, y) in zip(below, layer, strict=True)]
        edge = [axes.at(x, y) for x, y in zip(across, above, strict=True)]
        edge += [axes.at(x, y) for x, y in zip(reversed(across), reversed(below), strict=True)]
        drawn.append(f'<polygon points="{" ".join(edge)}" fill="{ink}" fill-opacity="0.75"/>')
        below = above
    return _figure(title, [*drawn, axes.drawn()], _key(list(parts), inks), note)


def bars(title: str, edges: Sequence[float], series: Mapping[str, Sequence[int]], marks: Sequence[float] = (), note: str = "") -> str:  # fmt: skip
    """Histograms over the same edges as shares of all: bars for the last one, lines for those before it.

    series   counts, one more than there are edges: the first and the last hold what lies beyond
    marks    places at which a vertical line stands
    """
    shares = {name: [100 * n / sum(counts) for n in counts] for name, counts in series.items() if sum(counts)}
    if not shares:
        return ""
    width = edges[1] - edges[0]
    ends = [edges[0] - width, *edges, edges[-1] + width]
    axes = _Axes(ends[0], ends[-1], 0.0, max(map(max, shares.values())))
    drawn: list[str] = []
    for n, (name, heights) in enumerate(shares.items()):
        colour = COLOURS[(len(shares) - 1 - n) % len(COLOURS)]
        path: list[str] = []
        for left, right, y in zip(ends[:-1], ends[1:], heights, strict=True):
            path += [axes.at(left, y), axes.at(right, y)]
        if name == list(shares)[-1]:
            path = [axes.at(ends[0], 0), *path, axes.at(ends[-1], 0)]
            drawn.insert(0, f'<polygon points="{" ".join(path)}" fill="{colour}" fill-opacity="0.55"/>')
        else:
            drawn.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for mark in marks:
        across, top = axes.at(mark, axes.high).split(",")
        drawn.append(f'<line x1="{across}" x2="{across}" y1="{top}" y2="{HEIGHT - BOTTOM}" stroke="#1e293b" stroke-dasharray="4 3"/>')  # fmt: skip
    named = {edges[0]: f"< {edges[0]:g}", edges[-1]: f"> {edges[-1]:g}", 0.0: "0", **{m: f"{m:+g}" for m in marks}}
    drawn.append(axes.drawn(named, " %"))
    return _figure(title, drawn, _key(list(reversed(shares))) if len(shares) > 1 else "", note)


class _Axes:
    """Where values lie in the picture."""

    def __init__(self, left: float, right: float, low: float, high: float):
        self.left, self.right, self.low, self.high = left, right, low, high

    def at(self, x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 8) * (x - self.left) / max(self.right - self.left, 1e-12)
        down = 8 + (HEIGHT - BOTTOM - 8) * (self.high - y) / max(self.high - self.low, 1e-300)
        return f"{across:.1f},{down:.1f}"

    def drawn(self, named: Mapping[float, str] | None = None, unit: str = "") -> str:
        """Lines for heights, and what stands below: the first and the last step, or what `named` says."""
        parts = []
        for n in range(5):
            y = self.low + (self.high - self.low) * n / 4
            height = self.at(self.left, y).split(",")[1]
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{height}" y2="{height}" stroke="#94a3b8" stroke-opacity="0.35"/>')  # fmt: skip
            parts.append(f'<text x="{LEFT - 6}" y="{height}" text-anchor="end" dominant-baseline="middle">{_short(y)}{unit}</text>')  # fmt: skip
        ends = {self.left: "start", self.right: "end"}
        for x, text in (named or {x: f"{x:,.0f}" for x in ends}).items():
            across = self.at(x, self.low).split(",")[0]
            anchor = ends.get(x, "middle")
            parts.append(f'<text x="{across}" y="{HEIGHT - 6}" text-anchor="{anchor}">{escape(text)}</text>')
        return "".join(parts)


def _short(value: float) -> str:
    """Seven characters at most stand beside the axis."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1e}" if 0 < size < 1e-3 else f"{value:.3g}"


def _figure(title: str, drawn: Sequence[str], key: str, note: str) -> str:
    box = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(drawn)}</svg>'
    said = f" <small>{escape(note)}</small>" if note else ""
    return f"<figure><figcaption>{escape(title)}{said}</figcaption>{box}<div>{key}</div></figure>"


def _key(names: Sequence[str], inks: Sequence[str] = COLOURS) -> str:
    return " &nbsp; ".join(
        f'<span style="color:{inks[n % len(inks)]}">■</span> {escape(name)}' for n, name in enumerate(names)
    )


def _thinned(points: Points) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    size = -(-len(finite) // POINTS) or 1
    groups = [finite[n : n + size] for n in range(0, len(finite), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
