"""Commands that train: train sft, train gspo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from curation.commands.app import Json, Quiet, Sets, Workspace, app, example, print_json

train = typer.Typer(no_args_is_help=True, help="Train a model on a version.", rich_markup_mode="rich")
app.add_typer(
    train, name="train", rich_help_panel="Train", epilog=example("winnow train sft recipes/train_tiny_sft.yaml")
)
Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="The training recipe, a YAML file.")]
Check = Annotated[bool, typer.Option("--check", help="Check the recipe and its data; train nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew: removes an earlier run of this name.")]


@train.command(
    epilog=example("""
winnow train sft recipes/train_tiny_sft.yaml
winnow train sft recipes/train_tiny_sft.yaml --set optimizer.lr=1e-4 --set name=hotter
torchrun --nproc-per-node 8 -m training.sft recipes/train_openmmreasoner_sft.yaml
""")
)
def sft(
    recipe: Recipe,
    set: Sets = None,
    check: Check = False,
    fresh: Fresh = False,
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
    _run("training.sft", plan, check, fresh, workspace, as_json, quiet)


@train.command(
    epilog=example("""
winnow train gspo recipes/train_tiny_gspo.yaml
winnow train gspo recipes/train_tiny_gspo.yaml --set algorithm=dapo --set name=tiny-dapo
torchrun --nproc-per-node 8 -m training.gspo recipes/train_openmmreasoner_gspo.yaml
""")
)
def gspo(
    recipe: Recipe,
    set: Sets = None,
    check: Check = False,
    fresh: Fresh = False,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reinforce a model on questions whose answers can be checked: GSPO, GRPO, Dr. GRPO or DAPO.

    Every answer of every step is kept in runs/NAME/rollouts. A run that was interrupted goes on from its last
    checkpoint, with the answers that it had already drawn. Several GPUs: run training.gspo with torchrun.
    """
    from training.recipe import load_gspo_recipe

    plan = load_gspo_recipe(recipe, overrides=set or [], workspace=workspace)
    _run("training.gspo", plan, check, fresh, workspace, as_json, quiet)


def _run(module: str, plan: Any, check: bool, fresh: bool, workspace: Any, as_json: bool, quiet: bool) -> None:
    if check:
        print(f"{plan.path}: nothing is wrong with it.")
        return
    try:
        import importlib

        run = importlib.import_module(module).train
        from training.processes import leave
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
