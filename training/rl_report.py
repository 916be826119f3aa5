"""What the report of an RL run shows besides that of any run: alarms, curves of rewards and of the trainer, and groups.

Curves come from metrics.jsonl, groups from the newest file of rollouts/. The texts are a model's and a data set's: all
of them are escaped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from training.groups import EDGES
from training.plots import areas, bars, plot

Line = Mapping[str, Any]
Row = Mapping[str, Any]
WINDOW = 10
"""Steps whose ratios are added up."""
COLUMNS = (
    "group", "k", "row_id", "source", "question", "gold", "text", "tokens", "finished", "state", "accuracy", "format",
    "overlong", "functions", "reward", "problem", "kind", "advantage", "used", "ratio", "clipped",
)  # fmt: skip
INKS = {
    "signal": "#059669", "format": "#d97706", "equal": "#94a3b8", "unscored": "#7c3aed",
    "correct": "#059669", "incorrect": "#dc2626", "no_answer": "#d97706", "truncated": "#0891b2", "undecided": "#94a3b8",
}  # fmt: skip
"""Of kinds of groups, and of verdicts."""
STYLE = """<style>
.alarms{border-left:4px solid #dc2626;background:#fef2f2;padding:.3rem 1rem .3rem 2rem}.alarms li{margin:.3rem 0}
details{margin:.6rem 0;border:1px solid #e2e8f0;border-radius:6px;padding:.4rem .8rem}summary{cursor:pointer}
details p{margin:.5rem 0 .2rem}table.narrow{width:auto}td.number,th.number{text-align:right;white-space:nowrap}
.unused{color:#94a3b8}.good{color:#047857}.bad{color:#b91c1c}
</style>"""


def parts(folder: Path, steps: Sequence[Line], held_out: str) -> list[str]:
    """HTML of a run: what it warned of, how it began and ended, its curves, its questions, groups of its newest step."""
    curves = f'<h2>Curves</h2><div class="plots">{_curves(steps, held_out)}</div>'
    return [STYLE, _alarms(steps), _ends(steps), curves, _questions(folder), _groups(folder)]


def _alarms(steps: Sequence[Line]) -> str:
    told = [(line["step"], text) for line in steps for text in line.get("alarms", ())]
    if not told:
        return ""
    items = "".join(f"<li>step {step:,}: {escape(text)}</li>" for step, text in told)
    return f'<h2>Alarms</h2><ul class="alarms">{items}</ul>'


def _ends(steps: Sequence[Line]) -> str:
    """The figures that matter most, at first and at last."""
    if not steps:
        return ""
    size = max(1, min(WINDOW, len(steps) // 2))
    sides = [steps[:size], steps[-size:]]

    def cell(side: Sequence[Line], key: str, times: float, form: str) -> str:
        values = [line[key] for line in side if line.get(key) is not None]
        return f"<td class=number>{format(times * float(np.mean(values)), form) if values else '–'}</td>"

    named = [
        ("reward", "reward", 1, ".3f"), ("right answers, %", "accuracy", 100, ".1f"), ("format, %", "format", 100, ".1f"),
        ("tokens of an answer", "tokens", 1, ",.0f"), ("cut off, %", "truncated", 100, ".1f"),
        ("entropy", "entropy", 1, ".3f"), ("clipped, %", "clipped", 100, ".1f"),
        ("rollout against trainer", "mismatch", 1, ".2g"), ("seconds of a step", "seconds", 1, ".2f"),
    ]  # fmt: skip
    rows = "".join(
        f"<tr><td>{name}</td>{''.join(cell(side, key, times, form) for side in sides)}</tr>"
        for name, key, times, form in named
        if any(line.get(key) is not None for line in steps)
    )
    head = "".join(f"<th class=number>{_span(side)}</th>" for side in sides)
    return f"<h2>From first to last</h2><table class=narrow><tr><th></th>{head}</tr>{rows}</table>"


def _span(lines: Sequence[Line]) -> str:
    first, last = lines[0]["step"], lines[-1]["step"]
    return f"step {first:,}" if first == last else f"steps {first:,}–{last:,}"


def _questions(folder: Path) -> str:
    """What became of the questions: difficulty.parquet in a few figures."""
    place = folder / "difficulty.parquet"
    if not place.exists():
        return ""
    table = pq.read_table(place)
    first, last, asked = (table[name].to_numpy() for name in ("first_pass_rate", "last_pass_rate", "n_asked"))
    told = ~np.isnan(last)
    again = told & (table["first_step"].to_numpy() < table["last_step"].to_numpy())
    facts = [
        ("questions asked", f"{len(table):,}, {asked.sum():,} answers"),
        ("never right so far", f"{np.sum((table['n_correct'].to_numpy() == 0) & told):,}"),
        ("all right when last asked", f"{np.sum(last[told] == 1):,}"),
        ("never judged", f"{np.sum(~told):,}"),
    ]
    if again.any():
        moved = last[again] - first[again]
        facts.append(("asked in several steps", f"{again.sum():,}: {np.sum(moved > 0):,} better, {np.sum(moved < 0):,} worse; "
                      f"{100 * first[again].mean():.1f} % → {100 * last[again].mean():.1f} % right"))  # fmt: skip
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
    asking = f'select * from "run:{folder.name}".difficulty order by pass_rate'
    return (
        f"<h2>Questions</h2><table class=narrow>{rows}</table>"
        f"<p>Question by question: <code>winnow sql '{escape(asking)}'</code></p>"
    )


# --------------------------------------------------------------------------------------------------------------- curves


def _curves(steps: Sequence[Line], held_out: str) -> str:
    def curve(key: str, times: float = 1.0) -> list[tuple[float, float]]:
        return [(line["step"], times * line[key]) for line in steps if line.get(key) is not None]

    def of(key: str) -> dict[str, list[tuple[float, float]]]:
        """Curves of a figure that is itself a table: phases, groups, states."""
        names = dict.fromkeys(name for line in steps for name in line.get(key, ()))
        return {
            name: [(line["step"], line[key][name]) for line in steps if name in line.get(key, ())] for name in names
        }

    functions = dict.fromkeys(key for line in steps for key in line if ":" in key)  # module:function
    rewards = {name: curve(name) for name in ("reward", "accuracy", "format", "overlong", *functions)}
    rewards = {name: points for name, points in rewards.items() if any(y for _, y in points)}
    return "".join([
        plot("Reward and its parts", rewards),
        *_by_source(steps),
        plot("Right answers", {"": curve("accuracy", 100)}, "% of those that could be judged"),
        held_out,
        plot("Length of answers", {"mean": curve("tokens"), "95 % are shorter": curve("tokens_p95")}, "tokens"),
        plot("Cut off", {"": curve("truncated", 100)}, "% of answers"),
        plot("Right answers per 1,000 tokens", {"": curve("accuracy_per_1k_tokens")}),
        areas("Groups", of("groups"), "questions of a step; only signal and format have a gradient", INKS),
        areas("Verdicts", of("states"), "answers of a step", INKS),
        plot("Entropy", {"": curve("entropy")}, "nats per token"),
        *_ratios(steps),
        plot("Clipped", {"": curve("clipped", 100)}, "% of tokens"),
        plot("Rollout against trainer", {"": curve("mismatch")}, "mean |log π − log π_rollout| per token"),
        plot("KL from the beginning", {"": curve("kl")}, "nats per token"),
        plot("Loss", {"": curve("loss")}),
        plot("Gradient norm", {"": curve("grad_norm")}),
        plot("Learning rate", {"": curve("lr")}),
        areas("Time of a step", of("phases"), "seconds"),
        plot("Tokens learned from per second", {"": curve("tokens_per_second")}),
    ])  # fmt: skip


def _by_source(steps: Sequence[Line]) -> list[str]:
    names = sorted({name for line in steps for name in line.get("by_source", ())})

    def curves(key: str, times: float) -> dict[str, list[tuple[float, float]]]:
        told = {name: [line for line in steps if key in line.get("by_source", {}).get(name, ())] for name in names}
        return {n: [(line["step"], times * line["by_source"][n][key]) for line in of] for n, of in told.items()}

    if not names:
        return []
    return [
        plot("Reward by source", curves("reward", 1)),
        plot("Right answers by source", curves("accuracy", 100), "%"),
        plot("Format by source", curves("format", 100), "%"),
    ]


def _ratios(steps: Sequence[Line]) -> list[str]:
    told = [line for line in steps if sum(line.get("ratios", ()))]
    if not told:
        return []
    last, first = told[-WINDOW:], told[:WINDOW]
    series = {_span(last): np.sum([line["ratios"] for line in last], 0).tolist()}
    if len(told) >= 2 * WINDOW:
        begun = np.sum([line["ratios"] for line in first], 0).tolist()
        series = {_span(first): begun, **series}
    below, above = int(np.searchsorted(EDGES, -1.0)) + 1, int(np.searchsorted(EDGES, 1.0)) + 1

    def beyond(line: Line) -> tuple[float, float]:
        counts = line["ratios"]
        return 100 * sum(counts[:below]) / sum(counts), 100 * sum(counts[above:]) / sum(counts)

    sides = {"below": [(line["step"], beyond(line)[0]) for line in told],
             "above": [(line["step"], beyond(line)[1]) for line in told]}  # fmt: skip
    return [
        bars("Importance ratios", EDGES.tolist(), series, (-1.0, 1.0), "(r − 1) in clip ranges; clipping begins at ±1"),
        plot("Ratios beyond the clip range", sides, "%; clipped are those that would gain by going on"),
    ]


# --------------------------------------------------------------------------------------------------------------- groups


def _groups(folder: Path) -> str:
    """Whole groups of the newest step, each an example of something."""
    files = sorted((folder / "rollouts").glob("step-*.parquet"))
    if not files:
        return ""
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in pq.read_table(files[-1], columns=list(COLUMNS)).to_pylist():
        groups[row["group"]].append(row)
    shown = "".join(_group(title, rows) for title, rows in _chosen(list(groups.values())))
    said = f"{len(groups):,} groups of rollouts/{files[-1].name}; these are examples."
    return f"<h2>Groups of answers, {files[-1].stem}</h2><p>{said}</p>{shown}"


def _chosen(groups: Sequence[Sequence[Row]]) -> list[tuple[str, Sequence[Row]]]:
    """The first group of each kind that a person wants to see; no group twice."""

    def spread(rows: Sequence[Row]) -> float:
        rewards = [row["reward"] for row in rows if row["reward"] is not None]
        return max(rewards) - min(rewards) if rewards else -1.0

    def right(rows: Sequence[Row]) -> set[float]:
        return {row["accuracy"] for row in rows if row["accuracy"] is not None}

    tests: list[tuple[str, Callable[[Sequence[Row]], bool]]] = [
        ("Differs in form only", lambda rows: rows[0]["kind"] == "format"),
        ("All wrong", lambda rows: right(rows) == {0.0} and rows[0]["kind"] != "format"),
        ("All right", lambda rows: right(rows) == {1.0} and rows[0]["kind"] != "format"),
        ("Could not be scored", lambda rows: rows[0]["kind"] == "unscored"),
    ]
    widest = max(groups, key=spread)
    found, taken = [("Largest spread of rewards", widest)], {widest[0]["group"]}
    for title, fits in tests:
        rows = next((rows for rows in groups if rows[0]["group"] not in taken and fits(rows)), None)
        if rows is not None:
            found.append((title, rows))
            taken.add(rows[0]["group"])
    return found


def _group(title: str, rows: Sequence[Row]) -> str:
    first = rows[0]
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    right = sum(row["accuracy"] or 0 for row in rows)
    mean = f"; mean reward {np.mean(rewards):.3f}" if rewards else ""
    functions = list(json.loads(first["functions"]))
    shown = ["format"] + (["overlong"] if any(row["overlong"] for row in rows) else [])
    head = "".join(
        f"<th class=number>{escape(name)}</th>" for name in ("reward", *shown, *functions, "advantage", "tokens")
    )
    body = "".join(_answer(row, shown, functions) for row in rows)
    return (
        f"<details open><summary><b>{title}</b>: {escape(first['row_id'])} ({escape(first['source'])}), "
        f"{right:.0f} of {len(rows)} right{mean}</summary><p><b>Question</b></p><pre>{escape(first['question'])}</pre>"
        f"<p><b>Gold</b> <code>{escape(first['gold'])}</code></p>"
        f"<table><tr><th>answer</th><th>verdict</th>{head}</tr>{body}</table></details>"
    )


def _answer(row: Row, shown: Sequence[str], functions: Sequence[str]) -> str:
    own = json.loads(row["functions"])
    values = [row["reward"], *(row[name] for name in shown), *(own.get(path) for path in functions)]
    cells = "".join(f"<td class=number>{'–' if value is None else f'{value:.3g}'}</td>" for value in values)
    said = [escape(row["state"])]
    if not row["finished"] and row["state"] != "truncated":
        said.append("cut off")
    if row["problem"] and row["problem"] != row["state"]:
        said.append(f"not scored: {escape(row['problem'])}")
    advantage = row["advantage"]
    colour = "good" if advantage > 0 else "bad" if advantage < 0 else ""
    return (
        f'<tr class="{escape(row["state"])}{"" if row["used"] else " unused"}"><td><pre>{escape(row["text"])}</pre></td>'
        f"<td>{'<br>'.join(said)}</td>{cells}"
        f'<td class="number {colour}">{f"{advantage:+.2f}" if row["used"] else "–"}</td><td class=number>{row["tokens"]:,}</td></tr>'
    )
