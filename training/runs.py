"""The folder of a run: what it was begun with, which rows are left out, and whether it may be gone on with.

<workspace>/runs/<name>/
  recipe.yaml  manifest.json     what was asked for; data by version id, counts, libraries, how it ended
  metrics.jsonl  report.html     figures of each step; curves and answers
  ledger.jsonl                   rows that were not trained on, with their reason
  checkpoints/  samples/  tensorboard/
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from curation import store, yamlfile
from schemas.errors import WinnowError
from schemas.training import SftRecipe
from training.index import LeftOut
from training.recipe import Plan
from training.sources import OpenData

FREE = ("description", "save", "log", "evaluation", "steps", "epochs", "batch.workers", "batch.picture_cache_mb")
"""Keys of a recipe that may change when a run is taken up again."""


class Ledger:
    """Rows that are not trained on, each once: ledger.jsonl."""

    def __init__(self, path: Path):
        self._path = path
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        self._known = {(line["row_id"], line["source"], line["reason"]) for line in map(json.loads, lines)}

    def add(self, rows: Iterable[LeftOut]) -> None:
        fresh = {(one.row_id, one.source, one.reason): one for one in rows}
        lines = [json.dumps(asdict(one), ensure_ascii=False) for key, one in fresh.items() if key not in self._known]
        if lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        self._known |= fresh.keys()

    @property
    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(reason for _, _, reason in self._known).items()))


def open_run(folder: Path, plan: Plan[Any], fresh: bool) -> None:
    """Make the run's folder, or check that what is in it is the same run."""
    if fresh and folder.exists():
        shutil.rmtree(folder)
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        old, new = (dict(_flat(yamlfile.parse(text, file="").plain())) for text in (recipe.read_text(), plan.text))
        changed_keys = (key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        keys = sorted(key for key in changed_keys if not f"{key}.".startswith(tuple(f"{free}." for free in FREE)))
        if keys:
            changed = "\n".join(f"    {key}: {old.get(key)} -> {new.get(key)}" for key in keys)
            raise WinnowError(
                f"The run {folder.name} was begun with another recipe:\n{changed}\nGive this one another `name`, or "
                "begin anew with --fresh, which removes the old run."
            )
    _check_same_model(folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    recipe.write_text(plan.text)


def _check_same_model(folder: Path, plan: Plan[Any]) -> None:
    """Raises WinnowError where the model that the run was begun from is another one now: its run was trained anew, or
    went on. Its weights are the reference of the KL term, and answers on disk may be its own."""
    manifest = folder / "manifest.json"
    before = store.read_json(manifest)["model"].get("begun_from") if manifest.exists() else None
    now = plan.begun_from if before else None
    if before and now and before["digest"] != now["digest"]:
        then, today = (f"{one['folder']} ({one['digest'][:12]})" for one in (before, now))
        raise WinnowError(
            f"The run {folder.name} was begun from {plan.recipe.model.path} as it was then; that is another model now:\n"
            f"    then: {then}\n    now:  {today}\n"
            "Put the old model back, give this recipe another `name`, or begin anew with --fresh, which removes the "
            "old run."
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """`batch.packs` -> 2, for every leaf."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else key)
    else:
        yield name, value


def check_same_data(before: dict[str, Any], opened: Sequence[OpenData], name: str) -> None:
    """Raises WinnowError where a checkpoint was made from other data."""
    if before["trained_on"] != [one.identity for one in opened]:
        raise WinnowError(
            f"The data of the run {name} is not what it was begun with:\n    {before['trained_on']}\n    "
            f"{[one.identity for one in opened]}\nName the old version by its id, or begin anew with --fresh."
        )


def manifest_of(
    plan: Plan[Any],
    opened: Sequence[OpenData],
    samples: int,
    left_out: dict[str, int],
    steps: int,
    processes: int,
    kind: str = "sft",
) -> dict[str, Any]:
    """What a run was trained on and with; `state` and how it ended are added."""
    recipe = plan.recipe
    return {
        "format": 1,
        "kind": kind,
        "name": recipe.name,
        "description": recipe.description,
        "state": "running",
        "recipe": plan.text,
        "model": {
            "path": recipe.model.path,
            "revision": recipe.model.revision,
            "init": recipe.model.init,
            "begun_from": plan.begun_from,
        },
        "data": [one.identity for one in opened],
        "counts": {"samples": samples - left_out.get("overlong", 0), "left_out": left_out},
        "steps": steps,
        "seed": recipe.seed,
        "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers", "winnow")},
        "run": {"processes": processes, "host": platform.node(), "python": platform.python_version()},
    }


def opening(
    recipe: SftRecipe, model: Any, samples: int, reasons: dict[str, int], steps: int, start: int, processes: int
) -> str:
    """What a person should know before the first step."""
    weights, trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (True, False)
    )
    left = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    lines = [
        f"{recipe.name}: {weights:,} parameters, {trained:,} trained, {recipe.precision}, {processes} process(es)",
        f"  {samples:,} samples" + (f"; left out: {left} (ledger.jsonl)" if left else ""),
        f"  {steps:,} steps of {recipe.batch.packs} x "
        + (f"{recipe.batch.max_tokens:,} tokens" if recipe.batch.packing else f"{recipe.batch.samples} samples")
        + (f"; goes on behind step {start:,}" if start else ""),
    ]
    return "\n".join(lines)
