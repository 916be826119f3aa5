"""What there is to know of Winnow's own shapes: recipes, stages, exports and tables, as plain data."""

from __future__ import annotations

from typing import Any

from curation.recipe.wording import did_you_mean
from schemas.errors import WinnowError

TABLES = ("rows", "images", "traces", "verdicts", "ledger")
KINDS = ("recipe", "sft-recipe", "gspo-recipe", "benchmark-recipe", "ablation-recipe", "stages", "exports", *TABLES)


def describe(kind: str) -> Any:
    """A JSON Schema of recipes, or a list: of stages and exports with what they do, of a table's columns with types.

    Raises WinnowError for a kind that there is not.
    """
    if kind == "recipe":
        from curation.recipe import recipe_schema

        return recipe_schema()
    if kind == "sft-recipe":
        from curation.recipe.editor import training_schema
        from schemas.training import SftRecipe

        return training_schema(SftRecipe, "Winnow recipe of supervised fine-tuning")
    if kind == "gspo-recipe":
        from curation.recipe.editor import training_schema
        from schemas.training import GspoRecipe

        return training_schema(GspoRecipe, "Winnow recipe of reinforcement learning")
    if kind == "benchmark-recipe":
        from curation.recipe.editor import training_schema
        from schemas.benchmarks import Benchmark

        return training_schema(Benchmark, "Winnow benchmark recipe")
    if kind == "ablation-recipe":
        from curation.recipe.editor import training_schema
        from schemas.ablation import Ablation

        return training_schema(Ablation, "Winnow ablation recipe")
    if kind == "stages":
        from curation import stages
        from curation.recipe.plan import ANNOTATE

        found = sorted(stages.load().items())
        return [
            {
                "stage": name,
                "kind": stage.shape,
                "needs": _word(stage.needs),
                "makes": stage.makes,
                "what": _line(stage.doc),
            }
            for name, stage in found
            if name != ANNOTATE
        ]
    if kind == "exports":
        from curation import exports

        return [
            {"export": name, "what": _line(export.config.__doc__ or "")}
            for name, export in sorted(exports.load().items())
        ]
    if kind in TABLES:
        return [{"column": field.name, "type": str(field.type)} for field in _table(kind)]
    raise WinnowError(
        f"There is no schema of {kind!r}. {did_you_mean(kind, KINDS) or 'There are: ' + ', '.join(KINDS)}"
    )


def _table(kind: str) -> Any:
    from schemas import rows, verdicts

    return {
        "rows": rows.ROW,
        "images": rows.IMAGE,
        "traces": rows.TRACE,
        "verdicts": verdicts.VERDICT_SCHEMA,
        "ledger": rows.LEDGER,
    }[kind]


def _word(needs: Any) -> str:
    return "depends" if callable(needs) else str(needs)


def _line(doc: str) -> str:
    return " ".join(doc.split("\n\n")[0].split())
