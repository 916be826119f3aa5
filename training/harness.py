"""The result files of other harnesses: written, so that their tools read ours, and read, so that ours compare theirs.

lm-evaluation-harness and lmms-eval write `results.json` ({"results": {task: {"METRIC,FILTER": value,
"METRIC_stderr,FILTER": error}}}) and, with --log_samples, `samples_TASK_….jsonl`, one line per question with its score
under the metric's name. Only the latter can be compared question by question; from the former a difference has the
errors of two independent samples. A third form is any table of verdicts: columns id, model and correct.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from schemas.benchmarks import Score
from schemas.errors import WinnowError
from training import scores
from training.scoring import UNITS, Figure, Scored, scored

_NOT_METRICS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
                "prompt_hash", "target_hash", "input", "model_id"}  # fmt: skip


def results(manifest: Mapping[str, Any], model: str | None = None) -> dict[str, Any]:
    """An evaluation in the layout of `results.json`. With several models, those of each under `benchmark/model`."""
    names = [model] if model else list(dict.fromkeys(line["model"] for line in manifest["figures"]))
    bench, found, counts = str(manifest["benchmark"]), {}, {}
    for name in names:
        task = bench if len(names) == 1 else f"{bench}/{name}"
        line: dict[str, Any] = {"alias": task}
        for figure in (f for f in manifest["figures"] if f["model"] == name):
            line[f"{figure['metric']},none"] = figure["value"]
            line[f"{figure['metric']}_stderr,none"] = figure["error"] if math.isfinite(figure["error"]) else "N/A"
        found[task] = line
        total = manifest["notes"].get("questions")
        counts[task] = {"original": total, "effective": next(iter(_counted(manifest, name)), total)}
    asked = manifest.get("ask") or {}
    return {
        "results": found,
        "configs": {
            task: {"task": task, "output_type": "generate_until", "repeats": asked.get("n", 1),
                   "generation_kwargs": asked, "description": (manifest.get("prompt") or {}).get("system") or ""}
            for task in found
        },
        "versions": dict.fromkeys(found, manifest.get("revision")),
        "n-samples": counts,
        "higher_is_better": {task: {name.split(",")[0]: not name.startswith(("truncated", "tokens")) for name in line if name.endswith(",none") and "_stderr" not in name} for task, line in found.items()},
        "config": {"model": (manifest.get("model") or {}).get("teacher", {}).get("kind", "imported"), "model_args": (manifest.get("model") or {}).get("teacher", {})},
        "model_name": ", ".join(names),
        "date": manifest["run"]["created"],
    }  # fmt: skip


def _counted(manifest: Mapping[str, Any], model: str) -> Iterator[int]:
    return (int(f["units"]) for f in manifest["figures"] if f["model"] == model)


def samples(answers: pl.DataFrame) -> Iterator[str]:
    """Lines of `samples_TASK.jsonl`: one per question, from answers with question, answer, text and extracted."""
    for number, (_, own) in enumerate(answers.group_by("unit", maintain_order=True)):
        first = own.row(0, named=True)
        line = {
            "doc_id": number,
            "doc": {"id": first["id"] or first["unit"], "question": first["question"], "group": first["cluster"]},
            "target": first["answer"],
            "resps": [own["text"].to_list()],
            "filtered_resps": own["extracted"].to_list(),
            "filter": "none",
            "metrics": ["accuracy"],
            "accuracy": float(own["right"].mean()),  # type: ignore[arg-type]
        }
        yield json.dumps(line, ensure_ascii=False)


# --------------------------------------------------------------------------------------------------------------- reading


def read(path: Path, *, group: str | None = None, model: str | None = None) -> dict[str, tuple[Scored, dict[str, Any]]]:
    """Task -> its scores and what is known about them, from a results file, its folder, or a table of verdicts.

    group   of a table of verdicts, and of samples: a regular expression whose first group, found in an id, names the
            seed question of variants; or a column. Then the worst case is scored too
    model   the model's name, where the file does not say it
    Raises WinnowError where the file is none of these.
    """
    if path.suffix == ".parquet" or (path.suffix == ".jsonl" and not path.name.startswith("samples_")):
        return {path.stem: _verdicts(path, group, model)}
    files = sorted(path.rglob("*results*.json")) if path.is_dir() else [path]
    if not files:
        raise WinnowError(f"There is no results file of lm-eval or lmms-eval in {path}.")
    file = files[-1]
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        tasks = said["results"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WinnowError(f'{file} is no results file: it has no "results" ({type(error).__name__}).') from error
    name = model or _model_name(said, file)
    found = {}
    for task, line in tasks.items():
        of = sorted(file.parent.glob(f"*samples_{task}*.jsonl"))
        figures = list(_figures(name, line, said.get("n-samples", {}).get(task, {})))
        about = {"model": {"name": name, "teacher": {"kind": "imported"}, "trained": ""}, "ask": said.get("configs", {}).get(task, {}).get("generation_kwargs") or {}}  # fmt: skip
        if of:
            result = _from_samples(of[-1], name, group)
            if result is not None:
                found[task] = (result, about)
                continue
        empty = pl.DataFrame(schema={**UNITS, "right": pl.Boolean})
        found[task] = (Scored(empty.drop("metric"), empty.select(list(UNITS)), figures, {"samples": False}), about)
    return found


def _model_name(said: Mapping[str, Any], file: Path) -> str:
    config = said.get("config") or {}
    arguments = config.get("model_args") or ""
    named = re.search(r"(?:pretrained|model_version|model)=([^,]+)", arguments) if isinstance(arguments, str) else None
    return str(said.get("model_name") or (named.group(1) if named else config.get("model")) or file.parent.name)


def _figures(model: str, line: Mapping[str, Any], counts: Mapping[str, Any]) -> Iterator[Figure]:
    """Aggregate figures; intervals from the standard errors that stand beside them."""
    n, first = int(counts.get("effective") or 0), True
    for key, value in line.items():
        metric, _, _ = key.partition(",")
        if not isinstance(value, int | float) or isinstance(value, bool) or metric.endswith("_stderr"):
            continue
        error = line.get(key.replace(metric, f"{metric}_stderr", 1))
        wide = float(error) if isinstance(error, int | float) else math.nan
        half = 1.96 * wide
        yield Figure(model, metric, float(value), float(value) - half, float(value) + half, wide, n, n, headline=first)
        first = False


def _from_samples(file: Path, model: str, group: str | None) -> Scored | None:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        return None
    names = [m for m in lines[0].get("metrics") or lines[0] if m not in _NOT_METRICS and _number(lines[0].get(m)) is not None]  # fmt: skip
    if not names:
        return None
    rows = []
    for line in lines:
        doc = line.get("doc") or {}
        unit = str(doc.get("id") or doc.get("pid") or doc.get("doc_id") or line.get("doc_id"))
        rows += [(name, unit, unit, _group(doc, unit, group), value) for name in names if (value := _number(line.get(name))) is not None]  # fmt: skip
    kinds = {"metric": pl.String, "unit": pl.String, "id": pl.String, "cluster": pl.String, "value": pl.Float64}
    table = pl.DataFrame(rows, kinds, orient="row").group_by("metric", "unit", maintain_order=True).agg(
        pl.col("id").first(), pl.col("cluster").first(), pl.col("value").mean()
    )  # fmt: skip
    units = table.with_columns(model=pl.lit(model)).select(list(UNITS))
    figures = []
    for (metric,), of in units.group_by("metric", maintain_order=True):
        found = scores.estimate(of["value"].to_numpy(), None, of["cluster"].to_list())
        figures.append(Figure(model, str(metric), found.value, found.low, found.high, found.error, found.units,
                              found.clusters, headline=metric == names[0]))  # fmt: skip
    answers = table.filter(pl.col("metric") == names[0]).select(
        "unit", "id", "cluster", pl.lit(model).alias("model"), (pl.col("value") > 0.5).alias("right")
    )
    return Scored(answers, units, figures, {"questions": len(answers), "samples": True})


def _group(doc: Mapping[str, Any], unit: str, group: str | None) -> str:
    if group is None:
        return str(doc.get("group") or unit)
    if group in doc:
        return str(doc[group])
    found = re.search(group, unit)
    return (found.group(1) if found.groups() else found.group(0)) if found else unit


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _verdicts(path: Path, group: str | None, model: str | None) -> tuple[Scored, dict[str, Any]]:
    """A table of verdicts: what somebody else's checker said of somebody else's answers."""
    table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path)
    if missing := [name for name in ("id", "correct") if name not in table.columns]:
        raise WinnowError(
            f"{path} has no column {', '.join(missing)}: a table of verdicts has id and correct, and model where there "
            f"are several. It has {', '.join(table.columns)}."
        )
    ids = table["id"].cast(pl.String)
    if group is None:
        clusters = ids
    elif group in table.columns:
        clusters = table[group].cast(pl.String)
    else:
        clusters = pl.Series([_group({}, name, group) for name in ids.to_list()])
    own = table["model"].cast(pl.String) if "model" in table.columns else pl.Series([model or path.stem] * len(table))
    right = table["correct"].cast(pl.Boolean).fill_null(False)
    frame = pl.DataFrame({"unit": ids, "id": ids, "cluster": clusters, "model": own, "right": right}).sort("model", "unit")  # fmt: skip
    frame = frame.with_columns(k=pl.int_range(pl.len(), dtype=pl.Int32).over("model", "unit"), part=pl.lit(None, pl.String),
        vote=pl.when("right").then(0).otherwise(-1), tokens=pl.lit(None, pl.Int32), truncated=pl.lit(False))  # fmt: skip
    score = Score(metric="worst_case", also=["accuracy"], group="cluster") if group else Score()
    result = scored(frame, score, {"questions": frame["unit"].n_unique(), "answers": len(frame)})
    kept = [f for f in result.figures if f.metric not in ("truncated",)]
    return Scored(frame, result.units, kept, result.notes), {
        "model": {"name": path.stem, "teacher": {"kind": "verdicts", "path": str(path)}, "trained": ""}
    }
