"""Commands that train: train sft."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from curation.commands.app import Json, Quiet, Sets, Workspace, app, example, print_json

train = typer.Typer(no_args_is_help=True, help="Train a model on a version.", rich_markup_mode="rich")
app.add_typer(
    train, name="train", rich_help_panel="Train", epilog=example("winnow train sft recipes/train_tiny_sft.yaml")
)


@train.command(
    epilog=example("""
winnow train sft recipes/train_tiny_sft.yaml
winnow train sft recipes/train_tiny_sft.yaml --set optimizer.lr=1e-4 --set name=hotter
torchrun --nproc-per-node 8 -m training.sft recipes/train_openmmreasoner_sft.yaml
""")
)
def sft(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The training recipe, a YAML file.")],
    set: Sets = None,
    check: Annotated[bool, typer.Option("--check", help="Check the recipe and its data; train nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: removes an earlier run of this name.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on the answers of a version.

    A run that was interrupted goes on from its last checkpoint when the command is run again, and ends with the same
    weights. Several GPUs: run training.sft with torchrun.
    """
    from training.recipe import load_sft_recipe

    plan = load_sft_recipe(recipe, overrides=set or [], workspace=workspace)
    if check:
        print(f"{recipe}: nothing is wrong with it.")
        return
    try:
        from training.sft import leave
        from training.sft import train as run
    except ImportError as error:
        from schemas.errors import WinnowError

        raise WinnowError(
            f"Training needs torch and transformers, and {error.name} is not here.\nInstall them: pip install 'winnow[train]'"
        ) from error
    result = run(plan, workspace=workspace, fresh=fresh, quiet=quiet or as_json)
    leave()
    if as_json:
        print_json(asdict(result))
        return
    print(f"{plan.recipe.name}: step {result.step:,}, loss {result.loss:.4f}")
    for name, value in result.evaluation.items():
        print(f"  {name} {value:.3f}")
    print(f"  {result.checkpoint}\n  {result.folder / 'report.html'}")
