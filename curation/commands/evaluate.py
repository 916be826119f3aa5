"""Commands that measure: evaluate, scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from curation.commands.app import (
    Json,
    Limit,
    LogJson,
    Quiet,
    Sets,
    Workers,
    Workspace,
    app,
    example,
    print_json,
    print_table,
)
from schemas.errors import WinnowError

PLAIN = ("tokens", "accuracy_per_1k_tokens")
"""Metrics that are no shares; those are printed in per cent."""
FIGURES = ("model", "benchmark", "metric", "value", "95 %", "units", "clusters")


@app.command(
    rich_help_panel="Train",
    epilog=example("""
winnow evaluate .winnow/runs/tiny-sft recipes/benchmarks/sums.yaml
winnow evaluate Qwen/Qwen2.5-VL-7B-Instruct mathvista mathvision dynamath --engine vllm
winnow evaluate http://localhost:8000/v1#my-model aime24 --set ask.n=16
winnow evaluate answers.parquet gsm8k --json
"""),
)
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model or a run, repo id, http://host/v1#NAME, or a file of answers.")],
    benchmarks: Annotated[list[str], typer.Argument(metavar="BENCH…", help="Benchmark recipes: files, or names of those in recipes/benchmarks.")],
    set: Sets = None,
    engine: Annotated[str, typer.Option(help="Who generates: auto, transformers or vllm.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a repo id; state of a served model.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A further setting of the engine, as under `teacher:`: batch_size=64.")] = None,
    against: Annotated[str | None, typer.Option(metavar="REF", help="Compare question by question with this model or record.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also write results and samples in lm-eval's layout.")] = None,
    judge: Annotated[str | None, typer.Option(help="OpenAI-compatible base URL, asked what the rules leave open.")] = None,
    judge_model: Annotated[str, typer.Option(help="The judge's model.")] = "",
    limit: Limit = None,
    workspace: Workspace = None,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:  # fmt: skip
    """Measure a model on benchmarks, with error bars, under the one checker.

    Answers are traces of a version: an interrupted evaluation goes on, and nothing is asked twice.
    """
    from curation.answers import Judge
    from curation.console import reporter
    from training import evaluate as evaluation
    from training.benchmarks import model_of
    from training.contrast import compare

    if bool(judge) != bool(judge_model):
        raise typer.BadParameter("A judge needs both --judge URL and --judge-model NAME.")
    who = model_of(model, engine=engine, revision=revision, options=_options(teacher or []))
    found = evaluation.evaluate(
        who,
        benchmarks,
        set=set or [],
        workspace=workspace,
        limit=limit,
        workers=workers,
        judge=Judge(judge, judge_model) if judge else None,
        reporter=lambda: reporter(quiet=quiet, log_json=log_json),
    )
    if out is not None:
        for one in found:
            evaluation.export(one, out, workspace)
    contrasts = compare(against, found[0].figures[0].model, workspace) if against else []
    if as_json:
        listed = [{"path": str(one.path), **one.manifest} for one in found]
        print_json({"evaluations": listed, "contrasts": [vars(c) for c in contrasts]} if against else listed)
        return
    _print(found)
    if contrasts:
        _print_contrasts(against or "", found[0].figures[0].model, contrasts)


@app.command(
    rich_help_panel="Train",
    epilog=example("""
winnow scores
winnow scores tiny-sft-step-000600
winnow scores tiny-sft-step-000300 tiny-sft-step-000600
winnow scores --import lm_eval_output/
winnow scores --import verdicts.parquet --group 'dynamath/([0-9]+)/'
"""),
)
def scores(
    references: Annotated[list[str] | None, typer.Argument(metavar="[MODEL|ID|BENCH]…", help="What to show; two are compared.")] = None,
    imported: Annotated[Path | None, typer.Option("--import", metavar="PATH", help="Results of lm-eval or lmms-eval, or a table of verdicts (id, model, correct).")] = None,
    group: Annotated[str | None, typer.Option(metavar="REGEX", help="With --import: what of an id names the seed question of variants, or a column.")] = None,
    name: Annotated[str | None, typer.Option(help="With --import: the model's name, where the file does not say it.")] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show what was measured; compare two models question by question; take in results of other harnesses."""
    from training import evaluate as evaluation
    from training.contrast import compare

    if imported is not None:
        found = evaluation.take_in(imported, workspace=workspace, group=group, model=name)
        print_json([{"path": str(one.path), **one.manifest} for one in found]) if as_json else _print(found)
        return
    asked = references or []
    if len(asked) == 2:
        contrasts = compare(asked[0], asked[1], workspace)
        if not contrasts:
            raise WinnowError(f"{asked[0]} and {asked[1]} have no benchmark in common.")
        print_json([vars(c) for c in contrasts]) if as_json else _print_contrasts(asked[0], asked[1], contrasts)
        return
    if len(asked) > 2:
        raise typer.BadParameter("Two are compared at a time.")
    records = list({e.id: e for e, _ in evaluation.chosen(asked[0], workspace)}.values()) if asked else evaluation.evaluations(workspace)  # fmt: skip
    if as_json:
        print_json([{"path": str(one.path), **one.manifest} for one in records])
    else:
        _print(records, headlines=not asked)


