"""Commands that make versions: build, quickstart, run."""

from __future__ import annotations

import json
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
    print_built,
    print_json,
    print_table,
)


@app.command(
    rich_help_panel="Build",
    epilog=example("""
winnow build recipes/quickstart.yaml
winnow build recipes/quickstart.yaml --plan
winnow build recipes/quickstart.yaml --limit 100 --set stages.filter.enabled=false
"""),
)
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run and what is cached; run nothing.")] = False,
    gpu_speed: Annotated[
        float | None,
        typer.Option(
            "--gpu-speed",
            min=0.001,
            metavar="TOKENS",
            help="With --plan: tokens per second that one GPU of the teacher writes; gives GPU hours.",
        ),
    ] = None,
    answer_tokens: Annotated[
        float | None,
        typer.Option("--answer-tokens", min=1, help="With --plan: mean tokens of an answer, where you know better."),
    ] = None,
    set: Sets = None,
    workspace: Workspace = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local, or ray.")] = "local",
    workers: Workers = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", show_default="60 %", help="Memory to use, like 8GB or 50%.")
    ] = None,
    limit: Limit = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if the recipe is being built already.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Build the version that a recipe describes.

    An interrupted build goes on where it stopped when the command is run again. Building once more what is built
    already gives the same version, at once.
    """
    from curation import builder, planning
    from curation.console import reporter

    overrides = set or []
    if plan:
        report = planning.plan(recipe, set=overrides, workspace=workspace, limit=limit)
        if as_json:
            print_json(report.to_dict())
        else:
            _print_plan(report, gpu_speed, answer_tokens)
        return
    said = reporter(quiet=quiet, log_json=log_json)
    try:
        version = builder.build(
            recipe,
            set=overrides,
            workspace=workspace,
            engine=engine,
            workers=workers,
            memory_limit=_memory(memory_limit),
            limit=limit,
            wait=not no_wait,
            reporter=said,
        )
    finally:
        said.close()
    if as_json:
        print_json({"name": version.name, "id": version.id, "path": str(version.path), "rows": version.kept})
    else:
        print_built(version)


def _memory(text: str | None) -> int | None:
    """`8GB`, `500M` or `50%` as bytes."""
    if text is None:
        return None
    number = text.strip().upper().removesuffix("B").rstrip()
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
    unit = number.lstrip("0123456789.").strip()
    try:
        value = float(number.removesuffix(unit).strip())
    except ValueError:
        value = -1.0
    if unit == "%" and 0 < value <= 100:
        from curation.engines.local import machine_memory

        return int(machine_memory() * value / 100)
    if unit not in units or value <= 0:
        raise typer.BadParameter(f"{text!r} is not a size. Write 8GB, 500MB or 50%.", param_hint="--memory-limit")
    return int(value * units[unit])


def _cost(step: Any, speed: float | None, answer_tokens: float | None) -> str:
    """What a step would ask of a teacher: tokens are estimates. `speed`: tokens per second of one GPU."""
    if not step.get("requests"):
        return "nothing to ask" if step.get("requests") == 0 and step["cached"] is False else ""
    from curation.console import amount

    written = step["output_tokens"] if answer_tokens is None else min(step["tokens"], answer_tokens * step["answers"])
    expected, most = amount(written), amount(step["tokens"])
    out = f"{expected} out" if expected == most else f"{expected} out (at most {most})"
    read = f"about {amount(step['prompt_tokens'])} tokens in, " if "prompt_tokens" in step else "tokens: "
    hours = f"; {written / speed / 3600:,.0f} GPU hours" if speed else ""
    return f"{step['answers']:,} answers in {step['requests']:,} requests: {read}{out}{hours}"


def _print_plan(report: Any, speed: float | None, answer_tokens: float | None) -> None:
    lines = []
    for step in report.steps:
        word = {True: "cached", False: "to run", None: "to run, after the above"}[step["cached"]]
        word = "to fetch from the Hub" if step.get("missing") else word
        rows = "" if step.get("rows") is None else f"{step['rows']:,}"
        rows += " expected" if rows and step.get("expected") else ""
        lines.append((step["name"], step["kind"], rows, word))
    print_table(("step", "kind", "rows", "state"), lines, right=("rows",))
    for step in report.steps:
        if cost := _cost(step, speed, answer_tokens):
            print(f"{step['name']}: {cost}")


@app.command(
    rich_help_panel="Build",
    epilog=example("""
winnow run recipes/chain.yaml
winnow run recipes/chain.yaml --json
"""),
)
def run(
    chain: Annotated[Path, typer.Argument(metavar="CHAIN", help="A YAML list of steps, like - build: recipe.yaml.")],
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a chain of steps, one after the other.

    Every step can be resumed, so a chain can: run it again, and what is done is passed over.
    """
    from curation import chain as chains
    from curation.console import reporter

    _load_steps()
    said = reporter(quiet=quiet, log_json=log_json)
    try:
        for done in chains.run_chain(chain, workspace=workspace, reporter=said):
            print(json.dumps(done, ensure_ascii=False, default=str) if as_json else f"{done['step']}: {done['said']}")
    finally:
        said.close()


@app.command(rich_help_panel="Build", epilog=example("winnow quickstart"))
def quickstart(
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Go on to a tiny model that learns, where torch is installed.")
    ] = True,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Build the sample recipes, let a tiny model learn (SFT, then GSPO with live rollouts), and say what to try next."""
    from importlib.util import find_spec

    from curation import quickstart as first
    from curation.console import reporter

    said = reporter(quiet=quiet, log_json=log_json)
    try:
        built = first.quickstart(workspace, said)
    finally:
        said.close()
    steps = first.next_steps(built, workspace)
    versions = [{"name": v.name, "id": v.id, "path": str(v.path), "rows": v.kept} for v in built]
    if not as_json:
        for version in built:
            print()
            print_built(version)
    learned = []
    lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if train and not lacking:
        from training.quickstart import learn

        if not as_json:
            print("\nA model of 140,000 weights learns to add, on one core: 180 demonstrations, then 2,000 questions.")
        for name, accuracy, report in learn(first.find_recipes(), workspace, quiet=quiet or as_json):
            learned.append({"stage": name, "accuracy": accuracy, "report": str(report)})
            if not as_json:
                print(f"  held-out sums, {name}: {100 * accuracy:.1f} % right")
        if not as_json:
            print(f"  {learned[-1]['report']}")
    elif train and not as_json:
        print(
            f"\nNo {' and '.join(lacking)} here, so nothing is trained: pip install 'winnow[train]' and say it again."
        )
    if as_json:
        print_json({"versions": versions, "learned": learned, "next": steps})
        return
    print("\nTry next:\n" + "\n".join(f"  {step}" for step in steps))


def _load_steps() -> None:
    """Import the modules above curation that add steps to chains."""
    import importlib
    import importlib.util

    if importlib.util.find_spec("training.steps") is not None:
        importlib.import_module("training.steps")
