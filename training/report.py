"""report.html of a run: curves as SVG, answers as a table, and what it was trained on. One file, no script, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from training.metrics import read_lines

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 56, 24
POINTS = 400
"""Of a curve at most; more lines are averaged."""
SHOWN = 24
"""Answers in the table; all of them are in samples/*.parquet."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#475569", "#9a3412")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2rem auto;padding:0 1rem;color:#1e293b}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{border-bottom:1px solid #e2e8f0;padding:4px 8px;
text-align:left;vertical-align:top}pre{white-space:pre-wrap;margin:0;max-height:12em;overflow:auto}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-weight:600}.correct{background:#ecfdf5}
svg text{font:11px system-ui,sans-serif;fill:#475569}
"""


def write_report(folder: Path) -> Path:
    """Make `folder`/report.html from manifest.json, metrics.jsonl and the newest table of answers."""
    manifest = json.loads((folder / "manifest.json").read_text())
    lines = read_lines(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    asked = [line for line in lines if "evaluation" in line]
    plots = [plot("Loss", {"all": [(line["step"], line["loss"]) for line in steps]})]
    sources = sorted({name for line in steps for name in line.get("loss_by_source", ())})
    if len(sources) > 1:
        by_source = {
            name: [(line["step"], line["loss_by_source"][name]) for line in steps if name in line["loss_by_source"]]
            for name in sources
        }
        plots.append(plot("Loss by source", by_source))
    if asked:
        names = [name for name in asked[-1]["evaluation"] if name.startswith("accuracy")]
        curves = {
            n: [(line["step"], line["evaluation"][n]) for line in asked if n in line["evaluation"]] for n in names
        }
        plots.append(plot("Held-out accuracy", curves))
    for title, key in (
        ("Gradient norm", "grad_norm"),
        ("Learning rate", "lr"),
        ("Tokens per second", "tokens_per_second"),
    ):
        plots.append(plot(title, {"": [(line["step"], line[key]) for line in steps]}))
    facts = [
        ("state", manifest["state"]),
        ("steps", f"{steps[-1]['step'] if steps else 0:,} of {manifest['steps']:,}"),
        ("model", manifest["model"]["path"]),
        ("data", "; ".join(_named(one) for one in manifest["data"])),
        ("samples", f"{manifest['counts']['samples']:,}" + _left_out(manifest["counts"]["left_out"])),
    ]
    body = [
        f"<h1>{escape(manifest['name'])}</h1><p>{escape(manifest['description'])}</p>",
        "<table>" + "".join(f"<tr><th>{k}</th><td>{escape(str(v))}</td></tr>" for k, v in facts) + "</table>",
        '<h2>Curves</h2><div class="plots">' + "".join(plots) + "</div>",
        _answers(folder),
        f"<h2>Recipe</h2><pre>{escape(manifest['recipe'])}</pre>",
    ]
    page = f"<!doctype html><meta charset=utf-8><title>{escape(manifest['name'])}</title><style>{STYLE}</style>"
    place = folder / "report.html"
    place.write_text(page + "".join(body), encoding="utf-8")
    return place


def _named(data: Mapping[str, Any]) -> str:
    if "version" in data:
        return f"{data['version']}@{data['id']} ({data['config']}, {data['split']})"
    return str(data.get("hub") or ", ".join(data["files"]))


def _left_out(reasons: Mapping[str, int]) -> str:
    said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    return f"; left out: {said}" if said else ""


def _answers(folder: Path) -> str:
    tables = sorted((folder / "samples").glob("step-*.parquet"))
    if not tables:
        return ""
    rows = pq.read_table(tables[-1]).slice(0, SHOWN).to_pylist()
    lines = [
        f'<tr class="{row["state"]}"><td>{escape(row["row_id"])}</td><td><pre>{escape(row["prompt"])}</pre></td>'
        f"<td><pre>{escape(row['response'])}</pre></td><td>{escape(row['gold'])}</td>"
        f"<td>{escape(row['extracted'] or '')}</td><td>{row['state']}</td></tr>"
        for row in rows
    ]
    head = "".join(f"<th>{name}</th>" for name in ("row", "prompt", "answer", "gold", "extracted", "verdict"))
    return f"<h2>Answers, {tables[-1].stem}</h2><table><tr>{head}</tr>{''.join(lines)}</table>"


def plot(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Curves over steps as an SVG figure; the vertical axis holds all finite values."""
    curves = {name: _thinned(points) for name, points in curves.items() if points}
    points = [point for line in curves.values() for point in line]
    if not points:
        return ""
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if low == high:
        low, high = low - abs(low) * 0.1 - 1e-12, high + abs(high) * 0.1 + 1e-12

    def at(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 8) * (x - low_x) / max(high_x - low_x, 1e-12)
        return f"{across:.1f},{8 + (HEIGHT - BOTTOM - 8) * (high - y) / (high - low):.1f}"

    drawn, key = [], []
    for n in range(5):
        y = low + (high - low) * n / 4
        height = at(low_x, y).split(",")[1]
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{height}" y2="{height}" stroke="#e2e8f0"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{height}" text-anchor="end" dominant-baseline="middle">{y:.3g}</text>')
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        across = at(x, low).split(",")[0]
        drawn.append(f'<text x="{across}" y="{HEIGHT - 6}" text-anchor="{anchor}">{x:,.0f}</text>')
    for n, (name, line) in enumerate(curves.items()):
        colour = COLOURS[n % len(COLOURS)]
        path = " ".join(at(x, y) for x, y in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(line) == 1:
            across, height = at(*line[0]).split(",")
            drawn.append(f'<circle cx="{across}" cy="{height}" r="3" fill="{colour}"/>')
        if len(curves) > 1:
            key.append(f'<span style="color:{colour}">■</span> {escape(name)}')
    box = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(drawn)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{box}<div>{' &nbsp; '.join(key)}</div></figure>"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if abs(y) < float("inf")]
    size = -(-len(finite) // POINTS) or 1
    groups = [finite[n : n + size] for n in range(0, len(finite), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
