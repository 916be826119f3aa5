"""Commands that need no workspace: schema, check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curation.commands.app import (
    Json,
    Workers,
    app,
    example,
    print_json,
    print_table,
)


@app.command(
    rich_help_panel="More",
    epilog=example("""
winnow schema recipe > recipe.schema.json
winnow schema stages
winnow schema sft-recipe
winnow schema ledger
"""),
)
def schema(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="[KIND]",
            help="recipe, sft-recipe, gspo-recipe, benchmark-recipe, ablation-recipe, stages, exports, rows, images, traces, verdicts or ledger.",
        ),
    ] = "recipe",
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of recipes (of builds or of training), what stages and exports there are, or the columns of a table.

    For editors, put this line on top of a recipe: # yaml-language-server: $schema=recipe.schema.json
    """
    from curation import schema as described

    found = described.describe(kind)
    if as_json or kind.endswith("recipe"):
        print_json(found)
    else:
        print_table(tuple(found[0]), [tuple(line.values()) for line in found])


@app.command(
    rich_help_panel="More",
    epilog=example(r"""
winnow check "\frac{1}{2}" "So the answer is 0.5."
winnow check B "It must be the second one: (B)." --choice cat --choice dog
winnow check "5 cm" "5" --convention missing_unit=refuse
winnow check --file pairs.jsonl --json
"""),
)
def check(
    gold: Annotated[str | None, typer.Argument(metavar="[GOLD]", help="The right answer.")] = None,
    response: Annotated[str | None, typer.Argument(metavar="[RESPONSE]", help="What a model said.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON Lines of {gold, response, …}; `expected` measures the checker.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="What the gold is: choice, number, math, text, …")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="An option of a multiple-choice question, in order.")] = None,
    question: Annotated[str | None, typer.Option(help="The question, where its options stand in it.")] = None,
    convention: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of docs/answers.md, such as missing_unit=refuse.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="With --file: an OpenAI-compatible base URL, asked what the rules leave open.")
    ] = None,
    judge_model: Annotated[str, typer.Option(help="The judge's model.")] = "",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Ask the checker whether a response gives the right answer, and why."""
    from curation import answers

    try:
        policy = answers.Policy.parse(convention or ())
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--convention") from None
    if file is not None and gold is None:
        if bool(judge) != bool(judge_model):
            raise typer.BadParameter("A judge needs both --judge URL and --judge-model NAME.")
        asked = answers.Judge(base_url=judge, model=judge_model) if judge else None
        report = answers.check_file(file, policy=policy, workers=workers or os.cpu_count() or 1, judge=asked)
        print(report.json() if as_json else report.summary)
        return
    if gold is None or response is None or file is not None:
        raise typer.BadParameter("Give GOLD and RESPONSE, or --file FILE.")
    if judge:
        raise typer.BadParameter("A judge is asked for files: give --file FILE.")
    if as_json:
        from dataclasses import asdict

        found = answers.check(gold, response, kind=kind, choices=choice, question=question, policy=policy)
        print_json(asdict(found))
    else:
        print(answers.explain(gold, response, kind=kind, choices=choice, question=question, policy=policy))
