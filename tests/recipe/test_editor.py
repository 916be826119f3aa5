"""The JSON Schema for editors accepts what the loader accepts, and refuses what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation import yamlfile
from curation.recipe import recipe_schema
from curation.schema import describe

jsonschema = pytest.importorskip("jsonschema", reason="no JSON Schema validator: pip install jsonschema")


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_shipped_recipes_are_valid(validator: Any) -> None:
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    for path in sorted(recipes.glob("**/*.yaml")):
        data = yamlfile.read(path).plain()
        # Recipes of training, benchmarks and ablations have models of their own.
        others = {"benchmarks", "ablations"} & set(path.parts) and not path.name.endswith("_data.yaml")
        if isinstance(data, dict) and not others and not path.name.startswith("train_"):
            assert [error.message for error in validator.iter_errors(data)] == [], path


@pytest.mark.parametrize("kind", ["sft", "gspo"])
def test_shipped_training_recipes_are_valid(kind: str) -> None:
    """And the schema refuses what the loader refuses."""
    schema = describe(f"{kind}-recipe")
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    paths = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("train_*.yaml"))
    paths = [path for path in paths if path.stem.endswith("sft") == (kind == "sft")]
    assert len(paths) >= 4
    for path in paths:
        data = yamlfile.read(path).plain()
        assert [error.message for error in check.iter_errors(data)] == [], path
        assert not check.is_valid({**data, "optimizer": {"lr": 0}})
        assert not check.is_valid({**data, "optimiser": {}})
    assert check.is_valid({"extends": "base.yaml"}) and not check.is_valid({"name": "x"})


GOOD: dict[str, Any] = {
    "name": "x",
    "sources": [{"parquet": "x.parquet", "columns": {"answer": {"after": "#"}, "question": ["a", "b"], "id": "n"}}],
    "stages": [{"stage": "filter", "where": "true", "enabled": False}, {"name": "mix", "total": 3}],
    "outputs": [{"export": "rl", "enabled": True}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "3"},
        {"sed": 3},
        {"stages": [{"stage": "filtr"}]},
        {"stages": [{"stage": "filter"}]},
        {"stages": [{"stage": "filter", "where": "true", "total": 3}]},
        {"stages": ["filter"]},
        {"outputs": [{"export": "sft", "max_per_row": 0}]},
        {"outputs": []},
        {"sources": [{"parquet": 3}]},
        {"sources": [{"parquet": "x", "colums": {}}]},
    ],
)
def test_mistakes_are_refused(validator: Any, change: dict[str, Any]) -> None:
    assert validator.is_valid(GOOD)
    assert not validator.is_valid({**GOOD, **change})


def test_what_extends_may_leave_things_out(validator: Any) -> None:
    assert validator.is_valid({"extends": "base.yaml"})
    assert not validator.is_valid({"name": "x"})


def test_every_key_has_a_description_or_a_title() -> None:
    schema = recipe_schema()
    for name, definition in schema["$defs"].items():
        for key, value in definition.get("properties", {}).items():
            assert "description" in value or "title" in value or "$ref" in value or "const" in value, (name, key)
