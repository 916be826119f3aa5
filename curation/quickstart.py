"""The first thing that a new user runs: both quickstart recipes, and what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.builder import build
from curation.console import Reporter
from schemas.errors import WinnowError

if TYPE_CHECKING:
    from curation.versions import Version

RECIPES = ("quickstart.yaml", "quickstart_rl.yaml")


def find_recipes() -> Path:
    """The folder with the quickstart's recipes: `recipes` here, or beside the package in a checkout."""
    for folder in (Path("recipes"), Path(__file__).resolve().parents[1] / "recipes"):
        if all((folder / name).is_file() for name in RECIPES):
            return folder
    raise WinnowError("The quickstart's recipes are not here. Run it in a checkout of Winnow, which has recipes/.")


def quickstart(workspace: Path | str | None = None, reporter: Reporter | None = None) -> list[Version]:
    """Build the quickstart's SFT set and its RL sibling from the samples in `recipes/data`; returns both versions."""
    folder = find_recipes()
    return [build(folder / name, workspace=workspace, reporter=reporter) for name in RECIPES]


def next_steps(versions: Sequence[Version], workspace: Path | None = None) -> list[str]:
    """Three commands worth trying on what `quickstart` built."""
    sft, rl = versions[0], versions[-1]
    where = "" if workspace is None else f" --workspace {shlex.quote(str(workspace))}"
    contested = "select row_id from rows where pass_rate > 0 and pass_rate < 1 order by row_id limit 1"
    (row,) = sft.sql(contested)["row_id"].to_list() or sft.rows()["row_id"].head(1).to_list()
    funnel = f'select stage, reason, count(*) as rows from "{rl.name}".ledger group by all order by rows desc'
    return [
        f"winnow why {sft.name} {row}{where}",
        f"winnow sql {shlex.quote(funnel)}{where}",
        f"winnow diff {sft.name} {rl.name}{where}",
    ]
