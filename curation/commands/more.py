"""Commands that need no workspace: schema, check."""

from __future__ import annotations

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
winnow schema ledger
"""),
)
def schema(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="recipe, stages, exports, rows, images, traces, verdicts or ledger.")
    ] = "recipe",
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of recipes, what stages and exports there are, or the columns of a table.

    For editors, put this line on top of a recipe: # yaml-language-server: $schema=recipe.schema.json
    """
    from curation import schema as described

    found = described.describe(kind)
    if as_json or kind == "recipe":
        print_json(found)
    else:
        print_table(tuple(found[0]), [tuple(line.values()) for line in found])


@app.command(
    rich_help_panel="More",
    epilog=example(r"""
winnow check "\frac{1}{2}" "So the answer is 0.5."
winnow check B "It must be the second one: (B)." --choice cat --choice dog
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
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Ask the checker whether a response gives the right answer, and why."""
    if file is not None and gold is None:
        from curation.answers import check_file

        report = check_file(file, workers=workers or 1)
        print(report.json() if as_json else report.summary)
        return
    if gold is None or response is None or file is not None:
        raise typer.BadParameter("Give GOLD and RESPONSE, or --file FILE.")
    from curation import answers

    if as_json:
        from dataclasses import asdict

        print_json(asdict(answers.check(gold, response, kind=kind, choices=choice, question=question)))
    else:
        print(answers.explain(gold, response, kind=kind, choices=choice, question=question))
