"""The report of an ablation: report.md for reading and quoting, report.html with the intervals drawn. One file each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from schemas.ablation import Ablation

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1e293b}
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid #e2e8f0;padding:4px 8px;text-align:left}
svg text{font:12px system-ui,sans-serif;fill:#334155}"""


def write(folder: Path, recipe: Ablation, cells: pl.DataFrame, effects: pl.DataFrame) -> None:
    """Write report.md and report.html into `folder`."""
    table, changes = cell_lines(cells), effect_lines(effects)
    head = [
        f"# {recipe.name}",
        recipe.description,
        *([f"**What it can show.** {recipe.shows}"] if recipe.shows else []),
    ]
    text = [*head, "## Cells", markdown(table), "## Effects", markdown(changes), NOTE]
    (folder / "report.md").write_text("\n\n".join(t for t in text if t) + "\n", encoding="utf-8")
    body = [
        f"<h1>{escape(recipe.name)}</h1><p>{escape(recipe.description)}</p><p>{escape(recipe.shows)}</p>",
        "<h2>Effects</h2>", drawn(effects), html(changes), f"<p>{escape(NOTE)}</p>", "<h2>Cells</h2>", html(table),
    ]  # fmt: skip
    page = f"<!doctype html><meta charset=utf-8><title>{escape(recipe.name)}</title><style>{STYLE}</style>"
    (folder / "report.html").write_text(page + "".join(body), encoding="utf-8")


NOTE = (
    "Effects are in points, cell minus baseline of the same budget, with Student's 95 % interval over seeds (the same seeds "
    "in both) and a bootstrap interval over questions. A difference is shown only where both leave zero out. "
    "Each comparison is made on its own: of twenty without any effect one would be shown by chance. "
    "Tokens are those that training saw, relative to the baseline."
)


def cell_lines(cells: pl.DataFrame) -> list[dict[str, str]]:
    """Mean over seeds, each seed's value and the cost."""
    found = []
    for _, own in cells.group_by("cell", "benchmark", maintain_order=True):
        first = own.row(0, named=True)
        values = [100 * value for value in own.sort("seed")["value"].to_list()]
        found.append({
            "cell": first["cell"], "benchmark": first["benchmark"], "metric": first["metric"],
            "mean": f"{sum(values) / len(values):.1f}", "seeds": " ".join(f"{value:.1f}" for value in values),
            "questions": f"{first['questions']:,}", "samples": f"{first['samples']:,}", "steps": f"{first['steps']:,}",
            "tokens": f"{_mean(own, 'trained_tokens'):,.0f}", "s per run": f"{_mean(own, 'train_seconds'):.0f}",
        })  # fmt: skip
    return found


def _mean(table: pl.DataFrame, column: str) -> float:
    values = table[column].to_list()
    return float(sum(values) / len(values))


def effect_lines(effects: pl.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "cell": line["cell"], "against": line["baseline"], "benchmark": line["benchmark"],
            "effect": f"{100 * line['effect']:+.1f}", "over seeds": _interval(line["low"], line["high"]),
            "over questions": _interval(line["questions_low"], line["questions_high"]),
            "tokens": f"×{line['tokens_ratio']:.2f}", "": line["verdict"],
        }
        for line in effects.iter_rows(named=True)
    ]  # fmt: skip


def _interval(low: float, high: float) -> str:
    return f"{100 * low:+.1f} … {100 * high:+.1f}" if math.isfinite(low) else "unknown"


def markdown(lines: Sequence[dict[str, str]]) -> str:
    if not lines:
        return ""
    names = list(lines[0])
    rows = [names, ["---"] * len(names), *([line[n] for n in names] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def html(lines: Sequence[dict[str, str]]) -> str:
    if not lines:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in lines[0])
    rows = ("".join(f"<td>{escape(value)}</td>" for value in line.values()) for line in lines)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def drawn(effects: pl.DataFrame) -> str:
    """Each effect as a dot with its interval over seeds (thick) and over questions (thin), around a line at zero."""
    lines: list[dict[str, Any]] = list(effects.iter_rows(named=True))
    ends = [abs(v) for line in lines for v in (line["low"], line["high"], line["questions_low"], line["questions_high"]) if math.isfinite(v)]  # fmt: skip
    reach = max([0.01, *ends])
    left, width, row = 420, 560, 26

    def x(value: float) -> float:
        return left + width / 2 * (1 + max(-reach, min(reach, value)) / reach)

    parts = [f'<svg width="{left + width + 60}" height="{row * len(lines) + 30}" role="img">']
    parts.append(f'<line x1="{x(0)}" x2="{x(0)}" y1="0" y2="{row * len(lines)}" stroke="#94a3b8"/>')
    for n, line in enumerate(lines):
        y, colour = row * n + row / 2, "#94a3b8" if line["verdict"].startswith("no difference") else "#2563eb"
        parts.append(f'<text x="0" y="{y + 4}">{escape(line["cell"])} · {escape(line["benchmark"])}</text>')
        for low, high, thick in ((line["low"], line["high"], 5), (line["questions_low"], line["questions_high"], 1.5)):
            if math.isfinite(low):
                parts.append(f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="{thick}" stroke-opacity=".6"/>')  # fmt: skip
        parts.append(f'<circle cx="{x(line["effect"])}" cy="{y}" r="4" fill="{colour}"/>')
    y = row * len(lines) + 18
    parts += [f'<text x="{left}" y="{y}">{-100 * reach:+.1f}</text>', f'<text x="{left + width - 30}" y="{y}">{100 * reach:+.1f}</text></svg>']  # fmt: skip
    return "".join(parts)