def _options(given: list[str]) -> dict[str, Any]:
    """`batch_size=64`, `join={rows: id, traces: number}`"""
    from curation import yamlfile

    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint="--teacher")
        found[key] = yamlfile.parse(value, file="--teacher").plain()
    return found


def _print(found: list[Any], headlines: bool = False) -> None:
    from training.contrast import significance

    lines = []
    for one in found:
        for figure in one.figures:
            if figure.headline or not headlines:
                mark = " *" if figure.headline and not headlines else ""
                lines.append((figure.model, one.benchmark, figure.metric + mark, *_shown(figure)))
    print_table(FIGURES, lines, right=("value", "95 %", "units", "clusters"))
    for one in found if not headlines else ():
        official = one.manifest.get("official")
        first = next((f for f in one.figures if f.headline), None)
        print(f"{one.benchmark} {one.id}" + (f": {official}" if official else ""))
        if first is not None:
            print(f"  {significance(first)}")
        if not one.manifest.get("complete", True):
            held = (one.manifest.get("ask") or {}).get("held")
            what = (
                "the file has no answer to some questions"
                if held
                else "some answers could not be got; run the same command again"
            )
            print(f"  INCOMPLETE: {what}. The figures are over the others.")
        left_out = {k: v for k, v in one.manifest["notes"].items() if k in ("quarantined", "unreadable_gold", "refused", "not_got", "unanswered", "incomplete_problems") and v}  # fmt: skip
        if left_out:
            print("  " + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in left_out.items()))


def _shown(figure: Any) -> tuple[str, ...]:
    """Shares in per cent, tokens as they are."""
    share = figure.metric not in PLAIN
    value, low, high = (
        "–" if not math.isfinite(v) else f"{100 * v:.1f}" if share else f"{v:,.2f}" for v in (figure.value, figure.low, figure.high)
    )  # fmt: skip
    return value, f"{low} … {high}", f"{figure.units:,}", f"{figure.clusters:,}"


def _print_contrasts(a: str, b: str, contrasts: list[Any]) -> None:
    lines = []
    for c in contrasts:
        by = 1 if c.metric in PLAIN else 100
        lines.append(
            (c.benchmark, c.metric, f"{by * c.a:,.1f}", f"{by * c.b:,.1f}", f"{by * c.difference:+,.1f}",
             f"{by * c.low:+,.1f} … {by * c.high:+,.1f}", f"{c.p:.3f}", f"{c.clusters:,}", c.verdict)
        )  # fmt: skip
    print(f"A: {a}\nB: {b}")
    header = ("benchmark", "metric", "A", "B", "B − A", "95 %", "p", "clusters", "")
    print_table(header, lines, right=("A", "B", "B − A", "95 %", "p", "clusters"))
    if len(contrasts) > 1:
        print(f"{len(contrasts)} comparisons: one in twenty of equal models would be told apart by chance.")


@app.command(
    rich_help_panel="Train",
    epilog=example("""
winnow ablate recipes/ablations/small_answers.yaml
winnow ablate recipes/ablations/small_answers.yaml --plan
winnow ablate recipes/ablations/paper/answers.yaml --jobs 8
winnow ablate recipes/ablations/paper/answers.yaml --on ray:10.0.0.1:6379
"""),
)
def ablate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The ablation recipe, a YAML file.")],
    set: Sets = None,
    plan: Annotated[bool, typer.Option("--plan", help="List the cells; run nothing.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells that run at once, each on a GPU of its own.")] = None,
    on: Annotated[str | None, typer.Option(metavar="ray[:ADDRESS]", help="Run cells on a Ray cluster: the one at ADDRESS, or this machine's.")] = None,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Build, train and evaluate every cell of a matrix over seeds, and say which differences are shown.

    What cells share is made once; an interrupted ablation goes on where it stopped.
    """
    import contextlib
    import sys

    from training.cells import cells_of, load

    wanted = load(recipe, overrides=set or [])
    if plan:
        cells = cells_of(wanted)
        print_table(("cell", "build", "sft", "gspo"), [(c.label, " ".join(c.build), " ".join(c.sft), " ".join(c.gspo)) for c in cells])  # fmt: skip
        print(f"{len(cells)} cells x {len(wanted.seeds)} seeds, {len({c.build for c in cells})} builds")
        return
    from training import ablation, ablation_report

    silent = quiet or as_json

    def say(text: str) -> None:
        if not silent:
            print(text, file=sys.stderr, flush=True)

    with contextlib.redirect_stdout(sys.stderr):  # what Ray tells of its workers is no result
        done = ablation.ablate(wanted, workspace=workspace, jobs=jobs, on=on, say=say)
    if as_json:
        print_json({"path": str(done.path), "cells": done.cells.to_dicts(), "effects": done.effects.to_dicts()})
        return
    for lines in (ablation_report.cell_lines(done.cells), ablation_report.effect_lines(done.effects)):
        if lines:
            print_table(tuple(lines[0]), [tuple(line.values()) for line in lines])
    print(done.path / "report.html")
