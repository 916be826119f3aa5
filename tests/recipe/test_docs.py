"""The recipes in docs/recipes.md are recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from curation.chain import load_chain
from curation.recipe import load_recipe

DOCS = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def test_the_documented_recipes_load(write: Any) -> None:
    first, longer, expects, own = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.S)
    write("", "my_stages.py")
    plan = load_recipe(write(first, "sums.yaml"), check_world=False)
    assert [stage.name for stage in plan.stages] == ["annotate", "normalize", "short"]
    longer_plan = load_recipe(write(longer, "long.yaml"), check_world=False)
    assert [stage.name for stage in longer_plan.stages] == ["annotate", "short", "mix"]
    expected = yaml.safe_load(expects)["expect"]
    assert expected["kept"] == 9800 and expected["stages.dedup.merged"] == {"count": 200, "within": 0.1}
    assert len(load_recipe(write(own, "own.yaml")).use) == 1


def test_the_documented_chain_loads(write: Any) -> None:
    chain = re.findall(r"```\n(- build.*?)```", DOCS.read_text(), re.S)[0]
    write("name: x\n", "recipes/quickstart.yaml")
    assert [name for name, _ in load_chain(write(chain, "chain.yaml"))] == ["build", "tag", "sql"]
