"""The answers of a step and all that became of them: one Parquet file per step, rollouts/step-000001.parquet.

The file is written before anything is learned from it, so a run that was killed goes on with the very answers it had;
it is written again behind the updates, with the trainer's figures. Nothing is left out: groups that were asked and not
used are in it too, with `used` false. It is the first thing to open when a run goes wrong:

    select question, text, state, reward, advantage from 'rollouts/step-000040.parquet' order by advantage
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import store
from schemas.errors import WinnowError
from training.heldout import shown
from training.rewards import Scored
from training.rollouts import Drawn
from training.sources import Question
from training.tokens import Sample

EDGES = np.linspace(-4, 4, 17)
"""Of the histogram of ratios: (r - 1) in units of the clip range, so ±1 is where clipping begins."""
FIGURES = ("logp", "entropy", "mismatch", "ratio", "clipped", "kl")
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("group", pa.int32()),  # which question of the step
        ("k", pa.int32()),  # which answer to it
        ("number", pa.int64()),  # which question of the data
        ("row_id", pa.string()),
        ("source", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("rollout_logp", pa.list_(pa.float32())),  # of each token, by the engine that drew it
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
        ("state", pa.string()),
        ("accuracy", pa.float64()),
        ("format", pa.float64()),
        ("overlong", pa.float64()),
        ("functions", pa.string()),  # JSON: value by path
        ("reward", pa.float64()),  # null: could not be told, and the answer is in no mean and no loss
        ("problem", pa.string()),  # why
        ("kind", pa.string()),  # of the group: signal, format, equal, unscored
        ("advantage", pa.float64()),
        ("used", pa.bool_()),  # in the loss
        ("logp", pa.float64()),  # means over the answer's tokens, by the trainer before the step
        ("entropy", pa.float64()),
        ("mismatch", pa.float64()),  # mean |log π - log π_rollout|
        ("ratio", pa.float64()),  # when it was learned from
        ("clipped", pa.float64()),  # share of its tokens
        ("kl", pa.float64()),  # from the model of the beginning, where the loss has it
    ]
)


@dataclass
class Rollout:
    """One answer. `figures`: means over its tokens, of FIGURES; `old`: the trainer's log-probabilities before the step."""

    group: int
    number: int
    question: Question
    prompt: Sample
    drawn: Drawn
    text: str
    scored: Scored
    kind: str = ""
    advantage: float = 0.0
    used: bool = False
    old: Any = None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Collected:
    """What was asked in a step. `position`: of the stream of questions, behind the last one."""

    step: int
    position: int
    rounds: int
    rollouts: list[Rollout]
    seconds: dict[str, float] = field(default_factory=dict)


def place_of(folder: Path, step: int) -> Path:
    return folder / "rollouts" / f"step-{step:06d}.parquet"


def write(folder: Path, collected: Collected) -> None:
    """The step's file, durable when this returns."""
    rows, seen = [], Counter[int]()
    for one in collected.rollouts:
        q, scored = one.question, one.scored
        prompt = "\n".join(shown(turn["content"]) for turn in q.messages)
        rows.append({
            "step": collected.step, "group": one.group, "k": seen[one.group], "number": one.number, "row_id": q.row_id,
            "source": q.source, "question": prompt, "gold": q.gold, "text": one.text, "ids": one.drawn.ids,
            "rollout_logp": one.drawn.logp, "tokens": len(one.drawn.ids), "finished": one.drawn.finished,
            "state": scored.state, "accuracy": scored.accuracy, "format": scored.format, "overlong": scored.overlong,
            "functions": json.dumps(scored.functions), "reward": scored.reward, "problem": scored.problem,
            "kind": one.kind, "advantage": one.advantage, "used": one.used,
            **{name: one.figures.get(name) for name in FIGURES},
        })  # fmt: skip
        seen[one.group] += 1
    told = json.dumps({"position": collected.position, "rounds": collected.rounds})
    place = place_of(folder, collected.step)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA.with_metadata({"winnow": told})), beside, compression="zstd")
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.rename(place)
    store.fsync_folder(place.parent)


