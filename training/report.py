"""report.html of a run: curves as SVG, answers as a table, and what it was trained on. One file, no script, no network.

What the page is about, and its first half, are the same for all runs; curves are those of the run's kind, and an RL run
shows groups of answers besides (training/rl_report.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from training import rl_report
from training.metrics import read_lines
from training.plots import STYLE, plot

SHOWN = 24
"""Answers in the table; all of them are in samples/*.parquet."""


def write_report(folder: Path, place: Path | None = None) -> Path:
    """Make report.html of a run's folder, or `place`, from its manifest, its metrics and its newest tables of answers."""
    manifest = json.loads((folder / "manifest.json").read_text())
    lines = read_lines(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    held_out = _held_out([line for line in lines if "evaluation" in line])
    kind = manifest.get("kind", "sft")
    facts = [
        ("state", manifest["state"]),
        ("steps", f"{steps[-1]['step'] if steps else 0:,} of {manifest['steps']:,}"),
        ("model", manifest["model"]["path"]),
        ("data", "; ".join(_named(one) for one in manifest["data"])),
        (
            "samples" if kind == "sft" else "questions",
            f"{manifest['counts']['samples']:,}" + _left_out(manifest["counts"]["left_out"]),
        ),
    ]
    parts = [
        f"<h1>{escape(manifest['name'])}</h1><p>{escape(manifest['description'])}</p>",
        "<table>" + "".join(f"<tr><th>{k}</th><td>{escape(str(v))}</td></tr>" for k, v in facts) + "</table>",
    ]
    if kind == "sft":
        parts.append(f'<h2>Curves</h2><div class="plots">{_sft_curves(steps, held_out)}</div>')
    else:
        parts += rl_report.parts(folder, steps, held_out)
    parts += [_answers(folder), f"<h2>Recipe</h2><pre>{escape(manifest['recipe'])}</pre>"]
    title = escape(manifest["name"])
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    place = place or folder / "report.html"
    place.write_text(page + "".join(parts), encoding="utf-8")
    return place


def _held_out(asked: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy on questions that are not trained on, all and by source."""
    names = [name for name in asked[-1]["evaluation"] if name.startswith("accuracy")] if asked else []
    curves = {n: [(line["step"], line["evaluation"][n]) for line in asked if n in line["evaluation"]] for n in names}
    return plot("Held-out accuracy", curves)


def _sft_curves(steps: Sequence[Mapping[str, Any]], held_out: str) -> str:
    plots = [plot("Loss", {"all": [(line["step"], line["loss"]) for line in steps]})]
    sources = sorted({name for line in steps for name in line.get("loss_by_source", ())})
    if len(sources) > 1:
        by_source = {
            name: [(line["step"], line["loss_by_source"][name]) for line in steps if name in line["loss_by_source"]]
            for name in sources
        }
        plots.append(plot("Loss by source", by_source))
    plots.append(held_out)
    for title, key in (
        ("Gradient norm", "grad_norm"),
        ("Learning rate", "lr"),
        ("Tokens per second", "tokens_per_second"),
    ):
        plots.append(plot(title, {"": [(line["step"], line[key]) for line in steps]}))
    return "".join(plots)


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
