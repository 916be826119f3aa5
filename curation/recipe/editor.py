"""The JSON Schema of recipes, for editors: completion, descriptions and complaints while one types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from schemas.recipe import Recipe


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe, with the configs of all registered stages and exports."""
    from curation import exports, stages
    from curation.recipe.plan import ANNOTATE

    schema = Recipe.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    kinds = {name: stage.config for name, stage in stages.load().items() if name != ANNOTATE}
    layouts = {name: export.config for name, export in exports.load().items()}
    schema["properties"]["stages"]["items"] = _choice(kinds, "stage", definitions)
    schema["properties"]["outputs"]["items"] = _choice(layouts, "export", definitions)
    # `answer: {after: "####"}` reads the column of the field's own name, so `from` may be left out of a mapping.
    definitions["Column"].pop("required", None)
    definitions["Source"]["properties"]["enabled"] = {
        "type": "boolean",
        "default": True,
        "description": "false leaves the source out.",
    }
    # A recipe that extends another need not say what that one says.
    required = schema.pop("required", [])
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Winnow recipe"}


def training_schema(recipe: type[BaseModel], title: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a recipe of a trainer."""
    schema = recipe.model_json_schema()
    required = schema.pop("required", [])
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def _choice(configs: Mapping[str, type[BaseModel]], field: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """One of several configs, told apart by `field`; without it, the entry changes one of an extended recipe."""
    rules = []
    for kind, config in sorted(configs.items()):
        own = config.model_json_schema(ref_template="#/$defs/{model}")
        for name, definition in own.pop("$defs", {}).items():
            definitions[name] = definition
        own["properties"][field] = {"const": kind, "description": own.get("description", "")}
        if field == "export":
            own["properties"]["enabled"] = {"type": "boolean", "default": True, "description": "false leaves it out."}
        name = f"{field}.{kind}"
        definitions[name] = {**own, "title": kind}
        rules.append(
            {
                "if": {"properties": {field: {"const": kind}}, "required": [field]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
        )
    docs = "; ".join(f"{kind}: {_summary(config)}" for kind, config in sorted(configs.items()))
    return {
        "type": "object",
        "properties": {field: {"enum": sorted(configs), "description": docs}},
        "anyOf": [{"required": [field]}, {"required": ["name"]}],
        "allOf": rules,
    }


def _summary(config: type[BaseModel]) -> str:
    doc = (config.__doc__ or "").strip()
    return doc.split("\n\n")[0].replace("\n", " ")