def read(folder: Path, step: int, questions: Sequence[Question], encode: Any) -> Collected | None:
    """What an earlier process collected for a step, or None. `encode`: from a question to its prompt."""
    place = place_of(folder, step)
    if not place.exists():
        return None
    table = pq.read_table(place)
    told = json.loads(table.schema.metadata[b"winnow"])
    prompts: dict[int, Sample] = {}
    rollouts = []
    for row in table.to_pylist():
        question = questions[row["number"]]
        if question.row_id != row["row_id"]:
            raise WinnowError(
                f"{place} was written for other data: question {row['number']} was {row['row_id']} and is "
                f"{question.row_id}.\nBegin anew with --fresh, or give the run another name."
            )
        if row["number"] not in prompts:
            prompts[row["number"]] = encode(question)
        functions = json.loads(row["functions"])
        scored = Scored(
            row["state"], row["accuracy"], row["format"], row["overlong"], functions, row["reward"], row["problem"]
        )
        drawn = Drawn(row["ids"], row["rollout_logp"], row["finished"])
        rollouts.append(
            Rollout(row["group"], row["number"], question, prompts[row["number"]], drawn, row["text"], scored,
                    row["kind"], row["advantage"], row["used"])
        )  # fmt: skip
    return Collected(step, told["position"], told["rounds"], rollouts)


# -------------------------------------------------------------------------------------------------------------- figures


def figures(collected: Collected) -> dict[str, Any]:
    """What a step's answers were like: rewards by part, all and by source; groups; lengths; states."""
    rollouts = collected.rollouts
    lengths = np.array([len(one.drawn.ids) for one in rollouts])
    parts = _parts(rollouts)
    kinds = Counter({one.group: one.kind for one in rollouts}.values())
    right = parts.get("accuracy", 0.0)
    found: dict[str, Any] = {
        **parts,
        "answers": len(rollouts),
        "used": sum(one.used for one in rollouts) / max(len(rollouts), 1),
        "tokens": float(lengths.mean()),
        "tokens_p95": float(np.quantile(lengths, 0.95)),
        "truncated": 1 - sum(one.drawn.finished for one in rollouts) / len(rollouts),
        "accuracy_per_1k_tokens": right / lengths.mean() * 1000,
        "groups": {kind: kinds.get(kind, 0) for kind in ("signal", "format", "equal", "unscored")},
        "states": dict(sorted(Counter(one.scored.state for one in rollouts).items())),
        "rounds": collected.rounds,
    }
    sources = sorted({one.question.source for one in rollouts})
    if len(sources) > 1:
        found["by_source"] = {name: _parts([r for r in rollouts if r.question.source == name]) for name in sources}
    told = [one for one in rollouts if one.figures]
    if told:
        weights = np.array([len(one.drawn.ids) for one in told], float)
        for name in ("entropy", "mismatch", "clipped", "kl"):
            values = np.array([one.figures.get(name, np.nan) for one in told])
            known = ~np.isnan(values)
            if known.any():
                found[name] = float(np.average(values[known], weights=weights[known]))
    return found


def _parts(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means of the reward and its parts over the answers that have them."""
    named: dict[str, list[float | None]] = {
        "reward": [one.scored.reward for one in rollouts],
        "accuracy": [one.scored.accuracy for one in rollouts],
        "format": [one.scored.format for one in rollouts],
        "overlong": [one.scored.overlong for one in rollouts],
    }
    for path in rollouts[0].scored.functions if rollouts else ():
        named[path] = [one.scored.functions.get(path) for one in rollouts]
    means = {name: [v for v in values if v is not None] for name, values in named.items()}
    return {name: sum(values) / len(values) for name, values in means.items() if values}
