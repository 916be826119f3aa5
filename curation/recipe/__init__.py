"""Recipes: from a YAML file to a plan that can run, with every problem found before any work.

    plan = load_recipe("recipes/quickstart.yaml", overrides=["stages.dedup.threshold=0.7"])

It goes in steps, one file each: `layers` reads the file and those that it extends into one tree in which every value
knows where it is written; `plan` validates that tree against the models of sources, stages and outputs, `wording` puts
what pydantic says into a person's words, and `world` looks at what only the outside can tell: files, columns, order.
`editor` makes the JSON Schema that editors complete and check recipes with.
"""

from __future__ import annotations

from curation.recipe.editor import recipe_schema
from curation.recipe.plan import Plan, PlannedOutput, PlannedStage, load_recipe

__all__ = ["Plan", "PlannedOutput", "PlannedStage", "load_recipe", "recipe_schema"]
