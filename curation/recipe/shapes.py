"""Walking the JSON Schema of a model beside a value: which keys may stand here, what they are for, which are paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]


def branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The schemas that a value may follow: references resolved, unions spread out."""
    if "$ref" in schema:
        yield from branches(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    nested = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    for option in nested:
        yield from branches(option, root)
    if not nested and "$ref" not in schema:
        yield schema


def below(options: Sequence[Schema], part: str | int, root: Schema) -> list[Schema]:
    """The schemas that the entry `part` of a value may follow."""
    if isinstance(part, int):
        under = [o["items"] for o in options if isinstance(o.get("items"), dict)]
    else:
        under = [o["properties"][part] for o in options if part in o.get("properties", {})]
        under += [o["additionalProperties"] for o in options if isinstance(o.get("additionalProperties"), dict)]
    return [option for one in under for option in branches(one, root)]


def at(schema: Schema, path: Sequence[Any]) -> list[Schema]:
    """The schemas that the value at a path may follow; parts of the path that name nothing here are passed over."""
    options = list(branches(schema, schema))
    for part in path:
        options = below(options, part, schema) or options
    return options


def keys(schema: Schema, path: Sequence[Any]) -> list[str]:
    """The keys that a mapping at a path may have."""
    return list(dict.fromkeys(key for option in at(schema, path) for key in option.get("properties", {})))


def described(schema: Schema, path: Sequence[Any]) -> str:
    """The description of the key at a path, or ""."""
    for option in at(schema, path[:-1]):
        found = option.get("properties", {}).get(path[-1], {}).get("description")
        if found:
            return str(found)
    return ""
